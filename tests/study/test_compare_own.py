"""``compare --train``: what the options come to, what they refuse, and a script from beginning to end."""

from __future__ import annotations

import difflib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from study.function.functions import PLAIN, InlineLocal, changed
from study.mini import finished
from typer.testing import CliRunner

from adamomentum import cli as command_line
from adamomentum.study import compare_own, running, stages, work
from adamomentum.study.compare_own import Incumbent, OptionError, as_study, metric_of, params_of, tuned
from adamomentum.study.studyfile import MetricEntry

pytestmark = pytest.mark.usefixtures("unrendered")

# A script in the usual style, and the same as a function that can be compared.
USUAL = """
import torch
from torch import nn


def main(epochs=2):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 4, generator=generator)
    y = (x @ torch.randn(4, generator=generator)).sin()
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * 5)
    for epoch in range(epochs):
        for rows in torch.randperm(200).split(40):
            optimizer.zero_grad()
            loss = (model(x[rows]).squeeze(1) - y[rows]).square().mean()
            loss.backward()
            optimizer.step()
            scheduler.step()
        with torch.no_grad():
            val_loss = (model(x[200:250]).squeeze(1) - y[200:250]).square().mean()
        print(epoch, val_loss.item())
    with torch.no_grad():
        test_loss = (model(x[250:]).squeeze(1) - y[250:]).square().mean()
    print("test", test_loss.item())


if __name__ == "__main__":
    main()
"""
THREE_LINES = changed(
    ("def main(epochs=2):", "def main(trial, epochs=2):"),
    (
        "torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)",
        "trial.optimizer(model.parameters())",
    ),
    ("        print(epoch, val_loss.item())", "        trial.report(loss=val_loss)"),
    ('    print("test", test_loss.item())', '    return {"loss": test_loss}'),
    text=USUAL,
)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The current folder of a user, with trials in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(running, "LocalExecutor", InlineLocal)
    work._load.cache_clear()
    return tmp_path


