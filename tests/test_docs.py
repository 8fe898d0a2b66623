"""The Python in the README and the docs runs, top to bottom, as a reader would run it, and prints what they say."""

import contextlib
import inspect
import io
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from clients import need
from packaging.specifiers import SpecifierSet

from adamomentum import AdaMomentum, reference
from adamomentum.bench.memory import peak_bytes
from adamomentum.memory import largest_model, training_memory
from adamomentum.memory.modes import MODES
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


def needed(block):
    """The package that a block is for alone, as its first line says."""
    return match[1] if (match := re.match(r"# needs (\w+)\n", block)) else None


def run_blocks(page, code, folder):
    namespace = {"__name__": "__main__"}
    for block, output in code:
        if file := re.match(r"# (\w+\.py)", block):  # said to be a file: the blocks that follow import it
            (folder / file[1]).write_text(block)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(block, str(page), "exec"), namespace)
        if output:
            assert printed.getvalue() == output, block


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # checkpoints of one process
@pytest.mark.parametrize("page", [pytest.param(page, id=page.name, marks=MARKS.get(page.name, [])) for page in PAGES])
def test_code_runs(page, tmp_path, monkeypatch):
    pytest.importorskip(NEEDS.get(page.name, "torch"), reason=f"needs {NEEDS.get(page.name)}")
    monkeypatch.chdir(tmp_path)
    code = [(block, output) for block, output in blocks(page) if not needed(block)]
    assert code, f"{page} has no Python block"
    monkeypatch.syspath_prepend(tmp_path)
    run_blocks(page, code, tmp_path)


CLIENTS = [(page, block, package) for page in PAGES for block, _ in blocks(page) if (package := needed(block))]


