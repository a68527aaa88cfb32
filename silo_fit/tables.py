"""Tables of intervals in: oracle.parquet, CSV or Parquet of the user's own, the paper's two, or a table in memory.

Everything that cannot be used is refused here, with the cycle or the column named; the rest of the package trusts
what comes out.
"""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from oracle.errors import Error, FolderError, TableError
from oracle.storage import file_within, kind_of, parted, read_file, shown
from silo_fit.columns import Columns, columns_of, flags, mean_count, number, numbers_or_nan
from silo_fit.curve import Floats, SiloCurve
from silo_fit.estimates import CycleCurve, Estimates, parse_estimates

if TYPE_CHECKING:
    import pandas
    import pyarrow

TOLERANCE = 1e-9  # of the largest hi: a value this close to an interval counts as inside
RATE_DIGITS = 11  # kept of a rate divided by the largest hi, so that another unit changes no bit of what follows
MOST_CYCLES_OFF = 0.3  # cycles: percent remaining further than this from a whole number of them is worth a warning
LAST_CYCLE = 100_000  # a later cycle is surely a mistake
LEAST_PRUNING_RATE = 1e-6  # fraction: below, a million cycles prune as much as one usually does
RATE_COLUMNS = ("lo", "max_lr", "hi")
OUTSIDE_COLUMNS = ("lo_outside", "hi_outside")
Kind = Literal["sure", "estimated", "possible"]
KINDS: tuple[Kind, ...] = ("sure", "estimated", "possible")  # from narrow to wide, as a rule


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Intervals:
    """A checked table, one entry a cycle, in the order of the cycles.

    An interval is closed, from candidate to candidate: what it holds is counted as hit, and nothing else. How far it truly
    reaches is known to a step of the grid alone: its end lies between its last candidate and the next one beyond, which
    `lo_outside` and `hi_outside` name. `widened` allows for that.
    """

    name: str
    cycles: Floats
    lo: Floats
    max_lr: Floats  # the optimum
    hi: Floats
    pruning_rate: float
    lo_on_edge: tuple[bool, ...] | None = None  # None: the table does not say
    hi_on_edge: tuple[bool, ...] | None = None
    num_candidates: int | None = None  # of the grid, tried or not; mean over cycles
    num_seeds: int | None = None
    paper_curve: SiloCurve | None = None  # the paper's own numbers for its own tables
    metadata: tuple[tuple[str, str], ...] = ()  # what else an Oracle's table says about itself
    warnings: tuple[str, ...] = ()
    lo_outside: Floats | None = None  # the next candidate below lo; NaN where there is none, or it is not known
    hi_outside: Floats | None = None
    estimates: Estimates | None = None  # None: the table has none

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Which kinds of intervals there are: the table's own, lo to hi, are "estimated"; the others need estimates."""
        known = {"estimated", *(self.estimates.ends if self.estimates else ())}
        return tuple(kind for kind in KINDS if kind in known)

    def of_kind(self, kind: Kind) -> "Intervals | None":
        """The intervals of a kind, of those cycles that have one; None where no cycle has."""
        if kind == "estimated":
            return self
        assert self.estimates is not None
        lo, hi = self.estimates.ends[kind]
        these = np.flatnonzero(~np.isnan(lo))
        if not len(these):
            return None
        curves = [self.estimates.curves[index] for index in these]
        lo, hi = lo[these], hi[these]
        return Intervals(
            name=f"{self.name}, {kind}",
            cycles=self.cycles[these],
            lo=lo,
            max_lr=np.clip(self.max_lr[these], lo, hi),
            hi=hi,
            pruning_rate=self.pruning_rate,
            lo_outside=np.array([_next(curve, "below", low) for curve, low in zip(curves, lo, strict=True)]),
            hi_outside=np.array([_next(curve, "above", high) for curve, high in zip(curves, hi, strict=True)]),
        )

    def at(self, cycles: Sequence[int]) -> "Intervals":
        """The same table with some of its cycles alone."""
        these = np.flatnonzero(np.isin(self.cycles, list(cycles)))

        def some(values: Floats | None) -> Floats | None:
            return None if values is None else values[these]

        def flags(values: tuple[bool, ...] | None) -> tuple[bool, ...] | None:
            return None if values is None else tuple(values[index] for index in these)

        return replace(
            self,
            cycles=self.cycles[these],
            lo=self.lo[these],
            max_lr=self.max_lr[these],
            hi=self.hi[these],
            lo_on_edge=flags(self.lo_on_edge),
            hi_on_edge=flags(self.hi_on_edge),
            lo_outside=some(self.lo_outside),
            hi_outside=some(self.hi_outside),
            estimates=None if self.estimates is None else self.estimates.at(these.tolist()),
        )

    def widened(self) -> "Intervals":
        """The same with each end at the next candidate beyond it, where that is known: no true interval reaches further.

        Where an end is on the grid's edge, or the table does not name the next candidate, it stays. Itself where all do.
        """
        lo, hi = (
            ends if outside is None else np.where(np.isnan(outside), ends, outside)
            for ends, outside in ((self.lo, self.lo_outside), (self.hi, self.hi_outside))
        )
        if np.array_equal(lo, self.lo) and np.array_equal(hi, self.hi):
            return self
        return replace(self, lo=lo, hi=hi, lo_outside=None, hi_outside=None)

    def lone(self, *, resolved: bool) -> tuple[int, ...]:
        """Cycles whose interval is a single candidate: those with a candidate known on both sides of it, or the others."""
        unknown = np.full(len(self.cycles), np.nan)
        known = [~np.isnan(unknown if outside is None else outside) for outside in (self.lo_outside, self.hi_outside)]
        these = (self.lo == self.hi) & ((known[0] & known[1]) == resolved)
        return tuple(int(cycle) for cycle in self.cycles[these])

    @property
    def scale(self) -> float:
        """The largest hi, which the solvers divide by."""
        return float(self.hi.max())

    def scaled(self, name: Literal["lo", "max_lr", "hi"]) -> Floats:
        """Rates as the solvers see them: divided by the largest hi, to 11 digits."""
        return _scaled(self, name)

    def margins(self, curve: SiloCurve) -> tuple[Floats, Floats]:
        """Values of a curve, and how far inside each interval they lie (below 0: outside)."""
        values = np.asarray(curve(self.cycles), dtype=float)
        return values, np.minimum(values - self.lo, self.hi - values)

    def inside(self, curve: SiloCurve) -> list[bool]:
        """Which intervals a curve hits: they are closed, and 1e-9 of the largest hi is forgiven."""
        return [bool(margin >= -TOLERANCE * self.scale) for margin in self.margins(curve)[1]]


