"""Feature networks on whose outputs generated and real images are compared, and the distances between them.

A Fréchet distance means something only together with the network and the real images it was computed with: each
network has a name, which is part of a trial's parameters.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

DIGITS = "digits-cnn64-v1"
INCEPTION = "inception"
INCEPTION_FILE = "inception-2015-12-05.pt"
NO_INCEPTION = (
    f"features {INCEPTION!r} need the weights of the Inception network: put NVIDIA's {INCEPTION_FILE} (of StyleGAN's "
    "metrics), or another TorchScript file of that name that maps uint8 images [n, 3, 299, 299] to features, beside "
    "the images, in the folder of what --data cifar10=PATH names"
)
Features = Callable[[Tensor], Tensor]
"""Maps images, float32 [n, channels, h, w] in [-1, 1], to features [n, k]."""


class DigitsCnn(nn.Module):
    """A classifier of 8 x 8 digits; its 64 features before the last layer are what is compared."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3, 1, 1), nn.Conv2d(16, 32, 3, 2, 1)
        self.hidden, self.output = nn.Linear(32 * 4 * 4, 64), nn.Linear(64, 10)

    def features(self, images: Tensor) -> Tensor:
        """Maps [n, 1, 8, 8] to [n, 64]."""
        x = F.relu(self.conv2(F.relu(self.conv1(images))))
        return F.relu(self.hidden(x.flatten(1)))

    def forward(self, images: Tensor) -> Tensor:
        """Maps [n, 1, 8, 8] to logits [n, 10]."""
        out: Tensor = self.output(self.features(images))
        return out


def load(name: str, device: torch.device, weights: Path | None = None) -> Features:
    """Returns the feature network called ``name``.

    Args:
        name: ``digits-cnn64-v1``, whose weights come with the library, or ``inception``.
        device: where it runs.
        weights: for ``inception``: a TorchScript file that maps uint8 images [n, 3, 299, 299] to features.

    Raises:
        ValueError: if there is no such network, or its weights are missing.
    """
    if name == DIGITS:
        net = DigitsCnn()
        data = (resources.files("adamomentum.study.tasks") / f"{DIGITS}.npz").read_bytes()
        with np.load(io.BytesIO(data)) as file:
            net.load_state_dict({key: torch.from_numpy(file[key].astype(np.float32)) for key in file.files})
        net.to(device).eval().requires_grad_(False)
        return net.features
    if name == INCEPTION:
        if weights is None or not weights.is_file():
            raise ValueError(f"{NO_INCEPTION}; got {weights}")
        script = torch.jit.load(str(weights), map_location=device).eval()

        def inception(images: Tensor) -> Tensor:
            large = F.interpolate(images, size=(299, 299), mode="bilinear", align_corners=False)
            pixels = ((large + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            out: Tensor = script(pixels, return_features=True) if _takes_flag(script) else script(pixels)
            return out.flatten(1).float()

        return inception
    raise ValueError(f"unknown features {name!r}; allowed: {DIGITS}, {INCEPTION}")


def _takes_flag(script: torch.jit.ScriptModule) -> bool:
    schema: Any = getattr(script.forward, "schema", None)
    return schema is not None and any(argument.name == "return_features" for argument in schema.arguments)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Returns the squared Fréchet distance of the Gaussians fitted to two sets of features, [n, k] and [m, k].

    |mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Dowson and Landau 1982; Heusel et al. 2017), in float64.
    The trace of the root comes from the symmetric matrix C_a^(1/2) C_b C_a^(1/2), whose eigenvalues are the same.
    """
    a, b = a.double(), b.double()
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        return float("nan")
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    mean = (a.mean(0) - b.mean(0)).square().sum()
    return float((mean + cov_a.trace() + cov_b.trace() - 2 * cross).clamp_min(0))


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Returns the share of fakes within the reals' manifold and of reals within the fakes' (arXiv 1904.06991).

    A point lies within a set's manifold if it is as near to one of its points as that one's k-th neighbour is.
    """
    real, fake = real.double(), fake.double()

    def radii(points: Tensor) -> Tensor:
        # The nearest is the point itself.
        return torch.cdist(points, points).kthvalue(k + 1, 1).values

    distances = torch.cdist(fake, real)
    precision = (radii(real) >= distances).any(1).double().mean()
    recall = (radii(fake) >= distances.T).any(1).double().mean()
    return float(precision), float(recall)


def train_digits_cnn() -> tuple[DigitsCnn, float]:
    """Trains ``DigitsCnn`` on four fifths of the digits; returns it, rounded to float16, and its accuracy on the last.

    The weights that come with the library were made by this function.
    """
    from adamomentum.study.data.digits import digits

    data = digits()
    x = torch.from_numpy(data.x["train"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    y = torch.from_numpy(data.y["train"])
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(y), generator=generator)
    train, held_out = order[: len(y) * 4 // 5], order[len(y) * 4 // 5 :]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = DigitsCnn()
        steps, size = 3000, 64
        optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            batch = train[torch.randint(len(train), (size,), generator=generator)]
            optimizer.zero_grad()
            F.cross_entropy(net(x[batch]), y[batch], label_smoothing=0.05).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(p.half().float())
        accuracy = (net(x[held_out]).argmax(1) == y[held_out]).float().mean().item()
    return net, accuracy


if __name__ == "__main__":
    made, reached = train_digits_cnn()
    path = Path(__file__).parent / f"{DIGITS}.npz"
    np.savez_compressed(path, **{key: value.half().numpy() for key, value in made.state_dict().items()})
    print(f"{path}: {100 * reached:.2f} % of the held-out fifth")
