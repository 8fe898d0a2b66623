"""The Python in the README and the docs runs, top to bottom, as a reader would run it, and prints what they say."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch
from packaging.specifiers import SpecifierSet

from adamomentum import AdaMomentum
from adamomentum.theory import guidance

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
    monkeypatch.syspath_prepend(tmp_path)
    namespace = {"__name__": "__main__"}
    for block, output in code:
        if file := re.match(r"# (\w+\.py)", block):  # said to be a file: the blocks that follow import it
            (tmp_path / file[1]).write_text(block)
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


# Who comes from Adam is told the same everywhere.
ADVISING = ("README.md", "choosing.md", "coming-from-adam.md", "faq.md", "index.md", "optimizer.md")


def advice(page):
    return " ".join(page.read_text(encoding="utf-8").split())


@pytest.mark.parametrize("page", [page for page in PAGES if page.name in ADVISING], ids=lambda page: page.name)
def test_the_first_learning_rate(page):
    factor = 1 / guidance.suggest_lr(1.0)
    said = re.findall(r"(?:over|divided by|divide lr by|/) (\d+\.\d+)", advice(page))
    assert said, "no advice on lr"
    assert {abs(float(number) - factor) < 0.05 for number in said} == {True}, said


def test_the_range_of_learning_rates():
    """Half a decade to both sides of the first, and the grid that a page shows reaches just as far."""
    telling = [page.name for page in PAGES if "half a decade to both sides" in advice(page)]
    assert telling == ["README.md", "choosing.md", "coming-from-adam.md", "faq.md"]
    grid = re.search(r"for factor in \(([\d., ]+)\)", advice(ROOT / "docs" / "choosing.md"))[1]
    factors, middle = [float(factor) for factor in grid.split(",")], 1 / guidance.suggest_lr(1.0)
    assert factors[0] == pytest.approx(middle * 10**0.5, rel=0.03)
    assert factors[-1] == pytest.approx(middle / 10**0.5, rel=0.03)


def test_the_length_of_the_warm_up():
    said = {page.name: re.findall(r"over (\d+) to (\d+)", advice(page)) for page in PAGES}
    assert said["README.md"] == said["faq.md"] == said["choosing.md"] == [("50", "100")]
    assert {pair for pairs in said.values() for pair in pairs} == {("50", "100")}
    for page in PAGES:  # and in code
        for block, _ in blocks(page):
            assert set(re.findall(r"total_iters=(\d+)", block)) <= {"50"}, page.name


@pytest.mark.parametrize("page", [page for page in PAGES if "AdamW(" in page.read_text()], ids=lambda page: page.name)
def test_a_swap_warms_up_and_keeps_the_decay(page):
    """Where a block shows what takes the place of AdamW, it has a warm-up, and the decay that AdamW had times 4.4."""
    for block, _ in blocks(page):
        if not re.search(r"#.*\bAdamW\(", block):
            continue
        assert "LinearLR(optimizer, 0.02, total_iters=50)" in block
        decay = re.search(r"weight_decay=([\d. *]+)", block.split("AdamW(")[1].split("AdaMomentum(")[1])[1]
        assert eval(decay) == pytest.approx(
            guidance.suggest_weight_decay(torch.optim.AdamW([torch.ones(1)]).defaults["weight_decay"]), rel=0.02
        )


def test_beta1_moves_in_one_cycle_as_the_page_says(page=ROOT / "docs" / "choosing.md"):
    lowest, highest = re.search(r"between (\d\.\d) and (\d\.\d) for OneCycleLR's", advice(page)).groups()
    optimizer = AdaMomentum([torch.ones(1)], lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=100)
    factors = []
    for _ in range(99):
        factors.append(1 / guidance.suggest_lr(1.0, optimizer.param_groups[0]["betas"]))
        optimizer.step()
        schedule.step()
    assert [f"{min(factors):.1f}", f"{max(factors):.1f}"] == [lowest, highest]


def test_which_torch_the_extra_replaces(page=ROOT / "README.md"):
    wanted = SpecifierSet(
        re.search(r'^torch = \["torch(.*)"\]$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    )
    assert not wanted.contains("2.8.0+cu128")
    assert not wanted.contains("2.9.0a0+50eac811a6.nv25.09", prereleases=True)
    assert wanted.contains("2.10.0+cu130")
    assert "2.9.0a0" in advice(page)


def test_how_far_it_moves_at_large_batch():
    """What one page says in a sentence is the range of the other's table."""
    table = re.findall(
        r"^\| (?:all )?[\d,]+ \| [\d.]+ \| [\d.]+ \(([\d.]+) to ([\d.]+)\) \|",
        (ROOT / "docs" / "coming-from-adam.md").read_text(),
        re.MULTILINE,
    )
    assert len(table) == 5
    lowest, highest = min(float(low) for low, _ in table), max(float(high) for _, high in table)
    assert f"moved {lowest:.1f} to {highest:.1f} times as far as Adam" in advice(ROOT / "docs" / "choosing.md")
