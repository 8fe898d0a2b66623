"""SVG without what nobody sees of it: matplotlib's own is two to three times as long.

Tested in tests/test_page.py.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from xml.etree import ElementTree as ET

from adamomentum.page.png import pack

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
LINK, PNG = f"{{{XLINK}}}href", "data:image/png;base64,"
WHOSE = ("data-values", "data-part")
"""What the script of a page knows a series by: marks and lines at its values, and what else is drawn of it."""

ET.register_namespace("", SVG)
ET.register_namespace("xlink", XLINK)


def compact(svg: str) -> str:
    """Return a figure of matplotlib that looks the same and is shorter, an element a line.

    Lengths are rounded to a tenth of a point, short ones, as in marks, to a hundredth. Ids that nothing refers to and
    groups without attributes are left out; a style that several elements have is written once. An id that begins with a
    word of ``WHOSE`` becomes that attribute.
    """
    root = ET.fromstring(svg)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    _drop(root, used)
    for element in root.iter():
        _shorten(element)
    _share_styles(root)
    return ET.tostring(root, encoding="unicode").replace(" />", "/>") + "\n"


def _drop(parent: ET.Element, used: set[str]) -> None:
    """Take out what describes the file, ids that are not used, and groups, not their content, that then say nothing."""
    children: list[ET.Element] = []
    for child in parent:
        _drop(child, used)
        kind, _, whose = child.get("id", "").partition(" ")
        if kind in WHOSE and whose:
            child.set(kind, whose)
        if child.get("id") not in used:
            child.attrib.pop("id", None)
        if child.tag == f"{{{SVG}}}g" and not child.attrib:
            children += child
        elif child.tag != f"{{{SVG}}}metadata":
            children.append(child)
    parent[:] = children


def _shorten(element: ET.Element) -> None:
    if "\n" in (element.text or "") and not (element.text or "").strip():
        element.text = None
    # A line each; but within text a line break would be a space.
    within = element.tag in (f"{{{SVG}}}text", f"{{{SVG}}}tspan")
    for child in element:
        child.tail = None if within else "\n"
    attributes = element.attrib
    if re.match(r"rotate\(-?0 ", attributes.get("transform", "")):
        del attributes["transform"]
    for key in {"x", "y", "transform"} & attributes.keys():
        attributes[key] = re.sub(r"-?\d+\.\d+", lambda m: _text(_rounded(m[0])), attributes[key])
    if "d" in attributes:
        attributes["d"] = _path(attributes["d"])
    if "style" in attributes:
        attributes["style"] = re.sub(r"([:;,]) ", r"\1", attributes["style"])
    image = attributes.get(LINK, "")
    if image.startswith(PNG):
        attributes[LINK] = PNG + base64.b64encode(pack(base64.b64decode(image.removeprefix(PNG)))).decode()


def _share_styles(root: ET.Element) -> None:
    sheet = root.find(f".//{{{SVG}}}style")
    if sheet is None:
        return
    many = Counter(element.get("style", "") for element in root.iter())
    shared = {}
    for element in root.iter():
        style = element.get("style", "")
        if style and many[style] > 1:
            # The name is made of the style: in another figure of the same page it means the same.
            name = "s" + hashlib.sha256(style.encode()).hexdigest()[:6]
            del element.attrib["style"]
            element.set("class", name)
            shared[name] = style
    sheet.text = (sheet.text or "") + "".join(f"\n.{name}{{{style}}}" for name, style in sorted(shared.items()))


def _rounded(number: str) -> float:
    value = float(number)
    return round(value, 1 if abs(value) >= 10 else 2)


def _text(value: float) -> str:
    text = re.sub(r"^(-?)0\.", r"\1.", f"{value:.2f}").rstrip("0").rstrip(".")
    return "0" if text in ("", "-") else text


def _path(d: str) -> str:
    """Return a path as short as its grammar allows: points after the first as steps from the one before."""
    parts, last = [], ""
    x = y = 0.0
    for letter, text in re.findall(r"([A-Za-z])([^A-Za-z]*)", d):
        points = [_rounded(number) for number in text.split()]
        if letter in "LQC":
            steps = [value - (y if k % 2 else x) for k, value in enumerate(points)]
            parts.append((" " if letter == last else letter.lower()) + " ".join(map(_text, steps)))
        else:
            parts.append(letter + " ".join(map(_text, points)))
        if points:
            x, y = points[-2:]
        last = letter
    return "".join(parts).replace(" -", "-")
