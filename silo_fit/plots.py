"""What arms reached, as PNG."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from oracle.view.plots import label_cycles, new_figure, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from silo_fit.replay import Replayed

# Okabe and Ito's colours, which most people can tell apart; markers and dashes tell them in grey.
ORANGE, BLUE, GREY, GREEN, RED, SKY, PINK, BLACK = (
    "#e69f00", "#0072b2", "#7f7f7f", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#000000",
)  # fmt: skip
STYLES = {
    "silo": {"color": ORANGE, "marker": "o", "linestyle": "-"},
    "oracle": {"color": BLUE, "marker": "s", "linestyle": "--"},
    "constant": {"color": GREY, "marker": "^", "linestyle": ":"},
}


def draw_replay(found: "Replayed") -> bytes:
    """Test accuracy and max_lr by cycle, an arm a line; bars and bands are deviations over seeds."""
    plan, trained = found.replay, found.trained
    figure = new_figure(10, 7)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    for offset, arm in zip((-0.08, 0.0, 0.08), plan.arms, strict=True):
        values = 100 * trained.accuracies(arm.name)
        _line(above, values, arm.label, STYLES[arm.name], offset)
        style = STYLES[arm.name]
        below.plot(range(len(arm.peaks)), arm.peaks, label=arm.label, markersize=4, **style)
    in_sample = [row["test_accuracy"] for row in plan.rows]
    if all(value is not None for value in in_sample):
        above.plot(
            range(len(in_sample)), [100 * value for value in in_sample], color=BLUE, alpha=0.35, linewidth=1,
            label="the search's own seeds (in-sample)",
        )  # fmt: skip
    below.vlines(
        [row["cycle"] for row in plan.rows], [row["lo"] for row in plan.rows], [row["hi"] for row in plan.rows],
        color=BLUE, alpha=0.25, linewidth=7, label="Oracle's interval",
    )  # fmt: skip
    below.set_yscale("log")
    below.set_ylabel("max_lr")
    above.set_ylabel("test accuracy, %")
    above.set_title(found.verdict, fontsize=10, wrap=True)
    label_cycles(below, {row["cycle"]: row["weights_remaining"] for row in plan.rows})
    for axes in (above, below):
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    return png(figure)


def _line(axes: "Axes", values: Float[ndarray, "S M"], label: str, style: dict[str, Any], offset: float) -> None:
    """Means over seeds, with bars of a standard deviation, a little beside their cycle."""
    std = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
    at = np.arange(values.shape[1]) + offset
    axes.errorbar(at, values.mean(axis=0), std, label=label, markersize=5, capsize=2, elinewidth=1, **style)
