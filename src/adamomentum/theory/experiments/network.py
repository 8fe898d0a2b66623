"""From toys to a network: what eps, noise and sharpness are in the training of a small convolutional network."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from adamomentum.theory.claims import Check, Claim, Data, Drawing, Profile, not_computed
from adamomentum.theory.common import Array
from adamomentum.theory.moments import adam_equivalent_lr
from adamomentum.theory.steppers import COLOURS, LABELS

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
    from torch import Tensor, nn

    from adamomentum.study.statistics.paired import Paired


# As the study tuned them on this task (docs/results): lr, weight decay.
TUNED = {"sgdm": (0.127, 1.65e-4), "adam": (0.0351, 5.23e-4), "adamomentum": (0.00615, 0.625)}
BATCH, BETAS, EPS = 64, (0.9, 0.999), 1e-16
ADAM_EPS = (EPS, 1e-8)
# Seeds, epochs: as many as the study trains for. How sharp a minimum is takes runs to the end with all optimizers.
SIZES = {"quick": (3, 50), "full": (10, 50)}
PLACES = (0.1, 0.5, 0.9)

# Key, title and source of the claims.
NOISE = (
    "network-noise",
    "In the training of a network AdaMomentum moves several times as far as Adam at equal lr, on the same gradients",
    "this library",
)
FLATNESS = (
    "network-flatness",
    "The minima that AdaMomentum finds are flatter than Adam's",
    "the paper's section on flat minima",
)


def run(profile: Profile, seed: int) -> list[Claim]:
    """Train the network with each optimizer; without the data, e.g. offline, the claims are left undecided."""
    from adamomentum.study.data.base import DataError

    try:
        return _run(profile, seed)
    except DataError as error:
        claims = [not_computed(*NOISE, str(error), relied_on=True)]
        return claims + [not_computed(*FLATNESS, str(error))] * (profile == "full")


def _run(profile: Profile, seed: int) -> list[Claim]:
    seeds, epochs = SIZES[profile]

    def runs(name: str, first: int = 0) -> list[Run]:
        return [train(name, 1000 * seed + first + i, epochs, minimum=profile == "full") for i in range(seeds)]

    ours = runs("adamomentum")
    if profile == "quick":
        return [_noise(ours, epochs)]
    others = {"sgdm": runs("sgdm"), "adam": runs("adam"), "adamomentum": ours}
    return [_noise(ours, epochs), _flatness(others, runs("adam", first=500), epochs)]


@dataclass
class Run:
    """What was measured in a training run.

    Attributes:
        sharpness: largest eigenvalue of the Hessian of the training loss at the end, if that was asked for.
        loss: training loss at the end, likewise.
        accuracy: on the test split, at the end, likewise.
        updates: RMS update over lr at :data:`PLACES`, of AdaMomentum, and of Adam on the same gradients, once with
            AdaMomentum's eps and once with its own.
        below_eps: share of coordinates whose v is below what eps adds to it, at eps 1e-16 and at 1e-8, there.
        noise: mean over coordinates of r^2 / (1 + r^2), r the mean of the gradient over its standard deviation between
            batches, there.
    """

    sharpness: float = math.nan
    loss: float = math.nan
    accuracy: float = math.nan
    updates: list[tuple[float, float, float]] = field(default_factory=list)
    below_eps: list[tuple[float, float]] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)


def _optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    import torch

    from adamomentum import AdaMomentum

    lr, decay = TUNED[name]
    if name == "sgdm":
        return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=decay)
    if name == "adam":
        return torch.optim.Adam(model.parameters(), lr=lr, betas=BETAS, weight_decay=decay)
    return AdaMomentum(model.parameters(), lr=lr, betas=BETAS, eps=EPS, weight_decay=decay)


def train(name: str, seed: int, epochs: int, minimum: bool) -> Run:
    """Train the study's 1-D network on MNIST-1D, with warm-up and cosine, and measure.

    Args:
        name: of the optimizer, in :data:`TUNED`.
        seed: of weights and batches, which do not depend on the optimizer.
        epochs: over the training split.
        minimum: whether to measure what it ends in, which takes as long as many epochs.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from adamomentum.study import work
    from adamomentum.study.spec import CosineSchedule
    from adamomentum.study.tasks.vision.models import cnn1d
    from adamomentum.theory.sharpness import top_eigenvalue

    data = work.load("image-classification", {"data": "mnist1d", "model": "cnn1d"}, {})
    x, y = ({split: torch.as_tensor(part[split]) for split in ("train", "test")} for part in (data.x, data.y))
    x = {split: values.float().reshape(len(values), 1, -1) for split, values in x.items()}
    y = {split: values.long() for split, values in y.items()}
    torch.manual_seed(seed)
    model = cnn1d(1, 10)
    optimizer = _optimizer(name, model)
    order = torch.Generator().manual_seed(seed + 1)
    per_epoch = len(y["train"]) // BATCH
    steps = epochs * per_epoch
    places = {int(place * steps) for place in PLACES}
    # Adam on copies, which are given the model's gradients.
    copies = [[p.detach().clone() for p in model.parameters()] for _ in ADAM_EPS]
    adams = [torch.optim.Adam(copy, lr=1.0, betas=BETAS, eps=eps) for copy, eps in zip(copies, ADAM_EPS, strict=True)]
    measured, (lr, _), schedule = Run(), TUNED[name], CosineSchedule()

    def batch_loss(rows: Tensor) -> Tensor:
        return cross_entropy(model(x["train"][rows]), y["train"][rows])

    for step in range(steps):
        if step % per_epoch == 0:
            permutation = torch.randperm(len(y["train"]), generator=order)
        rows = permutation[step % per_epoch * BATCH :][:BATCH]
        optimizer.param_groups[0]["lr"] = schedule.rate(step, steps, lr)
        optimizer.zero_grad()
        torch.autograd.backward(batch_loss(rows))
        if name != "adamomentum":
            optimizer.step()
            continue
        for copy in copies:
            for own, p in zip(copy, model.parameters(), strict=True):
                own.grad = p.grad
        if step not in places:
            for each in (optimizer, *adams):
                each.step()
            continue
        group = optimizer.param_groups[0]
        lengths = [_length(optimizer, list(model.parameters()), group["lr"], group["weight_decay"])]
        lengths += [_length(adam, copy, 1.0, 0.0) for adam, copy in zip(adams, copies, strict=True)]
        measured.updates.append((lengths[0], lengths[1], lengths[2]))
        measured.below_eps.append(_below_eps(optimizer, step + 1))
        measured.noise.append(_signal(model, batch_loss, len(y["train"])))
    if not minimum:
        return measured
    params = list(model.parameters())
    everything = torch.arange(len(y["train"]))
    measured.sharpness = top_eigenvalue(lambda: batch_loss(everything), params)
    with torch.no_grad():
        measured.loss = float(batch_loss(everything))
        measured.accuracy = float((model(x["test"]).argmax(1) == y["test"]).float().mean())
    return measured


