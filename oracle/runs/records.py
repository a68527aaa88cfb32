"""What a run left, for those who read it: its experiment, trials and optima. Reading changes nothing.

experiment.yaml      what is held fixed
settings.json        how it is computed: chosen once, read back by every later run
oracle.parquet       one row a cycle
events.jsonl         what happened, and when
and what `oracle.runs.cycle` says of every cycle
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from oracle.errors import ExperimentError, FolderError
from oracle.experiment import Experiment, experiment_from_yaml
from oracle.runs.cycle import CycleStore
from oracle.runs.lineage import lineages_of
from oracle.runs.tables import oracle_rows, oracle_table
from oracle.storage import Folder

EXPERIMENT = "experiment.yaml"


def read_trials(out: str | Path | Folder) -> pa.Table:
    """All trials of a run that belong to its chain, one row each, by cycle, max_lr and seed. Columns: `tables.TRIALS`.

    Raises FolderError where `out` holds no run, or its oracle.parquet cannot be read.
    """
    folder = opened(out)
    names = lineages_of(folder, read_experiment(folder)).of(oracle_rows(folder))
    stores = [CycleStore(folder=folder, cycle=cycle, lineage=name) for cycle, name in enumerate(names)]
    return pa.concat_tables([store.trials() for store in stores])


def read_oracle(out: str | Path | Folder) -> pa.Table:
    """The optimum and interval of every finished cycle, by cycle. Columns: `tables.ORACLE`.

    Schema metadata: version, name, experiment (its hash), pruning_rate, tolerance, units. No rows before the first cycle
    is finished. Raises FolderError where `out` holds no run, or its oracle.parquet cannot be read.
    """
    folder = opened(out)
    return oracle_table(read_experiment(folder), oracle_rows(folder))


def read_experiment(folder: Folder) -> Experiment:
    """The experiment that a folder holds. Raises FolderError where it holds none, or its file is damaged."""
    content, where = folder.read(EXPERIMENT), folder / EXPERIMENT
    if content is None:
        raise FolderError(
            f"{folder.url}: holds no Oracle run (no {EXPERIMENT}); `oracle search ... --out` makes one. If the file was "
            "lost, the search that made the folder writes it anew; a run of 0.1.0 without oracle.parquet needs it put back"
        )
    try:
        return experiment_from_yaml(content.decode(errors="replace"), where=where)
    except ExperimentError as error:
        raise FolderError(
            f"{error}\nIs the file damaged? Run the search that made this folder once more, with the same --out: it "
            "compares itself with what is there, and writes the file anew"
        ) from None


def write_experiment(folder: Folder, experiment: Experiment) -> None:
    """Keep what is held fixed."""
    folder.write_if_changed(EXPERIMENT, experiment.to_yaml().encode())


def attempts(folder: Folder) -> list[dict[str, Any]]:
    """All starts of trainings, by file name."""
    contents = (folder.read(name) for name in folder.names("attempts"))
    return [json.loads(content) for content in contents if content]


def opened(out: str | Path | Folder) -> Folder:
    """A run's folder. Raises FolderError where `out` holds no run."""
    folder = out if isinstance(out, Folder) else Folder(out)
    read_experiment(folder)
    return folder
