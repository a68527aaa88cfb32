"""The chain on the local executor: parents, packs, growth of the grid, going on with more."""

import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest
import torch
from faults import timeless
from folders import trained, winner_name, winner_of
from listeners import noting

from oracle.data import load_images
from oracle.errors import CancelledError, ClusterError, DivergedError, ExperimentError, FolderError, NetworkError
from oracle.events import CancelToken, Event, TrainingStarted, TrialFinished
from oracle.execution import executors
from oracle.execution.jobs import plan_packs
from oracle.execution.local import LocalExecutor
from oracle.experiment import Experiment
from oracle.runs.cycle import CycleStore
from oracle.runs.lineage import Lineages
from oracle.runs.records import read_experiment, read_oracle, read_trials
from oracle.search.intervals import find_interval
from oracle.search.packing import fair_pack_size
from oracle.search.rounds import every
from oracle.search.run import run_oracle
from oracle.storage import Folder
from oracle.training.backends import Backend
from oracle.training.parents import Winner, first_parent, next_parent

Tiny = Callable[..., Experiment]


def test_every_trial_is_trained_once_and_has_a_row(tiny: Tiny, tmp_path: Path) -> None:
    experiment = tiny()
    table = run_oracle(experiment, tmp_path, executor="local")
    expected = sorted((c, s, r) for c in range(3) for s in (0, 1) for r in (0.02, 0.1, 0.4))
    trials = read_trials(tmp_path).select(["cycle", "seed", "max_lr"]).to_pylist()
    assert sorted((row["cycle"], row["seed"], row["max_lr"]) for row in trials) == expected
    assert trained(tmp_path) == expected
    assert table["cycle"].to_pylist() == [0, 1, 2]
    assert read_oracle(tmp_path).equals(table)
    metadata = read_oracle(tmp_path).schema.metadata
    assert metadata[b"experiment"].decode() == experiment.hash
    assert metadata[b"pruning_rate"] == b"0.2"


def test_a_row_of_the_table_follows_from_the_trials(tiny: Tiny, tmp_path: Path) -> None:
    table = run_oracle(tiny(), tmp_path, executor="local").to_pylist()
    trials = read_trials(tmp_path)
    for row in table:
        cycle = trials.filter(pa.compute.equal(trials["cycle"], row["cycle"]))
        papers = find_interval(cycle, tolerance=0.005)
        assert papers == {name: row[name] for name in papers}


def test_running_again_trains_nothing_and_changes_nothing(tiny: Tiny, tmp_path: Path) -> None:
    run_oracle(tiny(), tmp_path, executor="local")
    before, starts = read_trials(tmp_path), trained(tmp_path)
    table = (tmp_path / "oracle.parquet").read_bytes()
    run_oracle(tiny(), tmp_path, executor="local")
    assert read_trials(tmp_path).equals(before)
    assert trained(tmp_path) == starts
    assert (tmp_path / "oracle.parquet").read_bytes() == table


def test_finished_cycles_keep_one_file_of_rows_and_the_winners_alone(tiny: Tiny, tmp_path: Path) -> None:
    run_oracle(tiny(), tmp_path, executor="local")
    names = [name for name in Folder(tmp_path).names() if not name.startswith("attempts/")]
    chain = read_oracle(tmp_path)["max_lr"].to_pylist()
    lineages = Lineages(experiment=tiny())
    assert names == sorted(
        ["events.jsonl", "experiment.yaml", "oracle.parquet", "p_within.parquet", "settings.json"]
        + [f"decisions/cycle={cycle:03d}.json" for cycle in range(3)]
        + [
            name
            for cycle in range(3)
            for name in names
            if f"cycle={cycle:03d}/merged-{lineages.after(chain[:cycle])}-" in name
        ]
        + [winner_name(cycle, seed) for cycle in range(3) for seed in (0, 1)]
    )
    assert sum("merged-" in name for name in names) == 3


