"""Fit SILO's four numbers to an Oracle's intervals.

Optuna searches (q, beta); eps and delta are solved exactly for each (feasible.py), so a trial's score is what that
(q, beta) can do at best. In this order: hits, of which certify.py proves beforehand how many there can be, so that
nothing is left to look for once they are reached; then least squares in log space to the optima of the hit cycles.
Nothing here loads torch or ray.
"""

import math
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from oracle.errors import CurveError
from search_spaces.silo import PAPER_DEFAULT, RECOMMENDED, WIDE, Range, SiloRanges
from silo_fit.certify import Certificate, certify, constant_hits
from silo_fit.curve import SiloCurve
from silo_fit.determine import NAMES, UNBOUNDED, Determined, determine
from silo_fit.feasible import LOSS_DIGITS, BestCurves, Solution, best_curves, solve
from silo_fit.tables import TOLERANCE, Intervals, parse_intervals

if TYPE_CHECKING:
    import pandas
    import pyarrow

EDGE = 1e-6  # of the largest hi: a hit this close to an end is said to be on the edge
RISE = (0.05, 0.95)  # the parts of the rise that its reported start and end have done
EXAMPLE_CANDIDATES = 20  # a table that does not say how many candidates were tried gets its training counts for these
SPARSE_CYCLES = 6  # searched by a sparse Oracle, where the table itself is not one
REFINEMENTS = 120  # tries around Optuna's best
PARABOLOID_POINTS = 9  # a point and all its neighbours
FAR = 8.0  # steps that are trusted to a paraboloid
SMALLEST_STEP = 2**-12  # of a range: steps of the refinement end here
ASIDE_EVENTS = 40_000_000  # work allowed for proofs about other ranges


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
class NextCycle:
    """The cycle not searched yet at which the best curves differ most."""

    cycle: int
    low: float
    high: float | None  # None: no upper bound


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fit:
    """SILO's numbers, what is proven about them, and what the intervals leave open. Rates are in the table's unit."""

    curve: SiloCurve
    hits: int  # intervals that the curve hits
    num_cycles: int
    most_hits: int  # no curve of the range hits more
    certified: bool  # hits == most_hits
    depth: float | None  # the smallest depth of a hit interval; None without hits
    per_cycle: tuple[CycleFit, ...]
    ranges: dict[str, tuple[float, float | None]]  # of eps, delta, top, q, beta over all curves with this many hits
    determined: dict[str, str]  # the same in words
    half_way: float  # cycle
    rise: tuple[float, float]  # cycles at which 5% and 95% of the rise are done
    s_shape_supported: bool
    constant_max_lr: float  # the constant that hits the most
    constant_hits: int
    whole_q_hits: int | None  # most hits with a whole q; None if the range holds none
    wide_hits: int  # most hits found for q and beta in the wide range
    wide_certified: bool
    wide_ranges: SiloRanges
    paper_default: Rival  # q = 1, beta = 5, with their best eps and delta
    paper_curve: Rival | None  # the paper's own four numbers, for its own tables
    found_by: Literal["optuna", "certificate"]
    next_cycle: NextCycle | None
    edge_limited: tuple[int, ...] | None  # cycles whose interval ends on the grid's edge; None: the table does not say
    trainings: dict[str, float]
    settings: dict[str, Any]
    versions: dict[str, str]
    intervals: Intervals  # as read, and the extreme best curves: for plots, not in JSON
    best_curves: BestCurves

    @property
    def notices(self) -> tuple[str, ...]:
        """What must not be missed, in words."""
        return (*self.intervals.warnings, *_notices(self))

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the arrays, ready for JSON."""
        left_out = ("intervals", "best_curves")
        fields: dict[str, Any] = {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name not in left_out
        }
        for name in ("curve", "paper_default", "paper_curve", "next_cycle"):
            fields[name] = fields[name] and asdict(fields[name])
        return {
            **fields,
            "source": self.intervals.name,
            "per_cycle": [asdict(row) for row in self.per_cycle],
            "wide_ranges": {"q": self.wide_ranges.q, "beta": self.wide_ranges.beta},
            "notices": self.notices,
        }


def fit(
    table: "pandas.DataFrame | pyarrow.Table | Intervals",
    *,
    pruning_rate: float | None = None,
    q: Range = RECOMMENDED.q,
    beta: Range = RECOMMENDED.beta,
    seed: int = 0,
    trials: int = 50,
) -> Fit:
    """Fit a curve to a table with columns cycle, lo, max_lr, hi, and prove how many intervals any curve can hit.

    The pruning rate may be left out for a table that carries it. The same seed gives the same bits, in any order of
    rows; another unit of the rates gives the same q and beta.

    >>> from silo_fit.tables import read_intervals
    >>> best = fit(read_intervals("paper:resnet20"))
    >>> best.hits, best.most_hits, best.certified
    (5, 5, True)
    """
    intervals = table if isinstance(table, Intervals) else parse_intervals(table, pruning_rate=pruning_rate)
    try:
        ranges = SiloRanges(q=q, beta=beta)
    except ValueError as error:
        raise CurveError(str(error)) from None
    if not isinstance(trials, int) or trials < 1:
        raise CurveError(f"trials: {trials!r} were asked for; a whole number from 1 on is needed")
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise CurveError(f"seed: {seed!r} is not a whole number from 0 to 2^32 - 1")

    proof = certify(intervals, q=ranges.q, beta=ranges.beta)
    at = _search(intervals, ranges, seed, trials)
    by_optuna = solve(intervals, *at).hits >= proof.hits
    at = _refine(intervals, ranges, at if by_optuna else (proof.q, proof.beta))
    solution = solve(intervals, *at)
    curve = _curve(intervals, solution, at)
    limits = determine(intervals, hits=solution.hits, start=[at, (proof.q, proof.beta)], q=ranges.q, beta=ranges.beta)
    extremes = best_curves(intervals, hits=solution.hits, points=[at, *limits.points], q=ranges.q, beta=ranges.beta)
    settings = {"q": ranges.q, "beta": ranges.beta, "seed": seed, "trials": trials, "tolerance": TOLERANCE}
    return _report(intervals, ranges, curve, solution, proof, limits, extremes, by_optuna, settings)


def check(intervals: Intervals, curve: SiloCurve) -> tuple[CycleFit, ...]:
    """Hold a curve against every interval."""
    values, margins = intervals.margins(curve)
    inside = intervals.inside(curve)
    on_edge = np.array(inside) & (margins <= EDGE * intervals.scale)
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


def _curve(intervals: Intervals, solution: Solution, at: tuple[float, float]) -> SiloCurve:
    scale = intervals.scale
    return SiloCurve(
        eps=solution.eps * scale,
        delta=solution.delta * scale,
        q=at[0],
        beta=at[1],
        pruning_rate=intervals.pruning_rate,
    )


def _score(solution: Solution) -> float:
    """One number that orders solutions: hits, then whether they are more than touched, then closeness to the optima."""
    return solution.hits - (solution.touching + solution.loss / (1 + solution.loss)) / 2


def _search(intervals: Intervals, ranges: SiloRanges, seed: int, trials: int) -> tuple[float, float]:
    """Let Optuna look for the best (q, beta), from the paper's default on."""
    import optuna

    def score(trial: Any) -> float:
        at = trial.suggest_float("q", *ranges.q), trial.suggest_float("beta", *ranges.beta)
        return _score(solve(intervals, *at))

    with _quiet(optuna):
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
        default = {"q": PAPER_DEFAULT.q[0], "beta": PAPER_DEFAULT.beta[0]}
        if all(
            low <= value <= high for value, (low, high) in zip(default.values(), (ranges.q, ranges.beta), strict=True)
        ):
            study.enqueue_trial(default)
        study.optimize(score, n_trials=trials)
    return study.best_params["q"], study.best_params["beta"]


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Keep Optuna from printing a line a trial; its level is the caller's again afterwards."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def _refine(intervals: Intervals, ranges: SiloRanges, at: tuple[float, float]) -> tuple[float, float]:
    """Step to better neighbours, and to the top of the paraboloid through them; halve the steps where neither helps."""
    best = _rank(solve(intervals, *at))
    step, tries = 0.125, 0

    def better(near: tuple[float, float]) -> float:
        """The score of a point, which is gone to if it is the best so far."""
        nonlocal at, best, tries
        tries += 1
        rank = _rank(solve(intervals, *near))
        if rank > best:
            best, at = rank, near
        return rank[0]

    while tries < REFINEMENTS and step > SMALLEST_STEP:
        start, ring = at, [((0.0, 0.0), best[0])]
        for across, up in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1)):
            near = (_moved(start[0], ranges.q, across * step), _moved(start[1], ranges.beta, up * step))
            if near != start:
                ring.append(((across, up), better(near)))
        if top := _top_of_paraboloid(ring):
            better((_moved(start[0], ranges.q, top[0] * step), _moved(start[1], ranges.beta, top[1] * step)))
        if at == start:
            step /= 2
    return at


