"""What the paper proves of pruning and the learning rate: a bound on activations, and the rate that it implies.

Letters are the paper's (Liu et al. 2023, Section 3.2): one hidden ReLU layer of infinite width; inputs X ~ N(0, sigma_x^2)
of d numbers; weights and biases W ~ N(0, sigma_w^2). Each of k rounds removes the fraction p of the layer's remaining
weights that is smallest in magnitude; biases stay.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import erfcinv

from oracle.errors import DomainError

Numbers = npt.NDArray[np.float64]
FINITE = float(np.finfo(np.float64).max)


def energy_kept(p: npt.ArrayLike, k: npt.ArrayLike) -> Numbers:
    """Share of the summed squares of Gaussian weights that is left when the smallest in magnitude are pruned.

    u + sqrt(4 / pi) t exp(-t^2),  u = (1 - p)^k the fraction of weights kept,  t = erf^-1(1 - u)

    The factor in brackets of Theorem 1. t is computed as erfc^-1(u), which is exact where 1 - u rounds to 1.

    Domain: p in [0, 1]; k >= 0, whole or not, or infinite; they broadcast. 1 at k = 0 (and p = 0), falling to 0 for k to
    infinity (and p = 1 with k > 0). Flat at k = 0: the first weights to go are almost 0.

    Source: Liu et al. 2023, equation 1.

    >>> energy_kept(0.2, [0, 1, 10]).round(3).tolist()  # after 10 rounds 10.7% of the weights hold 46% of the squares
    [1.0, 0.996, 0.459]
    """
    rate = _checked("p", p, high=1.0)
    rounds = _checked("k", k, high=np.inf)
    kept = (1.0 - rate) ** rounds
    threshold = erfcinv(np.where(kept > 0, kept, 1.0))  # at 0 it is infinite, and its term 0
    return np.asarray(kept + np.sqrt(4.0 / np.pi) * threshold * np.exp(-(threshold**2)))


def activation_bound(
    k: npt.ArrayLike, *, sigma_x: npt.ArrayLike, sigma_w: npt.ArrayLike, p: npt.ArrayLike, d: npt.ArrayLike
) -> Numbers:
    """C(sigma_x, sigma_w, p, k): four times a hidden layer's mean squared activation is at least this (Theorem 1).

    C = sigma_w^2 + d sigma_x^2 sigma_w^2 energy_kept(p, k)

    d is the number of inputs, as in X of R^d: it stands in equation 1 but not among C's arguments in Theorem 2. The first
    term is the bias. ReLU passes half of a symmetric pre-activation's squares, so the mean squared activation is C / 2 and
    the bound holds with a factor 2 to spare.

    Domain: sigma_x, sigma_w > 0, p in [0, 1], d and k >= 0; they broadcast. (1 + d sigma_x^2) sigma_w^2 at k = 0, falling
    in k to sigma_w^2.

    Source: Liu et al. 2023, Theorem 1, equation 1.

    >>> activation_bound([0, 10, 100], sigma_x=1, sigma_w=0.1, p=0.2, d=100).round(3).tolist()
    [1.01, 0.469, 0.01]
    """
    x, w = _checked("sigma_x", sigma_x, positive=True), _checked("sigma_w", sigma_w, positive=True)
    return np.asarray(w**2 * (1.0 + _checked("d", d) * x**2 * energy_kept(p, k)))


def learning_rate_bound(
    k: npt.ArrayLike,
    *,
    sigma_x: npt.ArrayLike,
    sigma_w: npt.ArrayLike,
    p: npt.ArrayLike,
    d: npt.ArrayLike,
    gradient_norm: npt.ArrayLike = 1.0,
    gamma: npt.ArrayLike = 1.0,
) -> Numbers:
    """The largest learning rate with which an epoch can change the last layer's weights by `gradient_norm` alone.

    alpha <= sqrt(K / (gamma C(sigma_x, sigma_w, p, k))),  K = gradient_norm, the mean squared change of a weight

    As pruning lowers C, this rises in an S: the red line of Fig. 2. Theorem 2 does not say what the constant gamma is, so
    the shape means something and the height does not.

    Domain: as `activation_bound`, K and gamma > 0. sqrt(K / (gamma (1 + d sigma_x^2))) / sigma_w at k = 0, rising to
    sqrt(K / gamma) / sigma_w.

    Source: Liu et al. 2023, Theorem 2 and Remark 2.

    >>> learning_rate_bound([0, 10, 20, 100], sigma_x=1, sigma_w=0.1, p=0.2, d=100, gradient_norm=1e-4).round(4).tolist()
    [0.01, 0.0146, 0.0309, 0.1]
    """
    norm, constant = _checked("gradient_norm", gradient_norm, positive=True), _checked("gamma", gamma, positive=True)
    bound = activation_bound(k, sigma_x=sigma_x, sigma_w=sigma_w, p=p, d=d)
    return np.asarray(np.sqrt(norm / (constant * bound)))


def _checked(name: str, value: npt.ArrayLike, *, positive: bool = False, high: float = FINITE) -> Numbers:
    """Raises DomainError where a number is NaN or outside [0, high], or 0 if it must be positive."""
    numbers = np.asarray(value, dtype=np.float64)
    wrong = ~((numbers > 0 if positive else numbers >= 0) & (numbers <= high))
    if wrong.any():
        domain = "in [0, 1]" if high == 1 else "above 0" if positive else "of at least 0"
        raise DomainError(f"{name}: found {numbers[wrong].flat[0]:g}, expected a number {domain}")
    return numbers
