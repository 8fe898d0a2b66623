"""Gradient release in trainers that clip, scale and zero gradients themselves: a module each, of the trainer's name.

What clips by all gradients together finds none under release and would silently do nothing. Here it is an error.
"""
