"""What an Oracle's trials say of a curve: how likely it lies in each interval, and in all of them.

The claim that is judged: the curve's max_lr lies within every cycle's interval, as it would be known from ever more seeds.
`p_within` is the probability of that at one cycle. The chance that the claim fails somewhere is at most the sum of the
chances that it fails at each cycle (a union bound), and at least the largest of them: no cycle need be independent of
another, and later cycles start from earlier ones' winners, so they are not.

    contradicted    at some cycle p_within < 0.05 / number of cycles: that the claim is true and meets this at any of the
                    cycles has a probability of 0.05 at most
    confirmed       the sum of 1 - p_within is at most 0.05: the claim is true with probability 0.95 or more
    open            neither

Between candidates p_within is taken as linear in log max_lr. Beyond the first and the last candidate nothing was asked:
there it counts as 0 for what is expected or confirmed, and as the last candidate's for what contradicts, because an
interval that reaches beyond holds that candidate too. A cycle without estimates counts as 0, and contradicts nothing.
"""

import math
from dataclasses import dataclass
from typing import Literal

from silo_fit.curve import SiloCurve
from silo_fit.tables import Intervals

CHANCE = 0.05  # that a verdict is wrong, at most
MOST_CERTAIN = 0.999  # that is said: p_within is a share of 4000 draws


@dataclass(frozen=True, slots=True, kw_only=True)
class Odds:
    """How likely a curve's value is in one cycle's interval."""

    cycle: int
    p_within: float | None  # None: nothing is known of the cycle; 0 beyond its candidates
    p_at_most: float  # as p_within, but beyond the candidates the last one's; 1 where nothing is known
    is_beyond: bool
    below_best: (
        float | None
    )  # fraction: how far the accuracy curve lies below its best there; None beyond the candidates


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is said of a curve."""

    odds: tuple[Odds, ...]  # one a cycle
    is_fitted: bool  # to these same cycles
    is_noise_known: bool  # False where one seed left it to be assumed

    @property
    def expected_hits(self) -> float:
        """How many intervals the curve hits, on average over what they may be: the sum of p_within."""
        return math.fsum(each.p_within or 0.0 for each in self.odds)

    @property
    def contradicted_at(self) -> tuple[int, ...]:
        """Cycles whose interval the curve surely misses."""
        return tuple(each.cycle for each in self.odds if each.p_at_most < CHANCE / len(self.odds))

    @property
    def outcome(self) -> Literal["contradicted", "confirmed", "open"]:
        """See the module."""
        if self.contradicted_at:
            return "contradicted"
        return "confirmed" if self._missed <= CHANCE else "open"

    @property
    def _missed(self) -> float:
        """The chance to miss any interval is this or less."""
        return math.fsum(1 - (each.p_within or 0.0) for each in self.odds)

    @property
    def sentence(self) -> str:
        """The verdict in words; it begins with what it is."""
        num, expected = len(self.odds), f"{self.expected_hits:.3g}"
        if self.outcome == "contradicted":
            those = _cycles_in_words(self.contradicted_at)
            return (
                f"contradicted: at {those} the curve lies in the interval with probability below {CHANCE / num:.2g} "
                f"({CHANCE:g} over {num} cycles); {expected} of {num} hits are expected"
            )
        if self.outcome == "confirmed":
            least = min(math.floor(1000 * (1 - self._missed)) / 1000, MOST_CERTAIN)
            return (
                f"confirmed: the curve lies in all {num} intervals with probability {least:g} or more; "
                f"{expected} of {num} hits are expected"
            )
        return (
            f"the data do not tell whether the curve lies in all {num} intervals; {expected} of {num} hits are expected"
        )

    @property
    def remarks(self) -> tuple[str, ...]:
        """What must be known beside the sentence."""
        beyond = tuple(each.cycle for each in self.odds if each.is_beyond)
        unknown = tuple(each.cycle for each in self.odds if each.p_within is None)
        said = {
            "the curve was fitted to these same cycles, so this is no test on new data": self.is_fitted,
            f"beyond the candidates at {_cycles_in_words(beyond)}: nothing was asked there, which counts as a miss in the "
            "expected hits": bool(beyond),
            f"nothing was estimated at {_cycles_in_words(unknown)}, which counts as a miss in the expected hits": bool(
                unknown
            ),
            "one seed tells nothing of noise: these probabilities rest on an assumed one": not self.is_noise_known,
        }
        return tuple(sentence for sentence, holds in said.items() if holds)


def judge(intervals: Intervals, curve: SiloCurve, *, is_fitted: bool) -> Verdict | None:
    """Hold a curve against what is known of the intervals; None where the table comes without probabilities."""
    estimates = intervals.estimates
    if estimates is None or not estimates.has_probabilities:
        return None
    odds = []
    for cycle, found in zip(intervals.cycles, estimates.curves, strict=True):
        value = float(curve(cycle))
        odds.append(
            Odds(
                cycle=int(cycle),
                p_within=None if found is None else found.p_at(value),
                p_at_most=1.0 if found is None else found.p_at_most(value),
                is_beyond=found is not None and found.is_beyond(value),
                below_best=None if found is None else found.below_best(value),
            )
        )
    is_noise_known = not any(row.get("evidence") == "assumed" for row in estimates.rows)
    return Verdict(odds=tuple(odds), is_fitted=is_fitted, is_noise_known=is_noise_known)


def _cycles_in_words(cycles: tuple[int, ...]) -> str:
    """As people list them.

    >>> _cycles_in_words((4,)), _cycles_in_words((4, 7, 9))
    ('cycle 4', 'cycles 4, 7 and 9')
    """
    *most, last = map(str, cycles or (0,))
    return f"cycles {', '.join(most)} and {last}" if most else f"cycle {last}"
