"""Tuning by training: what is tried for eps, delta, q and beta, what is chosen, and which studies are kept."""

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pytest
import torch
from folders import trained
from listeners import told

from oracle.errors import CancelledError, CurveError, DivergedError, ExperimentError
from oracle.events import CancelToken, TrialFinished
from oracle.execution.executors import Launch
from oracle.experiment import Experiment, load_experiment
from oracle.runs.decisions import Decision
from oracle.runs.records import read_oracle, read_trials
from oracle.runs.tables import TRIALS
from oracle.search.progress import cycle_progress
from oracle.search.strategies import trainings
from silo_fit.arms import peaks_of
from silo_fit.curve import SiloCurve, shape
from silo_fit.studies import Axis, Told, grid_of, propose
from silo_fit.tune import Tuned, tune, tune_jointly, tune_shape
from silo_fit.tune_strategy import CoordinateWise, tune_strategy

Tiny = Callable[..., Experiment]

TINY = (
    "pruning.cycles=2",
    "training.epochs=3",
    "training.batch_size=256",
    "grid={spacing: explicit, values: [0.02, 0.1, 0.4]}",
    "seeds=[0, 1]",
)
LOCAL = Launch(executor="local", slots=1)
SHAPE = {"q": 0.0, "beta": 3.0}  # with which something has risen at cycle 2
NUM_RATES = 4
DIVERGING = 1000.0  # max_lr: nothing survives it
COMMAND = ("tune", "digits-mlp", "--executor", "local", *(part for override in TINY for part in ("--set", override)))
FLAGS = ("--q", "0", "--beta", "3")


def experiment_of(*overrides: str) -> Experiment:
    return load_experiment("digits-mlp", overrides=[*TINY, *overrides])


def strategy_of(*overrides: str, **more: Any) -> CoordinateWise:
    return tune_strategy(experiment_of(*overrides), **(SHAPE | {"num_rates": NUM_RATES, "num_rounds": 2} | more))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tuned, Path]:
    """Four rates in two rounds, three cycles and two seeds, and where; nobody changes it."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("tuned")
    return tune(experiment_of(), strategy_of(), str(out), launch=LOCAL), out


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tuned, Path]:
    """Whole chains for two eps, the larger of which diverges, and two delta; nobody changes it."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("joint")
    strategy = strategy_of(eps=(0.1, DIVERGING), delta=(0.0, 0.3), num_rates=2, num_rounds=1)
    return tune_jointly(experiment_of(), strategy, str(out), launch=LOCAL), out


@pytest.fixture(scope="module")
def shaped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tuned, Path]:
    """Three pairs of q and beta, stopped in the second chain and gone on with; nobody changes it."""
    torch.set_num_threads(1)
    out, cancel = tmp_path_factory.mktemp("shaped"), CancelToken()
    curve = SiloCurve(eps=0.05, delta=0.3, **SHAPE, pruning_rate=0.2)

    def run(**more: Any) -> Tuned:
        return tune_shape(experiment_of(), curve, str(out), num=3, launch=LOCAL, **more)

    heard: list[int] = []

    def stop() -> None:
        heard.append(0)
        if len(heard) == 8:  # of 6 trials a chain
            cancel.cancel()

    with pytest.raises(CancelledError):
        run(listener=lambda label: told(TrialFinished, stop), cancel=cancel)
    assert [path.name for path in sorted((out / "q-beta" / "chains").iterdir()) if path.is_dir()][:2] == ["000", "001"]
    return run(), out


def study_of(journal: Path, name: str) -> optuna.Study:
    """As optuna-dashboard reads it."""
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    return optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(backend))


def rates_at(out: Path, cycle: int) -> list[float]:
    return sorted({row["max_lr"] for row in read_trials(out / "chain").to_pylist() if row["cycle"] == cycle})


def mean_of(out: Path, cycle: int, max_lr: float) -> float:
    rows = [row for row in read_trials(out / "chain").to_pylist() if (row["cycle"], row["max_lr"]) == (cycle, max_lr)]
    assert len(rows) == 2  # seeds
    return sum(row["val_accuracy"] for row in rows) / 2


