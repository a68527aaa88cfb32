"""Chains that run together: each ends as it does alone, however the others end; what is trained at once."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from faults import rows_there, timeless
from folders import trained
from listeners import told

import oracle.training.run
from oracle.errors import CancelledError, DataError, ExperimentError, FolderError, TrialError
from oracle.events import (
    CancelToken,
    Event,
    Listener,
    PackProgress,
    RunEnded,
    RunStarted,
    TrainingStarted,
    TrialFinished,
)
from oracle.execution.executors import Launch
from oracle.execution.local import LocalExecutor
from oracle.experiment import Experiment
from oracle.runs.event_log import read_events
from oracle.runs.records import read_oracle, read_trials
from oracle.search import preflight
from oracle.search.intervals import find_interval
from oracle.search.rounds import every, of_cycle
from oracle.search.run import run_oracle
from oracle.search.together import Ended, Search, run_together
from oracle.storage import Folder

Tiny = Callable[..., Experiment]
Works = list[tuple[str, int, int]]  # experiment, cycle, packs

LOCAL = Launch(executor="local", slots=1)
DIVERGING = 1000.0  # max_lr: nothing survives it
# Chains of all sorts, of different lengths, each with the experiment's name that its messages carry.
KINDS = {
    "grid": ("name=grid",),
    "peaks": ("name=peaks", "peaks=[0.1, 0.02]", "pruning.cycles=1", "seeds=[5, 6, 7]"),
    "adaptive": ("name=adaptive", "search.strategy=adaptive", "grid={low: 0.01, high: 1, points: 6, spacing: log}"),
}


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert not [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Works]:
    """What the local executor is given, call by call."""
    given: list[Works] = []
    exact = LocalExecutor.run

    def run(self: LocalExecutor, works: Sequence[Any], *, cancel: CancelToken) -> None:
        given.append(sorted((it.job.experiment.name, it.packs[0].store.cycle, len(it.packs)) for it in works))
        exact(self, works, cancel=cancel)

    monkeypatch.setattr(LocalExecutor, "run", run)
    return given


def peaks(tiny: Tiny, name: str, *values: float) -> Experiment:
    """A chain of fixed peaks, with two seeds and so two packs a cycle."""
    return tiny(f"name={name}", f"peaks={list(values)}", f"pruning.cycles={len(values) - 1}")


def together(tmp_path: Path, experiments: dict[str, Experiment], **more: Any) -> dict[str, Ended]:
    searches = [
        Search(name=name, experiment=experiment, out=tmp_path / name) for name, experiment in experiments.items()
    ]
    return run_together(searches, launch=LOCAL, **more)


def files_of(out: Path) -> dict[Path, bytes]:
    """All but the log, which every run goes on with."""
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "events.jsonl"}


# Each as alone.


@pytest.mark.parametrize("slots", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_chains_end_with_the_bits_that_each_ends_with_alone(tiny: Tiny, tmp_path: Path, slots: int) -> None:
    experiments = {name: tiny(*more) for name, more in KINDS.items()}
    alone = {
        name: run_oracle(experiment, tmp_path / f"{name} alone", executor="local", slots=slots)
        for name, experiment in experiments.items()
    }
    searches = [Search(name=name, experiment=each, out=tmp_path / name) for name, each in experiments.items()]
    ended = run_together(searches, launch=Launch(executor="local", slots=slots))
    assert ended.keys() == KINDS.keys()
    for name in KINDS:
        assert ended[name].diverged is None
        assert timeless(ended[name].oracle) == timeless(alone[name])
        assert ended[name].oracle.equals(read_oracle(tmp_path / name))
        assert timeless(read_trials(tmp_path / name)) == timeless(read_trials(tmp_path / f"{name} alone"))
        assert trained(tmp_path / name) == trained(tmp_path / f"{name} alone")


def test_packs_of_all_chains_are_trained_together_while_there_are_several(
    tiny: Tiny, tmp_path: Path, calls: list[Works]
) -> None:
    long, short, one = peaks(tiny, "long", 0.1, 0.1, 0.1), peaks(tiny, "short", 0.4, 0.1), peaks(tiny, "one", 0.02)
    together(tmp_path, {"long": long, "short": short, "one": one})
    assert calls == [
        [("long", 0, 2), ("one", 0, 2), ("short", 0, 2)],
        [("long", 1, 2), ("short", 1, 2)],
        [("long", 2, 2)],
    ]


def test_data_are_loaded_once(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads, exact = [], preflight.load_images
    monkeypatch.setattr(preflight, "load_images", lambda *given: loads.append(given) or exact(*given))
    together(tmp_path, {name: peaks(tiny, name, 0.1) for name in ("a", "b", "c")})
    assert len(loads) == 1


def test_everyone_hears_of_the_own_chain_alone(tiny: Tiny, tmp_path: Path) -> None:
    heard: dict[str, list[Event]] = {"a": [], "b": []}
    run_together(
        [
            Search(name=name, experiment=peaks(tiny, name, rate), out=tmp_path / name, listeners=[heard[name].append])
            for name, rate in (("a", 0.1), ("b", 0.4))
        ],
        launch=LOCAL,
    )
    for name, rate in (("a", 0.1), ("b", 0.4)):
        assert [event.name for event in heard[name] if isinstance(event, RunStarted)] == [name]
        finished = [(event.max_lr, event.seed) for event in heard[name] if isinstance(event, TrialFinished)]
        assert sorted(finished) == [(rate, 0), (rate, 1)]
        assert heard[name][-1] == RunEnded(outcome="finished")
        logged = [event for _, event in read_events(Folder(tmp_path / name))]
        assert [event for event in logged if isinstance(event, TrialFinished)] == [
            event for event in heard[name] if isinstance(event, TrialFinished)
        ]


# A chain that diverges.


def test_chain_that_diverges_ends_there_and_the_others_finish(tiny: Tiny, tmp_path: Path) -> None:
    experiments = {
        "at once": peaks(tiny, "at-once", DIVERGING),
        "later": peaks(tiny, "later", 0.1, DIVERGING, 0.1),
        "never": peaks(tiny, "never", 0.1, 0.02, 0.1),
    }
    ended = together(tmp_path, experiments)
    assert [name for name, each in ended.items() if each.diverged] == ["at once", "later"]
    assert "diverged" in str(ended["later"].diverged)
    assert [len(ended[name].oracle) for name in experiments] == [0, 1, 3]
    alone = run_oracle(experiments["never"], tmp_path / "alone", executor="local")
    assert timeless(ended["never"].oracle) == timeless(alone)


def test_running_again_trains_nothing_and_ends_the_same(tiny: Tiny, tmp_path: Path, calls: list[Works]) -> None:
    experiments = {"grid": tiny("pruning.cycles=1"), "diverging": peaks(tiny, "diverging", 0.1, DIVERGING)}
    first = together(tmp_path, experiments)
    before, num_calls = files_of(tmp_path), len(calls)
    assert num_calls == 2
    starts: list[None] = []
    listener = told(TrainingStarted, lambda: starts.append(None))
    searches = [
        Search(name=name, experiment=experiment, out=tmp_path / name, listeners=[listener])
        for name, experiment in experiments.items()
    ]
    assert run_together(searches, launch=LOCAL) == first
    assert (len(calls), starts) == (num_calls, [])
    assert files_of(tmp_path) == before


# Stops.


@pytest.fixture
def pair(tiny: Tiny) -> dict[str, Experiment]:
    """Two chains of two cycles."""
    return {"one": tiny("name=one", "pruning.cycles=1"), "other": peaks(tiny, "other", 0.1, 0.4)}


def check_undisturbed(tmp_path: Path, pair: dict[str, Experiment], ended: dict[str, Ended]) -> None:
    """The tables are those of chains that nothing happened to, and no training was started twice."""
    for name, experiment in pair.items():
        alone = run_oracle(experiment, tmp_path / f"{name} alone", executor="local", slots=1)
        assert timeless(ended[name].oracle) == timeless(alone)
        assert timeless(read_trials(tmp_path / name)) == timeless(read_trials(tmp_path / f"{name} alone"))
        assert trained(tmp_path / name) == trained(tmp_path / f"{name} alone")


@pytest.mark.parametrize("kind", [TrainingStarted, PackProgress, TrialFinished])
def test_cancelled_in_mid_run_it_goes_on_to_the_undisturbed_tables(
    tiny: Tiny, tmp_path: Path, pair: dict[str, Experiment], kind: type
) -> None:
    cancel, outcomes = CancelToken(), []
    ends: Listener = lambda event: outcomes.append(event.outcome) if isinstance(event, RunEnded) else None  # noqa: E731
    searches = [
        Search(name=name, experiment=each, out=tmp_path / name, listeners=[told(kind, cancel.cancel), ends])
        for name, each in pair.items()
    ]
    with pytest.raises(CancelledError, match="cancelled in cycle 0"):
        run_together(searches, launch=LOCAL, cancel=cancel)
    assert outcomes == ["stopped", "stopped"]
    kept = {name: rows_there(tmp_path / name) for name in pair}
    assert 0 <= sum(map(len, kept.values())) < 2 * 3 + 2
    assert (kind is TrialFinished) == any(kept.values())
    check_undisturbed(tmp_path, pair, together(tmp_path, pair))
    assert all(kept[name] <= rows_there(tmp_path / name) for name in pair)


def test_cancelled_beforehand_nothing_is_trained(tmp_path: Path, pair: dict[str, Experiment]) -> None:
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(CancelledError):
        together(tmp_path, pair, cancel=cancel)
    assert [trained(tmp_path / name) for name in pair] == [[], []]


@pytest.mark.parametrize("nth", [1, 2])
def test_ctrl_c_ends_all_chains_and_they_go_on(
    tmp_path: Path, pair: dict[str, Experiment], monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    calls, exact = [], LocalExecutor.run

    def run(self: LocalExecutor, works: Sequence[Any], *, cancel: CancelToken) -> None:
        calls.append(works)
        if len(calls) == nth:
            raise KeyboardInterrupt
        exact(self, works, cancel=cancel)

    with monkeypatch.context() as patch:
        patch.setattr(LocalExecutor, "run", run)
        with pytest.raises(KeyboardInterrupt):
            together(tmp_path, pair)
    assert len(calls) == nth
    assert [len(read_oracle(tmp_path / name)) for name in pair] == [nth - 1] * 2
    check_undisturbed(tmp_path, pair, together(tmp_path, pair))


def test_training_that_crashes_is_named_and_what_was_finished_is_kept(
    tmp_path: Path, pair: dict[str, Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = oracle.training.run.run_trainer
    crashed = []

    def crash(*given: Any, **more: Any) -> Any:
        if all(len(read_oracle(tmp_path / name)) == 1 for name in pair):  # cycle 1 is at work
            crashed.append(given)
            raise ZeroDivisionError("planted")
        return exact(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(oracle.training.run, "run_trainer", crash)
        with pytest.raises(TrialError, match=r"search (one|other), cycle 1, .*ZeroDivisionError: planted"):
            together(tmp_path, pair)
    assert crashed
    assert [len(read_oracle(tmp_path / name)) for name in pair] == [1, 1]
    for name, ended in together(tmp_path, pair).items():
        alone = run_oracle(pair[name], tmp_path / f"{name} alone", executor="local", slots=1)
        assert timeless(ended.oracle) == timeless(alone)


@dataclass(frozen=True, kw_only=True)
class Refusing:
    """Every rate with every seed; refuses to choose at cycle 1."""

    refuses: bool = True
    seeds: tuple[int, ...] = (0, 1)
    name: str = "refusing"
    parameters: dict[str, Any] = field(default_factory=dict)

    def next_trials(self, cycle: int, rows: pa.Table) -> Sequence[tuple[float, int]]:
        return () if of_cycle(rows, cycle).num_rows else every([0.1, 0.4], self.seeds)

    def choose(self, cycle: int, rows: pa.Table) -> dict[str, Any]:
        if cycle == 1 and self.refuses:
            raise ExperimentError("planted: cannot choose")
        return find_interval(of_cycle(rows, cycle), tolerance=0.005)


def test_strategy_that_refuses_ends_all_and_what_was_finished_is_kept(tiny: Tiny, tmp_path: Path) -> None:
    other, own = peaks(tiny, "other", 0.1, 0.02, 0.4), tiny("name=own", "pruning.cycles=1")

    def run(refuses: bool) -> dict[str, Ended]:
        return run_together(
            [
                Search(name="other", experiment=other, out=tmp_path / "other"),
                Search(name="own", experiment=own, out=tmp_path / "own", strategy=Refusing(refuses=refuses)),
            ],
            launch=LOCAL,
        )

    with pytest.raises(ExperimentError, match="planted: cannot choose"):
        run(refuses=True)
    assert rows_there(tmp_path / "own") == {(cycle, s, rate) for cycle in (0, 1) for s in (0, 1) for rate in (0.1, 0.4)}
    # Both cycles that were trained beside it; the third was not begun.
    assert rows_there(tmp_path / "other") == {(0, 0, 0.1), (0, 1, 0.1), (1, 0, 0.02), (1, 1, 0.02)}
    ended = run(refuses=False)
    assert len(ended["own"].oracle) == 2
    assert timeless(ended["other"].oracle) == timeless(run_oracle(other, tmp_path / "alone", executor="local"))
    assert trained(tmp_path / "other") == trained(tmp_path / "alone")


# Refusals before anything is trained.


def test_folder_of_another_experiment_is_refused_before_anything_is_trained(
    tmp_path: Path, pair: dict[str, Experiment], calls: list[Works], tiny: Tiny
) -> None:
    run_oracle(peaks(tiny, "other", 0.4), tmp_path / "other", executor="local")
    before = files_of(tmp_path)
    calls.clear()
    with pytest.raises(FolderError, match="holds a run of another experiment"):
        together(tmp_path, pair)
    assert calls == []
    assert files_of(tmp_path) == before


def test_two_chains_in_one_folder_are_refused_before_anything_is_trained(
    tmp_path: Path, tiny: Tiny, calls: list[Works]
) -> None:
    own = peaks(tiny, "own", 0.1)
    searches = [Search(name=name, experiment=own, out=tmp_path / "same") for name in ("a", "b")]
    with pytest.raises(FolderError, match="another search is at work"):
        run_together(searches, launch=LOCAL)
    assert calls == []
    with Folder(tmp_path / "same").lock():  # nobody holds it any more
        pass


@pytest.mark.parametrize("change", ["data.validation=400", "training.precision=fp64"])
def test_different_data_are_refused_before_anything_is_trained(tmp_path: Path, tiny: Tiny, change: str) -> None:
    with pytest.raises(ExperimentError, match="must read the same data"):
        together(tmp_path, {"a": tiny(), "b": tiny(change)})
    assert list(tmp_path.iterdir()) == []


def test_batch_that_the_shared_data_cannot_fill_is_refused(tmp_path: Path, tiny: Tiny) -> None:
    with pytest.raises(DataError, match=r"training\.batch_size"):
        together(tmp_path, {"a": tiny(), "b": tiny("training.batch_size=5000")})


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["ray"])  # in the name, so that clusters take turns: see conftest
def test_chains_together_end_with_the_bits_of_the_local_executor(tiny: Tiny, tmp_path: Path, executor: str) -> None:
    experiments = {"one": tiny("name=one", "pruning.cycles=1"), "other": peaks(tiny, "other", 0.1, DIVERGING)}
    local = together(tmp_path / "local", experiments)
    searches = [Search(name=name, experiment=each, out=tmp_path / name) for name, each in experiments.items()]
    ended = run_together(searches, launch=Launch(executor=executor, slots=1))
    for name in experiments:
        assert timeless(ended[name].oracle) == timeless(local[name].oracle)
        assert ended[name].diverged == local[name].diverged
        assert timeless(read_trials(tmp_path / name)) == timeless(read_trials(tmp_path / "local" / name))
