"""A trial of a user's training function: run, repeated, judged, or refused with what to do."""

from __future__ import annotations

import json
import logging
import random
import re

import numpy as np
import pytest
import torch
from study.function.functions import PLAIN, changed, script, spec_of, trained

from adamomentum.study.tasks.function import script as script_module
from adamomentum.study.tasks.function.script import UnfitError
from adamomentum.study.trial import run_trial

OPTIMIZER = "optimizer = trial.optimizer(model.parameters())"
REPORT = "trial.report(loss=loss(slice(200, 250)), error=1 - loss(slice(200, 250)))"


def test_the_result_has_what_was_reported_returned_and_counted(tmp_path) -> None:
    result = trained(tmp_path, params={"epochs": 3.0, "width": 4.0})
    assert result.status == "ok"
    assert result.curve.keys() == {"step", "train_loss", "val_loss", "val_error"}
    assert result.curve["step"] == [5, 10, 15]
    assert result.final["val_loss"] == result.curve["val_loss"][-1]
    assert result.final["test_error"] == 0.5
    assert result.final["steps"] == 15
    assert result.final["peak_lr_low"] == result.final["peak_lr_high"] == 1e-2
    assert 0 <= result.final["eps_dominated"] <= 1
    assert result.timing["ms_per_step"] > 0
    assert result.timing["seconds"] > 0
    assert result.provenance["torch"] == torch.__version__


def test_what_is_returned_is_kept_in_final_trials_alone(tmp_path) -> None:
    tuned = trained(tmp_path, stage="tune")
    assert tuned.status == "ok"
    assert "val_loss" in tuned.final
    assert "test" not in json.dumps(tuned.model_dump()["final"])
    # Nor does it choose among settings by being no number.
    lost = trained(tmp_path, changed(('"error": 0.5', '"error": float("nan")')), stage="tune")
    assert (lost.status, lost.final) == ("ok", tuned.final)


def test_a_trial_is_the_same_whatever_ran_before(tmp_path) -> None:
    once = trained(tmp_path)
    for draw in (random.random, np.random.random, torch.rand(1).item):
        draw()
    again = trained(tmp_path)
    assert (again.final, again.curve) == (once.final, once.curve)
    others = [
        trained(tmp_path, replicate=1),
        trained(tmp_path, optimizer="adamomentum"),
        trained(tmp_path, stage="tune"),
    ]
    assert len({result.final["val_loss"] for result in (once, *others)}) == 4


def test_every_generator_is_seeded(tmp_path) -> None:
    text = changed(
        ("import torch\n", "import random, numpy, torch\n"),
        (REPORT, "trial.report(loss=random.random() + numpy.random.random() + torch.rand(1))"),
    )
    results = [trained(tmp_path, text) for _ in range(2)]
    assert results[0].curve == results[1].curve
    assert len(set(results[0].curve["val_loss"])) == 2


def test_the_seed_is_that_of_the_trial_whatever_its_optimizer(tmp_path) -> None:
    text = changed((REPORT, "trial.report(loss=trial.seed)"))
    seeds = [trained(tmp_path, text, optimizer=name, replicate=k).final["val_loss"]
             for name in ("adamw", "sgdm") for k in (0, 1)]  # fmt: skip
    assert seeds[:2] == seeds[2:]
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (REPORT, "trial.report(loss=float('nan'))", r"trial.report\(loss=nan\) at step 5"),
        (REPORT, "trial.report(loss=float('inf'), error=1)", r"trial.report\(loss=inf\) at step 5"),
        (REPORT, "raise ValueError('Loss is NaN, giving up')", "ValueError: Loss is NaN, giving up"),
        (REPORT, "raise RuntimeError('the gradient is non-finite')", "RuntimeError: the gradient is non-finite"),
        (REPORT, "import math; math.exp(1e9)", "OverflowError: math range error"),
        (REPORT, "model[0].bias.data[0] = float('nan'); raise KeyError('x')", "KeyError: 'x'"),
        (REPORT, "trial.report(error=float('nan'))", r"trial.report\(error=nan\) at step 5"),
        ('"error": 0.5', '"test_loss": float("nan")', "it returned test_loss = nan"),
        (
            '    return {"loss": loss(slice(250, 300)).item()',
            "    model[0].bias.data[0] = float('nan')\n    return {'loss': 0.5",
            "the parameters are not finite at the end",
        ),
    ],
)
def test_what_is_not_finite_is_a_divergence_and_a_result(tmp_path, old, new, why) -> None:
    result = trained(tmp_path, changed((old, new)))
    assert result.status == "diverged"
    assert re.search(why, result.error)
    assert {"step", "train_loss"} <= result.curve.keys()


