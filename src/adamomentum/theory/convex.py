r"""Regret on convex streams: what Theorem 4 and Corollary 2 bound, and a bound for constant beta1.

An online learner picks theta_t in a box, sees a convex loss f_t and pays f_t(theta_t). Its regret after T rounds is
sum f_t(theta_t) - min over theta in the box of sum f_t(theta), in units of the loss. The learner here is AdaMomentum
with the learning rate alpha / sqrt(t), each coordinate clipped to the box after the step.

Symbols: ``alpha`` the learning rate of round 1; ``width`` the length D of every edge of the box, in units of theta;
v_t the second moment as the step divides by its root, eps and running maximum in it; m_t the first moment; d the number
of coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from adamomentum.reference import white_noise_mean
from adamomentum.second_moment import SecondMoment
from adamomentum.theory.common import Array, Bound, check_betas, check_number, check_steps
from adamomentum.theory.drop_in import largest_momentum, largest_weight

__all__ = [
    "RegretLedger",
    "regret_bound_const_b1",
    "regret_bound_cor2",
    "regret_bound_paper",
    "regret_bound_thm4",
]


@dataclass
class RegretLedger:
    """The sums over a run that the bounds are made of; memory does not grow with the number of rounds.

    All sums are kept for each coordinate: arrays of the shape of the gradient.

    Attributes:
        beta2: decay rate of v.
        bias_corrected: whether the step uses m_t / (1 - beta1^t) and v_t / (1 - beta2^t), as the optimizer does, or
            m_t and v_t, as the paper's proof does.
        matched: what v averages the square of where ``adjust_lr`` is on, for which beta1 must be constant; None for
            Algorithm 1. With it kappa_t stands everywhere for 1 - beta2^t.
        rounds: how many were added, T.
        gradients: sum of g_t^2.
        moments: sum of c_t m_t^2 / sqrt(t V_t), with c_t and V_t the corrections and v or, without them, 1 and v_t.
        weighted: sum of beta1_t sqrt(t v_t).
        last_root: sqrt(V_T).
        last_moment: the size of m_T.
        beta1: the largest so far.
        fall: by how much sqrt(t / kappa_t) (1 - beta1^t) has fallen in all, relative to its last value: 0 but with
            ``matched``.
        shrinking: the first round in which sqrt(t V_t) (1 - beta1_t^t) (1 + fall) of some coordinate shrank, which all
            bounds exclude; 0 if there was none.
        growing_beta1: the first round in which beta1_t grew; 0 if there was none.
        impossible: the first round with a number that is not finite, or with v_t too small for m_t, which is below
            (1 - beta2) m_t^2 in Algorithm 1; 0 if none.
        constant_beta1: whether beta1_t never changed.
    """

    beta2: float
    bias_corrected: bool = True
    matched: SecondMoment | None = None
    rounds: int = 0
    gradients: Array = field(default_factory=lambda: np.zeros(()))
    moments: Array = field(default_factory=lambda: np.zeros(()))
    weighted: Array = field(default_factory=lambda: np.zeros(()))
    last_root: Array = field(default_factory=lambda: np.zeros(()))
    last_moment: Array = field(default_factory=lambda: np.zeros(()))
    beta1: float = 0.0
    fall: float = 0.0
    shrinking: int = 0
    growing_beta1: int = 0
    impossible: int = 0
    constant_beta1: bool = True
    _weight: Array = field(default_factory=lambda: np.zeros(()))
    _scale: float = 0.0
    _beta1: float = -1.0

    def add(self, g: Array, m: Array, v: Array, beta1: float) -> None:
        """Add a round.

        Args:
            g: its gradient.
            m: the first moment after it, without bias correction.
            v: what the step divides by, squared and without bias correction: ``max_exp_avg_sq`` with amsgrad.
            beta1: decay rate in this round.

        Raises:
            ValueError: if shapes differ, or beta1 or beta2 is out of [0, 1).
        """
        if not g.shape == m.shape == v.shape:
            raise ValueError(f"g, m and v must have one shape, got {g.shape}, {m.shape} and {v.shape}")
        betas = check_betas((beta1, self.beta2))
        share = 1.0 if self.matched is None else largest_momentum(betas, self.matched)
        possible = np.isfinite(g) & np.isfinite(m) & (v >= (1 - self.beta2) * (m / share) ** 2 * (1 - 1e-9))
        if not self.impossible and not possible.all():
            self.impossible = self.rounds + 1
        self.rounds += 1
        t = self.rounds
        c, root = 1.0, np.sqrt(v)
        if self.bias_corrected:
            c = 1 / (1 - beta1**t)
            if self.matched is None:
                root = root / math.sqrt(1 - self.beta2**t)
            else:
                mean = white_noise_mean(t, betas, lookahead=self.matched == "lookahead")
                root = root / math.sqrt(mean)
                # What has fallen counts again when it rises: the weights of the proof are sqrt(v) times the rises.
                scale = math.sqrt(t / mean) / c
                self.fall = (self.fall * self._scale + max(0.0, self._scale - scale)) / scale
                self._scale = scale
        weight = math.sqrt(t) * root / c * (1 + self.fall)
        if not self.shrinking and (weight < self._weight * (1 - 1e-12)).any():
            self.shrinking = t
        if self._beta1 >= 0 and beta1 != self._beta1:
            self.constant_beta1 = False
            if beta1 > self._beta1 and not self.growing_beta1:
                self.growing_beta1 = t
        self.gradients = self.gradients + g**2
        with np.errstate(invalid="ignore"):  # before its first gradient a coordinate may have m = v = 0
            self.moments = self.moments + np.where(m == 0, 0.0, c * m**2 / (math.sqrt(t) * root))
        self.weighted = self.weighted + beta1 * math.sqrt(t) * np.sqrt(v)
        self.last_root, self.last_moment, self._weight = root, np.abs(m), weight
        self.beta1, self._beta1 = max(self.beta1, beta1), beta1

    def fault(self) -> str:
        """Return why no bound of this module holds for the run; empty if none excludes it."""
        if not self.rounds:
            return "no round has been added"
        if self.impossible:
            return f"in round {self.impossible} a number is not finite, or v is less than (1 - beta2) m^2"
        if self.shrinking:
            return f"sqrt(t v_t) of some coordinate shrank in round {self.shrinking}, which amsgrad=True would prevent"
        return ""


def regret_bound_paper(ledger: RegretLedger, alpha: float, width: float) -> Bound:
    r"""Return the bound of Theorem 4 with its printed constants.

    .. math::
        \frac{D^2 \sqrt T}{2 \alpha (1 - \beta_1)} \sum_i \sqrt{v_{T,i}} + \frac{D^2}{2 (1 - \beta_1)} \sum_{t,i}
        \frac{\beta_{1t} \sqrt{t v_{t,i}}}{\alpha} + \frac{\alpha \sqrt{1 + \log T}}{(1 - \beta_1)^3 (1 - \gamma)
        \sqrt{1 - \beta_2}} \sum_i \lVert g_{1:T,i} \rVert_2, \qquad \gamma = \beta_1 / \sqrt{\beta_2}

    Its printed proof is wrong (it needs m_j^2 >= (1 - beta1)^2 g_j^2), but :func:`regret_bound_thm4` is smaller and
    holds, so this one does under the same assumptions and gamma < 1.

    Args:
        ledger: the run, without bias correction, beta1_t not growing from its first value beta1.
        alpha: learning rate of round 1, units of theta; alpha / sqrt(t) in round t.
        width: edge of the box.

    Returns:
        The bound on the regret.

    Raises:
        ValueError: if alpha or width is out of range.
    """
    gamma = ledger.beta1 / math.sqrt(ledger.beta2) if ledger.beta2 > 0 else math.inf
    if gamma >= 1:
        return Bound(math.inf, False, f"beta1 / sqrt(beta2) must be < 1, got {gamma:g}")
    return _thm4(ledger, alpha, width, 1 / ((1 - ledger.beta1) ** 3 * (1 - gamma)))


def regret_bound_thm4(ledger: RegretLedger, alpha: float, width: float) -> Bound:
    r"""Return the bound of Theorem 4, corrected.

    The last constant of :func:`regret_bound_paper` is 1 / ((1 - beta1)^2 sqrt(1 - beta2)) here.

    Assumptions that the paper does not make and that cannot be left out: beta1_t does not grow, sqrt(t v_t) does not
    shrink (true with amsgrad, false for Algorithm 1), and the iterates and the best point lie in one box. gamma < 1 is
    not needed. With constant beta1 the second term grows like T^1.5: nothing follows for the optimizer as it is used.

    Args:
        ledger: the run, without bias correction.
        alpha: learning rate of round 1, units of theta; alpha / sqrt(t) in round t.
        width: edge of the box.

    Returns:
        The bound on the regret.

    Raises:
        ValueError: if alpha or width is out of range.
    """
    return _thm4(ledger, alpha, width, 1 / (1 - ledger.beta1) ** 2)


def _check_sizes(alpha: float, width: float) -> None:
    check_number("alpha", alpha, "the learning rate of the first round")
    check_number("width", width, "the edge of the box")


def _thm4(ledger: RegretLedger, alpha: float, width: float, constant: float) -> Bound:
    _check_sizes(alpha, width)
    reason = ledger.fault()
    if not reason and ledger.bias_corrected:
        reason = "the theorem is about steps without bias correction, of which adjust_lr is one"
    if not reason and ledger.growing_beta1:
        reason = f"beta1 grew in round {ledger.growing_beta1}"
    return Bound(float(thm4_by_coordinate(ledger, alpha, width, constant).sum()), not reason, reason)


def thm4_by_coordinate(ledger: RegretLedger, alpha: float, width: float, constant: float) -> Array:
    """Return the bound of Theorem 4 for each coordinate, with ``constant`` / sqrt(1 - beta2) before its last term."""
    rounds, beta1 = ledger.rounds, ledger.beta1
    first = width**2 * math.sqrt(rounds) / (2 * alpha * (1 - beta1)) * ledger.last_root
    second = width**2 / (2 * alpha * (1 - beta1)) * ledger.weighted
    third = alpha * _root_of_harmonic(rounds) * constant / math.sqrt(1 - ledger.beta2) * np.sqrt(ledger.gradients)
    total: Array = first + second + third
    return total


def regret_bound_cor2(
    rounds: int,
    *,
    coordinates: int,
    width: float,
    largest: float,
    alpha: float,
    betas: tuple[float, float],
    decay: float,
    eps: float,
    printed: bool = False,
) -> Bound:
    r"""Return Corollary 2's bound on the average regret: Theorem 4's assumptions, and beta1_t = beta1 lambda^(t - 1).

    .. math::
        \frac{d D^2 (G + s)}{2 \alpha (1 - \beta_1) \sqrt T} + \frac{d D^2 (G + s) \beta_1}{2 \alpha (1 - \beta_1)
        (1 - \lambda)^2 T} + \frac{d G \alpha \sqrt{1 + \log T}}{(1 - \beta_1)^2 \sqrt{(1 - \beta_2) T}}, \qquad
        s = \sqrt{\epsilon / (1 - \beta_2)}

    s is what eps has accumulated to in sqrt(v). The paper leaves it out.

    Args:
        rounds: T.
        coordinates: d.
        width: edge D of the box.
        largest: G, the largest gradient of a coordinate.
        alpha: learning rate of round 1; alpha / sqrt(t) in round t.
        betas: beta1 of round 1, and beta2.
        decay: lambda, in [0, 1).
        eps: added to v in every round.
        printed: leave out s, as in the paper.

    Returns:
        The bound, in units of the loss a round. As printed it does not apply with eps > 0.

    Raises:
        ValueError: if an argument is out of range.
    """
    beta1, beta2 = check_betas(betas)
    rounds = check_steps("rounds", rounds, "the number of rounds")
    check_steps("coordinates", coordinates, "the number of coordinates")
    _check_sizes(alpha, width)
    check_number("largest", largest, "the largest gradient", positive=False)
    check_number("eps", eps, "what is added to v in every round", positive=False)
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay}; it is the factor of beta1 from round to round")
    root = largest + (0.0 if printed else math.sqrt(eps / (1 - beta2)))
    first = width**2 * root / (2 * alpha * (1 - beta1) * math.sqrt(rounds))
    second = width**2 * root * beta1 / (2 * alpha * (1 - beta1) * (1 - decay) ** 2 * rounds)
    third = largest * alpha * _root_of_harmonic(rounds) / ((1 - beta1) ** 2 * math.sqrt((1 - beta2) * rounds))
    reason = "eps accumulates in v, which the printed bound leaves out" if printed and eps > 0 else ""
    return Bound(coordinates * (first + second + third), not reason, reason)


def regret_bound_const_b1(ledger: RegretLedger, alpha: float, width: float, *, posteriori: bool = False) -> Bound:
    r"""Return a bound for constant beta1, with bias correction and amsgrad. New here.

    Constant beta1 and bias correction are how AdaMomentum is used; amsgrad, a box and the learning rate
    alpha / sqrt(t) are not its defaults, and the bound needs them.

    .. math::
        \frac{D^2 \sqrt T (1 - \beta_1^T)}{2 \alpha} \sum_i \sqrt{V_{T,i}}
        + \frac{\alpha (1 + \beta_1)}{2 (1 - \beta_1)} \sum_{t,i} \frac{c_t m_{t,i}^2}{\sqrt{t V_{t,i}}}
        + \frac{\beta_1 D}{1 - \beta_1} \lVert m_T \rVert_1

    with c_t = 1 / (1 - beta1^t) and V_t = max over s <= t of v_s / (1 - beta2^t). If 1 - beta2 <= (1 - beta1)^2, which
    the defaults meet, the double sum is at most sqrt(1 + log T) / sqrt(1 - beta2) times the sum of the 2-norms of each
    coordinate's gradients: that is the form without ``posteriori``. For bounded gradients the regret is then of the
    order sqrt(T log T). Proof: docs/theory/regret.md, after the decomposition of Alacaoglu et al. (arXiv 2003.09729).

    With ``adjust_lr`` kappa_t stands for 1 - beta2^t in V_t. The first term grows by 1 + ledger.fall (at the defaults 0
    for the look-ahead momentum and at most 0.006 for the momentum), the double sum's bound is multiplied by
    :func:`~.drop_in.largest_momentum` :func:`~.drop_in.largest_weight` (0.159 and 0.229), and needs no condition on the
    betas but that the former is finite.

    Args:
        ledger: the run, with bias correction and amsgrad, the iterates clipped to a box that holds the best point.
        alpha: learning rate of round 1, units of theta; alpha / sqrt(t) in round t.
        width: edge of the box.
        posteriori: use the double sum itself, from the run.

    Returns:
        The bound on the regret.

    Raises:
        ValueError: if alpha or width is out of range.
    """
    _check_sizes(alpha, width)
    reason = ledger.fault()
    if not reason and not ledger.bias_corrected:
        reason = "the bound is about steps with bias correction"
    if not reason and not ledger.constant_beta1:
        reason = "beta1 changed"
    needed = not posteriori and ledger.matched is None
    if not reason and needed and 1 - ledger.beta2 > (1 - ledger.beta1) ** 2 * (1 + 1e-12):
        reason = f"1 - beta2 must be <= (1 - beta1)^2, got {1 - ledger.beta2:g} > {(1 - ledger.beta1) ** 2:g}"
    return Bound(float(const_b1_by_coordinate(ledger, alpha, width, posteriori).sum()), not reason, reason)


def const_b1_by_coordinate(ledger: RegretLedger, alpha: float, width: float, posteriori: bool) -> Array:
    """Return the terms of :func:`regret_bound_const_b1` for each coordinate."""
    rounds, beta1 = ledger.rounds, ledger.beta1
    first = width**2 * math.sqrt(rounds) * (1 - beta1**rounds) / (2 * alpha) * ledger.last_root * (1 + ledger.fall)
    moments = ledger.moments
    if not posteriori:
        moments = _root_of_harmonic(rounds) / math.sqrt(1 - ledger.beta2) * np.sqrt(ledger.gradients)
        if ledger.matched is not None:
            betas = (beta1, ledger.beta2)
            moments = largest_momentum(betas, ledger.matched) * largest_weight(betas, ledger.matched) * moments
    total: Array = first + alpha * (1 + beta1) / (2 * (1 - beta1)) * moments
    return total + beta1 * width / (1 - beta1) * ledger.last_moment


def _root_of_harmonic(rounds: int) -> float:
    """Return sqrt(1 + log T), at least the root of 1 + 1/2 + ... + 1/T."""
    return math.sqrt(1 + math.log(max(rounds, 1)))
