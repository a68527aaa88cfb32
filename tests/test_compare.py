"""Schedules side by side: which arms there are, at which rates and seeds, how they stand, and what is refused."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from folders import trained
from listeners import told
from scipy import stats

from oracle.errors import CurveError, ExperimentError, FolderError
from oracle.events import TrainingStarted
from oracle.execution.executors import Launch
from oracle.experiment import Experiment, load_experiment
from oracle.runs.records import read_experiment, read_trials
from oracle.runs.tables import TRIALS
from oracle.search.run import run_oracle
from oracle.storage import Folder
from oracle.training.autolrs import extra_steps
from silo_fit.arms import COLUMNS, TrainedArms
from silo_fit.compare import AUTOLRS, SILO, Compared, Comparison, compare, plan_comparison
from silo_fit.curve import SiloCurve
from silo_fit.given import given_curve
from silo_fit.shapes import LABELS

Tiny = Callable[..., Experiment]

TINY = (
    "pruning.cycles=2",
    "training.epochs=3",
    "training.batch_size=256",
    "grid={spacing: explicit, values: [0.02, 0.1, 0.4]}",
    "seeds=[0, 1]",
)
LOCAL = Launch(executor="local", slots=1)
RISING = given_curve("eps=0.02,delta=0.4,q=0,beta=3").make
LEVEL = given_curve("eps=0.1,delta=0").make
DIVERGING = 1000.0  # max_lr: nothing survives it
SETS = [part for override in TINY for part in ("--set", override)]


def planned(*overrides: str, curves: Sequence[Any] = (RISING,), **more: Any) -> Comparison:
    return plan_comparison(load_experiment("digits-mlp", overrides=[*TINY, *overrides]), curves, **more)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Compared, Path]:
    """Three schedules and two curves, and where to; nobody changes it."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("compared")
    plan = planned(curves=(RISING, LEVEL), shapes=("warmup", "constant", "cosine"))
    return compare(plan, str(out), launch=LOCAL), out


def arm_of(found: Compared, name: str) -> Any:
    return next(arm for arm in found.trained.arms if arm.name == name)


# Arms.


def test_arms_are_the_schedules_at_their_own_rates_and_under_silos_peaks(compared) -> None:
    found, _ = compared
    cycles, rates = range(3), found.rates
    curve = SiloCurve(eps=0.02, delta=0.4, q=0, beta=3, pruning_rate=0.2)
    rising = [float(f"{curve(cycle):.6g}") for cycle in cycles]  # six digits: the bits do not hang on a machine's exp
    assert {arm.name: (arm.label, arm.experiment.schedule.shape, arm.peaks) for arm in found.trained.arms} == {
        "warmup": ("warm-up", "warmup", (rates["warmup"],) * 3),
        "constant": ("constant", "constant", (rates["constant"],) * 3),
        "cosine": ("cosine", "cosine", (rates["cosine"],) * 3),
        "silo": ("SILO", "warmup", tuple(rising)),
        "silo-2": ("SILO 2", "warmup", (0.1, 0.1, 0.1)),
        "constant-silo": ("constant, SILO's peaks", "constant", tuple(rising)),
        "cosine-silo": ("cosine, SILO's peaks", "cosine", tuple(rising)),
    }


def test_own_rate_is_the_optimum_of_each_schedules_own_search_at_cycle_0(compared) -> None:
    found, out = compared
    assert {path.name for path in (out / "rates").iterdir()} == set(found.rates) == {"warmup", "constant", "cosine"}
    for shape, rate in found.rates.items():
        experiment = read_experiment(Folder(out / "rates" / shape))
        assert (experiment.schedule.shape, experiment.pruning.cycles, experiment.seeds) == (shape, 0, (0, 1))
        trials = read_trials(out / "rates" / shape).to_pylist()
        assert len(trials) == 3 * 2
        means = {each: sum(row["val_accuracy"] for row in trials if row["max_lr"] == each) / 2
                 for each in (0.02, 0.1, 0.4)}  # fmt: skip
        assert means[rate] == max(means.values())
    assert found.num_searched == 3 * 3 * 2


def test_own_rates_are_searched_on_validation_images_alone(tmp_path: Path, compared) -> None:
    """A search by itself finds the same: nothing of the arms, and no test image, takes part."""
    own = load_experiment("digits-mlp", overrides=[*TINY, "pruning.cycles=0", "schedule={shape: cosine}"])
    assert run_oracle(own, tmp_path, executor="local", slots=1)["max_lr"][0].as_py() == compared[0].rates["cosine"]


