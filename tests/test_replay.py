"""A search replayed: which peaks and seeds the arms have, what is read from them, and what is refused."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from faults import timeless
from folders import trained
from listeners import told

from oracle.errors import CancelledError, CurveError, ExperimentError, FolderError, TableError
from oracle.events import CancelToken, CycleFinished, TrainingStarted
from oracle.execution.executors import Launch
from oracle.experiment import load_experiment
from oracle.runs.records import read_oracle, read_trials
from oracle.runs.tables import TRIALS
from oracle.search.run import run_oracle
from oracle.storage import file_beside
from silo_fit.arms import COLUMNS, Arm, TrainedArms, fresh_seeds, with_peaks
from silo_fit.curve import SiloCurve
from silo_fit.differences import paired
from silo_fit.fit import fit
from silo_fit.given import given_curve
from silo_fit.replay import CONSTANT, ORACLE, SILO, plan_replay, replay
from silo_fit.tables import read_intervals

ARMS = (SILO, ORACLE, CONSTANT)
PAIRS = ((SILO, ORACLE), (SILO, CONSTANT), (ORACLE, CONSTANT))
TINY = (
    "pruning.cycles=2",
    "training.epochs=3",
    "training.batch_size=256",
    "grid={spacing: explicit, values: [0.02, 0.1, 0.4]}",
    "seeds=[0, 1]",
)
LOCAL = Launch(executor="local", slots=1)
LEVEL = given_curve("eps=0.1,delta=0").make  # 0.1 at every cycle
RISING = given_curve("eps=0.02,delta=0.4,q=0,beta=3").make
DIVERGING = 1000.0  # max_lr: nothing survives it
NUM_TEST = 359  # images of the digits; no multiple of 8, so that their bits are filled up


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of three cycles, three rates and two seeds; nobody changes it."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("oracle") / "mine"
    run_oracle(load_experiment("digits-mlp", overrides=TINY), out, executor="local", slots=1)
    return out


@pytest.fixture(scope="module")
def replayed(oracle: Path, tmp_path_factory: pytest.TempPathFactory):
    """It, replayed as people do, with a curve that rises; and where to."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("replayed") / "out"
    return replay(plan_replay(str(oracle), curve=RISING), str(out), launch=LOCAL), out


@pytest.fixture
def untouched(oracle: Path) -> Iterator[None]:
    before = files_of(oracle)
    yield
    assert files_of(oracle) == before


def files_of(out: Path) -> dict[Path, bytes]:
    """All but the logs, with which every run goes on."""
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "events.jsonl"}


def stopped_after(cycle: int, out: Path) -> None:
    """A search that was stopped once a cycle was finished; -1: before anything was trained."""
    cancel, finished = CancelToken(), []

    def stop() -> None:
        finished.append(None)
        if len(finished) > cycle:
            cancel.cancel()

    if cycle < 0:
        cancel.cancel()
    with pytest.raises(CancelledError):
        run_oracle(
            load_experiment("digits-mlp", overrides=TINY),
            out,
            executor="local",
            listeners=[told(CycleFinished, stop)],
            cancel=cancel,
        )
    assert len(read_oracle(out)) == cycle + 1


# What is planned.


def test_peaks_are_the_curves_the_optima_and_the_first_optimum(oracle: Path) -> None:
    plan = plan_replay(str(oracle), curve=RISING)
    optima = read_oracle(oracle)["max_lr"].to_pylist()
    curve = SiloCurve(eps=0.02, delta=0.4, q=0, beta=3, pruning_rate=0.2)
    assert len(set(optima)) > 1  # else a constant could not be told from them
    assert {arm.name: arm.peaks for arm in plan.arms} == {
        SILO: (0.02, *(float(f"{curve(cycle):.6g}") for cycle in (1, 2))),
        ORACLE: tuple(optima),
        CONSTANT: (optima[0],) * 3,
    }
    assert plan.curve == curve
    assert not plan.is_fitted
    assert plan.num_trainings == 3 * 3 * 2


