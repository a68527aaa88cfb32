"""Differences of two arms: planted numbers, and simulations of what is claimed of ever more seeds and images."""

import json
import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from silo_fit.differences import LEVEL, MOST_SEEDS, POWER, Difference, adjusted, image_error, in_points, paired

TOLERANCE = 0.005
ROUNDING = 1e-12  # relative: two ways to sum a few numbers differ in the last digits alone


def difference(*per_seed, tolerance=TOLERANCE, num_cycles=13, image_se=None):
    return Difference(per_seed=per_seed, num_cycles=num_cycles, tolerance=tolerance, image_se=image_se)


def planted(mean, std, num_seeds, **more):
    """Seeds with this mean and this spread."""
    values = np.arange(num_seeds) - (num_seeds - 1) / 2
    return difference(*map(float, mean + std * values / values.std(ddof=1)), **more)


# The interval and the tests.


def test_interval_is_that_of_the_table_of_t():
    found = difference(0.001, 0.002, 0.003, 0.004, 0.005)
    assert found.mean == 0.003
    assert found.std == pytest.approx(math.sqrt(2.5) / 1000, rel=ROUNDING)
    half = 2.776445 * math.sqrt(0.5) / 1000  # t of 4 degrees of freedom at 97.5%, as printed
    assert found.interval() == pytest.approx((0.003 - half, 0.003 + half), rel=1e-6)  # the table's digits
    half = 2.131847 * math.sqrt(0.5) / 1000  # at 95%
    assert found.interval(0.9) == pytest.approx((0.003 - half, 0.003 + half), rel=1e-6)


@given(st.lists(st.integers(-2000, 2000).map(lambda value: value / 10_000), min_size=2, max_size=9, unique=True))
def test_interval_and_p_value_are_those_of_scipys_paired_test(per_seed):
    found, known = difference(*per_seed), stats.ttest_1samp(per_seed, 0.0)
    # absolute: a mean near 0 keeps no digits of its own
    assert found.interval() == pytest.approx(tuple(known.confidence_interval(LEVEL)), rel=1e-9, abs=1e-12)
    assert found.p_value == pytest.approx(known.pvalue, rel=1e-6)


@pytest.mark.parametrize("tolerance", [0.0005, 0.002, 0.005, 0.02])
@given(per_seed=st.lists(st.integers(-99, 99).map(lambda value: value / 10_000), min_size=2, max_size=7, unique=True))
def test_equal_is_what_two_one_sided_tests_say(tolerance, per_seed):
    below, above = (
        stats.ttest_1samp(per_seed, bound, alternative=side).pvalue
        for bound, side in ((-tolerance, "greater"), (tolerance, "less"))
    )
    found = difference(*per_seed, tolerance=tolerance)
    if max(below, above) < 0.05 * (1 - 1e-9):
        assert found.outcome == "equal"
    elif max(below, above) > 0.05 * (1 + 1e-9):  # between them lies the boundary, to rounding
        assert found.outcome != "equal"


@pytest.mark.parametrize(
    ("mean", "std", "outcome"),
    [
        (0.0, 0.003, "equal"),
        (0.002, 0.001, "equal"),  # and its interval leaves out 0: equal counts, as it is what was asked
        (0.02, 0.01, "better"),
        (0.006, 0.0001, "better"),
        (-0.02, 0.01, "worse"),
        (0.0, 0.01, "open"),
        (0.004, 0.006, "open"),
        (-0.004, 0.006, "open"),
    ],
)
def test_five_seeds_end_as_planted(mean, std, outcome):
    assert planted(mean, std, 5).outcome == outcome


def test_interval_that_touches_the_tolerance_is_equal_and_one_beyond_is_not():
    reach = planted(0.001, 0.002, 5).interval(2 * LEVEL - 1)[1]
    assert planted(0.001, 0.002, 5, tolerance=reach).outcome == "equal"
    assert planted(0.001, 0.002, 5, tolerance=math.nextafter(reach, 0)).outcome == "open"
    low = planted(-0.001, 0.002, 5).interval(2 * LEVEL - 1)[0]
    assert planted(-0.001, 0.002, 5, tolerance=-low).outcome == "equal"
    assert planted(-0.001, 0.002, 5, tolerance=math.nextafter(-low, 0)).outcome == "open"


