"""Data sets: prepared once, cached, split into train, validation and test by fixed rules."""
