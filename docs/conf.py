"""The documentation site: Markdown pages, and the reference from the docstrings. Built by `make docs`."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version as installed
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

project = "adamomentum"
author = "The adamomentum developers"
copyright = "The adamomentum developers, Apache-2.0"
release = version = installed("adamomentum")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["results/paper-mini", "results/gpt-mini", "results/theory"]
nitpicky = True  # every reference has a target, but those to other projects: their sites are not at hand
nitpick_ignore_regex = [("py:.*", r"(numpy|optax|jax|torch|keras|collections)\..*")]
html_theme = "furo"
html_title = f"adamomentum {release}"
html_static_path = ["_static"]
html_css_files = ["figures.css"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_mock_imports = ["transformers", "lightning"]  # what adamomentum.trainers is for
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # what the docstrings say of arguments; signatures show names and defaults
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_use_rtype = False
napoleon_use_ivar = True


REPORTS = {
    "paper-mini/report/report.html": "report.html",
    "gpt-mini/report/report.html": "gpt-mini.html",
    "results/theory/theory.html": "results/theory/theory.html",
}


def _files_as_code(app, name, source):
    """Links to files of the repository, which the site has not, become their paths; its reports open as pages."""
    source[0] = re.sub(r"\[([^\]]*)\]\((?:\.\./)+([^)]*)\)", _link, source[0])
    for path, place in REPORTS.items():
        source[0] = source[0].replace(f"`{path}`", f'<a href="{place}">{Path(path).name}</a>')


def _write_reports(app, exception):
    """Where the links expect them: the numbers are kept, and what draws them is the library itself."""
    if exception or app.builder.format != "html":
        return
    from adamomentum.theory.page import CLAIMS, redraw

    results = app.srcdir / "results"
    for name, place in ("paper-mini", "report.html"), ("gpt-mini", "gpt-mini.html"):
        _write_report(name, results / name, Path(app.doctreedir), app.outdir / "results" / place)
    theory = app.outdir / "results" / "theory"
    theory.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(results / "theory" / CLAIMS, theory / CLAIMS)
    redraw(Path(theory))


def _write_report(name, trials, folder, place):
    """A study's report on the trials that are kept, by the commands that the page of results names: half a minute."""
    study = [sys.executable, "-m", "adamomentum", "study"]
    for command in ("import", name, trials), ("report", name):
        subprocess.run([*study, *command, "--out", name], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    shutil.copyfile(folder / name / "report" / "report.html", place)


def _link(match):
    text, path = match[1].strip("`"), match[2]
    return f"`{path}`" if text.endswith((".py", ".md", ".inl")) or text in path else f"{match[1]} (`{path}`)"


def _bars(app, what, name, obj, options, lines):
    """The bars of |x| are no substitutions; in a block of mathematics they stay as they are."""
    inside = False
    for i, line in enumerate(lines):
        if line.lstrip().startswith(".. math::"):
            inside = True
        elif inside and line and not line.startswith(" "):
            inside = False
        if not inside:
            lines[i] = line.replace("|", "\\|")


def _levels(app, page, template, context, doctree):
    """Give the headings of tables of contents the level that screen readers need and Sphinx leaves out."""
    for part in {"body", "furo_navigation_tree"} & context.keys():
        context[part] = context[part].replace('role="heading"', 'role="heading" aria-level="2"')


def setup(app):
    app.connect("source-read", _files_as_code)
    app.connect("build-finished", _write_reports)
    app.connect("autodoc-process-docstring", _bars)
    app.connect("html-page-context", _levels, priority=900)