def test_seeds_are_fresh_and_the_same_for_all_arms(compared) -> None:
    assert {arm.experiment.seeds for arm in compared[0].trained.arms} == {(2, 3)}
    assert planned("seeds=[5, 9]", num_seeds=3).seeds == (10, 11, 12)


def test_arms_train_as_the_experiment_does_but_for_schedule_peaks_and_seeds(tiny: Tiny) -> None:
    own = tiny()
    for arm in planned().arms({"constant": 0.1}):
        same = {"seeds": own.seeds, "peaks": None, "schedule": own.schedule}
        assert arm.experiment.model_copy(update=same) == own


def test_schedule_is_the_experiments_own_where_its_shape_is_and_the_default_elsewhere() -> None:
    own = planned("schedule={shape: warmup, warmup_epochs: 1, drop_epochs: [2]}")
    arms = {arm.name: arm.experiment.schedule for arm in own.arms({"warmup": 0.1, "cyclical": 0.1})}
    for name in ("warmup", "silo"):
        assert (arms[name].warmup_epochs, arms[name].drop_epochs) == (1, (2,))
        assert (arms[name].warmup, arms[name].drops) == (None, None)
    assert (arms["cyclical"].low, arms["cyclical"].step) == (0.0, 0.125)

    other = planned("schedule={shape: cyclical, low: 0.001, step: 0.25}")
    arms = {arm.name: arm.experiment.schedule for arm in other.arms({"cyclical": 0.1, "decay": 0.1})}
    for name in ("cyclical", "cyclical-silo"):
        assert (arms[name].low, arms[name].step) == (0.001, 0.25)
    assert (arms["silo"].shape, arms["silo"].warmup, arms["silo"].drops) == ("warmup", 0.1, (0.5, 0.75))
    assert arms["decay"].length == 1.0
    assert other.search_of("cyclical").schedule == arms["cyclical"]


@pytest.mark.parametrize("shape", LABELS)
def test_every_schedule_that_is_named_has_an_arm_and_a_search(shape: str) -> None:
    plan = planned(shapes=(shape,))
    assert plan.search_of(shape).schedule.shape == shape
    names = [arm.name for arm in plan.arms({shape: 0.1})]
    assert names == [shape, SILO] + [f"{shape}-silo"] * (shape != "warmup")


def test_autolrs_searches_up_to_the_grids_largest_rate(tiny: Tiny) -> None:
    [arm] = [arm for arm in planned(autolrs=True).arms({"warmup": 0.1}) if arm.name == AUTOLRS]
    assert arm.peaks == (0.4, 0.4, 0.4)
    assert arm.experiment.training.autolrs
    assert arm.experiment.schedule.shape == "constant"
    assert not any(arm.experiment.training.autolrs for arm in planned().arms({"warmup": 0.1}))


