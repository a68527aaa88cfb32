"""One cycle of a run: where its files lie, its trials, what was decided of it.

    trials/cycle=003/*.parquet               one file a commit; one file in all once the cycle is finished
    decisions/cycle=003.json                 the rounds that were asked for, and the row that was chosen
    winners/cycle=003/seed=0.safetensors     the trained network at the optimum, with its masks
    diagnostics/cycle=003/seed=0.parquet     what its gradients and activations look like, where that is asked for
    parents/, weights/, checkpoints/         of the cycle under way; gone when it is finished
    attempts/cycle=003/*.json                who trained what, one small file a start

A trial is done when its row can be read. Reading changes nothing.
"""

import hashlib
import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from oracle.runs.decisions import Decision, Pair
from oracle.runs.lineage import merged_name
from oracle.runs.tables import TRIALS, from_parquet, to_parquet
from oracle.storage import Folder

UNDER_WAY = ("weights", "checkpoints", "parents")  # of no use once a cycle is finished


def pairs_of(trials: pa.Table) -> list[Pair]:
    """(max_lr, seed) of every row."""
    return list(zip(trials["max_lr"].to_pylist(), trials["seed"].to_pylist(), strict=True))


def only(trials: pa.Table, pairs: Collection[Pair]) -> pa.Table:
    """The rows of these trials of one cycle."""
    wanted = set(pairs)
    return trials.filter(pa.array([pair in wanted for pair in pairs_of(trials)], pa.bool_()))


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleStore:
    """What a run's folder holds of one cycle, along one chain of optima."""

    folder: Folder
    cycle: int
    lineage: str  # `Lineages.after` the optima before this cycle; rows and networks of another chain are not seen

    def path(self, kind: str, name: str = "") -> str:
        """Where the cycle's files of a kind lie, or one of them."""
        return f"{kind}/cycle={self.cycle:03d}" + (f"/{name}" if name else "")

    def trials(self) -> pa.Table:
        """The cycle's trials, one row each, by max_lr and seed. Columns: `TRIALS`."""
        return Commits(self).look().trials()

    def commits_but(self, known: Collection[str]) -> set[str]:
        """What trials were committed as (their column `commit`), by the names of all files but the known ones."""
        names = set(self.folder.names(self.path("trials"))) - set(known)
        return {name.rpartition("/")[2].rpartition("-")[0] for name in names if name.endswith(".parquet")}

    def commit(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write one commit of trials: once this returns, they are done."""
        assert {row["cycle"] for row in rows} == {self.cycle}
        name = self.path("trials", f"{rows[0]['commit']}-{secrets.token_hex(4)}.parquet")
        self.folder.write(name, to_parquet(pa.Table.from_pylist(list(rows), schema=TRIALS)))

    def read_decision(self, basis: Mapping[str, Any]) -> Decision:
        """What was decided of the cycle for `basis`; nothing yet where that is missing, damaged, or for something else."""
        content = self.folder.read(self._decision)
        found = Decision.from_json(content) if content is not None else None
        whole = {**basis, "lineage": self.lineage}
        if found is None or found.basis != whole or (found.row is not None and found.row["cycle"] != self.cycle):
            return Decision(basis=whole)
        return found

    def write_decision(self, decision: Decision) -> None:
        """Keep a decision: before it is acted on."""
        self.folder.write_if_changed(self._decision, decision.to_json())

    def note_attempt(self, attempt: Mapping[str, Any]) -> None:
        """Leave a trace of a training's start: who, where, which trials, from which epoch."""
        name = self.path("attempts", f"{attempt['commit']}-{secrets.token_hex(4)}.json")
        self.folder.write(name, json.dumps(attempt).encode())

    def clean(self) -> None:
        """Remove what only a cycle under way needs."""
        for kind in UNDER_WAY:
            self.folder.delete_below(self.path(kind))

    @property
    def _decision(self) -> str:
        return f"decisions/cycle={self.cycle:03d}.json"


class Commits:
    """A cycle's commits as they were read: a name never changes its content, so each is read once."""

    def __init__(self, store: CycleStore) -> None:
        """Nothing is read before the first look."""
        self._store = store
        self._tables: dict[str, pa.Table] = {}
        self._unreadable: set[str] = set()
        self._trials: pa.Table | None = None  # of what was read

    def look(self) -> Self:
        """Read what is new."""
        # Another process may merge them meanwhile, so they are listed until that shows nothing new.
        listed: list[str] | None = None
        while listed != (names := self._store.folder.names(self._store.path("trials"))):
            listed = names
            for name in names:
                if name.endswith(".parquet") and name not in self._tables and name not in self._unreadable:
                    self._read(name)
        return self

    def trials(self) -> pa.Table:
        """The rows of the chain as of the last look, one each, by max_lr and seed. Columns: `TRIALS`."""
        if self._trials is None:
            self._trials = _one_each(
                pa.concat_tables([TRIALS.empty_table(), *self._tables.values()]), self._store.lineage
            )
        return self._trials

    def set_unreadable_aside(self) -> list[str]:
        """Rename the commits that are not whole. Returns their names."""
        names = sorted(self._unreadable)
        for name in names:
            self._store.folder.set_aside(name)
        self._unreadable.clear()
        return names

    def merge(self) -> None:
        """Put a finished cycle's rows into one file. Rows of other chains are of no more use and go."""
        content = to_parquet(self.trials())
        # Named by what it holds: two processes that merge at once write over nothing, and delete what they have read alone.
        digest = hashlib.sha256(content).hexdigest()[:10]
        merged = self._store.path("trials", merged_name(self._store.lineage, digest))
        if list(self._tables) == [merged]:
            return
        self._store.folder.write(merged, content)
        for name in self._tables:
            if name != merged:
                self._store.folder.delete(name)

    def _read(self, name: str) -> None:
        content = self._store.folder.read(name)
        if content is None:
            return  # merged meanwhile
        table = from_parquet(content, TRIALS, where=self._store.folder / name)
        if table is None:
            self._unreadable.add(name)
        else:
            self._tables[name], self._trials = table, None


def _one_each(trials: pa.Table, lineage: str) -> pa.Table:
    """One row a trial of the chain, by max_lr and seed: the first of those that were trained twice."""
    trials = trials.filter(pc.equal(trials["lineage"], lineage))
    trials = trials.sort_by(
        [("max_lr", "ascending"), ("seed", "ascending"), ("commit", "ascending"), ("seconds", "ascending")]
    )
    pairs = pairs_of(trials)
    first = [index for index, pair in enumerate(pairs) if index == 0 or pair != pairs[index - 1]]
    return trials if len(first) == len(pairs) else trials.take(pa.array(first, pa.int64()))
