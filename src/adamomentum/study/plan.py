"""From what the user asked for to trial specifications, stage by stage: tune, then final."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adamomentum.study import registry
from adamomentum.study.spec import Budget, Stage, TaskSpec, TrialSpec

TUNING_SEEDS = 2
MAX_CURVE_POINTS = 40


@dataclass(frozen=True)
class Comparison:
    """Optimizers on one task, each with its own learning-rate grid, under one budget.

    A grid of a single value is taken as given: there is nothing to tune.
    """

    task: TaskSpec
    grids: Mapping[str, tuple[float, ...]]
    seeds: int
    epochs: int
    device_kind: str = "cpu"
    tuning_seeds: int = TUNING_SEEDS

    def tuning(self) -> list[TrialSpec]:
        """Returns the trials that choose the learning rates, interleaved over the optimizers."""
        points = max(len(grid) for grid in self.grids.values())
        return [
            self._trial("tune", name, grid[k], replicate)
            for replicate in range(self.tuning_seeds)
            for k in range(points)
            for name, grid in self.grids.items()
            if 1 < len(grid) > k
        ]

    def final(self, chosen: Mapping[str, float]) -> list[TrialSpec]:
        """Returns the trials that are reported, on fresh seeds, at the ``chosen`` learning rates."""
        return [
            self._trial("final", name, lr, replicate) for replicate in range(self.seeds) for name, lr in chosen.items()
        ]

    def _trial(self, stage: Stage, name: str, lr: float, replicate: int) -> TrialSpec:
        # Choosing needs the end of training alone; a learning curve wants some points on the way.
        evaluations = 1 if stage == "tune" else min(2 * self.epochs, MAX_CURVE_POINTS)
        return TrialSpec(
            stage=stage,
            task=self.task,
            optimizer=registry.get(name).spec(lr),
            budget=Budget(epochs=self.epochs, evaluations=evaluations),
            replicate=replicate,
            device_kind=self.device_kind,
        )
