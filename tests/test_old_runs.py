"""A run that version 0.1.0 left in the middle of its last cycle: it is read, and gone on with, and nothing is done twice.

data/run-of-0.1.0.tar.xz was made by that version: digits-mlp, three cycles, three rates in packs of two, one seed, stopped
when the first of two packs of cycle 2 was committed. It has no decisions and no record of events.
"""

import tarfile
from pathlib import Path

import pytest
from faults import timeless
from folders import trained

from oracle.chain import run_oracle
from oracle.experiment import load_experiment
from oracle.records import read_oracle, read_trials
from oracle.runs.cycle import pairs_of
from oracle.runs.tables import ORACLE
from oracle.search.estimate import plan

AS_IT_WAS = (
    "pruning.cycles=2",
    "training.epochs=3",
    "training.batch_size=256",
    "grid={spacing: explicit, values: [0.02, 0.1, 0.4]}",
    "seeds=[0]",
)
EXPERIMENT = load_experiment("digits-mlp", overrides=AS_IT_WAS)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with tarfile.open(Path(__file__).parent / "data" / "run-of-0.1.0.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "run-of-0.1.0"


def test_what_it_left_is_read(old: Path) -> None:
    table = read_oracle(old)
    assert table.schema.equals(ORACLE)
    assert table["cycle"].to_pylist() == [0, 1]
    assert table["num_incomplete"].to_pylist() == [0, 0]  # a column that it did not know
    assert read_trials(old)["cycle"].to_pylist() == [0, 0, 0, 1, 1, 1, 2, 2]


def test_it_goes_on_and_trains_what_is_missing_alone(old: Path) -> None:
    rows, before, trials = timeless(read_oracle(old)), trained(old), timeless(read_trials(old))
    table = run_oracle(EXPERIMENT, old, executor="local")
    assert timeless(table)[:2] == rows
    [missing] = set(pairs_of(read_trials(old))) - {(row["max_lr"], row["seed"]) for row in trials if row["cycle"] == 2}
    new = list(trained(old))
    for start in before:
        new.remove(start)
    # The second pack had begun and left no checkpoint; it is begun anew, and nothing else.
    assert new == [(2, missing[1], missing[0])]
    assert [row for row in timeless(read_trials(old)) if (row["cycle"], row["max_lr"]) != (2, missing[0])] == trials
    assert sorted(path.name for path in (old / "decisions").iterdir()) == [
        f"cycle=00{cycle}.json" for cycle in range(3)
    ]
    assert not (old / "weights" / "cycle=002").exists()


def test_a_plan_counts_what_it_did(old: Path) -> None:
    planned = plan(EXPERIMENT, executor="local", out=old)
    assert (planned.trainings, planned.trainings_done, planned.pack_size) == (9, 8, 2)


@pytest.mark.parametrize("more", ["pruning.cycles=3", "seeds=[0, 1]"])
def test_more_is_added_to_it(old: Path, more: str) -> None:
    rows = timeless(read_oracle(old))
    grown = load_experiment("digits-mlp", overrides=[*AS_IT_WAS, more])
    table = run_oracle(grown, old, executor="local")
    assert table.num_rows == grown.pruning.cycles + 1
    if more.startswith("pruning"):
        assert timeless(table)[:2] == rows
    first = [start for start in trained(old) if start[:2] == (0, 0)]
    assert len(first) == len(set(first)), "a dense network was trained again"