def test_curve_is_the_one_that_fits_where_none_is_given(oracle: Path) -> None:
    plan = plan_replay(str(oracle), constant=0.05, num_seeds=3, tolerance=0.02)
    assert plan.curve == fit(read_intervals(str(oracle))).curve
    assert plan.is_fitted
    assert plan.arms[2].peaks == (0.05,) * 3
    assert plan.tolerance == 0.02
    assert [len(arm.experiment.seeds) for arm in plan.arms] == [3] * 3


def test_arms_train_as_the_search_did_but_for_peaks_and_seeds(oracle: Path) -> None:
    own = load_experiment("digits-mlp", overrides=TINY)
    for arm in plan_replay(str(oracle), curve=LEVEL).arms:
        same = {"seeds": own.seeds, "peaks": None}
        assert arm.experiment.model_copy(update=same) == own


def test_seeds_are_fresh_and_the_same_for_all_arms(oracle: Path) -> None:
    plan = plan_replay(str(oracle), curve=LEVEL, num_seeds=4)
    assert [arm.experiment.seeds for arm in plan.arms] == [(2, 3, 4, 5)] * 3


def test_seeds_that_were_added_to_the_search_are_not_fresh(tmp_path: Path) -> None:
    flat = ("grid={spacing: log, low: 0.1, high: 0.3, points: 4}", "pruning.cycles=0", "tolerance=0.0001")
    experiment = load_experiment("digits-mlp", overrides=[*TINY, *flat])
    run_oracle(experiment, tmp_path / "sure", executor="local", slots=1, until_sure=0.999, max_seeds=4)
    used = set(read_trials(tmp_path / "sure")["seed"].to_pylist())
    assert used > {0, 1}  # some were added
    plan = plan_replay(str(tmp_path / "sure"), curve=LEVEL, tolerance=0.01)
    assert [arm.experiment.seeds for arm in plan.arms] == [(max(used) + 1, max(used) + 2)] * 3


@pytest.mark.parametrize(
    ("used", "num_seeds", "fresh"),
    [([0, 1], 2, [2, 3]), ([7, 3], 1, [8]), ([2**63 - 3], 2, [2**63 - 2, 2**63 - 1])],
)
def test_fresh_seeds_are_the_next_whole_numbers(used: list[int], num_seeds: int, fresh: list[int]) -> None:
    assert fresh_seeds(used, num_seeds) == fresh


@pytest.mark.parametrize(("used", "num_seeds"), [([0], 0), ([0], 10_001), ([2**63 - 2], 2)])
def test_seeds_that_are_not_there_are_refused(used: list[int], num_seeds: int) -> None:
    with pytest.raises(ExperimentError, match="seeds: "):
        fresh_seeds(used, num_seeds)


# What is found.


@pytest.mark.usefixtures("untouched")
def test_every_training_is_a_row_of_the_table(replayed) -> None:
    found, out = replayed
    table = pq.read_table(out / "replay.parquet")
    assert table.column_names == ["arm", *COLUMNS]
    rows = table.select(["arm", "cycle", "seed", "max_lr"]).to_pylist()
    assert Counter(tuple(row.values()) for row in rows) == Counter(
        (arm.name, cycle, seed, max_lr)
        for arm in found.replay.arms
        for cycle, max_lr in enumerate(arm.peaks)
        for seed in (2, 3)
    )
    for name in ARMS:
        own = table.filter(pa.compute.equal(table["arm"], name)).drop_columns(["arm"])
        assert own.to_pylist() == read_trials(out / name).select(list(COLUMNS)).to_pylist()