@pytest.mark.parametrize("rewind", ["none", "weights", "reinit"])
def test_parents_are_pruned_exactly_and_rewound_as_asked(tiny: Tiny, tmp_path: Path, rewind: str) -> None:
    experiment = tiny(f"pruning.rewind={rewind}")
    table = run_oracle(experiment, tmp_path, executor="local").to_pylist()
    prunable = 64 * 64 + 64 * 64 + 64 * 10
    kept = prunable
    for row in table:
        assert row["weights_remaining"] == kept / prunable
        kept -= round(0.2 * kept)
    images = load_images(experiment, torch.device("cpu"))
    first = winner_of(tmp_path, 0, 1, [table[0]["max_lr"]])
    assert first is not None
    parent = next_parent(experiment, 1, images, cycle=1, winner=first, first=first)
    source = {
        "none": first.state,
        "weights": first_parent(experiment, 1, images).state,
        "reinit": parent.state,
    }[rewind]
    for name, value in parent.state.items():
        mask = parent.masks.get(name, torch.ones_like(value, dtype=torch.bool))
        assert torch.equal(value, torch.where(mask, source[name], 0))
    if rewind == "reinit":
        fresh = first_parent(experiment, 1, images).state
        assert not torch.equal(parent.state["1.weight"], torch.where(parent.masks["1.weight"], fresh["1.weight"], 0))


def test_weights_go_back_to_the_rewind_step_of_the_first_cycles_winner(tiny: Tiny, tmp_path: Path) -> None:
    experiment = tiny("pruning.rewind_step=2", "pruning.cycles=1")
    table = run_oracle(experiment, tmp_path, executor="local").to_pylist()
    first = winner_of(tmp_path, 0, 0, [table[0]["max_lr"]])
    assert first is not None
    assert first.rewind is not None
    images = load_images(experiment, torch.device("cpu"))
    start = first_parent(experiment, 0, images).state
    for name in ("1.weight", "5.bias"):
        assert not torch.equal(first.rewind[name], start[name])
        assert not torch.equal(first.rewind[name], first.state[name])
    parent = next_parent(experiment, 0, images, cycle=1, winner=first, first=first)
    assert torch.equal(parent.state["5.bias"], first.rewind["5.bias"])


def test_winners_carry_exact_zeros_where_masks_prune(tiny: Tiny, tmp_path: Path) -> None:
    table = run_oracle(tiny(), tmp_path, executor="local").to_pylist()
    chain = [row["max_lr"] for row in table]
    winner = winner_of(tmp_path, 2, 0, chain)
    assert winner is not None
    for name, mask in winner.masks.items():
        assert torch.count_nonzero(winner.state[name][~mask]) == 0
    assert sum(int(mask.sum()) for mask in winner.masks.values()) == round(table[2]["weights_remaining"] * 8832)


def test_more_cycles_go_on_from_a_finished_folder(tiny: Tiny, tmp_path: Path) -> None:
    run_oracle(tiny("pruning.cycles=1"), tmp_path / "a", executor="local")
    starts = trained(tmp_path / "a")
    grown = run_oracle(tiny(), tmp_path / "a", executor="local")
    whole = run_oracle(tiny(), tmp_path / "b", executor="local")
    assert timeless(grown) == timeless(whole)
    assert trained(tmp_path / "a") == trained(tmp_path / "b")
    assert starts == [start for start in trained(tmp_path / "a") if start[0] < 2]


def test_more_seeds_end_as_if_they_had_been_there_from_the_start(tiny: Tiny, tmp_path: Path) -> None:
    run_oracle(tiny("seeds=[0]"), tmp_path / "a", executor="local", pack_size=3)
    grown = run_oracle(tiny("seeds=[0, 1, 2]"), tmp_path / "a", executor="local")
    whole = run_oracle(tiny("seeds=[0, 1, 2]"), tmp_path / "b", executor="local", pack_size=3)
    assert timeless(grown) == timeless(whole)
    assert timeless(read_trials(tmp_path / "a")) == timeless(read_trials(tmp_path / "b"))
    first = [start for start in trained(tmp_path / "a") if start[:2] == (0, 0)]
    assert first == [(0, 0, rate) for rate in (0.02, 0.1, 0.4)], "seed 0's dense networks were trained again"