def test_a_metric_that_is_no_loss_may_be_undefined(tmp_path) -> None:
    text = changed((REPORT, f"{REPORT}; trial.report(error=float('nan'))"), ('"error": 0.5', '"error": float("nan")'))
    text = text.replace("; trial.report(error", "; trial.report(loss=1.0, error")
    result = trained(tmp_path, text)
    assert (result.status, result.final["val_error"], result.final["test_error"]) == ("ok", None, None)
    assert result.curve["val_loss"][-1] == 1.0 and result.curve["val_error"] == [None, None]


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        (OPTIMIZER, "optimizer = torch.optim.Adam(model.parameters())", ValueError,
         r"the optimizer never passed through the trial \(Adam made 10 steps\): build it by `optimizer = trial.optim"),
        (OPTIMIZER, "optimizer = torch.optim.Adam(model.parameters()); trial.optimizer(model.parameters())", ValueError,
         r"the trial's optimizer never made a step, but Adam made 10 steps: train with what trial.optimizer returns"),
        ("optimizer.step()", "pass", ValueError, r"trial's optimizer never made a step: .* or say trial.at\(step\)"),
        (REPORT, "pass", ValueError, r"nothing was reported: call trial.report\(loss=val_loss\) where you evaluate"),
        (OPTIMIZER, f"trial.report(loss=1.0); trial.report = lambda **m: None; {OPTIMIZER}",
         ValueError, "nothing was reported after the first step: settings would be chosen by what the model was"),
        (REPORT, "trial.report({'loss': 1.0})", TypeError,
         r"takes metrics by name, e.g. trial.report\(loss=val_loss\), got {'loss': 1.0}; of a dict, trial"),
        (REPORT, "trial.report(val_loss=1.0)", ValueError, "it reports val_loss and returns loss, error: give what is"),
        ("    return {", "    1 if True else {", ValueError, r'must return its test metrics, e.g. return {"loss'),
        ('"error": 0.5', '"error": "half"', TypeError, r"return {'error': ...} must be a number, got str: 'half'"),
        (OPTIMIZER, OPTIMIZER.replace("model.parameters()", "[{'params': model.parameters(), 'lr': 1e-3}]"), ValueError,
         "a group has lr=0.001 of its own"),
        (REPORT, "raise SystemExit(2)", RuntimeError, r"the function left by sys.exit\(2\); it must return"),
        (REPORT, "raise KeyError('x')", KeyError, "x"),
        (REPORT, "1 / 0", ZeroDivisionError, "division by zero"),
        (REPORT, "raise ValueError('the info is missing')", ValueError, "the info is missing"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stage", ["tune", "final"])
def test_a_function_that_does_not_do_its_part_is_told_what_to_do(tmp_path, old, new, error, message, stage) -> None:
    with pytest.raises(error, match=message):
        trained(tmp_path, changed((old, new)), stage=stage)


def test_an_argument_that_the_function_does_not_have(tmp_path) -> None:
    with pytest.raises(
        UnfitError, match=r"my_train.py:train is called with .* depth: got an unexpected keyword argument 'depth'; what"
    ):
        trained(tmp_path, params={"depth": 3.0})


def test_what_it_prints_goes_to_a_file(tmp_path, capsys) -> None:
    text = changed((REPORT, REPORT + "; import sys; print('said'); print('warned', file=sys.stderr)"))
    data = script(tmp_path, text)
    spec = spec_of(data)
    run_trial(spec, data, files=tmp_path / "files")
    assert (tmp_path / "files" / spec.trial_id / "output.txt").read_text() == "said\nwarned\n" * 2
    assert capsys.readouterr() == ("", "")


def test_who_keeps_the_stream_prints_into_the_file_of_each_trial(tmp_path, capsys, monkeypatch) -> None:
    """As logging does, which is set up once in a process: of two trials the second had a closed file."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    text = changed((REPORT, REPORT + "; import logging; logging.basicConfig(); logging.warning('lr %g', trial.lr)"))
    data = script(tmp_path, text)
    for lr in (1e-2, 2e-2):
        run_trial(spec_of(data, lr=lr), data, files=tmp_path / "files")
    logging.warning("between trials")
    written = {(tmp_path / "files" / spec_of(data, lr=lr).trial_id / "output.txt").read_text() for lr in (1e-2, 2e-2)}
    assert written == {"WARNING:root:lr 0.01\n" * 2, "WARNING:root:lr 0.02\n" * 2}
    assert capsys.readouterr() == ("", "")


def test_what_it_printed_is_there_while_it_runs_and_a_closed_stream_is_opened_again(tmp_path) -> None:
    text = changed((REPORT, REPORT + "; print('said'); OUT.append((trial.folder / 'output.txt').read_text())"),
                   ("import torch\n", "import sys, torch\nOUT = []\n"),
                   ("return {", "assert OUT == ['said\\n', 'said\\n' * 2]; sys.stdout.close(); return {"))  # fmt: skip
    data = script(tmp_path, text)
    for lr in (1e-2, 2e-2):
        assert run_trial(spec_of(data, lr=lr), data, files=tmp_path / "files").status == "ok"


def test_an_edited_script_is_not_trained_under_its_old_name(tmp_path) -> None:
    spec = spec_of(script(tmp_path))
    with pytest.raises(
        ValueError, match=r"my_train.py:train: changed since the trial was planned .*; run the same command"
    ):
        run_trial(spec, script(tmp_path, PLAIN + "\n"))


@pytest.mark.parametrize("edit", ["data/k.txt", "data/new.txt", "helper.py"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_what_is_edited_while_it_runs_spoils_the_trial(tmp_path, edit, when) -> None:
    """Before: by a worker that has read it all for an earlier trial. The content is as long as it was."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "k.txt").write_text("K = 1")
    (tmp_path / "helper.py").write_text("K = 1")
    file = tmp_path / edit
    write = f"; __import__('pathlib').Path({str(file)!r}).write_text('K = 2')" if when == "meanwhile" else ""
    data = script(tmp_path, changed((OPTIMIZER, f"import helper; {OPTIMIZER}{write}")), watch=("data",))
    spec = spec_of(data)
    if when == "before":
        file.write_text("K = 2")
    with pytest.raises(ValueError, match=rf"^{file}: changed since the trial was planned.*; run the same command ag"):
        run_trial(spec, data)


def test_a_file_that_is_gone_spoils_the_trial(tmp_path) -> None:
    (tmp_path / "data.txt").write_text("1")
    (tmp_path / "helper.py").write_text("K = 1")
    for name in ("data.txt", "helper.py"):
        data = script(tmp_path, changed(("import torch\n", "import torch, helper\n")), watch=("data.txt",))
        content = (tmp_path / name).read_text()
        (tmp_path / name).unlink()
        with pytest.raises(ValueError, match=rf"^{tmp_path / name}: changed since the trial was planned"):
            run_trial(spec_of(data), data)
        (tmp_path / name).write_text(content)


def test_what_is_only_touched_is_read_once_more_and_no_other_content(tmp_path, monkeypatch) -> None:
    (tmp_path / "data.txt").write_text("1")
    text = changed((OPTIMIZER, f"__import__('os').utime({str(tmp_path / 'data.txt')!r}, (1, 1)); {OPTIMIZER}"))
    data = script(tmp_path, text, watch=("data.txt", "."))
    spec, read = spec_of(data), []
    monkeypatch.setattr(
        script_module, "_fingerprint", lambda *of, full=script_module._fingerprint: read.append(1) or full(*of)
    )
    (tmp_path / "my_train.py").write_text("raise SystemExit('what runs is what was read')")
    (tmp_path / "data.txt").write_text("1")
    assert run_trial(spec, data).status == "ok"
    assert len(read) == 2  # before, since it was written anew, and after
    data.check()
    assert len(read) == 2


def test_another_program_that_makes_the_steps(tmp_path) -> None:
    text = changed(("optimizer.step()", "trial.at(trial.step + 2)"))
    result = trained(tmp_path, text)
    assert (result.final["steps"], result.curve["step"]) == (20, [10, 20])
    assert result.final["peak_lr_low"] is None


def test_a_repeat_has_an_id_of_its_own_and_the_same_numbers(tmp_path) -> None:
    data = script(tmp_path)
    spec = spec_of(data)
    again = spec.model_copy(update={"repeat": 1})
    assert again.trial_id != spec.trial_id
    one, other = run_trial(spec, data), run_trial(again, data)
    assert (one.final, one.curve) == (other.final, other.curve)
