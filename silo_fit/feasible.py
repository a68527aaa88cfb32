"""The curves that hit the most intervals for one (q, beta): the one closest to the optima, and the extreme ones.

For one (q, beta) the curves that hit a given set of intervals form a convex polygon in (eps, delta), a *cell*: one
strip a cycle, cut by eps >= 0 and delta >= 0. The most hits may be reached in several cells. `find_cells` takes them
from the sweep of certify.py, `borders` gives each cell's sides. The sum of squares of log(value / optimum) over the hit
cycles is convex in (eps, delta) wherever values stay below e times the optimum, so the closest curve is a Newton point
inside the cell, or lies on one of its sides. The extreme curves are those of determine.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silo_fit.certify import CHUNK_EVENTS, Bools, count_hits, found_limits, sweep
from silo_fit.curve import Floats, shape
from silo_fit.determine import extreme_curves
from silo_fit.tables import Intervals

# Axes: P points of (q, beta), N cells, K cycles, L = 2K + 2 sides, M sides of several cells together.
Ints = NDArray[np.int64]
LOSS_DIGITS = 15  # decimals: losses that agree in them are equal
MOST_CELLS = 4096  # cells looked for at one (q, beta), some of them twice: a table of intervals without width has more
LEAST_HEIGHT = float(np.finfo(float).tiny)  # the smallest float: values are raised to it so that their logs are finite
# Of the largest hi: where it can, a curve stays this far inside its intervals; rounding to 11 digits loses 5e-12.
STRICT_MARGIN = 1e-10


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
    """Return the sets of cycles that reach the most hits for their point, those that rise least first."""
    found: list[tuple[Ints, Bools, Floats, Floats]] = []
    step = max(1, CHUNK_EVENTS // (2 * len(lo) ** 2))
    for first in range(0, len(values), step):
        part = values[first : first + step]
        swept = sweep(part, part, lo, hi)
        most = swept.overlaps.max(axis=(1, 2), keepdims=True)
        opens = (swept.overlaps == most) & (swept.keys & 1 == 0)
        point, line, place = np.nonzero(opens)
        delta = (swept.keys[point, line, place] & ~1).view(np.float64)
        order = np.lexsort((delta, point))
        order = order[np.arange(len(order)) - np.searchsorted(point, point) < MOST_CELLS]
        point, line, delta = point[order], line[order], delta[order]
        members = (swept.start[point, line] <= np.nextafter(delta, np.inf)[:, None]) & (
            swept.end[point, line] >= delta[:, None]
        )
        keys = np.concatenate([point[:, None].view(np.uint8), np.packbits(members, axis=1)], axis=1)
        once = np.sort(np.unique(keys, axis=0, return_index=True)[1])
        point, members, delta = point[once], members[once], delta[once]
        eps = (hi[line[once]] - delta * part[point, line[once]]).clip(min=0.0)
        found.append((first + point, members, eps, delta))
    points, members, eps, delta = (np.concatenate(column) for column in zip(*found, strict=True))
    return Cells(point=points, members=members, eps=eps, delta=delta)


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
    lo, hi = intervals.scaled("lo"), intervals.scaled("hi")
    logs = np.log(intervals.scaled("max_lr"))
    strict = (lo + STRICT_MARGIN, hi - STRICT_MARGIN)
    for limits in (strict, tolerant):
        members, eps, delta = _closest(values, logs, cells, limits)
        if len(eps):
            break
    else:  # cells too thin for the arithmetic: the sweep's own points
        members, eps, delta = cells.members, cells.eps, cells.delta
    loss = _losses(values, logs, members, eps, delta)
    best = int(np.lexsort((delta, np.round(loss, LOSS_DIGITS)))[0])  # equal but for rounding: the one that rises least
    return Solution(
        hits=int(members[best].sum()),
        touching=limits is tolerant,
        loss=float(loss[best]),
        eps=float(eps[best]),
        delta=float(delta[best]),
    )


def _losses(values: Floats, logs: Floats, members: Bools, eps: Floats, delta: Floats) -> Floats:
    heights = np.maximum(eps[:, None] + delta[:, None] * values, LEAST_HEIGHT)
    squares = np.where(members, (np.log(heights) - logs) ** 2, 0.0)
    return np.asarray(squares.sum(axis=1) / members.sum(axis=1))


def _closest(values: Floats, logs: Floats, cells: Cells, limits: tuple[Floats, Floats]) -> tuple[Bools, Floats, Floats]:
    """Best points of the cells that may hold the very best: members, eps and delta.

    A cell holds its own Newton point, or its best point lies on a side; then the loss at the Newton point is a bound.
    """
    solid = ~(cells.members & (limits[0] > limits[1])).any(axis=1)
    members, start = cells.members[solid], cells.delta[solid]
    eps, delta, converged = _newton(values, logs, members)
    heights = eps[:, None] + delta[:, None] * values
    with np.errstate(invalid="ignore"):
        inside = ((heights >= limits[0]) & (heights <= limits[1])) | ~members
        free = inside.all(axis=1) & (eps >= 0) & (delta >= 0)
        known = converged & ((heights > 0) | ~members).all(axis=1)
    found = [(members[free], eps[free], delta[free])]
    least = np.round(np.where(known, _losses(values, logs, members, eps, delta), 0.0), LOSS_DIGITS)
    best = least[free & known].min(initial=np.inf)
    rest = np.flatnonzero(~(free & known))
    rest = rest[np.lexsort((start[rest], least[rest]))]
    step = max(1, CHUNK_EVENTS // (2 * len(values) ** 2))
    for first in range(0, len(rest), step):
        part = rest[first : first + step]
        if least[part[0]] >= best:
            break
        sides = borders(np.broadcast_to(values, (len(part), len(values))), members[part], *limits)
        owner, place = np.nonzero(~np.isnan(sides[:, :, 0, 0]))
        owners = members[part][owner]
        points = _best_on_sides(values, logs, owners, sides[owner, place])
        found.append((owners, *points))
        best = min(best, np.round(_losses(values, logs, owners, *points), LOSS_DIGITS).min(initial=np.inf))
    members, eps, delta = (np.concatenate(column) for column in zip(*found, strict=True))
    return members, eps, delta


def _best_on_sides(values: Floats, logs: Floats, members: Bools, sides: Floats) -> tuple[Floats, Floats]:
    """Bisect the slope of the loss along each of M sides."""
    first, last = sides[:, 0], sides[:, 1]
    last = np.where(np.isinf(last), first, last)  # no hit cycle has risen there, so the loss stays the same
    from_, to = (end[:, :1] + end[:, 1:] * values for end in (first, last))
    rise = np.where(members, to - from_, 0.0)
    place = np.where(_falls(from_, rise, logs, np.ones(len(sides))), 1.0, 0.0)  # an end, where the best point is one
    inner = (place == 0) & _falls(from_, rise, logs, place)
    from_, rise = from_[inner], rise[inner]
    low, high = np.zeros(len(rise)), np.ones(len(rise))
    for _ in range(40):  # to 1e-12 of a side
        middle = (low + high) / 2
        falls = _falls(from_, rise, logs, middle)
        low, high = np.where(falls, middle, low), np.where(falls, high, middle)
    place[inner] = low
    eps, delta = (first + place[:, None] * (last - first)).T
    return eps, delta


def _falls(from_: Floats, rise: Floats, logs: Floats, place: Floats) -> Bools:
    """Whether the loss falls along each side, at a place between 0 and 1 on it."""
    heights = np.maximum(from_ + place[:, None] * rise, LEAST_HEIGHT)
    return np.asarray(((np.log(heights) - logs) * rise / heights).sum(axis=1) < 0)


def _newton(values: Floats, logs: Floats, members: Bools) -> tuple[Floats, Floats, Bools]:
    """Least points without limits, for N sets of cycles, and whether they were reached; NaN: there is no single one."""
    with np.errstate(all="ignore"):
        weight = np.where(members, np.exp(-2 * logs), 0.0)  # first, squares of value / optimum - 1, which are linear
        target = np.where(members, np.exp(logs), 0.0)
        eps, delta = _two_by_two(weight, values, weight * target)
        for _ in range(8):  # each doubles the digits
            heights = eps[:, None] + delta[:, None] * values
            excess = np.log(heights) - logs
            weight = np.where(members, (1 - excess) / heights**2, 0.0)
            step = _two_by_two(weight, values, np.where(members, -excess / heights, 0.0))
            eps, delta = eps + step[0], delta + step[1]
        converged = np.abs(step[0]) + np.abs(step[1]) <= 1e-9 * (np.abs(eps) + np.abs(delta))  # half of all digits
    return eps, delta, converged


def _two_by_two(weight: Floats, values: Floats, right: Floats) -> tuple[Floats, Floats]:
    """Solve sum w (x + y s) = sum right and sum w s (x + y s) = sum right s."""
    total, first, second = weight.sum(axis=1), (weight * values).sum(axis=1), (weight * values**2).sum(axis=1)
    spread = total * second - first**2
    spread = np.where(spread > 1e-12 * total * second, spread, np.nan)  # below: all shapes equal, to half the digits
    sums = right.sum(axis=1), (right * values).sum(axis=1)
    return (second * sums[0] - first * sums[1]) / spread, (total * sums[1] - first * sums[0]) / spread


@dataclass(frozen=True, slots=True, kw_only=True)
class BestCurves:
    """For some points of (q, beta) the extreme curves among all that have as many hits."""

    eps: Floats  # in the table's unit, as delta; (N,)
    delta: Floats  # infinite where nothing holds it down
    q: Floats
    beta: Floats
    pruning_rate: float

    def band(self, cycles: Floats) -> tuple[Floats, Floats]:
        """Lowest and highest value of these curves at each cycle."""
        low, high = np.full(len(cycles), np.inf), np.zeros(len(cycles))
        step = max(1, CHUNK_EVENTS // max(1, len(cycles)))
        for first in range(0, len(self.eps), step):
            part = slice(first, first + step)
            risen = shape(cycles, self.q[part, None], self.beta[part, None], self.pruning_rate)
            with np.errstate(invalid="ignore"):  # an infinite delta at a shape of 0 adds nothing
                heights = self.eps[part, None] + np.where(risen == 0, 0.0, self.delta[part, None] * risen)
            low, high = np.minimum(low, heights.min(axis=0)), np.maximum(high, heights.max(axis=0))
        return low, high


def best_curves(
    intervals: Intervals,
    *,
    hits: int,
    points: Sequence[tuple[float, float]],
    q: tuple[float, float],
    beta: tuple[float, float],
) -> BestCurves:
    """Extreme curves among those with at least `hits` hits: of these points of (q, beta), and of a grid over the range."""
    side = int(np.clip(1000 / len(intervals.cycles), 9, 25))  # fewer for longer tables, whose points cost more
    grid = np.meshgrid(np.linspace(*q, side), np.linspace(*beta, side))
    return _corners(
        intervals, np.concatenate([np.array(points), np.stack([axis.ravel() for axis in grid], axis=1)]), hits
    )


def _corners(intervals: Intervals, points: Floats, hits: int) -> BestCurves:
    """Extreme curves of some points of (q, beta), where they reach the hits."""
    limits = found_limits(intervals)
    values = shape(intervals.cycles, points[:, :1], points[:, 1:], intervals.pruning_rate)
    reaching = count_hits(values, values, *limits) >= hits
    points = points[reaching]
    owner, eps, delta = extreme_curves(values[reaching], *limits, hits)
    return BestCurves(
        eps=eps * intervals.scale,
        delta=delta * intervals.scale,
        q=points[owner, 0],
        beta=points[owner, 1],
        pruning_rate=intervals.pruning_rate,
    )
