"""The page of results says what the trials kept beside it say, and these are those of the study as it is now."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from adamomentum.study.commands import app
from adamomentum.study.engine import Folder
from adamomentum.study.report.swap import Swaps
from adamomentum.study.report.tables import StudyTables, build
from adamomentum.study.results import StudyResults, gather
from adamomentum.study.studyfile import read
from adamomentum.theory.experiments import network

FOLDER = Path(__file__).parents[1] / "docs" / "results"
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")
# The rows of its tables, rules left out.
LINES = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\| .*\|$", PAGE, re.M)]
# The columns of the table: task, measure, factor, and digits after the point.
COLUMNS = (
    ("mnist5k", "test_accuracy", 100, 2),
    ("mnist1d", "test_accuracy", 100, 2),
    ("wikipedia", "test_perplexity", 1, 2),
    ("home-assistant", "test_loss", 1, 3),
    ("digits-gan", "test_fid", 1, 2),
)


def taken_up(name: str, out: Path) -> StudyResults:
    """What the command of the page makes of the trials that are kept of a study."""
    imported = CliRunner().invoke(app, ["import", name, str(FOLDER / name), "--out", str(out)])
    assert imported.exit_code == 0, imported.output
    return gather(Folder(out, read(name)))


def half_width(values: pd.Series) -> float:
    """Of the 95 % t interval of the mean."""
    return stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> StudyResults:
    return taken_up("paper-mini", tmp_path_factory.mktemp("kept") / "study")


@pytest.fixture(scope="module")
def tables(kept) -> StudyTables:
    return build(kept)


@pytest.fixture(scope="module")
def trials(kept) -> pd.DataFrame:
    return kept.trials


@pytest.fixture(scope="module")
def gpt(tmp_path_factory) -> StudyResults:
    return taken_up("gpt-mini", tmp_path_factory.mktemp("gpt") / "study")


def rows() -> dict[str, list[str]]:
    return {line[0].strip("*"): [cell.strip("*") for cell in line[1:]] for line in LINES if "±" in line[1]}


def test_the_table(trials) -> None:
    table = rows()
    finals = trials[trials.role == "final"]
    assert table.keys() == set(finals.label)
    for label, cells in table.items():
        for cell, (task, column, factor, digits) in zip(cells, COLUMNS, strict=True):
            mine = finals[(finals.task == task) & (finals.label == label)]
            values = mine[column][mine.status == "ok"].dropna() * factor
            diverged = len(mine) - len(values)
            assert len(mine) == 10
            if diverged > 5:
                assert cell == f"{diverged} of 10 diverge"
                continue
            half = half_width(values)
            expected = f"{values.mean():.{digits}f} ± {half:.{digits}f}"
            if task == "home-assistant":
                expected += f" ({mine.test_bleu.mean():.2f})"
            assert cell.replace("**", "") == expected + (f", {diverged} diverge" if diverged else ""), (label, task)


SWAPS = {"drop-in": "swap", "v of the momentum": "swap-momentum", "Nesterov": "swap-nesterov", "NAdamW": "swap-nadamw"}
# Rows of the table of swapped lines: task, and what the names of the controls end with.
SWAPPED = {
    "MNIST-5k, accuracy %": ("mnist5k", ""),
    "MNIST-1D, accuracy %": ("mnist1d", ""),
    "Wikipedia LSTM, perplexity": ("wikipedia", ""),
    "Home Assistant DE-EN, nats a token": ("home-assistant", ""),
    "digits GAN, Fréchet distance": ("digits-gan", ""),
    "MNIST-5k without warm-up": ("mnist5k", "-no-warmup"),
    "MNIST-1D without warm-up": ("mnist1d", "-no-warmup"),
    "Wikipedia LSTM without warm-up": ("wikipedia", "-no-warmup"),
    "Home Assistant DE-EN without warm-up": ("home-assistant", "-no-warmup"),
    "MNIST-1D, batch 640": ("mnist1d", "-batch-640"),
    "MNIST-1D, full batch": ("mnist1d", "-full-batch"),
}


def test_the_table_of_swapped_lines(trials) -> None:
    measures = {task: measure for task, *measure in COLUMNS}

    def values(task: str, control: str) -> pd.Series:
        role = "final" if control == "adamw" else "control"
        mine = trials[(trials.task == task) & (trials.role == role) & (trials.optimizer == control)]
        column, factor, _ = measures[task]
        assert len(mine) == 10
        assert (mine.status == "ok").all()
        return mine.set_index("replicate")[column] * factor

    [header] = [line for line in LINES if line[:2] == ["task", "AdamW"]]
    assert header[2:] == list(SWAPS)
    table = {line[0]: line[1:] for line in LINES if line[0] in SWAPPED and line[2].strip("*").startswith(("+", "-"))}
    assert table.keys() == SWAPPED.keys()
    for name, (adamw, *cells) in table.items():
        task, suffix = SWAPPED[name]
        base = values(task, f"adamw{suffix}")
        digits = measures[task][2]
        assert adamw == f"{base.mean():.{digits}f}"
        for form, cell in zip(header[2:], cells, strict=True):
            difference = values(task, SWAPS[form] + suffix) - base
            half = half_width(difference)
            mean = difference.mean()
            expected = f"{mean:+.{digits}f} ({mean - half:+.{digits}f} to {mean + half:+.{digits}f})"
            better = (mean > 0) == (measures[task][0] == "test_accuracy")
            mark = "" if abs(mean) <= half else "**" if better else "*"
            assert cell == f"{mark}{expected}{mark}", (name, form)


def test_what_the_front_page_says_of_them_is_the_reports_verdict(kept, tables, gpt) -> None:
    """That is corrected for the number of tasks; the table is not."""
    swaps = [*Swaps(kept, tables).every(), *Swaps(gpt, build(gpt)).every()]

    def tasks(name: str, better: bool) -> set[str]:
        return {s.comparison.task for s in swaps if s.control.name == name and (s.reading == "better") is better}

    assert tasks("swap", better=True) == {"networkx"}
    assert len(tasks("swap", better=False)) == 5
    assert tasks("swap-nesterov", better=True) == {"networkx", "wikipedia", "digits-gan"}
    worse = {(s.control.name, s.comparison.task) for s in swaps if s.reading == "worse"}
    assert {(name, task) for name, task in worse if name in SWAPS.values()} == {("swap-momentum", "home-assistant")}
    front = " ".join((FOLDER.parents[1] / "README.md").read_text(encoding="utf-8").split())
    assert "better than AdamW on a small Transformer, and on five other tasks there is no evidence of a diff" in front
    assert "With `nesterov=True`, which is for small batches, it is better on that, an LSTM and a GAN" in front


WINDOWS = {
    "MNIST-5k": ("mnist5k", ""),
    "MNIST-1D": ("mnist1d", ""),
    "Wikipedia LSTM": ("wikipedia", ""),
    "Home Assistant DE-EN": ("home-assistant", ""),
    "digits GAN": ("digits-gan", ""),
    "MNIST-1D, batch 640": ("mnist1d", "-batch-640"),
    "MNIST-1D, full batch": ("mnist1d", "-full-batch"),
}


def test_the_language_model_on_large_batches(trials) -> None:
    mine = trials[(trials.task == "wikipedia") & trials.optimizer.str.endswith("-batch-200")]
    values = mine.pivot(index="replicate", columns="optimizer", values="test_perplexity")
    assert len(values) == 3 and (mine.status == "ok").all()
    text = re.sub(r"\s+", " ", PAGE)
    assert f"AdamW ends at {values['adamw-batch-200'].mean():.1f} of perplexity" in text
    for name, said in (
        ("swap", "the drop-in {:.1f} higher ({:.1f} to {:.1f})"),
        ("swap-nesterov", "({:+.1f}, {:+.1f} to {:+.1f})"),
    ):
        difference = values[f"{name}-batch-200"] - values["adamw-batch-200"]
        half = half_width(difference)
        mean = difference.mean()
        assert said.format(mean, mean - half, mean + half) in text


def test_the_table_of_windows(tables) -> None:
    widths = tables.widths
    start = next(k for k, line in enumerate(LINES) if line[0] == "window of learning rates, decades")
    assert LINES[start][1:] == ["AdamW", *SWAPS]
    table = LINES[start + 1 : start + 1 + len(WINDOWS)]
    assert [line[0] for line in table] == list(WINDOWS)
    for line, (task, suffix) in zip(table, WINDOWS.values(), strict=True):
        for cell, name in zip(line[1:], ("adamw", *SWAPS.values()), strict=True):
            width = widths[task, name + suffix]
            assert cell == ("at least " if width.open_low or width.open_high else "") + f"{width.decades:.2f}", line


def test_what_is_kept_of_the_study_under_way(tmp_path) -> None:
    results = taken_up("forms-mini", tmp_path / "study")
    counts = results.trials.groupby("task", sort=False).size()
    assert set(results.trials["role"]) == {"tune"} and not results.plan.forms
    each = [f"{counts[task.name]:,} on `{task.name}`" for task in results.study.tasks if task.name in counts]
    said = (
        f"Of its tuning trials {len(results.trials):,} are run, {' and '.join([', '.join(each[:-1]), each[-1]])}, and"
    )
    assert said in re.sub(r"\s+", " ", PAGE)


# Rows of the table of gpt-mini: the runs, those without warm-up, and whose sweep.
GPT = {
    "AdamW, tuned": ("adamw", "adamw-no-warmup"),
    "AdaMomentum as published, tuned": ("adamomentum", None),
    "drop-in": ("swap", "swap-no-warmup"),
    "v of the momentum": ("swap-momentum", "swap-momentum-no-warmup"),
    "Nesterov": ("swap-nesterov", "swap-nesterov-no-warmup"),
    "NAdamW": ("swap-nadamw", "swap-nadamw-no-warmup"),
}


def test_the_table_of_the_transformer(gpt) -> None:
    results, trials = gpt, gpt.trials
    assert not results.missing
    assert f"{len(results.results)} trials, 5 seeds" in PAGE

    def losses(name: str, runs: int) -> pd.Series:
        role = "final" if name in ("adamw", "adamomentum") else "control"
        mine = trials[(trials.role == role) & (trials.optimizer == name)]
        assert len(mine) == runs
        assert (mine.status == "ok").all()
        return mine.set_index("replicate")["test_loss"]

    def added(name: str, to: str, runs: int) -> str:
        difference = losses(name, runs) - losses(to, runs)
        mean = difference.mean()
        half = half_width(difference)
        mark = "" if abs(mean) <= half else "**" if mean < 0 else "*"
        return f"{mark}{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f}){mark}"

    widths = build(results).widths
    start = next(k for k, line in enumerate(LINES) if line[1] == "test loss, nats a byte") + 1
    table = {line[0]: line[1:] for line in LINES[start : start + len(GPT)]}
    assert table.keys() == GPT.keys()
    for label, (loss, beside, cold, window) in table.items():
        name, without = GPT[label]
        assert loss == f"{losses(name, 5).mean():.3f}"
        assert beside == ("" if name == "adamw" else added(name, "adamw", 5))
        if without is None:
            assert cold == "not run"
        else:
            more = "" if name == "adamw" else f", {added(without, 'adamw-no-warmup', 3)}"
            assert cold == f"{losses(without, 3).mean():.3f}{more}"
        width = widths["networkx", name]
        assert window == ("at least " if width.open_low or width.open_high else "") + f"{width.decades:.2f}"


def test_the_sentences_on_the_transformer(gpt) -> None:
    trials = gpt.trials
    final, control, sweep = (trials[trials.role == role] for role in ("final", "control", "sensitivity"))
    assert final[final.optimizer == "adamw"].test_loss.max() < 1.47
    without = control[control.optimizer == "swap-momentum"].test_loss
    assert ((without > 1.65).sum(), len(without)) == (3, 5)
    assert {"adamw", "nadamw"} <= {n for n, lr in zip(final.optimizer, final.lr, strict=True) if lr == 0.0101}
    cold = control[control.optimizer.str.endswith("-no-warmup")].groupby("optimizer").test_loss.mean()
    assert len(cold) == 5 and cold.between(2.25, 2.35).all()
    higher = sweep[sweep.optimizer.isin(["adamw", "nadamw"]) | sweep.optimizer.str.startswith("swap")]
    assert (higher[higher.lr.between(0.03, 0.04)].val_loss > 2.3).sum() == 6


def test_the_kept_trials_are_those_of_the_study(kept) -> None:
    [counts] = re.findall(r"These are ([\d,]+) trials: ([\d,]+) that .* and ([\d,]+) that came later", PAGE, re.S)
    count, first, later = (int(n.replace(",", "")) for n in counts)
    assert not kept.missing
    assert set(kept.results) == set(kept.plan.by_id)
    assert len(kept.results) == count == first + later


@pytest.mark.parametrize(
    ("sentence", "task", "first", "second", "column"),
    [
        ("by 1.02 of perplexity, 0.76 to 1.28", "wikipedia", "adamw", "adamomentum", "test_perplexity"),
        ("by 0.085, 0.070 to 0.101", "home-assistant", "adamomentum", "radam", "test_loss"),
        ("0.065, 0.040 to 0.091", "home-assistant", "adamomentum", "adabelief", "test_loss"),
        ("0.022 higher, 0.005 to 0.040", "home-assistant", "adamomentum", "adamw", "test_loss"),
    ],
)
def test_differences(trials, sentence, task, first, second, column) -> None:
    values = trials[(trials.role == "final") & (trials.task == task)].pivot(
        index="replicate", columns="optimizer", values=column
    )
    difference = (values[first] - values[second]).dropna()
    mean = difference.mean()
    half = half_width(difference)
    said = [float(x) for x in re.findall(r"\d+\.\d+", sentence)]
    digits = len(sentence.rsplit(".", 1)[1])
    assert said == [round(x, digits) for x in (mean, mean - half, mean + half)]
    assert sentence in re.sub(r"\s+", " ", PAGE)


def test_the_theorys_network_has_the_settings_that_tuning_chose(trials) -> None:
    final = trials[(trials["task"] == "mnist1d") & (trials["role"] == "final")]
    for name, setting in network.TUNED.items():
        rows = final[final["optimizer"] == name]
        assert set(zip(rows["lr"], rows["weight_decay"], strict=True)) == {setting}
