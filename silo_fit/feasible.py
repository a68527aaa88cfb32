"""What the intervals determine: the curves that hit the most, the one among them closest to the optima, and their
spread.

For one (q, beta) the curves that hit a given set of intervals form a convex polygon in (eps, delta), a *cell*: one
strip a cycle, cut by eps >= 0 and delta >= 0. The most hits may be reached in several cells. `find_cells` takes them
from the sweep of certify.py, `borders` gives each cell's sides, and from these follow

- the closest curve: the sum of squares of log(value / optimum) over the hit cycles is convex in (eps, delta) wherever
  values stay below e times the optimum, so its least point is a Newton point inside the cell, or lies on one of its
  sides;
- extremes: eps, delta, eps + delta and the curve's value at any cycle are linear in (eps, delta), so each is least
  and largest at corners.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silo_fit.certify import CHUNK, Bools, count_hits, found_limits, sweep
from silo_fit.curve import Floats, shape
from silo_fit.tables import Intervals

# Axes: P points of (q, beta), N cells, K cycles, L = 2K + 2 sides, M sides of several cells together.
Ints = NDArray[np.int64]
STRICT = 1e-10  # a curve is kept this far inside its intervals where it can be: more than the 5e-12 that 11 digits lose
NAMES = ("eps", "delta", "top", "q", "beta")


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """The best curve for one (q, beta), with eps and delta in units of the largest hi."""

    hits: int
    touching: bool  # the hits are only reached on an interval's very edge
    loss: float  # mean square of log(value / optimum) over the hit cycles
    eps: float
    delta: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """Sets of cycles that can be hit together."""

    point: Ints  # (N,): which (q, beta)
    members: Bools  # (N, K): the cycles hit
    eps: Floats  # (N,): one curve that hits them
    delta: Floats


def find_cells(values: Floats, lo: Floats, hi: Floats) -> Cells:
    """Return every set of cycles that reaches the most hits for its point."""
    found: dict[tuple[int, bytes], tuple[Bools, float, float]] = {}
    step = max(1, CHUNK // (2 * len(lo) ** 2))
    for first in range(0, len(values), step):
        part = values[first : first + step]
        swept = sweep(part, part, lo, hi)
        most = swept.overlaps.max(axis=(1, 2), keepdims=True)
        opens = (swept.overlaps == most) & (swept.keys & 1 == 0)
        point, line, place = np.nonzero(opens)
        delta = (swept.keys[point, line, place] & ~1).view(np.float64)
        members = (swept.start[point, line] <= np.nextafter(delta, np.inf)[:, None]) & (
            swept.end[point, line] >= delta[:, None]
        )
        packed = np.packbits(members, axis=1)
        for row in range(len(point)):
            key = (first + int(point[row]), packed[row].tobytes())
            if key not in found:
                eps = max(0.0, float(hi[line[row]] - delta[row] * part[point[row], line[row]]))
                found[key] = (members[row], eps, float(delta[row]))
    rows = list(found.values())
    return Cells(
        point=np.array([point for point, _ in found], dtype=np.int64),
        members=np.array([row[0] for row in rows], dtype=bool).reshape(-1, len(lo)),
        eps=np.array([row[1] for row in rows]),
        delta=np.array([row[2] for row in rows]),
    )


def borders(values: Floats, members: Bools, lo: Floats, hi: Floats) -> Floats:
    """Return the sides of N cells as (N, L, 2 ends, eps and delta); NaN: the line is no side; delta may be infinite."""
    num = len(lo)
    offset = np.concatenate([hi, lo])  # sides eps = offset - delta value
    line_values = np.concatenate([values, values], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = values[:, None, :] - line_values[:, :, None]
        lower = (lo - offset[:, None]) / slope
        upper = (hi - offset[:, None]) / slope
        start, end = np.where(slope > 0, lower, upper), np.where(slope > 0, upper, lower)
        level = slope == 0
        fits = (lo <= offset[:, None]) & (offset[:, None] <= hi)
        idle = ~members[:, None, :] | (level & fits)
        start = np.where(idle, 0.0, np.where(level, np.inf, start)).max(axis=2).clip(min=0.0)
        end = np.fmin(np.where(idle, np.inf, end).min(axis=2), offset / line_values)
        eps = offset - np.where(line_values == 0, 0.0, line_values * np.array([start, end]))
        # The axes. eps = 0 is a side between the strips' ends in delta; delta = 0 between their limits.
        idle = ~members | ((values == 0) & (lo <= 0))
        axis_start = np.where(idle, 0.0, lo / values).max(axis=1).clip(min=0.0)
        axis_end = np.where(idle, np.inf, hi / values).min(axis=1)
        level_start = np.where(members, lo, 0.0).max(axis=1).clip(min=0.0)
        level_end = np.where(members, hi, np.inf).min(axis=1)
    sides = np.full((len(values), 2 * num + 2, 2, 2), np.nan)
    sides[:, 0, :, 0], sides[:, 0, :, 1] = np.stack([level_start, level_end], axis=1), 0.0
    sides[:, 1, :, 0], sides[:, 1, :, 1] = 0.0, np.stack([axis_start, axis_end], axis=1)
    sides[:, 2:, :, 0], sides[:, 2:, :, 1] = np.moveaxis(eps, 0, 2).clip(min=0.0), np.stack([start, end], axis=2)
    is_side = np.empty((len(values), 2 * num + 2), dtype=bool)
    is_side[:, 0], is_side[:, 1] = level_start <= level_end, (axis_start <= axis_end) & (axis_start < np.inf)
    is_side[:, 2:] = np.concatenate([members, members], axis=1) & (start <= end) & (start < np.inf)
    sides[~is_side] = np.nan
    return sides


def solve(intervals: Intervals, q: float, beta: float) -> Solution:
    """Find the curve for one (q, beta): most hits, then least squares in log space to the optima of the hit cycles."""
    tolerant = found_limits(intervals)
    values = shape(intervals.cycles, q, beta, intervals.pruning_rate)
    cells = find_cells(values[None], *tolerant)
    lo, hi = intervals.scaled(intervals.lo), intervals.scaled(intervals.hi)
    logs = np.log(intervals.scaled(intervals.max_lr))
    strict = (lo + STRICT, hi - STRICT)
    free, members, eps, delta = _best_inside(values, logs, cells.members, strict)
    for limits in (strict, tolerant):
        found = _best_on_borders(values, logs, cells.members[~free], limits)
        members, eps, delta = (np.concatenate(both) for both in zip((members, eps, delta), found, strict=True))
        if len(eps):
            break
    else:  # cells too thin for the arithmetic: the sweep's own points
        members, eps, delta = cells.members, cells.eps, cells.delta
    loss = _losses(values, logs, members, eps, delta)
    best = int(np.lexsort((delta, np.round(loss, 15)))[0])  # equal but for rounding: the one that rises least
    return Solution(
        hits=int(members[best].sum()),
        touching=limits is tolerant,
        loss=float(loss[best]),
        eps=float(eps[best]),
        delta=float(delta[best]),
    )


def _losses(values: Floats, logs: Floats, members: Bools, eps: Floats, delta: Floats) -> Floats:
    heights = np.maximum(eps[:, None] + delta[:, None] * values, np.finfo(float).tiny)
    squares = np.where(members, (np.log(heights) - logs) ** 2, 0.0)
    return np.asarray(squares.sum(axis=1) / members.sum(axis=1))


def _best_inside(
    values: Floats, logs: Floats, members: Bools, limits: tuple[Floats, Floats]
) -> tuple[Bools, Bools, Floats, Floats]:
    """Which cells hold their own Newton point, and for those: members, eps and delta."""
    eps, delta = _newton(values, logs, members)
    heights = eps[:, None] + delta[:, None] * values
    with np.errstate(invalid="ignore"):
        inside = ((heights >= limits[0]) & (heights <= limits[1])) | ~members
        free = inside.all(axis=1) & (eps >= 0) & (delta >= 0)
    return free, members[free], eps[free], delta[free]


def _best_on_borders(
    values: Floats, logs: Floats, members: Bools, limits: tuple[Floats, Floats]
) -> tuple[Bools, Floats, Floats]:
    """The best point of every side of some cells: members, eps and delta."""
    if not len(members):
        return members, np.empty(0), np.empty(0)
    sides = borders(np.broadcast_to(values, members.shape), members, *limits)
    owner, place = np.nonzero(~np.isnan(sides[:, :, 0, 0]))
    return members[owner], *_best_on_sides(values, logs, members[owner], sides[owner, place])


def _best_on_sides(values: Floats, logs: Floats, members: Bools, sides: Floats) -> tuple[Floats, Floats]:
    """Bisect the slope of the loss along each of M sides."""
    first, last = sides[:, 0], sides[:, 1]
    last = np.where(np.isinf(last), first, last)  # no hit cycle has risen there, so the loss stays the same
    from_, to = (end[:, :1] + end[:, 1:] * values for end in (first, last))
    rise = np.where(members, to - from_, 0.0)
    low, high = np.zeros(len(sides)), np.ones(len(sides))
    for _ in range(40):  # to 1e-12 of a side
        middle = (low + high) / 2
        heights = np.maximum(from_ + middle[:, None] * rise, np.finfo(float).tiny)
        falls = ((np.log(heights) - logs) * rise / heights).sum(axis=1) < 0
        low, high = np.where(falls, middle, low), np.where(falls, high, middle)
    place = np.where(high == 1, 1.0, low)[:, None]  # the ends themselves, where the best point is an end
    eps, delta = (first + place * (last - first)).T
    return eps, delta


def _newton(values: Floats, logs: Floats, members: Bools) -> tuple[Floats, Floats]:
    """Least points without limits, for N sets of cycles; NaN where there is no single one."""
    weight = np.where(members, np.exp(-2 * logs), 0.0)  # first, squares of value / optimum - 1, which are linear
    target = np.where(members, np.exp(logs), 0.0)
    with np.errstate(all="ignore"):
        eps, delta = _two_by_two(weight, values, weight * target)
        for _ in range(8):  # each doubles the digits
            heights = eps[:, None] + delta[:, None] * values
            excess = np.log(heights) - logs
            weight = np.where(members, (1 - excess) / heights**2, 0.0)
            step = _two_by_two(weight, values, np.where(members, -excess / heights, 0.0))
            eps, delta = eps + step[0], delta + step[1]
    return eps, delta


def _two_by_two(weight: Floats, values: Floats, right: Floats) -> tuple[Floats, Floats]:
    """Solve sum w (x + y s) = sum right and sum w s (x + y s) = sum right s."""
    total, first, second = weight.sum(axis=1), (weight * values).sum(axis=1), (weight * values**2).sum(axis=1)
    spread = total * second - first**2
    spread = np.where(spread > 1e-12 * total * second, spread, np.nan)  # below: all shapes equal, to half the digits
    sums = right.sum(axis=1), (right * values).sum(axis=1)
    return (second * sums[0] - first * sums[1]) / spread, (total * sums[1] - first * sums[0]) / spread


@dataclass(frozen=True, slots=True, kw_only=True)
class BestCurves:
    """Corners of the cells of all (q, beta) that were looked at: extreme curves with the most hits."""

    eps: Floats  # in the table's unit, as delta; (N,)
    delta: Floats  # infinite where nothing holds it down
    q: Floats
    beta: Floats
    pruning_rate: float

    def of(self, name: str) -> Floats:
        """Values of eps, delta, q, beta or top = eps + delta."""
        return self.eps + self.delta if name == "top" else np.asarray(getattr(self, name))

    def limits(self, name: str) -> tuple[float, float | None]:
        """The range that these curves span; None: no upper bound."""
        values = self.of(name)
        high = float(values.max())
        return float(values.min()), high if np.isfinite(high) else None

    def band(self, cycles: Floats) -> tuple[Floats, Floats]:
        """Lowest and highest value of these curves at each cycle."""
        low, high = np.full(len(cycles), np.inf), np.zeros(len(cycles))
        step = max(1, CHUNK // max(1, len(cycles)))
        for first in range(0, len(self.eps), step):
            part = slice(first, first + step)
            risen = shape(cycles, self.q[part, None], self.beta[part, None], self.pruning_rate)
            with np.errstate(invalid="ignore"):  # an infinite delta at a shape of 0 adds nothing
                heights = self.eps[part, None] + np.where(risen == 0, 0.0, self.delta[part, None] * risen)
            low, high = np.minimum(low, heights.min(axis=0)), np.maximum(high, heights.max(axis=0))
        return low, high


def explore(
    intervals: Intervals,
    *,
    hits: int,
    start: list[tuple[float, float]],
    q: tuple[float, float],
    beta: tuple[float, float],
) -> BestCurves:
    """Look for the extreme curves among those with `hits` hits: on a grid of (q, beta), then closer to the extremes.

    Each extreme is reached by a curve that was found, so the ranges are never too wide; they may be a bit too narrow.
    """
    num = len(intervals.cycles)
    side = int(np.clip(1000 / num, 9, 25))  # fewer points for longer tables, whose points cost more
    grid = np.meshgrid(np.linspace(*q, side), np.linspace(*beta, side))
    points = np.concatenate([np.array(start), np.stack([axis.ravel() for axis in grid], axis=1)])
    corners = _corners(intervals, points, hits)
    reach = np.array([q[1] - q[0], beta[1] - beta[0]]) / (side - 1)
    steps = np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y])
    for _ in range(10 if num <= 60 else 5):
        at = {index for name in NAMES for index in _extremes(corners.of(name))}
        centres = np.unique(np.stack([corners.q, corners.beta], axis=1)[sorted(at)], axis=0)
        points = (centres[:, None, :] + reach * steps).reshape(-1, 2).clip((q[0], beta[0]), (q[1], beta[1]))
        more = _corners(intervals, np.unique(points, axis=0), hits)
        corners = BestCurves(
            **{name: np.concatenate([corners.of(name), more.of(name)]) for name in ("eps", "delta", "q", "beta")},
            pruning_rate=intervals.pruning_rate,
        )
        reach = reach / 2
    return corners


def _extremes(values: Floats) -> tuple[int, int]:
    return int(values.argmin()), int(values.argmax())


def _corners(intervals: Intervals, points: Floats, hits: int) -> BestCurves:
    """Corners of the cells of some points of (q, beta), where they reach the hits."""
    limits = found_limits(intervals)
    values = shape(intervals.cycles, points[:, :1], points[:, 1:], intervals.pruning_rate)
    reaching = count_hits(values, values, *limits) >= hits
    points, values = points[reaching], values[reaching]
    cells = find_cells(values, *limits)
    found = [np.column_stack([cells.eps, cells.delta, cells.point])]
    step = max(1, CHUNK // (2 * values.shape[1] ** 2))
    for first in range(0, len(cells.point), step):
        part = slice(first, first + step)
        ends = borders(values[cells.point[part]], cells.members[part], *limits)
        owner = np.broadcast_to(cells.point[part, None, None], ends.shape[:3])
        kept = ~np.isnan(ends[..., 0])
        found.append(np.column_stack([ends[kept], owner[kept]]))
    eps, delta, owner = np.concatenate(found).T
    at = points[owner.astype(int)]
    return BestCurves(
        eps=eps * intervals.scale,
        delta=delta * intervals.scale,
        q=at[:, 0],
        beta=at[:, 1],
        pruning_rate=intervals.pruning_rate,
    )