# Coordinate by coordinate.


def test_trainings_are_those_of_the_formula(tuned) -> None:
    found, out = tuned
    n, k, seeds = NUM_RATES, 3, 2
    assert found.num_trainings == len(trained(out / "chain")) == (2 * n + (k - 1)) * seeds
    counted = trainings(experiment_of(), strategy_of())
    assert (counted.least, counted.likely, counted.most) == ((2 * n + (k - 1)) * seeds,) * 3
    assert [len(rates_at(out, cycle)) for cycle in range(3)] == [n, 1, n + 1]


def test_eps_is_the_optimum_of_cycle_0_and_the_chain_runs_at_it(tuned) -> None:
    found, out = tuned
    eps = max(rates_at(out, 0), key=lambda rate: mean_of(out, 0, rate))
    assert found.curve.eps == read_oracle(out / "chain")["max_lr"][0].as_py() == eps
    assert rates_at(out, 1) == [eps]
    assert eps in rates_at(out, 2)
    assert min(rates_at(out, 2)) == eps


def test_delta_is_the_rise_to_the_best_rate_of_the_target(tuned) -> None:
    found, out = tuned
    best = max(rates_at(out, 2), key=lambda rate: mean_of(out, 2, rate))
    risen = float(shape(2, 0.0, 3.0, 0.2))
    assert found.risen == risen
    assert found.curve.delta == (best - found.curve.eps) / risen
    assert found.curve(2) == pytest.approx(best, rel=1e-12)  # there and back again
    assert (found.curve.q, found.curve.beta, found.curve.pruning_rate) == (0.0, 3.0, 0.2)


def test_all_rates_of_the_target_start_from_one_network_a_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from oracle.execution import worker

    parents: dict[tuple[int, int], list[Any]] = {}
    original = worker.train_group

    def watched(experiment: Any, images: Any, parent: Any, **more: Any) -> Any:
        parents.setdefault((more["cycle"], more["seed"]), []).append(parent)
        return original(experiment, images, parent, **more)

    monkeypatch.setattr(worker, "train_group", watched)
    tune(experiment_of(), strategy_of(), str(tmp_path), launch=LOCAL)
    assert set(parents) == {(cycle, seed) for cycle in range(3) for seed in (0, 1)}
    for seed in (0, 1):
        first, *others = parents[2, seed]
        assert others  # several rounds at the least
        assert sum(int((~mask).sum()) for mask in first.masks.values()) > 0
        for other in others:
            assert all(torch.equal(mask, other.masks[name]) for name, mask in first.masks.items())
            assert all(torch.equal(value, other.state[name]) for name, value in first.state.items())
    rows = [row for row in read_trials(tmp_path / "chain").to_pylist() if row["cycle"] == 2]
    assert len({row["lineage"] for row in rows}) == 1
    assert rows[0]["weights_remaining"] == pytest.approx(0.64, abs=1e-3)  # 0.8 twice, of some thousand weights


@pytest.mark.parametrize("delta", [(0.0, 0.3), (0.1, 0.3)])  # with and without eps on the axis
def test_rates_lie_in_their_ranges(tmp_path: Path, delta: tuple[float, float]) -> None:
    found = tune(experiment_of(), strategy_of(eps=(0.05, 0.2), delta=delta), str(tmp_path), launch=LOCAL)
    assert all(0.05 <= rate <= 0.2 for rate in rates_at(tmp_path, 0))
    eps, risen = found.curve.eps, found.risen
    others = [rate for rate in rates_at(tmp_path, 2) if rate != eps]
    assert len(others) == NUM_RATES
    assert all(eps + delta[0] * risen <= rate <= eps + delta[1] * risen for rate in others)


def test_delta_of_one_value_is_tried_beside_eps(tmp_path: Path) -> None:
    found = tune(experiment_of(), strategy_of(delta=(0.2, 0.2)), str(tmp_path), launch=LOCAL)
    assert len(rates_at(tmp_path, 2)) == 2
    assert found.curve.delta in (0.0, pytest.approx(0.2, rel=1e-5))  # six digits of a rate


