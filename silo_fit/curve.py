"""SILO's curve: the peak learning rate of each pruning cycle."""

import math
from dataclasses import asdict, dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oracle.errors import CurveError

Floats = NDArray[np.float64]


def shape(cycle: ArrayLike, q: ArrayLike, beta: ArrayLike, pruning_rate: float) -> Floats:
    """How far the curve has risen, from 0 to 1; arrays broadcast.

    s(m) = 0                            for m <= q
         = 1 / (1 + (g/(1-g))**-beta)   after, g = 1 - (1-p)**(m-q)

    With x = -(m-q) log(1-p), g/(1-g) = exp(x) - 1, so s = sigmoid(beta (x + log(1 - exp(-x)))), which neither divides
    by zero nor overflows at any m. s never falls with m, never rises with q, and is 1/2 where g is.

    >>> shape([0, 1, 1000], 1, 5, 0.2).tolist()
    [0.0, 0.0, 1.0]
    """
    x = -math.log1p(-pruning_rate) * (np.asarray(cycle, dtype=float) - np.asarray(q, dtype=float))
    with np.errstate(divide="ignore", over="ignore"):  # x = 0 goes to log 0 = -inf, and then to s = 0, as it should
        x = np.maximum(x, 0.0)
        logit = np.asarray(beta, dtype=float) * (x + np.log(-np.expm1(-x)))
        return np.asarray(1.0 / (1.0 + np.exp(-logit)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SiloCurve:
    """Peak learning rate of each pruning cycle, S-shaped (Liu et al. 2023, eq. 3).

    max_lr(m) = eps                                       for m <= q
              = eps + delta / (1 + (g/(1-g))**-beta)      after, g = 1 - (1-p)**(m-q)

    Any m >= 0 is allowed, whole or not; the value stays within [eps, eps + delta] and never falls.

    >>> silo = SiloCurve(eps=0.04, delta=0.06, q=1, beta=5, pruning_rate=0.2)
    >>> silo(0)
    0.04
    >>> silo([3, 5]).round(4).tolist()
    [0.0432, 0.0917]
    """

    eps: float  # max_lr before the rise
    delta: float  # height of the rise
    q: float  # cycles before the rise starts
    beta: float  # steepness
    pruning_rate: float  # fraction of the remaining weights removed per cycle

    def __post_init__(self) -> None:
        for name, ok, wanted in (
            ("eps", self.eps >= 0, "at least 0"),
            ("delta", self.delta >= 0, "at least 0"),
            ("q", self.q >= 0, "at least 0"),
            ("beta", self.beta > 0, "above 0"),
            ("pruning_rate", 0 < self.pruning_rate < 1, "between 0 and 1, both excluded"),
        ):
            value = getattr(self, name)
            if not ok or not math.isfinite(value):
                raise CurveError(f"{name} is {value:g}; it must be finite and {wanted}")
        if not math.isfinite(self.top):
            raise CurveError(f"eps + delta is {self.top:g}; the curve must stay finite")

    @overload
    def __call__(self, cycle: float) -> float: ...
    @overload
    def __call__(self, cycle: ArrayLike) -> Any: ...
    def __call__(self, cycle: ArrayLike) -> Any:
        """Return the max_lr of a cycle: a float, or an array for an array."""
        cycles = np.asarray(cycle, dtype=float)
        if not (cycles >= 0).all():
            raise CurveError(f"a cycle must be at least 0, not {cycles.min():g}")
        values = self.eps + self.delta * shape(cycles, self.q, self.beta, self.pruning_rate)
        return float(values) if cycles.ndim == 0 else values

    @property
    def top(self) -> float:
        """The value that the curve rises to, eps + delta."""
        return self.eps + self.delta

    @property
    def half_way(self) -> float:
        """The cycle at which half of the rise is done: m50 = q - ln 2 / ln(1-p), whatever beta."""
        return self.cycle_at(0.5)

    def cycle_at(self, part: float) -> float:
        """Return the cycle at which `part` of the rise is done, 0 < part < 1: the inverse of the shape.

        >>> round(SiloCurve(eps=0, delta=1, q=1, beta=5, pruning_rate=0.2).cycle_at(0.5), 3)
        4.106
        """
        log_odds = math.log(part / (1 - part)) / self.beta  # of g
        return self.q - float(np.logaddexp(0.0, log_odds)) / math.log1p(-self.pruning_rate)

    def in_words(self) -> str:
        """The four numbers, to four digits.

        >>> SiloCurve(eps=0.04, delta=0.06, q=1, beta=5, pruning_rate=0.2).in_words()
        'eps 0.04, delta 0.06, q 1, beta 5'
        """
        return f"eps {self.eps:.4g}, delta {self.delta:.4g}, q {self.q:.4g}, beta {self.beta:.4g}"

    def as_dict(self) -> dict[str, float]:
        """Return the five numbers by name."""
        return asdict(self)