def _length(optimizer: torch.optim.Optimizer, params: list[Tensor], lr: float, weight_decay: float) -> float:
    """Make a step and return its RMS over lr, decoupled decay taken out, over the coordinates with a gradient."""
    import torch

    before = [p.detach() * (1 - lr * weight_decay) for p in params]
    optimizer.step()
    moved = torch.cat([((p.detach() - b) / lr).flatten() for p, b in zip(params, before, strict=True)])
    return float(moved[moved != 0].square().mean().sqrt())


def _below_eps(optimizer: torch.optim.Optimizer, t: int) -> tuple[float, float]:
    """Return the share of coordinates whose second moment is below what eps adds to it, at eps 1e-16 and 1e-8."""
    import torch

    states = (optimizer.state[p] for p in optimizer.param_groups[0]["params"])
    v = torch.cat([state["exp_avg_sq"].flatten() for state in states]) / (1 - BETAS[1] ** t)
    first, second = (float((v < eps / (1 - BETAS[1])).float().mean()) for eps in (1e-16, 1e-8))
    return first, second


def _signal(model: nn.Module, batch_loss: Any, rows: int) -> float:
    """Return the mean over coordinates of the squared mean of the batches' gradients over their mean square."""
    import torch

    params = list(model.parameters())
    count, gradients = rows // BATCH, []
    for i in range(count):
        loss = batch_loss(torch.arange(i * BATCH, (i + 1) * BATCH))
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, params)]))
    mean, square = torch.stack(gradients).mean(dim=0), torch.stack(gradients).square().mean(dim=0)
    # The mean of n batches still has 1 / n of their variance in it.
    signal = (mean**2 - square / count) / (1 - 1 / count)
    return max(0.0, float((signal / square)[square > 0].mean()))


def _noise(runs: list[Run], epochs: int) -> Claim:
    updates, signal = np.array([run.updates for run in runs]), np.array([run.noise for run in runs])
    below = np.array([run.below_eps for run in runs]).mean(axis=0)
    ratio = (updates[:, :, 0] / updates[:, :, 1]).mean(axis=0)
    by_eps = (updates[:, :, 1] / updates[:, :, 2]).mean(axis=0)
    share = signal.mean(axis=0)
    # r^2 / (1 + r^2) = share
    predicted = np.array([adam_equivalent_lr(1.0, BETAS[0], math.sqrt(s / (1 - s))) for s in share])
    places = ", ".join(f"{100 * place:.0f} %" for place in PLACES)

    def percent(shares: Array, digits: int) -> str:
        return ", ".join(f"{100 * s:.{digits}f} %" for s in shares)

    def apart(ratios: Array, what: str) -> Check:
        shown = ", ".join(f"{r:.2f}" for r in ratios)
        return Check(
            f"RMS update of {what}, on the same gradients, after {places} of the training: {shown}; must be above 2",
            bool((ratios > 2).all()),
        )

    return Claim(
        *NOISE,
        printed=(apart(ratio, "AdaMomentum over that of Adam"),),
        control=apart(by_eps, "Adam with AdaMomentum's eps over that of Adam with its own"),
        relied_on=True,
        note=f"MNIST-1D, a 1-D convolutional network, batches of {BATCH}, {epochs} epochs, {len(runs)} seeds. The "
        f"signal's share of the gradient's mean square is {percent(share, 1)} after {places}, which in stationary "
        f"noise would make the ratio {', '.join(f'{e:.2f}' for e in predicted)}: noise explains a part of it. "
        f"Coordinates whose v is below what eps adds: {percent(below[:, 0], 1)} at eps = 1e-16, and "
        f"{percent(below[:, 1], 0)} if it were 1e-8.",
        data={
            "places": PLACES,
            "ratio": ratio,
            "predicted": predicted,
            "signal": share,
            "below_eps": below,
            "updates": updates,
        },
    )