def test_words_name_what_serves_as_well(tuned) -> None:
    found, _ = tuned
    assert found.eps_in_words().startswith(f"eps {found.curve.eps:.4g}: best on the dense network; ")
    assert f"delta {found.curve.delta:.4g}: best at cycle 2" in found.delta_in_words()


def test_run_again_it_trains_nothing(tuned) -> None:
    found, out = tuned
    starts, journal = trained(out / "chain"), (out / "optuna.journal").stat().st_size
    assert tune(experiment_of(), strategy_of(), str(out), launch=LOCAL) == found
    assert trained(out / "chain") == starts
    assert (out / "optuna.journal").stat().st_size == pytest.approx(journal, rel=0.05)  # its dates may change in length


def test_study_is_read_by_optuna_with_all_that_was_tried(tuned) -> None:
    _, out = tuned
    for name, cycle in {"eps": 0, "delta": 2}.items():
        study = study_of(out / "optuna.journal", name)
        assert sorted(trial.params["max_lr"] for trial in study.trials) == rates_at(out, cycle)
        means = {rate: mean_of(out, cycle, rate) for rate in rates_at(out, cycle)}
        assert study.best_value == pytest.approx(max(means.values()), rel=1e-12)  # fsum or sum
        assert study.best_params["max_lr"] == max(means, key=means.__getitem__)
        assert {trial.state.name for trial in study.trials} == {"COMPLETE"}


# Planted problems.


def planted(
    strategy: CoordinateWise, num_cycles: int, accuracy: Callable[[int, float], float | None]
) -> tuple[pa.Table, list[dict[str, Any]], list[int]]:
    """A chain without training: its trials, its rows and how many rounds each cycle took; None: diverged."""
    trials, rows, rounds = TRIALS.empty_table(), [], []
    for cycle in range(num_cycles):
        decision, own = Decision(basis={}), TRIALS.empty_table()
        while True:
            progress = cycle_progress(strategy, cycle, decision, seeds=strategy.seeds, earlier=trials, trials=own)
            decision = progress.decision
            if not progress.lacking:
                break
            own = pa.concat_tables([own, *(_row(cycle, *pair, accuracy(cycle, pair[0])) for pair in progress.lacking)])
        rounds.append(len(decision.rounds))
        rows.append(dict(progress.row))
        trials = pa.concat_tables([trials, own])
    return trials, rows, rounds


def _row(cycle: int, max_lr: float, seed: int, value: float | None) -> pa.Table:
    row = dict.fromkeys(TRIALS.names) | {"cycle": cycle, "seed": seed, "max_lr": max_lr, "weights_remaining": 1.0}
    row |= {"outcome": "diverged" if value is None else "finished", "lineage": "x", "commit": "y"}
    row |= {} if value is None else {"val_accuracy": round(value, 6), "val_loss": 1 - value}
    return pa.Table.from_pylist([row], schema=TRIALS)


def concave(cycle: int, max_lr: float) -> float | None:
    """Best at 0.05 on the dense network, at 0.2 later; diverges above 2."""
    best = 0.05 if cycle == 0 else 0.2
    return None if max_lr > 2 else 0.9 - 0.05 * math.log10(max_lr / best) ** 2


WIDE = {"eps": (0.001, 10.0), "delta": (0.0, 10.0)}


@pytest.mark.parametrize(("num_rates", "num_rounds"), [(13, 1), (12, 3), (12, 4), (6, 6)])
@pytest.mark.parametrize("seed", [0, 1])
def test_planted_optimum_is_found_to_half_a_step_of_the_first_round(num_rates: int, num_rounds: int, seed: int) -> None:
    """That round is evenly spaced over log max_lr, so its best lies no further off; later rounds only come nearer."""
    strategy = strategy_of(**WIDE, num_rates=num_rates, num_rounds=num_rounds, seed=seed)
    trials, rows, _ = planted(strategy, 3, concave)
    first = math.ceil(num_rates / num_rounds)
    for cycle, best in ((0, 0.05), (2, 0.2)):
        axis = strategy.axis(cycle, trials)
        step = math.log(axis.high / axis.low) / max(1, first - 1)
        assert abs(math.log(rows[cycle]["max_lr"] / best)) <= step / 2 * (1 + 1e-4)  # six digits of a rate
    assert strategy.curve(rows).eps == rows[0]["max_lr"]
    counts = Counter(trials["cycle"].to_pylist())
    assert [counts[cycle] for cycle in range(3)] == [2 * num_rates, 2, 2 * (num_rates + 1)]