@pytest.mark.slow
def test_autolrs_is_an_arm_whose_steps_are_told(tmp_path: Path) -> None:
    plan = planned("pruning.cycles=0", "seeds=[0]", shapes=("constant",), autolrs=True)
    found = compare(plan, str(tmp_path), launch=LOCAL)
    assert found.trained.steps == 3 * ((1797 - 359 - 500) // 256)
    assert found.extra_steps == extra_steps(9) > 0
    assert f"AutoLRS took {extra_steps(9):,} steps more than the 9 of each training" in found.costs
    assert {each.arm.name for each in found.standings} == {"constant", "silo", "constant-silo", AUTOLRS}


# How arms stand.


def planted(accuracies: dict[str, list[list[float | None]]], **more: Any) -> Compared:
    """What arms reached, of these test accuracies by seed and cycle; None: diverged. The names are those of arms."""
    num_cycles = len(next(iter(accuracies.values()))[0])
    num_seeds = len(next(iter(accuracies.values())))
    plan = planned(f"pruning.cycles={num_cycles - 1}", num_seeds=num_seeds, **more)
    rates = {name: 0.1 for name in accuracies if name in LABELS}
    arms = tuple(arm for arm in plan.arms(rates) if arm.name in accuracies)
    assert {arm.name for arm in arms} == set(accuracies)
    tables = {}
    for name, by_seed in accuracies.items():
        rows = [
            dict.fromkeys(TRIALS.names)
            | {
                "cycle": cycle,
                "seed": seed,
                "max_lr": 0.1,
                "weights_remaining": 0.8**cycle,
                "lineage": "x",
                "commit": "y",
            }
            | {"outcome": "diverged" if value is None else "finished", "test_accuracy": value}
            for seed, values in zip(plan.seeds, by_seed, strict=True)
            for cycle, value in enumerate(values)
        ]
        tables[name] = pa.Table.from_pylist(rows, schema=TRIALS)
    trained_arms = TrainedArms(arms=arms, trials=tables, steps=9)
    return Compared(comparison=plan, rates=rates, left_out=(), trained=trained_arms, num_searched=0)


FOUR = {
    "silo": [[0.75, 0.50], [0.75, 0.75], [1.00, 0.50]],  # means 0.625, 0.75, 0.75
    "constant": [[0.50, 0.50], [0.50, 0.25], [0.75, 0.25]],  # 0.5, 0.375, 0.5
    "decay": [[1.00, 0.50], [0.75, 0.75], [0.50, 0.50]],  # 0.75, 0.75, 0.5
    "rex": [[0.25, 0.25], [0.25, 0.50], [0.50, 0.50]],  # 0.25, 0.375, 0.5
}


def test_ranks_are_means_over_seeds_and_ties_share_theirs() -> None:
    """Seed by seed: decay, silo, constant, rex; silo and decay share 1.5, constant and rex 3.5; silo, the rest 3."""
    found = {each.arm.name: each for each in planted(FOUR).standings}
    ranks = {name: each.rank for name, each in found.items()}
    by_hand = {"silo": 2 + 1.5 + 1, "decay": 1 + 1.5 + 3, "constant": 3 + 3.5 + 3, "rex": 4 + 3.5 + 3}
    assert ranks == pytest.approx({name: total / 3 for name, total in by_hand.items()}, rel=1e-12)  # a mean's rounding
    assert list(found) == ["silo", "decay", "constant", "rex"]
    assert found["silo"].accuracy == pytest.approx((0.625 + 0.75 + 0.75) / 3, rel=1e-12)


def test_of_arms_with_one_rank_the_more_accurate_is_first() -> None:
    found = planted({"silo": [[0.5], [0.9]], "constant": [[0.6], [0.6]]})
    assert [(each.arm.name, each.rank) for each in found.standings] == [("silo", 1.5), ("constant", 1.5)]


def test_differences_to_silo_are_by_seed_and_p_values_are_holms() -> None:
    found = {each.arm.name: each for each in planted(FOUR).standings}
    differences = {"constant": (-0.125, -0.375, -0.25), "decay": (0.125, 0.0, -0.25), "rex": (-0.375, -0.375, -0.25)}
    raw = {}
    for name, by_hand in differences.items():
        assert found[name].difference.per_seed == by_hand  # quarters and eighths: exact
        raw[name] = stats.ttest_1samp(by_hand, 0).pvalue
    assert raw["rex"] < raw["constant"] < raw["decay"]
    first = 3 * raw["rex"]
    second = max(first, 2 * raw["constant"])
    raised = {"rex": first, "constant": second, "decay": max(second, raw["decay"])}
    for name, p_value in raised.items():
        assert found[name].p_value == pytest.approx(p_value, rel=1e-9)  # two ways to the same t distribution
    assert found["silo"].difference is found["silo"].p_value is found["silo"].outcome is None


def test_arm_that_is_surely_worse_alone_is_open_among_several() -> None:
    """Differences of -0.2, -0.3, -0.25: t = -0.25 / (0.05 / sqrt(3)), p = 0.013; four times that is 0.052."""
    alone = {"silo": [[0.5]] * 3, "constant": [[0.3], [0.2], [0.25]]}
    others = {"decay": [[0.1], [0.9], [0.5]], "rex": [[0.2], [0.8], [0.4]], "cosine": [[0.3], [0.9], [0.2]]}
    one, among = (next(each for each in planted(arms).standings if each.arm.name == "constant")
                  for arms in (alone, alone | others))  # fmt: skip
    p_value = 2 * stats.t.sf(0.25 / (0.05 / math.sqrt(3)), 2)
    assert one.p_value == pytest.approx(p_value, rel=1e-9)  # 0.3 - 0.5 is not quite -0.2
    assert among.p_value == pytest.approx(4 * p_value, rel=1e-9)
    assert one.difference == among.difference
    assert (one.outcome, among.outcome) == ("worse", "open")


def test_verdict_counts_the_outcomes() -> None:
    near = {"silo": [[0.501], [0.701], [0.6]], "decay": [[0.5], [0.7], [0.6]], "rex": [[0.1], [0.31], [0.2]]}
    assert planted(near).verdict == (
        "SILO is number 1 of 3 by mean rank; of the others 1 surely worse, 1 equal to it within half a point"
    )


def test_arm_that_diverged_is_left_out_of_the_ranks_and_said() -> None:
    whole = {name: FOUR[name] for name in ("silo", "constant")}
    lost = planted(whole | {"decay": [[1.0, 1.0], [1.0, None], [1.0, 1.0]]})
    assert [each.arm.name for each in lost.standings] == ["silo", "constant"]
    assert [each.rank for each in lost.standings] == [each.rank for each in planted(whole).standings] == [1.0, 2.0]
    assert lost.notes == ("decay diverged at cycle 1, max_lr 0.1 with seed 3, and could not go on",)


def test_without_silo_there_is_nothing_to_compare() -> None:
    found = planted({"silo": [[None], [None]], "constant": [[0.5], [0.5]], "decay": [[0.25], [0.25]]})
    assert found.verdict == "SILO, or everything else, diverged: there is nothing to compare"
    assert [(each.arm.name, each.difference) for each in found.standings] == [("constant", None), ("decay", None)]


def test_one_seed_has_ranks_and_no_tests() -> None:
    found = planted({"silo": [[0.5]], "constant": [[0.75]]})
    assert [(each.arm.name, each.rank, each.p_value) for each in found.standings] == [
        ("constant", 1, None),
        ("silo", 2, None),
    ]
    assert found.standings[0].outcome == "open"
    assert found.trained.mean_at(found.standings[0].arm.name, 0) == (0.75, None)


def test_standings_of_a_run_are_those_of_its_table(compared) -> None:
    found, out = compared
    rows = pq.read_table(out / "compare.parquet").to_pylist()
    names = [arm.name for arm in found.trained.arms]
    means = {name: [math.fsum(row["test_accuracy"] for row in rows if (row["arm"], row["seed"]) == (name, seed)) / 3
                    for seed in (2, 3)] for name in names}  # fmt: skip
    standings = {each.arm.name: each for each in found.standings}
    assert set(standings) == set(names)
    for name, own in means.items():
        # Rank of a seed: one more than are above, half of those that tie.
        ranks = [1 + sum(means[other][seed] > own[seed] + 1e-12 for other in names)
                 + sum(abs(means[other][seed] - own[seed]) <= 1e-12 for other in names if other != name) / 2
                 for seed in range(2)]  # fmt: skip
        assert standings[name].rank == pytest.approx(sum(ranks) / 2, rel=1e-12)
        if name != SILO:
            differences = [one - other for one, other in zip(own, means[SILO], strict=True)]
            assert standings[name].difference.per_seed == pytest.approx(differences, rel=1e-12, abs=1e-15)
    order = [(each.rank, -each.accuracy) for each in found.standings]
    assert order == sorted(order)


# Divergence.


@pytest.mark.slow
def test_curve_that_diverges_and_a_schedule_of_which_every_rate_does_are_left_out_and_said(tmp_path: Path) -> None:
    """The warm-up drops to a ten-thousandth at once, so that it survives 1000, and the constant schedule does not."""
    plan = planned(
        f"grid={{spacing: explicit, values: [{DIVERGING}, {2 * DIVERGING}]}}",
        "schedule={shape: warmup, warmup: 0.0, drops: [0.0, 0.0, 0.0, 0.0]}",
        "pruning.cycles=0",
        shapes=("constant", "warmup"),
        curves=(given_curve("eps=500,delta=0").make, given_curve("eps=1e9,delta=0").make),
    )
    found = compare(plan, str(tmp_path), launch=LOCAL)
    assert list(found.rates) == ["warmup"]
    assert found.left_out == ("constant: every rate of the grid diverged at cycle 0, so it is left out",)
    assert [arm.name for arm in found.trained.arms] == ["warmup", "silo", "silo-2"]
    assert found.notes == (
        *found.left_out,
        "SILO 2 diverged at cycle 0, max_lr 1e+09 with seeds 2, 3, and could not go on",
    )
    assert {each.arm.name for each in found.standings} == {"warmup", "silo"}
    assert sorted(each.rank for each in found.standings) in ([1.0, 2.0], [1.5, 1.5])
    said = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    [lost] = [arm for arm in said["arms"] if arm["arm"] == "silo-2"]
    assert (lost["mean"], lost["rank"], lost["test_accuracy"]) == (None, None, [None])
    assert lost["ended"].startswith("diverged at cycle 0")
    assert {row["arm"] for row in pq.read_table(tmp_path / "compare.parquet").to_pylist()} == {
        "warmup", "silo", "silo-2",
    }  # fmt: skip


# Files, and going on.


def test_every_training_of_the_arms_is_a_row_and_the_metadata_hold_what_is_said(compared) -> None:
    found, out = compared
    table = pq.read_table(out / "compare.parquet")
    assert table.column_names == ["arm", *COLUMNS]
    assert table.num_rows == found.trained.num_trainings == 7 * 3 * 2
    for arm in found.trained.arms:
        own = table.filter(pa.compute.equal(table["arm"], arm.name)).drop_columns(["arm"])
        assert own.to_pylist() == read_trials(out / arm.name).select(list(COLUMNS)).to_pylist()
    said = json.loads(table.schema.metadata[b"compare"])
    assert said == json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_dictionary_has_an_arm_each_with_its_numbers(compared) -> None:
    said = compared[0].as_dict()
    assert said.keys() == {
        "experiment", "curves", "seeds", "rates", "verdict", "notes", "trainings", "steps", "autolrs_extra_steps",
        "seconds", "arms",
    }  # fmt: skip
    assert said["trainings"] == {"rates": 18, "arms": 42}
    assert (said["seeds"], said["steps"], said["autolrs_extra_steps"]) == ((2, 3), 9, 0)
    silo = next(arm for arm in said["arms"] if arm["arm"] == SILO)
    assert silo.keys() == {
        "arm", "label", "peaks", "test_accuracy", "mean", "rank", "difference_to_silo", "adjusted_p_value", "outcome",
        "ended",
    }  # fmt: skip
    own = compared[0].trained.accuracies(SILO)
    assert silo["test_accuracy"] == [(own[:, cycle].mean(), own[:, cycle].std(ddof=1)) for cycle in range(3)]
    assert silo["mean"] == pytest.approx(np.mean(own), rel=1e-12)


def test_run_again_it_trains_nothing_and_changes_nothing(compared) -> None:
    found, out = compared
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "events.jsonl"}
    starts: list[int] = []
    again = compare(
        found.comparison,
        str(out),
        launch=LOCAL,
        listener=lambda label: told(TrainingStarted, lambda: starts.append(0)),
    )
    assert starts == []
    assert again.as_dict() == found.as_dict()
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_more_seeds_go_on_and_fewer_are_refused(tmp_path: Path) -> None:
    def run(num_seeds: int) -> Compared:
        return compare(
            planned("pruning.cycles=1", shapes=("warmup",), num_seeds=num_seeds), str(tmp_path), launch=LOCAL
        )

    run(1)
    one = {name: read_trials(tmp_path / name).to_pylist() for name in ("warmup", "silo")}
    assert run(2).trained.seeds == (2, 3)
    for name, rows in one.items():
        assert [row for row in read_trials(tmp_path / name).to_pylist() if row["seed"] == 2] == rows
        assert len(trained(tmp_path / name)) == len(set(trained(tmp_path / name))) == 2 * 2
    assert len(trained(tmp_path / "rates" / "warmup")) == 3 * 2
    with pytest.raises(FolderError, match="more are fine, fewer not"):
        run(1)


