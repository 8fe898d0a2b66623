"""The mean of the second moment in white noise: exact, without cancellation; and the choices that lead to it."""

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
import torch

from adamomentum import AdaMomentum, reference
from adamomentum.second_moment import adam_ratio, check_choices, looks_ahead, white_noise_mean

NO_CHOICE = {"adjust_lr": None, "second_moment": None, "nesterov": False, "full_bias_correction": False}
BETAS = [
    (0.9, 0.999),
    (0.9, 0.95),
    (0.95, 0.9025),
    (0.99, 0.9),
    (0.5, 0.25),
    (0.9, 0.81),
    (0.9, 0.81 + 1e-9),
    (0.9, 0.81 - 1e-13),
    (0.999, 0.9999),
    (0.5, 0.0),
    (0.0, 0.999),
    (0.0, 0.0),
]


def means(betas, lookahead, passes=1):
    """The means of v_1, v_2, ... in white noise of variance 1, by their definition, in exact arithmetic."""
    beta1, beta2 = map(Fraction, betas)
    of_m = of_v = Fraction(0)
    while True:
        of_m = beta1**2 * of_m + (1 - beta1) ** 2  # E m^2; and E m g = 1 - beta1
        of_x = of_m
        if lookahead:  # x = beta1 m + (1 - beta1) K g_K, where K g_K has the variance K
            of_x = beta1**2 * of_m + 2 * beta1 * (1 - beta1) ** 2 + (1 - beta1) ** 2 * passes
        of_v = beta2 * of_v + (1 - beta2) * of_x
        yield float(of_v)


@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize("betas", BETAS)
def test_closed_form_is_the_mean(betas, lookahead):
    for t, expected in zip(range(1, 80), means(betas, lookahead), strict=False):
        assert reference.white_noise_mean(t, betas, lookahead=lookahead) == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize("betas", [*BETAS[:-1], (0.9999, 0.9999**2 + 1e-12), (0.9, 1 - 1e-8)])
def test_closed_form_late(betas, lookahead):
    """Beside itself with 60 digits, where what the quotient cancels does not show."""
    with localcontext() as context:
        context.prec = 60
        beta1, beta2 = map(Decimal, betas)
        a, p, q = beta1**2, beta1**2 if lookahead else beta1, 1 - beta1**2 if lookahead else 1 - beta1
        for t in (1, 2, 30, 1000, 10**5, 10**7):
            quotient = (beta2**t - a**t) / (beta2 - a) if beta2 != a else t * beta2 ** (t - 1)
            later = 1 - beta2**t - (1 - beta2) * quotient
            expected = q**2 * (1 - beta2**t) + p**2 * (1 - beta1) / (1 + beta1) * later
            ours = reference.white_noise_mean(t, betas, lookahead=lookahead)
            assert ours == pytest.approx(float(expected), rel=1e-12, abs=0)


@pytest.mark.parametrize("passes", [2, 8])
def test_of_the_last_micro_batch_for_all(passes):
    for t, expected in zip(range(1, 40), means((0.9, 0.99), True, passes), strict=False):
        ours = reference.white_noise_mean(t, (0.9, 0.99), lookahead=True, passes=passes)
        assert ours == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize("betas", BETAS)
def test_arrays_agree_with_the_reference(betas, lookahead):
    t = torch.tensor([1.0, 2, 3, 10, 100, 1e4, 1e7], dtype=torch.float64)
    expected = [reference.white_noise_mean(s, betas, lookahead=lookahead) for s in t.tolist()]
    for b1, b2 in (betas, [torch.full_like(t, beta) for beta in betas]):
        correction2 = -torch.expm1(t * math.log(betas[1])) if betas[1] else torch.ones_like(t)
        ours = white_noise_mean(t, b1, b2, correction2, array=torch, lookahead=lookahead)
        np.testing.assert_allclose(ours.numpy(), expected, rtol=2e-12, atol=0)


