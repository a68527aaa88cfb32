"""A run as it happens, for people: cycles, packs, the time left, and the accuracies so far."""

import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from oracle.events import (
    CycleFinished,
    CycleStarted,
    Event,
    Notice,
    PackProgress,
    RunEnded,
    RunStarted,
    TrainingStarted,
    TrialFinished,
)
from oracle.runs.summaries import clip_of_gaps, mean_accuracies
from oracle.view.words import counted

ETA_SECONDS = 10.0  # of running before there is an estimate of the time left: at first it is the start that takes it
LINE_SECONDS = 30.0  # between two lines where there is no terminal to draw on
SHADES = ("bold green", "green", "yellow", "red")


class LiveView:
    """A listener that draws a run on a terminal, and prints a line now and then where there is none."""

    def __init__(self, console: Console) -> None:
        """`console` must have a file of its own: Ray's chatter is kept from sys.stdout while it trains."""
        self._console = console
        self._lock = threading.Lock()  # the terminal is drawn from a thread of its own
        self._run: RunStarted | None = None
        self._rows: list[Mapping[str, Any]] = []
        self._notes: list[str] = []
        self._cycle: int | None = None  # that is trained
        self._packs: dict[str, float] = {}
        self._num_packs = self._num_trials = self._trials_before = 0
        self._trials: list[TrialFinished] = []  # of the cycle
        self._started = self._printed = time.monotonic()
        self._live: Live | None = None

    def __call__(self, event: Event) -> None:
        """See `oracle.events.Listener`."""
        with self._lock:
            self._take_in(event)
        match event:
            case RunStarted():
                self._begin(event)
            case RunEnded():
                self._end()
            case CycleFinished():
                cells = dict(zip(COLUMNS, cells_of(event.row), strict=True))
                self._print(", ".join(f"{name} {text}" for name, text in cells.items()))
            case Notice():
                self._print(event.text)
            case PackProgress() if time.monotonic() - self._printed > LINE_SECONDS:
                self._print(self._progress())

    @property
    def notes(self) -> list[str]:
        """The text of all notices."""
        return list(self._notes)

    def _take_in(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._run = event
                self._started = time.monotonic()
            case CycleStarted():
                self._trials = list(event.done)
            case TrainingStarted():
                self._trials_before += self._num_trials
                self._cycle, self._num_packs, self._num_trials = event.cycle, event.packs, event.trials
                self._packs = {}
            case PackProgress():
                self._packs[event.pack] = event.done
            case TrialFinished():
                self._trials.append(event)
            case CycleFinished():
                self._rows.append(event.row)
                self._cycle = None
            case Notice():
                self._notes.append(event.text)

    def _begin(self, run: RunStarted) -> None:
        if not self._console.is_terminal:
            self._console.print(f"{run.name}: {_extent_of(run)} in {run.folder}", soft_wrap=True)
            return
        self._live = Live(
            get_renderable=self._draw,
            console=self._console,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def _end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, text: str) -> None:
        """A line where there is no terminal; there the picture says it."""
        if self._live is None:
            self._printed = time.monotonic()
            self._console.print(f"  {text}", soft_wrap=True)

    def _draw(self) -> RenderableType:
        with self._lock:
            assert self._run is not None
            parts: list[RenderableType] = [
                Text(f"{self._run.name}  {_extent_of(self._run)}", style="bold"),
                Text(self._run.folder, style="dim"),
            ]
            if self._rows:
                parts.append(cycle_table(self._rows[-10:], width=self._console.width))
            if self._cycle is not None:
                parts.append(Text(self._progress()))
                bar = ProgressBar(total=1, completed=self._fraction(), width=min(60, self._console.width))
                parts.append(Padding(bar, (0, 0)))  # ends its line, as a bare bar does not
                if self._trials:
                    parts.append(self._accuracies())
            parts += [Text(note, style="yellow") for note in self._notes[-3:]]
            return Group(*parts)

    def _fraction(self) -> float:
        return sum(self._packs.values()) / max(1, self._num_packs)

    def _progress(self) -> str:
        assert self._run is not None
        packs = sum(done == 1 for done in self._packs.values())
        elapsed = time.monotonic() - self._started
        trained = self._trials_before + self._fraction() * self._num_trials
        last = self._run.cycles - 1
        left = (1 - self._fraction()) * self._num_trials + (last - (self._cycle or 0)) * self._run.trials
        known = trained > 0 and elapsed > ETA_SECONDS
        eta = duration(elapsed / trained * left) if known else "unknown yet"
        return (
            f"cycle {self._cycle} of {last}: {packs} of {self._num_packs} packs done, "
            f"running {duration(elapsed)}, left {eta}"
        )

    def _accuracies(self) -> Text:
        """The mean validation accuracy of each candidate so far, coloured by its gap to the best."""
        rows = [
            {name: getattr(trial, name) for name in ("cycle", "seed", "max_lr", "outcome", "val_accuracy")}
            for trial in self._trials
            if trial.cycle == self._cycle  # a winner of an earlier one may be trained again meanwhile
        ]
        means = {max_lr: mean for (_, max_lr), mean in mean_accuracies(rows).items()}
        best = max((mean for mean in means.values() if not math.isnan(mean)), default=0.0)
        text = Text("accuracy so far, % at max_lr:  ", style="dim")
        for max_lr, mean in means.items():
            if math.isnan(mean):
                text.append(f"{max_lr:.3g} diverged  ", style="magenta")
            else:
                shade = min(len(SHADES) - 1, int((best - mean) / clip_of_gaps() * len(SHADES)))
                text.append(f"{max_lr:.3g} ", style="dim")
                text.append(f"{100 * mean:.1f}  ", style=SHADES[shade])
        return text


COLUMNS = ("cycle", "weights %", "optimum", "interval", "surely", "possibly", "val %", "test %")
SPARED = ("test %", "weights %", "val %")  # where the terminal is narrow, in this order
STYLES = {"surely": "bold", "possibly": "dim"}


def cells_of(row: Mapping[str, Any]) -> list[str]:
    """One row of oracle.parquet as people read it: percent, four digits; * where an end lies, or may, on the edge.

    surely and possibly: what is surely, and what may be, in the interval.
    """
    lo, hi = f"{row['lo']:.4g}" + "*" * row["lo_on_edge"], f"{row['hi']:.4g}" + "*" * row["hi_on_edge"]
    return [
        str(row["cycle"]),
        _percent(row["weights_remaining"], None),
        f"{row['max_lr']:.4g}",
        "-" if row.get("num_candidates") == 1 else f"[{lo}, {hi}]",
        *_ranges(row),
        _percent(row["val_accuracy"], row["val_accuracy_std"]),
        _percent(row["test_accuracy"], row["test_accuracy_std"]),
    ]


def _ranges(row: Mapping[str, Any]) -> tuple[str, str]:
    if row.get("curve_max_lr") is None:
        return "-", "-"
    sure = "nothing" if row["lo_sure"] is None else f"[{row['lo_sure']:.4g}, {row['hi_sure']:.4g}]"
    lo, hi = (f"{row[f'{end}_possible']:.4g}" + "*" * row[f"{end}_open"] for end in ("lo", "hi"))
    return sure, f"[{lo}, {hi}]"


def cycle_table(rows: Sequence[Mapping[str, Any]], *, width: int | None = None) -> Table:
    """Rows of oracle.parquet as a table for a terminal of `width` characters; without some columns where it is narrow."""
    cells = [dict(zip(COLUMNS, cells_of(row), strict=True)) for row in rows]
    shown = [name for name in COLUMNS if name not in STYLES or any(row[name] != "-" for row in cells)]
    widths = {name: max(map(len, [name, *(row[name] for row in cells)])) for name in COLUMNS}
    for name in SPARED:
        if width is not None and sum(widths[each] + 2 for each in shown) - 2 > width:
            shown.remove(name)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True, style=STYLES.get(name), min_width=widths[name])
    for row in cells:
        table.add_row(*(row[name] for name in shown))
    return table


def extent(*, cycles: int, candidates: int, seeds: int) -> str:
    """How much a search begins with, as people say it.

    >>> extent(cycles=13, candidates=24, seeds=1)
    '13 cycles, 24 candidates, 1 seed'
    """
    sizes = {"cycle": cycles, "candidate": candidates, "seed": seeds}
    return ", ".join(counted(size, what) for what, size in sizes.items())


def _extent_of(run: RunStarted) -> str:
    return extent(cycles=run.cycles, candidates=run.candidates, seeds=run.seeds)


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(8), duration(75), duration(7384), duration(400_000)
    ('8 s', '1 min 15 s', '2 h 03 min', '4 d 15 h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def _percent(value: float | None, std: float | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.2f}" + (f" ± {100 * std:.2f}" if std is not None else "")
