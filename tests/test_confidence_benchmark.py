"""benchmarks.confidence on truths that are planted: what it feeds to the ways, and how it judges them."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from benchmarks.confidence import GOALS, Judged, agree, goal_rows, table, width
from benchmarks.confidence_truths import KEPT, PROBLEMS, Truth, keep, kept_names
from benchmarks.confidence_ways import WAYS, Answer, Draw, race
from oracle.experiment import load_experiment

POOL = 6
PEAK = (11, 13)  # of cycles 0 and 2


@pytest.fixture
def planted(tmp_path):
    """A truth without noise but for the seeds' levels: 95% at the best, a point less one candidate and three beyond."""
    experiment = load_experiment(
        "digits-mlp", overrides=["pruning.cycles=2", f"seeds={list(range(POOL))}", "data.validation=1000"]
    )
    rows = [
        {
            "cycle": cycle,
            "max_lr": max_lr,
            "seed": seed,
            "val_accuracy": max(0.0, 0.95 - 0.001 * (index - peak) ** 2 - 0.002 * seed),
            "val_loss": 0.1,
        }
        for cycle, peak in zip((0, 2), PEAK, strict=True)
        for seed in range(POOL)
        for index, max_lr in enumerate(experiment.grid.candidates())
    ]
    rows[-1] |= {"val_accuracy": None, "val_loss": None}  # the largest rate, at the last cycle, for one seed
    keep(experiment, rows, tmp_path)
    return Truth.read("digits-mlp", tmp_path)


def draw(truth, number=5):
    return Draw(truth=truth, picked=tuple(range(number)), key=7)


def test_a_kept_truth_is_read_back_image_by_image(planted):
    assert planted.cycles == (0, 2)
    assert planted.correct.shape == (2, 24, POOL)
    assert planted.correct[0, PEAK[0], 3] == 944
    assert (planted.correct == -1).sum() == 1
    assert planted.correct[1, 23, POOL - 1] == -1


def test_true_intervals_are_those_of_the_whole_pool(planted):
    # Within half a point: two steps, 0.1 x 2 x 2 points, either way.
    assert planted.intervals == tuple((peak - 2, peak + 2) for peak in PEAK)
    assert [planted.is_within(1, PEAK[1] + step) for step in (-3, -2, 2, 3)] == [False, True, True, False]


def test_rows_are_of_the_seeds_that_were_picked_with_a_new_number_each_time(planted):
    rows = planted.trials(1, [4, 4, 5]).to_pylist()
    assert {row["cycle"] for row in rows} == {2}
    best = [row for row in rows if row["max_lr"] == planted.grid[PEAK[1]]]
    assert [(row["seed"], row["val_accuracy"]) for row in best] == [(0, 0.942), (1, 0.942), (2, 0.940)]
    assert [row["seed"] for row in rows if row["outcome"] == "diverged"] == [2]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_answers_every_cycle_and_finds_a_good_optimum_where_there_is_no_noise(planted, way):
    seeds, run = WAYS[way]
    answers = list(run(draw(planted, seeds)))
    assert len(answers) == 2
    for answer, (lo, hi) in zip(answers, planted.intervals, strict=True):
        assert answer.lo <= answer.optimum <= answer.hi
        if "Wilcoxon" not in way:  # which may spend its budget before it comes to them
            assert lo <= answer.optimum <= hi


@pytest.mark.parametrize(("way", "budget"), [(way, int(way.split()[-1])) for way in WAYS if way[-1].isdigit()])
def test_rivals_spend_their_budget_and_no_more(planted, way, budget):
    seeds, run = WAYS[way]
    assert [answer.trainings for answer in run(draw(planted, seeds))] == [budget, budget]


def test_a_race_ends_with_the_best_where_seeds_say_the_same_and_all_can_be_trained():
    accuracies = np.add.outer(-np.abs(np.arange(9.0) - 6), np.arange(4.0))
    for number in range(20):
        incumbent, trained = race(accuracies, 36, np.random.default_rng(number))
        assert incumbent == 6
        assert trained.sum() <= 36


def test_a_diverged_challenger_never_wins_a_race():
    accuracies = np.full((5, 3), 50.0)
    accuracies[2] = -np.inf
    assert {race(accuracies, 9, np.random.default_rng(number))[0] for number in range(40)} <= {0, 1, 3, 4}