def test_files_hold_what_is_said_and_a_picture(replayed) -> None:
    found, out = replayed
    said = json.loads(pq.read_schema(out / "replay.parquet").metadata[b"replay"])
    assert said == json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert (out / "replay.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in out.iterdir()} == {*ARMS, "replay.parquet", "replay.png"}


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_differences_are_those_of_the_test_accuracies_seed_by_seed(replayed, one: str, other: str) -> None:
    found, out = replayed
    of = {
        name: {(row["seed"], row["cycle"]): row["test_accuracy"] for row in read_trials(out / name).to_pylist()}
        for name in (one, other)
    }
    by_hand = [sum(of[one][seed, cycle] - of[other][seed, cycle] for cycle in range(3)) / 3 for seed in (2, 3)]
    assert any(by_hand)
    difference = found.differences[one, other]
    assert difference.per_seed == pytest.approx(by_hand, rel=1e-12, abs=1e-15)  # the order of the sum
    assert (difference.num_cycles, difference.tolerance) == (3, found.replay.experiment.tolerance)


def test_bits_give_the_same_accuracies(replayed) -> None:
    trained_arms = replayed[0].trained
    for name in ARMS:
        bits = trained_arms.bits(name, 3)
        assert bits.shape == (2, 3, NUM_TEST)
        assert np.array_equal(bits.sum(axis=2) / NUM_TEST, trained_arms.accuracies(name))


def test_rows_by_cycle_are_means_over_seeds_beside_the_searchs_own(replayed, oracle: Path) -> None:
    found, searched = replayed[0], read_oracle(oracle).to_pylist()
    rows = found.rows()
    assert [row["cycle"] for row in rows] == [0, 1, 2]
    for cycle, row in enumerate(rows):
        assert row["weights_remaining"] == searched[cycle]["weights_remaining"]
        assert row["oracle_in_sample"] == searched[cycle]["test_accuracy"]
        for arm in found.replay.arms:
            own = found.trained.accuracies(arm.name)[:, cycle]
            assert row[arm.name] == {
                "max_lr": arm.peaks[cycle],
                "test_accuracy": own.mean(),
                "test_accuracy_std": own.std(ddof=1),
            }


def test_one_peak_is_one_chain_whatever_the_arm_is_called(replayed) -> None:
    trained_arms = replayed[0].trained
    first = [arm.peaks[0] for arm in replayed[0].replay.arms]
    assert first[1] == first[2]
    assert np.array_equal(trained_arms.accuracies(ORACLE, 1), trained_arms.accuracies(CONSTANT, 1))
    assert not np.array_equal(trained_arms.accuracies(SILO, 1), trained_arms.accuracies(CONSTANT, 1))


# Going on.


def test_run_again_it_trains_nothing_and_changes_nothing(replayed) -> None:
    found, out = replayed
    before, starts = files_of(out), []
    plan = plan_replay(found.replay.source, curve=RISING)
    again = replay(plan, str(out), launch=LOCAL, listener=lambda label: told(TrainingStarted, lambda: starts.append(0)))
    assert starts == []
    assert again.as_dict() == found.as_dict()
    assert files_of(out) == before


def test_more_seeds_go_on_and_fewer_are_refused(oracle: Path, tmp_path: Path) -> None:
    def run(num_seeds: int) -> dict[str, list[dict]]:
        replay(plan_replay(str(oracle), curve=LEVEL, num_seeds=num_seeds), str(tmp_path), launch=LOCAL)
        return {name: read_trials(tmp_path / name).to_pylist() for name in ARMS}

    two, three = run(2), run(3)
    for name in ARMS:
        assert [row for row in three[name] if row["seed"] < 4] == two[name]
        assert {row["seed"] for row in three[name]} == {2, 3, 4}
        assert len(trained(tmp_path / name)) == len(set(trained(tmp_path / name))) == 3 * 3
    assert pq.read_table(tmp_path / "replay.parquet").num_rows == 3 * 3 * 3
    with pytest.raises(FolderError, match="more are fine, fewer not"):
        run(2)


def test_search_that_is_not_finished_is_replayed_as_far_as_it_is_and_goes_on(oracle: Path, tmp_path: Path) -> None:
    stopped_after(0, tmp_path / "mine")
    found = replay(plan_replay(str(tmp_path / "mine"), curve=LEVEL), str(tmp_path / "out"), launch=LOCAL)
    assert found.notes[-1] == "the search has finished 1 of 3 cycles; these are replayed"
    assert [len(arm.peaks) for arm in found.replay.arms] == [1, 1, 1]
    assert found.differences[SILO, ORACLE].num_cycles == 1
    before = {name: read_trials(tmp_path / "out" / name).to_pylist() for name in ARMS}

    run_oracle(load_experiment("digits-mlp", overrides=TINY), tmp_path / "mine", executor="local")
    found = replay(plan_replay(str(tmp_path / "mine"), curve=LEVEL), str(tmp_path / "out"), launch=LOCAL)
    assert not any("finished" in note for note in found.notes)
    for name in ARMS:
        now = read_trials(tmp_path / "out" / name).to_pylist()
        assert [row for row in now if row["cycle"] == 0] == before[name]
        assert len(trained(tmp_path / "out" / name)) == len(set(trained(tmp_path / "out" / name))) == 3 * 2
    alone = replay(plan_replay(str(oracle), curve=LEVEL), str(tmp_path / "alone"), launch=LOCAL)
    assert timeless(found.trained.table()) == timeless(alone.trained.table())


# Arms that diverge.


def test_constant_that_diverges_is_told_and_the_others_are_compared(oracle: Path, tmp_path: Path) -> None:
    plan = plan_replay(str(oracle), curve=LEVEL, constant=DIVERGING)
    found = replay(plan, str(tmp_path), launch=LOCAL)
    assert [found.differences[pair] is None for pair in PAIRS] == [False, True, True]
    assert found.differences[SILO, ORACLE].num_cycles == 3
    told_of = "a constant max_lr of 1000 diverged at cycle 0, max_lr 1000 with seeds 2, 3, and could not go on"
    for arm in ("SILO", "the Oracle"):
        assert f"no comparison of {arm} and a constant max_lr of 1000 to the end: {told_of}" in found.notes
    lacking = {"max_lr": DIVERGING, "test_accuracy": None, "test_accuracy_std": None}
    assert [row[CONSTANT] for row in found.rows()] == [lacking] * 3
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["differences"]["silo-constant"] is None
    assert found.trained.num_trainings == 3 * 2 + 3 * 2 + 2
    assert (tmp_path / "replay.png").exists()


def test_curve_that_diverges_at_once_leaves_nothing_to_say_of_it(oracle: Path, tmp_path: Path) -> None:
    plan = plan_replay(str(oracle), curve=given_curve(f"eps={DIVERGING},delta=0").make)
    found = replay(plan, str(tmp_path), launch=LOCAL)
    assert found.verdict.startswith("no comparison of SILO and the Oracle to the end: SILO diverged at cycle 0")
    assert [found.differences[pair] is None for pair in PAIRS] == [True, True, False]


def planted(accuracies: dict[str, list[list[float | None]]]) -> TrainedArms:
    """Arms with these test accuracies by seed (0, 1, ...) and cycle; None: diverged. Without bits."""
    tiny = load_experiment("digits-mlp", overrides=TINY)
    tables, num_seeds = {}, len(next(iter(accuracies.values())))
    for name, by_seed in accuracies.items():
        rows = [
            dict.fromkeys(TRIALS.names)
            | {"cycle": cycle, "seed": seed, "max_lr": 0.1, "weights_remaining": 1.0, "lineage": "x", "commit": "y"}
            | {"outcome": "diverged" if value is None else "finished", "test_accuracy": value}
            for seed, values in enumerate(by_seed)
            for cycle, value in enumerate(values)
        ]
        tables[name] = pa.Table.from_pylist(rows, schema=TRIALS)
    experiment = with_peaks(tiny, [0.1, 0.1, 0.1], seeds=range(num_seeds))
    arms = tuple(Arm(name=name, label=name.upper(), experiment=experiment) for name in accuracies)
    return TrainedArms(arms=arms, trials=tables, steps=3)


def test_two_arms_are_compared_over_the_cycles_that_both_have_finished_with_every_seed() -> None:
    arms = planted(
        {
            "whole": [[0.5, 0.75, 1.0], [0.5, 0.5, 0.5]],
            "late": [[0.25, 0.5, None], [0.5, 0.25, 0.0]],
            "early": [[0.125, 0.5], [0.25, None]],
            "never": [[None], [None]],
        }
    )
    assert [arms.finished(name) for name in ("whole", "late", "early", "never")] == [3, 2, 1, 0]
    # Seeds are the rows, cycles the mean: by hand.
    assert arms.difference("whole", "late", tolerance=0.01).per_seed == (0.25, 0.125)
    assert arms.difference("whole", "early", tolerance=0.01).per_seed == (0.375, 0.25)
    assert arms.difference("late", "early", tolerance=0.01) == paired(
        np.array([[0.25], [0.5]]), np.array([[0.125], [0.25]]), tolerance=0.01
    )
    assert arms.difference("whole", "never", tolerance=0.01) is None
    assert arms.ended("whole") is None
    assert arms.ended("late") == "diverged at cycle 2, max_lr 0.1 with seed 0, and could not go on"
    assert arms.ended("never") == "diverged at cycle 0, max_lr 0.1 with seeds 0, 1, and could not go on"


def test_rows_without_bits_say_nothing_of_images() -> None:
    arms = planted({"a": [[0.5], [0.25]], "b": [[0.5], [0.75]]})
    assert arms.bits("a", 1) is None
    assert arms.difference("a", "b", tolerance=0.01).image_se is None


# Refusals.


def test_what_is_no_searchs_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="holds no Oracle run"):
        plan_replay(str(tmp_path / "nothing"))
    fixed = load_experiment("digits-mlp", overrides=[*TINY, "peaks=0.1", "pruning.cycles=0"])
    run_oracle(fixed, tmp_path / "peaks", executor="local")
    with pytest.raises(TableError, match="its peaks were fixed"):
        plan_replay(str(tmp_path / "peaks"))


