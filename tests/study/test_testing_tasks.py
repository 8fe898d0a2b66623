"""``check_task``: what comes along keeps all promises; one that is broken is noticed by the check for it."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
import torch
from study.sine import Points, Sine, SineRun

from adamomentum.study.data.base import DataError
from adamomentum.study.tasks import Family, Metric
from adamomentum.study.tasks.base import Run
from adamomentum.study.tasks.vision.task import ImageClassification
from adamomentum.study.testing import ContractError, check_task
from adamomentum.study.testing.tasks import CHECKS

# --- what keeps all promises ---


def test_a_task_of_ones_own() -> None:
    check_task(Sine, {"width": 6})
    check_task("study.sine:Sine", steps=4, batch_size=12, optimizer="adamomentum", lr=1e-4)


def test_a_family_that_comes_along(tiny_npz) -> None:
    check_task("image-classification", {"data": "folder", "augment": "crop-flip"}, source=tiny_npz)
    check_task(ImageClassification, {"data": "folder", "label_smoothing": 0.1}, source=tiny_npz, steps=6)


# --- what does not ---


def task_of(run: type[SineRun]) -> type[Sine]:
    """A task with other runs, at the top level of this module as a user's would be."""
    name = f"{run.__name__}Task"
    task = type(name, (Sine,), {"setup": lambda self, context: run(context), "__module__": __name__})
    globals()[name] = task
    return task


class Random(Sine):
    def load(self, params, source):
        data = super().load(params, source)
        return Points({k: x + np.float32(np.random.normal()) for k, x in data.x.items()}, data.y)  # noqa: NPY002


class Verbose(Sine):
    def load(self, params, source):
        data = super().load(params, source)
        data.describe = lambda: "one\ntwo"
        return data


class NoText(Points):
    fingerprint = 7


class Numbered(Sine):
    def load(self, params, source):
        data = super().load(params, source)
        return NoText(data.x, data.y)


class TakesAll(Sine):
    def load(self, params, source):
        return super().load({}, source)


class Wordless(Sine):
    def load(self, params, source):
        if params.keys() - {"width"}:
            raise ValueError("no")
        return super().load(params, source)


class Boasting(Sine):
    def baselines(self, data):
        return {"mean": {"test_accuracy": 1.0}}


class Baseless(Sine):
    def baselines(self, data):
        return {"mean": {"test_loss": float("nan")}}


class NoRun(Sine):
    def setup(self, context):
        return None


class Partless(SineRun):
    def parts(self):
        return {**super().parts(), "step": 3}


class Fractional(SineRun):
    def __init__(self, context) -> None:
        torch.nn.Linear(1, context.params["width"])


class Lossless(SineRun):
    def evaluate(self, split):
        return {"mse": super().evaluate(split)["loss"]}


class Other(Sine):
    family = Family(version=1, metrics=(Metric("mse", "a", "lower"),), select="mse", curve="mse")

    def baselines(self, data):
        return {}


class Measured(Other):
    def setup(self, context) -> Run:
        return Lossless(context)


class Long(SineRun):
    def __init__(self, context) -> None:
        super().__init__(context)
        self.total_steps += 1


class Epochless(SineRun):
    def __init__(self, context) -> None:
        super().__init__(context)
        self.total_steps = context.budget.steps or 5


class OwnOptimizer(SineRun):
    def __init__(self, context) -> None:
        class Apart:
            build_optimizer = staticmethod(torch.optim.Adam)

            def __getattr__(self, name):
                return getattr(context, name)

        super().__init__(Apart())


class Idle(SineRun):
    def step(self) -> float:
        rows = self.batches.next()
        return self.loss(self.trained, self.x["train"][rows], self.y["train"][rows]).item()


class Tensors(SineRun):
    def step(self):
        return torch.tensor(super().step())


class Unwritable(SineRun):
    def samples(self):
        return {"images": self.x["test"]}


class Exploding(SineRun):
    def step(self) -> float:
        return super().step() + float("inf")


class Undeclared(Sine):
    family = Family(version=1, metrics=(Metric("r2", "share explained", "higher"), Metric("loss", "a", "lower")))


