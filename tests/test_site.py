"""The documentation site builds without a warning, and its reference has every public name."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_site(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    for needed in ("sphinx", "myst_parser", "furo", "optax", "keras"):
        pytest.importorskip(needed)
    from sphinx.application import Sphinx

    app = Sphinx(
        DOCS, DOCS, tmp_path / "site", tmp_path / "trees", "html", warningiserror=True, exception_on_warning=True
    )
    app.build()
    known = set(app.env.get_domain("py").data["objects"])
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
    site = tmp_path / "site"
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
    assert {"results/report.html", "results/theory/theory.html"} <= opened
