"""A study small enough to plan in a test, and results that are made up."""

from __future__ import annotations

import json
import math
from pathlib import Path

from adamomentum.study.engine import DataInfo, Folder, write_data
from adamomentum.study.stages import Plan
from adamomentum.study.studyfile import Study, parse
from adamomentum.study.trial import TrialResult

MINI = """
name = "mini"
[tuning]
trials = 4
extension = 2
[default]
seeds = 2
[final]
seeds = 3
[sensitivity]
optimizers = ["adamw"]
seeds = 1
half_decades = 1
[optimizers]
adamomentum = {}
adamw = {}
sgdm = {}
[optimizers.plain]
base = "adam"
control = true
[[tasks]]
name = "one"
family = "image-classification"
params = { data = "folder" }
budget = { steps = 6, batch_size = 8, evaluations = 2 }
smoke = { budget = { steps = 2, batch_size = 8, evaluations = 1 } }
[[tasks]]
name = "two"
family = "image-classification"
params = { data = "folder" }
budget = { steps = 3, batch_size = 8 }
schedule = { name = "constant" }
hyperparameters = { weight_decay = 0.0 }
[[controls]]
name = "faster"
optimizer = "plain"
lr_from = "adamomentum"
lr_factor = 4.36
hyperparameters = { eps = 1e-6 }
tasks = ["one"]
seeds = 2
"""


def fingerprints(study: Study) -> dict[str, str]:
    return {task.name: "0" * 16 for task in study.tasks}


def fake_result(loss: float | None, status: str = "ok") -> TrialResult:
    if status == "error":
        return TrialResult(status="error", error="Traceback\nboom")
    return TrialResult(
        status="ok" if loss is not None else "diverged",
        final={"val_loss": loss, "test_loss": loss, "train_loss": loss},
        curve={"step": [1.0], "train_loss": [loss], "val_loss": [loss]},
        timing={"ms_per_step": 1.0, "train_seconds": 1.0, "seconds": 2.0},
    )


def finish(plan: Plan, results: dict[str, TrialResult], loss) -> int:
    """Adds a result for each planned trial that has none; returns how many."""
    new = [t for t in plan.trials if t.spec.trial_id not in results]
    for t in new:
        results[t.spec.trial_id] = fake_result(loss(t))
    return len(new)


def written(root: Path, text: str = MINI, upto: int | None = None) -> Folder:
    """The folder of a study as a run leaves it, with made-up results, the first ``upto`` of them or all."""
    folder = Folder(root, parse(text, "mini"))
    write_data(root / "data.json", {name: DataInfo(f, "made up", {}) for name, f in fingerprints(folder.study).items()})
    folder.register()
    results: dict[str, TrialResult] = {}
    while True:
        plan, _ = folder.results()
        new = [t for t in plan.trials if t.spec.trial_id not in results]
        for t in {t.spec.trial_id: t for t in new}.values():
            if upto is not None and len(results) >= upto:
                return folder
            results[t.spec.trial_id] = fake_result(abs(math.log(t.spec.optimizer.lr)))
            folder.store.put(t.spec, results[t.spec.trial_id])
        if not new:
            return folder


def finished(out: Path) -> dict[str, dict]:
    """All stored trials by id, without clock and machine; every file must be whole."""
    records = {}
    for path in out.glob("store/[0-9a-f][0-9a-f]/*.json"):
        record = json.loads(path.read_text())
        result = record["result"]
        records[path.stem] = {"spec": record["spec"], **{k: result[k] for k in ("status", "final", "curve", "samples")}}
    return records
