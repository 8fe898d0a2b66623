"""Figures without what is in them: rendering is most of what a report costs."""

from __future__ import annotations

from PIL import Image


def savefig(figure, file, format: str, **options) -> None:
    """Stands in for matplotlib's ``Figure.savefig``."""
    if format == "svg":
        file.write(b'<svg width="1pt" height="1pt" viewBox="0 0 1 1"></svg>')
    else:
        Image.new("RGB", (1, 1)).save(file, format)