ANSWER = Answer(optimum=5, lo=4, hi=6, trainings=1, seconds=0.0)


def test_two_agree_where_each_optimum_is_within_the_others_interval():
    assert agree(ANSWER, replace(ANSWER, optimum=6, hi=7))
    assert not agree(ANSWER, replace(ANSWER, optimum=6, lo=6))
    assert not agree(replace(ANSWER, optimum=6, lo=6), ANSWER)


def test_width_is_of_the_ranges_of_both_ends_or_of_all_that_is_possible_where_nothing_is_sure():
    assert width(replace(ANSWER, possible=(1, 9), sure=(4, 6))) == 3 + 3
    assert width(replace(ANSWER, possible=(1, 9), sure=None)) == 8


def test_agreement_compares_every_draw_of_one_half_with_every_draw_of_the_other(planted):
    answers = [replace(ANSWER, optimum=optimum, lo=optimum, hi=optimum) for optimum in (1, 2, 1, 1)]
    halves = [[[answer, answer] for answer in half] for half in (answers[:2], answers[2:])]
    agreement, error = Judged(truth=planted, repetitions=[halves, halves]).agreement(agree)
    assert agreement == sum(one.lo == other.lo for one, other in product(answers[:2], answers[2:])) / 4 == 0.5
    assert error == 0


def test_calibration_counts_candidates_that_are_truly_inside(planted):
    said = [0.98 if lo <= index <= hi + 1 else 0.0 for lo, hi in planted.intervals[:1] for index in range(24)]
    answer = replace(ANSWER, p_within=tuple(said))
    found = list(Judged(truth=planted, repetitions=[[[[answer]], [[answer]]]]).calibration())
    assert found[0] == (0, 0, 2 * 18)
    assert found[6] == (pytest.approx(0.98), pytest.approx(5 / 6), 2 * 6)


def judged_always(truth, **said):
    """As adaptive's: the truth, possible ends a step further out and sure ones further in, but for what is said."""
    answers = [
        replace(
            ANSWER,
            optimum=lo + 2,
            lo=lo,
            hi=hi,
            possible=(lo - 1, hi + 1),
            sure=(lo + 1, hi - 1),
            **{"p_within": (1.0,) * 24} | said,
        )
        for lo, hi in truth.intervals
    ]
    judged = Judged(truth=truth, repetitions=[[[answers], [answers]]] * 2)
    return {f"adaptive, {seeds} seeds": judged for seeds in (3, 5)}


def test_goals_that_are_missed_are_bold_and_those_that_are_met_are_not(planted):
    three, five = goal_rows("digits-mlp", judged_always(planted, trainings=40))
    assert three[:4] == ["digits-mlp", "3", "**40 (≤ 30)**", "1 (≥ 0.95)"]
    assert five[2] == "40 (≤ 48)"
    assert three[4:6] == ["1 (≥ 0.93) / 1 (≥ 0.93)"] * 2
    assert three[6] == "**0.208 (≥ 0.93)**"  # five of 24 candidates
    assert three[7:] == ["0 (≤ 2.1)", "0 (≤ 1)"]


def test_a_goal_of_what_is_never_said_is_neither_met_nor_missed(planted):
    judged = judged_always(planted)
    for each in judged.values():
        for answers in each.repetitions[0][0]:
            answers[:] = [replace(answer, sure=None, p_within=(0.5,) * 24) for answer in answers]
    three, _ = goal_rows("digits-mlp", judged)
    assert three[5:7] == ["never said / never said", "never said"]


def test_every_kind_of_problem_has_goals():
    assert set(GOALS) == {(problem.noisy, seeds) for problem in PROBLEMS.values() for seeds in (3, 5)}


def test_tables_are_markdown():
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_kept_truths_are_read_and_take_less_than_two_megabytes():
    assert sum(path.stat().st_size for path in KEPT.glob("*.parquet")) < 2_000_000
    for name in kept_names():
        truth = Truth.read(name)
        assert truth.name in PROBLEMS
        assert truth.experiment.data.path is None
        assert all(lo <= hi for lo, hi in truth.intervals)
