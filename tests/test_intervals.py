"""The optimum and its interval: planted answers for every rule, and a slow reading of the rules in exact fractions."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle.errors import DivergedError, TableError
from oracle.search.intervals import find_interval

IMAGES = 1000


def trial(max_lr, correct, *, seed=0, cycle=3, images=IMAGES, loss=0.5, outcome="finished", **more):
    diverged = outcome == "diverged"
    return {
        "cycle": cycle,
        "seed": seed,
        "max_lr": max_lr,
        "outcome": outcome,
        "val_accuracy": None if diverged else correct / images,
        "val_loss": None if diverged else loss,
        **more,
    }


def cycle_of(*counts, **more):
    """One seed; candidates 0.1, 0.2, ... with these counts of correct images out of 1,000; None: diverged."""
    return [
        trial((index + 1) / 10, count, outcome="diverged" if count is None else "finished", **more)
        for index, count in enumerate(counts)
    ]


def found(rows, tolerance=0.005):
    row = find_interval(rows, tolerance=tolerance)
    return row["lo"], row["max_lr"], row["hi"]


# Which candidate wins, and how far its interval reaches


def test_interval_is_one_point_when_one_candidate_wins():
    assert found(cycle_of(800, 820, 900, 820, 800)) == (0.3, 0.3, 0.3)


def test_interval_is_the_run_of_neighbours_within_the_tolerance():
    assert found(cycle_of(800, 896, 897, 900, 895, 894, 800)) == (0.2, 0.4, 0.5)


def test_interval_may_cover_the_whole_grid():
    row = find_interval(cycle_of(900, 900, 900), tolerance=0.005)
    assert (row["lo"], row["hi"], row["lo_on_edge"], row["hi_on_edge"]) == (0.1, 0.3, True, True)


def test_one_candidate_is_its_own_interval_and_both_edges():
    row = find_interval(cycle_of(10), tolerance=0.005)
    assert (row["lo"], row["max_lr"], row["hi"]) == (0.1, 0.1, 0.1)
    assert [row[name] for name in ("lo_on_edge", "hi_on_edge", "optimum_on_edge")] == [True] * 3


@pytest.mark.parametrize("images", [200, 360, 400, 500, 1000, 5000, 10_000])
@pytest.mark.parametrize("num_seeds", [1, 2, 5])
def test_the_tolerance_is_inclusive_to_the_image(images, num_seeds):
    """Half a point of all seeds' images together is in; one image less is out, however the seeds share it."""
    budget = images * num_seeds * Fraction("0.005")
    inside, outside = math.floor(budget), math.floor(budget) + 1
    best = [images - 10 * seed for seed in range(num_seeds)]

    def rows(lost):
        dealt = [lost // num_seeds + (seed < lost % num_seeds) for seed in range(num_seeds)]
        top = [trial(0.2, count, seed=seed, images=images) for seed, count in enumerate(best)]
        beside = [trial(0.3, best[s] - dealt[s], seed=s, images=images) for s in range(num_seeds)]
        return top + beside

    assert found(rows(inside)) == (0.2, 0.2, 0.3)
    assert found(rows(outside)) == (0.2, 0.2, 0.2)


@pytest.mark.parametrize("images", [360, 5000])
def test_accuracies_0_9_and_0_895_are_half_a_point_apart(images):
    """In floats 0.9 - 0.895 > 0.005, and means of five such differ in their last bits."""
    assert 0.9 - 0.895 > 0.005
    best = [images * 9 // 10] * 5
    lost = round(images * 5 * 0.005)
    others = [best[0] - lost // 5 - (seed < lost % 5) for seed in range(5)]
    rows = [trial(0.1, count, seed=seed, images=images) for seed, count in enumerate(best)]
    rows += [trial(0.2, count, seed=seed, images=images) for seed, count in enumerate(others)]
    assert sum(best) - sum(others) == lost == images * 5 / 200
    assert found(rows) == (0.1, 0.1, 0.2)


def test_equal_sums_of_unequal_accuracies_are_a_tie():
    """0.1 + 0.2 and 0.3 + 0.0 are not the same float; as counts they are, so the lower loss decides."""
    assert 0.1 + 0.2 != 0.3 + 0.0
    rows = [trial(0.1, 300, seed=0, loss=0.6), trial(0.1, 0, seed=1, loss=0.6)]
    rows += [trial(0.2, 100, seed=0, loss=0.5), trial(0.2, 200, seed=1, loss=0.5)]
    assert found(rows)[1] == 0.2
    for row in rows:
        row["val_loss"] = 1.1 - row["val_loss"]
    assert found(rows)[1] == 0.1


def test_a_tie_of_counts_and_losses_goes_to_the_smaller_max_lr():
    assert found(cycle_of(800, 900, 900, 900))[1] == 0.2


def test_the_mean_over_seeds_decides_not_the_best_seed():
    rows = [trial(0.1, 950, seed=0), trial(0.1, 850, seed=1), trial(0.2, 901, seed=0), trial(0.2, 900, seed=1)]
    assert found(rows)[1] == 0.2


# Diverged candidates and holes


def test_a_diverged_candidate_ends_the_interval():
    assert found(cycle_of(899, None, 900, 899, None, 899)) == (0.3, 0.3, 0.4)


def test_a_candidate_with_one_diverged_seed_cannot_win():
    rows = [trial(0.1, 500, seed=seed) for seed in range(3)]
    rows += [trial(0.2, 999, seed=seed, outcome="diverged" if seed == 1 else "finished") for seed in range(3)]
    row = find_interval(rows, tolerance=0.005)
    assert (row["max_lr"], row["hi"], row["num_diverged"]) == (0.1, 0.1, 1)


def test_num_diverged_counts_trials():
    rows = [trial(0.1, 500, seed=seed) for seed in range(3)]
    rows += [trial(rate, None, seed=seed, outcome="diverged") for rate in (0.2, 0.3) for seed in range(3)]
    assert find_interval(rows, tolerance=0.005)["num_diverged"] == 6


@pytest.mark.parametrize(
    ("counts", "interval", "holes"),
    [
        ((900, 900, 800), (0.1, 0.2), 0),
        ((900, 800, 899), (0.1, 0.1), 1),  # nothing is bridged
        ((899, 800, 900), (0.3, 0.3), 1),
        ((899, 800, 900, 800, 899), (0.3, 0.3), 2),
        ((899, 800, 800, 900, 899, 800, 899, 800, 800, 898, 100), (0.4, 0.5), 5),
        ((100, 900, 100, 100), (0.2, 0.2), 0),  # outside, but nothing within beyond them
        ((900, None, 899), (0.1, 0.1), 1),  # a diverged candidate is outside the tolerance
        ((900, None, None), (0.1, 0.1), 0),
    ],
)
def test_holes_are_outside_candidates_between_the_interval_and_one_within(counts, interval, holes):
    row = find_interval(cycle_of(*counts), tolerance=0.005)
    assert (row["lo"], row["hi"], row["holes"]) == (*interval, holes)


@pytest.mark.parametrize(
    ("counts", "lo", "hi", "optimum"),
    [
        ((800, 900, 800), False, False, False),
        ((900, 800, 800), True, False, True),
        ((800, 800, 900), False, True, True),
        ((899, 900, 800), True, False, False),
        ((800, 900, 899), False, True, False),
        ((899, 900, 899), True, True, False),
        ((None, 900, None), False, False, False),  # a diverged candidate beyond it closes an end
    ],
)
def test_ends_on_the_edge_are_flagged(counts, lo, hi, optimum):
    row = find_interval(cycle_of(*counts), tolerance=0.005)
    assert (row["lo_on_edge"], row["hi_on_edge"], row["optimum_on_edge"]) == (lo, hi, optimum)


def test_all_diverged_names_grid_and_cycle():
    rows = cycle_of(None, None, None, cycle=7)
    with pytest.raises(DivergedError, match=r"cycle 7: .*\[0\.1, 0\.3\] \(3 values\)"):
        find_interval(rows, tolerance=0.005)


# What else is in the row


def test_means_and_deviations_are_of_the_optimum_over_seeds():
    rows = [
        trial(0.2, 900 + 3 * seed, seed=seed, test_accuracy=0.8 + seed / 100, weights_remaining=0.64, seconds=2.0)
        for seed in range(3)
    ]
    rows += [trial(0.1, 10, seed=s, test_accuracy=0.1, weights_remaining=0.64, seconds=1.5) for s in range(3)]
    row = find_interval(rows, tolerance=0.005)
    assert row == {
        "cycle": 3,
        "num_candidates": 2,
        "num_seeds": 3,
        "max_lr": 0.2,
        "lo": 0.2,
        "hi": 0.2,
        "lo_on_edge": False,
        "hi_on_edge": True,
        "optimum_on_edge": True,
        "lo_outside": 0.1,
        "hi_outside": None,
        "holes": 0,
        "num_diverged": 0,
        "num_incomplete": 0,
        "weights_remaining": pytest.approx(0.64),
        "val_accuracy": pytest.approx(0.903),
        "val_accuracy_std": pytest.approx(0.003),  # n - 1: of -3, 0, 3 it is 3
        "val_loss": 0.5,
        "test_accuracy": pytest.approx(0.81),
        "test_accuracy_std": pytest.approx(0.01),
        "seconds": 10.5,  # of all trials
    }


def test_one_seed_has_no_deviation():
    row = find_interval(cycle_of(900, 800, test_accuracy=0.5), tolerance=0.005)
    assert row["val_accuracy_std"] is None
    assert row["test_accuracy_std"] is None
    assert row["test_accuracy"] == 0.5


def test_columns_that_are_not_known_are_none():
    row = find_interval(cycle_of(900), tolerance=0.005)
    assert [row[name] for name in ("weights_remaining", "test_accuracy", "test_accuracy_std", "seconds")] == [None] * 4


def test_test_accuracy_has_no_say():
    rows = [trial(0.1, 900, test_accuracy=0.1), trial(0.2, 800, test_accuracy=1.0)]
    assert found(rows) == (0.1, 0.1, 0.1)


# One answer, whatever the order and the kind of table

MIXED = [
    trial(rate, 900 - 2 * index - 7 * seed, seed=seed, loss=0.1 * index + 0.013 * seed, test_accuracy=0.7, seconds=0.1)
    for index, rate in enumerate((0.3, 0.1, 0.4))
    for seed in range(3)
] + [trial(0.9, None, seed=seed, outcome="diverged", test_accuracy=None, seconds=None) for seed in range(3)]


def as_columns(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.mark.parametrize(
    "kind",
    [
        pa.Table.from_pylist,
        pd.DataFrame,
        as_columns,
        tuple,
        lambda rows: {name: np.array(values) for name, values in as_columns(rows).items()},
    ],
    ids=["pyarrow", "pandas", "columns", "tuple", "numpy"],
)
def test_every_kind_of_table_gives_the_same_row(kind):
    expected = find_interval(MIXED, tolerance=0.005)
    row = find_interval(kind(MIXED), tolerance=0.005)
    assert row == expected
    assert [type(value) for value in row.values()] == [type(value) for value in expected.values()]


@settings(deadline=None, max_examples=50)
@given(st.permutations(MIXED))
def test_rows_may_come_in_any_order(rows):
    assert find_interval(rows, tolerance=0.005) == find_interval(MIXED, tolerance=0.005)  # to the last bit


def test_a_column_that_the_first_row_lacks_is_not_lost():
    rows = cycle_of(None, 900, 800)
    rows[1]["test_accuracy"] = 0.5
    assert find_interval(rows, tolerance=0.005)["test_accuracy"] == 0.5


# Tables that cannot be used


@pytest.mark.parametrize("column", ["cycle", "seed", "max_lr", "outcome", "val_accuracy", "val_loss"])
def test_a_missing_column_is_named(column):
    rows = [{name: value for name, value in row.items() if name != column} for row in MIXED]
    with pytest.raises(TableError, match=f"lack the column {column};"):
        find_interval(rows, tolerance=0.005)


@pytest.mark.parametrize("rows", [[], pa.Table.from_pylist(MIXED).slice(0, 0)])
def test_no_rows_are_refused(rows):
    with pytest.raises(TableError):
        find_interval(rows, tolerance=0.005)


def test_doubled_rows_are_refused():
    with pytest.raises(TableError, match=r"max_lr 0\.1: seed 0 is there twice"):
        find_interval([*cycle_of(900, 800), trial(0.1, 900)], tolerance=0.005)


@pytest.mark.parametrize("gone", sorted({row["max_lr"] for row in MIXED}))
def test_a_candidate_that_lacks_a_seed_takes_no_part_as_if_it_had_not_been_tried(gone):
    part = [row for row in MIXED if (row["max_lr"], row["seed"]) != (gone, 1)]
    untried = [row for row in MIXED if row["max_lr"] != gone]
    found, expected = find_interval(part, tolerance=0.005), find_interval(untried, tolerance=0.005)
    of_all_trials = dict.fromkeys(("num_incomplete", "num_diverged", "seconds"))
    assert found | of_all_trials == expected | of_all_trials
    assert (found["num_incomplete"], expected["num_incomplete"]) == (1, 0)


def test_trials_in_which_no_candidate_has_all_seeds_are_refused():
    rows = [trial(0.1, 900, seed=0), trial(0.2, 900, seed=1)]
    with pytest.raises(TableError, match=r"no candidate has all seeds \[0, 1\].*max_lr 0\.1 has \[0\]"):
        find_interval(rows, tolerance=0.005)


def test_several_cycles_are_refused():
    with pytest.raises(TableError, match=r"one cycle, found cycles \[3, 4\]"):
        find_interval([*cycle_of(900), trial(0.2, 800, cycle=4)], tolerance=0.005)


@pytest.mark.parametrize("accuracy", [math.nan, None, -0.1, 1.1, 90.0])
def test_an_accuracy_that_is_no_fraction_is_refused(accuracy):
    rows = cycle_of(900, 800)
    rows[1]["val_accuracy"] = accuracy
    with pytest.raises(TableError, match=r"max_lr 0\.2, seed 0: val_accuracy must be in \[0, 1\], found"):
        find_interval(rows, tolerance=0.005)


@pytest.mark.parametrize("loss", [math.nan, None, math.inf])
def test_a_finished_trial_without_a_loss_is_refused(loss):
    rows = cycle_of(900, 800)
    rows[0]["val_loss"] = loss
    with pytest.raises(TableError, match=r"max_lr 0\.1, seed 0: val_loss must be a number"):
        find_interval(rows, tolerance=0.005)


def test_an_unknown_outcome_is_refused():
    rows = cycle_of(900, 800)
    rows[0]["outcome"] = "crashed"
    with pytest.raises(TableError, match="outcome must be finished or diverged, found 'crashed'"):
        find_interval(rows, tolerance=0.005)


@pytest.mark.parametrize("tolerance", [0, 1, -0.1, 5, math.nan, math.inf])
def test_a_tolerance_that_is_no_fraction_is_refused(tolerance):
    with pytest.raises(TableError, match="tolerance must be a fraction"):
        find_interval(cycle_of(900), tolerance=tolerance)


# The rules once more, read slowly


def slow_interval(counts, losses, rates, images, tolerance):
    """lo, max_lr, hi, holes from counts[candidate][seed] (None: diverged): every run of candidates is looked at."""
    size, seeds = len(counts), len(counts[0])
    mean = [None if None in row else Fraction(sum(row), seeds * images) for row in counts]
    alive = [index for index in range(size) if mean[index] is not None]
    if not alive:
        return None
    top = max(mean[index] for index in alive)
    tied = [index for index in alive if mean[index] == top]
    loss = {index: float(np.mean(losses[index])) for index in tied}
    best = min(index for index in tied if loss[index] == min(loss.values()))
    inside = {index for index in alive if top - mean[index] <= tolerance}
    runs = [(a, b) for a in range(best + 1) for b in range(best, size) if inside.issuperset(range(a, b + 1))]
    first, last = max(runs, key=lambda run: run[1] - run[0])
    holes = [
        index
        for index in set(range(size)) - inside
        if (index < first and any(other < index for other in inside))
        or (index > last and any(other > index for other in inside))
    ]
    return rates[first], rates[best], rates[last], len(holes)


@settings(deadline=None, max_examples=400)
@given(st.data())
@pytest.mark.slow
def test_the_interval_is_what_the_rules_say(data):
    images = data.draw(st.sampled_from([20, 200, 360, 5000]))
    size, seeds = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 4))
    tolerance = data.draw(st.sampled_from(["0.005", "0.01", "0.05", "0.25"]))
    step = max(1, int(images * Fraction(tolerance)) // 2)  # accuracies that fall on, inside and just outside the edge
    count = st.integers(0, 6).map(lambda k: images - k * step) | st.integers(0, images) | st.none()
    counts = data.draw(st.lists(st.lists(count, min_size=seeds, max_size=seeds), min_size=size, max_size=size))
    loss = st.sampled_from([0.25, 0.5, 0.75])
    losses = data.draw(st.lists(st.lists(loss, min_size=seeds, max_size=seeds), min_size=size, max_size=size))
    rates = [0.1 * (index + 1) for index in range(size)]
    rows = [
        trial(rates[c], counts[c][s], seed=s, images=images, loss=losses[c][s], outcome="finished")
        if counts[c][s] is not None
        else trial(rates[c], None, seed=s, outcome="diverged")
        for c, s in itertools.product(range(size), range(seeds))
    ]
    expected = slow_interval(counts, losses, rates, images, Fraction(tolerance))
    if expected is None:
        with pytest.raises(DivergedError):
            find_interval(rows, tolerance=float(tolerance))
        return
    row = find_interval(data.draw(st.permutations(rows)), tolerance=float(tolerance))
    assert (row["lo"], row["max_lr"], row["hi"], row["holes"]) == expected
