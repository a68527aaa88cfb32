"""Which chain a trial belongs to: its experiment, and the optima before its cycle.

A trial counts where its parent came from the same experiment along the same optima. Every row, parent and winner carries
the name of its chain, so that what another chain left is never taken for one's own.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oracle.experiment import Experiment
from oracle.runs.tables import TRIALS, from_parquet
from oracle.storage import Folder

_MERGED = "merged-"  # begins the name of a finished cycle's file, before the lineage


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineages:
    """Names the parents of every cycle of a run."""

    experiment: Experiment | None  # None: the run was begun by 0.1.0, which named them by their optima alone

    def after(self, optima: Sequence[float]) -> str:
        """Of the parents of cycle len(optima), which depend on every optimum before."""
        rates = [float(rate) for rate in optima]
        known = [] if self.experiment is None else [json.dumps(comparable(self.experiment, len(rates)), sort_keys=True)]
        return hashlib.sha256("".join([*known, repr(rates)]).encode()).hexdigest()[:12]

    def of(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Of every cycle that may have trials: those of oracle.parquet's rows, and the one after."""
        optima = [row["max_lr"] for row in rows]
        return [self.after(optima[:cycle]) for cycle in range(len(optima) + 1)]


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
    """How a folder names the chains of its run: as version 0.1.0 did where that began it."""
    begun_by_old = first_lineage(folder) == AS_IN_0_1_0.after([])
    return AS_IN_0_1_0 if begun_by_old else Lineages(experiment=experiment)


def merged_name(lineage: str, digest: str) -> str:
    """The file of a finished cycle's rows."""
    return f"{_MERGED}{lineage}-{digest}.parquet"


def first_lineage(folder: Folder) -> str | None:
    """The lineage of a run's cycle 0, as its files say it; None where there are none."""
    commits = folder.names("trials/cycle=000")
    names = [name.rpartition("/")[2] for name in (*commits, *folder.names("parents/cycle=000"))]
    # A damaged file still has its name.
    told = [name.split("-")[1] for name in names if name.startswith(_MERGED)]
    told += [name.split("-")[1].partition(".")[0] for name in names if name.startswith("seed=") and "-" in name]
    if told:
        return told[0]
    for name in commits:
        content = folder.read(name) if name.endswith(".parquet") else None
        table = None if content is None else from_parquet(content, TRIALS, where=folder / name)
        if table is not None and table.num_rows:
            return str(table["lineage"][0].as_py())
    return None
