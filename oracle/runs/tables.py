"""What a run's folder holds, and the only code that reads and writes its tables.

    experiment.yaml                          what is held fixed
    settings.json                            how it is computed: chosen once, read back by every later run
    oracle.parquet                           one row a cycle, rewritten after every cycle
    trials/cycle=003/*.parquet               one file a commit; one file in all once the cycle is finished
    winners/cycle=003/seed=0.safetensors     the trained network at the optimum, with its masks
    diagnostics/cycle=003/seed=0.parquet     what its gradients and activations look like, where that is asked for
    parents/, weights/, checkpoints/         of the cycle under way; gone when it is finished
    attempts/cycle=003/*.json                who trained what, one small file a start

A trial is done when its row can be read. Reading changes nothing; a search sets rows that cannot be read aside, and does
their trials again.
"""

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from oracle.errors import FolderError
from oracle.experiment import Experiment, experiment_from_yaml
from oracle.storage import Folder

VERSION = "1"
UNITS = {
    "max_lr": "learning rate, peak of the cycle's schedule",
    "lo": "learning rate",
    "hi": "learning rate",
    "weights_remaining": "fraction of prunable weights, before training",
    "val_accuracy": "fraction of validation images",
    "test_accuracy": "fraction of test images, at the best validation epoch",
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
        pa.field("val_accuracy", pa.float64()),  # null if diverged, and so are the next five
        pa.field("val_loss", pa.float64()),
        pa.field("test_accuracy", pa.float64()),
        pa.field("best_epoch", pa.int64()),  # from 0
        pa.field("val_correct", pa.binary()),  # one bit a validation image, numpy.packbits
        pa.field("seconds", pa.float64()),
        pa.field("lineage", pa.string(), nullable=False),  # which optima its parent came from: `lineage`
        pa.field("commit", pa.string(), nullable=False),  # names the file of its final weights
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
    ]
)


def read_trials(out: str | Path | Folder) -> pa.Table:
    """All trials of a run that belong to its chain, one row each, by cycle, max_lr and seed. Columns: `TRIALS`.

    Raises FolderError where `out` holds no run, or its oracle.parquet cannot be read.
    """
    folder = _opened(out)
    chain = lineages(oracle_rows(folder))
    tables = [trials_of_cycle(folder, cycle, lineage) for cycle, lineage in enumerate(chain)]
    return pa.concat_tables(tables)


def read_oracle(out: str | Path | Folder) -> pa.Table:
    """The optimum and interval of every finished cycle, by cycle. Columns: `ORACLE`.

    Schema metadata: version, name, experiment (its hash), pruning_rate, tolerance, units. No rows before the first cycle
    is finished. Raises FolderError where `out` holds no run, or its oracle.parquet cannot be read.
    """
    folder = _opened(out)
    return pa.Table.from_pylist(oracle_rows(folder), schema=ORACLE.with_metadata(_describe(read_experiment(folder))))


def read_experiment(folder: Folder) -> Experiment:
    """The experiment that a folder holds. Raises FolderError where it holds none."""
    content = folder.read("experiment.yaml")
    if content is None:
        raise FolderError(
            f"{folder.url}: holds no Oracle run (no experiment.yaml); `oracle search ... --out` makes one"
        )
    return experiment_from_yaml(content.decode(errors="replace"), where=folder / "experiment.yaml")


def lineage(optima: Sequence[float]) -> str:
    """Names the parents of cycle len(optima): they depend on every optimum before, so a trial is valid for one chain."""
    return hashlib.sha256(repr([float(rate) for rate in optima]).encode()).hexdigest()[:12]


