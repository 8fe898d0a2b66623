"""Generative adversarial networks: samples that look like the training images."""
