"""What a fit found: the curve, cycle by cycle, what is proven about it, what other curves hit, and what must be said."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from search_spaces.silo import RECOMMENDED, Range, SiloRanges
from silo_fit.complexity import trainings
from silo_fit.curve import SiloCurve
from silo_fit.determine import NAMES, Determined
from silo_fit.estimates import Certainty
from silo_fit.feasible import BestCurves
from silo_fit.kinds import KindFit
from silo_fit.tables import Intervals
from silo_fit.verdict import Verdict

TOUCHING_MARGIN = 1e-6  # of the largest hi: a hit no further than this from an end of its interval is on the edge
RISE_PARTS = (0.05, 0.95)  # of the rise: the cycles at which they are done are called its start and its end
WHOLE_RANGE = 0.99  # of a searched range: numbers that fill as much of it are not determined

CERTAIN_KINDS: Mapping[Certainty, str] = {"sure": "surely inside", "possible": "possibly inside"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleFit:
    """One cycle's interval and what a curve does there."""

    cycle: int
    lo: float
    max_lr: float  # the optimum
    hi: float
    silo: float  # the curve's value
    inside: bool
    margin: float  # distance to the nearer end, in the unit of max_lr; below 0 if outside
    depth: float  # the margin over half the interval's width: 1 in the middle, 0 at an end; 0 if the width is 0
    on_edge: bool  # inside, but no further from an end than a millionth of the largest hi


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """Another curve, and how many of the same intervals it hits."""

    curve: SiloCurve
    hits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rivals:
    """What other curves, and curves of other ranges, hit of the same intervals."""

    constant_max_lr: float  # the constant that hits the most
    constant_hits: int
    whole_q_hits: int | None  # most hits with a whole q; None if the range holds none
    wide_hits: int  # most hits found for q and beta in the wide range
    wide_certified: bool
    wide_ranges: SiloRanges
    paper_default: Rival  # q = 1, beta = 5, with their best eps and delta
    paper_curve: Rival | None  # the paper's own four numbers, for its own tables