@pytest.mark.slow
@pytest.mark.clients
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("page", "block", "package"), CLIENTS, ids=[f"{page.name}-{name}" for page, _, name in CLIENTS]
)
def test_code_of_clients_runs(page, block, package, tmp_path, monkeypatch):
    need(package)
    monkeypatch.chdir(tmp_path)
    run_blocks(page, [(block, "")], tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_into_the_repository_exist(page):
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_table_of_bytes(page=ROOT / "docs" / "precision.md"):
    """Measured of a parameter with its gradient and state."""
    rows = re.findall(
        r"^\| (float32|bfloat16) \| (as AdamW's|[\w, ]+) \| (\w*) ?\| (.*) \| (exact|unbiased) \|$",
        page.read_text(),
        re.MULTILINE,
    )
    assert len(rows) == 11
    for dtype, moments, rounding, numbers, passes in rows:
        p = torch.nn.Parameter(torch.zeros(1 << 16, dtype=getattr(torch, dtype)))
        p.grad = torch.zeros_like(p)
        optimizer = AdaMomentum(
            [p],
            state_dtype=None if moments == "as AdamW's" else (moments.split(", ") * 2)[:2],
            rounding=rounding or "nearest",
        )
        optimizer.init_state()
        parameter, gradient = p.nbytes / p.numel(), p.grad.nbytes / p.numel()
        state = sum(t.nbytes for t in optimizer.state[p].values()) / p.numel()
        assert (passes == "exact") == (optimizer.state[p]["exp_avg"].dtype == torch.float32)
        measured = [parameter, gradient, state, parameter + gradient + state, parameter + state]
        assert [float(number) for number in numbers.split(" | ")] == [pytest.approx(x, abs=0.005) for x in measured]


def test_the_table_of_what_fits(page=ROOT / "docs" / "precision.md"):
    """What the page says of each mode, by the function that the command prints."""
    table = page.read_text(encoding="utf-8").split("## What fits")[1].split("\n## ")[0]
    _, *rows = re.findall(r"^\| (.*) \|$", table, re.MULTILINE)
    assert len(rows) == 6
    for row in rows:
        optimizer, parameters, moments, *cells = row.split(" | ")
        dtype, _, rounding = parameters.partition(", ")
        [mode] = [
            mode
            for mode in MODES
            if (mode.optimizer, mode.parameter.name, mode.moment_names) == (optimizer, dtype, moments)
            and mode.rounding == (rounding.removesuffix(" copies") or "nearest")
        ]
        assert cells == [
            " / ".join(f"{largest_model(mode, size * 10**9, released=freed) / 1e9:.2f}" for freed in (False, True))
            for size in (16, 24, 48, 80, 141)
        ]
    (least,) = [m for m in training_memory(10**12) if "4bit" in m.mode.optimizer]
    assert f"{least.released / 1e12:.2f} bytes in all" in table
    assert not [mode for mode in MODES if mode.passes != "no" and mode.optimizer != "AdaMomentum"]


# Where AdamW is replaced, the comment "It was ...AdamW(...)" shows it.
SWAPPING = ("README.md", "quick-start.md", "index.md", "coming-from-adam.md", "optimizer.md", "options.md")
EXAMPLES = [
    file
    for file in sorted((ROOT / "examples").glob("*.py"))
    if "from adamomentum import AdaMomentum" in file.read_text()
]


def advice(page):
    return " ".join(page.read_text(encoding="utf-8").split())


def arguments(code, name):
    """What stands between the brackets of the first call of this name."""
    start = end = code.index(f"{name}(") + len(name)
    depth = 0
    while end == start or depth:
        depth += {"(": 1, ")": -1}.get(code[end], 0)
        end += 1
    return code[start + 1 : end - 1]


def swaps(code):
    """The arguments of each AdamW in a comment, "It was ...", and those of the AdaMomentum that took its place."""
    return [(arguments(part, "AdamW"), arguments(part, "AdaMomentum")) for part in re.split("# It was ", code)[1:]]


def numbers(call):
    """The options of a call that the drop-in keeps."""
    written = dict(re.findall(r"\b(lr|weight_decay|betas)=(\([\d., ]+\)|[\d.e-]+)", call))
    return {"weight_decay": 0.01, **{name: eval(value) for name, value in written.items()}}


def check_swap(theirs, ours):
    assert numbers(ours) == numbers(theirs)
    assert "weight_decay=" in ours  # it would be 0
    assert 'adjust_lr="match_rms_adamw"' in ours


@pytest.mark.parametrize("name", SWAPPING)
def test_a_swap_keeps_what_adamw_had(name):
    (page,) = [page for page in PAGES if page.name == name]
    calls = [call for block, _ in blocks(page) for call in swaps(block)]
    assert calls
    for theirs, ours in calls:
        check_swap(theirs, ours)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_an_example_keeps_what_adamw_had(file):
    code = file.read_text(encoding="utf-8")
    assert "match_rms_adamw" in code
    for theirs, ours in swaps(code):
        assert numbers(ours) == numbers(theirs)


def test_adamw_decays_as_the_pages_say():
    assert torch.optim.AdamW([torch.ones(1)]).defaults["weight_decay"] == 0.01
    assert AdaMomentum([torch.ones(1)]).defaults["weight_decay"] == 0
    assert all("0.01" in advice(page) for page in PAGES if page.name in ("README.md", "coming-from-adam.md"))


def moved(gradients, lengths, **options):
    """The root mean square of the drop-in's steps and of Adam's on gradients (t, n), after each number of steps."""
    beta1, beta2 = 0.9, 0.999
    state, m, v, rms = reference.State.zeros(np.zeros(gradients.shape[1])), 0.0, 0.0, []
    for t, g in enumerate(gradients, start=1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        ours, state = reference.step(np.zeros_like(g), g, state, lr=1.0, adjust_lr="match_rms_adamw", **options)
        adams = m / (1 - beta1**t) / np.sqrt(v / (1 - beta2**t))
        if t in lengths:
            rms.append([np.square(x).mean() ** 0.5 for x in (ours, adams)])
    return np.array(rms)


def test_how_long_steps_are_in_noise():
    """The README: as long as AdamW's, to 10 % from the second on, to 1 % after 60."""
    assert "within 10 % from the second on and 1 % after 60" in advice(ROOT / "README.md")
    lengths = [1, 2, 3, 4, 5, 7, 10, 20, 40, 60, 100, 200]
    ours, adams = moved(np.random.default_rng(0).standard_normal((200, 50_000)), lengths).T
    ratio = ours / adams
    assert ratio[0] == pytest.approx(1)
    assert abs(ratio - 1).max() < 0.1
    assert abs(ratio[lengths.index(60) :] - 1).max() < 0.01


def test_the_table_of_denominators(page=ROOT / "docs" / "how-it-works.md"):
    rows = re.findall(r"^\| (white noise|constant|alternating) \| (.*) \|$", page.read_text(), re.MULTILINE)
    steps = 20_000
    gradients = {
        "white noise": np.random.default_rng(0).standard_normal((5_000, 500)),
        "constant": np.ones((steps, 1)),
        "alternating": (-1.0) ** np.arange(steps)[:, None],
    }
    length_of_m = {"white noise": (0.1 / 1.9) ** 0.5, "constant": 1, "alternating": 0.1 / 1.9}
    assert len(rows) == 3
    for name, cells in rows:
        said = [float(cell.removesuffix(" lr")) for cell in cells.split(" | ")]
        series = gradients[name]
        last = range(len(series) - 999, len(series) + 1)
        (of_m, adams), (of_n, _) = (
            (moved(series, last, second_moment=kind) ** 2).mean(axis=0) ** 0.5 for kind in ("momentum", "lookahead")
        )
        assert said[3:] == pytest.approx([of_m, of_n, adams], rel=0.02), name
        assert said[:3] == pytest.approx([length_of_m[name] / step for step in said[3:]], rel=0.02), name


def test_the_longest_step(page=ROOT / "docs" / "choosing.md"):
    """By the sequences that make it, after a long quiet: of all with one second moment they reach farthest."""
    ours, adams = map(float, re.search(r"drop-in's longest is (\d\.\d) lr, Adam's (\d\.\d) lr", advice(page)).groups())
    beta1, beta2, t = 0.9, 0.999, 100_000
    back = np.arange(300)[::-1]
    # m as a filter of n, n = (1 + beta1) m - beta1 m_before; the sup of sum h x over sum beta2^k x^2 is at h / beta2^k.
    n = ((beta1 / (1 + beta1)) ** back) / beta2**back
    state = reference.State(t, np.zeros(1), np.zeros(1), np.zeros(1))
    before = 0.0
    for x in n:
        m = (x + beta1 * before) / (1 + beta1)
        g = (m - beta1 * before) / (1 - beta1)
        before = m
        step, state = reference.step(np.zeros(1), [g], state, lr=1.0, eps=0.0, adjust_lr="match_rms_adamw")
    assert abs(step[0]) == pytest.approx(ours, abs=0.05)
    m = v = 0.0
    for g in (beta1 / beta2) ** back:
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
    assert m / v**0.5 == pytest.approx(adams, abs=0.05)


def test_the_first_learning_rate_of_algorithm_1():
    factor = 1 / guidance.suggest_lr(1.0)
    for page in [page for page in PAGES if page.name in ("choosing.md", "coming-from-adam.md", "faq.md")]:
        said = re.findall(r"(?:over|divided by|divide lr by|/) (\d+\.\d+)", advice(page))
        assert said, "no advice on lr"
        assert {abs(float(number) - factor) < 0.05 for number in said} == {True}, said


def test_the_range_of_learning_rates():
    """Half a decade to both sides of the first, and the grid that a page shows reaches just as far."""
    telling = [page.name for page in PAGES if "half a decade to both sides" in advice(page)]
    assert telling == ["choosing.md", "coming-from-adam.md"]
    grid = re.search(r"for factor in \(([\d., ]+)\)", advice(ROOT / "docs" / "choosing.md"))[1]
    factors, middle = [float(factor) for factor in grid.split(",")], 1 / guidance.suggest_lr(1.0)
    assert factors[0] == pytest.approx(middle * 10**0.5, rel=0.03)
    assert factors[-1] == pytest.approx(middle / 10**0.5, rel=0.03)


def test_beta1_moves_in_one_cycle_as_the_page_says(page=ROOT / "docs" / "choosing.md"):
    said = re.search(
        r"drop-in's steps in noise are (\d\.\d+) to (\d\.\d+) times AdamW's, and Algorithm 1's factor moves between "
        r"(\d\.\d) and (\d\.\d)",
        advice(page),
    ).groups()
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.zeros(20_000)) for _ in range(2)]
    optimizers = [
        torch.optim.AdamW(params[:1], weight_decay=0.0),
        AdaMomentum(params[1:], adjust_lr="match_rms_adamw"),
    ]
    schedules = [torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=1000) for optimizer in optimizers]
    ratios, factors = [], []
    for _ in range(999):
        factors.append(1 / guidance.suggest_lr(1.0, optimizers[0].param_groups[0]["betas"]))
        gradient, lengths = torch.randn(20_000), []
        for p, optimizer, schedule in zip(params, optimizers, schedules, strict=True):
            p.data.zero_()
            p.grad = gradient
            optimizer.step()
            schedule.step()
            lengths.append(p.norm().item())
        ratios.append(lengths[1] / lengths[0])
    assert [f"{min(ratios):.2f}", f"{max(ratios):.2f}"] == list(said[:2])
    assert [f"{min(factors):.1f}", f"{max(factors):.1f}"] == list(said[2:])


