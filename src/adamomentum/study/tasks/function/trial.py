"""What a training function of the user's own is called with: the trial.

Tested in tests/study/function/test_trial.py.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch.nn import Module
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from adamomentum.study.numbers import Number, number
from adamomentum.study.tasks.base import WholeContext
from adamomentum.study.tasks.function.clock import StepClock

FACTORS = ("lr_factor", "weight_decay_factor")
MOST_POINTS = 10_000
SETTINGS = {"betas": "betas", "momentum": "betas", "eps": "eps", "weight_decay": "weight_decay"}
"""What a step of the trial's optimizer is made with, beside its rate, and by which name a change of it is counted: what
``OneCycleLR`` cycles is ``momentum`` of one optimizer and ``betas`` of another.
"""


class Ended(BaseException):
    """Ends a training whose numbers are not finite; no ``except Exception`` of the user's stops it."""


class Relative(float):
    """A number of the trial's; multiplied or divided it still is one, so that a group may say ``trial.lr * 0.1``."""

    def __mul__(self, other: Any) -> Any:
        product = super().__mul__(other)
        return product if product is NotImplemented else Relative(product)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        quotient = super().__truediv__(other)
        return quotient if quotient is NotImplemented else Relative(quotient)

    def __reduce__(self) -> Any:
        return float, (float(self),)  # in a checkpoint it is a plain number


def as_number(what: str, value: Any) -> float:
    """Return a number, a tensor or array of one element as a float.

    Raises:
        TypeError: if it is neither; ``what`` says whose value it is.
    """
    try:
        return float(value.item() if hasattr(value, "item") else value + 0.0)  # a text is no number
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{what} must be a number, got {type(value).__name__}: {value!r:.80}") from None


def fatal(values: Mapping[str, float]) -> list[str]:
    """Return the metrics that say that a training is lost: losses that are not finite, or all if none is finite.

    Others may be undefined without harm, as an AUC while only one class is predicted.
    """
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    return bad if len(bad) == len(values) else [name for name in bad if name.endswith("loss")]


