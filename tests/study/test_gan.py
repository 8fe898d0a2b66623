"""GANs: distances, networks, and trials on the digits and on tiny colour images."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.linalg
import torch
from study.trials import bfloat16_stays_near, goes_on_bit_for_bit, spec_of, two_processes

from adamomentum.study.data.digits import digits
from adamomentum.study.data.images import ImageData
from adamomentum.study.data.wheel import DataError
from adamomentum.study.spec import Budget
from adamomentum.study.tasks import features
from adamomentum.study.tasks.features import frechet_distance, precision_recall
from adamomentum.study.tasks.gan import Gan, GanData, Settings, _GanRun, _moved
from adamomentum.study.tasks.gan_models import MODELS
from adamomentum.study.trial import run_trial


def images_of(name, x, y, rows) -> ImageData:
    parts = {split: (x[part], y[part]) for split, part in rows.items()}
    return ImageData(
        name, {s: p[0] for s, p in parts.items()}, {s: p[1] for s, p in parts.items()}, tuple("0123456789")
    )


@pytest.fixture(scope="module")
def data() -> GanData:
    """Blurred squares of 8 x 8: no download."""
    rng = np.random.default_rng(0)
    x = np.zeros((96, 8, 8, 1), np.uint8)
    for image in x:
        r, c = rng.integers(1, 5, 2)
        image[r : r + 3, c : c + 3] = 255
    y = rng.integers(0, 10, 96)
    rows = {"train": slice(None), "val": slice(0, 48), "test": slice(48, None)}
    return GanData(
        ImageData(
            "squares", {k: x[v] for k, v in rows.items()}, {k: y[v] for k, v in rows.items()}, tuple("0123456789")
        )
    )


@pytest.fixture(scope="module")
def colour() -> GanData:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (48, 32, 32, 3), dtype=np.uint8)
    y = rng.integers(0, 10, 48)
    rows = {"train": slice(None), "val": slice(0, 24), "test": slice(24, None)}
    return GanData(images_of("noise", x, y, rows))


SMALL = {"width": 6, "latent": 8, "samples": 100}


def spec(data, params=None, **fields):
    fields = {"budget": Budget(steps=8, batch_size=16, evaluations=4), **fields}
    return spec_of("gan", data, {"data": "digits", "model": "sn-dcgan", **SMALL, **(params or {})}, **fields)


# --- distances ---


def test_the_frechet_distance_of_two_gaussians_is_known() -> None:
    # Commuting covariances: |mean|^2 + sum (sqrt a - sqrt b)^2. Samples that have exactly these moments.
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(400, 5))
    raw -= raw.mean(0)
    white = raw @ np.linalg.inv(scipy.linalg.sqrtm(np.cov(raw.T)))
    a, b = np.array([1.0, 2, 3, 4, 5]), np.array([4.0, 1, 3, 9, 2])
    shift = np.arange(5.0)
    first, second = torch.from_numpy(white * np.sqrt(a)), torch.from_numpy(white * np.sqrt(b) + shift)
    expected = (shift**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_against_scipy() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(70, 6)) @ rng.normal(size=(6, 6)) + 1
    c, d = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(c @ d).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c + d - 2 * root)
    found = frechet_distance(torch.from_numpy(x), torch.from_numpy(y))
    assert found == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(torch.from_numpy(y), torch.from_numpy(x)) == pytest.approx(found, rel=1e-9)


def test_a_network_that_blew_up_has_no_distance() -> None:
    assert np.isnan(frechet_distance(torch.full((9, 2), torch.nan), torch.rand(9, 2)))


def test_precision_and_recall_of_points_whose_answer_is_plain() -> None:
    real = torch.arange(10.0)[:, None]
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real, real + 1000) == (0.0, 0.0)
    # One tight spot among the reals: all of it is real, next to nothing of the reals is covered.
    spot = 5 + torch.linspace(0, 1e-3, 10)[:, None]
    precision, recall = precision_recall(real, spot)
    assert precision == 1.0
    assert recall <= 0.1


# --- features ---


def test_the_digits_and_their_features() -> None:
    try:
        images = digits()
    except DataError as error:
        pytest.skip(str(error))
    assert images.x["train"].shape == (1797, 8, 8, 1)
    assert images.x["train"].max() == 255
    assert len(images.y["val"]) + len(images.y["test"]) == 1797
    net = features.load(features.DIGITS, torch.device("cpu")).__self__
    x = torch.from_numpy(images.x["train"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert (net(x).argmax(1).numpy() == images.y["train"]).mean() > 0.99
    found = Gan().baselines(GanData(images))
    assert found["real images"]["test_fid"] < 0.1 * found["Gaussian pixels"]["test_fid"]
    assert found["real images"]["test_precision"] > 0.8 > found["Gaussian pixels"]["test_precision"]


@pytest.mark.slow
def test_the_weights_are_what_their_script_makes() -> None:
    try:
        net, accuracy = features.train_digits_cnn()
    except DataError as error:
        pytest.skip(str(error))
    assert accuracy > 0.98
    shipped = features.load(features.DIGITS, torch.device("cpu")).__self__
    images = torch.rand(64, 1, 8, 8) * 2 - 1
    # Another processor rounds otherwise and ends elsewhere, but not far.
    a, b = net.features(images), shipped.features(images)
    assert torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), 0) > 0.95


def test_other_features_say_what_they_need(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"put NVIDIA's inception-2015-12-05\.pt"):
        features.load(features.INCEPTION, torch.device("cpu"))
    with pytest.raises(ValueError, match="allowed: digits-cnn64-v1, inception"):
        features.load("vgg", torch.device("cpu"))
    net = torch.jit.trace(torch.nn.Sequential(torch.nn.AvgPool2d(100)), torch.zeros(1, 3, 299, 299, dtype=torch.float))

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x.float())

    torch.jit.script(Wrapped()).save(tmp_path / "inception.pt")
    found = features.load(features.INCEPTION, torch.device("cpu"), tmp_path / "inception.pt")
    assert found(torch.zeros(2, 3, 32, 32)).shape == (2, 12)


# --- networks ---


@pytest.mark.parametrize("name", list(MODELS))
def test_shapes_and_spectral_norms(name) -> None:
    torch.manual_seed(0)
    kind, side, channels = MODELS[name], 8 if name == "sn-dcgan" else 32, 1 if name == "sn-dcgan" else 3
    generator, discriminator = kind.generator(8, 6, 10, channels), kind.discriminator(6, 10, channels)
    labels = torch.randint(10, (4,))
    images = generator(torch.randn(4, 8), labels)
    assert images.shape == (4, channels, side, side)
    assert images.abs().max() <= 1
    for _ in range(30):
        scores = discriminator(images, labels)
    assert scores.shape == (4,)
    normed = [m for m in discriminator.modules() if torch.nn.utils.parametrize.is_parametrized(m)]
    assert bool(normed) == (name != "dcgan")
    for module in normed:
        norm = torch.linalg.matrix_norm(module.weight.detach().flatten(1), 2)
        assert norm == pytest.approx(1, rel=0.02)
    other = discriminator(images, (labels + 1) % 10)
    assert torch.equal(other, scores) != kind.conditional or not kind.conditional


def test_full_sizes_are_those_of_the_papers_order() -> None:
    def count(module):
        return sum(p.numel() for p in module.parameters())

    sngan = MODELS["sngan"]
    assert count(sngan.generator(sngan.latent, sngan.width, 10, 3)) == pytest.approx(4.3e6, rel=0.05)
    assert count(sngan.discriminator(sngan.width, 10, 3)) == pytest.approx(4.2e6, rel=0.2)
    small = MODELS["sn-dcgan"]
    assert count(small.generator(small.latent, small.width, 10, 1)) == 25_105
    assert count(small.discriminator(small.width, 10, 1)) == 8_897


def test_images_are_moved_as_wholes() -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 1, 32, 32).expand(8, 3, 32, 32) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    moved = _moved(images)
    assert torch.equal(moved[:, 2], 3 * moved[:, 0])
    assert not torch.equal(moved, images)


# --- trials ---


def test_a_trial_and_its_samples(data) -> None:
    result = run_trial(spec(data, budget=Budget(steps=120, batch_size=16, evaluations=4)), data)
    assert result.status == "ok", result.error
    assert set(result.final) >= {
        "val_fid",
        "val_fid_last3",
        "test_fid",
        "test_fid_last3",
        "test_precision",
        "test_recall",
    }
    assert result.final["val_fid"] == result.curve["val_fid"][-1]
    assert result.samples["shape"] == [8, 8, 1]
    assert np.array(result.samples["images"]).shape == (64, 64)
    json.dumps(result.model_dump(mode="json"), allow_nan=False)


def test_the_last_three_are_the_last_three_points_of_the_curve(data) -> None:
    result = run_trial(spec(data, {"samples": 2000}, budget=Budget(steps=60, batch_size=16, evaluations=6)), data)
    # Other noise than in the curve: equal up to sampling.
    assert result.final["val_fid_last3"] == pytest.approx(np.mean(result.curve["val_fid"][-3:]), rel=0.1)


def test_evaluation_leaves_training_untouched(data) -> None:
    few = run_trial(spec(data, budget=Budget(steps=12, batch_size=16, evaluations=1)), data)
    many = run_trial(spec(data, budget=Budget(steps=12, batch_size=16, evaluations=6)), data)
    assert many.final["test_fid"] == few.final["test_fid"]
    assert many.final["train_loss"] == few.final["train_loss"]


def test_a_generator_that_gets_nowhere_has_diverged(data) -> None:
    judge = lambda before, after: _GanRun.diverged(None, {"fid": before}, 0.0, {"fid": after})
    assert judge(10.0, 10.0)
    assert judge(10.0, float("nan"))
    assert not judge(10.0, 9.0)
    assert run_trial(spec(data, optimizer="sgdm", lr=1e6), data).status == "diverged"


@pytest.mark.parametrize("params", [{}, {"d_steps": 2, "loss": "bce"}], ids=["hinge", "bce"])
def test_a_trial_goes_on_from_its_checkpoint_bit_for_bit(data, params, tmp_path) -> None:
    goes_on_bit_for_bit(spec(data, params), data, tmp_path, 5)


@pytest.fixture
def fake_inception(monkeypatch):
    """Nine averages instead of Inception, whose weights are the user's to bring."""
    monkeypatch.setattr(
        features, "load", lambda name, device, weights=None: lambda x: torch.nn.functional.avg_pool2d(x, 16).flatten(1)
    )


