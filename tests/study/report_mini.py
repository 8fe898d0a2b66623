"""A study of all families, and results made up for it: known inputs for known statistics."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

from adamomentum.study import stages, studyfile
from adamomentum.study.engine import Folder
from adamomentum.study.report.tables import build
from adamomentum.study.results import gather
from adamomentum.study.stages import Planned
from adamomentum.study.studyfile import Study
from adamomentum.study.trial import TrialResult

TEXT = """
name = "made-up"
title = "Made up <for> a test"
claims = true
[tuning]
trials = 4
extension = 2
[default]
seeds = 3
[final]
seeds = 8
[sensitivity]
optimizers = ["adamomentum", "adamw"]
seeds = 2
half_decades = 1
[optimizers]
adamomentum = {}
adamw = {}
sgdm = {}
adabelief = {}
[optimizers.own]
base = "adamomentum"
label = "Own variant"
hyperparameters = { eps = 1e-8 }
control = true
[[tasks]]
name = "digits"
title = "Digits"
family = "image-classification"
params = { data = "folder" }
budget = { epochs = 2, batch_size = 8, evaluations = 4 }
tune = ["lr", "weight_decay"]
notes = ["Printed and run settings differ."]
[[tasks]]
name = "words"
family = "language-model"
budget = { steps = 40, batch_size = 8, evaluations = 4 }
[[tasks]]
name = "sentences"
family = "translation"
budget = { steps = 40, batch_size = 8, evaluations = 4 }
[[tasks]]
name = "pictures"
family = "gan"
budget = { steps = 40, batch_size = 8, evaluations = 4 }
[[controls]]
name = "adamw-rate"
optimizer = "adamomentum"
lr_from = "adamw"
seeds = 3
about = "What swapping one line does."
"""

# How much worse than the best possible each optimizer ends up; spread between runs is 0.02.
QUALITY = {
    "adamomentum": 0.0,
    "adamw": 0.2,
    "sgdm": 0.0,
    "adabelief": 0.4,
    "own": 0.1,
    "adamw-rate": 0.3,
    "adamomentum-for-adamw": 0.2,
}
STEPS = [10.0, 20.0, 30.0, 40.0]

BASELINES = {
    "digits": {"most frequent class": {"test_accuracy": 0.123}},
    "words": {"unigram": {"test_loss": 6.0, "test_perplexity": 403.0}},
    "sentences": {"copy": {"test_bleu": 4.25}},
    "pictures": {"real images": {"test_fid": 0.75}},
}

SAMPLES = {
    "image-classification": {},
    "language-model": {"prompt": "the cat", "continued": "sat on the <mat>"},
    "translation": {
        "translations": [{"source": "Guten Tag", "reference": "Good day", "translation": "Day, good"}],
        "metrics": "made up",
    },
    "gan": {"images": [[k] * 4 for k in range(10)], "shape": [2, 2, 1], "metric": "made up"},
}


def study(*names: str) -> Study:
    whole = studyfile.parse(TEXT, "made-up")
    return whole.only(names) if names else whole


class Fake:
    """Makes results up.

    Args:
        quality: replaces ``QUALITY``, name by name.
        status: planned trial -> ok, diverged or error; None: not run.
        curve: the loss at each of ``STEPS`` as a multiple of the loss at the end.
    """

    def __init__(self, quality=None, status=lambda t: "ok", curve=(4, 1.4, 1.2, 1)) -> None:
        self.quality, self.status, self.curve = {**QUALITY, **(quality or {})}, status, curve

    def result(self, t: Planned) -> TrialResult | None:
        status = self.status(t)
        if status is None:
            return None
        if status == "error":
            return TrialResult(status="error", error="Traceback\nRuntimeError: <b>boom</b>")
        noise = random.Random(t.spec.trial_id)
        end = 1 + self.quality[t.optimizer] + 0.02 * noise.gauss(0, 1)
        end += abs(math.log10(t.spec.optimizer.lr / 3e-3)) if t.role in ("tune", "sensitivity") else 0
        splits = ("val", "test") if t.spec.stage == "final" else ("val",)
        final: dict[str, float | None] = {"train_loss": end / 2}
        for split in splits:
            for key, value in self.metrics(t.spec.task.family, end).items():
                final[f"{split}_{key}"] = value
        final["eps_dominated"] = 0.25
        curve = {"step": STEPS, "train_loss": [end * k for k in (4, 3, 2, 0.5)]}
        for key in self.metrics(t.spec.task.family, end):
            curve[f"val_{key}"] = [self.metrics(t.spec.task.family, end * k)[key] for k in self.curve]
        if t.spec.stage == "final":
            best = self.curve.index(min(self.curve))
            final["selected_step"] = STEPS[best]
            chosen = self.metrics(t.spec.task.family, end * self.curve[best])
            final |= {f"selected_test_{key}": value for key, value in chosen.items()}
        if status == "diverged":
            final = dict.fromkeys(final)
            curve = {key: column[:2] for key, column in curve.items()}
        return TrialResult(
            status=status,
            final=final,
            curve=curve,
            timing={"ms_per_step": 10.0, "train_seconds": 1.0, "seconds": 2.0},
            samples=SAMPLES[t.spec.task.family] if t.role == "final" and t.spec.replicate == 0 else {},
            provenance={"torch": "1.2.3", "cpu": "AVX2"},
        )

    @staticmethod
    def metrics(family: str, end: float) -> dict[str, float]:
        return {
            "image-classification": {"accuracy": 1 - 0.1 * end, "loss": end},
            "language-model": {"loss": end, "perplexity": math.exp(end)},
            "translation": {"loss": end, "bleu": 30 - 5 * end, "chrf": 60 - 5 * end},
            "gan": {"fid": 10 * end, "fid_last3": 10.5 * end, "precision": 0.5, "recall": 0.25},
        }[family]


def run(root: Path, study: Study, fake: Fake) -> Folder:
    """Puts results into a real store, stage by stage as they can be planned."""
    folder = Folder(root, study)
    root.mkdir(parents=True, exist_ok=True)
    data = {
        t.name: {
            "fingerprint": "0" * 16,
            "description": f"{t.name}: 8 examples",
            "baselines": BASELINES.get(t.name, {}),
        }
        for t in study.tasks
    }
    (root / "data.json").write_text(json.dumps(data))
    folder.register()
    store, results, tried = folder.store, {}, set()
    while True:
        plan = stages.plan(study, {t.name: "0" * 16 for t in study.tasks}, results)
        # A trial may serve two stages; as in the engine, the first one that plans it runs it.
        new = list({t.spec.trial_id: t for t in reversed(plan.trials) if t.spec.trial_id not in tried}.values())
        if not new:
            return folder
        for t in new:
            tried.add(t.spec.trial_id)
            result = fake.result(t)
            if result is not None:
                results[t.spec.trial_id] = result
                store.put(t.spec, result)


def gathered(tmp_path, fake, names=("digits",)):
    results = gather(run(tmp_path / "study", study(*names), fake))
    return results, build(results)


def final(results, task, optimizer, column, role="final"):
    t = results.trials
    mine = t[(t["role"] == role) & (t["task"] == task) & (t["optimizer"] == optimizer)]
    return mine.sort_values("replicate")[column].to_numpy(dtype=float)


def comparison(comparisons, other, task="digits"):
    return next(c for c in comparisons if (c.task, c.other) == (task, other))


def status(role, optimizer, replicates, what):
    """A status for ``Fake``: ``what`` for some runs, ok for all others."""
    return lambda t: what if (t.role, t.optimizer) == (role, optimizer) and t.spec.replicate in replicates else "ok"
