"""PNG of drawings, in 256 colours: a third of the bytes, and the eye cannot tell.

Tested in tests/test_page.py.
"""

from __future__ import annotations

import io

from PIL import Image


def pack(png: bytes) -> bytes:
    """Return a drawing in at most 256 colours, each pixel in the nearest."""
    image: Image.Image = Image.open(io.BytesIO(png))
    if "A" in image.getbands() and image.getchannel("A").getextrema() == (255, 255):
        image = image.convert("RGB")
    # Only this method knows of what is partly transparent; the other finds the better colours.
    method = Image.Quantize.FASTOCTREE if "A" in image.getbands() else Image.Quantize.MEDIANCUT
    packed = io.BytesIO()
    image.quantize(256, method, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
    return packed.getvalue()
