"""Several runs at once as they happen, for people: a line each, and the time left for all."""

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from oracle.events import (
    CycleFinished,
    CycleStarted,
    Event,
    Listener,
    Notice,
    RunStarted,
    TrainingStarted,
    TrialFinished,
)
from oracle.view.terminal import ETA_SECONDS, LINE_SECONDS, duration
from oracle.view.words import counted

MOST_LINES = 20  # runs that are shown at once, where there are more those that are not finished


@dataclass(slots=True)
class _Run:
    """How far one run has come."""

    cycles: int = 0
    trials: int = 1  # that a cycle is likely to take
    finished: int = 0  # cycles
    done: set[tuple[int, float, int]] = field(default_factory=set)  # trials of the cycle at work
    before: float = 0.0  # fraction that was done when it began
    has_trained: bool = False
    best: str = ""  # validation accuracy of the last finished cycle

    @property
    def fraction(self) -> float:
        """Of the whole run."""
        return min(1.0, (self.finished + min(1.0, len(self.done) / self.trials)) / self.cycles) if self.cycles else 0.0


class SeveralView:
    """Draws runs on a terminal, and prints a line now and then where there is none. Use it as a context."""

    def __init__(self, console: Console) -> None:
        """`console` must have a file of its own: Ray's chatter is kept from sys.stdout while it trains."""
        self._console, self._lock = console, threading.RLock()
        self._runs: dict[str, _Run] = {}
        self._started = self._printed = time.monotonic()
        self._live: Live | None = None
        self.notes: list[str] = []

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._draw, console=self._console, refresh_per_second=4, transient=True,
                redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def listener(self, name: str) -> Listener:
        """Who hears of a run, which is shown by this name from now on."""
        with self._lock:
            self._runs[name] = _Run()

        def listen(event: Event) -> None:
            with self._lock:
                self._take_in(name, self._runs[name], event)

        return listen

    def _take_in(self, name: str, run: _Run, event: Event) -> None:
        match event:
            case RunStarted():
                run.cycles, run.trials = event.cycles, max(1, event.trials)
            case CycleStarted():
                run.done = {(each.cycle, each.max_lr, each.seed) for each in event.done}
            case TrainingStarted() if not run.has_trained:
                run.has_trained, run.before = True, run.fraction
            case TrialFinished():
                run.done.add((event.cycle, event.max_lr, event.seed))
                self._say_progress()
            case CycleFinished():
                run.finished, run.done = event.row["cycle"] + 1, set()
                if event.row["val_accuracy"] is not None:
                    run.best = f"{100 * event.row['val_accuracy']:.2f}"
                if not run.has_trained:
                    run.before = run.fraction
                self._say_progress()
            case Notice():
                self.notes.append(f"{name}: {event.text}")
                if self._live is None:
                    self._console.print(f"  {name}: {event.text}", soft_wrap=True)

    def _say_progress(self) -> None:
        """A line now and then where there is no terminal; there the picture says it."""
        if self._live is None and time.monotonic() - self._printed > LINE_SECONDS:
            self._printed = time.monotonic()
            done, of = (
                sum(counts) for counts in zip(*((run.finished, run.cycles) for run in self._runs.values()), strict=True)
            )
            runs = counted(len(self._runs), "run")
            self._console.print(f"  {done} of {of} cycles of {runs} finished; {self._times()}", soft_wrap=True)

    def _times(self) -> str:
        elapsed = time.monotonic() - self._started
        now = sum(run.fraction for run in self._runs.values())
        trained = now - sum(run.before for run in self._runs.values())
        known = trained > 0 and elapsed > ETA_SECONDS
        left = duration(elapsed / trained * (len(self._runs) - now)) if known else "unknown yet"
        return f"running {duration(elapsed)}, left {left}"

    def _draw(self) -> RenderableType:
        with self._lock:
            table = Table(box=None, pad_edge=False, header_style="bold")
            for name in ("", "cycles", "", "val %"):
                table.add_column(name, justify="left" if not table.columns else "right", no_wrap=True)
            shown = list(self._runs.items())
            if len(shown) > MOST_LINES:
                shown = [(name, run) for name, run in shown if run.fraction < 1][:MOST_LINES]
            for name, run in shown:
                cycles = f"{run.finished} of {run.cycles}" if run.cycles else "starting"
                table.add_row(name, cycles, f"{run.fraction:.0%}", run.best)
            hidden = len(self._runs) - len(shown)
            more = [Text(f"and {counted(hidden, 'run')} more, done or waiting")] if hidden else []
            notes = [Text(note, style="yellow") for note in self.notes[-3:]]
            return Group(table, *more, Text(self._times()), *notes)
