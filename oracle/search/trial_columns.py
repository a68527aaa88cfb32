"""Trials as columns of plain values, whatever table they come in."""

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from oracle.errors import TableError

REQUIRED = ("cycle", "seed", "max_lr", "outcome", "val_accuracy", "val_loss")


def trial_columns(trials: Any) -> dict[str, list[Any]]:
    """A pyarrow Table, a DataFrame, a mapping of columns or a sequence of rows as lists.

    TableError where one of `REQUIRED` is missing.
    """
    columns: dict[str, list[Any]]
    if hasattr(trials, "to_pydict"):  # pyarrow
        columns = trials.to_pydict()
    elif hasattr(trials, "to_dict"):  # pandas
        columns = trials.to_dict("list")
    elif isinstance(trials, Mapping):
        columns = {name: list(values) for name, values in trials.items()}
    else:
        rows: Sequence[Mapping[str, Any]] = list(trials) if isinstance(trials, Iterable) else [trials]
        if not rows:
            raise TableError("expected trials, found none")
        if not all(isinstance(row, Mapping) for row in rows):
            raise TableError("trials must be a table, or rows that are mappings of column to value")
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: [row.get(name) for row in rows] for name in names}
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise TableError(f"trials lack the column {', '.join(missing)}; expected {', '.join(REQUIRED)}")
    return columns


def trials_by_rate(columns: Mapping[str, list[Any]]) -> dict[float, dict[int, tuple[str, float, float]]]:
    """Outcome, validation accuracy and loss by max_lr and seed. TableError where one of them cannot be."""
    rows = zip(*(columns[name] for name in REQUIRED), strict=True)
    by_rate: dict[float, dict[int, tuple[str, float, float]]] = {}
    for cycle, seed, max_lr, outcome, accuracy, loss in rows:
        if not (isinstance(max_lr, Real) and 0 < float(max_lr) < math.inf):
            raise TableError(f"cycle {cycle}, seed {seed}: max_lr must be a number above 0, found {max_lr!r}")
        if isinstance(seed, bool) or not isinstance(seed, Integral | float) or seed != seed // 1:
            raise TableError(f"cycle {cycle}, max_lr {max_lr:g}: seed must be a whole number, found {seed!r}")
        seeds = by_rate.setdefault(float(max_lr), {})
        if seed in seeds:
            raise TableError(f"cycle {cycle}, max_lr {max_lr:g}: seed {seed} is there twice")
        if outcome not in ("finished", "diverged"):
            raise TableError(f"max_lr {max_lr:g}, seed {seed}: outcome must be finished or diverged, found {outcome!r}")
        if outcome == "finished" and not (isinstance(accuracy, Real) and 0 <= float(accuracy) <= 1):
            raise TableError(f"max_lr {max_lr:g}, seed {seed}: val_accuracy must be in [0, 1], found {accuracy!r}")
        if outcome == "finished" and not (isinstance(loss, Real) and math.isfinite(loss)):
            raise TableError(f"max_lr {max_lr:g}, seed {seed}: val_loss must be a number, found {loss!r}")
        seeds[int(seed)] = (outcome, accuracy, loss)
    return by_rate
