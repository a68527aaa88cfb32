"""Learning rates step by step, against their closed forms."""

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from oracle.errors import Error, ScheduleError
from oracle.experiment import Schedule
from oracle.training.schedules import SHAPES, learning_rates

PEAK, EPOCHS, STEPS = 0.3, 10, 7  # T = 70 steps
T = EPOCHS * STEPS
CLOSE = {"rel": 1e-12, "abs": 1e-15}  # the same formula in another order of float64 operations


def schedule(shape, **fields):
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return TypeAdapter(Schedule).validate_python({"shape": shape, **fields})


def rates(shape, *, peak=PEAK, epochs=EPOCHS, steps=STEPS, **fields):
    return learning_rates(schedule(shape, **fields), max_lr=peak, epochs=epochs, steps_per_epoch=steps)


CLASSES = {get_args(it.model_fields["shape"].annotation)[0]: it for it in get_args(get_args(Schedule)[0])}


@pytest.mark.parametrize("shape", sorted(CLASSES.keys() | SHAPES.keys()))
def test_every_shape_of_the_format_is_in_the_registry_and_the_other_way_round(shape):
    settings = CLASSES[shape](shape=shape)  # every setting has a default
    t = np.arange(T, dtype=np.float64)
    values = SHAPES[shape](settings, PEAK, t, STEPS)
    assert (values == learning_rates(settings, max_lr=PEAK, epochs=EPOCHS, steps_per_epoch=STEPS)).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_there_is_one_rate_a_step(shape):
    values = rates(shape)
    assert values.shape == (T,)
    assert values.dtype == np.float64


# Shape by shape: first step, last step, boundaries


def test_constant_is_the_peak_throughout():
    assert (rates("constant") == PEAK).all()


def test_decay_falls_linearly_to_0_after_its_length():
    values = rates("decay")
    assert values[0] == PEAK
    assert values[-1] == pytest.approx(PEAK / T, **CLOSE)
    assert values[35] == pytest.approx(PEAK / 2, **CLOSE)
    short = rates("decay", length=0.5)
    assert short[34] == pytest.approx(PEAK / 35, **CLOSE)
    assert (short[35:] == 0).all()
    rounded = rates("decay", length=0.33)  # 23.1 steps
    assert rounded[22] == pytest.approx(PEAK / 23, **CLOSE)
    assert rounded[23] == 0


def test_cosine_is_half_a_wave():
    values = rates("cosine")
    assert values[0] == PEAK
    assert values[35] == pytest.approx(PEAK / 2, **CLOSE)
    assert values[-1] == pytest.approx(PEAK * (1 + math.cos(math.pi * 69 / 70)) / 2, **CLOSE)


def test_cosine_may_warm_up_first():
    values = rates("cosine", warmup=0.2)  # 14 steps
    assert values[:14] == pytest.approx([PEAK * step / 14 for step in range(1, 15)], **CLOSE)
    assert values[13] == values[14] == PEAK  # the wave begins where the ramp ends
    assert values[14 + 28] == pytest.approx(PEAK / 2, **CLOSE)  # half of the 56 steps that are left
    assert values[-1] == pytest.approx(PEAK * (1 + math.cos(math.pi * 55 / 56)) / 2, **CLOSE)


def test_rex_follows_its_formula():
    values = rates("rex")
    assert values[0] == PEAK
    assert values[35] == pytest.approx(PEAK * 0.5 / 0.75, **CLOSE)
    assert values[-1] == pytest.approx(PEAK * (1 / 70) / (1 - 69 / 140), **CLOSE)


def test_cyclical_runs_up_and_down_between_low_and_the_peak():
    values = rates("cyclical", low=0.1, step=0.1)  # legs of 7 steps, 5 triangles
    triangle = [0.1 + 0.2 * step / 7 for step in (0, 1, 2, 3, 4, 5, 6, 7, 6, 5, 4, 3, 2, 1)]
    assert values == pytest.approx(triangle * 5, **CLOSE)


def test_cyclical_default_is_four_triangles_from_0():
    values = rates("cyclical", epochs=10, steps=8)  # legs of 10
    assert list(np.flatnonzero(values == 0)) == [0, 20, 40, 60]
    assert list(np.flatnonzero(values == PEAK)) == [10, 30, 50, 70]


def test_warmup_reaches_the_peak_at_its_last_step_and_drops_to_tenths():
    values = rates("warmup", warmup=0.3, drops=[0.5, 0.75])  # 21 steps; 35 and round(52.5) = 52
    assert values[:21] == pytest.approx([PEAK * step / 21 for step in range(1, 22)], **CLOSE)
    assert (values[20:35] == PEAK).all()
    assert values[35:52] == pytest.approx([PEAK / 10] * 17, **CLOSE)
    assert values[52:] == pytest.approx([PEAK / 100] * 18, **CLOSE)


