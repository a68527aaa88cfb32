"""Events: told to every listener, kept in the run's folder, and never the end of a search."""

import dataclasses
import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from bucket import bucket_at_s3
from faults import timeless
from folders import trained
from rich.console import Console

from oracle.chain import run_oracle
from oracle.errors import CancelledError, FolderError
from oracle.events import (
    KINDS,
    Broadcast,
    CancelToken,
    CycleFinished,
    CycleStarted,
    Event,
    Notice,
    PackProgress,
    RunEnded,
    RunStarted,
    TrainingStarted,
    TrialFinished,
    from_plain,
    to_plain,
)
from oracle.execution.executors import EXECUTORS
from oracle.execution.local import LocalExecutor
from oracle.experiment import Experiment
from oracle.records import read_oracle, read_trials
from oracle.runs.event_log import EventLog, read_events
from oracle.runs.records import attempts
from oracle.storage import Folder
from oracle.view.terminal import LiveView

Tiny = Callable[..., Experiment]

# A newcomer among them is tested on arrival.
EVERY_EXECUTOR = [name if name == "local" else pytest.param(name, marks=pytest.mark.slow) for name in EXECUTORS]
TRIAL = TrialFinished(
    cycle=1, seed=2, max_lr=0.1, outcome="finished", weights_remaining=0.8, val_accuracy=0.9, val_loss=0.3,
    test_accuracy=0.8, best_epoch=4, seconds=1.5,
)  # fmt: skip
EXAMPLES: tuple[Event, ...] = (
    RunStarted(name="a", experiment="0f", folder="runs/a", cycles=3, candidates=24, seeds=5, trials=120),
    CycleStarted(cycle=1, done=(TRIAL,)),
    TrainingStarted(cycle=1, packs=2, trials=4),
    TRIAL,
    PackProgress(pack="c001-s2", done=0.5),
    CycleFinished(row={"cycle": 1, "max_lr": 0.1, "test_accuracy_std": None}),
    Notice(text="the grid's edge, ÄÖÜ"),
    RunEnded(outcome="finished"),
)


def test_every_kind_of_event_has_an_example() -> None:
    assert {type(event) for event in EXAMPLES} == set(KINDS.values()) == set(get_args(Event))


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_an_event_is_read_back_from_json(event: Event) -> None:
    assert from_plain(json.loads(json.dumps(to_plain(event)))) == event


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"event": "Party"},
        {"event": "Notice"},
        {"event": ["Notice"]},
        {"event": "CycleStarted", "cycle": 1},
        {"event": "CycleStarted", "cycle": 1, "done": [{"seed": 3}]},
        {"event": "CycleStarted", "cycle": 1, "done": 3},
    ],
)
def test_an_event_of_a_later_version_is_none(fields: dict[str, Any]) -> None:
    assert from_plain(fields) is None


# Listeners


def test_a_listener_that_fails_is_named_once_and_told_on() -> None:
    heard: list[Event] = []
    told: list[Event] = []

    def broken(event: Event) -> None:
        told.append(event)
        raise OSError("no room")

    tell = Broadcast([broken, heard.append])
    for event in EXAMPLES:
        tell(event)
    notices = [event.text for event in heard if isinstance(event, Notice)]
    assert notices == ["broken failed, and the search goes on: no room", "the grid's edge, ÄÖÜ"]
    assert [event for event in heard if event not in (Notice(text=notices[0]),)] == list(EXAMPLES)
    assert len(told) == len(EXAMPLES) + 1