def _next(curve: CycleCurve | None, side: Literal["below", "above"], max_lr: float) -> float:
    if curve is None:
        return math.nan
    return curve.next_below(max_lr) if side == "below" else curve.next_above(max_lr)


@functools.lru_cache(maxsize=24)  # solvers ask for the same ones again and again
def _scaled(intervals: Intervals, name: str) -> Floats:
    return np.array([float(f"{rate:.{RATE_DIGITS}g}") for rate in getattr(intervals, name) / intervals.scale])


def read_intervals(source: str | Path, *, pruning_rate: float | None = None) -> Intervals:
    """Read a table from `paper:vgg19`, `paper:resnet20`, a search's folder, a Parquet file or a CSV file.

    A search's folder, or its oracle.parquet, is read with all estimates: what its version did not write is computed from
    its trials, which takes up to a second a cycle, and not kept.

    >>> read_intervals("paper:resnet20").cycles.tolist()
    [0.0, 3.0, 4.0, 5.0, 7.0]
    """
    text = str(source)
    if text.startswith("paper:"):
        return _paper(text.removeprefix("paper:"), pruning_rate)
    found = _load(text)
    intervals = parse_intervals(found.table, pruning_rate=pruning_rate, name=text, p_within=found.p_within)
    return replace(intervals, warnings=(*intervals.warnings, *found.warnings)) if found.warnings else intervals


