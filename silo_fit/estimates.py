"""How sure an Oracle is of its intervals: ranges of their ends, and the probability that a max_lr is inside.

An Oracle's table has the ranges in columns of its own, and p_within.parquet beside it the probabilities, one a candidate
(`oracle.search.certainty` says what they mean). A table of one's own may have such columns too. All are optional.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from oracle.errors import TableError
from silo_fit.columns import Columns, columns_of, is_missing, number, numbers_or_nan
from silo_fit.curve import Floats

Certainty = Literal["sure", "possible"]
CERTAINTIES: tuple[Certainty, ...] = ("sure", "possible")
AT_END = 1e-9  # of a rate: a value this close to the first or last candidate counts as that candidate
NUMBERS = ("curve_max_lr", "seed_se_lo", "image_se_lo", "seed_se_hi", "image_se_hi")  # what else people are told of
FLAGS = ("lo_open", "hi_open")
EVIDENCE = ("assumed", "low", "measured")
CURVE_COLUMNS = ("cycle", "max_lr", "p_within", "curve", "curve_std")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CycleCurve:
    """One cycle's accuracy over max_lr, as its trials let it be known: one entry a candidate, ascending."""

    max_lr: Floats
    p_within: Floats  # the probability that the candidate is in the cycle's interval
    mean: Floats  # accuracy, fraction
    std: Floats

    def p_at(self, max_lr: float) -> float:
        """p_within between candidates, linear in log max_lr; 0 beyond them, where nothing was asked."""
        return 0.0 if self.is_beyond(max_lr) else self.p_at_most(max_lr)

    def p_at_most(self, max_lr: float) -> float:
        """As `p_at`, but beyond the candidates the last one's: an interval that reaches further holds that one too."""
        return self._between(max_lr, self.p_within)

    def below_best(self, max_lr: float) -> float | None:
        """How far the expected accuracy lies below the best candidate's; None beyond the candidates."""
        return None if self.is_beyond(max_lr) else float(self.mean.max()) - self._between(max_lr, self.mean)

    def is_beyond(self, max_lr: float) -> bool:
        """Whether a value lies below the first candidate or above the last."""
        return not self.max_lr[0] * (1 - AT_END) <= max_lr <= self.max_lr[-1] * (1 + AT_END)

    def next_below(self, max_lr: float) -> float:
        """The largest candidate below a value; NaN where there is none."""
        below = self.max_lr[self.max_lr < max_lr]
        return float(below[-1]) if len(below) else math.nan

    def next_above(self, max_lr: float) -> float:
        """The smallest candidate above a value; NaN where there is none."""
        above = self.max_lr[self.max_lr > max_lr]
        return float(above[0]) if len(above) else math.nan

    def _between(self, max_lr: float, values: Floats) -> float:
        at = -math.inf if max_lr <= 0 else math.log(max_lr)
        return float(np.interp(at, np.log(self.max_lr), values))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Estimates:
    """What is known beside a table's intervals, one entry a cycle; NaN or None where that cycle has nothing of it."""

    ends: Mapping[Certainty, tuple[Floats, Floats]]  # lo and hi of what is surely inside, and of what may be
    curves: tuple[CycleCurve | None, ...]
    rows: tuple[Mapping[str, Any], ...]  # the table's, as plain values: what people are told is made of them

    @property
    def has_probabilities(self) -> bool:
        """Whether p_within is known at any cycle."""
        return any(curve is not None for curve in self.curves)

    def at(self, positions: Sequence[int]) -> "Estimates":
        """Those of some cycles alone, by their place."""
        these = list(positions)
        return Estimates(
            ends={kind: (lo[these], hi[these]) for kind, (lo, hi) in self.ends.items()},
            curves=tuple(self.curves[place] for place in these),
            rows=tuple(self.rows[place] for place in these),
        )


def parse_estimates(
    columns: Columns, *, cycles: Sequence[int], order: Any, labels: Sequence[str], p_within: Any
) -> Estimates | None:
    """The estimates that a table and its p_within hold; None where there are none.

    `cycles` and `labels` as the rows are, `order` sorts them by cycle. TableError, naming cycle and column, for values
    that cannot be.
    """
    by_cycle = {} if p_within is None else _curves(p_within)
    ends = {kind: found for kind in CERTAINTIES if (found := _ends(columns, kind, order, labels))}
    if set(ends) == set(CERTAINTIES):
        _check_nested(ends, [labels[position] for position in order])
    if "possible" in ends and "sure" in ends and np.isnan([*ends["sure"], *ends["possible"]]).all():
        ends = {}  # nothing was estimated
    _check_rest(columns, order, labels)
    curves = tuple(by_cycle.get(cycles[position]) for position in order)
    if not ends and not any(curves):
        return None
    rows = tuple(
        {name: None if is_missing(values[position]) else values[position] for name, values in columns.items()}
        for position in order
    )
    return Estimates(ends=ends, curves=curves, rows=rows)


