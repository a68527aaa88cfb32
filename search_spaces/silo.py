"""Ranges of SILO's four numbers: q and beta for fitting to intervals; eps and delta too for tuning by training."""

import math
from dataclasses import dataclass

Range = tuple[float, float]
# Beyond these a curve is a constant, or a step, at every whole cycle.
BOUNDS = {"q": (0.0, 1000.0), "beta": (0.01, 100.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class SiloRanges:
    """Where to look for each number; the defaults are the paper's recommendation (Liu et al. 2023, section 4.3).

    Fitting finds eps and delta exactly, without limits, so only tuning by training needs ranges for them.

    >>> SiloRanges(q=(0, 5)).is_recommended
    False
    """

    q: Range = (0.0, 3.0)  # cycles
    beta: Range = (3.0, 6.0)
    eps: Range | None = None  # max_lr of the dense network
    delta: Range | None = None  # rise of max_lr above eps

    def __post_init__(self) -> None:
        for name in ("q", "beta", "eps", "delta"):
            limits = getattr(self, name)
            if limits is None and name in ("eps", "delta"):
                continue
            try:
                low, high = (float(limit) for limit in limits)
            except (TypeError, ValueError):
                raise ValueError(f"range of {name}: {limits!r} is not a pair of numbers (low, high)") from None
            if not (math.isfinite(low) and math.isfinite(high)) or low > high:
                raise ValueError(f"range of {name}: [{low:g}, {high:g}] must be finite, with low <= high")
            least, most = BOUNDS.get(name, (0.0, math.inf))
            if low < least or high > most:
                within = f"within [{least:g}, {most:g}]" if math.isfinite(most) else f"at least {least:g}"
                raise ValueError(f"range of {name}: [{low:g}, {high:g}] must lie {within}")
            object.__setattr__(self, name, (low, high))

    @property
    def is_recommended(self) -> bool:
        """Whether q and beta stay inside the paper's recommendation."""
        return self.q[0] >= 0 and self.q[1] <= 3 and self.beta[0] >= 3 and self.beta[1] <= 6

    def in_words(self) -> str:
        """The ranges of q and beta.

        >>> SiloRanges().in_words()
        'q in [0, 3] and beta in [3, 6]'
        """
        return f"q in [{self.q[0]:g}, {self.q[1]:g}] and beta in [{self.beta[0]:g}, {self.beta[1]:g}]"


RECOMMENDED = SiloRanges()
WIDE = SiloRanges(q=(0.0, 10.0), beta=(1.0, 12.0))  # asks whether the recommendation costs hits; trained by nobody
PAPER_DEFAULT = SiloRanges(q=(1.0, 1.0), beta=(5.0, 5.0))
