"""A run that version 0.1.0 left in the middle of its last cycle: it is read, and gone on with, and nothing is done twice.

data/run-of-0.1.0.tar.xz was made by that version: digits-mlp, three cycles, three rates in packs of two, one seed, stopped
when the first of two packs of cycle 2 was committed. It has no decisions and no record of events.
"""

import json
import tarfile
from pathlib import Path

import pytest
import torch
from faults import timeless
from folders import trained, winner_of

from oracle.chain import run_oracle
from oracle.experiment import load_experiment
from oracle.records import read_oracle, read_trials
from oracle.runs.cycle import pairs_of
from oracle.runs.tables import ESTIMATED, ORACLE
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


def test_the_same_search_still_gives_its_bits(old: Path, tmp_path: Path) -> None:
    """What moves a number must say so in CHANGELOG, and make the archive anew."""
    made_with = json.loads((Path(__file__).parent / "data" / "run-of-0.1.0.json").read_text())
    here = {"cpu": _cpu(), "torch": torch.__version__, "threads": 1}
    if here != made_with:
        pytest.skip(f"bits are those of one type of CPU and version: the archive's {made_with}, here {here}")
    run_oracle(EXPERIMENT, tmp_path / "new", executor="local", backend="pack", pack_size=2)
    own = ["lineage", "commit", "test_correct"]  # a chain's name, which has the experiment in it now; not there then
    kept, new = (timeless(read_trials(out).drop_columns(own)) for out in (old, tmp_path / "new"))
    assert kept == [row for row in new if (row["cycle"], row["max_lr"]) in {(it["cycle"], it["max_lr"]) for it in kept}]
    later = {*ESTIMATED, "lo_outside", "hi_outside"}  # columns that it did not have
    kept, new = ([row | dict.fromkeys(later) for row in timeless(read_oracle(out))] for out in (old, tmp_path / "new"))
    assert kept == new[:2]
    for cycle in (0, 1):
        before, after = (
            winner_of(out, cycle, 0, read_oracle(out)["max_lr"].to_pylist()) for out in (old, tmp_path / "new")
        )
        for group in ("state", "masks"):
            tensors, now = getattr(before, group), getattr(after, group)
            assert tensors.keys() == now.keys()
            assert all(now[name].equal(value) for name, value in tensors.items())


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


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
