"""AdaMomentum for PyTorch."""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'AdaMomentum needs PyTorch, which is not installed: run pip install "adamomentum[torch]"'
    ) from error

from adamomentum.torch.checkpoints import from_adam, from_adam3
from adamomentum.torch.clip_each import AdaptiveClip
from adamomentum.torch.decoding import decoded
from adamomentum.torch.functional import adamomentum
from adamomentum.torch.groups import param_groups
from adamomentum.torch.optimizer import AdaMomentum
from adamomentum.torch.release import release_gradients

__all__ = [
    "AdaMomentum",
    "AdaptiveClip",
    "adamomentum",
    "decoded",
    "from_adam",
    "from_adam3",
    "param_groups",
    "release_gradients",
]