def test_warmup_in_epochs_is_warmup_in_fractions():
    by_epochs = rates("warmup", warmup_epochs=3, drop_epochs=[5, 8])
    assert (by_epochs == rates("warmup", warmup=0.3, drops=[0.5, 0.8])).all()


def test_warmup_in_epochs_keeps_its_length_when_the_training_grows():
    values = rates("warmup", warmup_epochs=2, drop_epochs=[4], epochs=40)
    assert values[13] == PEAK
    assert values[12] < PEAK
    assert values[28] == pytest.approx(PEAK / 10, **CLOSE)


def test_a_drop_within_the_ramp_divides_the_ramp():
    values = rates("warmup", warmup=0.2, drops=[0.1])
    assert values[6] == pytest.approx(PEAK * 7 / 14, **CLOSE)
    assert values[7] == pytest.approx(PEAK * 8 / 14 / 10, **CLOSE)


def test_lengths_of_zero_and_of_the_whole_training():
    assert (rates("warmup") == PEAK).all()
    assert (rates("warmup", warmup=0.0, drops=[]) == PEAK).all()
    assert rates("warmup", warmup=1.0)[-1] == PEAK
    assert (rates("warmup", drops=[1.0]) == PEAK).all()  # the drop would come after the last step
    assert rates("warmup", drops=[0.0]) == pytest.approx([PEAK / 10] * T, **CLOSE)
    assert rates("cosine", warmup=1.0) == pytest.approx([PEAK * step / T for step in range(1, T + 1)], **CLOSE)


@pytest.mark.parametrize("shape", SHAPES)
def test_one_step_is_a_training(shape):
    assert rates(shape, epochs=1, steps=1)[0] == (0 if shape == "cyclical" else PEAK)


# All shapes


fraction = st.floats(0, 1)
SCHEDULES = st.one_of(
    st.sampled_from([schedule(shape) for shape in SHAPES]),
    st.builds(lambda x: schedule("decay", length=x), st.floats(1e-3, 1)),
    st.builds(lambda x: schedule("cosine", warmup=x), fraction),
    st.builds(lambda x, y: schedule("cyclical", low=x, step=y), st.floats(0, 1e-3), st.floats(1e-3, 1)),
    st.builds(lambda x, y: schedule("warmup", warmup=x, drops=sorted(y)), fraction, st.lists(fraction, max_size=3)),
)


@settings(deadline=None, max_examples=300)
@given(SCHEDULES, st.floats(1e-3, 10), st.integers(1, 12), st.integers(1, 12))
def test_no_rate_is_negative_or_above_the_peak(shape, peak, epochs, steps):
    values = learning_rates(shape, max_lr=peak, epochs=epochs, steps_per_epoch=steps)
    assert len(values) == epochs * steps
    assert values.min() >= 0
    # Exactly, but for the triangles: low + (max_lr - low) may round up by one part in 2**52.
    assert values.max() <= peak


@settings(deadline=None)
@given(SCHEDULES, st.floats(1e-2, 1))
def test_shape_does_not_depend_on_the_peak(shape, peak):
    one = learning_rates(shape, max_lr=peak, epochs=5, steps_per_epoch=3)
    two = learning_rates(shape, max_lr=2 * peak, epochs=5, steps_per_epoch=3)
    low = getattr(shape, "low", 0.0)
    assert (two - low) * (peak - low) == pytest.approx((one - low) * (2 * peak - low), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("peak", [0.0, -0.1, math.nan, math.inf, "x", None])
def test_a_peak_that_is_no_positive_number_is_refused(shape, peak):
    with pytest.raises(ScheduleError, match="max_lr must be a positive number"):
        rates(shape, peak=peak)


@pytest.mark.parametrize(("epochs", "steps"), [(0, 5), (5, 0), (-1, 5), (2.5, 4), (4, "5")])
def test_a_training_without_steps_is_refused(epochs, steps):
    with pytest.raises(ScheduleError, match="at least one epoch of one step"):
        rates("constant", epochs=epochs, steps=steps)


@pytest.mark.parametrize("fields", [{"warmup_epochs": 10.2}, {"drop_epochs": [4, 10.2]}])
def test_lengths_in_epochs_beyond_the_training_are_refused(fields):
    """10.2 epochs of 7 steps are 71 steps of 70."""
    with pytest.raises(ScheduleError, match="within the 70 steps"):
        rates("warmup", **fields)


def test_triangles_that_would_hang_down_are_refused():
    with pytest.raises(ScheduleError, match=r"schedule\.low 0\.4 is above max_lr 0\.3"):
        rates("cyclical", low=0.4)


def test_refusals_are_the_projects_own_and_value_errors():
    assert issubclass(ScheduleError, Error)
    assert issubclass(ScheduleError, ValueError)