def test_search_without_a_finished_cycle_is_refused(tmp_path: Path) -> None:
    stopped_after(-1, tmp_path / "mine")
    with pytest.raises(TableError, match="no cycle is finished yet"):
        plan_replay(str(tmp_path / "mine"), curve=LEVEL)


@pytest.mark.parametrize("tolerance", [0.0, 1.0, -0.1, float("nan"), float("inf")])
def test_tolerance_that_is_no_fraction_is_refused(oracle: Path, tolerance: float) -> None:
    with pytest.raises(ExperimentError, match="tolerance: expected a fraction of accuracy between 0 and 1"):
        plan_replay(str(oracle), curve=LEVEL, tolerance=tolerance)


@pytest.mark.parametrize(("numbers", "cycle"), [("eps=0,delta=0.1", 0), ("eps=1e30,delta=0", 0)])
def test_curve_that_nobody_can_train_with_is_refused(oracle: Path, numbers: str, cycle: int) -> None:
    with pytest.raises(CurveError, match=f"its max_lr at cycle {cycle} is .*; give another curve"):
        plan_replay(str(oracle), curve=given_curve(numbers).make)


# The command.


@pytest.mark.usefixtures("untouched")
def test_command_prints_the_verdict_first_and_json_alone(silo_fit, oracle: Path, tmp_path: Path) -> None:
    command = ("replay", oracle, "--out", tmp_path, "--executor", "local", "--curve", "eps=0.1,delta=0", "--seeds", 2)
    code, said, progress = silo_fit(*command)
    assert code == 0
    assert "3 arms, 3 cycles, 2 seeds, 18 trainings" in progress
    code, printed, _ = silo_fit(*command, "--json")
    assert code == 0
    found = json.loads(printed)
    assert found.keys() == {
        "source", "curve", "is_fitted", "seeds", "verdict", "notes", "differences", "trainings", "seconds", "per_cycle",
    }  # fmt: skip
    assert found["differences"].keys() == {"silo-oracle", "silo-constant", "oracle-constant"}
    assert (found["seeds"], found["trainings"]) == ([2, 3], {"replay": 18, "oracle": 18})
    lines = said.splitlines()
    assert lines[0] == found["verdict"]
    assert lines[1 : 1 + len(found["notes"])] == found["notes"]
    assert f"{tmp_path}/replay.parquet" in said


