"""One file a group of claims: how its numbers are drawn."""
