"""One curve against three kinds of intervals: what is surely inside, what is estimated to be, and what may be.

The curve is fitted to the estimated ones. For each kind: how many the curve hits, the most that any curve of the range
hits, proven, and the ranges that hold the numbers of every curve with that many hits.

Hits are exact: intervals are closed, from candidate to candidate. The ranges are for intervals whose ends may lie
anywhere up to the next candidate beyond (`Intervals.widened`): wherever the true ends are, the curves that hit as many of
the true intervals are among those that hit as many of the widened ones.
"""

from dataclasses import dataclass

from search_spaces.silo import SiloRanges
from silo_fit.certify import certify
from silo_fit.curve import SiloCurve
from silo_fit.determine import Determined, determine
from silo_fit.tables import Intervals, Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class KindFit:
    """What a curve, and what any curve, hits of one kind of intervals."""

    kind: Kind
    hits: int  # of the fitted curve
    num_intervals: int  # cycles that have an interval of this kind; the others cannot be hit
    reachable_hits: int  # some curve of the searched range hits as many
    most_hits: int  # no curve of the range hits more
    limits: Determined | None  # over all curves with reachable_hits hits; None where there is no interval

    @property
    def certified(self) -> bool:
        """Whether the most hits are proven to be those that can be reached."""
        return self.reachable_hits == self.most_hits


def fit_kind(intervals: Intervals, kind: Kind, curve: SiloCurve, ranges: SiloRanges) -> KindFit:
    """Hold a curve, and all curves of the range, against the intervals of one kind."""
    own = intervals.of_kind(kind)
    if own is None:
        return KindFit(kind=kind, hits=0, num_intervals=0, reachable_hits=0, most_hits=0, limits=None)
    proof = certify(own, q=ranges.q, beta=ranges.beta)
    hits = sum(own.inside(curve))
    start = [(curve.q, curve.beta), (proof.q, proof.beta)]
    return KindFit(
        kind=kind,
        hits=hits,
        num_intervals=len(own.cycles),
        reachable_hits=proof.hits,
        most_hits=max(hits, proof.most_hits),
        limits=determine(own.widened(), hits=proof.hits, start=start, q=ranges.q, beta=ranges.beta),
    )


def hits_by_kind(intervals: Intervals, curve: SiloCurve) -> dict[Kind, tuple[int, int]]:
    """How many intervals of each kind a curve hits, and how many there are; only "estimated" without estimates."""
    found: dict[Kind, tuple[int, int]] = {}
    for kind in intervals.kinds:
        own = intervals.of_kind(kind)
        found[kind] = (0, 0) if own is None else (sum(own.inside(curve)), len(own.cycles))
    return found