@dataclass(frozen=True, slots=True, kw_only=True)
class NextCycle:
    """The cycle not searched yet at which the best curves differ most."""

    cycle: int
    low: float
    high: float | None  # None: no upper bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a fit was asked to do."""

    q: Range  # searched
    beta: Range
    seed: int
    trials: int  # of Optuna
    tolerance: float  # of the largest hi: forgiven at an interval's end

    @property
    def ranges(self) -> SiloRanges:
        """What was searched."""
        return SiloRanges(q=self.q, beta=self.beta)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fit:
    """SILO's numbers, what is proven about them, and what the intervals leave open. Rates are in the table's unit."""

    intervals: Intervals  # as read
    settings: Settings
    curve: SiloCurve
    per_cycle: tuple[CycleFit, ...]
    most_hits: int  # no curve of the searched range hits more
    limits: Determined  # over all curves with this many hits, wherever between candidates the intervals end (kinds.py)
    best_curves: BestCurves  # the extreme ones among them
    rivals: Rivals
    next_cycle: NextCycle | None
    found_by: Literal["optuna", "certificate"]
    versions: dict[str, str]
    kinds: tuple[KindFit, ...] = ()  # from sure to possible; without estimates the table's own intervals alone
    verdict: Verdict | None = None  # None: the table comes without probabilities

    @property
    def hits(self) -> int:
        """Intervals that the curve hits."""
        return sum(row.inside for row in self.per_cycle)

    @property
    def num_cycles(self) -> int:
        """Intervals in all: one a cycle of the table."""
        return len(self.per_cycle)

    @property
    def certified(self) -> bool:
        """Whether it is proven that no curve of the searched range hits more."""
        return self.hits == self.most_hits

    @property
    def depth(self) -> float | None:
        """The smallest depth of a hit interval; None without hits."""
        return min((row.depth for row in self.per_cycle if row.inside), default=None)

    @property
    def ranges(self) -> dict[str, tuple[float, float | None]]:
        """Ranges of eps, delta, top, q and beta over all curves with this many hits; None: no upper bound."""
        return self.limits.ranges

    @property
    def determined(self) -> dict[str, str]:
        """The ranges in words."""
        exact = self.intervals.lone(resolved=False)
        return {name: in_words(name, self.limits, self.settings, if_exact=bool(exact)) for name in NAMES}

    @property
    def rise(self) -> tuple[float, float]:
        """The cycles at which 5% and 95% of the rise are done."""
        start, end = (self.curve.cycle_at(part) for part in RISE_PARTS)
        return start, end

    @property
    def s_shape_supported(self) -> bool:
        """Whether the curve hits more than any constant, and later optima are more often higher than lower."""
        return self.hits > self.rivals.constant_hits and _rises(self.intervals)

    @property
    def edge_limited(self) -> tuple[int, ...] | None:
        """Cycles whose interval ends on the grid's edge; None: the table does not say."""
        sides = (self.intervals.lo_on_edge, self.intervals.hi_on_edge)
        flags = [side for side in sides if side is not None]
        if not flags:
            return None
        return tuple(int(cycle) for cycle, *ends in zip(self.intervals.cycles, *flags, strict=True) if any(ends))

    @property
    def trainings(self) -> dict[str, float]:
        """What each way of choosing max_lr costs: see complexity.py."""
        return trainings(self.intervals)

    @property
    def notices(self) -> tuple[str, ...]:
        """What must not be missed, in words."""
        return (*notices_of_table(self.intervals), *_notices(self))

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the table and the extreme curves, ready for JSON; what needs estimates where they are."""
        return self._of_every_table() | self._of_estimates()

    def _of_every_table(self) -> dict[str, Any]:
        rivals = self.rivals
        return {
            "curve": asdict(self.curve),
            "hits": self.hits,
            "num_cycles": self.num_cycles,
            "most_hits": self.most_hits,
            "certified": self.certified,
            "depth": self.depth,
            "per_cycle": rows_as_dicts(self.intervals, self.per_cycle, self.verdict),
            "ranges": self.ranges,
            "determined": self.determined,
            "half_way": self.curve.half_way,
            "rise": self.rise,
            "s_shape_supported": self.s_shape_supported,
            "constant_max_lr": rivals.constant_max_lr,
            "constant_hits": rivals.constant_hits,
            "whole_q_hits": rivals.whole_q_hits,
            "wide_hits": rivals.wide_hits,
            "wide_certified": rivals.wide_certified,
            "wide_ranges": {"q": rivals.wide_ranges.q, "beta": rivals.wide_ranges.beta},
            "paper_default": asdict(rivals.paper_default),
            "paper_curve": rivals.paper_curve and asdict(rivals.paper_curve),
            "found_by": self.found_by,
            "next_cycle": self.next_cycle and asdict(self.next_cycle),
            "edge_limited": self.edge_limited,
            "trainings": self.trainings,
            "settings": asdict(self.settings),
            "versions": self.versions,
            "source": self.intervals.name,
            "notices": self.notices,
        }

    def _of_estimates(self) -> dict[str, Any]:
        if self.intervals.estimates is None:
            return {}
        kinds = {
            kind.kind: {
                "hits": kind.hits,
                "num_intervals": kind.num_intervals,
                "reachable_hits": kind.reachable_hits,
                "most_hits": kind.most_hits,
                "certified": kind.certified,
                "ranges": kind.limits and kind.limits.ranges,
            }
            for kind in self.kinds
        }
        return {**verdict_as_dict(self.verdict), "kinds": kinds}


def check(intervals: Intervals, curve: SiloCurve) -> tuple[CycleFit, ...]:
    """Hold a curve against every interval."""
    values, margins = intervals.margins(curve)
    inside = intervals.inside(curve)
    on_edge = np.array(inside) & (margins <= TOUCHING_MARGIN * intervals.scale)
    rows = zip(intervals.cycles, intervals.lo, intervals.max_lr, intervals.hi, values, margins, strict=True)
    return tuple(
        CycleFit(
            cycle=int(cycle),
            lo=float(lo),
            max_lr=float(best),
            hi=float(hi),
            silo=float(value),
            inside=hit,
            margin=float(margin),
            depth=0.0 if edge or hi == lo else float(margin / ((hi - lo) / 2)),
            on_edge=bool(edge),
        )
        for hit, edge, (cycle, lo, best, hi, value, margin) in zip(inside, on_edge, rows, strict=True)
    )


def rows_as_dicts(intervals: Intervals, rows: Sequence[CycleFit], verdict: Verdict | None) -> list[dict[str, Any]]:
    """Rows ready for JSON, with the cycle's ranges of ends and its probability where they are known."""
    found = [asdict(row) for row in rows]
    if intervals.estimates is None:
        return found
    for index, row in enumerate(found):
        for kind, (lo, hi) in intervals.estimates.ends.items():
            row |= {f"{end}_{kind}": _or_none(values[index]) for end, values in (("lo", lo), ("hi", hi))}
        if verdict is not None:
            row |= {"p_within": verdict.odds[index].p_within, "below_best": verdict.odds[index].below_best}
    return found


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def verdict_as_dict(verdict: Verdict | None) -> dict[str, Any]:
    """A verdict ready for JSON; nothing where there is none."""
    if verdict is None:
        return {}
    return {
        "verdict": verdict.sentence,
        "outcome": verdict.outcome,
        "contradicted_at": verdict.contradicted_at,
        "expected_hits": verdict.expected_hits,
        "remarks": verdict.remarks,
    }


