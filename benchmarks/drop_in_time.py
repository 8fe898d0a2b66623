"""Time of a step with the switches of the drop-in, beside the same step without: what they cost.

    python benchmarks/drop_in_time.py [--elements 8388608] [--rounds 25] [--threads 1]

A round times a step of each, one after the other, and the ratio to the plain step is taken within the round: the
median, and the middle half of the rounds. Processor time, so that other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from adamomentum import AdaMomentum

PLAIN = "plain"
FORMS = {
    PLAIN: {},
    "drop-in": {"adjust_lr": "match_rms_adamw"},
    "v of the momentum": {"adjust_lr": "match_rms_adamw", "second_moment": "momentum"},
    "Nesterov": {"adjust_lr": "match_rms_adamw", "nesterov": True},
}
FORMATS = {
    "float32": (torch.float32, {}),
    "float32, bfloat16 moments": (torch.float32, {"state_dtype": "bfloat16"}),
    "float32, 8-bit moments": (torch.float32, {"state_dtype": "8bit"}),
    "bfloat16, rounded stochastically": (torch.bfloat16, {"rounding": "stochastic"}),
    "bfloat16, rounded stochastically, 8-bit moments": (
        torch.bfloat16,
        {"rounding": "stochastic", "state_dtype": "8bit"},
    ),
}


def ratios(elements: int, rounds: int, dtype: torch.dtype, options: dict[str, object]) -> dict[str, list[float]]:
    """Time a step of each form, on tensors of their own, and divide by the plain step's time."""

    def parameter() -> torch.nn.Parameter:
        p = torch.nn.Parameter(torch.randn(elements).to(dtype))
        p.grad = torch.randn(elements).to(dtype)
        return p

    def seconds(optimizer: torch.optim.Optimizer) -> float:
        before = time.process_time()
        optimizer.step()
        return time.process_time() - before

    optimizers = {name: AdaMomentum([parameter()], **options, **form) for name, form in FORMS.items()}
    for optimizer in optimizers.values():
        optimizer.step()  # makes the state
    taken = [{name: seconds(optimizer) for name, optimizer in optimizers.items()} for _ in range(rounds)]
    return {name: [times[name] / times[PLAIN] for times in taken] for name in FORMS if name != PLAIN}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=1 << 23)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    forms = [name for name in FORMS if name != PLAIN]
    print(f"| parameters | {' | '.join(forms)} |\n|---|{'---|' * len(forms)}")
    for name, (dtype, options) in FORMATS.items():
        cells = []
        for values in ratios(args.elements, args.rounds, dtype, options).values():
            low, middle, high = statistics.quantiles(values, n=4)
            cells.append(f"{middle:.2f} ({low:.2f}-{high:.2f})")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
