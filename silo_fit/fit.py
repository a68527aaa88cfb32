"""Fit SILO's four numbers to an Oracle's intervals.

Optuna searches (q, beta); eps and delta are solved exactly for each (feasible.py), so a trial's score is what that
(q, beta) can do at best. In this order: hits, of which certify.py proves beforehand how many there can be, so that
nothing is left to look for once they are reached; then least squares in log space to the optima of the hit cycles.
What was found is a `Fit` (result.py). Nothing here loads torch or ray.
"""

import math
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from oracle.errors import CurveError
from search_spaces.silo import PAPER_DEFAULT, RECOMMENDED, WIDE, Range, SiloRanges
from silo_fit.certify import certify, constant_hits
from silo_fit.curve import SiloCurve
from silo_fit.determine import UNBOUNDED_RATE, determine
from silo_fit.feasible import LOSS_DIGITS, BestCurves, Solution, best_curves, solve
from silo_fit.kinds import KindFit, fit_kind
from silo_fit.quiet import quiet
from silo_fit.result import RISE_PARTS, Fit, NextCycle, Rival, Rivals, Settings, check
from silo_fit.tables import TOLERANCE, Intervals, parse_intervals
from silo_fit.verdict import judge

if TYPE_CHECKING:
    import pandas
    import pyarrow

__all__ = ["Fit", "check", "fit"]

