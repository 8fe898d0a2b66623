"""Accuracy with moments in reduced precision on the embedded vision task, paired with float32 seed by seed.

    python benchmarks/reduced_state_accuracy.py [--seeds 10] [--epochs 8]

Everything but the storage of the moments is equal: initial weights, batches, learning rate, schedule. The learning rate
is the one that `adamomentum compare` chooses for float32.
"""

from __future__ import annotations

import argparse

from adamomentum.cores import available_cores
from adamomentum.study import registry
from adamomentum.study.data.mnist5k import mnist5k
from adamomentum.study.execute.local import LocalExecutor
from adamomentum.study.report.comparisons import outcome
from adamomentum.study.spec import Budget, TaskSpec, TrialSpec
from adamomentum.study.statistics.paired import compare_paired, t_interval
from adamomentum.study.tasks import FAMILIES

STATES = {"float32": {}, "bfloat16": {"state_dtype": "bfloat16"}, "8bit": {"state_dtype": "8bit"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.0023)
    args = parser.parse_args()
    data = mnist5k()
    optimizer = registry.get("adamomentum").spec(args.lr)
    family = FAMILIES["image-classification"]
    task = TaskSpec(family=family.name, version=family.version, data_fingerprint=data.fingerprint)
    specs = {
        (state, seed): TrialSpec(
            stage="final",
            task=task,
            optimizer=optimizer.model_copy(update={"hyperparameters": {**optimizer.hyperparameters, **options}}),
            budget=Budget(epochs=args.epochs),
            replicate=seed,
        )
        for seed in range(args.seeds)
        for state, options in STATES.items()
    }
    with LocalExecutor(data, available_cores()) as executor:
        results = {spec.trial_id: result for spec, result in executor.run(specs.values())}
    failed = [result.error for result in results.values() if result.status == "error"]
    if failed:
        raise SystemExit(f"{len(failed)} trials failed, the first with:\n{failed[0]}")

    def values(state: str, metric: str, factor: float) -> list[float]:
        return [factor * results[specs[state, seed].trial_id].final[metric] for seed in range(args.seeds)]

    print(f"{data.name}, {args.epochs} epochs, lr {args.lr:g}, {args.seeds} seeds: mean and 95 % interval\n")
    print("| moments | test accuracy, % | minus float32, points | test loss | minus float32 |")
    print("|---|---|---|---|---|")
    for state in STATES:
        cells = [state]
        for metric, factor, digits, better in (
            ("test_accuracy", 100.0, 2, "higher"),
            ("test_loss", 1.0, 4, "lower"),
        ):
            ours, theirs = values(state, metric, factor), values("float32", metric, factor)
            mean = t_interval(ours)
            cells.append(f"{mean.mean:.{digits}f} ± {mean.half_width:.{digits}f}")
            if state == "float32":
                cells.append("")
                continue
            paired = compare_paired(ours, theirs, better)
            d, words = paired.difference, outcome(paired, better, False, args.seeds)
            cells.append(f"{d.mean:+.{digits}f} ({d.low:+.{digits}f} to {d.high:+.{digits}f}): {words}")
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
