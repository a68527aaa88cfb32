"""The most intervals that any SILO curve hits, proven by branch and bound.

The question. Cycle j has the interval [lo_j, hi_j]; a curve hits it if lo_j <= eps + delta s_j(q, beta) <= hi_j. What
is the largest number of hits over eps >= 0, delta >= 0 and a box of (q, beta)?

For one (q, beta) it is a problem in two variables. Take any (eps, delta) and the set H that it hits. Raise eps, with
delta held, until one of H's upper limits is met: all of H is still hit. So a best point lies on one of the K lines
eps = hi_i - delta s_i, delta >= 0, eps >= 0. Along such a line cycle j is hit for one closed range of delta, because
its value is linear in delta. A sort of the 2K ends and a running sum give the largest number of ranges that overlap:
exact.

Over a box of (q, beta), s_j lies in [a_j, b_j], the extremes over the four corners: s_j never rises with q, so its
largest value over the box is on the edge of the lowest q and its smallest on that of the highest q; and at a fixed q
it is sigmoid(beta c) for a c without beta, so along such an edge it is monotone. A curve of the box that hits j
satisfies eps + delta a_j <= hi_j and eps + delta b_j >= lo_j, since delta >= 0. The largest number of such relaxed
pairs that one (eps, delta) satisfies is therefore an upper bound, and the argument above finds it exactly: raise eps
until a relaxed upper limit is met, then sweep the K lines eps = hi_i - delta a_i, on which each pair holds for one
closed range of delta.

Boxes are split until no box's bound exceeds the most hits found at some box's middle. Every (q, beta) then lies in a
box whose bound is at most that number: no curve hits more. If the work allowed runs out first, the largest bound left
is still an upper bound, and is returned as one.

Rounding. All rates are divided by the largest hi, so they are at most 1. By the project's rule a value within
TOLERANCE = 1e-9 of an interval is inside. What is found uses 1e-9 less SLACK, bounds use 1e-9 plus SLACK, and corners
are widened by a relative 1e-12. SLACK = 2e-11 covers the rounding of rates to 11 digits (5e-12) and of the
arithmetic: a value eps + delta s that is at most about 1 is computed to within 1e-12, as s is to a relative 1e-13. So
a found hit is a hit, and a bound is a bound, for exact arithmetic as well as for the computed curve.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silo_fit.curve import Floats, shape
from silo_fit.tables import TOLERANCE, Intervals

# Axes: B boxes or points of (q, beta), K cycles, and K lines before K cycles where both appear.
Bools = NDArray[np.bool_]
SLACK = 2e-11  # of the largest hi: more than all rounding of a value (above)
WIDENING = 1e-12  # relative: the range of a shape over a box is widened by it (above)
# Work is counted in events: starts and ends of ranges of delta that are sorted along the lines.
CHUNK_EVENTS = 160_000  # events sorted at once: 1.3 MB an array, which a cache holds
MOST_EVENTS = 200_000_000  # events that one proof may sort before it gives up
BOX_EVENTS = 10_000  # events: what handling one box costs beside its sweeps
SPLIT_TOGETHER = 8  # boxes that are split together
SMALLEST_SIDE = 1e-13  # of the searched range: a side of a box that is shorter is not halved again


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What is proven about a range of q and beta."""

    hits: int  # reached, at (q, beta)
    most_hits: int  # no curve of the range hits more
    q: float
    beta: float
    num_boxes: int  # examined

    @property
    def certified(self) -> bool:
        """Whether what is reached is what can be reached."""
        return self.hits == self.most_hits


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Ranges of delta along the lines, for B points, L lines and K cycles."""

    start: Floats  # (B, L, K): cycle j is hit from here
    end: Floats  # (B, L, K): to here; before start if nowhere
    keys: NDArray[np.int64]  # (B, L, 2K): starts and ends in order; the last bit tells them apart
    overlaps: NDArray[np.int16]  # (B, L, 2K): ranges open after each


def sweep(
    low: Floats, high: Floats, lo: Floats, hi: Floats, *, at_zero: Floats | None = None, fall: Floats | None = None
) -> Sweep:
    """Sort the ranges of delta along lines; low = high is the exact problem.

    The lines are eps = at_zero - delta fall, of shapes (L,) and (B, L); without them, eps = hi_i - delta low_i.
    """
    at_zero, fall = hi if at_zero is None else at_zero, low if fall is None else fall
    with np.errstate(divide="ignore", invalid="ignore"):
        # Not too low: delta (high_j - fall) >= lo_j - at_zero. 0/0 is NaN, "always true", and fmax, fmin pass over it.
        slope = high[:, None, :] - fall[:, :, None]
        edge = (lo[None, :] - at_zero[:, None]) / slope
        rises = slope >= 0
        start = np.where(rises, edge, 0.0)
        end = np.where(rises, np.inf, edge)
        # Not too high: delta (low_j - fall) <= hi_j - at_zero.
        slope = low[:, None, :] - fall[:, :, None]
        edge = (hi[None, :] - at_zero[:, None]) / slope
        rises = slope >= 0
        end = np.fmin(end, np.where(rises, edge, np.inf))
        start = np.fmax(np.fmax(start, np.where(rises, 0.0, edge)), 0.0)
        end = np.fmin(end, (at_zero / fall)[:, :, None])  # eps >= 0
    keys, overlaps = _overlaps(start, end)
    return Sweep(start=start, end=end, keys=keys, overlaps=overlaps)


def _overlaps(start: Floats, end: Floats) -> tuple[NDArray[np.int64], NDArray[np.int16]]:
    """Sort starts and ends as integers (floats >= 0 have the order of their bits), starts first where they tie."""
    num = start.shape[-1]
    keys = np.empty((*start.shape[:-1], 2 * num))
    keys[..., :num] = start
    keys[..., num:] = end
    keys += 0.0  # -0 would sort first
    bits = keys.view(np.int64)
    bits &= ~1
    empty = ~((start <= end) & (start < np.inf))
    bits[..., :num][empty] = np.iinfo(np.int64).max - 1  # after all ends: opens nothing
    bits[..., num:][empty] = np.iinfo(np.int64).max - 3
    bits[..., num:] |= 1
    bits.sort(axis=-1)
    return bits, np.cumsum(1 - 2 * (bits & 1).astype(np.int8), axis=-1, dtype=np.int16)


def count_hits(low: Floats, high: Floats, lo: Floats, hi: Floats) -> NDArray[np.int64]:
    """Most intervals hit for each of B points, or at most for each of B boxes."""
    num_boxes, num = low.shape
    most = np.zeros(num_boxes, dtype=np.int64)
    step = max(1, CHUNK_EVENTS // (2 * num * num))
    for first in range(0, num_boxes, step):
        part = slice(first, first + step)
        most[part] = sweep(low[part], high[part], lo, hi).overlaps.max(axis=(1, 2))
    return most


def found_limits(intervals: Intervals) -> tuple[Floats, Floats]:
    """Scaled limits that count as hit, a little inside the rule."""
    allowed = TOLERANCE - SLACK
    return intervals.scaled("lo") - allowed, intervals.scaled("hi") + allowed


def bound_limits(intervals: Intervals) -> tuple[Floats, Floats]:
    """Scaled limits for what must not be missed, a little outside the rule."""
    allowed = TOLERANCE + SLACK
    return intervals.scaled("lo") - allowed, intervals.scaled("hi") + allowed


def constant_hits(intervals: Intervals) -> tuple[int, float]:
    """Most intervals that one constant max_lr hits, and the middle of the first stretch that does."""
    lo, hi = found_limits(intervals)
    inside = (lo[None, :] <= hi[:, None]) & (hi[:, None] <= hi[None, :])  # a best constant may be raised to some hi
    counts = inside.sum(axis=1)
    members = inside[int(counts.argmax())]
    return int(counts.max()), float((intervals.lo[members].max() + intervals.hi[members].min()) / 2)


def certify(
    intervals: Intervals,
    *,
    q: tuple[float, float],
    beta: tuple[float, float],
    whole_q: bool = False,
    most_events: int = MOST_EVENTS,
) -> Certificate:
    """Prove the most hits over a range of q and beta (over whole q only, if asked)."""
    found, bounds = found_limits(intervals), bound_limits(intervals)
    cycles, rate = intervals.cycles, intervals.pruning_rate
    boxes = _first_boxes(q, beta, whole_q)
    pool = _Pool(widest=(q[1] - q[0], beta[1] - beta[0]))
    best, best_at, num_boxes = -1, (q[0], beta[0]), 0
    per_box = 4 * len(cycles) ** 2 + BOX_EVENTS  # two sweeps, of 2K events on each of K lines
    while len(boxes):
        num_boxes += len(boxes)
        low, high, along_q = shape_range(boxes, cycles, rate)
        limit = count_hits(low * (1 - WIDENING), np.minimum(high * (1 + WIDENING), 1.0), *bounds)
        alive = limit > best
        boxes, limit, along_q = boxes[alive], limit[alive], along_q[alive]
        if len(boxes):
            middle = (boxes[:, ::2] + boxes[:, 1::2]) / 2
            values = shape(cycles, middle[:, :1], middle[:, 1:], rate)
            hits = count_hits(values, values, *found)
            if hits.max() > best:
                first = int(hits.argmax())
                best, best_at = int(hits[first]), (float(middle[first, 0]), float(middle[first, 1]))
        pool.add(boxes, limit, along_q)
        pool.drop(best)
        if num_boxes * per_box > most_events:
            break
        boxes = pool.split(SPLIT_TOGETHER)
    return Certificate(hits=best, most_hits=max(best, pool.most), q=best_at[0], beta=best_at[1], num_boxes=num_boxes)


def _first_boxes(q: tuple[float, float], beta: tuple[float, float], whole_q: bool) -> Floats:
    """Boxes (q low, q high, beta low, beta high): one, or one a whole q."""
    if not whole_q:
        return np.array([[*q, *beta]])
    whole = np.arange(np.ceil(q[0]), np.floor(q[1]) + 1)
    return np.array([[value, value, *beta] for value in whole]).reshape(-1, 4)


def shape_range(boxes: Floats, cycles: Floats, rate: float) -> tuple[Floats, Floats, Bools]:
    """Exact range of each cycle's shape over each box, and whether q moves the shapes more than beta does."""
    corners = shape(cycles, boxes[:, :2, None, None], boxes[:, None, 2:, None], rate)  # (B, 2, 2, K)
    by_q = np.abs(corners[:, 0] - corners[:, 1]).sum(axis=(1, 2))
    by_beta = np.abs(corners[:, :, 0] - corners[:, :, 1]).sum(axis=(1, 2))
    return corners.min(axis=(1, 2)), corners.max(axis=(1, 2)), by_q >= by_beta