def test_interval_that_touches_0_is_open():
    assert difference(0.0, 0.0, 0.0, tolerance=0.0).outcome == "equal"  # a point at 0 is no difference
    width = planted(0.0, 0.01, 4).interval()[1]
    assert planted(width * 0.999, 0.01, 4).outcome == "open"
    assert planted(width * 1.001, 0.01, 4).outcome == "better"
    assert planted(-width * 0.999, 0.01, 4).outcome == "open"
    assert planted(-width * 1.001, 0.01, 4).outcome == "worse"


@pytest.mark.parametrize("value", [0.0, 0.3, -0.3])
def test_one_seed_is_open_whatever_it_says(value):
    found = difference(value)
    assert (found.mean, found.outcome) == (value, "open")
    assert (found.std, found.interval(), found.p_value, found.seeds_needed) == (None, None, None, None)


@pytest.mark.parametrize(
    ("value", "outcome"),
    [(0.0, "equal"), (0.0078125, "better"), (-0.0078125, "worse"), (0.005, "equal"), (-0.005, "equal")],
)
def test_seeds_that_agree_tell_without_a_spread(value, outcome):
    found = difference(value, value, value, value)
    assert (found.std, found.outcome) == (0.0, outcome)
    assert found.interval() == (value, value)
    assert found.p_value == (1.0 if value == 0 else 0.0)
    assert found.seeds_needed == 2


@given(st.lists(st.integers(-300, 300).map(lambda value: value / 10_000), min_size=2, max_size=8))
def test_the_other_way_round_says_the_opposite(per_seed):
    one, other = difference(*per_seed), difference(*(-value for value in per_seed))
    assert other.outcome == {"better": "worse", "worse": "better"}.get(one.outcome, one.outcome)
    assert other.interval() == pytest.approx((-one.interval()[1], -one.interval()[0]), rel=ROUNDING, abs=1e-15)
    assert (other.p_value, other.seeds_needed) == (one.p_value, one.seeds_needed)


# Seeds that are needed.


def chance_of_settling(mean, std, num_seeds, runs=20_000):
    """Of runs with as many normal seeds: how many show that the arms are equal, and how many that they differ."""
    values = np.random.default_rng(num_seeds).normal(mean, std, (runs, num_seeds))
    means, errors = values.mean(axis=1), values.std(axis=1, ddof=1) / math.sqrt(num_seeds)
    equal = np.abs(means) + stats.t.ppf(LEVEL, num_seeds - 1) * errors <= TOLERANCE
    apart = np.abs(means) > stats.t.ppf((1 + LEVEL) / 2, num_seeds - 1) * errors
    return equal.mean(), apart.mean()


@pytest.mark.parametrize(
    ("mean", "std", "way"),
    [
        (0.001, 0.01, "equal"),
        (-0.002, 0.01, "equal"),
        (0.0025, 0.02, "equal"),
        (0.004, 0.01, "apart"),
        (-0.01, 0.02, "apart"),
        (0.03, 0.08, "apart"),
    ],
)
def test_as_many_seeds_as_are_said_to_do_settle_it_with_the_chance_that_is_said(mean, std, way):
    equal, apart = chance_of_settling(mean, std, planted(mean, std, 3).seeds_needed)
    # Quantiles of t in place of the non-central one: 0.01 from 20 seeds on. 20,000 runs: a standard error of 0.003.
    assert (equal if way == "equal" else apart) == pytest.approx(POWER, abs=0.02)


@pytest.mark.parametrize("mean", [0.0, 0.0002])
def test_arms_that_hardly_differ_are_settled_with_the_chance_that_is_said(mean):
    equal, apart = chance_of_settling(mean, 0.01, planted(mean, 0.01, 3).seeds_needed)
    assert equal + apart > POWER - 0.02  # as above


@pytest.mark.parametrize("mean", [0.0, 0.002, -0.004, 0.02])
def test_more_spread_takes_more_seeds(mean):
    needed = [planted(mean, std, 3).seeds_needed for std in (0.002, 0.004, 0.008, 0.016, 0.03)]
    assert all(fewer <= more for fewer, more in pairwise(needed))
    assert needed[0] < needed[-1]


def test_a_larger_tolerance_takes_fewer_seeds_and_so_does_a_larger_difference():
    by_tolerance = [planted(0.001, 0.02, 3, tolerance=each).seeds_needed for each in (0.004, 0.008, 0.02, 0.1)]
    by_mean = [planted(mean, 0.02, 3).seeds_needed for mean in (0.005, 0.01, 0.02, 0.2)]
    assert all(more > fewer for more, fewer in pairwise(by_tolerance))
    assert all(more > fewer for more, fewer in pairwise(by_mean))
    assert by_mean[-1] == 2  # there are no fewer that tell a spread


