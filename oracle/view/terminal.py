"""A run as it happens, for people: cycles, packs, the time left, and the accuracies so far."""

import threading
import time
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from oracle.events import Watch
from oracle.experiment import Experiment
from oracle.runs.tables import trials_of_cycle
from oracle.storage import Folder

ETA_SECONDS = 10.0  # of running before there is an estimate of the time left
LINE_SECONDS = 30.0  # between two lines where there is no terminal to draw on
ROWS_SECONDS = 1.0  # between two looks at the records
CLIPPED_GAP = 0.03  # fraction of accuracy below the cycle's best at which colours end
SHADES = ("bold green", "green", "yellow", "red")


class LiveView(Watch):
    """Draws a run on a terminal; prints a line now and then where there is none."""

    def __init__(self, console: Console) -> None:
        """`console` must have a file of its own: Ray's chatter is kept from sys.stdout while it trains."""
        self._console = console
        self._lock = threading.Lock()
        self._rows: list[Mapping[str, Any]] = []
        self._notes: list[str] = []
        self._packs: dict[str, float] = {}
        self._num_packs = self._num_trials = self._trials_before = 0
        self._cycle: int | None = None
        self._lineage = ""
        self._trials: pa.Table | None = None
        self._read = self._printed = 0.0
        self._started = time.monotonic()
        self._live: Live | None = None

    def starts(self, *, experiment: Experiment, folder: Folder) -> None:
        """See `Watch.starts`."""
        self._experiment, self._folder = experiment, folder
        self._started = self._printed = time.monotonic()
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._draw,
                console=self._console,
                refresh_per_second=4,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        else:
            self._console.print(f"{experiment.name}: {extent(experiment)} in {folder.url}", soft_wrap=True)

    def cycle_starts(self, *, cycle: int, lineage: str, packs: int, trials: int) -> None:
        """See `Watch.cycle_starts`."""
        with self._lock:
            self._trials_before += self._num_trials
            self._cycle, self._lineage, self._num_packs, self._num_trials = cycle, lineage, packs, trials
            self._packs, self._trials, self._read = {}, None, 0.0

    def pack_moves(self, *, pack: str, done: float) -> None:
        """See `Watch.pack_moves`."""
        with self._lock:
            self._packs[pack] = done
            now = time.monotonic()
            if done == 1 and now - self._read > ROWS_SECONDS and self._cycle is not None and self._live:
                self._trials, self._read = trials_of_cycle(self._folder, self._cycle, self._lineage), now
            if self._live is None and now - self._printed > LINE_SECONDS:
                self._printed = now
                self._console.print(f"  {self._progress()}", soft_wrap=True)

    def cycle_ends(self, row: Mapping[str, Any]) -> None:
        """See `Watch.cycle_ends`."""
        with self._lock:
            self._rows.append(row)
            self._cycle = None
        if self._live is None:
            cells = dict(zip(COLUMNS, cells_of(row), strict=True))
            self._console.print("  " + ", ".join(f"{name} {text}" for name, text in cells.items()), soft_wrap=True)

    def says(self, text: str) -> None:
        """See `Watch.says`."""
        with self._lock:
            self._notes.append(text)
        if self._live is None:
            self._console.print(f"  {text}", soft_wrap=True)

    def ends(self) -> None:
        """See `Watch.ends`."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    @property
    def notes(self) -> list[str]:
        """All that was said."""
        return list(self._notes)

    def _draw(self) -> RenderableType:
        with self._lock:
            parts: list[RenderableType] = [
                Text(f"{self._experiment.name}  {extent(self._experiment)}", style="bold"),
                Text(f"{self._folder.url}", style="dim"),
            ]
            if self._rows:
                parts.append(cycle_table(self._rows[-10:]))
            if self._cycle is not None:
                parts.append(Text(self._progress()))
                bar = ProgressBar(total=1, completed=self._fraction(), width=min(60, self._console.width))
                parts.append(Padding(bar, (0, 0)))  # ends its line, as a bare bar does not
                if self._trials is not None and self._trials.num_rows:
                    parts.append(self._accuracies(self._trials))
            parts += [Text(note, style="yellow") for note in self._notes[-3:]]
            return Group(*parts)

    def _fraction(self) -> float:
        return sum(self._packs.values()) / max(1, self._num_packs)

    def _progress(self) -> str:
        packs = sum(done == 1 for done in self._packs.values())
        elapsed = time.monotonic() - self._started
        trained = self._trials_before + self._fraction() * self._num_trials
        cycles = self._experiment.pruning.cycles
        later = (cycles - (self._cycle or 0)) * len(self._experiment.candidates(0)) * len(self._experiment.seeds)
        left = (1 - self._fraction()) * self._num_trials + later
        known = trained > 0 and elapsed > ETA_SECONDS  # at first it is the start that takes the time
        eta = duration(elapsed / trained * left) if known else "unknown yet"
        return (
            f"cycle {self._cycle} of {cycles}: {packs} of {self._num_packs} packs done, "
            f"running {duration(elapsed)}, left {eta}"
        )

    def _accuracies(self, trials: pa.Table) -> Text:
        """The mean validation accuracy of each candidate so far, coloured by its gap to the best."""
        sums: dict[float, list[float | None]] = {}
        for max_lr, accuracy in zip(trials["max_lr"].to_pylist(), trials["val_accuracy"].to_pylist(), strict=True):
            sums.setdefault(max_lr, []).append(accuracy)
        means = {
            max_lr: None if None in values else sum(value or 0.0 for value in values) / len(values)
            for max_lr, values in sums.items()
        }
        best = max((mean for mean in means.values() if mean is not None), default=0.0)
        text = Text("accuracy so far, % at max_lr:  ", style="dim")
        for max_lr, mean in means.items():
            if mean is None:
                text.append(f"{max_lr:.3g} diverged  ", style="magenta")
            else:
                shade = min(len(SHADES) - 1, int((best - mean) / CLIPPED_GAP * len(SHADES)))
                text.append(f"{max_lr:.3g} ", style="dim")
                text.append(f"{100 * mean:.1f}  ", style=SHADES[shade])
        return text


COLUMNS = ("cycle", "weights %", "optimum", "interval", "val %", "test %")


def cells_of(row: Mapping[str, Any]) -> list[str]:
    """One row of oracle.parquet as people read it: percent, four digits; * where an end lies on the grid's edge."""
    lo, hi = f"{row['lo']:.4g}" + "*" * row["lo_on_edge"], f"{row['hi']:.4g}" + "*" * row["hi_on_edge"]
    return [
        str(row["cycle"]),
        f"{100 * row['weights_remaining']:.2f}",
        f"{row['max_lr']:.4g}",
        f"[{lo}, {hi}]",
        _percent(row["val_accuracy"], row["val_accuracy_std"]),
        _percent(row["test_accuracy"], row["test_accuracy_std"]),
    ]


def cycle_table(rows: list[Mapping[str, Any]]) -> Table:
    """Rows of oracle.parquet as a table for the terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*cells_of(row))
    return table


def extent(experiment: Experiment) -> str:
    """How much a search trains, as people say it.

    >>> from oracle.experiment import load_experiment
    >>> extent(load_experiment("digits-mlp", overrides=["seeds=[0]"]))
    '13 cycles x 24 candidates x 1 seed'
    """
    sizes = {"cycle": experiment.pruning.cycles + 1, "candidate": len(experiment.candidates(0))}
    sizes["seed"] = len(experiment.seeds)
    return " x ".join(f"{size} {what}{'s' * (size != 1)}" for what, size in sizes.items())


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
