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
