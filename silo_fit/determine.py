"""What the curves with the most hits have in common: the range of each of their numbers, proven by branch and bound.

The question. Over all curves that hit at least H intervals, q and beta in a box: how small and how large are eps, delta,
eps + delta, q and beta?

For one (q, beta), take any (eps, delta) and at least H cycles that it hits. Raise eps, with delta held, until an upper
limit of these cycles is met: so eps, delta and eps + delta are largest, and delta is smallest, on one of the K lines
eps = hi_i - delta s_i. Lower eps until a lower limit, or 0, is met: so eps and eps + delta are smallest on one of the K
lines eps = lo_i - delta s_i, or on eps = 0. Along a line each cycle is hit for one closed range of delta (see certify.py),
and eps and eps + delta are monotone in delta, so only the first and the last delta with H hits matter: exact.

Over a box of (q, beta) the same lines and ranges, with the generous end of each cycle's shape, give ends that no curve of
the box exceeds, and show that some boxes hold no such curve. Boxes are split until none could move an end that was reached
by more than two thousandths of its range, or the work allowed runs out, which `tight` tells. No curve exceeds what is
returned.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silo_fit.certify import (
    BOX_EVENTS,
    CHUNK_EVENTS,
    WIDENING,
    Bools,
    bound_limits,
    found_limits,
    halved,
    shape_range,
    sweep,
)
from silo_fit.curve import Floats, shape
from silo_fit.tables import Intervals

NAMES = ("eps", "delta", "top", "q", "beta")
ACCURACY = 2e-3  # of a number's range: its ends may lie this much further out than curves that were found
FINEST_ACCURACY = 1e-8  # of the largest hi, or of the searched range of q or beta: no end is told more finely
LEAST_WIDTH = 1e-3  # of a searched range of q or beta, for its accuracy: one that is narrower counts as this wide
UNBOUNDED_RATE = 1000.0  # times the largest hi: a rate that may be larger is said to have no upper bound
MOST_EVENTS = 16_000_000  # events (certify.py) that may be sorted; then ends stay as loose as they are
SPLIT_FOR_AN_END = 4  # boxes that are split together for each end

# Arrays of 10 ends: of each name the low one, negated, so that larger is further out; then the high one.


@dataclass(frozen=True, slots=True, kw_only=True)
class Determined:
    """Ranges that hold the numbers of every curve with the hits asked for, in the table's unit. None: no upper bound."""

    ranges: dict[str, tuple[float, float | None]]
    tight: dict[str, bool]  # whether curves were found that reach both ends, to four thousandths of the range
    points: tuple[tuple[float, float], ...]  # (q, beta) of curves at the ends