def parse_intervals(
    table: "pandas.DataFrame | pyarrow.Table",
    *,
    pruning_rate: float | None = None,
    name: str = "table",
    p_within: "pandas.DataFrame | pyarrow.Table | None" = None,
) -> Intervals:
    """Check a table with columns cycle (or percent_remaining), lo, max_lr, hi; more that an Oracle writes is used too.

    The pruning rate may come with an Arrow table's metadata instead of as an argument. `p_within`: the table beside an
    Oracle's, with columns cycle, max_lr, p_within, curve, curve_std.
    """
    columns, unsearched = _searched(columns_of(table), name)
    rate = _pruning_rate(table, pruning_rate)
    cycle_column = "cycle" if "cycle" in columns else "percent_remaining"
    missing = [column for column in (cycle_column, *RATE_COLUMNS) if column not in columns]
    if missing:
        wanted = "cycle (or percent_remaining), lo, max_lr, hi"
        names = ", ".join("cycle" if column == "percent_remaining" else column for column in missing)
        raise TableError(
            f"{name}: no column {names}; expected {wanted}, found {', '.join(columns) or 'none'}"
            + ("; columns must be parted by commas" if len(columns) == 1 else "")
        )
    if not columns[cycle_column]:
        raise TableError(f"{name}: the table has no rows; one a searched cycle is needed")

    cycles, labels, warnings = _read_cycles(columns, rate)
    warnings = (*unsearched, *warnings)
    rates = {
        column: [number(value, column, label) for value, label in zip(columns[column], labels, strict=True)]
        for column in RATE_COLUMNS
    }
    for label, lo, best, hi in zip(labels, *rates.values(), strict=True):
        _check_interval(label, lo, best, hi)

    order = np.argsort(cycles)
    lo, max_lr, hi = (np.array(rates[column])[order] for column in RATE_COLUMNS)
    outside = [numbers_or_nan(columns, column, order, labels) for column in OUTSIDE_COLUMNS]
    _check_outside([labels[position] for position in order], lo, hi, *outside)
    estimates = parse_estimates(columns, cycles=cycles, order=order, labels=labels, p_within=p_within)
    intervals = Intervals(
        name=name,
        cycles=np.array(cycles, dtype=float)[order],
        lo=lo,
        max_lr=max_lr,
        hi=hi,
        pruning_rate=rate,
        lo_on_edge=flags(columns, "lo_on_edge", order, labels),
        hi_on_edge=flags(columns, "hi_on_edge", order, labels),
        num_candidates=_grid_size(estimates) or mean_count(columns, "num_candidates", labels),
        num_seeds=mean_count(columns, "num_seeds", labels),
        metadata=_described(table),
        warnings=warnings,
        lo_outside=outside[0],
        hi_outside=outside[1],
        estimates=estimates,
    )
    return _with_neighbours(intervals)


def _searched(columns: Columns, name: str) -> tuple[Columns, tuple[str, ...]]:
    """Without the cycles at which one max_lr alone was trained, which have no interval; and what is to be said of them."""
    tried = columns.get("num_candidates", [])
    alone = [index for index, number in enumerate(tried) if number == 1]
    if not alone:
        return columns, ()
    if len(alone) == len(tried):
        raise TableError(
            f"{name}: no cycle was searched, as one max_lr alone was trained at each; there is nothing to fit"
        )
    cycles = [f"{columns['cycle'][index]}" if "cycle" in columns else f"row {index + 1}" for index in alone]
    kept = {
        column: [value for index, value in enumerate(values) if index not in set(alone)]
        for column, values in columns.items()
    }
    word = "cycles" if len(cycles) > 1 else "cycle"
    return kept, (f"{word} {', '.join(cycles)}: one max_lr alone was trained there, so there is no interval to fit",)


def _grid_size(estimates: Estimates | None) -> int | None:
    """Candidates of a cycle, tried or not: the mean over cycles; None where no estimates tell."""
    sizes = [len(curve.max_lr) for curve in estimates.curves if curve is not None] if estimates is not None else []
    return round(float(np.mean(sizes))) if sizes else None


def _with_neighbours(intervals: Intervals) -> Intervals:
    """Fill in the next candidates where the table names none, but its estimates tell the grid, and all of it was tried."""
    if intervals.estimates is None:
        return intervals
    unknown = np.full(len(intervals.cycles), np.nan)
    lo_outside, hi_outside = (
        unknown.copy() if outside is None else outside.copy()
        for outside in (intervals.lo_outside, intervals.hi_outside)
    )
    for index, (curve, row) in enumerate(zip(intervals.estimates.curves, intervals.estimates.rows, strict=True)):
        if curve is None or row.get("num_candidates") != len(curve.max_lr):
            continue
        if np.isnan(lo_outside[index]) and intervals.lo[index] in curve.max_lr:
            lo_outside[index] = curve.next_below(intervals.lo[index])
        if np.isnan(hi_outside[index]) and intervals.hi[index] in curve.max_lr:
            hi_outside[index] = curve.next_above(intervals.hi[index])
    return replace(intervals, lo_outside=lo_outside, hi_outside=hi_outside)


