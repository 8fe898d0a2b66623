"""The Python in the README and the docs runs, top to bottom, as a reader would run it, and prints what they say."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

from adamomentum import AdaMomentum

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name != "api.md")]
# What a page needs beside torch and the study; Keras takes long to start.
NEEDS = {"optax.md": "optax", "quick-start.md": "optax", "keras.md": "keras"}
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


def test_the_table_of_bytes(page=ROOT / "docs" / "precision.md"):
    """Measured of a parameter with its gradient and state."""
    rows = re.findall(
        r"^\| (float32|bfloat16) \| (as AdamW's|bfloat16|8bit) \| (\w*) ?\| (.*) \|$", page.read_text(), re.MULTILINE
    )
    assert len(rows) == 8
    for dtype, moments, rounding, numbers in rows:
        p = torch.nn.Parameter(torch.zeros(1 << 16, dtype=getattr(torch, dtype)))
        p.grad = torch.zeros_like(p)
        optimizer = AdaMomentum(
            [p], state_dtype=None if moments == "as AdamW's" else moments, rounding=rounding or "nearest"
        )
        optimizer.init_state()
        parameter, gradient = p.nbytes / p.numel(), p.grad.nbytes / p.numel()
        state = sum(t.nbytes for t in optimizer.state[p].values()) / p.numel()
        measured = [parameter, gradient, state, parameter + gradient + state, parameter + state]
        assert [float(number) for number in numbers.split(" | ")] == [pytest.approx(x, abs=0.005) for x in measured]
