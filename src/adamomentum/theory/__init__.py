"""The theory of AdaMomentum as code: bounds and dynamics as functions, and the claims that they decide."""