def paper_names() -> list[str]:
    """Names of the paper's tables."""
    return [f"paper:{name}" for name in _paper_tables()]


def _paper_tables() -> dict[str, Any]:
    tables: dict[str, Any] = json.loads((resources.files("silo_fit") / "data" / "paper.json").read_text("utf-8"))
    return tables


def _paper(name: str, pruning_rate: float | None) -> Intervals:
    import pyarrow as pa

    tables = _paper_tables()
    if name not in tables:
        raise TableError(f"the paper has no table {shown(repr(name))}; there are {' and '.join(paper_names())}")
    entry = tables[name]
    rows = [dict(zip(entry["columns"], row, strict=True)) for row in entry["rows"]]
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"pruning_rate": str(entry["pruning_rate"])})
    intervals = parse_intervals(table, pruning_rate=pruning_rate, name=entry["title"])
    curve = SiloCurve(**entry["paper_curve"], pruning_rate=intervals.pruning_rate)
    fields = {field: getattr(intervals, field) for field in Intervals.__dataclass_fields__}
    return Intervals(**{**fields, "paper_curve": curve})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """What lies at a source: Arrow tables."""

    table: Any
    p_within: Any = None
    warnings: tuple[str, ...] = ()


def _load(source: str) -> _Loaded:
    """Read a file, or the tables of a search's folder, here or in an object store."""
    try:
        kind = kind_of(source)
        where = file_within(source, "oracle.parquet") if kind == "folder" else source
        below, name = parted(where)
        suffix = Path(name).suffix.lower()
        if kind and suffix not in (".csv", ".parquet"):
            raise TableError(f"{shown(source)}: not a .csv or .parquet file")
        content = read_file(where) if kind else None
        if content is not None and name == "oracle.parquet":
            return _load_run(source, below, content)
    except FolderError as error:
        raise TableError(str(error)) from error
    if content is not None:
        return _Loaded(table=_parsed(source, content, suffix))
    if kind == "folder":
        raise TableError(f"{shown(source)}: no oracle.parquet in this folder; has its search finished a cycle?")
    raise TableError(
        f"{shown(source)}: no such file or folder; give oracle.parquet, a search's folder, a CSV file, "
        f"or {' or '.join(paper_names())}"
    )


def _load_run(source: str, folder: str, content: bytes) -> _Loaded:
    """oracle.parquet with all that its folder tells of it; `content`: its bytes."""
    warnings: tuple[str, ...] = ()
    if read_file(file_within(folder, "experiment.yaml"), 1) is not None:
        from oracle.search.how_sure import with_estimates  # a second to import: only for runs

        try:
            table, p_within = with_estimates(folder)
            return _Loaded(table=table, p_within=p_within)
        except Error as error:
            warnings = (f"how sure the intervals are cannot be told: {error}",)
    table = _parsed(source, content, ".parquet")
    beside = read_file(file_within(folder, "p_within.parquet"))
    p_within = None if beside is None else _parsed(file_within(folder, "p_within.parquet"), beside, ".parquet")
    return _Loaded(table=table, p_within=p_within, warnings=warnings)


def _parsed(source: str, content: bytes, suffix: str) -> Any:
    """The Arrow table in a file's bytes."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    read = csv.read_csv if suffix == ".csv" else parquet.read_table
    try:
        return read(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        said = str(error).splitlines()[0].replace("\0", "")
        raise TableError(f"{shown(source)}: cannot be read: {said}. A CSV file is UTF-8 text with commas") from error


def _pruning_rate(table: Any, given: float | None) -> float:
    stored = _metadata(table).get(b"pruning_rate")
    try:
        known = None if stored is None else float(stored)
    except ValueError:
        raise TableError(f"pruning rate in the table's metadata: {stored!r} is not a number") from None
    if given is None and known is None:
        raise TableError("pruning rate: not in the table; give the fraction removed per cycle (--pruning-rate 0.2)")
    rate = number(known if given is None else given, "pruning rate", "")
    if 0 < rate < LEAST_PRUNING_RATE or 1 - LEAST_PRUNING_RATE < rate < 1:
        raise TableError(
            f"pruning rate: {rate:g} is closer to {round(rate)} than {LEAST_PRUNING_RATE:g}: nothing can be told from it"
        )
    if not 0 < rate < 1:
        raise TableError(f"pruning rate: {rate:g} is not between 0 and 1; it is a fraction, so 20% is 0.2")
    if known is not None and abs(rate - known) > 1e-12:  # both are decimal texts of a few digits
        raise TableError(f"pruning rate: {rate:g} was given, but the table was made with {known:g}; leave it out")
    return rate


def _metadata(table: Any) -> Mapping[bytes, bytes]:
    """What an Arrow table's schema carries; a DataFrame carries nothing."""
    return getattr(getattr(table, "schema", None), "metadata", None) or {}