class Infinite(SineRun):
    def finish(self, split):
        return {"r2": float("inf")}


class InfiniteTask(Undeclared):
    def setup(self, context):
        return Infinite(context)


class OneSplit(SineRun):
    def evaluate(self, split):
        return super().evaluate("test")


class Unseeded(SineRun):
    def step(self) -> float:
        return super().step() + 1e-3 * random.random()


class Wasteful(SineRun):
    def step(self) -> float:
        np.random.normal()  # noqa: NPY002
        return super().step()


class Hasty(SineRun):
    def evaluate(self, split):
        torch.set_float32_matmul_precision("medium")
        return super().evaluate(split)


class Fixed(SineRun):
    def __init__(self, context) -> None:
        torch.manual_seed(0)
        super().__init__(context)
        self.model[2].p = 0.0
        self.batches._generator.manual_seed(0)


class Peeking(SineRun):
    def evaluate(self, split):
        self.batches.next()
        return super().evaluate(split)


class Opaque:
    def state_dict(self):
        return {"this": self}

    def load_state_dict(self, state):
        pass


class Unreadable(SineRun):
    def parts(self):
        return {**super().parts(), "opaque": Opaque()}


class Count:
    number = 0

    def state_dict(self):
        return {"number": self.number}

    def load_state_dict(self, state):
        pass


class Forgetting(SineRun):
    def __init__(self, context) -> None:
        super().__init__(context)
        self.count = Count()

    def parts(self):
        return {**super().parts(), "count": self.count}

    def step(self) -> float:
        self.count.number += 1
        return super().step()


class Batchless(SineRun):
    def parts(self):
        return {"model": self.model, "update": self.update}


class Counting(SineRun):
    """What it forgets is set by an evaluation: only a checkpoint after one shows it."""

    begun, points = False, 0

    def step(self) -> float:
        self.begun = True
        return super().step()

    def evaluate(self, split):
        self.points += self.begun and split == "val"
        return super().evaluate(split)

    def finish(self, split):
        return {"points": float(self.points)}


class Strict(SineRun):
    def evaluate(self, split):
        values = super().evaluate(split)
        assert np.isfinite(values["loss"]), "the loss is not finite"
        return values


class FullPrecision(SineRun):
    def loss(self, model, x, y):
        return torch.nn.functional.mse_loss(model(x), y)


class Refusing(FullPrecision):
    def __init__(self, context) -> None:
        if context.precision != "float32":
            raise ValueError(f"precision must be float32, got {context.precision}")
        super().__init__(context)


def local_task() -> type[Sine]:
    class Local(Sine):
        pass

    return Local


def replaced_task() -> type[Sine]:
    return type("Random", (Sine,), {"__module__": __name__})