def lineages(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lineage of every cycle that may have trials: the finished ones and the one after."""
    optima = [row["max_lr"] for row in rows]
    return [lineage(optima[:cycle]) for cycle in range(len(optima) + 1)]


def cycle_folder(kind: str, cycle: int) -> str:
    """Where one cycle's files of a kind lie."""
    return f"{kind}/cycle={cycle:03d}"


def commit_trials(folder: Folder, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one commit of trials, all of one cycle: once this returns, they are done."""
    [cycle] = {row["cycle"] for row in rows}
    name = f"{cycle_folder('trials', cycle)}/{rows[0]['commit']}-{secrets.token_hex(4)}.parquet"
    folder.write(name, to_parquet(pa.Table.from_pylist(list(rows), schema=TRIALS)))


def trials_of_cycle(folder: Folder, cycle: int, chain: str) -> pa.Table:
    """The trials of one cycle and lineage, one row each, by max_lr and seed."""
    return _of_chain((table for _, table in _trial_files(folder, cycle) if table is not None), chain)


def _of_chain(tables: Iterable[pa.Table], chain: str) -> pa.Table:
    table = pa.concat_tables([TRIALS.empty_table(), *tables])
    table = table.filter(pc.equal(table["lineage"], chain))
    table = table.sort_by(
        [("max_lr", "ascending"), ("seed", "ascending"), ("commit", "ascending"), ("seconds", "ascending")]
    )
    keys = list(zip(table["max_lr"].to_pylist(), table["seed"].to_pylist(), strict=True))
    first = [index for index, key in enumerate(keys) if index == 0 or key != keys[index - 1]]
    return table.take(pa.array(first, pa.int64()))


def done_trials(folder: Folder, cycle: int, chain: str) -> set[tuple[int, float]]:
    """(seed, max_lr) of every trial of a cycle and lineage that needs no training any more."""
    table = trials_of_cycle(folder, cycle, chain)
    return set(zip(table["seed"].to_pylist(), table["max_lr"].to_pylist(), strict=True))


def set_aside(folder: Folder, cycle: int) -> list[str]:
    """Rename a cycle's commits that cannot be read, so that they are seen and never read again. Returns their names."""
    names = [name for name, table in _trial_files(folder, cycle) if table is None]
    for name in names:
        folder.write(f"{name}.unreadable", folder.read(name) or b"")
        folder.delete(name)
    return names


def merge_trials(folder: Folder, cycle: int, chain: str) -> None:
    """Put a finished cycle's rows into one file. Rows of other lineages are of no more use and go."""
    files = {name: table for name, table in _trial_files(folder, cycle) if table is not None}
    content = to_parquet(_of_chain(files.values(), chain))
    # Named by what it holds: two processes that merge at once write over nothing, and delete what they have read alone.
    digest = hashlib.sha256(content).hexdigest()[:10]
    merged = f"{cycle_folder('trials', cycle)}/merged-{chain}-{digest}.parquet"
    if list(files) == [merged]:
        return
    folder.write(merged, content)
    for name in files:
        if name != merged:
            folder.delete(name)


def oracle_rows(folder: Folder) -> list[dict[str, Any]]:
    """The rows of oracle.parquet; none where it is missing. FolderError where it cannot be read."""
    content = folder.read("oracle.parquet")
    if content is None:
        return []
    table = from_parquet(content, ORACLE, where=folder / "oracle.parquet")
    if table is None:
        raise FolderError(
            f"{folder / 'oracle.parquet'}: is not a whole Parquet file; run the same search again: it is made anew from "
            "the trials"
        )
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def write_oracle(folder: Folder, experiment: Experiment, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rewrite oracle.parquet."""
    table = pa.Table.from_pylist(list(rows), schema=ORACLE.with_metadata(_describe(experiment)))
    folder.write_if_changed("oracle.parquet", to_parquet(table))
    return table


def note_attempt(folder: Folder, cycle: int, attempt: Mapping[str, Any]) -> None:
    """Leave a trace of a training's start: who, where, which trials, from which epoch."""
    name = f"{cycle_folder('attempts', cycle)}/{attempt['commit']}-{secrets.token_hex(4)}.json"
    folder.write(name, json.dumps(attempt).encode())


def attempts(folder: Folder) -> list[dict[str, Any]]:
    """All starts of trainings, by file name."""
    contents = (folder.read(name) for name in folder.names("attempts"))
    return [json.loads(content) for content in contents if content]


def _opened(out: str | Path | Folder) -> Folder:
    folder = out if isinstance(out, Folder) else Folder(out)
    read_experiment(folder)
    return folder


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


def _trial_files(folder: Folder, cycle: int) -> list[tuple[str, pa.Table | None]]:
    """Every commit of a cycle by its name, None for one that is not whole.

    Another process may merge them meanwhile, so it is listed until that shows nothing new; a name never changes its
    content.
    """
    contents: dict[str, bytes | None] = {}
    listed: list[str] | None = None
    while listed != (names := folder.names(cycle_folder("trials", cycle))):
        listed = names
        contents |= {name: folder.read(name) for name in names if name.endswith(".parquet") and name not in contents}
    return [
        (name, from_parquet(content, TRIALS, where=folder / name))
        for name, content in contents.items()
        if content is not None
    ]


def to_parquet(table: pa.Table) -> bytes:
    """A table as a Parquet file's bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def from_parquet(content: bytes, schema: pa.Schema, *, where: str) -> pa.Table | None:
    """The table in this schema, or None where the bytes are not a whole Parquet file.

    A column that an older version did not know is null. FolderError, naming `where`, where one is missing that cannot be
    null, or is of another type.
    """
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError, ValueError):
        return None
    for field in schema:
        if field.name not in table.column_names and field.nullable:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise FolderError(
            f"{where}: its columns are not those of this version of silo-oracle ({str(error).splitlines()[0]}); read it "
            "with the version that wrote it"
        ) from None
