"""Language models: the next word of running text."""