def _rank(solution: Solution) -> tuple[float, float]:
    """Orders solutions: by score, and those that are as close to the optima by how little they rise."""
    return round(_score(solution), LOSS_DIGITS), -solution.delta


def _top_of_paraboloid(points: list[tuple[tuple[float, float], float]]) -> tuple[float, float] | None:
    """Where the paraboloid of least squares through scored points is highest; None if it is not, or is far away."""
    if len(points) < PARABOLOID_POINTS or len({math.ceil(2 * score) for _, score in points}) > 1:  # other hits
        return None
    (x, y), scores = np.array([place for place, _ in points]).T, np.array([score for _, score in points])
    (_, dx, dy, xx, xy, yy), *_ = np.linalg.lstsq(
        np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1), scores - scores[0], rcond=None
    )
    curvature = 4 * xx * yy - xy**2
    if not (xx < 0 and curvature > 0):
        return None
    top = (xy * dy - 2 * yy * dx) / curvature, (xy * dx - 2 * xx * dy) / curvature
    return (float(top[0]), float(top[1])) if max(map(abs, top)) <= FAR else None


def _moved(value: float, limits: Range, part: float) -> float:
    low, high = limits
    return min(max(value + part * (high - low), low), high)


def _report(
    intervals: Intervals,
    ranges: SiloRanges,
    curve: SiloCurve,
    solution: Solution,
    proof: Certificate,
    limits: Determined,
    extremes: BestCurves,
    by_optuna: bool,
    settings: dict[str, Any],
) -> Fit:
    """Put beside the curve all that a reader needs to judge it."""
    per_cycle = check(intervals, curve)
    hits = sum(row.inside for row in per_cycle)
    wide_ranges = SiloRanges(q=_hull(ranges.q, WIDE.q), beta=_hull(ranges.beta, WIDE.beta))
    wide = certify(intervals, q=wide_ranges.q, beta=wide_ranges.beta, most_events=ASIDE_EVENTS)
    whole = certify(intervals, q=ranges.q, beta=ranges.beta, whole_q=True, most_events=ASIDE_EVENTS).hits
    most_constant, constant = constant_hits(intervals)
    default_at = PAPER_DEFAULT.q[0], PAPER_DEFAULT.beta[0]
    default = _curve(intervals, solve(intervals, *default_at), default_at)
    return Fit(
        curve=curve,
        hits=hits,
        num_cycles=len(per_cycle),
        most_hits=max(hits, proof.most_hits),
        certified=hits >= proof.most_hits,
        depth=min((row.depth for row in per_cycle if row.inside), default=None),
        per_cycle=per_cycle,
        ranges=limits.ranges,
        determined={name: _in_words(name, limits, ranges) for name in NAMES},
        half_way=curve.half_way,
        rise=(curve.cycle_at(RISE[0]), curve.cycle_at(RISE[1])),
        s_shape_supported=hits > most_constant and _rises(intervals),
        constant_max_lr=constant,
        constant_hits=most_constant,
        whole_q_hits=whole if whole >= 0 else None,
        wide_hits=max(hits, wide.hits),
        wide_certified=wide.certified,
        wide_ranges=wide_ranges,
        paper_default=Rival(curve=default, hits=sum(intervals.inside(default))),
        paper_curve=_rival(intervals, intervals.paper_curve),
        found_by="optuna" if by_optuna else "certificate",
        next_cycle=_next_cycle(intervals, curve, extremes),
        edge_limited=_edge_limited(intervals),
        trainings=trainings(intervals),
        settings=settings,
        versions={
            **{package: version(package) for package in ("silo-oracle", "optuna", "numpy")},
            "python": platform.python_version(),
        },
        intervals=intervals,
        best_curves=extremes,
    )