def test_command_writes_beside_the_search_by_default(silo_fit, tmp_path: Path) -> None:
    one = load_experiment("digits-mlp", overrides=[*TINY, "pruning.cycles=0"])
    run_oracle(one, tmp_path / "mine", executor="local")
    code, said, _ = silo_fit("replay", f"{tmp_path / 'mine'}/", "--executor", "local", "--curve", "eps=0.1,delta=0")
    assert code == 0
    assert said.splitlines()[0]
    assert (tmp_path / "mine-replay" / "replay.parquet").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "mine-replay"]


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--curve", "eps=1"), "curve 'eps=1': delta missing"),
        (("--curve", "foo=1"), "found 'foo=1'; expected eps=NUMBER,delta=NUMBER"),
        (("--curve", "eps=a,delta=1"), "found 'eps=a'"),
        (("--curve", "eps=0.1,delta=-1"), "delta is -1; it must be finite and at least 0"),
        (("--curve", "eps=nan,delta=1"), "eps is nan"),
        (("--curve", "eps=0,delta=0.1"), "its max_lr at cycle 0 is 0"),
        (("--curve", "nowhere"), "nowhere: no such file or folder"),
        (("--tolerance", "0"), "tolerance: expected a fraction of accuracy between 0 and 1, found 0"),
        (("--tolerance", "nan"), "tolerance: expected a fraction of accuracy between 0 and 1, found nan"),
        (("--seeds", "20000"), "seeds: expected 1 to 10,000, found 20000"),
        (("--executor", "nobody"), "executor: expected one of ray, local, found 'nobody'"),
        (("--address", "auto"), "address: found auto, but the local executor trains in this process"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    silo_fit, oracle: Path, tmp_path: Path, options: tuple[str, ...], named: str
) -> None:
    code, said, error = silo_fit("replay", oracle, "--out", tmp_path / "out", "--executor", "local", *options)
    assert (code, said) == (2, "")
    assert error.startswith("error: ")
    assert named in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("constant", ["nan", "inf", "-1", "0"])
