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
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from oracle.runs.decisions import Decision, Pair
from oracle.runs.tables import TRIALS, from_parquet, to_parquet
from oracle.storage import Folder

UNDER_WAY = ("weights", "checkpoints", "parents")  # of no use once a cycle is finished


def lineage(optima: Sequence[float]) -> str:
    """Names the parents of cycle len(optima): they depend on every optimum before, so a trial is valid for one chain."""
    return hashlib.sha256(repr([float(rate) for rate in optima]).encode()).hexdigest()[:12]


def lineages(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lineage of every cycle that may have trials: those of oracle.parquet's rows, and the one after."""
    optima = [row["max_lr"] for row in rows]
    return [lineage(optima[:cycle]) for cycle in range(len(optima) + 1)]


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
    lineage: str  # of the optima before this cycle; rows and networks of another chain are not seen

    def path(self, kind: str, name: str = "") -> str:
        """Where the cycle's files of a kind lie, or one of them."""
        return f"{kind}/cycle={self.cycle:03d}" + (f"/{name}" if name else "")

    def trials(self) -> pa.Table:
        """The cycle's trials, one row each, by max_lr and seed. Columns: `TRIALS`."""
        return self._own(table for table in self._commits().values() if table is not None)

    def unreadable(self) -> list[str]:
        """Names of commits that are not whole."""
        return [name for name, table in self._commits().items() if table is None]

    def set_aside(self, name: str) -> None:
        """Rename a commit that cannot be read, so that it is seen and never read again."""
        self.folder.write(f"{name}.unreadable", self.folder.read(name) or b"")
        self.folder.delete(name)

    def commit(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write one commit of trials: once this returns, they are done."""
        assert {row["cycle"] for row in rows} == {self.cycle}
        name = self.path("trials", f"{rows[0]['commit']}-{secrets.token_hex(4)}.parquet")
        self.folder.write(name, to_parquet(pa.Table.from_pylist(list(rows), schema=TRIALS)))

    def merge_trials(self) -> None:
        """Put a finished cycle's rows into one file. Rows of other chains are of no more use and go."""
        commits = {name: table for name, table in self._commits().items() if table is not None}
        content = to_parquet(self._own(commits.values()))
        # Named by what it holds: two processes that merge at once write over nothing, and delete what they have read alone.
        digest = hashlib.sha256(content).hexdigest()[:10]
        merged = self.path("trials", f"merged-{self.lineage}-{digest}.parquet")
        if list(commits) == [merged]:
            return
        self.folder.write(merged, content)
        for name in commits:
            if name != merged:
                self.folder.delete(name)

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

    def _own(self, tables: Iterable[pa.Table]) -> pa.Table:
        table = pa.concat_tables([TRIALS.empty_table(), *tables])
        table = table.filter(pc.equal(table["lineage"], self.lineage))
        table = table.sort_by(
            [("max_lr", "ascending"), ("seed", "ascending"), ("commit", "ascending"), ("seconds", "ascending")]
        )
        pairs = pairs_of(table)
        first = [index for index, pair in enumerate(pairs) if index == 0 or pair != pairs[index - 1]]
        return table.take(pa.array(first, pa.int64()))

    def _commits(self) -> dict[str, pa.Table | None]:
        """Every commit by its name, None for one that is not whole.

        Another process may merge them meanwhile, so it is listed until that shows nothing new; a name never changes its
        content.
        """
        contents: dict[str, bytes | None] = {}
        listed: list[str] | None = None
        while listed != (names := self.folder.names(self.path("trials"))):
            listed = names
            commits = [name for name in names if name.endswith(".parquet") and name not in contents]
            contents |= {name: self.folder.read(name) for name in commits}
        return {
            name: from_parquet(content, TRIALS, where=self.folder / name)
            for name, content in contents.items()
            if content is not None
        }