def test_no_number_is_said_where_it_would_be_too_large():
    assert planted(0.002, 0.3, 3).seeds_needed is None
    needed = [planted(0.0, 0.01 * step, 3).seeds_needed for step in range(1, 30)]
    assert max(each for each in needed if each) <= MOST_SEEDS
    assert needed[-1] is None


@given(st.lists(st.integers(-300, 300).map(lambda value: value / 10_000), min_size=2, max_size=8))
def test_an_open_question_needs_more_seeds_than_there_are(per_seed):
    found = difference(*per_seed)
    if found.outcome == "open":
        assert found.seeds_needed is None or found.seeds_needed > len(per_seed)


# Images.


def answers(probability, shape, generator):
    """Right or wrong, drawn for every seed and cycle; `probability` by image."""
    return generator.random((*shape, len(probability))) < probability


def test_image_error_is_the_mean_product_over_pairs_of_seeds():
    generator = np.random.default_rng(5)
    one, other = (answers(generator.random(11), (4, 3), generator) for _ in range(2))
    lost = (one.astype(float) - other).mean(axis=1)
    pairs = [float(np.cov(lost[s], lost[t])[0, 1]) for s, t in combinations(range(4), 2)]
    assert np.mean(pairs) > 0  # else this shows nothing
    assert image_error(one, other) == pytest.approx(math.sqrt(np.mean(pairs) / 11), rel=ROUNDING)


def test_seeds_that_lose_the_same_images_leave_the_images_error_alone():
    generator = np.random.default_rng(6)
    one, other = (np.repeat(answers(np.full(50, 0.5), (1, 3), generator), 4, axis=0) for _ in range(2))
    lost = (one[0].astype(float) - other[0]).mean(axis=0)
    assert image_error(one, other) == pytest.approx(lost.std(ddof=1) / math.sqrt(50), rel=ROUNDING)


def test_image_error_is_near_0_where_no_image_favours_an_arm():
    generator, seeds, cycles, images = np.random.default_rng(7), 6, 3, 400
    right = generator.uniform(0.2, 1.0, images)  # hard and easy images, for both arms alike
    found = [
        image_error(answers(right, (seeds, cycles), generator), answers(right, (seeds, cycles), generator))
        for _ in range(50)
    ]
    told = [each for each in found if each is not None]
    noise = math.sqrt(np.mean((2 * right * (1 - right) / cycles) ** 2))  # variance of one seed's difference at an image
    # A mean product over S (S - 1) / 2 pairs has a standard deviation of noise * sqrt(2 / (S (S - 1) images)): four.
    limit = math.sqrt(4 * noise * math.sqrt(2 / (seeds * (seeds - 1) * images)) / images)
    assert max(told) < limit
    assert limit < math.sqrt(noise / images) / 3  # the seeds' own noise is far larger, and is not counted
    assert 10 < found.count(None) < 40  # half of the products are negative, and say nothing


def test_image_error_is_the_planted_one_where_images_favour_an_arm():
    generator, images = np.random.default_rng(8), 400
    shift, squares = 0.25, []
    for _ in range(60):  # test sets of their own
        favour = shift * generator.choice([-1.0, 1.0], images)
        one, other = (answers(0.5 + sign * favour, (6, 3), generator) for sign in (1, -1))
        squares.append(image_error(one, other) ** 2)
    # An image's expected difference is +0.5 or -0.5, so a test set's mean has a variance of 0.25 / images. Its estimate
    # is unbiased; the noise around it gives the standard error that is allowed four times.
    error = np.std(squares, ddof=1) / math.sqrt(len(squares))
    assert error < 0.02 * (2 * shift) ** 2 / images  # tight enough to tell
    assert np.mean(squares) == pytest.approx((2 * shift) ** 2 / images, abs=4 * error)


def test_image_error_is_not_told_by_one_seed_or_one_image():
    assert image_error(np.ones((1, 3, 9), dtype=bool), np.zeros((1, 3, 9), dtype=bool)) is None
    assert image_error(np.ones((2, 3, 1), dtype=bool), np.zeros((2, 3, 1), dtype=bool)) is None
    assert image_error(np.ones((2, 3, 9), dtype=bool), np.zeros((2, 3, 9), dtype=bool)) is None  # nor where none differ