def test_constant_that_nobody_can_train_with_is_refused(silo_fit, oracle: Path, tmp_path: Path, constant: str) -> None:
    code, said, error = silo_fit(
        "replay", oracle, "--out", tmp_path / "out", "--executor", "local", "--constant", constant
    )
    assert (code, said) == (2, "")
    assert error.startswith("error: ")
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [("--seeds", "0"), ("--seeds", "two"), ("--curve", ""), ("--out", "")])
def test_options_that_typer_refuses_end_with_2(silo_fit, oracle: Path, arguments: tuple[str, str]) -> None:
    code, said, error = silo_fit("replay", oracle, "--executor", "local", *arguments)
    assert (code, said) == (2, "")
    assert arguments[0] in error
    assert "Traceback" not in error


def test_folder_that_is_no_searchs_is_one_line(silo_fit, tmp_path: Path) -> None:
    code, said, error = silo_fit("replay", tmp_path / "nothing", "--executor", "local")
    assert (code, said) == (2, "")
    assert error.startswith(f"error: {tmp_path / 'nothing'}: holds no Oracle run")
    assert error.count("\n") == 1


# Curves and folders, as people give them.


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("eps=0.03,delta=0.04", (0.03, 0.04, 1.0, 5.0)),
        (" eps = 0.03 , delta = 0 , q = 0 , beta = 3 ", (0.03, 0.0, 0.0, 3.0)),
        ("beta=4,delta=1e-2,eps=1", (1.0, 0.01, 1.0, 4.0)),
    ],
)
def test_curve_is_read_from_its_numbers(text: str, numbers: tuple[float, ...]) -> None:
    curve = given_curve(text).make(0.3)
    assert (curve.eps, curve.delta, curve.q, curve.beta, curve.pruning_rate) == (*numbers, 0.3)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("q=1,beta=5", "eps and delta missing"),
        ("delta=1", "eps missing"),
        ("eps=,delta=1", "found 'eps='"),
        ("eps=0.1,delta=1,", "found ''"),
        ("eps=0.1,delta=1,eps=0.1=2", "found 'eps=0.1=2'"),
        ("eps=0.1,delta=1,p=0.2", "found 'p=0.2'"),
        ("=", "found '='"),
        ("eps=0.1,delta=1,beta=0", "beta is 0"),
        ("eps=inf,delta=1", "eps is inf"),
        ("eps=1e308,delta=1e308", "eps \\+ delta is inf"),
    ],
)
def test_numbers_that_are_no_curves_are_refused_at_once(text: str, named: str) -> None:
    with pytest.raises(CurveError, match=named):
        given_curve(text)