def test_temporary_memory_of_the_look_ahead_momentum():
    """The page: in the for-loop one tensor more."""

    def peak(**options):
        p = torch.nn.Parameter(torch.zeros(1 << 18))
        p.grad = torch.ones_like(p)
        optimizer = AdaMomentum([p], foreach=False, **options)
        optimizer.step()
        return peak_bytes(optimizer.step, torch.device("cpu")) / p.nbytes

    assert peak() == pytest.approx(1, abs=0.05)
    assert peak(adjust_lr="match_rms_adamw") == pytest.approx(2, abs=0.05)


def test_the_table_of_options():
    """Made from the signatures; what is written in it exists."""
    module = runpy.run_path(str(ROOT / "docs" / "options_table.py"))
    page = ROOT / "docs" / "options.md"
    assert page.read_text(encoding="utf-8") == module["page_with"](module["table"]()), (
        "run python docs/options_table.py"
    )
    assert module["options"]("PyTorch").keys() == inspect.signature(AdaMomentum).parameters.keys() - {"params"}


def test_an_option_without_a_row_is_found():
    module = runpy.run_path(str(ROOT / "docs" / "options_table.py"))
    namespace = module["table"].__globals__
    for rows in (module["ROWS"][1:], (module["ROWS"][0], *module["ROWS"])):
        namespace["ROWS"] = rows
        with pytest.raises(ValueError, match="must stand in one row"):
            module["table"]()


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
        r"^\| (?:all )?[\d,]+ \| [\d.]+ " + r"\| [\d.]+ \(([\d.]+) to ([\d.]+)\) " * 2,
        (ROOT / "docs" / "coming-from-adam.md").read_text(),
        re.MULTILINE,
    )
    assert len(table) == 5
    ends = [[float(number) for number in column] for column in zip(*table, strict=True)]
    said = advice(ROOT / "docs" / "choosing.md")
    assert f"it moved {min(ends[0]):.1f} to {max(ends[1]):.1f} times as far, from batches" in said
    assert f"the drop-in moved {min(ends[2]):.1f} to {max(ends[3]):.1f} times as far" in said
