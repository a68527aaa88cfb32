"""Which chain a trial belongs to: its experiment, and the optima before its cycle.

A trial counts where its parent came from the same experiment along the same optima. Every row, parent and winner carries
the name of its chain, so that what another chain left is never taken for one's own.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oracle.errors import FolderError
from oracle.experiment import Experiment
from oracle.runs.tables import TRIALS, from_parquet
from oracle.storage import Folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineages:
    """Names the parents of every cycle of a run."""

    experiment: Experiment | None  # None: the run was begun by 0.1.0, which named them by their optima alone

    def after(self, optima: Sequence[float]) -> str:
        """Of the parents of cycle len(optima), which depend on every optimum before."""
        return self._name(optima, cycle=len(optima))

    def of_winners(self, optima: Sequence[float]) -> str:
        """Of the winners of the last of these optima's cycles. Peaks of later cycles, which may be added, take no part."""
        return self._name(optima, cycle=len(optima) - 1)

    def of_added_seeds(self, lineage: str) -> str:
        """Of what seeds train at this lineage's cycle that are added at a later one."""
        return hashlib.sha256(f"{lineage} added".encode()).hexdigest()[:12]

    def of(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Of every cycle that may have trials: those of oracle.parquet's rows, and the one after."""
        optima = [row["max_lr"] for row in rows]
        return [self.after(optima[:cycle]) for cycle in range(len(optima) + 1)]

    def _name(self, optima: Sequence[float], *, cycle: int) -> str:
        known = [] if self.experiment is None else [json.dumps(comparable(self.experiment, cycle), sort_keys=True)]
        text = "".join([*known, repr([float(rate) for rate in optima])])
        return hashlib.sha256(text.encode()).hexdigest()[:12]


AS_IN_0_1_0 = Lineages(experiment=None)


def comparable(experiment: Experiment, cycle: int) -> dict[str, Any]:
    """An experiment's identity up to a cycle, without what a run may have more of: seeds, cycles and their peaks."""
    fields = experiment.identity()
    fields.pop("seeds")
    fields["pruning"].pop("cycles")
    if "peaks" in fields:
        last = min(cycle, experiment.pruning.cycles)
        fields["peaks"] = [experiment.candidates(earlier)[0] for earlier in range(last + 1)]
    return fields


def lineages_of(folder: Folder, experiment: Experiment) -> Lineages:
    """How a folder names the chains of its run: as version 0.1.0 did where that began it.

    FolderError where its trials are of another experiment.
    """
    told, own = first_lineages(folder), Lineages(experiment=experiment)
    if not told or own.after([]) in told:
        return own
    if AS_IN_0_1_0.after([]) in told:
        return AS_IN_0_1_0
    raise FolderError(not_of_its_file(folder))


def not_of_its_file(folder: Folder) -> str:
    """What is said of a folder whose trials and experiment.yaml are of two experiments."""
    return (
        f"{folder.url}: its trials are of another experiment than experiment.yaml says; was the file changed? The search "
        "that made the trials, run again with the same --out, writes it anew"
    )


def merged_name(lineage: str, digest: str) -> str:
    """The file of a finished cycle's rows."""
    return f"merged-{lineage}-{digest}.parquet"


def first_lineages(folder: Folder) -> set[str]:
    """What a run's files call the lineage of cycle 0: one name where nothing was mixed, none where nothing was trained."""
    commits = folder.names("trials/cycle=000")
    # A damaged file still has its name.
    names = [name.rpartition("/")[2] for name in (*commits, *folder.names("parents/cycle=000"))]
    told = {found[1] for name in names if (found := _NAMED.fullmatch(name))}
    return told or _of_a_commit(folder, commits) or _of_an_attempt(folder)


_NAMED = re.compile(r"(?:merged|seed=\d+)-([0-9a-f]{12})(?:-[0-9a-f]+\.parquet|\.safetensors)(?:\.unreadable)?")


def _of_a_commit(folder: Folder, names: Sequence[str]) -> set[str]:
    for name in names:
        content = folder.read(name) if name.endswith(".parquet") else None
        table = None if content is None else from_parquet(content, TRIALS, where=folder / name)
        if table is not None and table.num_rows:
            return {str(table["lineage"][0].as_py())}
    return set()


def _of_an_attempt(folder: Folder) -> set[str]:
    """As the traces of trainings say it, which outlive their trials."""
    for name in folder.names("attempts/cycle=000"):
        try:
            return {str(json.loads(folder.read(name) or b"")["lineage"])}
        except (ValueError, LookupError, TypeError, RecursionError):
            continue
    return set()