def _rival(intervals: Intervals, curve: SiloCurve | None) -> Rival | None:
    return None if curve is None else Rival(curve=curve, hits=sum(intervals.inside(curve)))


def _rises(intervals: Intervals) -> bool:
    """Whether later optima are more often higher than lower (the sign of Kendall's rank correlation)."""
    best = intervals.max_lr
    return bool(np.sign(best[None, :] - best[:, None])[np.triu_indices(len(best))].sum() > 0)


def _in_words(name: str, limits: Determined, ranges: SiloRanges) -> str:
    low, high = limits.ranges[name]
    if high is None:
        return "not determined" if low == 0 else f"no upper bound (at least {low:.4g})"
    if name in ("q", "beta"):
        searched = ranges.q if name == "q" else ranges.beta
        if high - low >= 0.99 * (searched[1] - searched[0]) > 0:
            return f"not determined (anything in [{searched[0]:g}, {searched[1]:g}] serves)"
    return f"determined to [{low:.4g}, {high:.4g}]{'' if limits.tight[name] else ', or less'}"


def _next_cycle(intervals: Intervals, curve: SiloCurve, extremes: BestCurves) -> NextCycle | None:
    """Where the best curves differ most, relative to their middle; up to the last cycle or the end of the rise."""
    last = max(intervals.cycles[-1], min(math.ceil(curve.cycle_at(RISE[1])), 10 * intervals.cycles[-1] + 10))
    cycles = np.setdiff1d(np.arange(last + 1), intervals.cycles)
    cycles = np.unique(np.concatenate([cycles[:1000], cycles[:: max(1, len(cycles) // 1000)]]))  # a rise is early
    if not len(cycles):
        return None
    low, high = extremes.band(cycles)
    high = np.where(high > UNBOUNDED * intervals.scale, np.inf, high)
    spread = np.where(np.isinf(high), 2.0, 2 * (high - low) / np.where(np.isinf(high), 1.0, high + low))
    widest = int(np.round(spread, 9).argmax())
    top = float(high[widest])
    return NextCycle(cycle=int(cycles[widest]), low=float(low[widest]), high=top if math.isfinite(top) else None)


def _edge_limited(intervals: Intervals) -> tuple[int, ...] | None:
    flags = [side for side in (intervals.lo_on_edge, intervals.hi_on_edge) if side is not None]
    if not flags:
        return None
    return tuple(int(cycle) for cycle, *ends in zip(intervals.cycles, *flags, strict=True) if any(ends))


def trainings(intervals: Intervals) -> dict[str, float]:
    """How many trainings each way of choosing max_lr costs, for n candidates and a chain of k = L + 1 trainings.

    The greedy Oracle is what this project runs. `silo_one_network` tries eps on the dense network and delta on the
    network of target sparsity alone, its masks frozen. All counts are times the number of seeds, if the table has it.
    """
    n = intervals.num_candidates or EXAMPLE_CANDIDATES
    k = int(intervals.cycles[-1]) + 1
    searched = len(intervals.cycles) if len(intervals.cycles) < k else min(SPARSE_CYCLES, k)
    seeds = intervals.num_seeds or 1
    counts = {
        "greedy_oracle": n * k,
        "sparse_oracle": n * searched + (k - searched),
        "joint_oracle": float(n) ** k if k * math.log10(n) < 300 else None,
        "silo_grid": n * n * k,
        "silo_one_by_one": n + n * (k - 1),
        "silo_one_network": 2 * n + (k - 1),
    }
    known = {name: count * seeds for name, count in counts.items() if count is not None}
    return {"candidates": n, "chain": k, "sparse_cycles": searched, "seeds": seeds, **known}


def _notices(fit: Fit) -> Iterator[str]:
    total = fit.num_cycles
    if not fit.s_shape_supported:
        reason = "" if fit.constant_hits >= fit.hits else ", but the optima do not rise with the cycle"
        yield (
            f"no S-shape supported: a constant max_lr of {fit.constant_max_lr:.4g} hits {fit.constant_hits} of "
            f"{total}, the best S-curve {fit.hits}{reason}"
        )
    if not fit.certified:
        yield f"not certified: the curve hits {fit.hits}; proven is only that none hits more than {fit.most_hits}"
    if fit.found_by == "certificate":
        yield "Optuna's trials ended below the certificate, so the curve starts from the certificate's own q and beta"
    if fit.wide_hits > fit.hits:
        wide = fit.wide_ranges
        yield f"a wider range hits more: {fit.wide_hits} with {_spelt(wide)}; {_flags(wide)} fits there"
    searched = SiloRanges(q=fit.settings["q"], beta=fit.settings["beta"])
    if not searched.is_recommended:
        yield f"{_spelt(searched)} was searched, beyond the paper's recommendation of {_spelt(RECOMMENDED)}"
    highest = float(fit.intervals.hi.max())
    if fit.curve.top > highest * (1 + EDGE):
        yield (
            f"the rise is not over at cycle {fit.per_cycle[-1].cycle}: the curve goes on to {fit.curve.top:.4g}, above "
            f"every interval (up to {highest:.4g}); only later cycles can tell how far"
        )
    edges = [str(row.cycle) for row in fit.per_cycle if row.on_edge]
    if edges:
        yield f"on the edge: the curve just touches the interval of cycle {', '.join(edges)}; a small change misses it"


def _spelt(ranges: SiloRanges) -> str:
    return f"q in [{ranges.q[0]:g}, {ranges.q[1]:g}] and beta in [{ranges.beta[0]:g}, {ranges.beta[1]:g}]"


def _flags(ranges: SiloRanges) -> str:
    return f"--q {ranges.q[0]:g} {ranges.q[1]:g} --beta {ranges.beta[0]:g} {ranges.beta[1]:g}"


def _hull(first: Range, second: Range) -> Range:
    return min(first[0], second[0]), max(first[1], second[1])