def call(*arguments: object, code: int = 0, command: tuple[str, ...] = ("compare",)) -> str:
    app = command_line._whole_app()
    result = CliRunner().invoke(app, [*command, *map(str, arguments)], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def test_where_to_log_is_checked_before_anything_is_trained(here) -> None:
    (here / "fit.py").write_text(THREE_LINES)
    printed = call("--train", "fit.py:main", "--log-to", "paper", code=1)
    assert "Error: unknown --log-to 'paper'; allowed: tensorboard, wandb, mlflow" in printed
    assert "unknown --log-to 'paper'" in call("--log-to", "paper", "--out", here / "images", code=1)
    assert not list(here.glob("*/**/store"))


def test_a_usual_script_is_compared_by_three_changed_lines_and_one_that_takes_the_trial(here) -> None:
    added = [line for line in difflib.ndiff(USUAL.splitlines(), THREE_LINES.splitlines()) if line.startswith("+ ")]
    assert len(added) == 4
    assert "trial" in added[0] and "def" in added[0]
    (here / "fit.py").write_text(THREE_LINES)
    options = ("--train", "fit.py:main", "--trials", 2, "--seeds", 2, "--arg", "epochs=1", "--workers", 1)
    printed = call(*options)
    assert "fit: fit.py:main" in printed
    # 2 learning rates each, the first trial again, perhaps 1 more each at an edge, 2 seeds each and of the drop-in.
    trained = re.search(r"(\d+) trials trained, 0 taken", printed)
    assert int(trained[1]) in (11, 13)
    assert re.search(r"AdaMomentum +lr \S+ +\d\.\d{4} ± \d\.\d{4}", printed)
    assert re.search(r"AdamW +lr \S+ +\d\.\d{4} ± \d\.\d{4}", printed)
    assert "Drop-in: at the setting of AdamW, not searched" in printed
    assert re.search(
        r"Verdict on fit: (no evidence that AdaMomentum and AdamW differ|AdaMomentum is (better|worse) than AdamW): "
        r"loss \d\.\d{4} against \d\.\d{4} \(lower is better\), difference [+-]\d\.\d{4}, "
        r"95 % interval [+-]\d\.\d{4} to [+-]\d\.\d{4}, 2 seeds each",
        printed,
    )
    out = here / "adamomentum-report" / "fit"
    assert f"Report: {out.relative_to(here)}/report/report.html" in printed
    before = finished(out)
    assert {trial["spec"]["task"]["params"]["epochs"] for trial in before.values()} == {1.0}
    assert f"0 trials trained, {trained[1]} taken" in call(*options)
    assert finished(out) == before


def test_the_script_still_fails_where_it_is(here) -> None:
    (here / "fit.py").write_text(changed(("scheduler.step()", "scheduler.stop()"), text=THREE_LINES))
    printed = call("--train", "fit.py:main", "--workers", 1, code=1)
    assert "Error: fit: the function fails, in all trials so far:" in printed
    assert re.search(r'File ".*/fit.py", line \d+, in main', printed)
    assert "has no attribute 'stop'" in printed


def test_a_script_in_a_package(here) -> None:
    (here / "src" / "pkg").mkdir(parents=True)
    (here / "src" / "pkg" / "__init__.py").touch()
    (here / "src" / "pkg" / "sizes.py").write_text("EPOCHS = 1\n")
    text = changed(("from torch import nn", "from torch import nn\nfrom .sizes import EPOCHS"),
                   ("epochs=2", "epochs=EPOCHS"), text=THREE_LINES)  # fmt: skip
    (here / "src" / "pkg" / "fit.py").write_text(text)
    options = ("--train", "src/pkg/fit.py:main", "--incumbent", "adamw:lr=3e-3", "--seeds", 2, "--workers", 1)
    assert "5 trials trained, 0 taken" in call(*options)
    assert "0 trials trained, 5 taken" in call(*options)
    (here / "src" / "pkg" / "sizes.py").write_text("EPOCHS = 2\n")
    work._load.cache_clear()  # a command is a process of its own
    assert "5 trials trained, 0 taken" in call(*options)
    assert {t["final"]["steps"] for t in finished(here / "adamomentum-report" / "fit").values()} == {5.0, 10.0}


def test_a_tuned_adamw_beside_its_drop_in(here) -> None:
    (here / "fit.py").write_text(THREE_LINES)
    printed = call(
        "--train", "fit.py:main", "--incumbent", "adamw:lr=3e-3,weight_decay=0.1", "--seeds", 3, "--workers", 1
    )
    assert "7 trials trained" in printed  # 3 each, and the first again
    assert "Verdict on fit: " in printed
    assert "AdaMomentum for AdamW" in printed
    specs = [trial["spec"] for trial in finished(here / "adamomentum-report" / "fit").values()]
    assert {spec["stage"] for spec in specs} == {"final"}
    settings = {spec["optimizer"]["name"]: spec["optimizer"] for spec in specs}
    mine, theirs = settings["adamomentum"], settings["adamw"]
    assert (mine["lr"], theirs["lr"]) == (3e-3, 3e-3)
    assert mine["hyperparameters"]["adjust_lr"] == "match_rms_adamw"
    for key, value in (("weight_decay", 0.1), ("betas", [0.9, 0.999])):
        assert mine["hyperparameters"][key] == theirs["hyperparameters"][key] == value


def test_how_far_a_comparison_is_by_its_folder(here) -> None:
    (here / "fit.py").write_text(THREE_LINES)
    call("--train", "fit.py:main", "--incumbent", "adamw:lr=3e-3", "--seeds", 2, "--workers", 1, "--out", "out")
    printed = call("out", command=("study", "status"))
    assert printed.startswith("compare (")
    assert printed.endswith("Complete.")
    assert "go with a study file" in call("out", "--smoke", command=("study", "status"), code=1)
    (here / "out" / "study.json").write_text('{"history": []}')
    assert "holds no study that this version can read" in call("out", command=("study", "status"), code=1)


def study_of(text: str, points: int = 1, seeds: int = 4):
    return as_study({"train": "fit.py:main"}, Incumbent.of(text).entries(points), metric_of("loss", None), 8, seeds)


def test_what_an_incumbent_says() -> None:
    assert Incumbent.of("AdamW:lr=3e-4") == Incumbent("adamw", 3e-4, {})
    one = Incumbent.of("adamw:lr=3e-4,betas=0.9,0.95,weight_decay=0.1,eps=1e-6")
    assert one.hyperparameters == {"betas": (0.9, 0.95), "weight_decay": 0.1, "eps": 1e-6}
    study = study_of("adamw:lr=3e-4,betas=0.9,0.95,weight_decay=0.1,eps=1e-6")
    mine, theirs = (study.optimizer(name).hyperparameters for name in ("adamomentum", "adamw"))
    assert mine["betas"] == theirs["betas"] == (0.9, 0.95)
    assert (mine["eps"], theirs["eps"]) == (1e-16, 1e-6)  # which differs in kind
    assert not study.controls
    plan = stages.plan(study, {"fit": "0" * 16}, {})
    assert [t.role for t in plan.trials] == ["final", "repeat"] + ["final"] * 7


def test_a_search_around_an_incumbent_is_as_wide_for_both() -> None:
    study = study_of("adamw:lr=3e-4", points=5)
    grids = {entry.grid for entry in study.optimizers.values()}
    assert grids == {(3e-5, 9.49e-5, 3e-4, 9.49e-4, 3e-3)}
    assert (
        Incumbent.of("adamw:lr=3.333333e-4").entries(4)["adamw"].grid == (3.33e-5, 1.05e-4, 3.333333e-4, 1.05e-3)[0:4]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adamw", "'adamw' does not say lr, e.g. adamw:lr=3e-4"),
        ("adamw:3e-4", "'adamw:3e-4' is not NAME:lr=LR,..., e.g. adamw:lr=3e-4,weight_decay=0.1"),
        ("adamw:lr=fast", "lr=fast in 'adamw:lr=fast' is no finite number"),
        ("adamw:lr=-1", "lr in 'adamw:lr=-1' must be one number above 0"),
        ("adamw:lr=1e-3,1e-2", "lr in 'adamw:lr=1e-3,1e-2' must be one number above 0"),
        ("adamw:lr=1e-3,eps=inf", "eps=inf in .* is no finite number"),
        ("adamw:lr=1e-3,momentum=0.9", "has no hyper-parameter"),
        ("adan:lr=1e-3", "unknown optimizer 'adan'; allowed: adamomentum, "),
        ("sgdm:lr=0.1", "Leave --incumbent out to tune both: --optimizers adamomentum,sgdm"),
    ],
)
def test_an_incumbent_that_cannot_be_used(text, message) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        Incumbent.of(text)
    assert caught.value.option == "--incumbent"


