"""The look of figures, and how they get into a page.

matplotlib is imported when something is drawn, so that who needs a colour alone does not wait for it.

Tested in tests/test_page.py.
"""

from __future__ import annotations

import html
import io
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from adamomentum.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Replaced by the page's own text colour in the inline SVG, so that dark mode stays readable.
INK = "#1b1b1f"
DASHED = (0, (4, 3))
ROWS = "rows"
# A limit, a prediction, a target: what is compared with.
THIN: dict[str, Any] = {"color": INK, "linewidth": 1, "linestyle": DASHED}

STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": "#8a8a8f",
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 160,
    # Text stays text: it can be searched and read out, and weighs half of its outlines. Whose system lacks matplotlib's
    # font sees another one, in the same places.
    "svg.fonttype": "none",
    # matplotlib repeats the whole list at every word.
    "font.sans-serif": ["DejaVu Sans"],
}


def plain_ticks(axis: Axis, ticks: list[float]) -> None:
    """Set ticks of a logarithmic axis, as plain numbers."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(lambda v, _: f"{v:g}")
    axis.set_minor_locator(NullLocator())


def panel(
    draw_in: Callable[..., bool | None],
    name: str,
    folder: Path,
    *arguments: Any,
    size: tuple[float, float],
    linked: bool = False,
) -> str | None:
    """Write a figure of one pair of axes into ``folder`` as SVG and PDF.

    Args:
        draw_in: draws into the axes, which are followed by ``arguments``; False: there is nothing to show.
        name: of the files.
        folder: where to.
        arguments: for ``draw_in``.
        size: width and height in inches.
        linked: the page, which lies beside ``folder``, shows the file, rather than hold the figure a second time.

    Returns:
        What shows the figure in a page, or None if there is nothing to show.
    """
    import matplotlib
    from matplotlib.figure import Figure

    # The salt makes the file reproducible.
    with matplotlib.rc_context(cast("Any", {**STYLE, "svg.hashsalt": name})):
        figure = Figure(figsize=size, layout="constrained")
        if draw_in(figure.subplots(), *arguments) is False:
            return None
        svg, words = save(figure, name, folder), words_of(figure)
        scales = scales_of(figure) if "data-values" in svg else ""
    if linked:
        return f'<img src="{folder.name}/{name}.svg" alt="{html.escape(words)}">'
    return inline(svg, words, scales)


def save(figure: Figure, name: str, folder: Path) -> str:
    """Write a figure as SVG and PDF, on white, and return the SVG without a ground."""
    svg = as_svg(figure)
    write_atomic(folder / f"{name}.svg", on_white(svg).encode())
    write_atomic(folder / f"{name}.pdf", _rendered(figure, format="pdf", metadata={"CreationDate": None}))
    return svg


def as_svg(figure: Figure) -> str:
    """Return a figure as SVG without a ground."""
    from adamomentum.page.svg import compact

    return compact(_rendered(figure, format="svg", transparent=True, metadata={"Date": None}).decode())


def as_png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    from adamomentum.page.png import pack

    return pack(_rendered(figure, format="png"))


def _rendered(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # In a page text is drawn in the reader's font, which may well have letters that matplotlib's lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, **options)
    return buffer.getvalue()


def on_white(svg: str) -> str:
    """Return an SVG with a white ground: a file may be shown on a dark page, and its text is nearly black."""
    return re.sub(r"<svg\b[^>]*>", r'\g<0>\n <rect width="100%" height="100%" fill="#ffffff"/>', svg, count=1)


def words_of(figure: Figure) -> str:
    """Return what stands on a figure's axes, in one line: its name for who cannot see it."""
    import matplotlib

    parts, maths = [], matplotlib.rcParams["text.parse_math"]
    for ax in figure.axes:
        title = ax.get_title("left") or ax.get_title()
        against = " against ".join(label for label in (ax.get_ylabel(), ax.get_xlabel()) if label)
        parts.append(": ".join(text for text in (title, against) if text))
    words = " ".join("; ".join(parts).split())
    return words.replace("$", "") if maths else words


def values_of(series: str) -> str:
    """Return the ``gid`` of a line, or of marks, at the values of a series: a page shows them under the pointer."""
    return f"data-values {series}"


def part_of(series: str) -> str:
    """Return the ``gid`` of what else is drawn of a series, such as a band: it comes and goes with it."""
    return f"data-part {series}"


def scales_of(figure: Figure) -> str:
    """Return how a page's script gets from places in the SVG of a figure with one pair of axes to values, as JSON.

    ``x`` and ``y`` have the places of an axis's two ends in points, the values there, and whether it is logarithmic.
    ``y`` is null where rows have names instead of values, its axis the gid ``ROWS``. ``label`` says what x is.
    """
    (ax,) = figure.axes
    width, height = (72 * inches for inches in figure.get_size_inches())
    box = ax.get_position()
    x = [box.x0 * width, box.x1 * width, *ax.get_xlim()]
    y = [(1 - box.y0) * height, (1 - box.y1) * height, *ax.get_ylim()]
    scales = {
        "x": [*(float(f"{v:.6g}") for v in x), ax.get_xscale() == "log"],
        "y": None if ax.yaxis.get_gid() == ROWS else [*(float(f"{v:.6g}") for v in y), ax.get_yscale() == "log"],
        "label": ax.get_xlabel().split("\n")[0],
    }
    return json.dumps(scales)


def inline(svg: str, label: str, scales: str = "") -> str:
    """Make an SVG fit to stand in a page: text in the page's colour, a name.

    Args:
        svg: without a ground. Its ids hold for the whole page, whose figures have different salts therefore.
        label: what is read out in its place.
        scales: of its axes, for the page's script.
    """
    svg = svg.replace(INK, "currentColor").replace("xlink:href=", "href=")
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    scales = scales and f' data-scales="{html.escape(scales)}"'
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"{scales}', 1)