def halved(boxes: Floats, along_q: Bools) -> Floats:
    """Both halves of each box, cut across q or across beta."""
    first, second = boxes.copy(), boxes.copy()
    middle = (first[:, ::2] + first[:, 1::2]) / 2
    first[along_q, 1] = second[along_q, 0] = middle[along_q, 0]
    first[~along_q, 3] = second[~along_q, 2] = middle[~along_q, 1]
    return np.concatenate([first, second])


class _Pool:
    """Boxes that may still hide a better curve."""

    def __init__(self, *, widest: tuple[float, float]) -> None:
        self.widest = np.maximum(widest, np.finfo(float).tiny)
        self.boxes = np.empty((0, 4))
        self.limit = np.empty(0, dtype=np.int64)
        self.along_q = np.empty(0, dtype=bool)

    @property
    def most(self) -> int:
        return int(self.limit.max(initial=-1))

    def add(self, boxes: Floats, limit: NDArray[np.int64], along_q: Bools) -> None:
        self.boxes = np.concatenate([self.boxes, boxes])
        self.limit = np.concatenate([self.limit, limit])
        self.along_q = np.concatenate([self.along_q, along_q])

    def drop(self, best: int) -> None:
        """Forget boxes that cannot beat the best."""
        self._keep(self.limit > best)

    def split(self, num: int) -> Floats:
        """Take out the `num` most promising boxes, best bound first, smallest first on ties, and halve them."""
        size = (self.boxes[:, 1::2] - self.boxes[:, ::2]) / self.widest
        free = np.flatnonzero(size.max(axis=1, initial=0) > SMALLEST_SIDE)
        area = np.maximum(size, SMALLEST_SIDE).prod(axis=1)
        taken = free[np.lexsort((area[free], -self.limit[free]))][:num]
        along_q = np.where(size.min(axis=1, initial=1) > SMALLEST_SIDE, self.along_q, size[:, 0] > SMALLEST_SIDE)[taken]
        halves = halved(self.boxes[taken], along_q)
        self._keep(np.isin(np.arange(len(self.limit)), taken, invert=True))
        return halves

    def _keep(self, keep: Bools) -> None:
        self.boxes, self.limit, self.along_q = self.boxes[keep], self.limit[keep], self.along_q[keep]
