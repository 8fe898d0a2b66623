"""AdaMomentum for PyTorch."""

from adamomentum.torch.functional import adamomentum
from adamomentum.torch.optimizer import AdaMomentum

__all__ = ["AdaMomentum", "adamomentum"]
