"""From toys to a network: what eps, noise and sharpness are in the training of a small convolutional network."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adamomentum.theory.claims import Check, Claim, Experiment, Profile
from adamomentum.theory.moments import adam_equivalent_lr
from adamomentum.theory.steppers import LABELS

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from adamomentum.study.statistics.paired import Paired

Array = NDArray[np.float64]

# As the study tuned them on this task (docs/results): lr, weight decay.
TUNED = {"sgdm": (0.127, 1.65e-4), "adam": (0.0351, 5.23e-4), "adamomentum": (0.00615, 0.625)}
BATCH, BETAS, EPS = 64, (0.9, 0.999), 1e-16
# Seeds, epochs; the study trains for 50.
SIZES = {"quick": (5, 8), "full": (10, 50)}
PLACES = (0.1, 0.5, 0.9)


def run(profile: Profile, seed: int) -> list[Claim]:
    """Trains the network with each optimizer."""
    seeds, epochs = SIZES[profile]
    runs = {name: [train(name, 1000 * seed + i, epochs) for i in range(seeds)] for name in TUNED}
    return [_noise(runs["adamomentum"], epochs), _flatness(runs, epochs)]


@dataclass
class Run:
    """What was measured in a training run.

    Attributes:
        sharpness: largest eigenvalue of the Hessian of the training loss at the end.
        loss: training loss at the end.
        accuracy: on the test split, at the end.
        updates: RMS update over lr at :data:`PLACES`, of AdaMomentum and of Adam's rule on the same gradients.
        below_eps: share of coordinates whose v is below what eps adds to it, at eps 1e-16 and at 1e-8, there.
        noise: mean over coordinates of r^2 / (1 + r^2), r the mean of the gradient over its standard deviation between
            batches, there.
    """

    sharpness: float = math.nan
    loss: float = math.nan
    accuracy: float = math.nan
    updates: list[tuple[float, float]] = field(default_factory=list)
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


def train(name: str, seed: int, epochs: int) -> Run:
    """Trains the study's 1-D network on MNIST-1D, warm-up and cosine, and measures.

    Args:
        name: of the optimizer, in :data:`TUNED`.
        seed: of weights and batches, which do not depend on the optimizer.
        epochs: over the training split.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from adamomentum.study import work
    from adamomentum.study.spec import CosineSchedule
    from adamomentum.study.tasks.vision_models import cnn1d
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
    shadow = [torch.zeros_like(p) for p in model.parameters()]  # Adam's v, of the same gradients
    found, (lr, _), schedule = Run(), TUNED[name], CosineSchedule()

    def batch_loss(rows: Tensor) -> Tensor:
        return cross_entropy(model(x["train"][rows]), y["train"][rows])

    for step in range(steps):
        if step % per_epoch == 0:
            permutation = torch.randperm(len(y["train"]), generator=order)
        rows = permutation[step % per_epoch * BATCH :][:BATCH]
        optimizer.param_groups[0]["lr"] = schedule.rate(step, steps, lr)
        optimizer.zero_grad()
        torch.autograd.backward(batch_loss(rows))
        for v, p in zip(shadow, model.parameters(), strict=True):
            if p.grad is not None:
                v.mul_(BETAS[1]).addcmul_(p.grad, p.grad, value=1 - BETAS[1])
        optimizer.step()
        if name == "adamomentum" and step in places:
            _measure(found, optimizer, shadow, step + 1)
            found.noise.append(_signal(model, batch_loss, len(y["train"])))
    params = list(model.parameters())
    everything = torch.arange(len(y["train"]))
    found.sharpness = top_eigenvalue(lambda: batch_loss(everything), params)
    with torch.no_grad():
        found.loss = float(batch_loss(everything))
        found.accuracy = float((model(x["test"]).argmax(1) == y["test"]).float().mean())
    return found


def _measure(found: Run, optimizer: torch.optim.Optimizer, shadow: list[Tensor], t: int) -> None:
    """Adds the length of the updates and the share of coordinates that eps decides."""
    import torch

    states = [optimizer.state[p] for p in optimizer.param_groups[0]["params"]]
    c1, c2 = 1 - BETAS[0] ** t, 1 - BETAS[1] ** t
    m = torch.cat([state["exp_avg"].flatten() for state in states]) / c1
    v = torch.cat([state["exp_avg_sq"].flatten() for state in states]) / c2
    adams = torch.cat([v.flatten() for v in shadow]) / c2
    alive = adams > 0
    rms = [float((m[alive].square() / w[alive]).mean().sqrt()) for w in (v + EPS / (1 - BETAS[1]), adams)]
    found.updates.append((rms[0], rms[1]))
    below = [float((v < eps / (1 - BETAS[1])).float().mean()) for eps in (1e-16, 1e-8)]
    found.below_eps.append((below[0], below[1]))


