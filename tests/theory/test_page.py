"""docs/theory.md says what the experiments conclude."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from theory.verdicts import FULL, VERDICTS

from adamomentum.theory import drop_in, experiments, guidance, page
from adamomentum.theory.claims import Check, Claim, Drawing
from adamomentum.theory.experiments import drop_in_bounds
from adamomentum.theory.moments import ar1_momentum_ratio, ema_gain

PAGE = Path(__file__).parents[2] / "docs" / "theory.md"
KEPT = PAGE.parent / "results" / "theory"
DAMPED = ("adam", "adabelief")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """The page and the figures of the numbers that are kept, as the documentation's site has them."""
    folder = tmp_path_factory.mktemp("theory")
    shutil.copyfile(KEPT / page.CLAIMS, folder / page.CLAIMS)
    page.redraw(folder)
    return folder


@pytest.fixture(scope="module")
def record() -> dict:
    return json.loads((KEPT / page.CLAIMS).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def kept(record) -> dict:
    """The full run's claims by key."""
    return {claim["key"]: claim for claim in record["claims"]}


def prose(path: Path) -> str:
    """A page without its line breaks."""
    return " ".join(path.read_text(encoding="utf-8").split())


def test_the_table_is_what_is_computed() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)`: .* \| ([\w ]+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert rows == {key: verdict for verdicts in (*VERDICTS.values(), FULL) for key, verdict in verdicts.items()}


def test_the_full_run_that_is_kept_says_the_same(record) -> None:
    assert record["profile"] == "full"
    assert record["failures"] == []
    verdict_of = {claim["key"]: claim["verdict"] for claim in record["claims"]}
    assert verdict_of == {key: verdict for verdicts in (*VERDICTS.values(), FULL) for key, verdict in verdicts.items()}
    # Whatever is called confirmed makes the command fail if it is not.
    for claim in record["claims"]:
        assert claim["relied_on"] == claim["verdict"].startswith("confirmed"), claim["key"]
        assert not claim["control"]["holds"]


def test_what_is_kept_is_what_one_command_wrote(record, drawn) -> None:
    for claim in record["claims"]:
        assert claim["data"], claim["key"]
    assert record["command"].startswith("adamomentum theory --full")
    assert "--only" not in record["command"]
    text = (drawn / page.PAGE).read_text(encoding="utf-8")
    assert html.unescape(re.search(r"<pre>(.*?)</pre>\s*<p", text, re.DOTALL)[1]) == record["command"]
    for claim in record["claims"]:
        for check in (*claim["printed"], *claim["corrected"], *claim["against"], claim["control"]):
            assert check["text"] in html.unescape(text)
    figures = {path.name for path in (drawn / "figures").glob("*.svg")}
    assert figures > {path.name for path in (KEPT / "figures").glob("*.svg")}
    assert figures == {f"{drawing.file or key}.svg" for key, drawing in experiments.drawings().items()}
    assert sum(path.stat().st_size for path in KEPT.rglob("*") if path.is_file()) < 3e6


def test_every_number_of_selectivity_rests_on_1000_exits(kept) -> None:
    cells = kept["selectivity"]["data"]["cells"]
    assert len(cells) == 6 * 4 * 3
    for cell in cells:
        for basin in (cell["flat"], cell["sharp"]):
            assert basin["exits"] >= 1000
            assert basin["exits"] + basin["censored"] == kept["selectivity"]["data"]["walkers"]
        assert cell["ratio"] == pytest.approx(cell["flat"]["mean"] / cell["sharp"]["mean"])
        assert cell["held"] == (cell["thrown"] <= 0.05)


def test_the_table_of_selectivity_is_the_full_runs(kept) -> None:
    data = kept["selectivity"]["data"]
    expected: dict[tuple[str, str], dict[str, str]] = {}
    for cell in data["cells"]:
        noise = "" if cell["noise"] == "Gaussian" else f", noise: {cell['noise']}"
        shown = f"{cell['ratio']:.2f}" if cell["ratio"] < 10 else f"{cell['ratio']:.0f}"
        row = expected.setdefault((cell["shape"] + noise, f"{cell['sharpness']:g}"), {})
        row[cell["name"]] = shown if cell["held"] else f"({shown})"
    rows = re.findall(r"^  \| ([^|]+) \| (\d+) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    table = {(basin, h): cells.split(" | ") for basin, h, cells in rows}
    assert table == {key: [row[name] for name in data["names"]] for key, row in expected.items()}


def span(values, digits: int, factor: float = 1.0) -> str:
    return f"{factor * np.min(values):.{digits}f} to {factor * np.max(values):.{digits}f}"


def test_the_other_numbers_are_the_full_runs(record, kept) -> None:
    exits = [b for cell in kept["selectivity"]["data"]["cells"] for b in (cell["flat"], cell["sharp"])]
    fewest = min(basin["exits"] for basin in exits)
    errors = [cell["error"] for cell in kept["selectivity"]["data"]["cells"]]
    left_in = max(basin["censored"] for basin in exits) / kept["selectivity"]["data"]["walkers"]
    minutes = sum(claim["seconds"] for claim in record["claims"]) / 60

    counts = [re.search(r"is ahead in (\d), behind in (\d)", c["text"]) for c in kept["trapping"]["printed"]]
    own = kept["trapping"]["data"]["own"]
    gaps = np.array(own["adamomentum"]["success"]) - own["adam"]["success"]
    best = np.sort(gaps)[len(gaps) - int(counts[1][1]) :]
    smaller = np.median(np.array(own["adam"]["lr"]) / own["adamomentum"]["lr"])
    words = ["none", "one", "two", "three", "four", "five", "six", "seven", "eight"]

    noise, flat = kept["network-noise"]["data"], kept["network-flatness"]["data"]
    means = {name: np.mean(np.log(flat["sharpness"][name])) for name in flat["names"]}
    beside = re.search(
        r"95 % interval: ([\d.]+) \(([\d.]+) to ([\d.]+)\)", kept["network-flatness"]["printed"][0]["text"]
    )
    sgd = re.search(
        r"AdaMomentum over SGD \+ momentum: ([\d.]+) \(([\d.]+) to ([\d.]+)\)", kept["network-flatness"]["note"]
    )
    assert float(beside[1]) == pytest.approx(np.exp(means["adamomentum"] - means["adam"]), abs=0.01)
    assert float(sgd[1]) == pytest.approx(np.exp(means["adamomentum"] - means["sgdm"]), abs=0.01)
    average = {
        key: [np.mean(flat[key][name]) for name in ("adamomentum", "adam", "sgdm")] for key in ("loss", "accuracy")
    }

    said = prose(PAGE)
    for fact in (
        f"{minutes:.0f} minutes of one core",
        f"at least {fewest:,} exits in each number, at most {100 * left_in:.0f} % of the walkers still in at the end, "
        f"standard errors of {100 * max(errors):.1f} % at most",
        f"out more often than Adam in {words[int(counts[0][1])]} of eight cases",
        f"which is {smaller:.1f} times smaller for AdaMomentum, it is ahead in {words[int(counts[1][1])]} of",
        f"by {span(best, 0, 100)} points, and behind in {words[int(counts[1][2])]}:",
        f"moves {span(noise['ratio'], 1)} times as far",
        f"would make it {span(noise['predicted'], 1)}",
        f"the step of {span(np.array(noise['below_eps'])[:, 1], 0, 100)} % of the coordinates",
        f"is {float(beside[1]):.1f} times ({float(beside[2]):.1f} to {float(beside[3]):.1f}) that of Adam",
        f"and {float(sgd[1]):.0f} times ({float(sgd[2]):.0f} to {float(sgd[3]):.0f}) that of SGD",
        "({:.1f}, {:.1f} and {:.1f} %)".format(*(100 * a for a in average["accuracy"])),
        "({:.3f}, {:.3f}, {:.3f})".format(*average["loss"]),
    ):
        assert fact in said
    assert f"AdaMomentum moves {span(noise['ratio'], 1)} times as far" in " ".join(guidance.__doc__.split())

    ratios, without = kept["constant-beta1"]["data"]["ratios"], kept["constant-beta1"]["data"]["control"]
    fact = (
        f"the largest regret found is {ratios['a posteriori']:.2f} times the bound from the run; without amsgrad it is"
    )
    assert f"{fact} {without['a posteriori']:.0f} times the bound" in prose(PAGE.parent / "theory" / "regret.md")


def test_the_drop_ins_table_is_the_formulas() -> None:
    beta1, forms = 0.9, ("momentum", "lookahead", "gradient")

    def oscillating(omega):
        seen = [float(drop_in.denominator(omega, beta1, form)) for form in forms]
        return seen, [float(ema_gain(omega, beta1)) / d for d in seen]

    def correlated(phi):
        lengths = [float(drop_in.ar1_length(phi, beta1, form)) for form in forms]
        return [math.sqrt(ar1_momentum_ratio(phi, beta1)) / length for length in lengths], lengths

    expected = {
        "white noise": correlated(0.0),
        "constant": oscillating(0.0),
        "alternating in sign": oscillating(math.pi),
        "noise, neighbours correlated by 0.9": correlated(0.9),
        "noise, neighbours correlated by -0.9": correlated(-0.9),
    }
    section = PAGE.read_text(encoding="utf-8").split("## The drop-in for AdamW")[1]
    rows = dict(re.findall(r"^\| ([a-z][^|]+) \| ([\d.]+ \|.*[\d.]+) \|$", section, re.MULTILINE))
    assert rows.keys() == expected.keys()
    for name, (seen, lengths) in expected.items():
        said = rows[name].split(" | ")
        for number, value in zip(said, [*seen, *lengths], strict=True):
            assert number == f"{value:.{len(number.partition('.')[2])}f}", name


def test_the_drop_ins_other_numbers_are_the_full_runs(kept) -> None:
    length, alone = kept["drop-in-length"]["data"], kept["drop-in-alternating"]["data"]["alone"]
    limits, allowed = kept["drop-in-first-step"]["data"]["limits"], kept["drop-in-stationarity"]["data"]["limits"]
    ways = [drop_in.signal_profile(100, averaged=averaged).sum() for averaged in ("lookahead", "momentum")]
    constants = kept["drop-in-regret"]["data"]["constants"]
    said = prose(PAGE)
    for fact in (
        f"{span(length['spans']['momentum'], 3)} times Adam's with m",
        f"{span(length['spans']['lookahead'], 3)} times with n; at the default betas from step 60 on "
        f"{span(length['late'], 3)} times with n",
        f"no update is longer than {limits['lookahead']:.2f} lr (n) or {limits['momentum']:.2f} lr (m), beside "
        f"{limits['gradient']:.2f} lr of Adam",
        "x swings by {momentum:.3f}, {lookahead:.3f} and {gradient:.3f} lr".format(**alone),
        "below {:.1f} (m), {:.0f} (n) or {:.0f} (Adam) times its size".format(
            *(drop_in.stable_lr(1.0, 0.9, averaged) for averaged in ("momentum", "lookahead", "gradient"))
        ),
        "come to {:.1f} and {:.1f} lr".format(*ways),
        f"the constant {constants[0]:.0f} before the gradients' norms smaller, {constants[1]:.1f} (m) and "
        f"{constants[2]:.1f} (n)",
        f"a constant lr of {allowed['momentum']:.0e} (m) and {allowed['lookahead']:.0e} (n), and Algorithm 1 one of "
        f"{allowed['gradient']:.0e}",
    ):
        assert fact in said, fact
    proof = (PAGE.parent / "theory" / "regret.md").read_text(encoding="utf-8")
    for betas in drop_in_bounds.BETAS:
        algorithm_1 = drop_in_bounds.constant_of(betas, None) * drop_in.largest_weight(betas, "gradient")
        row = [algorithm_1, *(drop_in_bounds.constant_of(betas, form) for form in drop_in_bounds.FORMS)]
        shown = re.search(rf"^\| betas {re.escape(str(betas))} \| (.*) \|$", proof, re.MULTILINE)[1]
        assert shown.replace("(", "").replace(")", "").split(" | ") == [f"{value:.1f}" for value in row]


def test_what_is_said_of_basins_holds_in_the_full_run(kept) -> None:
    """The words, not only the numbers, of docs/how-it-works.md and docs/theory.md."""
    cells = kept["selectivity"]["data"]["cells"]
    gaussian = [cell for cell in cells if cell["noise"] == "Gaussian"]
    ratio = {(c["shape"], c["name"], c["sharpness"]): c["ratio"] for c in gaussian if c["held"]}
    # Sharp basins are left sooner, as SGD leaves them, but at the highest curvature SGD leaves far sooner.
    for (shape, name, h), r in ratio.items():
        if name in ("adamomentum", "sgdm"):
            assert r > 1
        if name == "adamomentum" and h <= 25 and (shape, "sgdm", h) in ratio:
            assert 0.5 < r / ratio[shape, "sgdm", h] < 1.2
        if name == "sgdm" and h == 100:
            assert r / ratio[shape, "adamomentum", h] > 2
    # Adam and AdaBelief: sooner or later than the flat one, but always later than AdaMomentum in proportion.
    for (shape, name, h), r in ratio.items():
        if name in DAMPED and (shape, "adamomentum", h) in ratio:
            assert r < ratio[shape, "adamomentum", h]
    # Nothing of this is left in noise that grows with the slopes, nor much in heavy-tailed noise.
    for noise, h in (("alpha = 1.5", 25.0), ("Gaussian, scale in proportion to sqrt(h)", 25.0)):
        ratios = [c["ratio"] for c in cells if c["noise"] == noise and c["sharpness"] == h]
        assert len(ratios) == 4
        assert min(ratios) > 1


def test_the_numbers_are_kept_when_a_figure_fails(tmp_path, monkeypatch) -> None:
    def fail(ax, data):
        raise RuntimeError("no figure today")

    check = Check("a number; must be so", True)
    claim = Claim("k", "A statement.", "here", (check,), Check("the same of another", False))
    monkeypatch.setattr(experiments, "drawings", lambda: {"k": Drawing(fail, "A caption.")})
    with pytest.raises(RuntimeError, match="no figure today"):
        page.write([claim], "full", 0, "adamomentum theory", tmp_path)
    assert json.loads((tmp_path / page.CLAIMS).read_text())["claims"][0]["verdict"] == "confirmed"


def made_up(title: str, *, holds: bool = True, control: bool = False, against: bool = False) -> Claim:
    checks = (Check("a number; must be so", holds),)
    return Claim(
        title.replace(" ", "-"),
        title,
        "here",
        printed=checks,
        control=Check("the same of another", control),
        against=(Check("a counterexample", True),) if against else (),
        data={"x": [0.0, float("inf"), 2.0]},
        seconds=1.5,
    )


def test_the_page_begins_with_how_many_are_what(tmp_path) -> None:
    claims = [
        made_up("first"),
        made_up("second"),
        made_up("third", holds=False, against=True),
        made_up("fourth", control=True),
    ]
    text = page.write(claims, "quick", 0, "adamomentum theory", tmp_path).read_text()
    assert "Of 4 claims 2 are confirmed, 1 is refuted, 1 is undecided." in text.split("<table")[0]
    # A control that fails, as it must, is no fault; one that holds is.
    assert text.count("✓ It fails: the same of another") == 3
    assert text.count("✗ It holds: the same of another") == 1
    assert text.count("✗") == 2


def test_a_page_is_drawn_anew_from_its_numbers(tmp_path, monkeypatch) -> None:
    drawn = []

    def draw(ax, data) -> None:
        drawn.append(list(data["x"]))
        ax.plot([0, 1], [0, 1])
        ax.set_title("A title")
        ax.set_xlabel("x, <units>")
        ax.set_ylabel("y")

    monkeypatch.setattr(experiments, "drawings", lambda: {"first": Drawing(draw, "A caption.", file="p")})
    page.write([made_up("first"), made_up("second", holds=False, against=True)], "full", 3, "the command", tmp_path)
    written = {path: path.read_text() for path in (tmp_path / page.CLAIMS, tmp_path / "figures" / "p.svg")}
    text = (tmp_path / page.PAGE).read_text()
    assert '<img src="figures/p.svg" alt="A title: y against x, &lt;units&gt;">' in text
    (tmp_path / page.PAGE).unlink()
    (tmp_path / "figures" / "p.svg").unlink()
    again = page.redraw(tmp_path).read_text()
    assert {path: path.read_text() for path in written} == written
    assert re.sub("Written .*? UTC", "", again) == re.sub("Written .*? UTC", "", text)
    assert drawn == [[0.0, float("inf"), 2.0], [0.0, None, 2.0]]  # JSON has no infinity


def test_numbers_are_kept_in_seven_digits(record) -> None:
    assert page._plain({"x": np.array([1 / 3, 2e-10 / 3, 7.0]), "n": 123456789}) == {
        "x": [0.3333333, 6.666667e-11, 7.0],
        "n": 123456789,
    }
    assert page._plain(record) == record


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", '{"claims": [{}], "failures": []}', '{"claims": 3}'])
def test_a_damaged_file_of_numbers_is_said_and_left_alone(tmp_path, content) -> None:
    (tmp_path / page.CLAIMS).write_text(content)
    with pytest.raises(ValueError, match=rf"claims\.json is damaged \(.*adamomentum theory --out {tmp_path}`"):
        page.redraw(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [page.CLAIMS]
    assert (tmp_path / page.CLAIMS).read_text() == content


def test_kept_figures_can_be_searched_and_read_out(drawn) -> None:
    for path in (drawn / "figures").glob("*.svg"):
        svg = path.read_text(encoding="utf-8")
        assert "<text" in svg and "DejaVuSans-" not in svg, path
    text = (drawn / page.PAGE).read_text(encoding="utf-8")
    shown = re.findall(r'<img src="([^"]+)" alt="[^"]+">', text)
    assert len(shown) == text.count("<img") == len(experiments.drawings())
    assert {drawn / each for each in shown} == set((drawn / "figures").glob("*.svg"))
    assert all("scope=" in attributes for attributes in re.findall(r"<th\b([^>]*)>", text))
