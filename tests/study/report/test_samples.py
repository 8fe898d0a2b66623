"""What trained models put out, as a page shows it."""

from __future__ import annotations

import base64
import io

from PIL import Image

from adamomentum.study.report import samples


def test_pictures_stand_in_rows_with_lines_between() -> None:
    address = samples.picture([[0, 50, 100, 150]] * 9, [2, 2, 1])
    image = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    assert image.size == (8 * 3, 2 * 3)
    assert [image.getpixel((x, 0)) for x in range(4)] == [0, 50, samples.LINE, 0]
    assert image.getpixel((0, 4)) == 100  # the ninth, in a second row
    assert image.getpixel((4, 4)) == samples.LINE  # no tenth
