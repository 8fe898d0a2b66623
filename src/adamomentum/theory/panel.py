"""A figure of the theory's page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Panel:
    """A figure.

    Attributes:
        name: of its files.
        claim: key of the claim whose ``data`` it draws, and below which it stands.
        caption: what is to be seen, in a sentence or two; what the axes are, where they do not say it themselves.
        draw: draws ``data`` into axes; sets labels, scales, legend.
    """

    name: str
    claim: str
    caption: str
    draw: Callable[[Axes, Mapping[str, Any]], None]
