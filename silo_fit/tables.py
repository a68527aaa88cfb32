"""Tables of intervals in: oracle.parquet, CSV or Parquet of the user's own, the paper's two, or a table in memory.

Everything that cannot be used is refused here, with the cycle or the column named; the rest of the package trusts
what comes out.
"""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from oracle.errors import FolderError, TableError
from oracle.storage import file_within, kind_of, parted, read_file, shown
from silo_fit.curve import Floats, SiloCurve

if TYPE_CHECKING:
    import pandas
    import pyarrow

TOLERANCE = 1e-9  # of the largest hi: a value this close to an interval counts as inside
RATE_DIGITS = 11  # kept of a rate divided by the largest hi, so that another unit changes no bit of what follows
MOST_CYCLES_OFF = 0.3  # cycles: percent remaining further than this from a whole number of them is worth a warning
LAST_CYCLE = 100_000  # a later cycle is surely a mistake
LEAST_PRUNING_RATE = 1e-6  # fraction: below, a million cycles prune as much as one usually does
RATE_COLUMNS = ("lo", "max_lr", "hi")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Intervals:
    """A checked table, one entry a cycle, in the order of the cycles."""

    name: str
    cycles: Floats
    lo: Floats
    max_lr: Floats  # the optimum
    hi: Floats
    pruning_rate: float
    lo_on_edge: tuple[bool, ...] | None = None  # None: the table does not say
    hi_on_edge: tuple[bool, ...] | None = None
    num_candidates: int | None = None  # mean over cycles
    num_seeds: int | None = None
    paper_curve: SiloCurve | None = None  # the paper's own numbers for its own tables
    metadata: tuple[tuple[str, str], ...] = ()  # what else an Oracle's table says about itself
    warnings: tuple[str, ...] = ()

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


@functools.lru_cache(maxsize=12)  # solvers ask for the same ones again and again
def _scaled(intervals: Intervals, name: str) -> Floats:
    return np.array([float(f"{rate:.{RATE_DIGITS}g}") for rate in getattr(intervals, name) / intervals.scale])


def read_intervals(source: str | Path, *, pruning_rate: float | None = None) -> Intervals:
    """Read a table from `paper:vgg19`, `paper:resnet20`, a search's folder, a Parquet file or a CSV file.

    >>> read_intervals("paper:resnet20").cycles.tolist()
    [0.0, 3.0, 4.0, 5.0, 7.0]
    """
    text = str(source)
    if text.startswith("paper:"):
        return _paper(text.removeprefix("paper:"), pruning_rate)
    return parse_intervals(_load(text), pruning_rate=pruning_rate, name=text)


def parse_intervals(
    table: "pandas.DataFrame | pyarrow.Table", *, pruning_rate: float | None = None, name: str = "table"
) -> Intervals:
    """Check a table with columns cycle (or percent_remaining), lo, max_lr, hi; more that an Oracle writes is used too.

    The pruning rate may come with an Arrow table's metadata instead of as an argument.
    """
    columns = _columns(table)
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
    rates = {
        column: [_number(value, column, label) for value, label in zip(columns[column], labels, strict=True)]
        for column in RATE_COLUMNS
    }
    for label, lo, best, hi in zip(labels, *rates.values(), strict=True):
        _check_interval(label, lo, best, hi)

    order = np.argsort(cycles)
    return Intervals(
        name=name,
        cycles=np.array(cycles, dtype=float)[order],
        lo=np.array(rates["lo"])[order],
        max_lr=np.array(rates["max_lr"])[order],
        hi=np.array(rates["hi"])[order],
        pruning_rate=rate,
        lo_on_edge=_flags(columns, "lo_on_edge", order, labels),
        hi_on_edge=_flags(columns, "hi_on_edge", order, labels),
        num_candidates=_mean(columns, "num_candidates", labels),
        num_seeds=_mean(columns, "num_seeds", labels),
        metadata=_described(table),
        warnings=warnings,
    )


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