def test_adams_decay_stays_a_part_of_the_gradient() -> None:
    mine = study_of("adam:lr=1e-3,weight_decay=1e-4").optimizer("adamomentum").hyperparameters
    assert (mine["weight_decay"], mine["decoupled_weight_decay"]) == (1e-4, False)
    assert study_of("adam:lr=1e-3").optimizer("adamomentum").hyperparameters["weight_decay"] == 0


def test_the_study_of_the_tuned_comparison() -> None:
    study = as_study(
        {"train": "a b/my-fit 2.py:main"}, tuned(("sgdm", "adamw"), {"sgdm": (0.1, 0.3)}), metric_of("loss", None), 8, 3
    )
    assert (study.reference, study.tasks[0].name, study.controls) == ("sgdm", "my-fit-2-f29e21", ())
    assert (study.tuning.trials, study.tuning.seeds, study.tuning.extension) == (8, 1, 3)
    assert study.optimizers["sgdm"].grid == (0.1, 0.3)
    both = as_study({"train": "fit.py:main"}, tuned(compare_own.OPTIMIZERS, {}), metric_of("loss", None), 8, 3)
    assert [control.name for control in both.controls] == ["adamomentum-for-adamw"]
    plan = stages.plan(both, {"fit": "0" * 16}, {})
    counts = {name: sum(t.optimizer == name and t.role == "tune" for t in plan.trials) for name in both.optimizers}
    assert counts == {"adamomentum": 8, "adamw": 8}


def test_scripts_of_different_names_have_different_folders() -> None:
    names = ["my_train", "my-train", "my train", "my+train", " my-train", "训练", "訓練", "_fit", "-fit", "fit"]
    settings = tuned(("adamw",), {}), metric_of("loss", None), 8, 3
    entries = [as_study({"train": f"{name}.py:main"}, *settings).tasks[0].name for name in names]
    assert len(set(entries)) == len(names)
    assert entries[:2] == names[:2]
    assert [entry.rpartition("-")[0] for entry in entries[2:4]] == ["my-train"] * 2


def test_metrics_and_which_way_they_go() -> None:
    assert metric_of("loss", None) == MetricEntry(key="loss", better="lower")
    assert metric_of("accuracy", True) == MetricEntry(key="accuracy", better="higher")
    assert metric_of("score", False).better == "lower"
    for name in ("accuracy", "val_acc", "top5", "F1", "mean_reward", "acc1", "mAP50", "ndcg", "error_score"):
        with pytest.raises(OptionError, match=f"is a higher {name} better. Say --higher, or --lower if not"):
            metric_of(name, None)
    for name in ("perplexity", "face_error", "mape", "val_loss", "RMSE", "cross_entropy"):
        assert metric_of(name, None).better == "lower"
    with pytest.raises(
        OptionError, match=r"must be a name that the function reports and returns, e.g. loss, got 'a b'"
    ):
        metric_of("a b", None)


