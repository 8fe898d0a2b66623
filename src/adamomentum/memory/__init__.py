"""What training takes, in bytes, and the largest model that fits: computed from formats, nothing is allocated.

What the optimizers hold as measured is in :mod:`adamomentum.bench.memory`.
"""

from adamomentum.memory.modes import Format, Mode
from adamomentum.memory.sizes import Sizes, sizes_of
from adamomentum.memory.training import Memory, largest_model, training_memory

__all__ = ["Format", "Memory", "Mode", "Sizes", "largest_model", "sizes_of", "training_memory"]