@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize("betas", BETAS)
def test_derivatives_by_the_betas(betas, lookahead):
    b1, b2 = (torch.tensor([beta], dtype=torch.float64, requires_grad=True) for beta in betas)

    def kappa(b1, b2, t):
        return white_noise_mean(t, b1, b2, 1 - b2**t, array=torch, lookahead=lookahead)

    for t in (1.0, 2.0, 7.0):
        grads = torch.autograd.grad(kappa(b1, b2, torch.tensor([t], dtype=torch.float64)).sum(), (b1, b2))
        assert all(grad.isfinite().all() for grad in grads)
        if min(betas) > 0 and abs(betas[1] - betas[0] ** 2) > 1e-6:
            step = 1e-6
            for i, grad in enumerate(grads):
                up, down = ([beta + s * step * (i == j) for j, beta in enumerate(betas)] for s in (1, -1))
                both = [reference.white_noise_mean(t, pair, lookahead=lookahead) for pair in (up, down)]
                assert grad.item() == pytest.approx((both[0] - both[1]) / (2 * step), rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("beta1", [0.5, 0.9, 0.99])
def test_limits(beta1):
    c = (1 - beta1) / (1 + beta1)
    assert adam_ratio(math.inf, beta1, 0.999) == pytest.approx(c, rel=1e-12)
    ahead = (1 - beta1) ** 2 * (1 + beta1) ** 2 + beta1**4 * c
    assert adam_ratio(math.inf, beta1, 0.999, lookahead=True) == pytest.approx(ahead, rel=1e-12)
    for lookahead in (False, True):
        late = adam_ratio(1e6, beta1, 0.999, lookahead=lookahead)
        assert late == pytest.approx(adam_ratio(math.inf, beta1, 0.999, lookahead=lookahead), rel=1e-9)
    assert adam_ratio(1, beta1, 0.999) == pytest.approx((1 - beta1) ** 2)  # v_1 is of m_1 = (1 - beta1) g_1 alone


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("second_moment", ["momentum", "lookahead"])
@pytest.mark.parametrize("betas", BETAS)
def test_the_first_step_is_lr_whatever_the_gradient(betas, second_moment, nesterov):
    g = np.array([3.0, -1e-3, 1e5])
    options = {"adjust_lr": "match_rms_adamw", "second_moment": second_moment, "nesterov": nesterov, "eps": 0.0}
    theta, _ = reference.step(np.zeros(3), g, reference.State.zeros(g), lr=0.01, betas=betas, **options)
    if second_moment == "lookahead" or not nesterov:
        np.testing.assert_allclose(theta, -0.01 * np.sign(g), rtol=1e-12)


def test_without_momentum_it_is_algorithm_1():
    rng = np.random.default_rng(0)
    plain = adjusted = (np.ones(4), reference.State.zeros(np.ones(4)))
    for _ in range(50):
        g = rng.standard_normal(4)
        plain = reference.step(plain[0], g, plain[1], betas=(0.0, 0.99))
        adjusted = reference.step(adjusted[0], g, adjusted[1], betas=(0.0, 0.99), adjust_lr="match_rms_adamw")
        np.testing.assert_allclose(adjusted[0], plain[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("second_moment", "nesterov", "limit"), [("momentum", False, 0.06), ("lookahead", False, 0.13)]
)
def test_in_noise_steps_are_as_long_as_adams(second_moment, nesterov, limit):
    rng = np.random.default_rng(1)
    n, (beta1, beta2) = 4000, (0.9, 0.999)
    state, m, v = reference.State.zeros(np.zeros(n)), np.zeros(n), np.zeros(n)
    for t in range(1, 200):
        g = rng.standard_normal(n)
        moved, state = reference.step(
            np.zeros(n), g, state, lr=1.0, adjust_lr="match_rms_adamw", second_moment=second_moment, nesterov=nesterov
        )
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        adam = m / (1 - beta1**t) / np.sqrt(v / (1 - beta2**t))
        ratio = (np.square(moved).mean() / np.square(adam).mean()) ** 0.5
        if t >= 5:
            assert abs(ratio - 1) < limit + 0.02  # of 4,000 numbers
    assert abs(ratio - 1) < 0.04


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, False),
        ({"adjust_lr": "match_rms_adamw"}, True),
        ({"nesterov": True}, True),
        ({"second_moment": "lookahead"}, True),
        ({"adjust_lr": "match_rms_adamw", "second_moment": "momentum"}, False),
        ({"nesterov": True, "second_moment": "momentum"}, False),
    ],
)
def test_what_is_averaged_where_nothing_is_said(options, expected):
    check_choices({**NO_CHOICE, **options})
    assert looks_ahead({**NO_CHOICE, **options}) is expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adjust_lr": "match_rms"}, "adjust_lr must be None or one of 'match_rms_adamw', got 'match_rms'"),
        ({"adjust_lr": True}, "adjust_lr must be None or one of 'match_rms_adamw', got True"),
        ({"second_moment": "m"}, "second_moment must be None or one of 'momentum', 'lookahead', got 'm'"),
        (
            {"adjust_lr": "match_rms_adamw", "full_bias_correction": True},
            "adjust_lr='match_rms_adamw' does not go with",
        ),
        ({"nesterov": True, "full_bias_correction": True}, "full_bias_correction=True corrects the momentum"),
        ({"second_moment": "lookahead", "full_bias_correction": True}, "full_bias_correction=True corrects the"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        check_choices({**NO_CHOICE, **options})
    with pytest.raises(ValueError, match=message):
        AdaMomentum([torch.ones(1)], **options)