FIRST_STEP = 2**-3  # of the ranges of q and beta: the refinement of Optuna's best starts with steps this long
LAST_STEP = 2**-12  # of the ranges: it ends once steps this short help no more
MOST_TRIES = 120  # points of (q, beta): it begins no further round of steps after as many
PARABOLOID_POINTS = 9  # points that a paraboloid is fitted to: one and its eight neighbours; with fewer none is
TRUSTED_STEPS = 8.0  # steps: the top of a paraboloid is not tried where it lies further away than this
RIVAL_EVENTS = 40_000_000  # events (certify.py) that a proof about whole q, or the wide range, may sort
NEXT_CYCLES = 1000  # unsearched cycles that are looked at: the first, where a rise is, and about as many over all


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

    Where the table names the next candidates beyond its intervals (lo_outside, hi_outside), `ranges` allow for ends
    anywhere up to them; hits are of the intervals as they stand. Estimates of the ends change nothing of the fit: `kinds`
    and `verdict` say how the curve stands to what is surely inside, and to what may be.

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
    wide = intervals.widened()  # what is left open: the ends lie between candidates
    limits = determine(wide, hits=solution.hits, start=[at, (proof.q, proof.beta)], q=ranges.q, beta=ranges.beta)
    extremes = best_curves(wide, hits=solution.hits, points=[at, *limits.points], q=ranges.q, beta=ranges.beta)
    per_cycle = check(intervals, curve)
    hits = sum(row.inside for row in per_cycle)
    estimated = KindFit(
        kind="estimated",
        hits=hits,
        num_intervals=len(per_cycle),
        reachable_hits=hits,
        most_hits=max(hits, proof.most_hits),
        limits=limits,
    )
    return Fit(
        intervals=intervals,
        settings=Settings(q=ranges.q, beta=ranges.beta, seed=seed, trials=trials, tolerance=TOLERANCE),
        curve=curve,
        per_cycle=per_cycle,
        most_hits=estimated.most_hits,
        limits=limits,
        best_curves=extremes,
        rivals=_rivals(intervals, ranges, hits),
        next_cycle=_next_cycle(intervals, curve, extremes),
        kinds=tuple(
            estimated if kind == "estimated" else fit_kind(intervals, kind, curve, ranges) for kind in intervals.kinds
        ),
        verdict=judge(intervals, curve, is_fitted=True),
        found_by="optuna" if by_optuna else "certificate",
        versions={
            **{package: version(package) for package in ("silo-oracle", "optuna", "numpy")},
            "python": platform.python_version(),
        },
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

    with quiet(optuna):
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
        q, beta = PAPER_DEFAULT.q[0], PAPER_DEFAULT.beta[0]
        if ranges.q[0] <= q <= ranges.q[1] and ranges.beta[0] <= beta <= ranges.beta[1]:
            study.enqueue_trial({"q": q, "beta": beta})
        study.optimize(score, n_trials=trials)
    return study.best_params["q"], study.best_params["beta"]


def _refine(intervals: Intervals, ranges: SiloRanges, at: tuple[float, float]) -> tuple[float, float]:
    """Step to better neighbours, and to the top of the paraboloid through them; halve the steps where neither helps."""
    best = _rank(solve(intervals, *at))
    step, tries = FIRST_STEP, 0

    def better(near: tuple[float, float]) -> float:
        """The score of a point, which is gone to if it is the best so far."""
        nonlocal at, best, tries
        tries += 1
        rank = _rank(solve(intervals, *near))
        if rank > best:
            best, at = rank, near
        return rank[0]

    while tries < MOST_TRIES and step > LAST_STEP:
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
    return (float(top[0]), float(top[1])) if max(map(abs, top)) <= TRUSTED_STEPS else None


def _moved(value: float, limits: Range, part: float) -> float:
    """A value moved by a part of its range, and no further than its end."""
    low, high = limits
    return min(max(value + part * (high - low), low), high)


def _rivals(intervals: Intervals, ranges: SiloRanges, hits: int) -> Rivals:
    """What constants, whole q, a wider range and the paper's own choices hit; `hits`: what the fitted curve does."""
    most_constant, constant = constant_hits(intervals)
    whole = certify(intervals, q=ranges.q, beta=ranges.beta, whole_q=True, most_events=RIVAL_EVENTS).hits
    wide_ranges = SiloRanges(q=_hull(ranges.q, WIDE.q), beta=_hull(ranges.beta, WIDE.beta))
    wide = certify(intervals, q=wide_ranges.q, beta=wide_ranges.beta, most_events=RIVAL_EVENTS)
    default_at = PAPER_DEFAULT.q[0], PAPER_DEFAULT.beta[0]
    default = _curve(intervals, solve(intervals, *default_at), default_at)
    return Rivals(
        constant_max_lr=constant,
        constant_hits=most_constant,
        whole_q_hits=whole if whole >= 0 else None,
        wide_hits=max(hits, wide.hits),
        wide_certified=wide.certified,
        wide_ranges=wide_ranges,
        paper_default=_rival(intervals, default),
        paper_curve=_rival(intervals, intervals.paper_curve) if intervals.paper_curve else None,
    )


def _rival(intervals: Intervals, curve: SiloCurve) -> Rival:
    return Rival(curve=curve, hits=sum(intervals.inside(curve)))


def _hull(first: Range, second: Range) -> Range:
    """The smallest range that holds both."""
    return min(first[0], second[0]), max(first[1], second[1])


def _next_cycle(intervals: Intervals, curve: SiloCurve, extremes: BestCurves) -> NextCycle | None:
    """Where the best curves differ most, relative to their middle; up to the last cycle or the end of the rise."""
    last = max(intervals.cycles[-1], min(math.ceil(curve.cycle_at(RISE_PARTS[1])), 10 * intervals.cycles[-1] + 10))
    cycles = np.setdiff1d(np.arange(last + 1), intervals.cycles)
    every = max(1, len(cycles) // NEXT_CYCLES)
    cycles = np.unique(np.concatenate([cycles[:NEXT_CYCLES], cycles[::every]]))
    if not len(cycles):
        return None
    low, high = extremes.band(cycles)
    high = np.where(high > UNBOUNDED_RATE * intervals.scale, np.inf, high)
    spread = np.where(np.isinf(high), 2.0, 2 * (high - low) / np.where(np.isinf(high), 1.0, high + low))
    widest = int(np.round(spread, 9).argmax())
    top = float(high[widest])
    return NextCycle(cycle=int(cycles[widest]), low=float(low[widest]), high=top if math.isfinite(top) else None)
