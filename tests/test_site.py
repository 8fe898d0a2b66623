"""The documentation site builds without a warning, has every public name, and can be read in a browser."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
from browser import browser, check_page, visit

DOCS = Path(__file__).parents[1] / "docs"
MODULES = (
    "torch",
    "optax",
    "keras",
    "reference",
    "second_moment",
    "memory",
    "bench.memory",
    "theory.guidance",
    "theory.moments",
    "theory.transients",
    "theory.drop_in",
    "theory.convex",
    "theory.nonconvex",
    "theory.escape",
    "theory.sharpness",
)


def test_figures_are_kept_once_and_stand_on_white() -> None:
    """A second copy grows stale; near-black text without a ground cannot be read on a dark page."""
    figures = list(DOCS.rglob("*.svg"))
    assert figures
    assert len({path.name for path in figures}) == len(figures)
    for path in figures:
        assert '<rect width="100%" height="100%" fill="#ffffff"/>' in path.read_text(encoding="utf-8"), path


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, set[str]]:
    """The site, and the names that its reference has."""
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        for needed in ("sphinx", "myst_parser", "furo", "optax", "keras"):
            pytest.importorskip(needed)
        from sphinx.application import Sphinx

        app = Sphinx(
            DOCS, DOCS, folder / "site", folder / "trees", "html", warningiserror=True, exception_on_warning=True
        )
        app.build()
    return folder / "site", set(app.env.get_domain("py").data["objects"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["index.html", "options.html", "results/report.html"])
def test_pages_in_a_browser(built, name) -> None:
    """The front page, one with the widest table, and the report on the kept results."""
    with browser() as running:
        for device in ("desktop", "phone"):
            for dark in (False, True):
                visit(running, built[0] / name, device, dark)
                check_page(running)


@pytest.mark.slow
def test_site(built) -> None:
    site, known = built
    for module in MODULES:
        name = f"adamomentum.{module}"
        public = {f"{name}.{each}" for each in import_module(name).__all__}
        assert public <= known, public - known
    # Those of trainers need not be installed.
    assert {
        "adamomentum.trainers.transformers.ReleaseGradients",
        "adamomentum.trainers.lightning.ReleaseGradients",
        "adamomentum.trainers.accelerate.release_gradients",
    } <= known
    assert (site / "index.html").exists()
    figures = (site / "how-it-works.html").read_text(encoding="utf-8")
    assert re.search(r'<img [^>]*src="_images/[^"]*\.svg"', figures)
    assert re.search(r'href="_static/figures\.css', figures)  # their ground in dark mode
    assert (site / "_static" / "figures.css").exists()
    opened = set()
    for page in ("results/README.html", "theory.html"):
        for link in re.findall(r"<a [^>]*>", (site / page).read_text(encoding="utf-8")):
            href = re.search(r'href="(?!https?:)([^"#]*\.html)', link)
            if href is None:
                continue
            assert "download" not in link
            target = (site / page).parent / href[1]
            report = target.read_text(encoding="utf-8")
            assert report[:15].lower() == "<!doctype html>", link
            for figure in re.findall(r'<img [^>]*src="(?!data:)([^"]+)"', report):
                assert (target.parent / figure).exists(), (link, figure)
            opened.add(target.resolve().relative_to(site.resolve()).as_posix())
    assert {"results/report.html", "results/gpt-mini.html", "results/theory/theory.html"} <= opened