def test_optuna_comes_nearer_than_the_first_round() -> None:
    """Four rates first, twelve more in three rounds: nearer than the 4/3 of a decade that the first ones lie apart."""
    strategy = strategy_of(**WIDE, num_rates=16, num_rounds=4)
    trials, rows, rounds = planted(strategy, 3, concave)
    assert rounds[0] == 4
    first = strategy.axis(0, trials).spaced(4)
    assert set(first) <= {row["max_lr"] for row in trials.to_pylist() if row["cycle"] == 0}
    nearest = min(abs(math.log10(rate / 0.05)) for rate in first)
    assert abs(math.log10(rows[0]["max_lr"] / 0.05)) < nearest


def test_same_rows_lead_to_the_same_proposals_and_another_seed_to_others() -> None:
    one, same, other = (planted(strategy_of(**WIDE, num_rates=8, num_rounds=4, seed=seed), 3, concave)[0]
                        for seed in (0, 0, 1))  # fmt: skip
    assert one.equals(same)
    assert not one.equals(other)


def test_rows_may_come_in_any_order() -> None:
    strategy = strategy_of(**WIDE, num_rates=8, num_rounds=2)
    first = strategy.next_trials(0, TRIALS.empty_table())
    rows = [_row(0, max_lr, seed, concave(0, max_lr)) for max_lr, seed in first]
    asked = [strategy.next_trials(0, pa.concat_tables(each)) for each in (rows, rows[::-1])]
    assert asked[0] == asked[1] != ()


def test_nothing_is_proposed_twice_and_rates_that_diverged_are_told_as_such() -> None:
    strategy = strategy_of(**WIDE, num_rates=8, num_rounds=4)
    trials, rows, _ = planted(strategy, 3, concave)
    assert len({(row["cycle"], row["seed"], row["max_lr"]) for row in trials.to_pylist()}) == trials.num_rows
    lost = [each for each in strategy.told(0, trials) if each.value is None]
    assert [each.numbers["max_lr"] > 2 for each in strategy.told(0, trials)] == [
        each.value is None for each in strategy.told(0, trials)
    ]
    assert lost
    assert rows[0]["max_lr"] <= 2
    for each in strategy.told(2, trials):
        assert each.notes["delta"] == (each.numbers["max_lr"] - rows[0]["max_lr"]) / strategy.risen


def test_best_at_eps_again_is_a_curve_that_does_not_rise() -> None:
    strategy = strategy_of(num_rates=4, num_rounds=2)
    _, rows, _ = planted(strategy, 3, lambda cycle, max_lr: 0.9 - 0.1 * max_lr)
    assert strategy.curve(rows).delta == 0


def test_range_of_one_value_is_tried_once() -> None:
    trials, _, rounds = planted(strategy_of(eps=(0.1, 0.1), delta=(0.2, 0.2)), 3, concave)
    eps, risen = 0.1, strategy_of().risen
    assert [sorted({row["max_lr"] for row in trials.to_pylist() if row["cycle"] == cycle}) for cycle in range(3)] == [
        [0.1],
        [0.1],
        [0.1, pytest.approx(eps + 0.2 * risen, rel=1e-6)],  # six digits
    ]
    assert rounds == [1, 1, 1]


def test_one_round_is_one_round() -> None:
    strategy = strategy_of(num_rates=4, num_rounds=1)
    assert planted(strategy, 3, concave)[2] == [1, 1, 1]


# Whole chains.


def chain_mean(out: Path, number: str, cycles: tuple[int, ...] = (0, 1, 2)) -> float | None:
    rows = read_trials(out / "chains" / number).to_pylist()
    if any(row["outcome"] == "diverged" for row in rows):
        return None
    own = [row["val_accuracy"] for row in rows if row["cycle"] in cycles]
    assert len(own) == 2 * len(cycles)
    return sum(own) / len(own)


