"""The look of figures, and how they get into a page; one colour an optimizer everywhere."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import matplotlib
from matplotlib.figure import Figure

from adamomentum.files import write_atomic

# Okabe and Ito's palette, told apart with all common kinds of colour blindness; black is left to the text.
COLOURS = {
    "adamomentum": "#D55E00",
    "adamw": "#0072B2",
    "adam": "#56B4E9",
    "sgdm": "#009E73",
    "radam": "#CC79A7",
    "yogi": "#E69F00",
    "adabound": "#8C6D31",
    "adabelief": "#7A6FC4",
    "eadam": "#7F7F7F",
    "adamomentum-fbc": "#D1495B",
}
MARKERS = {
    "adamomentum": "o",
    "adamw": "s",
    "adam": "^",
    "sgdm": "D",
    "radam": "v",
    "yogi": "P",
    "adabound": "X",
    "adabelief": "<",
    "eadam": ">",
    "adamomentum-fbc": "h",
}
# Replaced by the page's own text colour in the inline SVG, so that dark mode stays readable.
INK = "#1b1b1f"
DASHED = (0, (4, 3))
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
}


def panel(
    draw_in: Callable[..., bool | None], name: str, folder: Path, *arguments: Any, size: tuple[float, float]
) -> str | None:
    """Writes a figure of one pair of axes into ``folder`` as SVG and PDF.

    Args:
        draw_in: draws into the axes, which are followed by ``arguments``; False: there is nothing to show.
        name: of the files.
        folder: where to.
        arguments: for ``draw_in``.
        size: width and height in inches.

    Returns:
        The SVG for a page, or None if there is nothing to show.
    """
    # The salt makes the file reproducible.
    with matplotlib.rc_context(cast("Any", {**STYLE, "svg.hashsalt": name})):
        figure = Figure(figsize=size, layout="constrained")
        if draw_in(figure.subplots(), *arguments) is False:
            return None
        return inline(save(figure, name, folder), name, words_of(figure))


def save(figure: Figure, name: str, folder: Path) -> str:
    """Writes a figure as SVG and PDF, on white, and returns the SVG without a ground."""
    svg, pdf = as_svg(figure), io.BytesIO()
    figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    write_atomic(folder / f"{name}.svg", on_white(svg).encode())
    write_atomic(folder / f"{name}.pdf", pdf.getvalue())
    return svg


def as_svg(figure: Figure) -> str:
    """Returns a figure as SVG without a ground."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue().decode()


def on_white(svg: str) -> str:
    """Returns an SVG with a white ground: a file may be shown on a dark page, and its text is nearly black."""
    return re.sub(r"<svg\b[^>]*>", r'\g<0>\n <rect width="100%" height="100%" fill="#ffffff"/>', svg, count=1)


def words_of(figure: Figure) -> str:
    """Returns what stands on a figure's axes, in one line: its name for who cannot see it."""
    parts = []
    for ax in figure.axes:
        title = ax.get_title("left") or ax.get_title()
        against = " against ".join(label for label in (ax.get_ylabel(), ax.get_xlabel()) if label)
        parts.append(": ".join(text for text in (title, against) if text))
    return " ".join("; ".join(parts).replace("$", "").split())


def _round(path: str) -> str:
    return re.sub(r"(\.\d\d)\d+", r"\1", path)


def inline(svg: str, name: str, label: str) -> str:
    """Makes an SVG fit to stand in a page: no prologue, ids of its own, text in the page's colour, a name.

    Args:
        svg: without a ground.
        name: what its ids begin with.
        label: what is read out in its place.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Hundredths of a point are enough.
    svg = re.sub(r' d="([^"]*)"', lambda m: f' d="{" ".join(_round(m[1]).split())}"', svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = svg.replace(INK, "currentColor")
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