def _rises(intervals: Intervals) -> bool:
    """Whether later optima are more often higher than lower (the sign of Kendall's rank correlation)."""
    best = intervals.max_lr
    return bool(np.sign(best[None, :] - best[:, None])[np.triu_indices(len(best))].sum() > 0)


def in_words(name: str, limits: Determined, settings: Settings, *, if_exact: bool = False) -> str:
    """What the intervals say about one number; `if_exact`: some are single candidates, whose neighbours are not known."""
    low, high = limits.ranges[name]
    if high is None:
        return "not determined" if low == 0 else f"no upper bound (at least {low:.4g})"
    if name in ("q", "beta"):
        searched = settings.q if name == "q" else settings.beta
        if high - low >= WHOLE_RANGE * (searched[1] - searched[0]) > 0:
            return f"not determined (anything in [{searched[0]:g}, {searched[1]:g}] serves)"
    said = f"determined to [{low:.4g}, {high:.4g}]{'' if limits.tight[name] else ', or less'}"
    return f"{said} if the intervals are exact" if if_exact else said


def notices_of_table(intervals: Intervals) -> Iterator[str]:
    """What must be known of a table before its intervals are believed."""
    yield from intervals.warnings
    resolved, unresolved = (intervals.lone(resolved=known) for known in (True, False))
    if resolved:
        yield (
            f"cycle {_listed(resolved)}: the interval is a single candidate: it may end anywhere up to the next ones, "
            "and the ranges of eps, delta, q and beta allow for that; a finer grid would tell more"
        )
    if unresolved:
        yield (
            f"cycle {_listed(unresolved)}: the interval is a single max_lr, and the table does not name the next candidate "
            "on both sides (columns lo_outside and hi_outside; on the grid's edge there is none): how wide it truly is "
            "cannot be told, and the ranges of eps, delta, q and beta are as if it ended there exactly"
        )
    for kind, what in CERTAIN_KINDS.items():
        own = intervals.of_kind(kind) if kind in intervals.kinds else None
        if own is not None and (cycles := own.lone(resolved=False)):
            yield (
                f"cycle {_listed(cycles)}: what is {what} is a single max_lr, and the next candidates on both sides are "
                "not known: ranges from such intervals are as if they ended there exactly"
            )
    estimates = intervals.estimates
    if estimates is not None and not estimates.has_probabilities:
        yield "no probabilities came with the table (p_within.parquet), so no verdict can be given"


def _listed(cycles: Sequence[int]) -> str:
    return ", ".join(map(str, cycles))


def _notices(fit: Fit) -> Iterator[str]:
    rivals = fit.rivals
    if not fit.s_shape_supported:
        reason = "" if rivals.constant_hits >= fit.hits else ", but the optima do not rise with the cycle"
        yield (
            f"no S-shape supported: a constant max_lr of {rivals.constant_max_lr:.4g} hits {rivals.constant_hits} of "
            f"{fit.num_cycles}, the best S-curve {fit.hits}{reason}"
        )
    if not fit.certified:
        yield f"not certified: the curve hits {fit.hits}; proven is only that none hits more than {fit.most_hits}"
    if fit.found_by == "certificate":
        yield "Optuna's trials ended below the certificate, so the curve starts from the certificate's own q and beta"
    if rivals.wide_hits > fit.hits:
        (q_low, q_high), (beta_low, beta_high) = rivals.wide_ranges.q, rivals.wide_ranges.beta
        flags = f"--q {q_low:g} {q_high:g} --beta {beta_low:g} {beta_high:g}"
        yield f"a wider range hits more: {rivals.wide_hits} with {rivals.wide_ranges.in_words()}; {flags} fits there"
    searched = fit.settings.ranges
    if not searched.is_recommended:
        recommended = RECOMMENDED.in_words()
        yield f"{searched.in_words()} was searched, beyond the paper's recommendation of {recommended}"
    highest = float(fit.intervals.hi.max())
    if fit.curve.top > highest * (1 + TOUCHING_MARGIN):
        yield (
            f"the rise is not over at cycle {fit.per_cycle[-1].cycle}: the curve goes on to {fit.curve.top:.4g}, above "
            f"every interval (up to {highest:.4g}); only later cycles can tell how far"
        )
    edges = [str(row.cycle) for row in fit.per_cycle if row.on_edge]
    if edges:
        yield f"on the edge: the curve just touches the interval of cycle {', '.join(edges)}; a small change misses it"