def _load(source: str) -> Any:
    """Read a file, or the oracle.parquet of a folder, here or in an object store."""
    try:
        kind = kind_of(source)
        where = file_within(source, "oracle.parquet") if kind == "folder" else source
        suffix = Path(parted(where)[1]).suffix.lower()
        if kind and suffix not in (".csv", ".parquet"):
            raise TableError(f"{shown(source)}: not a .csv or .parquet file")
        content = read_file(where) if kind else None
    except FolderError as error:
        raise TableError(str(error)) from error
    if content is not None:
        return _parsed(source, content, suffix)
    if kind == "folder":
        raise TableError(f"{shown(source)}: no oracle.parquet in this folder; has its search finished a cycle?")
    raise TableError(
        f"{shown(source)}: no such file or folder; give oracle.parquet, a search's folder, a CSV file, "
        f"or {' or '.join(paper_names())}"
    )


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


def _columns(table: Any) -> dict[str, list[Any]]:
    if hasattr(type(table), "column_names"):  # Arrow
        try:
            names, values = table.column_names, [column.to_pylist() for column in table.columns]
        except UnicodeDecodeError as error:
            raise TableError(f"the table is not UTF-8 text ({error.object!r}); save it as UTF-8") from None
    elif hasattr(table, "iloc"):  # pandas
        names = [str(name) for name in table.columns]
        values = [table.iloc[:, position].tolist() for position in range(len(names))]
    else:
        raise TableError(f"a table of intervals is a pandas DataFrame or a pyarrow Table, not {type(table).__name__}")
    names = [name.strip() for name in names]  # CSV by hand: "cycle, lo, max_lr, hi"
    for name in names:
        if names.count(name) > 1:
            raise TableError(f"column {name}: there {names.count(name)} times")
    return dict(zip(names, values, strict=True))


def _pruning_rate(table: Any, given: float | None) -> float:
    stored = _metadata(table).get(b"pruning_rate")
    try:
        known = None if stored is None else float(stored)
    except ValueError:
        raise TableError(f"pruning rate in the table's metadata: {stored!r} is not a number") from None
    if given is None and known is None:
        raise TableError("pruning rate: not in the table; give the fraction removed per cycle (--pruning-rate 0.2)")
    rate = _number(known if given is None else given, "pruning rate", "")
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


def _number(value: Any, column: str, label: str) -> float:
    where = f"{label}: {column}" if label else column
    if isinstance(value, str | bytes):
        raise TableError(f"{where} is the text {value!r}; a number is needed")
    if type(value).__name__ in {"NoneType", "NAType", "NaTType"}:
        raise TableError(f"{where} is missing or NaN; a number is needed")
    if not hasattr(value, "__float__"):
        raise TableError(f"{where} is {value!r}; a number is needed")
    if isinstance(value, bool | np.bool_):
        raise TableError(f"{where} is {value}; a number is needed")
    number = float(value)
    if not math.isfinite(number):
        raise TableError(f"{where} is {'missing or NaN' if math.isnan(number) else 'infinite'}; a number is needed")
    return number


def _cycle(value: Any, row: int) -> int:
    cycle = _number(value, "cycle", f"row {row}")
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
        percent = _number(value, "percent_remaining", f"row {row}")
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


def _check_interval(label: str, lo: float, best: float, hi: float) -> None:
    if lo < 0:
        raise TableError(f"{label}: lo is {lo:g}; a learning rate cannot be below 0")
    if lo > hi:
        raise TableError(f"{label}: lo {lo:g} is above hi {hi:g}; are the columns swapped?")
    if best <= 0:
        raise TableError(f"{label}: the optimum max_lr is {best:g}; it must be above 0")
    if not lo <= best <= hi:
        raise TableError(f"{label}: the optimum max_lr {best:g} is outside its interval [{lo:g}, {hi:g}]")


def _flags(columns: Mapping[str, list[Any]], column: str, order: Any, labels: Sequence[str]) -> tuple[bool, ...] | None:
    if column not in columns:
        return None
    for value, label in zip(columns[column], labels, strict=True):
        if value not in (0, 1):  # which False and True equal
            raise TableError(f"{label}: {column} is {value!r}; true or false is needed")
    return tuple(bool(columns[column][position]) for position in order)


def _mean(columns: Mapping[str, list[Any]], column: str, labels: Sequence[str]) -> int | None:
    if column not in columns:
        return None
    numbers = [_number(value, column, label) for value, label in zip(columns[column], labels, strict=True)]
    for number, label in zip(numbers, labels, strict=True):
        if number < 1 or number != int(number):
            raise TableError(f"{label}: {column} is {number:g}; a whole number from 1 on is needed")
    return round(math.fsum(numbers) / len(numbers))
