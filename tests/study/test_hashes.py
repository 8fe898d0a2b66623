"""Trials are found by their ids: whatever moves in the code, these stay."""

from __future__ import annotations

import pytest
from study.mini import MINI

from adamomentum.study import stages, studyfile
from adamomentum.study.stages import Planned
from adamomentum.study.studyfile import Study

OWN = """base = "my_package.optim:Lion"
default_lr = 1e-4
hyperparameters = { betas = [0.9, 0.99], eps = 1e-8 }
space = { lr = { low = 1e-5, high = 1e-2 } }
eps_placement = "inside"
"""

OWN_FUNCTION = """
name = "mine"
[optimizers]
adamomentum = {}
adamw = {}
[[tasks]]
name = "mine"
family = "own"
params = { train = "my_train.py:train", watch = ["data"], width = 8 }
metrics = [{ key = "accuracy", better = "higher" }]
"""


def first(study: Study, task: str, role: str, optimizer: str, device: str) -> Planned:
    """The first such trial that is planned before anything is finished; the data is a fingerprint of zeros."""
    plan = stages.plan(study.only((task,)), {task: "0" * 16}, {}, device)
    return next(t for t in plan.trials if (t.role, t.optimizer) == (role, optimizer))


@pytest.mark.parametrize(
    ("study", "task", "role", "optimizer", "device", "trial_id"),
    [
        ("paper-mini", "mnist5k", "tune", "adamomentum", "cpu", "2d6d9ecd8e91666c"),
        ("paper-mini", "mnist1d", "default", "sgdm", "cpu", "50646856568b054e"),
        ("paper-mini", "wikipedia", "default", "adamw", "cpu", "4b39c2d3dd6b1f1a"),
        ("paper-mini", "home-assistant", "tune", "yogi", "cpu", "1146f8c308fedc63"),
        ("paper-mini", "digits-gan", "tune", "adabelief", "cpu", "9d09742cd1e14907"),
        ("paper-cifar", "cifar100-densenet121", "final", "adabound", "cuda", "845354e3e3739c65"),
        ("paper-imagenet", "imagenet-resnet18", "final", "adamomentum", "cuda", "eb52afbed017a37a"),
        ("paper-ptb", "ptb-3", "final", "radam", "cuda", "b81a1a42028eb96f"),
        ("paper-iwslt", "iwslt14", "final", "adam", "mps", "511afcc2032cf314"),
        ("paper-gan", "biggan-cr", "final", "adamomentum", "cuda", "2035ab8910379792"),
    ],
)
def test_trials_of_the_studies_that_come_along(study, task, role, optimizer, device, trial_id) -> None:
    assert first(studyfile.read(study), task, role, optimizer, device).spec.trial_id == trial_id


def test_a_trial_of_a_smoke_run() -> None:
    study = studyfile.read("paper-ptb").smoked()
    assert first(study, "ptb-2", "final", "sgdm", "cpu").spec.trial_id == "f2a949c4ae120d70"


@pytest.mark.parametrize(("role", "trial_id"), [("tune", "d1eced8a78604a2c"), ("default", "ebe93a9fe2f9c53a")])
def test_trials_of_an_own_optimizer(role, trial_id) -> None:
    text = MINI.replace('base = "adam"\ncontrol = true\n', OWN).replace("hyperparameters = { eps = 1e-6 }", "")
    assert first(studyfile.parse(text, "mini"), "two", role, "plain", "cpu").spec.trial_id == trial_id


def test_a_trial_of_an_own_function_and_its_repeat() -> None:
    """Its content is in the fingerprint, which is zeros here; its place is nowhere."""
    study = studyfile.parse(OWN_FUNCTION, "mine")
    assert first(study, "mine", "tune", "adamw", "cpu").spec.trial_id == "0bf6420ccd3217ef"
    assert first(study, "mine", "repeat", "adamomentum", "cpu").spec.trial_id == "3c630ad2d6c17986"