@pytest.mark.parametrize("model", ["dcgan", "sngan", "biggan"])
def test_the_papers_networks_in_small(colour, model, fake_inception, tmp_path) -> None:
    params = {"data": "cifar10", "model": model, "d_steps": 2}
    small = spec(colour, params, budget=Budget(steps=3, batch_size=8, evaluations=3))
    result = goes_on_bit_for_bit(small, colour, tmp_path, 2)
    assert np.isfinite(result.final["test_fid"])


def test_bfloat16(data) -> None:
    bfloat16_stays_near(spec(data, budget=Budget(steps=40, batch_size=16)), data, 0.1)


@pytest.mark.distributed
def test_two_processes(data) -> None:
    both = two_processes(spec(data), data)
    assert both.final["test_fid"] is not None
    assert both.final["test_fid"] == two_processes(spec(data), data).final["test_fid"]


def test_settings_as_run_and_errors(tmp_path) -> None:
    s = Settings.of({"data": "cifar10", "model": "biggan"})
    assert (s.features, s.loss, s.consistency, s.samples) == ("inception", "hinge", 10.0, 50_000)
    assert Settings.of({"data": "cifar10", "model": "dcgan"}).loss == "bce"
    for params, message in (
        ({"modell": "x"}, "unknown params of a GAN: modell"),
        ({"model": "stylegan"}, "allowed: sn-dcgan, dcgan, sngan, biggan"),
        ({"loss": "ns"}, "allowed: hinge, bce"),
    ):
        with pytest.raises(ValueError, match=message):
            Settings.of(params)
    with pytest.raises(DataError, match=r"beside the images.* is not there"):
        Gan().load({"data": "cifar10", "model": "dcgan"}, tmp_path / "cifar-10-python.tar.gz")
    with pytest.raises(ValueError, match="allowed: digits, cifar10"):
        Gan().load({"data": "celeba"}, None)
