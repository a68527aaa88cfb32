"""Trial and cycle rows on disk: done when they can be read, harmless when doubled, of one chain."""

import itertools
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle.errors import FolderError
from oracle.runs.cycle import Commits, CycleStore
from oracle.runs.lineage import AS_IN_0_1_0
from oracle.runs.records import attempts, read_experiment, read_oracle, read_trials
from oracle.runs.tables import (
    ESTIMATED,
    ORACLE,
    P_WITHIN,
    TRIALS,
    UNITS,
    VERSION,
    oracle_rows,
    to_parquet,
    write_oracle,
)
from oracle.search.intervals import find_interval
from oracle.storage import Folder

lineage = AS_IN_0_1_0.after
DENSE = lineage([])


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "run")


def store(folder, cycle=0, chain=DENSE):
    return CycleStore(folder=folder, cycle=cycle, lineage=chain)


def commit(folder, rows):
    store(folder, rows[0]["cycle"], rows[0]["lineage"]).commit(rows)


def trials_of_cycle(folder, cycle, chain):
    return store(folder, cycle, chain).trials()


def merge_trials(folder, cycle, chain):
    Commits(store(folder, cycle, chain)).look().merge()


def trial(max_lr=0.1, seed=0, *, cycle=0, chain=DENSE, commit="a", outcome="finished", **more):
    row = {
        "cycle": cycle,
        "seed": seed,
        "max_lr": max_lr,
        "outcome": outcome,
        "weights_remaining": 1.0,
        "seconds": 0.25,
        "lineage": chain,
        "commit": commit,
    }
    scores = {
        "val_accuracy": 0.75,
        "val_loss": 0.5,
        "test_accuracy": 0.5,
        "best_epoch": 2,
        "val_correct": np.packbits([True, True, True, False]).tobytes(),
        "test_correct": np.packbits([True, False]).tobytes(),
    }
    return row | (dict.fromkeys(scores) if outcome == "diverged" else scores) | more


def keys(table):
    return list(zip(table["max_lr"].to_pylist(), table["seed"].to_pylist(), strict=True))


def begin(folder, experiment, *optima):
    """A run's folder whose finished cycles have these optima."""
    folder.write("experiment.yaml", experiment.to_yaml().encode())
    rows = []
    for cycle, max_lr in enumerate(optima):
        row = find_interval([trial(max_lr, cycle=cycle)], tolerance=0.005)
        rows.append(row)
    return write_oracle(folder, experiment, rows)


# Commits


def test_a_commit_is_read_back_with_every_value(folder):
    rows = [trial(0.1, 0), trial(0.2, 0, outcome="diverged")]
    commit(folder, rows)
    table = trials_of_cycle(folder, 0, DENSE)
    assert table.schema == TRIALS
    assert table.to_pylist() == [{name: row[name] for name in TRIALS.names} for row in rows]


def test_trials_come_by_max_lr_and_seed_whatever_order_they_were_committed_in(folder):
    for max_lr, seed in [(0.2, 1), (0.1, 1), (0.3, 0), (0.1, 0), (0.2, 0)]:
        commit(folder, [trial(max_lr, seed, commit=f"c-{max_lr:g}-{seed}")])
    assert keys(trials_of_cycle(folder, 0, DENSE)) == [(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1), (0.3, 0)]


def test_the_same_trials_committed_twice_are_there_once(folder):
    rows = [trial(0.1, 0), trial(0.1, 1)]
    commit(folder, rows)
    commit(folder, rows)
    assert len(folder.names("trials")) == 2  # neither overwrites the other
    assert keys(trials_of_cycle(folder, 0, DENSE)) == [(0.1, 0), (0.1, 1)]


def test_of_a_trial_in_two_commits_the_same_one_counts_in_any_order(tmp_path):
    rows = [trial(0.1, commit="b", val_accuracy=0.25), trial(0.1, commit="a"), trial(0.1, commit="c", val_accuracy=1.0)]
    for index, order in enumerate(itertools.permutations(rows)):
        folder = Folder(tmp_path / str(index))
        for row in order:
            commit(folder, [row])
        assert trials_of_cycle(folder, 0, DENSE)["commit"].to_pylist() == ["a"]


def test_a_commit_is_of_one_cycle(folder):
    with pytest.raises(AssertionError):
        commit(folder, [trial(cycle=0), trial(cycle=1)])


def test_a_cycle_without_trials_has_none(folder):
    assert trials_of_cycle(folder, 0, DENSE).schema == TRIALS
    assert trials_of_cycle(folder, 0, DENSE).num_rows == 0


