"""What GANs are judged by: the digits, feature networks, parameters."""

from __future__ import annotations

import pytest
import torch
from study.gan_mini import FlaggedMeans, colours, weights_file

from adamomentum.study.data import cifar
from adamomentum.study.data.base import DataError
from adamomentum.study.data.digits import digits
from adamomentum.study.tasks.gan import digit_features, features
from adamomentum.study.tasks.gan.data import GanData
from adamomentum.study.tasks.gan.settings import GanSettings
from adamomentum.study.tasks.gan.task import Gan

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


@pytest.fixture(scope="module")
def images():
    try:
        return digits()
    except DataError as error:
        pytest.skip(str(error))


def test_the_digits(images) -> None:
    assert images.x["train"].shape == (1797, 8, 8, 1)
    assert (images.x["train"].min(), images.x["train"].max()) == (0, 255)
    assert len(set(images.x["train"].ravel().tolist())) == 17
    # The halves are disjoint and all there is; some digits look alike, hence rows as they come.
    assert sorted(x.tobytes() for s in ("val", "test") for x in images.x[s]) == sorted(
        x.tobytes() for x in images.x["train"]
    )
    assert images.fingerprint == "7f30119bf80ea16f"


def test_the_features_know_digits_and_tell_real_ones(images) -> None:
    (x, y), held_out = digit_features.digits_in_fifths()
    net = digit_features.load_digits_cnn()
    assert digit_features.accuracy(net, *held_out) > 0.985
    assert digit_features.accuracy(net, x, y) > 0.999
    scores = Gan().baselines(GanData(images))
    assert scores["real images"]["test_fid"] < 0.1 * scores["Gaussian images"]["test_fid"]
    assert scores["real images"]["test_precision"] > 0.8 > scores["Gaussian images"]["test_precision"]


@pytest.mark.slow
def test_the_weights_are_what_their_script_makes(images) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        net = digit_features.train_digits_cnn()
    finally:
        torch.set_num_threads(threads)
    assert digit_features.accuracy(net, *digit_features.digits_in_fifths()[1]) > 0.98
    shipped = digit_features.load_digits_cnn()
    points = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    # Another processor rounds otherwise and ends elsewhere, but not far.
    a, b = net.features(points).flatten(), shipped.features(points).flatten()
    assert torch.nn.functional.cosine_similarity(a, b, 0) > 0.95


def test_inception_is_the_users_file(tmp_path) -> None:
    x = torch.rand(250, 3, 32, 32) * 2.2 - 1.1
    vectors = features.load(features.INCEPTION, CPU, weights_file(tmp_path / "a.pt"))(x)
    # Bytes at the images' own size reach the file, in parts, and values beyond the range are cut.
    pixels = ((x.clamp(-1, 1) + 1) * 127.5).round()
    assert torch.allclose(vectors, torch.nn.functional.avg_pool2d(pixels, 16).flatten(1) / 10, atol=1e-4)
    flagged = features.load(features.INCEPTION, CPU, weights_file(tmp_path / "b.pt", kind=FlaggedMeans))(x)
    assert torch.allclose(flagged, vectors, atol=1e-4)


def test_features_that_cannot_be_had_say_what_they_need(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"put NVIDIA's inception-2015-12-05\.pt"):
        features.load(features.INCEPTION, CPU)
    with pytest.raises(ValueError, match="allowed: digits-cnn64-v1, inception"):
        features.load("vgg", CPU)
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"broken\.pt is not a TorchScript file.*put NVIDIA's"):
        features.load(features.INCEPTION, CPU, broken)


