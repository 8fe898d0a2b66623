"""One file a group of claims: runs the optimizers, evaluates the bounds, returns what holds."""
