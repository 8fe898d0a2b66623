"""The Python in the README and the docs runs, top to bottom, as a reader would run it, and prints what they say."""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name != "api.md")]
# What a page needs beside torch and the study; Keras takes long to start.
NEEDS = {"optax.md": "optax", "keras.md": "keras"}
MARKS = {"keras.md": [pytest.mark.slow]}


def blocks(page):
    """Each block of code with what it is said to print, the ```text block right after it, if there is one."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```(?:\n```text\n(.*?)^```)?", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name, marks=MARKS.get(page.name, [])) for page in PAGES])
def test_code_runs(page, tmp_path, monkeypatch):
    pytest.importorskip(NEEDS.get(page.name, "torch"), reason=f"needs {NEEDS.get(page.name)}")
    monkeypatch.chdir(tmp_path)
    code = blocks(page)
    assert code, f"{page} has no Python block"
    namespace = {"__name__": "__main__"}
    for block, output in code:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(block, str(page), "exec"), namespace)
        if output:
            assert printed.getvalue() == output, block


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_into_the_repository_exist(page):
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