def test_trainings_of_the_searches_are_counted_as_they_were(tmp_path: Path) -> None:
    plan = planned(
        "grid={spacing: log, low: 0.01, high: 1, points: 12}",
        "search.strategy=adaptive",
        "pruning.cycles=0",
        shapes=("warmup",),
    )
    found = compare(plan, str(tmp_path), launch=LOCAL)
    assert found.num_searched == read_trials(tmp_path / "rates" / "warmup").num_rows


# Refusals.


def test_curves_and_schedules_that_cannot_be_compared_are_refused_where_they_are_planned() -> None:
    with pytest.raises(CurveError, match="no curve to compare with"):
        planned(curves=())
    with pytest.raises(CurveError, match="a curve is there twice"):
        planned(curves=(RISING, RISING))
    with pytest.raises(ExperimentError, match="schedules: expected some of"):
        planned(shapes=())
    for tolerance in (0.0, 1.0, math.nan):
        with pytest.raises(ExperimentError, match="tolerance: expected a fraction of accuracy between 0 and 1"):
            planned(tolerance=tolerance)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ((), "no curve to compare with: name one (--curve)"),
        (("--curve", "eps=1"), "delta missing"),
        (("--curve", "nowhere"), "nowhere: no such file or folder"),
        (("--curve", "eps=0,delta=0.1"), "its max_lr at cycle 0 is 0"),
        (("--curve", "eps=0.1,delta=0", "--curve", "eps=0.1,delta=0"), "a curve is there twice"),
        (("--curve", "eps=0.1,delta=0", "--schedules", "linear"), "schedules: expected some of constant, decay"),
        (("--curve", "eps=0.1,delta=0", "--schedules", "warmup,warmup"), "each once, found warmup, warmup"),
        (("--curve", "eps=0.1,delta=0", "--schedules", ""), "schedules: expected some of"),
        (("--curve", "eps=0.1,delta=0", "--cycles", "0,3"), "cycles: found '0,3', expected some of 0 to 2"),
        (("--curve", "eps=0.1,delta=0", "--cycles", "-1"), "cycles: found '-1'"),
        (("--curve", "eps=0.1,delta=0", "--cycles", "first"), "cycles: found 'first'"),
        (("--curve", "eps=0.1,delta=0", "--cycles", "auto"), "cycles: found 'auto'"),
        (("--curve", "eps=0.1,delta=0", "--set", "peaks=0.1"), "peaks: each schedule's own rate is searched"),
        (("--curve", "eps=0.1,delta=0", "--tolerance", "0"), "tolerance: expected a fraction"),
        (("--curve", "eps=0.1,delta=0", "--seeds", "20000"), "seeds: expected 1 to 10,000"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    silo_fit, tmp_path: Path, options: tuple[str, ...], named: str
) -> None:
    code, said, error = silo_fit(
        "compare", "digits-mlp", *SETS, "--out", tmp_path / "out", "--executor", "local", *options
    )
    assert (code, said) == (2, "")
    assert error.startswith("error: ")
    assert named in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


