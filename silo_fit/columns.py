"""What a table's columns hold: every value is checked, and refused with its cycle and its column."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from oracle.errors import TableError
from silo_fit.curve import Floats

Columns = Mapping[str, list[Any]]


def columns_of(table: Any) -> dict[str, list[Any]]:
    """The columns of a DataFrame or an Arrow table by name. TableError for anything else, and for a name used twice."""
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


def number(value: Any, column: str, label: str) -> float:
    """A value as a number. TableError where it is none, or not finite; `label`: its cycle in words."""
    where = f"{label}: {column}" if label else column
    if isinstance(value, str | bytes):
        raise TableError(f"{where} is the text {value!r}; a number is needed")
    if is_missing(value):
        raise TableError(f"{where} is missing or NaN; a number is needed")
    if not hasattr(value, "__float__"):
        raise TableError(f"{where} is {value!r}; a number is needed")
    if isinstance(value, bool | np.bool_):
        raise TableError(f"{where} is {value}; a number is needed")
    found = float(value)
    if not math.isfinite(found):
        raise TableError(f"{where} is {'missing or NaN' if math.isnan(found) else 'infinite'}; a number is needed")
    return found


def flags(columns: Columns, column: str, order: Any, labels: Sequence[str]) -> tuple[bool, ...] | None:
    """A column of true and false, in the order of the cycles; None where there is none."""
    if column not in columns:
        return None
    for value, label in zip(columns[column], labels, strict=True):
        if value not in (0, 1):  # which False and True equal
            raise TableError(f"{label}: {column} is {value!r}; true or false is needed")
    return tuple(bool(columns[column][position]) for position in order)


def is_missing(value: Any) -> bool:
    """Whether a table holds nothing there: None, NaN, and what pandas says for them."""
    return type(value).__name__ in {"NoneType", "NAType", "NaTType"} or (
        isinstance(value, float | np.floating) and math.isnan(value)
    )


def numbers_or_nan(columns: Columns, column: str, order: Any, labels: Sequence[str]) -> Floats | None:
    """A column of numbers in the order of the cycles, NaN where one is missing; None where there is no such column."""
    if column not in columns:
        return None
    values = zip(columns[column], labels, strict=True)
    found = [math.nan if is_missing(value) else number(value, column, label) for value, label in values]
    return np.array([found[position] for position in order], dtype=float)


def mean_count(columns: Columns, column: str, labels: Sequence[str]) -> int | None:
    """The mean of a column of whole numbers from 1 on, rounded; None where none is known."""
    if column not in columns or all(map(is_missing, columns[column])):
        return None
    numbers = [number(value, column, label) for value, label in zip(columns[column], labels, strict=True)]
    for count, label in zip(numbers, labels, strict=True):
        if count < 1 or count != int(count):
            raise TableError(f"{label}: {column} is {count:g}; a whole number from 1 on is needed")
    return round(math.fsum(numbers) / len(numbers))
