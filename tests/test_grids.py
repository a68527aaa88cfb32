"""Grids of max_lr: where their points lie, and how they grow past an edge."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from search_spaces.grids import MaxLrGrid

# Points are rounded to ten significant digits: off by up to 5e-10 of themselves. A step has two such ends, and two steps
# are compared; a hundredth more for floating point.
STEP_ERROR = 4 * 5e-10 * 1.01


@st.composite
def grids(draw, extend=False):
    spacing = draw(st.sampled_from(["linear", "log", "explicit"]))
    max_extra = draw(st.integers(1, 12))
    if spacing == "explicit":
        rates = draw(st.lists(st.integers(1, 10_000), min_size=2, max_size=20, unique=True).map(sorted))
        return MaxLrGrid(spacing=spacing, values=[rate / 10_000 for rate in rates], extend=extend, max_extra=max_extra)
    low = draw(st.floats(1e-6, 1))
    high = low * draw(st.floats(1.01, 1e4))
    points = draw(st.integers(2, 60))
    return MaxLrGrid(low=low, high=high, points=points, spacing=spacing, extend=extend, max_extra=max_extra)


def grow(grid, sides):
    """Ask for growth, side after side, as a search does: "l", "h" or "b" for both."""
    candidates = grid.candidates()
    for side in sides:
        candidates = grid.extended(candidates, low=side in "lb", high=side in "hb")
    return candidates


def test_linear_points_are_evenly_spaced():
    assert MaxLrGrid(low=0.1, high=0.5, points=5).candidates() == (0.1, 0.2, 0.3, 0.4, 0.5)


def test_log_points_have_one_ratio():
    assert MaxLrGrid(low=1e-4, high=1e-1, points=4, spacing="log").candidates() == (1e-4, 1e-3, 1e-2, 1e-1)
    assert MaxLrGrid(low=1, high=16, points=5, spacing="log").candidates() == (1, 2, 4, 8, 16)


def test_explicit_values_are_taken_to_the_bit():
    values = (0.1, 0.12345678901234567, 1 / 3)
    assert MaxLrGrid(spacing="explicit", values=values).candidates() == values


def test_default_is_51_linear_points_from_1e_4_to_1e_1():
    candidates = MaxLrGrid().candidates()
    assert (len(candidates), candidates[0], candidates[-1]) == (51, 1e-4, 1e-1)
    assert candidates[25] == 0.05005  # the middle


def test_one_point_is_a_grid():
    assert MaxLrGrid(low=0.3, high=0.3, points=1).candidates() == (0.3,)
    assert MaxLrGrid(spacing="explicit", values=[0.3]).candidates() == (0.3,)


@settings(deadline=None)
@given(grids())
def test_points_ascend_from_low_to_high_exactly(grid):
    candidates = grid.candidates()
    assert all(a < b for a, b in itertools.pairwise(candidates))
    if grid.spacing != "explicit":
        assert (candidates[0], candidates[-1], len(candidates)) == (grid.low, grid.high, grid.points)
        steps = [math.log(b / a) if grid.spacing == "log" else b - a for a, b in itertools.pairwise(candidates)]
        scale = 1 if grid.spacing == "log" else grid.high
        assert max(steps) - min(steps) <= STEP_ERROR * scale


@settings(deadline=None)
@given(grids(extend=True), st.text("lhb", max_size=8))
def test_growth_keeps_the_grid_and_goes_on_by_its_own_spacing(grid, sides):
    base, grown = grid.candidates(), grow(grid, sides)
    start = grown.index(base[0])
    assert grown[start : start + len(base)] == base
    below, above = grown[: start + 1], grown[start + len(base) - 1 :]
    assert all(a < b for a, b in itertools.pairwise(grown))
    assert grown[0] > 0
    for part, (first, second) in ((below, base[:2]), (above, base[-2:])):
        for a, b in itertools.pairwise(part):
            if grid.spacing == "log":
                step = (grid.high / grid.low) ** (1 / (grid.points - 1))
                assert b / a == pytest.approx(step, rel=STEP_ERROR)
            else:
                assert b - a == pytest.approx(second - first, abs=STEP_ERROR * max(b, base[-1]))


@settings(deadline=None)
@given(grids(extend=True), st.text("lhb", max_size=40))
def test_growth_stops_at_its_bound(grid, sides):
    grown = grow(grid, sides)
    assert len(grown) <= len(grid.candidates()) + grid.max_extra


@settings(deadline=None)
@given(grids(extend=True), st.data())
def test_growth_is_the_same_in_any_order_while_the_bound_is_far(grid, data):
    grid = grid.model_copy(update={"max_extra": 1000})
    low, high = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))
    order = data.draw(st.permutations("l" * low + "h" * high))
    both = "b" * min(low, high) + ("l" * (low - high) if low > high else "h" * (high - low))
    assert grow(grid, order) == grow(grid, "l" * low + "h" * high) == grow(grid, both)


@pytest.mark.parametrize(("points", "new"), [(2, 1), (8, 1), (15, 1), (16, 2), (51, 6)])
def test_one_call_adds_an_eighth_of_the_grid_to_a_side(points, new):
    grid = MaxLrGrid(low=0.5, high=0.9, points=points, extend=True, max_extra=100)
    assert len(grow(grid, "h")) == len(grow(grid, "l")) == points + new
    assert len(grow(grid, "b")) == points + 2 * new


def test_growth_reaches_its_bound_exactly_and_then_changes_nothing():
    grid = MaxLrGrid(low=0.5, high=0.8, points=4, extend=True, max_extra=3)
    assert grow(grid, "hhh") == (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)
    assert grow(grid, "hhhhlb") == grow(grid, "hhh")


def test_nothing_is_asked_and_nothing_grows():
    grid = MaxLrGrid(low=0.5, high=0.8, points=4, extend=True)
    assert grid.extended(grid.candidates(), low=False, high=False) == grid.candidates()


@pytest.mark.parametrize(
    "grid",
    [
        MaxLrGrid(low=0.1, high=0.3, points=3, extend=True),
        MaxLrGrid(low=0.1, high=0.7, points=7, extend=True),
        MaxLrGrid(spacing="explicit", values=[0.2, 0.3], extend=True),  # 0.2 - 2 (0.3 - 0.2) is 5.6e-17, not 0
        MaxLrGrid(spacing="explicit", values=[0.1, 0.2, 0.9], extend=True),
    ],
)
def test_a_linear_grid_stops_above_0_though_rounding_may_not_hit_it(grid):
    candidates = grow(grid, "llll")
    assert candidates[0] == 0.1
    assert candidates == grow(grid, "l")


def test_a_log_grid_grows_downward_for_ever():
    grid = MaxLrGrid(low=1e-3, high=1e-1, points=3, spacing="log", extend=True)
    assert grow(grid, "llll") == (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


@pytest.mark.parametrize("spacing", ["linear", "log"])
def test_a_grid_may_reach_from_the_least_rate_to_the_largest(spacing):
    grid = MaxLrGrid(low=1e-30, high=1e20, points=11, spacing=spacing, extend=True, max_extra=100)
    candidates = grid.candidates()
    assert (candidates[0], candidates[-1], len(candidates)) == (1e-30, 1e20, 11)
    assert grow(grid, "bbb") == candidates


def test_growth_stops_at_the_least_and_the_largest_rate_that_can_be_trained():
    grid = MaxLrGrid(low=1e-15, high=1e5, points=2, spacing="log", extend=True, max_extra=10_000)
    assert grow(grid, "h" * 40) == (1e-15, 1e5)  # the next would be 1e25, and the one after 17 steps no float
    assert grow(grid, "l" * 40) == (1e-15, 1e5)
    finer = MaxLrGrid(low=1e-15, high=1e-12, points=2, spacing="log", extend=True, max_extra=10_000)
    assert grow(finer, "b" * 200) == tuple(float(f"1e{power}") for power in range(-30, 21, 3))
    wide = MaxLrGrid(spacing="explicit", values=[1e19, 6e19], extend=True)
    assert grow(wide, "hhhh") == (1e19, 6e19)


def test_growth_far_beyond_an_edge_is_no_overflow():
    grid = MaxLrGrid(low=1e-30, high=1e20, points=2, spacing="log", extend=True, max_extra=10_000)
    many = (*grid.candidates(), *(1e20 + step * 1e5 for step in range(1, 100)))  # a strategy's own
    assert grid.extended(many, low=False, high=True) == tuple(sorted(many))


def test_an_explicit_grid_grows_by_the_spacing_at_that_edge():
    grid = MaxLrGrid(spacing="explicit", values=[0.5, 0.6, 1.0], extend=True)
    assert grow(grid, "bb") == (0.3, 0.4, 0.5, 0.6, 1.0, 1.4, 1.8)


def test_a_grid_whose_low_is_tiny_beside_its_high_starts_there():
    assert MaxLrGrid(low=1e-12, high=1, points=3).candidates() == (1e-12, 0.5, 1.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"low": -1.0},
        {"low": 0.0},
        {"high": math.inf},
        {"low": math.nan},
        {"low": 0.2, "high": 0.1},
        {"points": 1},
        {"points": 0},
        {"points": 10_001},
        {"points": 2.0},
        {"points": "2"},
        {"spacing": "cubic"},
        {"values": [0.1]},
        {"spacing": "explicit"},
        {"spacing": "explicit", "values": []},
        {"spacing": "explicit", "values": [0.1, 0.1]},
        {"spacing": "explicit", "values": [0.1], "points": 51},
        {"spacing": "explicit", "values": [0.1], "extend": True},
        {"low": 0.1, "high": 0.1, "points": 1, "extend": True},
        {"low": 1.0, "high": 1.0 + 1e-11, "points": 3},
        {"extend": "yes"},
        {"max_extra": 0},
        {"step": 0.1},
        {"high": 1e308},
        {"low": 1e-320, "spacing": "log"},
        {"low": 1e-31},
        {"high": 1.0000001e20},
        {"high": 10**400},
        {"points": 2**63},
        {"max_extra": 10**400},
        {"spacing": "explicit", "values": [1e-31, 1.0]},
        {"spacing": "explicit", "values": [1.0, 1e308]},
        {"spacing": "explicit", "values": [float(rate) for rate in range(1, 10_002)]},
    ],
    ids=lambda fields: str(fields)[:60] if len(str(fields)) < 4000 else "long",
)
def test_a_grid_that_makes_no_sense_is_refused(fields):
    with pytest.raises(ValidationError):
        MaxLrGrid(**fields)
