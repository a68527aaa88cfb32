"""The tables of a run: their columns, units and bytes; and oracle.parquet, one row a cycle, rewritten after each."""

import contextlib
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from oracle.errors import FolderError
from oracle.experiment import Experiment
from oracle.storage import Folder

VERSION = "1"
UNITS = {
    "max_lr": "learning rate, peak of the cycle's schedule",
    "lo": "learning rate",
    "hi": "learning rate",
    "weights_remaining": "fraction of prunable weights, before training",
    "val_accuracy": "fraction of validation images",
    "test_accuracy": "fraction of test images, at the best validation epoch",
    "val_accuracy_curve": "fraction of validation images, expected of more seeds",
    "curve": "fraction of validation images, expected of more seeds",
    "seed_se_lo": "fraction of validation images, as are all se",
    "p_within": "probability",
    "val_loss": "nats an image",
    "seconds": "wall seconds; a trial's share of its pack",
}

TRIALS = pa.schema(
    [
        pa.field("cycle", pa.int64(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("max_lr", pa.float64(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),  # finished | diverged
        pa.field("weights_remaining", pa.float64(), nullable=False),
        pa.field("val_accuracy", pa.float64()),  # null if diverged, and so are the next four, and *_correct
        pa.field("val_loss", pa.float64()),
        pa.field("test_accuracy", pa.float64()),
        pa.field("best_epoch", pa.int64()),  # from 0
        pa.field("val_correct", pa.binary()),  # one bit a validation image, numpy.packbits
        pa.field("seconds", pa.float64()),
        pa.field("lineage", pa.string(), nullable=False),  # where its parent came from: `lineage.Lineages`
        pa.field("commit", pa.string(), nullable=False),  # names the file of its final weights
        pa.field("test_correct", pa.binary()),  # as val_correct, at the best epoch; null in rows of versions without it
    ]
)

ORACLE = pa.schema(
    [
        pa.field("cycle", pa.int64(), nullable=False),
        pa.field("weights_remaining", pa.float64()),
        pa.field("num_candidates", pa.int64()),
        pa.field("num_seeds", pa.int64()),
        pa.field("max_lr", pa.float64(), nullable=False),
        pa.field("lo", pa.float64(), nullable=False),
        pa.field("hi", pa.float64(), nullable=False),
        pa.field("lo_on_edge", pa.bool_(), nullable=False),
        pa.field("hi_on_edge", pa.bool_(), nullable=False),
        pa.field("optimum_on_edge", pa.bool_()),
        pa.field("holes", pa.int64()),
        pa.field("num_diverged", pa.int64()),
        pa.field("val_accuracy", pa.float64()),
        pa.field("val_accuracy_std", pa.float64()),
        pa.field("val_loss", pa.float64()),
        pa.field("test_accuracy", pa.float64()),
        pa.field("test_accuracy_std", pa.float64()),
        pa.field("seconds", pa.float64()),
        pa.field("num_incomplete", pa.int64()),  # candidates that lack a seed; written only where there are any
        pa.field("lo_outside", pa.float64()),  # the next candidates beyond the interval; null where there are none, and
        pa.field("hi_outside", pa.float64()),  # in runs of versions that did not say
        pa.field("num_seeds_added", pa.int64()),  # of num_seeds; they trained only candidates in doubt
        # What `oracle.search.certainty.estimate_interval` says: null where it was not asked (one rate, versions before).
        pa.field("curve_max_lr", pa.float64()),
        pa.field("curve_lo", pa.float64()),
        pa.field("curve_hi", pa.float64()),
        pa.field("lo_possible", pa.float64()),
        pa.field("lo_sure", pa.float64()),  # null where nothing is sure, and so is hi_sure
        pa.field("hi_sure", pa.float64()),
        pa.field("hi_possible", pa.float64()),
        pa.field("lo_open", pa.bool_()),
        pa.field("hi_open", pa.bool_()),
        pa.field("p_optimum_within", pa.float64()),  # of curve_max_lr
        pa.field("val_accuracy_curve", pa.float64()),
        pa.field("val_accuracy_curve_std", pa.float64()),
        pa.field("seed_se_lo", pa.float64()),
        pa.field("image_se_lo", pa.float64()),
        pa.field("seed_se_hi", pa.float64()),
        pa.field("image_se_hi", pa.float64()),
        pa.field("evidence", pa.string()),  # assumed | low | measured
    ]
)
ESTIMATED = tuple(ORACLE.names[ORACLE.get_field_index("curve_max_lr") :])  # they decide nothing of a grid search

P_WITHIN = pa.schema(
    [
        pa.field("cycle", pa.int64(), nullable=False),
        pa.field("max_lr", pa.float64(), nullable=False),  # a candidate, tried or not
        pa.field("p_within", pa.float64(), nullable=False),  # the probability that it is in the cycle's interval
        pa.field("curve", pa.float64(), nullable=False),
        pa.field("curve_std", pa.float64(), nullable=False),
    ]
)
Row = dict[str, Any]  # one of oracle.parquet, as plain values
SILENT_AT_0 = ("num_incomplete",)  # left out of a file in which no row has any: the same search keeps its bits


def oracle_rows(folder: Folder) -> list[Row]:
    """The rows of oracle.parquet; none where it is missing. FolderError where it is damaged."""
    content = folder.read("oracle.parquet")
    if content is None:
        return []
    table = from_parquet(content, ORACLE, where=folder / "oracle.parquet")
    cycles = None if table is None else table["cycle"].to_pylist()
    if table is None or cycles != list(range(len(table))):
        what = "is not a whole Parquet file" if table is None else f"expected one row a cycle from 0 on, found {cycles}"
        raise FolderError(
            f"{folder / 'oracle.parquet'}: {what}; run the same search again: it is made anew from the trials"
        )
    return [row | {name: row[name] or 0 for name in SILENT_AT_0} for row in table.to_pylist()]


def p_within_rows(folder: Folder) -> list[Row]:
    """The rows of p_within.parquet; none where it is missing or damaged: it can be made anew from the trials."""
    content, table = folder.read("p_within.parquet"), None
    with contextlib.suppress(FolderError):
        table = None if content is None else from_parquet(content, P_WITHIN, where=folder / "p_within.parquet")
    return [] if table is None else table.to_pylist()


def write_p_within(folder: Folder, experiment: Experiment, rows: Sequence[Row]) -> None:
    """Rewrite p_within.parquet."""
    table = pa.Table.from_pylist(list(rows), schema=P_WITHIN.with_metadata(_describe(experiment)))
    folder.write_if_changed("p_within.parquet", to_parquet(table))


def oracle_hash(folder: Folder) -> str | None:
    """The hash of the experiment that wrote oracle.parquet; None where that cannot be told."""
    content = folder.read("oracle.parquet")
    try:
        found = None if content is None else pq.read_schema(pa.BufferReader(content)).metadata
    except (pa.ArrowException, OSError, ValueError):
        return None
    return None if not found or b"experiment" not in found else found[b"experiment"].decode(errors="replace")


def is_finished(folder: Folder, experiment: Experiment) -> bool:
    """Whether oracle.parquet has every cycle of this experiment, with these seeds. FolderError where it is damaged."""
    return len(oracle_rows(folder)) == experiment.pruning.cycles + 1 and oracle_hash(folder) == experiment.hash


def oracle_row(fields: Mapping[str, Any]) -> Row:
    """A row with all columns of oracle.parquet, as it will be read back; those left out are None.

    ValueError where it cannot be one: an unknown or missing column, a value of another type, a number that is not finite,
    or an optimum outside its interval.
    """
    unknown = sorted(set(fields) - set(ORACLE.names))
    if unknown:
        raise ValueError(f"unknown: {', '.join(unknown)}")
    try:
        table = pa.Table.from_pylist([dict(fields)], schema=ORACLE)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise ValueError(str(error).splitlines()[0]) from None
    row: Row = table.to_pylist()[0]
    missing = [field.name for field in ORACLE if not field.nullable and row[field.name] is None]
    if missing:
        raise ValueError(f"missing: {', '.join(missing)}")
    if any(isinstance(value, float) and not math.isfinite(value) for value in row.values()):
        raise ValueError("a number is not finite")
    if not 0 < row["lo"] <= row["max_lr"] <= row["hi"]:
        raise ValueError(f"max_lr {row['max_lr']:g} is not within [{row['lo']:g}, {row['hi']:g}]")
    return row | {name: row[name] or 0 for name in SILENT_AT_0}


def write_oracle(folder: Folder, experiment: Experiment, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rewrite oracle.parquet."""
    table = oracle_table(experiment, rows)
    silent = [name for name in SILENT_AT_0 if not any(row.get(name) for row in rows)]
    folder.write_if_changed("oracle.parquet", to_parquet(table.drop_columns(silent)))
    return table


def oracle_table(experiment: Experiment, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as oracle.parquet has them. Metadata: version, name, experiment (its hash), pruning_rate, tolerance, units."""
    return pa.Table.from_pylist(list(rows), schema=ORACLE.with_metadata(_describe(experiment)))


def to_parquet(table: pa.Table) -> bytes:
    """A table as a Parquet file's bytes, with a checksum of all of them in its footer."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_CHECKSUM: _UNKNOWN})
    content = bytes(sink.getvalue())
    return _with_checksum(content, _UNKNOWN, hashlib.sha256(content).hexdigest())


def from_parquet(content: bytes, schema: pa.Schema, *, where: str) -> pa.Table | None:
    """The table in this schema, or None where the bytes are not a whole Parquet file, or not those that were written.

    Files of versions that wrote no checksum are read as they are; a column that such a version did not know is null.
    FolderError, naming `where`, where one is missing that cannot be null, or is of another type.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(content))  # pq.read_table takes four times as long for a small one
        if not _is_as_written(content, file.metadata.metadata or {}):
            return None
        table = file.read()
        names = table.column_names
    except (pa.ArrowException, OSError, ValueError):
        return None
    for field in schema:
        if field.name not in names and field.nullable:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise FolderError(
            f"{where}: its columns are not those of this version of silo-oracle ({str(error).splitlines()[0]}); read it "
            "with the version that wrote it"
        ) from None


_CHECKSUM = "sha256"
_UNKNOWN = "0" * 64  # stands in the checksum's place while it is taken


def _is_as_written(content: bytes, footer: Mapping[bytes, bytes]) -> bool:
    written = footer.get(_CHECKSUM.encode())
    if written is None:
        return True
    blank = _with_checksum(content, written.decode(), _UNKNOWN)
    return hashlib.sha256(blank).hexdigest() == written.decode()


def _with_checksum(content: bytes, old: str, new: str) -> bytes:
    place = content.rindex(old.encode())  # the footer is the last of the file
    return content[:place] + new.encode() + content[place + len(old) :]


def _describe(experiment: Experiment) -> dict[bytes, bytes]:
    fields = {
        "version": VERSION,
        "name": experiment.name,
        "experiment": experiment.hash,
        "pruning_rate": repr(experiment.pruning.rate),
        "tolerance": repr(experiment.tolerance),
        "units": json.dumps(UNITS),
    }
    return {key.encode(): value.encode() for key, value in fields.items()}