def test_arguments_and_what_is_watched(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder, params = params_of(
        "code/fit.py:main", [Path("data"), tmp_path / "code" / "x.json"],
        ["width=64", "rate=0.5", "name=small", "deep=true", "sizes=[1, 2]", "path=a=b"],
    )  # fmt: skip
    assert folder == tmp_path / "code"
    assert params == {
        "train": "fit.py:main",
        "watch": ("../data", "x.json"),
        "width": 64,
        "rate": 0.5,
        "name": "small",
        "deep": True,
        "sizes": (1, 2),
        "path": "a=b",
    }
    for value in ('{"a": 1}', "[[1, 2]]"):
        with pytest.raises(OptionError, match="sizes: must be a number, text, true or false, or a list of such values"):
            params_of("fit.py:main", [], [f"sizes={value}"])
    with pytest.raises(OptionError, match="rate: must be finite"):
        params_of("fit.py:main", [], ["rate=NaN"])
    for wrong in (["width"], ["wi dth=3"], ["train=x"], ["a=1", "a=2"]):
        with pytest.raises(OptionError, match=r"must be KEY=VALUE, a KEY once, e.g. width=64, got "):
            params_of("fit.py:main", [], wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--train", "fit.py:main", "--data", "images"), "--data: is for the built-in images; with --train the"),
        (("--train", "fit.py:main", "--epochs", 3), "--epochs: is for the built-in images; with --train the function"),
        (("--metric", "loss"), "--metric: goes with --train, your own training function"),
        (("--lower",), "--higher: goes with --train, your own training function"),
        (("--incumbent", "adamw:lr=1"), "--incumbent: goes with --train, your own training function"),
        (("--arg", "a=1"), "--arg: goes with --train, your own training function"),
        (("--train", "fit.py:main", "--search"), "--search: goes with --incumbent, around whose setting it searches"),
        (("--train", "fit.py:main", "--incumbent", "adamw:lr=1", "--trials", 3), "--trials: with --incumbent needs"),
        (("--train", "fit.py:main", "--incumbent", "adamw:lr=1", "--lr", "1"), "--lr: does not go with --incumbent"),
        (("--train", "fit.py:main", "--incumbent", "sgdm:lr=1"), "--incumbent: AdaMomentum takes the place of AdamW"),
        (("--train", "fit.py:main", "--metric", "accuracy"), "--metric: is a higher accuracy better? Say --higher, or"),
        (("--train", "fit.py:main", "--optimizers", "lion"), "--optimizers: unknown optimizer 'lion'; allowed: "),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together(here, arguments, message) -> None:
    assert message in call(*arguments, code=2).replace("Invalid value for ", "")
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--train", "nowhere.py:main"), "Error: the training script "),
        (("--train", "fit.py:train"), "has no function 'train'; it has: main"),
        (("--train", "fit.py"), "params.train must be FILE.py:FUNCTION, e.g. my_train.py:train, got 'fit.py'"),
        (("--train", "fit.py:main", "--watch", "data"), "watch names data, but there is no "),
        (("--train", "fit.py:main", "--executor", "slurm"), "unknown executor 'slurm'; allowed: local, ray"),
    ],
)
def test_what_is_not_there(here, arguments, message) -> None:
    (here / "fit.py").write_text(THREE_LINES)
    assert message in call(*arguments, code=1)


def test_a_plain_script_is_told_what_to_do(here) -> None:
    (here / "fit.py").write_text(PLAIN.replace("trial.optimizer(", "torch.optim.AdamW("))
    printed = call("--train", "fit.py:train", "--workers", 1, code=1)
    assert (
        "the optimizer never passed through the trial (AdamW made 10 steps): build it by `optimizer = trial" in printed
    )


@pytest.mark.slow
def test_the_readmes_own_example(tmp_path) -> None:
    """As a reader would run it; what it says there is what it prints, but for the numbers."""
    page = Path(__file__).parents[2] / "README.md"
    if not page.exists():
        pytest.skip("needs the repository, got an installed package")
    [block] = re.findall(r"^```python\n(# my_train.py\n.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert len(block.splitlines()) <= 30
    (tmp_path / "my_train.py").write_text(block)
    [line] = re.findall(r"^    adamomentum (compare --train my_train.py.*)$", page.read_text(), re.MULTILINE)
    command = [sys.executable, "-m", "adamomentum", *line.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    printed = " ".join(done.stdout.split())
    verdict = re.search(r"Verdict on my_train: .* 5 seeds each", printed)[0]
    said = re.search(r"Verdict on my_train: .*? 5 seeds each", " ".join(page.read_text().split()))[0]

    def shape(text: str) -> list[str]:
        return re.sub(r"[-+\d.]+", "N", text.split("(")[1]).split()

    assert shape(verdict) == shape(said)
    assert printed.count("Note: ") == 1
