"""The learning rate at every optimiser step of one training.

t: optimiser step from 0; T: steps in all. Lengths in fractions of training or in epochs are rounded to whole steps.
"""

from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oracle.errors import ScheduleError
from oracle.experiment import Constant, Cosine, Cyclical, Decay, Rex, Schedule, WarmUp

Rates = NDArray[np.float64]  # [T]


def learning_rates(schedule: Schedule, *, max_lr: float, epochs: int, steps_per_epoch: int) -> Rates:
    """The learning rate of each of the epochs * steps_per_epoch steps: float64 [T], never above max_lr.

    constant: max_lr. decay: max_lr max(0, 1 - t / length). cosine: max_lr (1 + cos(pi t / T)) / 2.
    rex: max_lr (1 - z) / (1 - z / 2), z = t / T. cyclical: low + (max_lr - low) max(0, 1 - x),
    x = |t / step - 2 c + 1|, c = floor(1 + t / (2 step)) (Smith 2017). warmup: max_lr min(1, (t + 1) / warmup),
    times 0.1 for each drop at or before t (Liu et al. 2023, Table 1).

    Raises ScheduleError where max_lr is not a positive number or a length exceeds the training.
    """
    if not (isinstance(max_lr, Real) and 0 < max_lr < np.inf):
        raise ScheduleError(f"max_lr must be a positive number, found {max_lr!r}")
    if not all(isinstance(count, Integral) and count >= 1 for count in (epochs, steps_per_epoch)):
        raise ScheduleError(
            "expected whole numbers, at least one epoch of one step, "
            f"found {epochs!r} epochs of {steps_per_epoch!r} steps"
        )
    steps = np.arange(epochs * steps_per_epoch, dtype=np.float64)
    return SHAPES[schedule.shape](schedule, max_lr, steps, steps_per_epoch)


def _constant(schedule: Constant, max_lr: float, t: Rates, steps_per_epoch: int) -> Rates:
    return np.full(len(t), max_lr)


def _decay(schedule: Decay, max_lr: float, t: Rates, steps_per_epoch: int) -> Rates:
    return max_lr * np.maximum(0.0, 1.0 - t / max(1, round(schedule.length * len(t))))


def _cosine(schedule: Cosine, max_lr: float, t: Rates, steps_per_epoch: int) -> Rates:
    warmup = round(schedule.warmup * len(t))
    z = np.maximum(0.0, t - warmup) / max(1, len(t) - warmup)
    return _ramp(t, warmup) * max_lr * 0.5 * (1.0 + np.cos(np.pi * z))


def _rex(schedule: Rex, max_lr: float, t: Rates, steps_per_epoch: int) -> Rates:
    z = t / len(t)
    return max_lr * (1.0 - z) / (1.0 - z / 2.0)


def _cyclical(schedule: Cyclical, max_lr: float, t: Rates, steps_per_epoch: int) -> Rates:
    if schedule.low > max_lr:
        raise ScheduleError(f"schedule.low {schedule.low:g} is above max_lr {max_lr:g}: the triangles would hang down")
    step = max(1, round(schedule.step * len(t)))
    cycle = np.floor(1.0 + t / (2.0 * step))
    x = np.abs(t / step - 2.0 * cycle + 1.0)
    rates = schedule.low + (max_lr - schedule.low) * np.maximum(0.0, 1.0 - x)
    return np.minimum(rates, max_lr)  # at the peak, rounding can end a bit above


def _warmup(schedule: WarmUp, max_lr: float, t: Rates, steps_per_epoch: int) -> Rates:
    if schedule.warmup_epochs is not None:
        warmup = round(schedule.warmup_epochs * steps_per_epoch)
    else:
        warmup = round((schedule.warmup or 0.0) * len(t))
    if schedule.drop_epochs is not None:
        drops = [round(epoch * steps_per_epoch) for epoch in schedule.drop_epochs]
    else:
        drops = [round(fraction * len(t)) for fraction in schedule.drops or ()]
    if max([warmup, *drops]) > len(t):
        raise ScheduleError(
            f"warm-up ({warmup} steps) and drops ({drops}) must lie within the {len(t)} steps of training"
        )
    passed = sum((t >= drop for drop in drops), start=np.zeros(len(t)))
    return max_lr * _ramp(t, warmup) * 0.1**passed


def _ramp(t: Rates, warmup: int) -> Rates:
    """min(1, (t + 1) / warmup): the last warm-up step is at the peak."""
    return np.minimum(1.0, (t + 1.0) / warmup) if warmup else np.ones(len(t))


SHAPES: Mapping[str, Callable[[Any, float, Rates, int], Rates]] = {
    "constant": _constant,
    "decay": _decay,
    "cosine": _cosine,
    "rex": _rex,
    "cyclical": _cyclical,
    "warmup": _warmup,
}