def test_every_pair_of_eps_and_delta_is_a_chain(joint) -> None:
    found, out = joint
    assert sorted(path.name for path in (out / "chains").iterdir() if path.is_dir()) == ["000", "001", "002", "003"]
    pairs = [(0.1, 0.0), (0.1, 0.3), (DIVERGING, 0.0), (DIVERGING, 0.3)]
    assert [tuple(each.numbers.values()) for each in found.tried] == pairs
    for number, (eps, delta) in enumerate(pairs[:2]):
        curve = SiloCurve(eps=eps, delta=delta, **SHAPE, pruning_rate=0.2)
        assert read_oracle(out / "chains" / f"{number:03d}")["max_lr"].to_pylist() == peaks_of(curve, 3)
    assert found.num_trainings == 2 * 3 * 2 + 2 * 2  # those that diverge end at cycle 0


def test_best_chain_has_the_largest_mean_over_cycles_and_seeds(joint) -> None:
    found, out = joint
    values = [chain_mean(out, f"{number:03d}") for number in range(4)]
    assert values[2:] == [None, None]
    assert [each.value for each in found.tried[2:]] == [None, None]
    assert found.tried[2].notes["ended"].startswith("diverged at cycle 0")
    for number in range(2):
        each = found.tried[number]
        assert each.value == pytest.approx(values[number], rel=1e-12)
        assert each.notes["dense"] == pytest.approx(chain_mean(out, f"{number:03d}", (0,)), rel=1e-12)
        assert each.notes["target"] == pytest.approx(chain_mean(out, f"{number:03d}", (2,)), rel=1e-12)
    best = max(found.tried[:2], key=lambda each: each.value)
    assert (found.curve.eps, found.curve.delta) == tuple(best.numbers.values())


def test_chains_that_diverged_are_failed_trials_of_the_study(joint) -> None:
    found, out = joint
    study = study_of(out / "chains" / "optuna.journal", "curve")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]
    assert study.best_value == max(each.value for each in found.tried[:2])
    assert study.best_params == {"eps": found.curve.eps, "delta": found.curve.delta}


def test_chains_that_all_diverge_are_refused(tmp_path: Path) -> None:
    strategy = strategy_of(eps=(DIVERGING, 2 * DIVERGING), delta=(0.0, 0.3), num_rates=2, num_rounds=1)
    with pytest.raises(DivergedError, match="every one of 4 curves diverged; give ranges with smaller rates"):
        tune_jointly(experiment_of("pruning.cycles=2", "seeds=[0]"), strategy, str(tmp_path), launch=LOCAL)


def test_shapes_are_the_curves_own_first_and_lie_in_their_ranges(shaped) -> None:
    found, _ = shaped
    assert len(found.tried) == 3
    assert found.tried[0].numbers == SHAPE
    for each in found.tried:
        assert 0 <= each.numbers["q"] <= 3
        assert 3 <= each.numbers["beta"] <= 6
    assert len({tuple(each.numbers.values()) for each in found.tried}) == 3
    assert (found.curve.eps, found.curve.delta) == (0.05, 0.3)
    best = max(found.tried, key=lambda each: each.value)
    assert {"q": found.curve.q, "beta": found.curve.beta} == best.numbers


def test_shapes_that_were_cancelled_go_on_and_train_nothing_twice(shaped) -> None:
    found, out = shaped
    for number in ("000", "001", "002"):
        starts = trained(out / "q-beta" / "chains" / number)
        assert len(starts) == len(set(starts)) == 3 * 2
    assert found.num_trainings == 3 * 3 * 2
    study = study_of(out / "q-beta" / "chains" / "optuna.journal", "curve")
    assert [trial.params for trial in study.trials] == [dict(each.numbers) for each in found.tried]


def test_shape_of_a_curve_that_cannot_be_tuned_is_refused(tmp_path: Path) -> None:
    def run(**numbers: float) -> None:
        curve = SiloCurve(**({"eps": 0.1, "delta": 0.1} | SHAPE | numbers), pruning_rate=0.2)
        tune_shape(experiment_of(), curve, str(tmp_path), num=2, launch=LOCAL)

    with pytest.raises(CurveError, match="a curve with delta 0 never rises"):
        run(delta=0)
    with pytest.raises(CurveError, match=r"q 4: lies outside \[0, 3\]"):
        run(q=4)
    with pytest.raises(CurveError, match=r"beta 2: lies outside \[3, 6\]"):
        run(beta=2)
    assert not list(tmp_path.iterdir())