# What cannot be read


def damaged(content):
    """Ways in which a Parquet file can be no whole file of trials."""
    return {
        "empty": b"",
        "magic alone": b"PAR1",
        "half": content[: len(content) // 2],
        "all but a byte": content[:-1],
        "text": b"not Parquet",
    }


def foreign():
    """Whole Parquet files of something else."""
    few = pa.table({"cycle": [0], "seed": [0]})
    wrong = pa.Table.from_pylist([trial()], schema=TRIALS).drop_columns("max_lr")
    return {"without columns": few, "wrong type": wrong.append_column("max_lr", pa.array(["high"]))}


KINDS = list(damaged(b""))


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_that_cannot_be_read_is_set_aside_and_its_trials_are_absent(folder, kind):
    commit(folder, [trial(0.1, commit="good")])
    commit(folder, [trial(0.2, commit="bad")])
    [bad] = [name for name in folder.names("trials") if "/bad-" in name]
    content = damaged(folder.read(bad))[kind]
    folder.write(bad, content)
    assert keys(trials_of_cycle(folder, 0, DENSE)) == [(0.1, 0)]
    assert folder.read(bad) == content, "reading changed the folder"
    assert Commits(store(folder)).look().set_unreadable_aside() == [bad]
    assert Commits(store(folder)).look().set_unreadable_aside() == []
    assert folder.read(bad) is None
    assert folder.read(f"{bad}.unreadable") == content  # kept for whoever wants to know
    assert keys(trials_of_cycle(folder, 0, DENSE)) == [(0.1, 0)]
    commit(folder, [trial(0.2, commit="bad")])
    assert keys(trials_of_cycle(folder, 0, DENSE)) == [(0.1, 0), (0.2, 0)]


def test_trials_cut_anywhere_are_whole_or_absent(folder):
    commit(folder, [trial(0.1), trial(0.2)])
    [name] = folder.names("trials")
    content = folder.read(name)
    for length in range(0, len(content), 37):
        folder.write(name, content[:length])
        assert trials_of_cycle(folder, 0, DENSE).num_rows == 0
    folder.write(name, content)
    assert trials_of_cycle(folder, 0, DENSE).num_rows == 2


@pytest.mark.parametrize("kind", list(foreign()))
def test_rows_of_another_version_are_refused_and_left_where_they_are(folder, tiny, kind):
    begin(folder, tiny(), 0.1)
    content = to_parquet(foreign()[kind])
    for name, read in (("trials/cycle=000/a.parquet", read_trials), ("oracle.parquet", read_oracle)):
        folder.write(name, content)
        with pytest.raises(FolderError, match=rf"{name}: its columns are not those of this version"):
            read(folder)
        assert folder.read(name) == content
        folder.delete(name)
    folder.write("trials/cycle=000/a.parquet", content)
    with pytest.raises(FolderError, match="its columns are not those of this version"):
        Commits(store(folder)).look()


def test_a_column_that_an_older_version_did_not_know_is_null(folder):
    old = pa.Table.from_pylist([trial()], schema=TRIALS).drop_columns("best_epoch")
    folder.write("trials/cycle=000/a.parquet", to_parquet(old))
    [row] = trials_of_cycle(folder, 0, DENSE).to_pylist()
    assert row["best_epoch"] is None
    assert row["val_accuracy"] == 0.75


@pytest.mark.parametrize("kind", KINDS)
def test_an_oracle_table_that_is_not_whole_is_refused_with_the_way_out(folder, tiny, kind):
    begin(folder, tiny(), 0.1)
    folder.write("oracle.parquet", damaged(folder.read("oracle.parquet"))[kind])
    for read in (oracle_rows, read_oracle, read_trials):
        with pytest.raises(
            FolderError, match=r"oracle\.parquet: is not a whole Parquet file; run the same search again"
        ):
            read(folder)


# Merging


def test_merging_keeps_every_row_in_one_file(folder):
    for max_lr, seed in itertools.product((0.1, 0.2, 0.3), (0, 1)):
        commit(folder, [trial(max_lr, seed, commit=f"c-{max_lr:g}-{seed}")])
    before = trials_of_cycle(folder, 0, DENSE)
    merge_trials(folder, 0, DENSE)
    assert len(folder.names("trials")) == 1
    assert trials_of_cycle(folder, 0, DENSE).equals(before)
    [merged] = folder.names("trials")
    content = folder.read(merged)
    merge_trials(folder, 0, DENSE)
    assert folder.read(merged) == content
    commit(folder, [trial(0.4, commit="late")])  # more seeds or rates on a finished cycle
    merge_trials(folder, 0, DENSE)
    assert len(folder.names("trials")) == 1
    assert trials_of_cycle(folder, 0, DENSE).num_rows == 7


@pytest.mark.parametrize("deletions", [0, 1, 2])
def test_a_merge_killed_half_way_loses_and_doubles_nothing(folder, monkeypatch, deletions):
    for max_lr in (0.1, 0.2, 0.3):
        commit(folder, [trial(max_lr, commit=f"c-{max_lr:g}")])
    before = trials_of_cycle(folder, 0, DENSE)
    left = iter(range(deletions))
    real = Folder.delete

    def delete(self, name):
        if next(left, None) is None:
            raise KeyboardInterrupt
        real(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "delete", delete)
        with pytest.raises(KeyboardInterrupt):
            merge_trials(folder, 0, DENSE)
    assert len(folder.names("trials")) == 4 - deletions
    assert trials_of_cycle(folder, 0, DENSE).equals(before)
    merge_trials(folder, 0, DENSE)
    assert len(folder.names("trials")) == 1
    assert trials_of_cycle(folder, 0, DENSE).equals(before)


def test_merging_drops_the_rows_of_other_chains(folder):
    stale, chain = lineage([0.1]), lineage([0.2])
    commit(folder, [trial(0.1, cycle=1, chain=stale, commit="stale")])
    commit(folder, [trial(0.3, cycle=1, chain=chain, commit="own")])
    merge_trials(folder, 1, chain)
    assert trials_of_cycle(folder, 1, stale).num_rows == 0
    assert keys(trials_of_cycle(folder, 1, chain)) == [(0.3, 0)]


@settings(deadline=None, max_examples=20)
@given(st.data())
@pytest.mark.slow
def test_any_commits_in_any_order_merge_to_the_same_rows(tmp_path_factory, data):
    trials = [trial(max_lr, seed, commit=f"c-{max_lr:g}-{seed}") for max_lr in (0.1, 0.2, 0.3) for seed in (0, 1)]
    twice = data.draw(st.lists(st.sampled_from(range(6)), max_size=4))
    committed = data.draw(st.permutations([*range(6), *twice]))
    merges = data.draw(st.sets(st.integers(0, len(committed))))
    folder = Folder(tmp_path_factory.mktemp("run"))
    for place, index in enumerate(committed):
        if place in merges:
            merge_trials(folder, 0, DENSE)
        commit(folder, [trials[index]])
    merge_trials(folder, 0, DENSE)
    expected = sorted(trials, key=lambda row: (row["max_lr"], row["seed"]))
    assert trials_of_cycle(folder, 0, DENSE).to_pylist() == [{n: row[n] for n in TRIALS.names} for row in expected]


# Chains


def test_a_lineage_names_every_optimum_before():
    chains = [lineage(optima) for optima in ([], [0.1], [0.2], [0.1, 0.1], [0.1, 0.2], [0.2, 0.1])]
    assert len(set(chains)) == 6
    assert lineage([1]) == lineage([1.0]) == lineage([np.float64(1)])  # one number, however it was read
    rows = [{"max_lr": 0.1}, {"max_lr": 0.2}]
    assert AS_IN_0_1_0.of(rows) == [lineage([]), lineage([0.1]), lineage([0.1, 0.2])]


def test_trials_of_another_chain_are_not_of_the_run(folder, tiny):
    begin(folder, tiny(), 0.1)
    commit(folder, [trial(0.1, commit="dense")])
    commit(folder, [trial(0.3, cycle=1, chain=lineage([0.1]), commit="own")])
    commit(folder, [trial(0.4, cycle=1, chain=lineage([0.2]), commit="stale")])
    assert keys(read_trials(folder)) == [(0.1, 0), (0.3, 0)]
    assert keys(read_trials(folder.url)) == [(0.1, 0), (0.3, 0)]


def test_trials_of_the_cycle_under_way_are_read_too(folder, tiny):
    begin(folder, tiny())
    commit(folder, [trial(0.1)])
    assert read_trials(folder)["cycle"].to_pylist() == [0]
    assert read_oracle(folder).num_rows == 0


def test_cycle_folders_sort_as_their_numbers():
    assert sorted(store(None, cycle).path("trials") for cycle in (100, 20, 3)) == [
        "trials/cycle=003",
        "trials/cycle=020",
        "trials/cycle=100",
    ]


# oracle.parquet


def test_the_oracle_table_is_read_back_with_what_it_is_of(folder, tiny):
    experiment = tiny("pruning.rate=0.3", "tolerance=0.01")
    written = begin(folder, experiment, 0.1, 0.2)
    table = read_oracle(folder)
    assert table.equals(written, check_metadata=True)
    assert table.schema.equals(ORACLE)
    assert table["max_lr"].to_pylist() == [0.1, 0.2]
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert metadata == {
        "version": VERSION,
        "name": "digits-mlp",
        "experiment": experiment.hash,
        "pruning_rate": "0.3",
        "tolerance": "0.01",
        "units": json.dumps(UNITS),
    }
    stored = pq.read_schema(pa.BufferReader(folder.read("oracle.parquet"))).metadata
    assert {key: stored[key] for key in table.schema.metadata} == table.schema.metadata  # in the file itself


def test_every_column_of_an_interval_has_its_place_and_every_unit_its_column(tiny):
    row = find_interval([trial()], tolerance=0.005)
    assert set(row) | set(ESTIMATED) | {"num_seeds_added"} == set(ORACLE.names)
    assert set(UNITS) <= set(ORACLE.names) | set(TRIALS.names) | set(P_WITHIN.names)


def test_the_same_rows_are_the_same_bytes(folder, tiny):
    begin(folder, tiny(), 0.1, 0.2)
    content = folder.read("oracle.parquet")
    write_oracle(folder, tiny(), oracle_rows(folder))
    assert folder.read("oracle.parquet") == content


@pytest.mark.parametrize("read", [read_oracle, read_trials])
def test_a_folder_without_a_run_is_refused(tmp_path, read):
    with pytest.raises(FolderError, match=r"holds no Oracle run \(no experiment\.yaml\)") as caught:
        read(tmp_path / "nothing")
    assert str(tmp_path / "nothing") in str(caught.value)
    assert not (tmp_path / "nothing").exists()  # looking makes nothing


def test_the_experiment_is_read_back(folder, tiny):
    experiment = tiny("schedule={shape: cyclical, low: 1e-5}", "data.path=somewhere")
    begin(folder, experiment)
    assert read_experiment(folder) == experiment


def test_a_broken_experiment_file_is_refused_by_its_path(folder):
    folder.write("experiment.yaml", b"name: \xff\xfe")
    with pytest.raises(ValueError, match=r"experiment\.yaml"):
        read_experiment(folder)


# Two searches at once


class MergedMeanwhile(Folder):
    """A folder in which another search merges the cycle between the listing and the n-th read."""

    def __init__(self, out, after):
        super().__init__(out)
        self.reads, self.after = 0, after

    def read(self, name):
        self.reads += 1
        if self.reads == self.after:
            merge_trials(Folder(self.url), 0, DENSE)
        return super().read(name)


@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("work", [trials_of_cycle, merge_trials])
def test_no_row_is_lost_or_missed_while_another_search_merges(tmp_path, work, after):
    folder = Folder(tmp_path)
    for seed in range(3):
        commit(folder, [trial(seed=seed)])
    disturbed = MergedMeanwhile(tmp_path, after)
    found = work(disturbed, 0, DENSE)
    assert disturbed.reads >= after, "nobody merged"
    if found is not None:
        assert found["seed"].to_pylist() == [0, 1, 2]
    assert trials_of_cycle(folder, 0, DENSE)["seed"].to_pylist() == [0, 1, 2]


def test_of_a_trial_told_twice_the_same_row_stays_in_whatever_order_it_is_found(tmp_path):
    for turn in range(6):  # names of commits are random, so orders differ
        folder = Folder(tmp_path / str(turn))
        for seconds in (0.2, 0.1, 0.3):
            commit(folder, [trial(seconds=seconds)])
        merge_trials(folder, 0, DENSE)
        assert trials_of_cycle(folder, 0, DENSE)["seconds"].to_pylist() == [0.1]


# Attempts


def test_every_attempt_leaves_its_own_trace(folder):
    assert attempts(folder) == []
    for _ in range(2):
        store(folder, 3).note_attempt({"commit": "c003-s0-abc", "candidates": (0.1, 0.2), "from_epoch": 0})
    assert attempts(folder) == [{"commit": "c003-s0-abc", "candidates": [0.1, 0.2], "from_epoch": 0}] * 2
