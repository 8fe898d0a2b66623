"""GANs through the engine, on the digits' networks and on the paper's in small."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from study.gan_mini import SMALL, colour_spec, colours, images_of, spec, squares, weights_file
from study.language_mini import make_context
from study.trials import bfloat16_stays_near, two_processes

from adamomentum.study import tasks
from adamomentum.study.spec import Budget
from adamomentum.study.tasks.gan.data import GanData
from adamomentum.study.tasks.gan.run import GanRun
from adamomentum.study.testing import check_task
from adamomentum.study.testing.tasks import goes_on
from adamomentum.study.trial import run_trial

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

AVERAGED = {"average": 0.5, "average_from": 1, "consistency": 10.0, "flip": True}


@pytest.fixture(scope="module")
def data() -> GanData:
    return squares()


@pytest.fixture(scope="module")
def colour(tmp_path_factory) -> GanData:
    return GanData(colours(), weights_file(tmp_path_factory.mktemp("weights") / "inception.pt"))


def test_a_trial_and_its_samples(data) -> None:
    result = run_trial(spec(data, budget=Budget(steps=120, batch_size=16, evaluations=4)), data)
    assert result.status == "ok", result.error
    for split in ("val", "test"):
        for metric in tasks.family("gan").metrics:
            assert np.isfinite(result.final[f"{split}_{metric.key}"])
    assert result.final["val_fid"] == result.curve["val_fid"][-1]
    # The networks learn: the last samples are much nearer than the first.
    assert result.curve["val_fid"][-1] < 0.5 * result.curve["val_fid"][0]
    assert result.samples["shape"] == [8, 8, 1]
    images = np.array(result.samples["images"])
    assert images.shape == (64, 64)
    assert (images.min() >= 0, images.max() <= 255, len(np.unique(images, axis=0)) > 32) == (True, True, True)
    assert result.samples["metric"] == (
        "Fréchet distance on digits-cnn64-v1, 100 samples against 48 images of the test split"
    )
    json.dumps(result.model_dump(mode="json"), allow_nan=False)


@pytest.mark.parametrize("evaluations", [6, 2])
def test_the_last_three_are_the_last_three_points_of_the_curve(data, evaluations) -> None:
    budget = Budget(steps=60, batch_size=16, evaluations=evaluations)
    result = run_trial(spec(data, {"samples": 2000}, budget=budget), data)
    # Other noise than in the curve: equal up to sampling. The untrained generator is no point of the curve.
    assert result.final["val_fid_last3"] == pytest.approx(np.mean(result.curve["val_fid"][-3:]), rel=0.1)


def test_parameters_reach_the_training(data) -> None:
    plain = run_trial(spec(data), data).final["test_fid"]
    for params in ({"d_steps": 2}, {"loss": "bce"}, {"consistency": 10.0}, {"flip": True}, {"average": 0.5}):
        assert run_trial(spec(data, params), data).final["test_fid"] != plain


def hinge(scores: torch.Tensor, real: bool) -> float:
    """Beyond a margin of 1 on its own side a score costs nothing (arXiv 1705.02894)."""
    return sum(max(0.0, 1 - s if real else 1 + s) for s in scores.tolist()) / len(scores)


def cross_entropy(scores: torch.Tensor, real: bool) -> float:
    return sum(-math.log(1 / (1 + math.exp(-s if real else s))) for s in scores.tolist()) / len(scores)


@pytest.mark.parametrize(("loss", "cost"), [("hinge", hinge), ("bce", cross_entropy)])
def test_the_losses_of_the_game(data, loss, cost, monkeypatch) -> None:
    run = GanRun(make_context(data, {"data": "digits", "model": "sn-dcgan", **SMALL, "loss": loss}))
    real, fake = torch.tensor([1.5, 0.5, -2.0, 4.0, 1.0]), torch.tensor([-1.0, -3.0, -1.5, 1.25, -2.0])
    monkeypatch.setattr(run, "_trained_discriminator", lambda images, labels, parts: torch.cat([real, fake]))
    discriminator_loss = run._discriminator_loss(torch.zeros(5, 1, 8, 8), torch.zeros(5).long()).item()
    assert discriminator_loss == pytest.approx(cost(real, True) + cost(fake, False))
    monkeypatch.setattr(run._discriminator, "forward", lambda images, labels: fake)
    # The generator's hinge has no margin: it wants the score as high as can be.
    assert run._generator_loss(5).item() == pytest.approx(-fake.mean() if loss == "hinge" else cost(fake, True))


def test_a_generator_that_gets_nowhere_has_diverged(data) -> None:
    def judged(before: float, after: float) -> bool:
        return GanRun.diverged(None, {"fid": before}, 0.0, {"fid": after})

    assert judged(10.0, 10.0)
    assert judged(10.0, float("nan"))
    assert not judged(10.0, 9.0)
    assert run_trial(spec(data, optimizer="sgdm", lr=1e6), data).status == "diverged"


@pytest.mark.parametrize("params", [{"d_steps": 2, "loss": "bce"}, AVERAGED], ids=["bce", "averaged"])
def test_the_family_keeps_its_promises(data, params) -> None:
    check_task("gan", {"data": "digits", **SMALL, **params}, data=data, steps=10, batch_size=16)


@pytest.mark.parametrize("model", ["dcgan", "sngan", "biggan"])
def test_the_papers_networks_in_small(colour, model) -> None:
    params = {"average_from": 1} if model == "biggan" else {}
    result = goes_on(colour_spec(colour, model, params), colour, [2])
    assert np.isfinite([result.final[f"test_{key}"] for key in ("fid", "fid_last3", "precision", "recall")]).all()
    assert result.samples["shape"] == [32, 32, 3]
    assert result.samples["metric"].startswith(f"Fréchet distance on inception {colour.weights_digest}, 100 samples")


def test_bfloat16(data) -> None:
    bfloat16_stays_near(spec(data, budget=Budget(steps=40, batch_size=16)), data, 0.1)


@pytest.mark.parametrize("model", ["dcgan", "sngan", "biggan"])
def test_bfloat16_of_the_papers_networks(colour, model) -> None:
    # One update: how far two games drift apart later says nothing of their precision.
    asked = colour_spec(colour, model, {"d_steps": 1}, budget=Budget(steps=1, batch_size=8))
    full = run_trial(asked, colour).final
    half = run_trial(asked.model_copy(update={"precision": "bfloat16"}), colour).final
    assert half["train_loss"] != full["train_loss"]
    assert half["train_loss"] == pytest.approx(full["train_loss"], rel=0.02)
    assert np.isfinite(half["test_fid"])


def test_images_of_another_size_are_an_error() -> None:
    rng = np.random.default_rng(0)
    large = GanData(images_of(rng.integers(0, 256, (20, 16, 16, 1), dtype=np.uint8), rng.integers(0, 10, 20)))
    with pytest.raises(ValueError, match=r"model 'sn-dcgan' needs images of 8 x 8, got 16 x 16"):
        run_trial(spec(large), large)


@pytest.mark.distributed
@pytest.mark.parametrize("model", ["sn-dcgan", "dcgan", "biggan"])
def test_two_processes(data, colour, model) -> None:
    if model == "sn-dcgan":
        asked, given = spec(data), data
    else:
        asked, given = colour_spec(colour, model, {"average_from": 1} if model == "biggan" else {}), colour
    both = two_processes(asked, given)
    assert np.isfinite(both.final["test_fid"])
    assert both.final == two_processes(asked, given).final


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_trial_on_a_gpu_goes_on_with_its_own_noise(data) -> None:
    goes_on(spec(data, {"flip": True}, device_kind="cuda"), data, [5])
