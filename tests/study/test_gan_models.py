"""Networks of GANs: shapes, norms, beginnings, what sees what."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from adamomentum.study.tasks.gan.augment import mirrored, shifted
from adamomentum.study.tasks.gan.layers import ConditionalNorm, spectral_norm
from adamomentum.study.tasks.gan.models import MODELS
from adamomentum.study.tasks.gan.residual import DownBlock, UpBlock
from adamomentum.study.tasks.gan.run import average_of

CPU = torch.device("cpu")
LABELLED = ("sngan", "biggan")


def small(name: str) -> tuple[nn.Module, nn.Module, int, int]:
    torch.manual_seed(0)
    kind = MODELS[name]
    channels = 1 if kind.side == 8 else 3
    return kind.generator(8, 6, 10, channels), kind.discriminator(6, 10, channels), channels, kind.side


@pytest.mark.parametrize("name", list(MODELS))
def test_shapes_and_spectral_norms(name) -> None:
    generator, discriminator, channels, side = small(name)
    labels = torch.arange(4)
    images = generator(torch.randn(4, 8), labels)
    assert images.shape == (4, channels, side, side)
    assert images.abs().max() <= 1
    for _ in range(30):
        scores = discriminator(images, labels)
    assert scores.shape == (4,)
    normed = [m for m in discriminator.modules() if parametrize.is_parametrized(m)]
    plain = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d | nn.Linear) and m not in normed]
    assert (bool(normed), len(plain)) == ((False, 8) if name == "dcgan" else (True, 0))
    for module in normed:
        norm = torch.linalg.matrix_norm(module.weight.detach().flatten(1), 2)
        assert norm == pytest.approx(1, rel=0.02)
    normed = [m for m in generator.modules() if parametrize.is_parametrized(m)]
    assert bool(normed) == (name == "biggan")


@pytest.mark.parametrize("name", list(MODELS))
def test_who_knows_the_labels(name) -> None:
    generator, discriminator, *_ = small(name)
    generator.eval(), discriminator.eval()
    noise, labels = torch.randn(4, 8), torch.arange(4)
    images, others = generator(noise, labels), generator(noise, labels + 1)
    assert torch.equal(images, others) == (name not in LABELLED)
    assert torch.equal(discriminator(images, labels), discriminator(images, labels + 1)) == (name not in LABELLED)


def test_full_sizes() -> None:
    def count(module):
        return sum(p.numel() for p in module.parameters())

    expected = {
        "sn-dcgan": (25_105, 8_897),
        "dcgan": (3_812_355, 2_931_009),
        "sngan": (4_304_387, 1_055_105),
        "biggan": (9_416_196, 2_415_170),
    }
    for name, kind in MODELS.items():
        channels = 1 if kind.side == 8 else 3
        pair = (
            kind.generator(kind.latent, kind.widths[0], 10, channels),
            kind.discriminator(kind.widths[1], 10, channels),
        )
        assert tuple(count(net) for net in pair) == expected[name]


@pytest.mark.parametrize("name", ["dcgan", "sngan", "biggan"])
def test_weights_begin_orthogonal(name) -> None:
    generator, discriminator, *_ = small(name)
    for net in (generator, discriminator):
        layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding)]
        assert layers
        for layer in layers:
            weight = layer.parametrizations.weight.original if parametrize.is_parametrized(layer) else layer.weight
            rows = weight.detach().flatten(1)
            rows = rows if rows.shape[0] <= rows.shape[1] else rows.T
            assert torch.allclose(rows @ rows.T, torch.eye(len(rows)), atol=1e-5)
            assert getattr(layer, "bias", None) is None or not layer.bias.any()


def test_spectral_norm_is_exact_within_autocast() -> None:
    torch.manual_seed(0)
    layer = spectral_norm(nn.Linear(40, 30))
    twin = spectral_norm(nn.Linear(40, 30))
    twin.load_state_dict(layer.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = layer.weight
        assert layer(torch.rand(2, 40)).dtype == torch.bfloat16
    assert torch.equal(inside, twin.weight)


def test_batches_are_normalized_alone() -> None:
    _, discriminator, *_ = small("dcgan")
    labels = torch.zeros(4, dtype=torch.int64)
    real, fake = torch.rand(4, 3, 32, 32), -torch.rand(4, 3, 32, 32)
    alone = discriminator(real, labels)
    both = torch.cat([real, fake])
    assert torch.allclose(discriminator(both, labels.repeat(2), 2)[:4], alone, atol=1e-6)
    assert not torch.allclose(discriminator(both, labels.repeat(2))[:4], alone, atol=1e-2)


def test_shortcuts_are_what_the_papers_say() -> None:
    torch.manual_seed(0)
    x, label = torch.randn(2, 4, 8, 8), torch.zeros(2, dtype=torch.int64)
    up, down = UpBlock(4, 10).eval(), DownBlock(4, 4, True).eval()
    for block in (up, down):
        nn.init.normal_(block.shortcut.bias)
        block.conv2.forward = torch.zeros_like
    assert torch.allclose(up(x, label), up.shortcut(nn.functional.interpolate(x, scale_factor=2)), atol=1e-5)
    assert torch.allclose(down(x), nn.functional.avg_pool2d(down.shortcut(x), 2), atol=1e-5)


def test_a_condition_scales_and_shifts() -> None:
    norm = ConditionalNorm(2, 3)
    with torch.no_grad():
        norm.scale.weight[1], norm.shift.weight[1] = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 5.0])
    x = torch.randn(8, 2, 4, 4)
    y = norm(x, torch.ones(8, dtype=torch.int64))
    assert y.std((0, 2, 3), correction=0).tolist() == pytest.approx([2, 1], rel=1e-3)
    assert y.mean((0, 2, 3)).tolist() == pytest.approx([0, 5], abs=1e-5)


def test_the_average_follows_and_then_lags() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = average_of(model, 0.9, 2)
    seen = []
    for k in range(4):
        with torch.no_grad():
            model[0].weight.fill_(float(k))
            model[1].running_mean.fill_(float(k))
        model[1].num_batches_tracked.fill_(k)
        average.update_parameters(model)
        seen.append((average.module[0].weight[0, 0].item(), average.module[1].running_mean[0].item()))
    assert seen == [(0, 0), (1, 1), pytest.approx((1.1, 1.1)), pytest.approx((1.29, 1.29))]
    assert average.module[1].num_batches_tracked == 3


def test_images_are_mirrored_as_wholes() -> None:
    torch.manual_seed(0)
    images = torch.rand(16, 3, 8, 8)
    changed = mirrored(images, CPU)
    same = [torch.equal(a, b) for a, b in zip(images, changed, strict=True)]
    other = [torch.equal(a.flip(2), b) for a, b in zip(images, changed, strict=True)]
    assert all(a != b for a, b in zip(same, other, strict=True))
    assert 0 < sum(same) < 16


def test_images_are_shifted_as_wholes_and_reflected_at_the_border() -> None:
    torch.manual_seed(0)
    # Each pixel says where it was.
    rows, columns = torch.arange(16.0)[:, None].expand(16, 16), torch.arange(16.0).expand(16, 16)
    images = torch.stack([rows, columns]).repeat(40, 1, 1, 1)
    moves = set()
    for image in shifted(images, CPU):
        dy, dx = int(image[0, 8, 8]) - 8, int(image[1, 8, 8]) - 8
        moves.add((dy, dx))
        expected = [torch.nn.functional.pad(part[None, None], (2, 2, 2, 2), mode="reflect")[0, 0] for part in images[0]]
        for channel, padded in zip(image, expected, strict=True):
            assert torch.equal(channel, padded[2 + dy : 18 + dy, 2 + dx : 18 + dx])
    assert {abs(d) for move in moves for d in move} == {0, 1, 2}
