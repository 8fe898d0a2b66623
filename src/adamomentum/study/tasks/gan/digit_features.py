"""The network on whose features digits are compared, ``digits-cnn64-v1``, and how its weights were made.

``python -m adamomentum.study.tasks.gan.digit_features`` trains it and writes ``digits-cnn64-v1.npz`` beside this file.
Other weights give other distances: they would need another name.

Tested in tests/study/test_gan_data.py.
"""

from __future__ import annotations

import io
from importlib import resources
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

NAME = "digits-cnn64-v1"


class DigitsCnn(nn.Module):
    """A classifier of 8 x 8 digits; its 64 features before the last layer are what is compared."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3, 1, 1), nn.Conv2d(16, 32, 3, 2, 1)
        self.hidden, self.output = nn.Linear(32 * 4 * 4, 64), nn.Linear(64, 10)

    def features(self, images: Tensor) -> Tensor:
        """Map [n, 1, 8, 8], in [-1, 1], to [n, 64]."""
        x = F.relu(self.conv2(F.relu(self.conv1(images))))
        return F.relu(self.hidden(x.flatten(1)))

    def forward(self, images: Tensor) -> Tensor:
        """Map [n, 1, 8, 8], in [-1, 1], to logits [n, 10]."""
        out: Tensor = self.output(self.features(images))
        return out


def load_digits_cnn() -> DigitsCnn:
    """Return the network with the weights that come with the library (float16 in the file)."""
    net = DigitsCnn()
    data = (resources.files(__package__) / f"{NAME}.npz").read_bytes()
    with np.load(io.BytesIO(data)) as file:
        net.load_state_dict({key: torch.from_numpy(file[key].astype(np.float32)) for key in file.files})
    return net.eval().requires_grad_(False)


def digits_in_fifths() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the four fifths of the digits on which it was trained and the last: images [n, 1, 8, 8], labels [n].

    Raises:
        DataError: if the digits cannot be had.
    """
    from adamomentum.study.data.digits import digits

    data = digits()
    x = torch.from_numpy(data.x["train"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    y = torch.from_numpy(data.y["train"])
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    train, held_out = order[: len(y) * 4 // 5], order[len(y) * 4 // 5 :]
    return (x[train], y[train]), (x[held_out], y[held_out])


def accuracy(net: DigitsCnn, images: Tensor, labels: Tensor) -> float:
    """Return the share of ``images`` that ``net`` recognizes."""
    with torch.no_grad():
        return float((net(images).argmax(1) == labels).float().mean())


def train_digits_cnn(steps: int = 3000) -> DigitsCnn:
    """Trains the network on four fifths of the digits and rounds it to float16.

    Raises:
        DataError: if the digits cannot be had.
    """
    (x, y), (_, rest) = digits_in_fifths()
    generator = torch.Generator().manual_seed(0)
    torch.randperm(len(y) + len(rest), generator=generator)  # the batches follow on the split's numbers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = DigitsCnn()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = torch.randint(len(y), (64,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(net(x[batch]), y[batch], label_smoothing=0.05).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(p.half().float())
    return net


if __name__ == "__main__":
    network = train_digits_cnn()
    path = Path(__file__).parent / f"{NAME}.npz"
    np.savez_compressed(path, **{key: value.half().numpy() for key, value in network.state_dict().items()})
    print(f"{path}: {100 * accuracy(network, *digits_in_fifths()[1]):.2f} % of the held-out fifth")
