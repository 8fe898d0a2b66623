"""What pages share: a figure that is made shorter still shows the same."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree as ET

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from adamomentum.page.figures import STYLE, as_png, as_svg, save
from adamomentum.page.png import pack
from adamomentum.page.svg import compact

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def original() -> str:
    x = np.linspace(0, 3, 60)
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "figure"}):
        figure = Figure(figsize=(5, 3.8))
        ax = figure.subplots()
        ax.fill_between(x, np.sin(x) - 0.1, np.sin(x) + 0.1, alpha=0.2)
        ax.plot(x, np.sin(x), label="two words", rasterized=False)
        ax.scatter(x, np.cos(x), marker="P")
        ax.plot(x, -x, ".", rasterized=True)
        ax.set_xlabel("$10^{-3}$ of a <unit> & more")
        ax.legend()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg")
    return buffer.getvalue().decode()


def points(d: str) -> list[tuple[str, np.ndarray]]:
    """The absolute points of a path, by command."""
    commands, x, y = [], 0.0, 0.0
    for letter, text in re.findall(r"([A-Za-z])([^A-Za-z]*)", d):
        numbers = np.array(re.findall(r"-?[\d.]+", text), float).reshape(-1, 2)
        # A letter that is not repeated: the next points start from the ones before.
        for group in numbers.reshape(-1, {"q": 2, "c": 3}.get(letter.lower(), 1), 2):
            places = group + np.array([x, y]) if letter.islower() else group
            commands.append((letter.upper(), places))
            x, y = places[-1]
        if letter in "zZ":
            commands.append(("Z", np.zeros((0, 2))))
    return commands


def test_a_shorter_figure_has_the_same_elements_in_the_same_places(original) -> None:
    short = compact(original)
    assert len(short) < 0.6 * len(original)
    before, after = ET.fromstring(original), ET.fromstring(short)
    for tag in ("path", "use", "text", "tspan", "image", "clipPath"):
        theirs, mine = before.findall(f".//{SVG}{tag}"), after.findall(f".//{SVG}{tag}")
        assert len(theirs) == len(mine) > 0, tag
        for old, new in zip(theirs, mine, strict=True):
            assert (old.text or "").strip() == (new.text or "").strip()
            for key in ("x", "y"):
                if " " not in old.get(key, " "):
                    assert float(new.get(key)) == pytest.approx(float(old.get(key)), abs=0.0501)
            if "d" in old.attrib:
                for (a, p), (b, q) in zip(points(old.get("d")), points(new.get("d")), strict=True):
                    assert a == b
                    np.testing.assert_allclose(q, p, atol=0.0501)


def test_a_shorter_figure_looks_the_same(original) -> None:
    """Each element has the style that it had, by a class or by itself, and what it refers to is there."""
    short = compact(original)
    shared = dict(re.findall(r"\.(s\w{6})\{(.*?)\}", short))
    before, after = ET.fromstring(original), ET.fromstring(short)
    styles = [element.get("style").replace(": ", ":").replace("; ", ";").replace(", ", ",")
              for element in before.iter() if element.get("style")]  # fmt: skip
    mine = [shared.get(element.get("class"), element.get("style")) for element in after.iter()]
    assert [style for style in mine if style] == styles
    ids = re.findall(r'\bid="([^"]*)"', short)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', short)) == set(ids)


def test_pictures_in_few_colours_keep_what_is_transparent() -> None:
    rgba = np.zeros((20, 20, 4), np.uint8)
    rgba[:, :10] = (213, 94, 0, 255)
    rgba[:5, :5, 3] = 128
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "PNG")
    packed = np.asarray(Image.open(io.BytesIO(pack(buffer.getvalue()))).convert("RGBA")).astype(int)
    assert abs(packed[..., 3] - rgba[..., 3].astype(int)).max() <= 16
    seen = rgba[..., 3] > 0
    assert abs(packed[seen] - rgba[seen].astype(int)).max() <= 16


def test_letters_that_the_font_lacks_stay_text_and_bring_no_warnings(recwarn, tmp_path) -> None:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5, 3.8), layout="constrained")
        figure.subplots().set_title("优化器")
        assert ">优化器<" in as_svg(figure)
        as_png(figure)
        save(figure, "figure", tmp_path)
    assert not recwarn.list