# Optuna's part.


def test_axis_is_spaced_evenly_from_end_to_end() -> None:
    assert Axis(low=1.0, high=3.0).spaced(5) == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert Axis(low=0.001, high=10.0, log=True).spaced(5) == [0.001, 0.01, 0.1, 1.0, 10.0]
    assert Axis(low=0.01, high=1.0, log=True).spaced(1) == [0.1]
    third = Axis(low=1 / 3, high=2 / 3).spaced(2)
    assert third == [1 / 3, 2 / 3]  # six digits would lie outside
    axes = {"eps": Axis(low=1.0, high=2.0), "delta": Axis(low=0.0, high=1.0)}
    assert grid_of(axes, 2) == [
        {"eps": 1.0, "delta": 0.0}, {"eps": 1.0, "delta": 1.0}, {"eps": 2.0, "delta": 0.0}, {"eps": 2.0, "delta": 1.0},
    ]  # fmt: skip


def test_axis_of_one_value_makes_no_chain_twice() -> None:
    points = grid_of({"eps": Axis(low=0.1, high=0.1, log=True), "delta": Axis(low=0.0, high=1.0)}, 2)
    assert points == [{"eps": 0.1, "delta": 0.0}, {"eps": 0.1, "delta": 1.0}]


@pytest.mark.parametrize("value", [0.5, None])
def test_proposals_are_new_within_their_axes_and_as_many_as_asked_for(value: float | None) -> None:
    axes = {"q": Axis(low=0, high=3), "rate": Axis(low=0.01, high=1, log=True)}
    told_of = [Told(numbers=each, value=value) for each in grid_of(axes, 2)]
    found = propose(axes, told_of, 5, seed=3)
    assert found == propose(axes, told_of, 5, seed=3)
    assert len({tuple(each.values()) for each in found}) == 5
    for each in found:
        assert list(each) == ["q", "rate"]
        assert all(axes[name].low <= number <= axes[name].high for name, number in each.items())
        assert tuple(each.values()) not in {tuple(known.numbers.values()) for known in told_of}


# Refusals and the command.


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--eps", "0.2", "0.1"), "range of eps: [0.2, 0.1] must lie within"),
        (("--eps", "0", "0.1"), "range of eps: [0, 0.1]"),
        (("--eps", "nan", "0.1"), "range of eps: [nan, 0.1]"),
        (("--delta", "0.2", "0.1"), "range of delta: [0.2, 0.1]"),
        (("--delta", "-1", "0.1"), "range of delta: [-1, 0.1]"),
        (("--delta", "0", "inf"), "range of delta: [0, inf]"),
        (("--rates", "3", "--rounds", "4"), "rounds (--rounds): expected 1 to 3, the number of rates, found 4"),
        (("--set", "pruning.cycles=0"), "pruning.cycles: tuning needs a pruned network"),
        (("--q", "1.9"), "at cycle 2, the target, 0.0% of the rise is done"),
        (("--q", "-1"), "q is -1"),
        (("--beta", "0"), "beta is 0"),
        (("--set", "peaks=0.1"), "peaks: the experiment fixes every max_lr"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    silo_fit, tmp_path: Path, options: tuple[str, ...], named: str
) -> None:
    code, said, error = silo_fit(*COMMAND, *FLAGS, "--rates", 4, *options, "--out", tmp_path / "out")
    assert (code, said) == (2, "")
    assert error.startswith("error: ")
    assert named in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [("--eps", "0.2", "0.1"), ("--set", "peaks=0.1"), ("--q", "1.9")])