def test_the_weights_lie_beside_the_images_and_name_the_trials(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cifar, "cifar", lambda name, source: colours())
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.touch()
    params = {"data": "cifar10", "model": "dcgan"}
    with pytest.raises(DataError, match=r"beside the images.*inception-2015-12-05\.pt is not there"):
        Gan().load(params, archive)
    weights_file(tmp_path / features.INCEPTION_FILE)
    data, same = Gan().load(params, archive), Gan().load(params, tmp_path)
    assert data.fingerprint == same.fingerprint != data.images.fingerprint
    assert data.measure("inception") == f"inception {data.weights_digest}"
    assert data.weights_digest in data.describe()
    weights_file(tmp_path / features.INCEPTION_FILE, scale=20.0)
    assert Gan().load(params, archive).fingerprint != data.fingerprint
    assert Gan().baselines(data) == {}


def test_settings_as_the_authors_ran_them() -> None:
    s = GanSettings.of({"data": "cifar10", "model": "biggan"})
    assert (s.features, s.loss, s.consistency, s.samples, s.d_steps) == ("inception", "hinge", 10.0, 10_000, 5)
    assert (s.average, s.average_from, s.flip) == (0.9999, 1000, True)
    s = GanSettings.of({"data": "cifar10", "model": "dcgan"})
    assert (s.loss, s.d_steps, s.consistency, s.average) == ("bce", 2, 0.0, 0.0)
    s = GanSettings.of({"data": "cifar10", "model": "sngan", "d_steps": 3.0, "flip": False})
    assert (s.loss, s.d_steps, s.flip) == ("hinge", 3, False)
    assert isinstance(s.d_steps, int)
    s = GanSettings.of({})
    assert (s.data, s.model, s.features, s.samples, s.flip) == ("digits", "sn-dcgan", "digits-cnn64-v1", 1797, False)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"modell": "x"}, "params.modell: there is no such parameter; there are: data, model"),
        ({"data": "celeba"}, "params.data: Input should be 'digits' or 'cifar10', got 'celeba'"),
        ({"model": "stylegan"}, "params.model: must be one of sn-dcgan with data = 'digits', got 'stylegan'"),
        ({"model": "sngan"}, "params.model: must be one of sn-dcgan with data = 'digits', got 'sngan'"),
        ({"data": "cifar10"}, None),
        (
            {"data": "cifar10", "model": "sn-dcgan"},
            "must be one of dcgan, sngan, biggan with data = 'cifar10', got 'sn-dcgan'",
        ),
        (
            {"data": "cifar10", "model": "sngan", "features": "digits-cnn64-v1"},
            "params.features: must be one of inception with .*, got 'digits",
        ),
        ({"loss": "ns"}, "params.loss: Input should be 'hinge' or 'bce', got 'ns'"),
        ({"loss": 1.0}, "params.loss: Input should be 'hinge' or 'bce', got 1.0"),
        ({"d_steps": 0.0}, "params.d_steps: Input should be greater than or equal to 1, got 0.0"),
        ({"d_steps": 1.5}, "params.d_steps: Input should be a valid integer, got 1.5"),
        ({"d_steps": True}, "params.d_steps: Input should be a valid integer, got True"),
        ({"d_steps": "two"}, "params.d_steps: Input should be a valid integer, got 'two'"),
        ({"width": 1.0}, "params.width: must be 0 or at least 2, got 1"),
        ({"latent": -1.0}, "params.latent: Input should be greater than or equal to 0, got -1.0"),
        ({"samples": 3.0}, "params.samples: Input should be greater than or equal to 4, got 3.0"),
        ({"consistency": -1.0}, "params.consistency: Input should be greater than or equal to 0, got -1.0"),
        ({"average": 1.0}, "params.average: Input should be less than 1, got 1.0"),
        ({"flip": 1.0}, "params.flip: Input should be a valid boolean, got 1.0"),
        (
            {"data": "cifar10", "model": "biggan", "latent": 10.0},
            "params.latent: must be a multiple of 4 with model = 'biggan', got 10",
        ),
    ],
)
def test_wrong_parameters(params, message) -> None:
    if message is None:
        assert GanSettings.of(params).model == "dcgan"
        return
    with pytest.raises(ValueError, match=message):
        GanSettings.of(params)
