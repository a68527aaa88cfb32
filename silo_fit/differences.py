"""How two arms of an experiment differ in test accuracy. The unit is the seed: images of one test set are no repetitions.

Axes: S seeds, M cycles, I test images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy import stats

from oracle.view.words import counted, points

LEVEL = 0.95  # of the interval, and of each of the two one-sided tests
POWER = 0.8  # with which as many seeds as are said to do would tell
MOST_SEEDS = 1000  # that are said to do
Outcome = Literal["better", "worse", "equal", "open"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One arm less another one, trained from the same seeds: test accuracy, a fraction, mean over the same cycles.

    >>> found = Difference(per_seed=(0.001, -0.002, 0.0, 0.001, -0.001), num_cycles=13, tolerance=0.005)
    >>> found.outcome, found.sentence("SILO", "the Oracle")[:47]
    ('equal', 'SILO equals the Oracle within half a point: -0.')
    """

    per_seed: tuple[float, ...]
    num_cycles: int
    tolerance: float  # fraction of accuracy within which two arms count as equal
    image_se: float | None = None  # what another test set of the same size would change it by; None: not known

    @property
    def mean(self) -> float:
        """Over seeds."""
        return math.fsum(self.per_seed) / len(self.per_seed)

    @property
    def std(self) -> float | None:
        """Over seeds, n - 1; None for one seed."""
        return float(np.std(self.per_seed, ddof=1)) if len(self.per_seed) > 1 else None

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """Student's t interval of the mean over ever more seeds, on the same test images; None for one seed."""
        num = len(self.per_seed)
        if self.std is None:
            return None
        half = float(stats.t.ppf((1 + level) / 2, num - 1)) * self.std / math.sqrt(num)
        return self.mean - half, self.mean + half

    @property
    def p_value(self) -> float | None:
        """Of the paired t-test that there is no difference; None for one seed."""
        if self.std is None:
            return None
        if self.std == 0:
            return 1.0 if self.mean == 0 else 0.0
        num = len(self.per_seed)
        return float(2 * stats.t.sf(abs(self.mean) / (self.std / math.sqrt(num)), num - 1))

    @property
    def outcome(self) -> Outcome:
        """Equal where both one-sided tests say so (the interval of level 2 x 0.95 - 1 lies within the tolerance).

        Else better or worse where the 95% interval is on one side of 0, else open.
        """
        wide, narrow = self.interval(), self.interval(2 * LEVEL - 1)
        if wide is None or narrow is None:
            return "open"
        if max(-narrow[0], narrow[1]) <= self.tolerance:
            return "equal"
        if wide[0] > 0:
            return "better"
        return "worse" if wide[1] < 0 else "open"

    @property
    def seeds_needed(self) -> int | None:
        """With as many seeds an open question is settled with a chance of 80%, if mean and spread stay as they are.

        The smallest n with T((tolerance - mean) / e - t_95) + T((tolerance + mean) / e - t_95) - 1 >= 0.8, which shows that
        they are equal, or with T(|mean| / e - t_97.5) >= 0.8, which shows that they differ; e = std / sqrt(n), T and t the
        distribution of Student's t and its quantiles, n - 1 degrees of freedom. None where one seed tells no spread, or
        more than 1,000 are needed.
        """
        if self.std is None:
            return None
        num = np.arange(2, MOST_SEEDS + 1)
        error, freedom = max(self.std, 1e-12) / np.sqrt(num), num - 1
        nearer, further = ((self.tolerance + side * self.mean) / error for side in (-1, 1))
        both = stats.t.cdf(nearer - stats.t.ppf(LEVEL, freedom), freedom)
        both += stats.t.cdf(further - stats.t.ppf(LEVEL, freedom), freedom) - 1
        apart = stats.t.cdf(abs(self.mean) / error - stats.t.ppf((1 + LEVEL) / 2, freedom), freedom)
        enough = num[(both >= POWER) | (apart >= POWER)]
        return int(enough[0]) if len(enough) else None

    def sentence(self, one: str, other: str) -> str:
        """The verdict."""
        found, within = self.in_words(), points(self.tolerance)
        match self.outcome:
            case "equal":
                return f"{one} equals {other} within {within}{self._side()}: {found}"
            case "better" | "worse" as outcome:
                return f"{one} is {outcome} than {other}: {found}"
        if self.std is None:
            return (
                f"one seed does not tell how {one} compares to {other}, as nothing says how far seeds differ: {found}"
            )
        needed = self.seeds_needed
        do = f"more than {MOST_SEEDS:,} would be needed" if needed is None else f"about {needed} would do"
        return f"{len(self.per_seed)} seeds do not tell how {one} compares to {other}: {found}; {do}"

    def in_words(self) -> str:
        """The numbers, in points of accuracy."""
        parts = [f"mean over {counted(self.num_cycles, 'cycle')}; "]
        if (interval := self.interval()) is not None:
            parts.append(f"95% interval {in_points(interval[0])} to {in_points(interval[1])}, ")
        parts.append(counted(len(self.per_seed), "seed"))
        return f"{in_points(self.mean)} points of test accuracy ({''.join(parts)})"

    def _side(self) -> str:
        """On which side of 0 the 95% interval lies, if on one."""
        interval = self.interval()
        if interval is None or interval[0] <= 0 <= interval[1]:
            return ""
        return f", a little {'above' if self.mean > 0 else 'below'}"

    def images_in_words(self) -> str | None:
        """What more test images would bring; None where that is not known."""
        if self.image_se is None:
            return None
        return f"another test set of this size would move that by about {100 * self.image_se:.2f} points"

    def as_dict(self) -> dict[str, Any]:
        """For JSON; fractions of accuracy."""
        return {
            "mean": self.mean,
            "std": self.std,
            "interval": self.interval(),
            "p_value": self.p_value,
            "per_seed": self.per_seed,
            "num_cycles": self.num_cycles,
            "tolerance": self.tolerance,
            "outcome": self.outcome,
            "seeds_needed": self.seeds_needed if self.outcome == "open" else None,
            "image_se": self.image_se,
        }


