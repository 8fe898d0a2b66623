"""The native CPU kernels (C++, in native/)."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from adamomentum.torch.rounding import Rounding
from adamomentum.torch.rule import Numbers

isa: str
compiler: str

def connect(capsule: object) -> bool:
    """Take torch's DLPack exchange interface; return whether it is one that the kernels know."""

def use_torch_threads(address: int) -> None:
    """Set the address of ``torch_parallel_for``; 0 for none."""

def thread_source() -> str:
    """Whose threads a parallel region would run on now: "torch" or "own"."""

def serial_below(elements: int) -> int:
    """Set the number of elements below which one thread is used; return the one before."""

class Batch:
    """The tensors of one parameter group at one step."""

    def __init__(
        self, plain_types: tuple[type, ...], rounding: Rounding = "nearest", table_device: int | None = None
    ) -> None:
        """Make an empty batch: for :meth:`run`, or for :meth:`tables` of tensors on a device of a DLPack type."""

    def gather(
        self,
        params: list[Tensor],
        state: Mapping[Tensor, Any],
        amsgrad: bool,
        position: int = 0,
        grads: list[Tensor] | None = None,
    ) -> tuple[list[tuple[Tensor, Tensor]], int]:
        """Take what it can; return the other parameters and their gradients, and where in ``state`` it ended.

        ``grads`` are gradients in place of those that the parameters have.
        """

    def add(self, param: Tensor, grad: Tensor, state: Mapping[str, Tensor], amsgrad: bool, first: int = 0) -> bool:
        """Take one parameter if it can; ``first`` is where it begins in the whole that it is a part of."""

    def gather_gradients(self, params: list[Tensor], grads: list[Tensor] | None = None) -> list[Tensor]:
        """Take gradients alone, for :meth:`square_sum` and :meth:`square_sums`; return those that it could not read.

        ``grads`` as for :meth:`gather`.
        """

    def scale(self, factors: list[float]) -> None:
        """Have :meth:`run` and :meth:`fold` multiply the gradient of each parameter by a factor of its own."""

    def next_steps(self) -> list[float]:
        """Return the distinct numbers of the coming steps."""

    def tables(
        self, chunk: int, entry: Sequence[str]
    ) -> list[tuple[int, str, str, str, Rounding, int, int, bytearray]]:
        """Return what ``fused_cuda_kernel.py`` finds tensors by, after :meth:`next_steps`, whose rows it refers to.

        Args:
            chunk: elements a program of the kernel updates.
            entry: names of what the table holds of a tensor, in their order.

        Returns:
            For tensors alike: index of their device, dtypes of parameters and of both moments, rounding, how many
            they are, their chunks, and the table in int64, followed by the first chunk of each.

        Raises:
            ValueError: if there is no such name.
        """

    def count(self) -> None:
        """Count the step of everything, as :meth:`run` does itself."""

    def run(
        self,
        numbers: list[Numbers],
        grad_factor: float,
        l2: float,
        lookahead: bool,
        nesterov: bool,
        passes: float,
        momentum_floor: float,
        threads: int,
    ) -> None:
        """Update everything, with the numbers of each of :meth:`next_steps`."""

    def fold(self, weight: float, passes: list[int], threads: int) -> None:
        """Add ``weight`` times the gradient to first moments, with the number of the pass for each parameter."""

    def square_sum(self, threads: int) -> float:
        """Return the sum of the squares of all gradients."""

    def square_sums(self, threads: int) -> list[float]:
        """Return the sum of the squares of each gradient."""

    @property
    def has_float64(self) -> bool:
        """Whether a gradient from :meth:`gather_gradients` is in float64."""

    @property
    def params(self) -> list[Tensor]:
        """The parameters taken."""

    @property
    def grads(self) -> list[Tensor]:
        """The gradients taken."""

    def __len__(self) -> int: ...