def test_bad_input_for_whole_chains_is_one_line_too(silo_fit, tmp_path: Path, options: tuple[str, ...]) -> None:
    code, said, error = silo_fit(*COMMAND, *FLAGS, *options, "--joint", "--out", tmp_path / "out")
    assert (code, said, error.count("\n")) == (2, "", 1)
    assert error.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_grid_of_one_candidate_gives_no_number_of_rates(silo_fit, tmp_path: Path) -> None:
    lone = ("--set", "grid={spacing: explicit, values: [0.1]}", "--rounds", "1", "--out", tmp_path / "out")
    code, said, error = silo_fit(*COMMAND, *FLAGS, *lone)
    assert (code, said, error.count("\n")) == (2, "", 1)
    assert "rates (--rates): expected two or more, found 1" in error


@pytest.mark.parametrize(
    "arguments", [("--rates", "1"), ("--rounds", "0"), ("--q-beta", "-1"), ("--eps", "low", "high"), ("--out", "")]
)
def test_options_that_typer_refuses_end_with_2(silo_fit, arguments: tuple[str, ...]) -> None:
    code, said, error = silo_fit(*COMMAND, *arguments)
    assert (code, said) == (2, "")
    assert arguments[0] in error
    assert "Traceback" not in error


def test_q_and_beta_of_a_curve_that_does_not_rise_are_not_tuned_and_it_says_so(silo_fit, tmp_path: Path) -> None:
    options = ("--eps", 0.1, 0.1, "--delta", 0, 0, "--rates", 2, "--rounds", 1, "--q-beta", 3, "--out", tmp_path)
    code, said, _ = silo_fit(*COMMAND, *FLAGS, *options)
    assert code == 0
    assert "q and beta were not tuned: with delta 0 they change nothing" in said
    assert not (tmp_path / "q-beta").exists()


def test_command_prints_the_numbers_and_what_to_do_next(silo_fit, tuned) -> None:
    found, out = tuned
    command = (*COMMAND, *FLAGS, "--rates", NUM_RATES, "--rounds", 2, "--out", out)
    code, said, _ = silo_fit(*command)
    assert code == 0
    assert said.splitlines()[:2] == [found.eps_in_words(), found.delta_in_words()]
    assert f"SILO: {found.curve.in_words()}" in said
    assert "trainings: 20\n" in said
    assert f"{out}/optuna.journal" in said
    numbers = f"eps={found.curve.eps:.4g},delta={found.curve.delta:.4g},q=0,beta=3"
    last = said.splitlines()[-1]
    assert last.startswith("next     silo-fit compare digits-mlp --set pruning.cycles=2 ")
    assert last.endswith(f" --curve {numbers}")
    code, printed, _ = silo_fit(*command, "--json")
    assert code == 0
    told_of = json.loads(printed)
    assert told_of == json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert told_of.keys() == {"curve", "trainings", "coordinates", "chains", "on_edge"}
    assert [row["num_candidates"] for row in told_of["coordinates"]] == [4, 1, 5]


def test_command_prints_every_chain_and_those_that_diverged(silo_fit, joint) -> None:
    found, out = joint
    ranges = ("--eps", 0.1, DIVERGING, "--delta", 0, 0.3, "--rates", 2)
    code, said, _ = silo_fit(*COMMAND, *FLAGS, *ranges, "--joint", "--out", out)
    assert code == 0
    lines = said.splitlines()
    assert lines[0].split() == ["eps", "delta", "val", "%", "dense", "%", "target", "%"]
    assert sum("diverged" in line for line in lines[1:5]) == 2
    assert f"{100 * max(each.value for each in found.tried[:2]):.2f}" in lines[1]
    close = sum(each.value >= max(e.value for e in found.tried[:2]) - 0.005 for each in found.tried[:2])
    assert f"within half a point of the best: {close} of 4" in said
    assert "trainings: 16\n" in said


def test_strategy_is_refused_by_name_where_it_is_made(tiny: Tiny) -> None:
    with pytest.raises(ExperimentError, match="expected two or more, found 1"):
        tune_strategy(tiny(), **SHAPE, num_rates=1, num_rounds=1)
    strategy = tune_strategy(tiny(), **SHAPE, num_rounds=1)
    assert (strategy.eps, strategy.delta, strategy.num_rates) == ((0.02, 0.4), (0.0, 0.4), 3)