def in_points(fraction: float) -> str:
    """A difference of accuracies, with its sign.

    >>> in_points(0.0012), in_points(-0.03), in_points(0.000001)
    ('+0.12', '-3.00', '0.00')
    """
    said = f"{100 * fraction:+.2f}"
    return said if float(said) else "0.00"


def image_error(one: Bool[ndarray, "S M I"], other: Bool[ndarray, "S M I"]) -> float | None:
    """Standard error of the mean difference from the images alone; None with fewer than two seeds or images.

    An image's part is what its differences of two seeds have in common: the mean product over pairs of seeds. What one seed
    adds is the seeds' spread, which the interval over seeds holds already. None too where the seeds have nothing in common:
    the estimate is then below 0, and says only that these seeds are too few to tell.
    """
    seeds, _, images = one.shape
    if seeds < 2 or images < 2:
        return None
    lost = (one.astype(float) - other).mean(axis=1)  # [S, I]
    # The variance of a sum is the sum of all covariances: without each seed's own, those of pairs are left.
    pairs = lost.sum(0).var(ddof=1) - lost.var(1, ddof=1).sum()
    return math.sqrt(pairs / (seeds * (seeds - 1)) / images) if pairs > 0 else None


def adjusted(p_values: Sequence[float]) -> list[float]:
    """P-values of several tests so raised that the chance of any false finding is bounded (Holm 1979), in their order.

    >>> adjusted([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    found, highest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        found[index] = highest
    return found


def paired(
    one: Float[ndarray, "S M"], other: Float[ndarray, "S M"], *, tolerance: float, image_se: float | None = None
) -> Difference:
    """The difference of two arms' test accuracies, seed by seed."""
    per_seed = (one - other).mean(axis=1)
    return Difference(
        per_seed=tuple(map(float, per_seed)), num_cycles=one.shape[1], tolerance=tolerance, image_se=image_se
    )