def _ends(columns: Columns, kind: Certainty, order: Any, labels: Sequence[str]) -> tuple[Floats, Floats] | None:
    names = (f"lo_{kind}", f"hi_{kind}")
    lo, hi = (numbers_or_nan(columns, name, order, labels) for name in names)
    if lo is None or hi is None:
        if lo is not None or hi is not None:
            there, missing = names if hi is None else names[::-1]
            raise TableError(f"column {there} is there without {missing}; give both, or neither")
        return None
    for low, high, position in zip(lo, hi, order, strict=True):
        label = labels[position]
        if math.isnan(low) != math.isnan(high):
            there, missing = names if math.isnan(high) else names[::-1]
            raise TableError(
                f"{label}: {missing} is missing, but {there} is {np.nanmax([low, high]):g}; give both, or neither where "
                "nothing is known"
            )
        if low < 0:
            raise TableError(f"{label}: {names[0]} is {low:g}; a learning rate cannot be below 0")
        if low > high:
            raise TableError(f"{label}: {names[0]} {low:g} is above {names[1]} {high:g}; are the columns swapped?")
    return lo, hi


def _check_nested(ends: Mapping[Certainty, tuple[Floats, Floats]], labels: Sequence[str]) -> None:
    for label, *row in zip(labels, *ends["sure"], *ends["possible"], strict=True):
        lo_sure, hi_sure, lo_possible, hi_possible = row
        if math.isnan(lo_sure):
            continue
        if math.isnan(lo_possible):
            raise TableError(
                f"{label}: lo_sure is {lo_sure:g}, but lo_possible is missing; what is sure is possible too"
            )
        if not lo_possible <= lo_sure <= hi_sure <= hi_possible:
            raise TableError(
                f"{label}: what is sure, [{lo_sure:g}, {hi_sure:g}], is not within what is possible, "
                f"[{lo_possible:g}, {hi_possible:g}] (columns lo_sure, hi_sure, lo_possible, hi_possible)"
            )


def _check_rest(columns: Columns, order: Any, labels: Sequence[str]) -> None:
    """Refuse what could not be told to people."""
    for name in NUMBERS:
        numbers_or_nan(columns, name, order, labels)
    for name in (*FLAGS, "evidence"):
        allowed, wanted = (EVIDENCE, ", ".join(EVIDENCE)) if name == "evidence" else ((0, 1), "true, false")
        for value, label in zip(columns.get(name, ()), labels, strict=False):  # none where the column is not there
            if not is_missing(value) and value not in allowed:
                raise TableError(f"{label}: {name} is {value!r}; {wanted} or nothing is needed")


def _curves(table: Any) -> dict[int, CycleCurve]:
    columns = columns_of(table)
    missing = [name for name in CURVE_COLUMNS if name not in columns]
    if missing:
        found = ", ".join(columns) or "none"
        raise TableError(
            f"p_within: no column {', '.join(missing)}; expected {', '.join(CURVE_COLUMNS)}, found {found}"
        )
    by_cycle: dict[int, list[tuple[float, ...]]] = {}
    for cycle, values in _candidates(columns):
        by_cycle.setdefault(cycle, []).append(values)
    curves = {}
    for cycle, rows in by_cycle.items():
        max_lr, p_within, mean, std = np.array(sorted(rows)).T
        twice = max_lr[1:][np.diff(max_lr) == 0]
        if len(twice):
            raise TableError(f"p_within, cycle {cycle}: max_lr {twice[0]:g} is there twice")
        curves[cycle] = CycleCurve(max_lr=max_lr, p_within=p_within, mean=mean, std=std)
    return curves


def _candidates(columns: Columns) -> Iterator[tuple[int, tuple[float, ...]]]:
    """Cycle, and max_lr, p_within, curve and curve_std, of each row."""
    for row, (cycle_value, *values) in enumerate(zip(*(columns[name] for name in CURVE_COLUMNS), strict=True), start=1):
        cycle = number(cycle_value, "cycle", f"p_within, row {row}")
        label = f"p_within, cycle {cycle:g}"
        if cycle != int(cycle):
            raise TableError(f"{label}: a cycle is a whole number")
        found = [number(value, name, label) for name, value in zip(CURVE_COLUMNS[1:], values, strict=True)]
        max_lr, p_within, _, std = found
        if max_lr <= 0:
            raise TableError(f"{label}: max_lr is {max_lr:g}; a learning rate above 0 is needed")
        if not 0 <= p_within <= 1:
            raise TableError(
                f"{label}, max_lr {max_lr:g}: p_within is {p_within:g}; a probability from 0 to 1 is needed"
            )
        if std < 0:
            raise TableError(f"{label}, max_lr {max_lr:g}: curve_std is {std:g}; it cannot be below 0")
        yield int(cycle), tuple(found)