def _flatness(runs: dict[str, list[Run]], again: list[Run], epochs: int) -> Claim:
    """Compare the sharpness of the minima. ``again``: Adam's, with other seeds."""
    from adamomentum.study.statistics.paired import compare_paired

    def logarithms(group: list[Run]) -> list[float]:
        return [math.log10(max(run.sharpness, 1e-12)) for run in group]

    logs = {name: logarithms(group) for name, group in runs.items()}

    def shown(pairs: Paired) -> str:
        mean, low, high = pairs.difference.mean, pairs.difference.low, pairs.difference.high
        return f"{10**mean:.2f} ({10**low:.2f} to {10**high:.2f})"

    def flatter(a: list[float], b: list[float], which: str, sign: int = 1) -> Check:
        pairs = compare_paired(a, b)
        end = pairs.difference.high if sign > 0 else -pairs.difference.low
        return Check(
            f"largest eigenvalue of the Hessian, {which}, ratio over {pairs.n} pairs of runs with its 95 % interval: "
            f"{shown(pairs)}; must be {'below' if sign > 0 else 'above'} 1",
            end < 0,
        )

    ours, adam = logs["adamomentum"], logs["adam"]
    each = "; ".join(
        f"{LABELS[name]} eigenvalue {10 ** np.mean(logs[name]):.3g}, training loss "
        f"{np.mean([r.loss for r in group]):.3f}, test accuracy {100 * np.mean([r.accuracy for r in group]):.1f} %"
        for name, group in runs.items()
    )
    beside_sgd = shown(compare_paired(ours, logs["sgdm"]))
    return Claim(
        *FLATNESS,
        printed=(flatter(ours, adam, "AdaMomentum over Adam"),),
        against=(flatter(ours, adam, "AdaMomentum over Adam", sign=-1),),
        control=flatter(logarithms(again), adam, "Adam over Adam with other seeds"),
        note=f"{each}. AdaMomentum over SGD + momentum: {beside_sgd}. MNIST-1D, {epochs} epochs, learning rates and "
        "weight decays as the study tuned them, geometric means. The eigenvalue of a cross-entropy depends on how far "
        "it was driven down and on the scale of the weights, which decay changes: flatter is not better by itself.",
        data={
            "names": list(runs),
            "sharpness": {name: [run.sharpness for run in group] for name, group in runs.items()},
            "loss": {name: [run.loss for run in group] for name, group in runs.items()},
            "accuracy": {name: [run.accuracy for run in group] for name, group in runs.items()},
        },
    )


def draw_updates(ax: Axes, data: Data) -> None:
    """Draw the length of AdaMomentum's updates over Adam's along the training."""
    places = 100 * np.asarray(data["places"])
    ax.plot(places, data["ratio"], "o-", color=COLOURS["adamomentum"], label="measured")
    ax.plot(places, data["predicted"], "o--", color=COLOURS["adam"], label="from signal to noise alone")
    ax.set_ylim(0, None)
    ax.set_xlabel("training, %")
    ax.set_ylabel("RMS update over Adam's, same gradients")
    ax.set_title("How much farther AdaMomentum moves")
    ax.legend(loc="lower right")


def draw_sharpness(ax: Axes, data: Data) -> None:
    """Draw the largest eigenvalue against training loss at the end, a dot a run."""
    for name in data["names"]:
        eigenvalues, losses = np.asarray(data["sharpness"][name]), np.asarray(data["loss"][name])
        ax.plot(losses, eigenvalues, "o", color=COLOURS[name], label=LABELS[name])
    ax.set_yscale("log")
    ax.set_xscale("log")
    ax.set_xlabel("training loss at the end")
    ax.set_ylabel("largest eigenvalue of the Hessian")
    ax.set_title("Sharpness of what was found")
    ax.legend(loc="best")


DRAWINGS = {
    "network-noise": Drawing(draw_updates, "Mean over the seeds.", file="updates"),
    "network-flatness": Drawing(draw_sharpness, "MNIST-1D, a dot a run.", file="sharpness"),
}