def test_rows_that_still_follow_are_kept_while_more_seeds_are_searched(tiny: Tiny, tmp_path: Path) -> None:
    one_rate = "grid.values=[0.1]"  # the same optimum, whatever the seeds
    run_oracle(tiny("seeds=[0]", one_rate), tmp_path, executor="local")

    def interrupt(event: Event) -> None:
        if isinstance(event, TrainingStarted) and event.cycle == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_oracle(tiny("seeds=[0, 1]", one_rate), tmp_path, executor="local", listeners=[interrupt])
    assert [row["num_seeds"] for row in read_oracle(tmp_path).to_pylist()] == [2, 1, 1]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("training.epochs=4", "training.epochs"),
        ("seeds=[0]", "seeds"),
        ("pruning.cycles=1", "pruning.cycles"),
        ("grid.values=[0.02, 0.1, 0.5]", "grid.values"),
        ("schedule={shape: cosine}", "schedule.shape"),
    ],
)
def test_a_folder_of_another_experiment_is_refused_with_what_differs(
    tiny: Tiny, tmp_path: Path, change: str, named: str
) -> None:
    run_oracle(tiny(), tmp_path, executor="local")
    before = {name: (tmp_path / name).read_bytes() for name in Folder(tmp_path).names()}
    with pytest.raises(FolderError, match=named):
        run_oracle(tiny(change), tmp_path, executor="local")
    assert before == {name: (tmp_path / name).read_bytes() for name in Folder(tmp_path).names()}


def test_a_name_with_dots_is_refused_before_anything_is_written(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="name"):
        tiny("name=../outside")
    with pytest.raises(FolderError, match="outside"):
        Folder(tmp_path / "in").write("../outside", b"x")
    assert not (tmp_path / "outside").exists()


def test_carry_retrain_ends_with_the_same_bits(tiny: Tiny, tmp_path: Path) -> None:
    kept = run_oracle(tiny(), tmp_path / "a", executor="local")
    again = run_oracle(tiny(), tmp_path / "b", executor="local", carry="retrain")
    assert timeless(kept) == timeless(again)
    assert len(trained(tmp_path / "b")) > len(trained(tmp_path / "a"))
    name = winner_name(2, 1)
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("backend", ["plain", "pack"])
@pytest.mark.slow
def test_lost_winners_are_trained_once_more_and_nothing_else(tiny: Tiny, tmp_path: Path, backend: Any) -> None:
    run_oracle(tiny(), tmp_path / "a", executor="local", backend=backend)
    whole = run_oracle(tiny("pruning.cycles=3"), tmp_path / "b", executor="local", backend=backend)
    (tmp_path / "a" / winner_name(2, 0)).unlink()
    (tmp_path / "a" / winner_name(2, 1)).write_bytes(b"not a network")
    resumed = run_oracle(tiny("pruning.cycles=3"), tmp_path / "a", executor="local", backend=backend)
    assert timeless(resumed) == timeless(whole)
    twice = [start for start in trained(tmp_path / "a") if trained(tmp_path / "a").count(start) > 1]
    assert {start[0] for start in twice} == {2}
    for path in (tmp_path / "a", tmp_path / "b"):
        assert Folder(path).names("weights") == []
        assert len(Folder(path).names("trials")) == 4, "a cycle was left as it is when it is under way"


@pytest.mark.parametrize("damage", ["deleted", "truncated", "not a network", "all deleted"])
@pytest.mark.slow
def test_a_finished_run_gets_a_damaged_winner_back(tiny: Tiny, tmp_path: Path, damage: str) -> None:
    table = run_oracle(tiny(), tmp_path, executor="local")
    rates = table["max_lr"].to_pylist()
    before = winner_of(tmp_path, 1, 0, rates)
    path, starts = tmp_path / winner_name(1, 0), trained(tmp_path)
    if damage == "all deleted":
        shutil.rmtree(tmp_path / "winners")
    elif damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] if damage == "truncated" else b"not a network")
    assert timeless(run_oracle(tiny(), tmp_path, executor="local")) == timeless(table)
    assert trained(tmp_path) != starts, "nothing was made anew"
    after = winner_of(tmp_path, 1, 0, rates)
    assert before is not None
    assert after is not None
    for name, value in before.state.items():
        assert torch.equal(after.state[name], value)
    assert len(Folder(tmp_path).names("trials")) == 3
    assert Folder(tmp_path).names("weights") == Folder(tmp_path).names("parents") == []


def test_a_second_search_in_the_same_folder_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    refused: list[int] = []

    def search(event: Event) -> None:
        if isinstance(event, TrainingStarted):
            with pytest.raises(FolderError, match="another search is at work in this folder"):
                run_oracle(tiny("seeds=[0, 1, 2]"), tmp_path, executor="local")
            refused.append(event.cycle)

    table = run_oracle(tiny(), tmp_path, executor="local", listeners=[search])
    assert refused == [0, 1, 2]
    assert read_oracle(tmp_path).equals(table)
    assert list(read_experiment(Folder(tmp_path)).seeds) == [0, 1]
    run_oracle(tiny("seeds=[0, 1, 2]", "pruning.cycles=2"), tmp_path, executor="local")


