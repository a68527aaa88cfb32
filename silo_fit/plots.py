"""What arms reached, as PNG.

Axes: S seeds, M cycles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from oracle.view.plots import label_cycles, new_figure, png
from oracle.view.words import points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which most people can tell apart; markers and dashes tell them in grey.
ORANGE, BLUE, GREY, GREEN, RED, SKY, PINK, BLACK = (
    "#e69f00", "#0072b2", "#7f7f7f", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#000000",
)  # fmt: skip
REPLAY_STYLES = (
    {"color": ORANGE, "marker": "o", "linestyle": "-"},
    {"color": BLUE, "marker": "s", "linestyle": "--"},
    {"color": GREY, "marker": "^", "linestyle": ":"},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One arm, as it is drawn."""

    label: str
    accuracies: Float[ndarray, "S M"]  # of the test images, fractions
    peaks: Sequence[float]  # max_lr of each cycle
    kind: str = "warmup"  # shape of its schedule
    is_silo: bool = False  # whether its peaks are a SILO curve's


def draw_replay(lines: Sequence[Line], *, title: str, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Test accuracy and max_lr by cycle, of a curve, an Oracle's optima and a constant; `rows`: of oracle.parquet.

    Bars are standard deviations over seeds.
    """
    figure = new_figure(10, 7)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    for line, style, offset in zip(lines, REPLAY_STYLES, (-0.1, 0.0, 0.1), strict=True):
        _draw_accuracies(above, line, style, offset)
        below.plot(range(len(line.peaks)), line.peaks, markersize=4, **style)
    in_sample = [row["test_accuracy"] for row in rows]
    if all(value is not None for value in in_sample):
        above.plot(
            range(len(rows)), [100 * value for value in in_sample], color=BLUE, alpha=0.35, linewidth=1,
            label="the search's own seeds (in-sample)",
        )  # fmt: skip
    below.vlines(
        [row["cycle"] for row in rows], [row["lo"] for row in rows], [row["hi"] for row in rows],
        color=BLUE, alpha=0.25, linewidth=7, label="Oracle's interval",
    )  # fmt: skip
    below.set_yscale("log")
    below.margins(y=0.1)
    rates = [rate for line in lines for rate in line.peaks]
    if min(rates) == max(rates) == min(row["lo"] for row in rows) == max(row["hi"] for row in rows):
        below.set_ylim(rates[0] / 2, 2 * rates[0])  # else there is nothing to stretch the axis over
    below.set_ylabel("max_lr")
    above.set_ylabel("test accuracy, %")
    above.set_title(title, fontsize=10, wrap=True)
    label_cycles(below, {row["cycle"]: row["weights_remaining"] for row in rows})
    for axes in (above, below):
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    return png(figure)


def _draw_accuracies(axes: "Axes", line: Line, style: dict[str, Any], offset: float = 0.0) -> None:
    """Means over seeds, with bars of a standard deviation, a little beside their cycle."""
    values = 100 * line.accuracies
    std = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
    at = np.arange(values.shape[1]) + offset
    axes.errorbar(at, values.mean(axis=0), std, label=line.label, markersize=5, capsize=2, elinewidth=0.8, **style)


SHAPE_STYLES: Mapping[str, tuple[str, str]] = {
    "constant": (GREY, "v"),
    "decay": (SKY, "D"),
    "cyclical": (GREEN, "^"),
    "warmup": (ORANGE, "o"),
    "cosine": (BLUE, "s"),
    "rex": (PINK, "P"),
    "autolrs": (RED, "*"),
}


def draw_comparison(
    lines: Sequence[Line],
    differences: Sequence[tuple[float, tuple[float, float] | None] | None],
    *,
    tolerance: float,
    title: str,
    weights_remaining: Mapping[int, float],
) -> bytes:
    """Test accuracy by cycle, and each arm's difference to SILO with its 95% interval; the best arm first.

    Dashed, with hollow marks: under SILO's peaks. `differences`: mean and interval, fractions; None for SILO itself.
    """
    figure = new_figure(13, max(5.0, 1.5 + 0.38 * len(lines)))
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    for line in lines:
        values = 100 * line.accuracies.mean(axis=0)
        left.plot(range(len(values)), values, label=line.label, markersize=5, **_style(line))
    left.set_ylabel("test accuracy, %, mean over seeds")
    label_cycles(left, weights_remaining)
    left.grid(alpha=0.25)
    places = range(len(lines), 0, -1)
    for place, line, difference in zip(places, lines, differences, strict=True):
        mean, interval = (0.0, None) if difference is None else difference
        style = _style(line) | {"linestyle": "none"}
        error = None if interval is None else [[100 * (mean - interval[0])], [100 * (interval[1] - mean)]]
        right.errorbar([100 * mean], [place], xerr=error, markersize=6, capsize=3, elinewidth=1.2, **style)
    right.axvspan(-100 * tolerance, 100 * tolerance, color=GREY, alpha=0.15)
    right.axvline(0, color=BLACK, linewidth=0.8)
    right.set_yticks(list(places), [line.label for line in lines])
    right.set_xlabel(
        f"points of test accuracy above SILO, mean over cycles,\n95% interval over seeds; grey: within {points(tolerance)}"
    )
    right.grid(alpha=0.25, axis="x")
    figure.suptitle(title, fontsize=10, wrap=True)
    return png(figure)


def _style(line: Line) -> dict[str, Any]:
    colour, marker = SHAPE_STYLES[line.kind]
    return {
        "color": colour,
        "marker": marker,
        "linestyle": "--" if line.is_silo else "-",
        "markerfacecolor": "white" if line.is_silo else colour,
        "linewidth": 3.0 if line.label == "SILO" else 1.4,
    }