def test_curve_is_fitted_to_a_table_of_the_same_pruning_rate_alone() -> None:
    given = given_curve("paper:resnet20")
    assert given.make(0.2) == fit(read_intervals("paper:resnet20")).curve
    with pytest.raises(CurveError, match=r"its pruning rate is 0\.2, the experiment's 0\.3"):
        given.make(0.3)


@pytest.mark.parametrize(
    ("folder", "beside"),
    [
        ("runs/mine", "runs/mine-replay"),
        ("runs/mine/", "runs/mine-replay"),
        (Path("runs/mine.v1"), "runs/mine.v1-replay"),
        ("/runs/./mine/.", "/runs/mine-replay"),
        ("~/mine", "{home}/mine-replay"),
        (".", "{here}-replay"),
        ("below/..", "{here}-replay"),
        ("..", "{above}-replay"),
        ("s3://bucket/mine", "s3://bucket/mine-replay"),
        ("s3://bucket/mine/", "s3://bucket/mine-replay"),
        ("s3://bucket/runs/mine/?region=eu&scheme=http", "s3://bucket/runs/mine-replay?region=eu&scheme=http"),
        ("file:///runs/mine", "file:///runs/mine-replay"),
    ],
)
def test_folder_beside_another_has_its_name_with_something_behind(
    folder: str | Path, beside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = (tmp_path / "here").resolve()
    (here / "below").mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert file_beside(folder, "-replay") == beside.format(here=here, above=here.parent, home="/home/somebody")


def test_curve_that_diverges_late_never_equals_the_oracle(oracle: Path, tmp_path: Path) -> None:
    plan = plan_replay(str(oracle), curve=given_curve("eps=0.1,delta=1e9,q=1,beta=5").make)
    found = replay(plan, str(tmp_path), launch=LOCAL)
    assert found.differences[SILO, ORACLE].num_cycles == 2
    assert found.verdict.startswith("no comparison of SILO and the Oracle to the end: SILO diverged at cycle 2")


def test_same_peaks_are_no_evidence(oracle: Path, tmp_path: Path) -> None:
    optima = read_oracle(oracle)["max_lr"].to_pylist()
    plan = plan_replay(str(oracle), curve=given_curve(f"eps={optima[0]!r},delta=0").make)
    found = replay(plan, str(tmp_path), launch=LOCAL)
    assert found.notes[0].startswith("SILO and a constant max_lr of")
    assert found.notes[0].endswith("have the same peaks, so there is nothing to tell apart")


def test_another_curve_in_the_same_folder_is_refused_and_harms_nothing(oracle: Path, tmp_path: Path) -> None:
    plans = [
        plan_replay(str(oracle), curve=given_curve(f"eps=0.1,delta={delta},q=0,beta=3").make) for delta in (0.1, 0.3)
    ]
    found = replay(plans[0], str(tmp_path), launch=LOCAL)
    with pytest.raises(FolderError, match="peaks"):
        replay(plans[1], str(tmp_path), launch=LOCAL)
    assert read_trials(tmp_path / SILO).equals(found.trained.trials[SILO])


def test_arms_have_no_seed_that_their_curve_was_found_with(oracle: Path) -> None:
    plan = plan_replay(str(oracle), curve=LEVEL, used_seeds=[3, 17])
    assert set(plan.arms[0].experiment.seeds) == {18, 19}
    assert given_curve(str(oracle)).seeds() == [0, 1]
    assert given_curve("paper:resnet20").seeds() == []


def test_nothing_is_written_into_a_runs_own_folder(oracle: Path) -> None:
    before = sorted(path.name for path in oracle.iterdir())
    with pytest.raises(FolderError, match="is a run's own folder"):
        replay(plan_replay(str(oracle), curve=LEVEL), str(oracle), launch=LOCAL)
    assert sorted(path.name for path in oracle.iterdir()) == before
