"""The user's own training function: found, told by its content, run as it is."""