def test_a_run_that_began_meanwhile_is_not_taken_over(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting a cluster takes seconds; another experiment may run in the folder until the lock is taken."""
    begun: list[pa.Table] = []

    def slow(launch: Any, images: Any, *args: Any) -> LocalExecutor:
        monkeypatch.undo()
        begun.append(run_oracle(tiny("training.epochs=2"), tmp_path, executor="local"))
        return LocalExecutor(images, slots=1, backend="pack")

    kind = dataclasses.replace(executors.EXECUTORS["local"], make=slow)
    monkeypatch.setitem(executors.EXECUTORS, "local", kind)  # type: ignore[arg-type]
    with pytest.raises(FolderError, match=r"training\.epochs"):
        run_oracle(tiny(), tmp_path, executor="local")
    assert read_oracle(tmp_path).equals(begun[0])


@pytest.mark.slow
def test_plain_and_pack_backends_find_the_same_optima_in_float64(tiny: Tiny, tmp_path: Path) -> None:
    plain = run_oracle(tiny("training.precision=fp64"), tmp_path / "a", executor="local", backend="plain")
    pack = run_oracle(tiny("training.precision=fp64"), tmp_path / "b", executor="local", backend="pack")
    for one, other in zip(timeless(plain), timeless(pack), strict=True):
        assert one.pop("val_loss") == pytest.approx(other.pop("val_loss"), rel=1e-9)  # float64 rounding, 12 steps
        assert one == other


def test_a_run_begun_with_one_backend_is_not_gone_on_with_another(tiny: Tiny, tmp_path: Path) -> None:
    run_oracle(tiny("pruning.cycles=0"), tmp_path, executor="local", backend="plain")
    with pytest.raises(FolderError, match="backend: plain there, pack asked for"):
        run_oracle(tiny(), tmp_path, executor="local", backend="pack")
    assert run_oracle(tiny(), tmp_path, executor="local").num_rows == 3
    assert json.loads((tmp_path / "settings.json").read_text())["backend"] == "plain"


def test_all_candidates_diverged_stops_with_grid_and_cycle(tiny: Tiny, tmp_path: Path) -> None:
    experiment = tiny("grid={spacing: explicit, values: [1e6, 1e7]}")
    with pytest.raises(DivergedError, match=r"cycle 0: every candidate of the grid \[1e\+06, 1e\+07\]"):
        run_oracle(experiment, tmp_path, executor="local")
    rows = read_trials(tmp_path).to_pylist()
    assert [row["outcome"] for row in rows] == ["diverged"] * 4
    assert [row["val_accuracy"] for row in rows] == [None] * 4


def test_one_diverged_candidate_is_a_row_and_never_wins(tiny: Tiny, tmp_path: Path) -> None:
    table = run_oracle(tiny("grid.values=[0.02, 0.1, 1e7]"), tmp_path, executor="local").to_pylist()
    assert [row["num_diverged"] for row in table] == [2, 2, 2]
    assert all(row["hi"] < 1e7 for row in table)
    assert not any(row["hi_on_edge"] for row in table)


@pytest.mark.slow
def test_the_grid_grows_past_the_edge_until_the_end_is_inside(tiny: Tiny, tmp_path: Path) -> None:
    low = "grid={spacing: log, low: 1e-4, high: 1e-3, points: 3, extend: true, max_extra: 12}"
    experiment = tiny(low, "pruning.cycles=1")
    table = run_oracle(experiment, tmp_path, executor="local").to_pylist()
    assert all(row["num_candidates"] > 3 for row in table)
    assert all(not row["hi_on_edge"] for row in table)
    assert all(row["num_candidates"] <= 15 for row in table)
    rates = sorted(set(read_trials(tmp_path)["max_lr"].to_pylist()))
    np.testing.assert_allclose(np.diff(np.log10(rates)), 0.5, rtol=1e-6)  # rates are rounded to ten digits


def test_growth_stops_at_its_bound_and_says_so(tiny: Tiny, tmp_path: Path) -> None:
    said: list[str] = []
    low = "grid={spacing: log, low: 1e-6, high: 1e-5, points: 3, extend: true, max_extra: 2}"
    table = run_oracle(tiny(low, "pruning.cycles=0"), tmp_path, executor="local", listeners=[noting(said)]).to_pylist()
    assert table[0]["num_candidates"] == 5
    assert table[0]["hi_on_edge"]
    assert any("edge" in text for text in said)


def test_peaks_train_one_rate_a_cycle(tiny: Tiny, tmp_path: Path) -> None:
    table = run_oracle(tiny(), tmp_path, executor="local", peaks=[0.05, 0.1, 0.2]).to_pylist()
    assert [(row["lo"], row["max_lr"], row["hi"]) for row in table] == [(0.05,) * 3, (0.1,) * 3, (0.2,) * 3]


@pytest.mark.parametrize("peaks", [0.1, "abc", [0.1, 0.2, None], [0.1, 0.2, True], [0.1, "0.2", 0.1]])
def test_peaks_that_are_no_numbers_are_refused(tiny: Tiny, tmp_path: Path, peaks: Any) -> None:
    with pytest.raises(ExperimentError, match="peaks: expected a list of numbers"):
        run_oracle(tiny(), tmp_path / "a", executor="local", peaks=peaks)
    with pytest.raises(ExperimentError, match="peaks: expected one max_lr, or one for each of 3 cycles, found 2"):
        run_oracle(tiny(), tmp_path / "a", executor="local", peaks=[0.1, 0.2])


def test_one_peak_for_all_cycles_is_the_same_run_as_one_for_each(tiny: Tiny, tmp_path: Path) -> None:
    table = run_oracle(tiny("peaks=0.1"), tmp_path, executor="local")
    starts = trained(tmp_path)
    assert run_oracle(tiny(), tmp_path, executor="local", peaks=[0.1, 0.1, 0.1]).equals(table)
    assert trained(tmp_path) == starts


def test_an_optimum_on_one_edge_is_not_said_to_be_on_both(tiny: Tiny, tmp_path: Path) -> None:
    said: list[str] = []

    edge = tiny("grid.values=[0.1, 0.11]", "pruning.cycles=0", "tolerance=0.5")
    run_oracle(edge, tmp_path, executor="local", listeners=[noting(said)])
    [row] = read_oracle(tmp_path).to_pylist()
    assert (row["lo"], row["hi"], row["optimum_on_edge"]) == (0.1, 0.11, True)
    side = "lower" if row["max_lr"] == 0.1 else "upper"
    assert any(f"the optimum lies on the grid's {side} edge" in text for text in said)


def test_what_cannot_train_is_refused_before_the_folder_is_made(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="known ones"):
        run_oracle(tiny("network.name=resnet-2000"), tmp_path / "a", executor="local")
    with pytest.raises(ExperimentError, match="rewind_step"):
        run_oracle(tiny("pruning.rewind_step=1000"), tmp_path / "a", executor="local")
    assert not (tmp_path / "a").exists()


def test_weights_files_of_losers_are_gone_and_rows_name_their_commits(tiny: Tiny, tmp_path: Path) -> None:
    run_oracle(tiny(), tmp_path, executor="local")
    assert not list(tmp_path.glob("weights/**/*.safetensors"))
    commits = read_trials(tmp_path)["commit"].to_pylist()
    assert {commit.split("-")[0] for commit in commits} == {"c000", "c001", "c002"}


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *[("executor", "slurm"), ("backend", "fast"), ("carry", "drop"), ("slots", 0), ("pack_size", -1)],
        *[("checkpoint_seconds", -1.0), ("checkpoint_seconds", float("nan"))],
    ],
)
def test_a_flag_that_is_none_is_refused_by_its_name(tiny: Tiny, tmp_path: Path, flag: str, value: Any) -> None:
    arguments = {"executor": "local", flag: value}
    with pytest.raises(ExperimentError, match=f"{flag}: expected"):
        run_oracle(tiny(), tmp_path / "a", **arguments)
    assert not (tmp_path / "a").exists()


def test_the_backends_that_may_be_asked_for_are_those_there_are_and_auto() -> None:
    assert get_args(executors.BackendChoice) == ("auto", *get_args(Backend))


def test_an_address_means_nothing_to_the_local_executor(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="address: found auto"):
        run_oracle(tiny(), tmp_path / "a", executor="local", address="auto")
    assert not (tmp_path / "a").exists()


def test_a_cluster_that_is_not_there_claims_no_folder(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ClusterError):
        run_oracle(tiny(), tmp_path / "a", executor="ray", address="127.0.0.1:1")
    assert not (tmp_path / "a").exists()


def test_a_pack_that_is_partly_done_trains_the_rest_alone(tiny: Tiny, tmp_path: Path) -> None:
    token = CancelToken()

    def stop(event: Event) -> None:
        if isinstance(event, TrialFinished):
            token.cancel()

    def search(cancel: CancelToken | None) -> None:
        run_oracle(
            tiny("pruning.cycles=0"),
            tmp_path,
            executor="local",
            backend="plain",
            pack_size=3,
            slots=1,
            listeners=[stop],
            cancel=cancel,
        )

    with pytest.raises(CancelledError):
        search(token)
    assert trained(tmp_path) == [(0, 0, 0.02)]
    search(None)
    assert trained(tmp_path) == [(0, seed, rate) for seed in (0, 1) for rate in (0.02, 0.1, 0.4)]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file of trials was read."""
    counted: Counter[str] = Counter()
    read = Folder.read

    def count(self: Folder, name: str, most: int | None = None) -> bytes | None:
        if name.startswith("trials/"):
            counted[name] += 1
        return read(self, name, most)

    monkeypatch.setattr(Folder, "read", count)
    return counted


@pytest.mark.parametrize("backend", ["plain", "pack"])
def test_a_commit_is_read_once_however_many_packs_there_are(
    tiny: Tiny, tmp_path: Path, reads: Counter[str], backend: Any
) -> None:
    run_oracle(tiny("pruning.cycles=1"), tmp_path, executor="local", backend=backend, pack_size=1)
    assert len(reads) == 2 * 3 * 2  # cycles, rates, seeds: a commit each
    assert set(reads.values()) == {1}


def test_going_on_with_a_finished_run_reads_the_trials_of_each_cycle_once(
    tiny: Tiny, tmp_path: Path, reads: Counter[str]
) -> None:
    run_oracle(tiny(), tmp_path, executor="local")
    reads.clear()
    run_oracle(tiny(), tmp_path, executor="local")
    assert len(reads) == 3
    assert set(reads.values()) == {1}


@pytest.mark.parametrize(("seeds", "slots"), [(1, 1), (5, 1), (5, 2), (3, 8), (5, 64)])
@pytest.mark.parametrize("backend", ["plain", "pack"])
def test_packs_fill_the_slots(seeds: int, slots: int, backend: Any) -> None:
    pairs = every(range(1, 25), range(seeds))
    size = fair_pack_size(pairs, slots, backend)
    packs = plan_packs(CycleStore(folder=Folder("unused"), cycle=0, lineage=""), pairs, size, lacking=set(pairs))
    trials = [(pack.seed, rate) for pack in packs for rate in pack.candidates]
    assert sorted(trials) == [(seed, float(rate)) for seed in range(seeds) for rate in range(1, 25)]
    assert max(len(pack.candidates) for pack in packs) <= size
    assert len(packs) >= min(slots, 24 * seeds) or size == 1 or len(packs) * 2 > slots


def test_a_cycle_that_prunes_nothing_says_so(tiny: Tiny, tmp_path: Path) -> None:
    said: list[str] = []
    run_oracle(
        tiny("pruning.rate=1e-9", "pruning.cycles=1", "seeds=[0]"), tmp_path, executor="local", listeners=[noting(said)]
    )
    assert any("cycle 1, seed 0" in text and "nothing was pruned" in text for text in said), said


def test_in_float64_weights_are_not_rounded_before_they_are_compared(tiny: Tiny) -> None:
    experiment = tiny("training.precision=fp64")
    images = load_images(experiment, torch.device("cpu"))
    parent = first_parent(experiment, 0, images)
    weights = {name: value.double() for name, value in parent.state.items()}
    weights["1.weight"] = 1 + 1e-9 * torch.randperm(4096, generator=torch.Generator().manual_seed(0)).double().view(
        64, 64
    )
    weights["3.weight"] = torch.full((64, 64), 2.0, dtype=torch.float64)
    weights["5.weight"] = torch.full((10, 64), 2.0, dtype=torch.float64)
    winner = Winner(state=weights, masks=parent.masks, rewind=None)
    masks = next_parent(experiment, 0, images, cycle=1, winner=winner, first=None).masks
    pruned = weights["1.weight"][~masks["1.weight"]]
    assert len(pruned) == round(0.2 * 8832)
    assert pruned.max() < weights["1.weight"][masks["1.weight"]].min()