BROKEN = [
    (local_task(), "its_name_leads_to_it", "must be module:Class"),
    (replaced_task(), "its_name_leads_to_it", "is another class"),
    (Random, "data_is_always_the_same", "loaded twice, the data has the fingerprints [0-9a-f]+ and [0-9a-f]+"),
    (Verbose, "data_is_always_the_same", "must return one line"),
    (Numbered, "data_is_always_the_same", "`fingerprint` is 7, which is no text"),
    (TakesAll, "unknown_parameters_are_refused", "takes the parameter 'no_such_parameter' without a word"),
    (Wordless, "unknown_parameters_are_refused", "does not name the parameter 'no_such_parameter': no"),
    (Boasting, "baselines_are_of_declared_metrics", "baseline 'mean' has 'test_accuracy', which is none of test_loss"),
    (Baseless, "baselines_are_of_declared_metrics", "test_loss = nan, which is no finite number"),
    (NoRun, "a_run_can_be_set_up", "must return a Run, got None"),
    (Partless, "a_run_can_be_set_up", "part 'step' is a int, which has no state_dict"),
    (Fractional, "a_run_can_be_set_up", "it raised TypeError: .*float"),
    (Lossless, "a_run_can_be_set_up", "returns mse and no 'loss', which is the metric of its learning curve"),
    (Measured, "a_run_can_be_set_up", "returns mse and no 'loss', by which a run is seen to diverge"),
    (Other, "a_run_can_be_set_up", "returns loss and no 'mse', which is the metric of its learning curve"),
    (Long, "the_budget_is_kept", "of a budget of 8 steps it makes 9"),
    (Epochless, "the_budget_is_kept", "an epoch is 5 steps, three epochs are 5"),
    (OwnOptimizer, "the_budget_is_kept", "builds no optimizer by context.build_optimizer"),
    (Idle, "the_budget_is_kept", "step 1 makes no update"),
    (Tensors, "the_budget_is_kept", "as a float, got Tensor"),
    (Unwritable, "a_trial_runs", "it raised .*Tensor"),
    (Exploding, "a_trial_runs", "with adamw at lr 0.001 the loss is not finite after 8 steps or less"),
    (Undeclared, "metrics_are_as_declared", "there is no test_r2, or it is not finite; there are: val_loss"),
    (InfiniteTask, "metrics_are_as_declared", "there is no test_r2, or it is not finite"),
    (OneSplit, "validation_is_not_the_test", "loss of the validation split are those of the test split"),
    (Unseeded, "a_seed_decides_everything", "the same trial, run twice: train_loss ends at .* and at"),
    (Wasteful, "nothing_global_is_changed", "draws from the global generator of numpy.random"),
    (Hasty, "nothing_global_is_changed", "leaves another float32 matmul precision behind"),
    (Fixed, "replicates_differ", "replicates 0 and 1 give the same numbers"),
    (Peeking, "evaluation_leaves_training_alone", "ends at .* with 1 evaluation and at .* with 8"),
    (Unreadable, "every_part_takes_up_its_state", "part 'opaque': a checkpoint cannot hold it"),
    (Forgetting, "every_part_takes_up_its_state", "part 'count' has another state_dict after load_state_dict"),
    (Batchless, "a_trial_goes_on_from_its_checkpoint", "undisturbed, and from the checkpoint of step 3: "),
    (Counting, "a_trial_goes_on_from_its_checkpoint", "undisturbed, and from the checkpoint of step 5: "),
    (Strict, "a_run_that_blows_up_is_a_result", "it raised AssertionError: the loss is not finite"),
    (FullPrecision, "precision_reaches_the_model", "are those of float32 to the last bit"),
]


@pytest.mark.parametrize(("subject", "check", "what"), BROKEN, ids=[subject.__name__ for subject, _, _ in BROKEN])
def test_a_broken_promise_is_noticed(subject, check, what) -> None:
    task = subject if issubclass(subject, Sine) else task_of(subject)
    try:
        with pytest.raises(ContractError) as caught:
            check_task(task, {"width": 6})
    finally:
        torch.set_float32_matmul_precision("highest")
    assert caught.value.check == check, caught.value
    first, why, remedy = str(caught.value).split("\n", 2)[:3]
    assert re.search(f"{task.__name__} fails the check '{check}': .*{what}", first), first
    assert why.startswith("Why it matters: ")
    assert remedy.startswith("Remedy: ")


def test_every_check_is_seen_to_fail() -> None:
    assert {check for _, check, _ in BROKEN} == {check.name for check in CHECKS.series}


def test_a_precision_may_be_refused() -> None:
    check_task(task_of(Refusing), {"width": 6})


def test_a_check_may_be_left_out() -> None:
    check_task(task_of(FullPrecision), {"width": 6}, skip=["precision_reaches_the_model"])
    with pytest.raises(ValueError, match="skip names 'precision', which is no check; there are: its_name_leads_to_it"):
        check_task(Sine, skip=["precision"])


class Unavailable(Sine):
    def load(self, params, source):
        raise DataError("connect to the network once")


def test_data_that_cannot_be_had_says_nothing_of_the_task() -> None:
    with pytest.raises(DataError, match="connect to the network once"):
        check_task(Unavailable)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 3}, "steps must be at least 4, got 3"),
        ({"optimizer": "adamax"}, "unknown optimizer 'adamax'"),
    ],
)
def test_wrong_arguments(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        check_task(Sine, **arguments)