def _signal(model: nn.Module, batch_loss: Any, rows: int) -> float:
    """Mean over coordinates of the squared mean of the batches' gradients over their mean square."""
    import torch

    params = list(model.parameters())
    count, gradients = rows // BATCH, []
    for i in range(count):
        loss = batch_loss(torch.arange(i * BATCH, (i + 1) * BATCH))
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, params)]))
    mean, square = torch.stack(gradients).mean(dim=0), torch.stack(gradients).square().mean(dim=0)
    # The mean of n batches still has 1 / n of their variance in it.
    signal = ((mean**2 - square / count) / (1 - 1 / count)).clamp(min=0)
    return float((signal / square)[square > 0].mean())


def _noise(runs: list[Run], epochs: int) -> Claim:
    updates, signal = np.array([run.updates for run in runs]), np.array([run.noise for run in runs])
    below = np.array([run.below_eps for run in runs]).mean(axis=0)
    ratio = (updates[:, :, 0] / updates[:, :, 1]).mean(axis=0)
    share = signal.mean(axis=0)
    # r^2 / (1 + r^2) = share
    predicted = np.array([adam_equivalent_lr(1.0, BETAS[0], math.sqrt(s / (1 - s))) for s in share])
    places = ", ".join(f"{100 * place:.0f} %" for place in PLACES)

    def percent(shares: Array, digits: int) -> str:
        return ", ".join(f"{100 * s:.{digits}f} %" for s in shares)

    def apart(ratios: Array, what: str) -> Check:
        shown = ", ".join(f"{r:.2f}" for r in ratios)
        return Check(
            f"RMS update of {what} rule, on the same gradients, after {places} of the training: {shown}; must be "
            "above 2",
            bool((ratios > 2).all()),
        )

    return Claim(
        key="network-noise",
        title="In the training of a network too, gradients are noisy enough for AdaMomentum to move several times "
        "as far as "
        "Adam at equal lr",
        source="this library",
        printed=(apart(ratio, "AdaMomentum over that of Adam's"),),
        control=apart(1 / ratio, "Adam over that of AdaMomentum's"),
        note=f"MNIST-1D, a 1-D convolutional network, batches of {BATCH}, {epochs} epochs, {len(runs)} seeds. The "
        f"signal's share of the gradient's mean square is {percent(share, 1)} after {places}, which alone would make "
        f"the ratio {', '.join(f'{e:.2f}' for e in predicted)}: gradients that change their sign, and large "
        "ones of the start that v remembers, add to it. Coordinates whose v is below what eps adds: "
        f"{percent(below[:, 0], 1)} at eps = 1e-16, and {percent(below[:, 1], 0)} if it were 1e-8.",
        data={"places": PLACES, "ratio": ratio, "predicted": predicted, "signal": share, "below_eps": below},
    )


def _flatness(runs: dict[str, list[Run]], epochs: int) -> Claim:
    from adamomentum.study.statistics.paired import compare_paired

    logs = {name: [math.log10(max(run.sharpness, 1e-12)) for run in made] for name, made in runs.items()}

    def shown(found: Paired) -> str:
        mean, low, high = found.difference.mean, found.difference.low, found.difference.high
        return f"{10**mean:.2f} ({10**low:.2f} to {10**high:.2f})"

    def flatter(a: list[float], b: list[float], which: str, sign: int = 1) -> Check:
        found = compare_paired(a, b)
        end = found.difference.high if sign > 0 else -found.difference.low
        return Check(
            f"largest eigenvalue of the Hessian, {which}, ratio over {found.n} pairs of runs with its 95 % interval: "
            f"{shown(found)}; must be {'below' if sign > 0 else 'above'} 1",
            end < 0,
        )

    ours, adam = logs["adamomentum"], logs["adam"]
    each = "; ".join(
        f"{LABELS[name]} eigenvalue {10 ** np.mean(logs[name]):.3g}, training loss "
        f"{np.mean([r.loss for r in made]):.3f}, "
        f"test accuracy {100 * np.mean([r.accuracy for r in made]):.1f} %"
        for name, made in runs.items()
    )
    beside_sgd = shown(compare_paired(ours, logs["sgdm"]))
    return Claim(
        key="network-flatness",
        title="The minima that AdaMomentum finds are flatter than Adam's",
        source="the paper's section on flat minima",
        printed=(flatter(ours, adam, "AdaMomentum over Adam"),),
        against=(flatter(ours, adam, "AdaMomentum over Adam", sign=-1),),
        control=flatter(adam, adam[1:] + adam[:1], "Adam over Adam with other seeds"),
        note=f"{each}. AdaMomentum over SGD + momentum: {beside_sgd}. MNIST-1D, {epochs} epochs, learning rates and "
        "weight decays as the study tuned them, geometric means. The eigenvalue of a cross-entropy depends on how far "
        "it was driven down and on the scale of the weights, which decay changes: flatter is not better by itself.",
        data={
            "names": list(runs),
            "sharpness": {name: [run.sharpness for run in made] for name, made in runs.items()},
            "loss": {name: [run.loss for run in made] for name, made in runs.items()},
            "accuracy": {name: [run.accuracy for run in made] for name, made in runs.items()},
        },
    )


EXPERIMENTS = (Experiment("network", run),)