def determine(
    intervals: Intervals,
    *,
    hits: int,
    start: list[tuple[float, float]],
    q: tuple[float, float],
    beta: tuple[float, float],
    most_events: int = MOST_EVENTS,
) -> Determined:
    """Find the range of each number over all curves with `hits` hits. `start`: (q, beta) of such curves, at least one."""
    size = np.array([1.0, 1.0, 1.0, max(q[1] - q[0], LEAST_WIDTH), max(beta[1] - beta[0], LEAST_WIDTH)])
    per_sweep = 4 * len(intervals.cycles) ** 2 + BOX_EVENTS // 2  # 2K events on each of 2K + 1 lines, and the rest
    points = np.array(start, dtype=float)
    ends = _ends_at(intervals, points, hits)
    boxes = _Boxes.of(intervals, np.empty((0, 4)), hits)
    halves = _Boxes.of(intervals, np.array([[*q, *beta]], dtype=float), hits)
    reached, outside, num_sweeps = ends.max(axis=0), np.full(10, -np.inf), 2
    while True:
        fine = _accuracies(reached, size)
        boxes = boxes.and_(halves)
        gain = (boxes.ends - reached) / fine
        is_open = (gain > 1).any(axis=1)
        outside = np.maximum(outside, boxes.only(~is_open).ends.max(axis=0, initial=-np.inf))
        boxes, gain = boxes.only(is_open), gain[is_open]
        if not len(gain) or num_sweeps * per_sweep > most_events:
            break
        first = np.argsort(-gain, axis=0, kind="stable")[:SPLIT_FOR_AN_END]  # the boxes that may move an end furthest
        chosen = np.isin(np.arange(len(gain)), first[np.take_along_axis(gain, first, axis=0) > 1])
        split, boxes = boxes.only(chosen), boxes.only(~chosen)
        along_q = _cut_across_q(split, gain[chosen].argmax(axis=1) // 2, size)
        halves = _Boxes.of(intervals, halved(split.sides, along_q), hits)
        promising = halves.only((halves.ends - reached > fine).any(axis=1)).sides
        middles = (promising[:, ::2] + promising[:, 1::2]) / 2
        points = np.concatenate([points, middles])
        ends = np.concatenate([ends, _ends_at(intervals, middles, hits)])
        reached = ends.max(axis=0)
        num_sweeps += 2 * len(split.sides) + len(middles)
    outer = np.maximum(np.maximum(reached, outside), boxes.ends.max(axis=0, initial=-np.inf))
    tight = (outer - reached <= 2 * fine).reshape(5, 2).all(axis=1)
    units = (intervals.scale, intervals.scale, intervals.scale, 1.0, 1.0)
    return Determined(
        ranges={
            name: (max(0.0, -low) * unit, high * unit if high < UNBOUNDED_RATE else None)
            for name, (low, high), unit in zip(NAMES, outer.reshape(5, 2).tolist(), units, strict=True)
        },
        tight=dict(zip(NAMES, tight.tolist(), strict=True)),
        points=tuple((float(x), float(y)) for x, y in points[np.unique(ends.argmax(axis=0))]),
    )


def _accuracies(reached: Floats, size: Floats) -> Floats:
    """How much further out than what was reached each of 10 ends may be."""
    upper = np.where(reached[1::2] < UNBOUNDED_RATE, reached[1::2], 0.0)  # without one the lower end is its own measure
    return np.repeat(np.maximum(ACCURACY * np.abs(upper + reached[::2]), FINEST_ACCURACY * size), 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Boxes:
    """B boxes of (q, beta) that may hold curves with the hits asked for."""

    sides: Floats  # (B, 4): q low, q high, beta low, beta high
    ends: Floats  # (B, 10): no such curve is further out
    along_q: Bools  # (B,): whether to cut across q

    @classmethod
    def of(cls, intervals: Intervals, sides: Floats, hits: int) -> "_Boxes":
        low, high, along_q = shape_range(sides, intervals.cycles, intervals.pruning_rate)
        low, high = low * (1 - WIDENING), np.minimum(high * (1 + WIDENING), 1.0)
        ends = np.hstack([_ends(low, high, *bound_limits(intervals), hits), sides * (-1, 1, -1, 1)])
        return cls(sides=sides, ends=ends, along_q=along_q).only(ends[:, 0] > -np.inf)

    def only(self, these: Bools) -> "_Boxes":
        return _Boxes(sides=self.sides[these], ends=self.ends[these], along_q=self.along_q[these])

    def and_(self, more: "_Boxes") -> "_Boxes":
        return _Boxes(
            sides=np.concatenate([self.sides, more.sides]),
            ends=np.concatenate([self.ends, more.ends]),
            along_q=np.concatenate([self.along_q, more.along_q]),
        )


def _cut_across_q(boxes: _Boxes, name: NDArray[np.int64], size: Floats) -> Bools:
    """Where the shapes move most, but a box that is open for its own q or beta is not left longer that way."""
    q, beta = ((boxes.sides[:, 1::2] - boxes.sides[:, ::2]) / size[3:]).T
    for_q, for_beta = name == NAMES.index("q"), name == NAMES.index("beta")
    return np.where(for_q & (q >= beta), True, np.where(for_beta & (beta >= q), False, boxes.along_q))


def _ends_at(intervals: Intervals, points: Floats, hits: int) -> Floats:
    """(P, 10): how far out the curves of each (q, beta) go; -inf: none has the hits."""
    values = shape(intervals.cycles, points[:, :1], points[:, 1:], intervals.pruning_rate)
    ends = _ends(values, values, *found_limits(intervals), hits)
    own = np.repeat(points, 2, axis=1) * (-1, 1, -1, 1)
    return np.hstack([ends, np.where(ends[:, :1] > -np.inf, own, -np.inf)])


def _ends(low: Floats, high: Floats, lo: Floats, hi: Floats, hits: int) -> Floats:
    """(B, 6): how far out eps, delta and eps + delta go; -inf where no point of any line has the hits."""
    ends = np.full((len(low), 6), -np.inf)
    for first, eps, delta, nowhere in _along_lines(low, high, lo, hi, hits):
        part = slice(first, first + len(eps))
        numbers = (eps, delta.clip(max=UNBOUNDED_RATE), (eps + delta).clip(max=UNBOUNDED_RATE))
        for column, number in enumerate(numbers):
            ends[part, 2 * column] = np.where(nowhere, -np.inf, -number).max(axis=(1, 2))
            ends[part, 2 * column + 1] = np.where(nowhere, -np.inf, number).max(axis=(1, 2))
    return ends


def extreme_curves(values: Floats, lo: Floats, hi: Floats, hits: int) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Among all curves with at least `hits` hits, for each of B points those that are extreme in eps, delta or anywhere.

    `values`: (B, K), the shapes. Returns which point, eps and delta, one entry a curve: those with the first and the last
    delta on each line. The value at any cycle, eps + delta s, is linear along a line, and is largest or smallest on one of
    the lines as eps + delta is (above).
    """
    found: list[tuple[NDArray[np.int64], Floats, Floats]] = []
    for first, eps, delta, nowhere in _along_lines(values, values, lo, hi, hits):
        there = np.broadcast_to(~nowhere, eps.shape)
        found.append((first + np.nonzero(there)[0], eps[there], delta[there]))
    points, eps, delta = (np.concatenate(column) for column in zip(*found, strict=True))
    return points, eps, delta


def _along_lines(
    low: Floats, high: Floats, lo: Floats, hi: Floats, hits: int
) -> Iterator[tuple[int, Floats, Floats, Bools]]:
    """Of each line (above) the ends of what has the hits, some boxes at a time.

    The first box; eps and delta, (B, 2K + 1, 2); and (B, 2K + 1, 1), whether no point of the line has the hits.
    """
    num_boxes, num = low.shape
    at_zero = np.concatenate([hi, lo, [0.0]])
    fall = np.concatenate([low, high, np.zeros((num_boxes, 1))], axis=1)
    step = max(1, CHUNK_EVENTS // (4 * num * num))
    for first in range(0, num_boxes, step):
        part = slice(first, first + step)
        swept = sweep(low[part], high[part], lo, hi, at_zero=at_zero, fall=fall[part])
        enough = swept.overlaps >= hits
        nowhere = np.asarray(~enough.any(axis=2, keepdims=True))
        last = 2 * num - 1 - enough[..., ::-1].argmax(axis=2, keepdims=True)
        events = np.concatenate([enough.argmax(axis=2, keepdims=True), (last + 1).clip(max=2 * num - 1)], axis=2)
        delta = (np.take_along_axis(swept.keys, events, axis=2) & ~1).view(np.float64)  # the first and the last
        with np.errstate(invalid="ignore"):  # infinity times 0
            eps = (at_zero[:, None] - np.where(fall[part, :, None] == 0, 0.0, fall[part, :, None] * delta)).clip(min=0)
        yield first, eps, delta, nowhere