# Several tests at once.


@pytest.mark.parametrize(
    ("p_values", "raised"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # 4 x 0.005, 3 x 0.01, 2 x 0.03, and no less for 0.04
        ([0.5, 0.9, 0.01], [1.0, 1.0, 0.03]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.0, 1.0], [0.0, 1.0]),
    ],
)
def test_p_values_are_raised_as_by_hand(p_values, raised):
    assert adjusted(p_values) == pytest.approx(raised, rel=ROUNDING)


@given(st.lists(st.floats(0, 1), max_size=9))
def test_raised_p_values_keep_their_order_and_lie_between_their_own_and_bonferronis(p_values):
    found = adjusted(p_values)
    assert all(own <= raised <= min(1.0, len(p_values) * own) for own, raised in zip(p_values, found, strict=True))
    order = sorted(range(len(found)), key=lambda index: p_values[index])
    assert [found[index] for index in order] == sorted(found)


# Seeds from accuracies, and words.


def test_a_seeds_difference_is_the_mean_over_its_cycles():
    one = np.array([[0.5, 0.75, 1.0], [0.25, 0.25, 0.25]])
    other = np.array([[0.5, 0.5, 0.5], [0.25, 0.5, 0.75]])
    found = paired(one, other, tolerance=0.01, image_se=0.002)
    assert found.per_seed == (0.25, -0.25)
    assert (found.num_cycles, found.tolerance, found.image_se) == (3, 0.01, 0.002)


@pytest.mark.parametrize(
    ("found", "begins"),
    [
        (planted(0.0, 0.001, 5), "A equals B within half a point: 0.00 points of test accuracy (mean over 13 cycles; 95%"),
        (planted(0.02, 0.01, 5), "A is better than B: +2.00 points of test accuracy"),
        (planted(-0.02, 0.01, 5), "A is worse than B: -2.00 points of test accuracy"),
        (planted(0.0, 0.01, 5), "5 seeds do not tell how A compares to B: 0.00 points"),
        (difference(0.001, num_cycles=1), "one seed does not tell how A compares to B, as nothing says how far"),
    ],
)  # fmt: skip
def test_sentence_begins_with_the_verdict(found, begins):
    assert found.sentence("A", "B").startswith(begins)


def test_sentence_of_an_open_question_ends_with_what_would_settle_it():
    found = planted(0.001, 0.01, 5)
    assert found.sentence("A", "B").endswith(f"; about {found.seeds_needed} would do")
    assert planted(0.0, 0.5, 5).sentence("A", "B").endswith("; more than 1,000 would be needed")


def test_numbers_are_told_in_points_with_their_signs():
    assert difference(-0.0234, num_cycles=1).in_words() == "-2.34 points of test accuracy (mean over 1 cycle; 1 seed)"
    found = difference(0.01, 0.03, num_cycles=2)  # half the interval: 12.706 x 0.01
    assert (
        found.in_words() == "+2.00 points of test accuracy (mean over 2 cycles; 95% interval -10.71 to +14.71, 2 seeds)"
    )
    assert [in_points(value) for value in (-0.00004, 0.00004, 0.00006, -1.0)] == ["0.00", "0.00", "+0.01", "-100.00"]


def test_images_are_told_of_where_they_are_known():
    assert difference(0.0, 0.1).images_in_words() is None
    assert difference(0.0, 0.1, image_se=0.00123).images_in_words().endswith("about 0.12 points")


def test_seeds_needed_are_in_json_of_open_questions_alone():
    settled, unsettled = planted(0.0, 0.001, 5).as_dict(), planted(0.0, 0.01, 5).as_dict()
    assert settled["seeds_needed"] is None
    assert unsettled["seeds_needed"] == planted(0.0, 0.01, 5).seeds_needed > 5
    assert json.loads(json.dumps(unsettled, allow_nan=False))["outcome"] == "open"


def test_equal_arms_whose_interval_leaves_out_0_are_a_little_apart():
    assert (
        planted(0.002, 0.001, 5).sentence("A", "B").startswith("A equals B within half a point, a little above: +0.20")
    )
    assert (
        planted(-0.002, 0.001, 5).sentence("A", "B").startswith("A equals B within half a point, a little below: -0.2")
    )
