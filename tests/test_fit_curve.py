import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracle.errors import CurveError
from search_spaces.silo import RECOMMENDED, SiloRanges
from silo_fit.curve import SiloCurve, shape

curves = st.builds(
    SiloCurve,
    eps=st.floats(0, 10),
    delta=st.floats(0, 10),
    q=st.floats(0, 10),
    beta=st.floats(0.1, 20),
    pruning_rate=st.floats(0.001, 0.99),
)


@given(curves, st.lists(st.floats(0, 1e6), min_size=2, max_size=20))
def test_curve_never_falls_and_stays_between_eps_and_top(curve, cycles):
    values = curve(sorted(cycles))
    assert (np.diff(values) >= 0).all()
    assert (values >= curve.eps).all()
    assert (values <= curve.eps + curve.delta).all()


@given(curves, st.floats(0, 60))
def test_curve_equals_the_papers_formula_where_that_is_defined(curve, cycle):
    if cycle <= curve.q:
        assert curve(cycle) == curve.eps
        return
    gamma = 1 - (1 - curve.pruning_rate) ** (cycle - curve.q)
    if not 1e-3 < gamma < 1 - 1e-3:  # elsewhere the printed form loses digits to 1 - gamma, or divides by zero
        return
    printed = curve.delta / (1 + (gamma / (1 - gamma)) ** -curve.beta) + curve.eps
    assert curve(cycle) == pytest.approx(printed, rel=1e-10, abs=1e-12)  # gamma keeps 13 digits, beta 20 costs one


@given(curves, st.floats(0.01, 0.99))
def test_cycle_at_is_the_inverse_of_the_shape(curve, part):
    curve = replace(curve, q=0.0)  # a q costs digits of the small distances from it that a small beta gives
    cycle = curve.cycle_at(part)
    assert shape(cycle, curve.q, curve.beta, curve.pruning_rate) == pytest.approx(part, rel=1e-7)


@given(curves)
def test_half_of_the_rise_is_done_where_half_the_weights_are_gone_whatever_beta(curve):
    assert curve.half_way == pytest.approx(curve.q - math.log(2) / math.log(1 - curve.pruning_rate), rel=1e-12)


def test_curve_takes_a_number_or_an_array():
    curve = SiloCurve(eps=0.04, delta=0.06, q=1, beta=5, pruning_rate=0.2)
    assert isinstance(curve(3), float)
    assert curve(np.array([[0, 3], [5, 7]])).shape == (2, 2)


@pytest.mark.parametrize(
    ("eps", "delta", "cycles", "printed", "digit"),
    [
        (0.04, 0.06, (0, 3, 5, 7, 13), (0.04, 0.0432, 0.092, 0.099, 0.0999), (1e-4, 1e-4, 1e-3, 1e-3, 1e-4)),
        (0.03, 0.04, (0, 3, 4, 5, 7), (0.03, 0.032, 0.047, 0.064, 0.069), (1e-3,) * 5),
    ],
)
def test_curve_gives_what_tables_10_and_11_print_for_silo(eps, delta, cycles, printed, digit):
    """To one unit of the last printed digit: the paper rounds some values and cuts others."""
    values = SiloCurve(eps=eps, delta=delta, q=1, beta=5, pruning_rate=0.2)(cycles)
    assert (np.abs(values - printed) < digit).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eps", -1e-9), ("delta", -1), ("q", -0.1), ("beta", 0), ("pruning_rate", 0), ("pruning_rate", 1),
        ("eps", math.nan), ("delta", math.inf), ("q", math.inf), ("beta", math.nan),
    ],
)  # fmt: skip
def test_impossible_numbers_are_refused_by_name(name, value):
    numbers = {"eps": 0.1, "delta": 0.1, "q": 1.0, "beta": 5.0, "pruning_rate": 0.2}
    with pytest.raises(CurveError, match=name):
        SiloCurve(**{**numbers, name: value})


def test_a_curve_whose_top_overflows_is_refused():
    with pytest.raises(CurveError, match="eps \\+ delta is inf"):
        SiloCurve(eps=1e308, delta=1e308, q=1, beta=5, pruning_rate=0.2)


@pytest.mark.parametrize("beta", [1e-300, 1e-3, 5, 1e300])
@pytest.mark.parametrize("part", [0.05, 0.5, 0.95])
def test_the_cycle_of_a_part_is_found_for_any_beta(beta, part):
    curve = SiloCurve(eps=0, delta=1, q=1, beta=beta, pruning_rate=0.2)
    cycle = curve.cycle_at(part)
    assert cycle >= curve.q
    if beta == 5:
        assert curve(cycle) == pytest.approx(part, rel=1e-12)


def test_negative_cycle_is_refused():
    with pytest.raises(CurveError, match="-1"):
        SiloCurve(eps=0.1, delta=0.1, q=1, beta=5, pruning_rate=0.2)([0, -1])


@pytest.mark.parametrize(
    "ranges",
    [
        {"q": (3, 0)},
        {"q": (-1, 3)},
        {"beta": (0, 3)},
        {"q": (0, math.inf)},
        {"q": (1,)},
        {"q": (0, 1e300)},
        {"beta": (1e-300, 3)},
        {"beta": (3, 1e9)},
    ],
)
def test_impossible_ranges_are_refused_by_name(ranges):
    with pytest.raises(ValueError, match=f"range of {next(iter(ranges))}"):
        SiloRanges(**ranges)


def test_recommended_ranges_are_the_papers():
    assert (RECOMMENDED.q, RECOMMENDED.beta) == ((0, 3), (3, 6))
    assert RECOMMENDED.is_recommended
    assert not SiloRanges(beta=(3, 7)).is_recommended