class Trial:
    """One training run, as your function sees it.

    Attributes:
        seed: of this run, in 0..2**32-1. Python's, NumPy's and torch's generators are seeded with it already; those of
            your own, as a data loader's, want it too.
        device: where to train.
        lr: the learning rate that is tried, for schedulers that want it, as ``OneCycleLR(optimizer, max_lr=trial.lr)``,
            and for groups: ``{"params": ..., "lr": trial.lr * 0.1}``.
        weight_decay: the same of the weight decay, as in ``param_groups(model, weight_decay=trial.weight_decay)``.
        rank: this process among ``world``; 0 if there is one.
        world: number of processes that train together.
    """

    def __init__(self, context: WholeContext) -> None:
        self.seed, self.device = context.seed, context.device
        self.lr, self.weight_decay = Relative(context.lr), Relative(context.weight_decay)
        self.rank, self.world = context.rank, context.world
        self._build, self._folder, self._teller = context.build_optimizer, context.folder, context.teller
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._optimizers: list[Optimizer] = []
        self._factors: list[list[float]] = []
        self._peaks: dict[tuple[int, int], float] = {}  # of the rate by its factor, by optimizer and group
        self._decays: list[list[Any]] = []  # by optimizer and group, as built
        self._changed: dict[str, int] = {}  # steps that were made with other settings than the trial's, by setting
        self._points: dict[int, dict[str, float]] = {}
        self._said = 0  # the last step that `at` was told
        self._steps: dict[int, int] = {}  # steps made, by optimizer
        self._others: dict[str, int] = {}  # steps of optimizers that are not the trial's, by class
        self._clock = StepClock(context.device)
        self.lost = ""  # the first report of a value that is not finite
        self._hook: RemovableHandle | None = None

    # --- for the user's function ---

    @property
    def step(self) -> int:
        """Optimizer steps so far, counted or as ``at`` was told."""
        return max(self._said, *self._steps.values()) if self._steps else self._said

    @property
    def folder(self) -> Path:
        """A folder for your files. It is kept, also when the trial is interrupted and begins again."""
        if self._folder is None:
            self._temporary = tempfile.TemporaryDirectory()
            self._folder = Path(self._temporary.name)
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def optimizer(self, params: Iterable[Any], *others: Any, **settings: Any) -> Optimizer:
        """Return the trial's optimizer over your parameters, at the learning rate and the settings that are tried.

        Args:
            params: parameters, or groups. A group may have ``weight_decay=0``, a learning rate made of the trial's
                (``"lr": trial.lr * 0.1``, or ``"lr_factor": 0.1``) and ``"weight_decay_factor"``.
            others: nothing; refused.
            settings: refused, too: they are what is compared.

        Raises:
            TypeError: if there is more than parameters, or a module in their place.
            ValueError: if there are no parameters, or a group has a number of its own for what is compared.
        """
        if others or settings:
            named = ", ".join([*map(repr, others), *(f"{name}={value!r}" for name, value in settings.items())])
            raise TypeError(
                f"trial.optimizer takes parameters, or groups of them, and got {named} too: leave it out. The trial "
                "gives optimizer, learning rate and settings; yours for all trials go into --incumbent, e.g. "
                "adamw:lr=3e-4,betas=0.9,0.95, or into a study file"
            )
        if isinstance(params, Module):
            raise TypeError(
                f"trial.optimizer takes parameters, got a {type(params).__name__}: give it .parameters() of that"
            )
        given = list(params)
        if not given:
            raise ValueError("trial.optimizer got no parameters; give it model.parameters(), or groups of them")
        optimizer = self._build([self._group(each) if isinstance(each, Mapping) else each for each in given])
        decay = optimizer.defaults.get("weight_decay")
        factors = []
        for group in optimizer.param_groups:
            lr, decayed = (group.pop(name, 1.0) for name in FACTORS)
            group["lr"] = float(self.lr) * lr
            if decayed != 1.0 and decay is not None:
                group["weight_decay"] = decay * decayed
            factors.append(lr)
        self._steps[id(optimizer)] = 0
        self._optimizers.append(optimizer)
        self._factors.append(factors)
        for name in {name for key, name in SETTINGS.items() if key in optimizer.defaults}:
            self._changed.setdefault(name, 0)
        self._decays.append([group.get("weight_decay") for group in optimizer.param_groups])
        return optimizer

    def report(self, *unnamed: Any, **metrics: Any) -> None:
        """Take down a point of the validation curve at the present step, e.g. ``trial.report(loss=val_loss)``.

        Settings are chosen by the last point. ``train_loss``, if you give it, is drawn as such. A loss that is not
        finite, a metric whose name ends so, ends the trial: it has diverged; so do metrics of which none is. Another
        one that is not finite is missing there, and worst where it is the one that is compared.

        Args:
            unnamed: nothing; refused.
            metrics: numbers, or tensors of one element.

        Raises:
            ValueError: if a metric is of the test split, by its name, or there is none.
            TypeError: if a value is no number, or has no name.
        """
        if unnamed:
            what = ", ".join(f"{value!r:.80}" for value in unnamed)
            raise TypeError(
                f"trial.report takes metrics by name, e.g. trial.report(loss=val_loss), got {what}; of a dict, "
                "trial.report(**metrics)"
            )
        if not metrics:
            raise ValueError("trial.report needs a metric, e.g. trial.report(loss=val_loss)")
        for name in metrics:
            if name.startswith("test"):
                raise ValueError(
                    f"trial.report({name}=...): what is reported chooses settings, so it must be of the validation "
                    "split; return test metrics at the end"
                )
        values = {name: as_number(f"trial.report({name}=...)", value) for name, value in metrics.items()}
        self._points.setdefault(self.step, {}).update(values)
        if len(self._points) > MOST_POINTS:
            raise ValueError(
                f"trial.report was called at {MOST_POINTS:,} steps; call it where you evaluate, not each step"
            )
        self._clock.pause()
        self._tell()
        lost = [f"{name}={values[name]}" for name in fatal(values)]
        if lost:
            self.lost = self.lost or f"trial.report({', '.join(lost)}) at step {self.step}"
            if self.world == 1:  # several processes would wait for the one that has left
                raise Ended(self.lost)

    def at(self, step: int) -> None:
        """Say that so many optimizer steps are made, where ``step()`` of the trial's optimizer is not called for each.

        Raises:
            ValueError: if they are fewer than before.
        """
        if step < self.step:
            raise ValueError(f"trial.at({step}): the trial is at step {self.step} already")
        self._said = int(step)
        self._tick()

    # --- for the engine ---

    def __enter__(self) -> Trial:
        self._hook = register_optimizer_step_post_hook(self._after_step)
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._hook is not None
        self._hook.remove()
        if self._temporary is not None:
            self._temporary.cleanup()

    def check(self, tested: Mapping[str, float], complete: bool) -> None:
        """Check that the function has done its part.

        Args:
            tested: the metrics that it returned.
            complete: whether it came to its end.

        Raises:
            ValueError: if not; the message says what to do.
        """
        others = ", ".join(f"{name} made {count} steps" for name, count in self._others.items())
        if not self._optimizers:
            raise ValueError(
                f"the optimizer never passed through the trial{f' ({others})' if others else ''}: build it by "
                "`optimizer = trial.optimizer(model.parameters())`, or nothing is compared"
            )
        if not complete:
            return
        if not self.step:
            raise ValueError(
                f"the trial's optimizer never made a step{f', but {others}' if others else ''}: train with what "
                "trial.optimizer returns, or say trial.at(step) where another program makes its steps"
            )
        if not self._points:
            raise ValueError(
                "nothing was reported: call trial.report(loss=val_loss) where you evaluate on the validation split; by "
                "its last call settings are chosen"
            )
        if not max(self._points):
            raise ValueError(
                "nothing was reported after the first step: settings would be chosen by what the model was before it "
                "was trained; call trial.report where you evaluate, after steps of the optimizer"
            )
        reported = {name for point in self._points.values() for name in point}
        if not reported & tested.keys():
            raise ValueError(
                f"it reports {', '.join(sorted(reported))} and returns {', '.join(tested)}: give what is measured on "
                "the validation split and on the test split the same name"
            )

    def broken(self) -> bool:
        """Say whether a parameter or a gradient is not finite."""
        params = [p for optimizer in self._optimizers for group in optimizer.param_groups for p in group["params"]]
        tensors = [t for p in params for t in (p, p.grad) if t is not None]
        return any(not bool(t.detach().isfinite().all()) for t in tensors)

    @property
    def curve(self) -> dict[str, list[Number]]:
        """The points as a trial's result has them."""
        steps = sorted(self._points)
        names = dict.fromkeys(name for step in steps for name in self._points[step])
        columns: dict[str, list[Number]] = {"step": [float(step) for step in steps]}
        for name in ("train_loss", *(name for name in names if name != "train_loss")):
            values = [self._points[step].get(name, math.nan) for step in steps]
            columns[_column(name)] = [number(value) for value in values]
        return columns

    @property
    def last(self) -> dict[str, Number]:
        """Each metric as it was reported last."""
        return {
            _column(name): number(value) for step in sorted(self._points) for name, value in self._points[step].items()
        }

    @property
    def numbers(self) -> dict[str, Number]:
        """What was counted: steps, those at changed settings; the peak of the rate by a group's factor, its range."""
        peaks = [peak for peak in self._peaks.values() if peak] or [math.nan]
        return {
            "steps": float(self.step),
            "peak_lr_low": number(min(peaks)),
            "peak_lr_high": number(max(peaks)),
            "steps_of_others": float(sum(self._others.values())),
            **{f"changed_{name}": float(steps) for name, steps in self._changed.items()},
        }

    @property
    def timing(self) -> dict[str, float]:
        """Milliseconds a step, and seconds of training without evaluations."""
        seconds = self._clock.seconds()
        return {"ms_per_step": 1e3 * seconds, "train_seconds": seconds * self.step}

    def _group(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Return a group of the user's with factors instead of a rate of its own."""
        own = dict(group)
        rate = own.pop("lr", None)
        if isinstance(rate, Relative):
            own["lr_factor"] = float(rate) / float(self.lr)
        elif rate is not None:
            raise ValueError(
                f"a group has lr={rate!r} of its own, which would be the same in every trial; say what part of the "
                f'trial\'s it is: "lr": trial.lr * 0.1, or "lr_factor": 0.1'
            )
        for name in FACTORS:
            factor = own.get(name, 1.0)
            if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 <= factor < math.inf:
                raise ValueError(f"{name} of a group must be a number from 0, got {factor!r}")
        decay = own.get("weight_decay", 0)
        if decay and not isinstance(decay, Relative) and decay != self.weight_decay:
            raise ValueError(
                f"a group has weight_decay={decay!r} of its own, which decays differently in each optimizer; leave it "
                'out for the trial\'s, or say "weight_decay": 0 or trial.weight_decay * 2'
            )
        if "weight_decay" in own:
            own["weight_decay"] = float(decay)
        if "eps" in own:
            raise ValueError(
                f"a group has eps={own['eps']!r} of its own, which differs in kind between optimizers; leave it out"
            )
        return own

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if id(optimizer) not in self._steps:
            name = type(optimizer).__name__
            self._others[name] = self._others.get(name, 0) + 1
            return
        before = self.step
        self._steps[id(optimizer)] += 1
        which = list(self._steps).index(id(optimizer))
        factors = self._factors[which]
        for k, group in enumerate(optimizer.param_groups):
            # A group that was added later has none: its rate is its own, and several trials show it.
            factor = factors[k] if k < len(factors) else 1.0
            if factor:
                self._peaks[which, k] = max(self._peaks.get((which, k), 0.0), float(group["lr"]) / factor)
        for name in self._other_settings(which, optimizer):
            self._changed[name] += 1
        if self.step > before:
            self._tick()

    def _other_settings(self, which: int, optimizer: Optimizer) -> set[str]:
        """Return the settings that differ in some group from the trial's; decay, from what the group was built with."""
        decays, names = self._decays[which], set()
        for k, group in enumerate(optimizer.param_groups):
            for key, name in SETTINGS.items():
                own = decays[k] if key == "weight_decay" and k < len(decays) else optimizer.defaults.get(key)
                if own is not None and _plain(group.get(key)) != _plain(own):
                    names.add(name)
        return names

    def _tick(self) -> None:
        self._clock.tick(self.step)
        self._tell()

    def _tell(self) -> None:
        self._teller.at(self.step, None, None, lambda: self.curve)


def _plain(value: Any) -> Any:
    """Return a setting in a form that compares: from a checkpoint betas are a list."""
    return tuple(map(float, value)) if isinstance(value, (list, tuple)) else value


def _column(name: str) -> str:
    return name if name == "train_loss" else f"val_{name}"