# The command.


@pytest.fixture(scope="module")
def command(compared) -> tuple[Any, ...]:
    _, out = compared
    curves = ("--curve", "eps=0.02,delta=0.4,q=0,beta=3", "--curve", "eps=0.1,delta=0")
    schedules = ("--schedules", "warmup, constant, cosine")
    return ("compare", "digits-mlp", *SETS, "--out", out, "--executor", "local", *curves, *schedules)


def test_command_prints_a_row_an_arm_with_its_numbers(silo_fit, compared, command) -> None:
    found, out = compared
    code, said, _ = silo_fit(*command)
    assert code == 0
    lines = said.splitlines()
    assert lines[0] == found.verdict
    head = next(number for number, line in enumerate(lines) if "less SILO" in line)
    weights = [row["weights_remaining"] for row in read_trials(out / "silo").to_pylist() if row["seed"] == 2]
    assert all(
        part in lines[head] for part in (*(f"{100 * each:.2f}" for each in weights), "mean", "rank", "95% interval")
    )
    for line, each in zip(lines[head + 1 :], found.standings, strict=False):
        assert line.startswith(f"{each.arm.label} ")
        own = found.trained.accuracies(each.arm.name)
        cells = [f"{100 * own[:, cycle].mean():.2f} ± {100 * own[:, cycle].std(ddof=1):.2f}" for cycle in range(3)]
        cells += [f"{100 * own.mean():.2f}", f"{each.rank:.1f}"]
        if each.difference is not None:
            cells += [f"{100 * each.difference.mean:+.2f}", f"{each.p_value:.2g}"]
        assert all(cell in line for cell in cells), line
    assert f"own rates, best on validation at cycle 0: warm-up {found.rates['warmup']:.4g}" in said
    assert "SILO 2: eps 0.1, delta 0" in said
    assert found.costs in said
    assert f"{out}/compare.parquet" in said


def test_command_prints_the_cycles_that_are_asked_for(silo_fit, compared, command) -> None:
    code, said, _ = silo_fit(*command, "--cycles", "2")
    assert code == 0
    [line] = [line for line in said.splitlines() if line.startswith("SILO ") and "±" in line and "SILO 2" not in line]
    assert line.count("±") == 1
    assert f"{100 * compared[0].trained.accuracies(SILO)[:, 2].mean():.2f} ±" in line


def test_command_prints_json_alone(silo_fit, compared, command) -> None:
    code, said, _ = silo_fit(*command, "--json")
    assert code == 0
    assert json.loads(said) == json.loads(json.dumps(compared[0].as_dict(), allow_nan=False))