def test_listeners_are_told_one_event_at_a_time_from_whatever_thread() -> None:
    inside, most = 0, 0

    def slow(event: Event) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        threading.Event().wait(0.002)
        inside -= 1

    tell = Broadcast([slow])
    threads = [threading.Thread(target=tell, args=(EXAMPLES[0],)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


@pytest.mark.parametrize("executor", EVERY_EXECUTOR)
def test_every_trial_is_told_with_its_results(tiny: Tiny, tmp_path: Path, executor: str) -> None:
    heard: list[Event] = []
    run_oracle(tiny("pruning.cycles=1"), tmp_path, executor=executor, slots=2, listeners=[heard.append])
    kinds = [type(event).__name__ for event in heard if not isinstance(event, Notice | PackProgress)]
    once = ["CycleStarted", "TrainingStarted", *["TrialFinished"] * 6, "CycleFinished"]
    assert kinds == ["RunStarted", *once, *once, "RunEnded"]
    told = [event for event in heard if isinstance(event, TrialFinished)]
    rows = [TrialFinished.of(row) for row in read_trials(tmp_path).to_pylist()]
    assert sorted(told, key=lambda it: (it.cycle, it.max_lr, it.seed)) == rows
    assert [event.row for event in heard if isinstance(event, CycleFinished)] == read_oracle(tmp_path).to_pylist()
    done = {event.pack: event.done for event in heard if isinstance(event, PackProgress)}
    assert set(done.values()) == {1.0}


def test_a_listener_that_always_fails_changes_no_number(tiny: Tiny, tmp_path: Path) -> None:
    said: list[Event] = []

    def broken(event: Event) -> None:
        raise RuntimeError(f"never liked {type(event).__name__}")

    table = run_oracle(tiny(), tmp_path / "a", executor="local", listeners=[broken, said.append])
    assert timeless(table) == timeless(run_oracle(tiny(), tmp_path / "b", executor="local"))
    failures = [event.text for event in said if isinstance(event, Notice) and "failed" in event.text]
    assert failures == ["broken failed, and the search goes on: never liked RunStarted"]


# The record


def test_what_happened_is_on_record_in_the_folder(tiny: Tiny, tmp_path: Path) -> None:
    heard: list[Event] = []
    run_oracle(tiny("pruning.cycles=1"), tmp_path, executor="local", listeners=[heard.append])
    kept = list(read_events(Folder(tmp_path)))
    without_progress = [event for event in heard if not isinstance(event, PackProgress)]
    assert [event for _, event in kept if not isinstance(event, PackProgress)] == without_progress
    assert {event.pack for _, event in kept if isinstance(event, PackProgress) and event.done == 1} == {
        event.pack for event in heard if isinstance(event, PackProgress)
    }
    assert [time for time, _ in kept] == sorted(time for time, _ in kept)


def test_a_torn_last_line_is_skipped_and_the_next_run_begins_a_new_one(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    log = EventLog(folder)
    for event in EXAMPLES:
        log(event)
    content = (tmp_path / "events.jsonl").read_bytes()
    for length in range(len(content) - 30, len(content)):
        (tmp_path / "events.jsonl").write_bytes(content[:length])
        whole = list(EXAMPLES[:-1]) if length < len(content) - 1 else list(EXAMPLES)
        assert [event for _, event in read_events(folder)] == whole
        EventLog(folder)(EXAMPLES[0])
        assert [event for _, event in read_events(folder)] == [*whole, EXAMPLES[0]]


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[1]", b"3", b'{"event": "Notice", "text": "no time"}', b"[" * 90_000])
def test_a_line_that_is_no_event_is_skipped(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "events.jsonl").write_bytes(line + b"\n")
    EventLog(Folder(tmp_path))(EXAMPLES[0])
    assert [event for _, event in read_events(Folder(tmp_path))] == [EXAMPLES[0]]


def test_a_record_that_cannot_be_written_is_said_once_and_ends_nothing(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "a" / "events.jsonl").mkdir(parents=True)  # a folder where the file should be
    heard: list[Event] = []
    table = run_oracle(tiny(), tmp_path / "a", executor="local", listeners=[heard.append])
    assert timeless(table) == timeless(run_oracle(tiny(), tmp_path / "b", executor="local"))
    [said] = [event.text for event in heard if isinstance(event, Notice) and "EventLog" in event.text]
    assert "events.jsonl: cannot be written" in said


def test_after_a_failed_write_the_record_goes_on_with_a_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full in the middle of a line, and has room again later."""
    folder, log = Folder(tmp_path), EventLog(Folder(tmp_path))
    log(EXAMPLES[0])

    def half(self: Folder, name: str, line: bytes) -> None:
        with open(tmp_path / name, "ab") as file:
            file.write(line[: len(line) // 2])
        raise FolderError("the disk is full")

    with monkeypatch.context() as full:
        full.setattr(Folder, "append_line", half)
        with pytest.raises(FolderError, match="full"):
            log(EXAMPLES[2])
    log(EXAMPLES[3])
    assert [event for _, event in read_events(folder)] == [EXAMPLES[0], EXAMPLES[3]]


def test_the_progress_of_a_pack_is_recorded_every_few_seconds_and_at_its_end(tmp_path: Path) -> None:
    now = 1000.0
    log = EventLog(Folder(tmp_path), clock=lambda: now)
    for step in range(100):
        now = 1000.0 + 0.1 * step
        log(PackProgress(pack="a", done=step / 100))
        log(PackProgress(pack="b", done=step / 100))
    log(PackProgress(pack="a", done=1.0))
    kept = [(event.pack, event.done) for _, event in read_events(Folder(tmp_path)) if isinstance(event, PackProgress)]
    assert kept == [("a", 0.0), ("b", 0.0), ("a", 0.5), ("b", 0.5), ("a", 1.0)]


def test_in_an_object_store_the_record_is_one_object_each_30_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = bucket_at_s3(monkeypatch)
    now = 1000.0
    folder = Folder("s3://bucket/run")
    log = EventLog(folder, clock=lambda: now)
    for second in range(100):
        now = 1000.0 + second
        log(Notice(text=str(second)))
    assert len(bucket.objects) == 3
    log(RunEnded(outcome="stopped"))
    assert len(bucket.objects) == 4
    assert all(name.startswith("bucket/run/events/") for name in bucket.objects)
    texts = [event.text for _, event in read_events(folder) if isinstance(event, Notice)]
    assert texts == [str(second) for second in range(100)]


def test_a_search_in_an_object_store_ends_with_the_rows_of_a_local_one(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = run_oracle(tiny(), tmp_path, executor="local")
    bucket = bucket_at_s3(monkeypatch)
    assert timeless(run_oracle(tiny(), "s3://bucket/run", executor="local")) == timeless(table)
    assert timeless(read_trials("s3://bucket/run")) == timeless(read_trials(tmp_path))
    assert [type(event).__name__ for _, event in read_events(Folder("s3://bucket/run"))].count("TrialFinished") == 18
    assert sum("/events/" in name for name in bucket.objects) == 1


def test_of_a_winner_trained_again_the_terminal_shows_the_accuracies_of_its_own_cycle() -> None:
    screen = io.StringIO()
    view = LiveView(Console(file=screen, force_terminal=True, width=100))
    view(RunStarted(name="a", experiment="0f", folder="runs/a", cycles=3, candidates=2, seeds=1, trials=2))
    view(CycleStarted(cycle=2, done=()))
    view(TrainingStarted(cycle=1, packs=1, trials=1))
    view(dataclasses.replace(TRIAL, cycle=1, max_lr=0.7))
    view(TrainingStarted(cycle=2, packs=1, trials=1))
    view(dataclasses.replace(TRIAL, cycle=2, max_lr=0.3))
    shown = io.StringIO()
    Console(file=shown, width=100).print(view._draw())
    view(RunEnded(outcome="finished"))
    assert "0.3 90.0" in shown.getvalue()
    assert "0.7 " not in shown.getvalue()


# Cancelling


@pytest.mark.parametrize("executor", EVERY_EXECUTOR)
@pytest.mark.slow
def test_a_cancelled_search_keeps_what_is_finished_and_goes_on_from_there(
    tiny: Tiny, tmp_path: Path, executor: str
) -> None:
    long = tiny("pruning.cycles=1", "training.epochs=40")
    flags: dict[str, Any] = {"executor": executor, "slots": 1, "pack_size": 1}
    heard: list[Event] = []
    token = CancelToken()

    def cancel(event: Event) -> None:
        heard.append(event)
        if isinstance(event, TrialFinished):
            token.cancel()

    with pytest.raises(CancelledError, match="cancelled in cycle 0; what was finished is kept"):
        run_oracle(long, tmp_path / "a", listeners=[cancel], cancel=token, **flags)
    assert heard[-1] == RunEnded(outcome="stopped")
    kept = read_trials(tmp_path / "a").num_rows
    assert 1 <= kept < 6, "nothing was cancelled"
    table = run_oracle(long, tmp_path / "a", **flags)
    whole = run_oracle(long, tmp_path / "b", executor="local", pack_size=1)
    assert timeless(table) == timeless(whole)
    assert trained(tmp_path / "a").count((0, 0, 0.02)) == 1


def test_a_cancelled_training_goes_on_from_the_epoch_it_was_in(tiny: Tiny, tmp_path: Path) -> None:
    """No checkpoint is due for a minute: the one that is there was written because of the token."""
    long = tiny("pruning.cycles=0", "training.epochs=30", "seeds=[0]")
    token = CancelToken()

    def cancel(event: Event) -> None:
        if isinstance(event, PackProgress) and event.done > 0.3:
            token.cancel()

    with pytest.raises(CancelledError):
        run_oracle(long, tmp_path, executor="local", listeners=[cancel], cancel=token)
    assert read_trials(tmp_path).num_rows == 0
    run_oracle(long, tmp_path, executor="local")
    assert sorted(start["from_epoch"] > 5 for start in attempts(Folder(tmp_path))) == [False, True]


def test_the_folder_is_locked_until_the_workers_have_ended(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = []

    def close(self: LocalExecutor) -> None:
        with pytest.raises(FolderError, match="another search is at work"), Folder(tmp_path).lock():
            pass
        refused.append(True)

    monkeypatch.setattr(LocalExecutor, "close", close)
    run_oracle(tiny("pruning.cycles=0"), tmp_path, executor="local")
    assert refused


def test_an_interrupt_at_the_very_start_is_told_as_an_end_too(tiny: Tiny, tmp_path: Path) -> None:
    heard: list[Event] = []

    def interrupt(event: Event) -> None:
        heard.append(event)
        if isinstance(event, RunStarted):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_oracle(tiny(), tmp_path, executor="local", listeners=[interrupt])
    assert heard[-1] == RunEnded(outcome="stopped")


def test_a_token_cancelled_before_the_start_trains_nothing(tiny: Tiny, tmp_path: Path) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(CancelledError):
        run_oracle(tiny(), tmp_path, executor="local", cancel=token)
    assert trained(tmp_path) == []


@pytest.mark.parametrize("fault", [RuntimeError("out of coffee"), KeyboardInterrupt()])
def test_the_end_of_a_run_is_told_however_it_goes(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise fault

    monkeypatch.setattr("oracle.search.chain.Chain._keep_winners", fail)
    heard: list[Event] = []
    with pytest.raises(type(fault)):
        run_oracle(tiny(), tmp_path, executor="local", listeners=[heard.append])
    assert heard[-1] == RunEnded(outcome="stopped" if isinstance(fault, KeyboardInterrupt) else "failed")