def _described(table: Any) -> tuple[tuple[str, str], ...]:
    names = ("name", "experiment", "version", "tolerance")
    known = {name: _metadata(table).get(name.encode()) for name in names}
    return tuple((name, value.decode(errors="replace")) for name, value in known.items() if value is not None)


def _cycle(value: Any, row: int) -> int:
    cycle = number(value, "cycle", f"row {row}")
    if cycle < 0 or cycle != int(cycle):
        raise TableError(f"row {row}: cycle {cycle!r} is not a whole number from 0 on")
    if cycle > LAST_CYCLE:
        raise TableError(f"row {row}: cycle {cycle:g} is beyond {LAST_CYCLE}; is it the right column?")
    return int(cycle)


def _read_cycles(columns: Mapping[str, list[Any]], rate: float) -> tuple[list[int], list[str], tuple[str, ...]]:
    """The cycle of each row, its name in messages, and warnings."""
    if "cycle" not in columns:
        cycles, labels, warnings = _cycles_from_percent(columns["percent_remaining"], rate)
    else:
        cycles = [_cycle(value, row) for row, value in enumerate(columns["cycle"], start=1)]
        labels = [f"cycle {cycle}" for cycle in cycles]
        both = "percent_remaining" in columns
        warnings = ["the table holds cycle and percent_remaining; only cycle is read"] if both else []
    for position, cycle in enumerate(cycles):
        if cycle in cycles[:position]:
            raise TableError(f"{labels[position]}: there twice (rows {cycles.index(cycle) + 1} and {position + 1})")
    return cycles, labels, tuple(warnings)


def _cycles_from_percent(values: Sequence[Any], rate: float) -> tuple[list[int], list[str], list[str]]:
    """Percent remaining is 100 (1-p)^m, so m = log(percent / 100) / log(1-p), rounded."""
    cycles, labels, warnings = [], [], []
    for row, value in enumerate(values, start=1):
        percent = number(value, "percent_remaining", f"row {row}")
        if not 0 < percent <= 100:
            raise TableError(f"row {row}: percent_remaining is {percent:g}; it must be above 0 and at most 100")
        exact = math.log(percent / 100) / math.log1p(-rate)
        cycle = _cycle(round(exact), row)
        label = f"cycle {cycle} ({percent:g}% remaining)"
        if abs(exact - cycle) > MOST_CYCLES_OFF:
            warnings.append(
                f"{label}: at pruning rate {rate:g} this lies {abs(exact - cycle):.2f} cycles off, at {exact:.2f}; "
                "is the pruning rate right?"
            )
        cycles.append(cycle)
        labels.append(label)
    return cycles, labels, warnings


def _check_outside(labels: Sequence[str], lo: Floats, hi: Floats, lo_outside: Any, hi_outside: Any) -> None:
    """NaN is fine: it compares as false."""
    for position, label in enumerate(labels):
        if lo_outside is not None and (lo_outside[position] >= lo[position] or lo_outside[position] < 0):
            raise TableError(
                f"{label}: lo_outside is {lo_outside[position]:g}; the next candidate below lo {lo[position]:g} is needed"
            )
        if hi_outside is not None and hi_outside[position] <= hi[position]:
            raise TableError(
                f"{label}: hi_outside is {hi_outside[position]:g}; the next candidate above hi {hi[position]:g} is needed"
            )


def _check_interval(label: str, lo: float, best: float, hi: float) -> None:
    if lo < 0:
        raise TableError(f"{label}: lo is {lo:g}; a learning rate cannot be below 0")
    if lo > hi:
        raise TableError(f"{label}: lo {lo:g} is above hi {hi:g}; are the columns swapped?")
    if best <= 0:
        raise TableError(f"{label}: the optimum max_lr is {best:g}; it must be above 0")
    if not lo <= best <= hi:
        raise TableError(f"{label}: the optimum max_lr {best:g} is outside its interval [{lo:g}, {hi:g}]")
