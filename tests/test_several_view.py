"""The view of several runs: what stands on the terminal, and what is printed where there is none."""

import io

import pytest
from rich.console import Console

from oracle.events import CycleFinished, CycleStarted, Notice, RunStarted, TrainingStarted, TrialFinished
from oracle.view import several
from oracle.view.several import MOST_LINES, SeveralView


def started(cycles: int = 4, trials: int = 2) -> RunStarted:
    return RunStarted(
        name="arm", experiment="0", folder="runs/arm", cycles=cycles, candidates=1, seeds=trials, trials=trials
    )


def trial(cycle: int, seed: int) -> TrialFinished:
    return TrialFinished(
        cycle=cycle, seed=seed, max_lr=0.1, outcome="finished", weights_remaining=1.0, val_accuracy=0.9, val_loss=0.1,
        test_accuracy=0.9, best_epoch=1, seconds=1.0,
    )  # fmt: skip


def shown(view: SeveralView) -> str:
    sink = io.StringIO()
    Console(file=sink, width=100).print(view._draw())
    return sink.getvalue()


def test_each_run_has_a_line_with_its_cycles_and_its_last_accuracy():
    view = SeveralView(Console(file=io.StringIO()))
    one, other = view.listener("one"), view.listener("other")
    for event in (started(), CycleStarted(cycle=0, done=()), TrainingStarted(cycle=0, packs=1, trials=2), trial(0, 0)):
        one(event)
    other(started())
    other(CycleFinished(row={"cycle": 0, "val_accuracy": 0.95}))
    lines = [line.split() for line in shown(view).splitlines()]
    assert ["one", "0", "of", "4", "12%"] in lines  # one of 4 x 2 trainings
    assert ["other", "1", "of", "4", "25%", "95.00"] in lines


def test_many_runs_leave_out_those_that_are_finished():
    view = SeveralView(Console(file=io.StringIO()))
    for number in range(MOST_LINES + 5):
        listen = view.listener(f"run{number:02d}")
        listen(started(cycles=1))
        if number < 10:
            listen(CycleFinished(row={"cycle": 0, "val_accuracy": 0.9}))
    text = shown(view)
    assert "run09" not in text
    assert "run10" in text
    assert "and 10 runs more, done or waiting" in text


def test_what_was_done_before_is_not_reckoned_with_in_the_time_left(monkeypatch: pytest.MonkeyPatch):
    now = 0.0
    monkeypatch.setattr(several.time, "monotonic", lambda: now)
    view = SeveralView(Console(file=io.StringIO()))
    listen = view.listener("one")
    listen(started(cycles=4, trials=2))
    for cycle in (0, 1):  # in an earlier run
        listen(CycleFinished(row={"cycle": cycle, "val_accuracy": 0.9}))
    listen(CycleStarted(cycle=2, done=()))
    listen(TrainingStarted(cycle=2, packs=1, trials=2))
    now = 30.0
    listen(trial(2, 0))
    listen(trial(2, 1))
    assert view._times() == "running 30 s, left 30 s"


def test_without_a_terminal_notices_are_printed_with_the_runs_name_and_progress_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
):
    now, sink = 0.0, io.StringIO()
    monkeypatch.setattr(several.time, "monotonic", lambda: now)
    with SeveralView(Console(file=sink)) as view:
        listen = view.listener("one")
        listen(started())
        listen(Notice(text="something to know"))
        listen(trial(0, 0))
        now = several.LINE_SECONDS + 1
        listen(trial(0, 1))
    assert sink.getvalue().splitlines() == [
        "  one: something to know",
        "  0 of 4 cycles of 1 run finished; running 31 s, left 1 min 33 s",
    ]
    assert view.notes == ["one: something to know"]
