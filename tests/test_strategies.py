"""What to train next: rounds that do not depend on the order of finishing, decisions that stay, strategies of one's own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from dropping import SLOW, DropDiverged, dropping
from faults import kill, rows_there, started_since, timeless, until
from folders import store_of, trained
from hypothesis import given, settings
from hypothesis import strategies as st
from listeners import noting

from oracle.chain import run_oracle
from oracle.errors import ExperimentError, FolderError
from oracle.events import CycleStarted, Event
from oracle.execution.executors import EXECUTORS
from oracle.experiment import Experiment, load_experiment
from oracle.records import read_oracle, read_trials
from oracle.runs.cycle import pairs_of
from oracle.runs.decisions import Decision, Pair
from oracle.runs.records import attempts
from oracle.runs.tables import TRIALS
from oracle.search.adaptive import Adaptive
from oracle.search.estimate import plan
from oracle.search.progress import CycleProgress, cycle_progress
from oracle.search.rounds import of_cycle
from oracle.search.strategies import STRATEGIES, FixedPeaks, GridSearch, Strategy, make_strategy, trainings
from oracle.storage import Folder
from search_spaces.grids import MaxLrGrid

Tiny = Callable[..., Experiment]

SEEDS = (4, 7, 9)
COARSE = MaxLrGrid(spacing="explicit", values=(0.1, 0.2, 0.4))
GROWING = MaxLrGrid(low=0.01, high=1.0, points=5, spacing="log", extend=True, max_extra=7)
FINE = MaxLrGrid(low=0.01, high=1.0, points=12, spacing="log")
# Every strategy: what holds of one must hold of all, newcomers too.
ALL: Mapping[str, Strategy] = {
    "grid": GridSearch(grid=COARSE, seeds=SEEDS, tolerance=0.005),
    "growing grid": GridSearch(grid=GROWING, seeds=SEEDS, tolerance=0.1),
    "adaptive": Adaptive(grid=FINE, seeds=SEEDS, tolerance=0.005, num_validation=1000),
    "adaptive, few": Adaptive(grid=COARSE, seeds=SEEDS, tolerance=0.005, num_validation=1000, rounds=3),
    "adaptive, growing": Adaptive(grid=GROWING, seeds=SEEDS, tolerance=0.05, num_validation=1000, spacing=2),
    "peaks": FixedPeaks(peaks=(0.1, 0.2), seeds=SEEDS, tolerance=0.005),
    "of one's own": DropDiverged(candidates=(0.1, 0.5, 3.0), seeds=SEEDS, tolerance=0.005),
}


def test_every_strategy_that_ships_is_among_those_tested() -> None:
    shipped = {type(make(load_experiment("digits-mlp", overrides=more))) for make in STRATEGIES.values()
               for more in ([], ["peaks=0.1"])}  # fmt: skip
    assert shipped <= {type(strategy) for strategy in ALL.values()}


def rows_of(pairs: Sequence[Pair], cycle: int, best: float) -> pa.Table:
    """Trials as a network would give them whose best rate is `best`, and which diverges above 1.2."""
    rows = []
    for max_lr, seed in pairs:
        correct = round(900 - 200 * abs(max_lr - best) - seed)
        finished = max_lr < 1.2
        rows.append(
            dict.fromkeys(TRIALS.names)
            | {"cycle": cycle, "seed": seed, "max_lr": max_lr, "outcome": "finished" if finished else "diverged"}
            | {"weights_remaining": 1.0, "lineage": "x", "commit": "y"}
            | ({"val_accuracy": correct / 1000, "val_loss": 1 - correct / 1000} if finished else {})
        )
    return pa.Table.from_pylist(rows, schema=TRIALS)


def progress_of(
    strategy: Strategy, trials: pa.Table, decision: Decision, *, cycle: int = 0, earlier: pa.Table | None = None
) -> CycleProgress:
    before = TRIALS.empty_table() if earlier is None else earlier
    return cycle_progress(strategy, cycle, decision, seeds=SEEDS, earlier=before, trials=trials)


NOTHING = Decision(basis={"seeds": list(SEEDS)})


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
@pytest.mark.slow
def test_what_a_round_lacks_is_the_round_without_what_is_there(name: str, data: st.DataObject) -> None:
    strategy, cycle = ALL[name], data.draw(st.integers(0, 1))
    best = data.draw(st.sampled_from([0.1, 0.3, 0.9, 1.1]))
    earlier = rows_of([(0.1, seed) for seed in SEEDS], 0, best) if cycle else TRIALS.empty_table()
    trials, decision = TRIALS.empty_table(), NOTHING
    for _ in range(20):
        progress = progress_of(strategy, trials, decision, cycle=cycle, earlier=earlier)
        asked, decision = list(progress.lacking), progress.decision
        if not asked:
            break
        assert len(set(asked)) == len(asked)
        there = data.draw(st.sets(st.sampled_from(asked), max_size=len(asked) - 1))  # all of it: the next round
        part = pa.concat_tables([trials, rows_of(data.draw(st.permutations(sorted(there))), cycle, best)])
        now = progress_of(strategy, part, decision, cycle=cycle, earlier=earlier)
        assert list(now.lacking) == [pair for pair in asked if pair not in there]
        assert now.decision == decision
        trials = pa.concat_tables([trials, rows_of(data.draw(st.permutations(asked)), cycle, best)])
    else:
        pytest.fail("asks for ever")
    assert progress.row is not None
    assert progress.row["cycle"] == cycle
    assert all((progress.row["max_lr"], seed) in pairs_of(trials) for seed in SEEDS)


def test_a_grid_that_may_grow_asks_in_rounds_until_both_ends_are_inside() -> None:
    trials, progress = TRIALS.empty_table(), progress_of(ALL["growing grid"], TRIALS.empty_table(), NOTHING)
    while progress.lacking:
        trials = pa.concat_tables([trials, rows_of(progress.lacking, 0, best=0.01)])
        progress = progress_of(ALL["growing grid"], trials, progress.decision)
    rounds = [{max_lr for max_lr, _ in pairs} for pairs in progress.decision.rounds]
    assert rounds[0] == set(GROWING.candidates())
    assert len(rounds) == 8  # a candidate a round, as an eighth of five is none: max_extra of them
    assert all(max(later) < 0.01 for later in rounds[1:])


def test_rows_that_were_not_asked_for_take_no_part() -> None:
    own = rows_of([(max_lr, seed) for max_lr in COARSE.candidates() for seed in SEEDS], 0, best=0.2)
    foreign = rows_of([(0.3, 4), (0.2, 99)], 0, best=0.2)
    alone, beside = (progress_of(ALL["grid"], trials, NOTHING) for trials in (own, pa.concat_tables([own, foreign])))
    assert beside.row == alone.row is not None


def test_a_strategy_is_shown_complete_rounds_alone() -> None:
    """Half of the second round is there, in whatever order: the strategy is asked nothing and what is lacking is told."""
    strategy = ALL["of one's own"]
    first = list(strategy.next_trials(0, TRIALS.empty_table()))
    second = list(strategy.next_trials(0, rows_of(first, 0, 0.5)))
    shown: list[set[Pair]] = []

    class Watched(DropDiverged):
        def next_trials(self, cycle: int, rows: pa.Table) -> Sequence[Pair]:
            shown.append(set(pairs_of(rows)))
            return super().next_trials(cycle, rows)

    watched = Watched(candidates=(0.1, 0.5, 3.0), seeds=SEEDS, tolerance=0.005)
    trials = rows_of([*first, *second[::2]], 0, 0.5)
    now = progress_of(watched, trials, NOTHING)
    assert shown == [set(), set(first)]
    assert now.lacking == tuple(second[1::2])
    assert now.row is None
    assert now.decision.rounds == (tuple(first), tuple(second))


def test_trainings_are_counted_from_the_least_to_the_most(tiny: Tiny) -> None:
    def counted(experiment: Experiment, strategy: Strategy | None = None) -> tuple[int, int, int | None]:
        found = trainings(experiment, strategy or make_strategy(experiment))
        return found.least, found.likely, found.most

    assert counted(tiny()) == (3 * 3 * 2,) * 3
    growing = tiny("grid={spacing: log, low: 0.01, high: 1, points: 3, extend: true, max_extra: 4}")
    assert counted(growing) == (3 * 3 * 2, 3 * 3 * 2, 3 * 7 * 2)
    assert counted(tiny(), dropping(tiny())) == (
        3 * 3,
        3 * 3,
        None,
    )  # of the first seed alone: the others may be dropped
    assert counted(tiny("peaks=0.1")) == (3 * 2,) * 3
    adaptive = tiny("grid={spacing: log, low: 0.01, high: 1, points: 12}", "search.strategy=adaptive")
    # Least: one seed alone tries what is outside. Most: both edges, two middles, the curve's best.
    assert counted(adaptive) == (4 * 2 + 2 * (4 + 1), 36, 3 * 9 * 2)


# Strategies of one's own


@pytest.fixture(scope="module")
def peace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a strategy of one's own that nobody disturbs."""
    out, experiment = tmp_path_factory.mktemp("peace"), load_experiment("digits-mlp", overrides=SLOW)
    run_oracle(experiment, out, executor="local", strategy=dropping(experiment))
    return out


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.slow
def test_a_search_with_a_strategy_of_ones_own_killed_in_mid_round_ends_as_in_peace(
    tmp_path: Path, executor: str, peace: Path
) -> None:
    command = [sys.executable, str(Path(__file__).with_name("dropping.py"))]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen([*command, str(tmp_path / "killed"), executor], env=env, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip

    def in_the_second_round() -> bool:
        begun = {(it["cycle"], it["seed"]) for it in attempts(Folder(tmp_path / "killed"))}
        return (0, 1) in begun and bool(list((tmp_path / "killed" / "checkpoints").rglob("*-s1-*.safetensors")))

    until(in_the_second_round, "a checkpoint of the second round")
    kill(process)
    done, moment = rows_there(tmp_path / "killed"), time.time()
    assert done == {(0, 0, 0.02), (0, 0, 0.1), (0, 0, 50.0)}
    subprocess.run([*command, str(tmp_path / "killed"), executor], env=env, check=True, timeout=240)
    assert not done & started_since(tmp_path / "killed", moment), "a finished trial was trained again"
    assert timeless(read_oracle(tmp_path / "killed")) == timeless(read_oracle(peace))
    assert timeless(read_trials(tmp_path / "killed")) == timeless(read_trials(peace))
    assert (50.0, 1) not in pairs_of(read_trials(tmp_path / "killed"))
    assert read_oracle(peace)["num_incomplete"].to_pylist() == [1, 1]
    assert any(it["from_epoch"] > 0 for it in attempts(Folder(tmp_path / "killed"))), (
        "no pack went on from a checkpoint"
    )


def test_the_strategy_is_a_part_of_the_runs_identity(tiny: Tiny, tmp_path: Path) -> None:
    experiment = tiny("pruning.cycles=0")
    run_oracle(experiment, tmp_path, executor="local", strategy=dropping(experiment, parameters={"keep": 2}))
    for other in (
        {},
        {"strategy": dropping(experiment)},
        {"strategy": dropping(experiment, name="another", parameters={"keep": 2})},
        {"strategy": dropping(experiment, parameters={"keep": 3})},
    ):
        with pytest.raises(FolderError, match=r"search\.(strategy|keep)|search:"):
            run_oracle(experiment, tmp_path, executor="local", **other)
    starts = trained(tmp_path)
    run_oracle(experiment, tmp_path, executor="local", strategy=dropping(experiment, parameters={"keep": 2}))
    assert trained(tmp_path) == starts
    more = tiny("pruning.cycles=1")
    assert run_oracle(more, tmp_path, executor="local", strategy=dropping(more, parameters={"keep": 2})).num_rows == 2
    named = tiny("search={strategy: drop-diverged, keep: 2}")
    with pytest.raises(ExperimentError, match=r"'drop-diverged' is not one that ships \(grid, adaptive\).*strategy="):
        run_oracle(named, tmp_path / "b", executor="local")


@pytest.mark.parametrize("more", [[], ["peaks=0.1"]])
def test_the_experiments_own_strategy_may_be_handed_in_and_changes_nothing(
    tiny: Tiny, tmp_path: Path, more: list[str]
) -> None:
    experiment = tiny("pruning.cycles=0", *more)
    table = run_oracle(experiment, tmp_path, executor="local", strategy=make_strategy(experiment))
    assert run_oracle(experiment, tmp_path, executor="local").equals(table)


def test_a_strategy_with_the_name_of_one_that_ships_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    other = GridSearch(grid=COARSE, seeds=(5,), tolerance=0.005)
    with pytest.raises(ExperimentError, match="'grid' ships with this package"):
        run_oracle(tiny(), tmp_path, executor="local", strategy=other)


def test_peaks_handed_in_as_a_strategy_train_one_rate_a_cycle(tiny: Tiny, tmp_path: Path) -> None:
    peaks = FixedPeaks(peaks=(0.05, 0.1, 0.2), seeds=(0, 1), tolerance=0.005)
    table = run_oracle(tiny(), tmp_path, executor="local", strategy=peaks)
    assert table["max_lr"].to_pylist() == [0.05, 0.1, 0.2]
    by_key = run_oracle(tiny("peaks=[0.05, 0.1, 0.2]"), tmp_path / "b", executor="local")
    assert timeless(table) == timeless(by_key)
    assert table.schema.metadata != by_key.schema.metadata


ROW = {"max_lr": 0.1, "lo": 0.1, "hi": 0.1, "lo_on_edge": False, "hi_on_edge": False}


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """Asks for and chooses what it is told."""

    pairs: Any = ((0.1, 0), (0.1, 1))
    row: Any = None
    name: Any = "fixed"
    parameters: Mapping[str, Any] | None = None

    def next_trials(self, cycle: int, rows: pa.Table) -> Sequence[Pair]:
        return () if of_cycle(rows, cycle).num_rows and not self.asks_again else self.pairs

    def choose(self, cycle: int, rows: pa.Table) -> Any:
        return self.row or {"cycle": cycle, **ROW}

    @property
    def asks_again(self) -> bool:
        return self.name == "asks-again"


@pytest.mark.parametrize(
    ("strategy", "named"),
    [
        (Fixed(parameters={}, pairs=[(-0.1, 0)]), "strategy fixed, cycle 0: asks for (-0.1, 0); expected"),
        (Fixed(parameters={}, pairs=[(0.1, 0.5)]), "asks for (0.1, 0.5)"),
        (Fixed(parameters={}, pairs=[(float("nan"), 0)]), "asks for (nan, 0)"),
        (Fixed(parameters={}, pairs=[("high", 0)]), "asks for ('high', 0)"),
        (Fixed(parameters={}, pairs=[0.1]), "asks for 0.1"),
        (Fixed(parameters={}, pairs=[]), "asks for nothing at cycle 0"),
        (Fixed(parameters={}, pairs=[(0.1, 0), (0.1, 0)]), "asks for (0.1, 0) twice"),
        (Fixed(parameters={}, name="asks-again"), "asks for (0.1, 0) again"),
        (Fixed(parameters={}, row={"max_lr": 0.1}), "no row of oracle.parquet"),
        (Fixed(parameters={}, row={"max_lr": 0.1, "speed": 3}), "unknown: speed"),
        (Fixed(parameters={}, pairs=[(0.1, 0)]), "which it never asked for with seed 1"),
        (Fixed(parameters={}, pairs=[(0.1, 0), (0.1, 7)]), "asks for (0.1, 7), but the experiment's seeds are [0, 1]"),
        (Fixed(parameters={}, pairs=None), "asks for None; expected a list"),
        (Fixed(parameters={}, row={**ROW, "lo": 5.0}), "max_lr 0.1 is not within [5, 0.1]"),
        (Fixed(parameters={}, row={**ROW, "val_loss": float("nan")}), "not finite"),
        (Fixed(parameters={}, row={**ROW, "lo": "low"}), "no row of oracle.parquet"),
        (Fixed(parameters={}, row="a row"), "found 'a row'"),
        (Fixed(parameters={"strategy": "grid"}), "without the key strategy"),
        (Fixed(parameters={}, name=["x"]), "search.strategy"),
        (Fixed(parameters={"model": object()}), "strategy: its parameters"),
        (Fixed(), "strategy: its parameters"),
        (Fixed(parameters={}, name="My strategy"), "found 'My strategy'"),
        ("grid", "str has no name"),
    ],
)
def test_a_strategy_that_cannot_be_followed_is_refused_by_name(
    tiny: Tiny, tmp_path: Path, strategy: Any, named: str
) -> None:
    with pytest.raises(ExperimentError) as refused:
        run_oracle(tiny("pruning.cycles=0"), tmp_path, executor="local", strategy=strategy)
    assert named in str(refused.value)


def test_a_row_without_all_columns_is_committed_as_it_is(tiny: Tiny, tmp_path: Path) -> None:
    table = run_oracle(tiny("pruning.cycles=1"), tmp_path, executor="local", strategy=Fixed(parameters={}))
    assert table["max_lr"].to_pylist() == [0.1, 0.1]
    assert table["val_accuracy"].to_pylist() == [None, None]
    starts = trained(tmp_path)
    heard: list[Event] = []
    again = run_oracle(
        tiny("pruning.cycles=1"), tmp_path, executor="local", strategy=Fixed(parameters={}), listeners=[heard.append]
    )
    assert again.equals(table)
    assert not [event for event in heard if isinstance(event, CycleStarted)], "a finished cycle was worked on"
    assert trained(tmp_path) == starts
    assert store_of(tmp_path, 1, [0.1, 0.1]).trials().num_rows == 2


def test_a_run_of_ones_own_is_shown_whatever_its_rows_leave_out(tiny: Tiny, tmp_path: Path) -> None:
    """Without weights_remaining, and with an interval whose ends were not trained, as a curve gives them."""
    wide = Fixed(parameters={}, row={**ROW, "lo": 0.05, "hi": 0.3})
    run_oracle(tiny("pruning.cycles=0"), tmp_path, executor="local", strategy=wide)
    shown = subprocess.run([sys.executable, "-m", "oracle", "show", str(tmp_path)], capture_output=True, text=True)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "[0.05, 0.3]" in shown.stdout
    assert (tmp_path / "oracle.png").read_bytes()[:4] == b"\x89PNG"


def test_contradictions_between_experiment_and_strategy_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    named = tiny("search={strategy: drop-diverged, keep: 3}")
    with pytest.raises(ExperimentError, match=r"keep=2.*keep=3"):
        run_oracle(named, tmp_path, executor="local", strategy=dropping(named, parameters={"keep": 2}))
    with pytest.raises(ExperimentError, match="the experiment has peaks"):
        run_oracle(tiny("peaks=0.3"), tmp_path, executor="local", strategy=dropping(tiny()))
    assert not (tmp_path / "experiment.yaml").exists()


def test_edges_of_what_a_strategy_tried_are_not_said_to_be_the_grids(tiny: Tiny, tmp_path: Path) -> None:
    said: list[str] = []
    experiment = tiny("pruning.cycles=0", "grid.values=[0.02, 0.1, 1e7]", "tolerance=0.5")
    run_oracle(experiment, tmp_path, executor="local", strategy=dropping(experiment), listeners=[noting(said)])
    [edge] = [text for text in said if "edge" in text]
    assert "the edge of what was tried" in edge.replace("lower and upper ", "").replace("upper ", "").replace(
        "lower ", ""
    )
    assert "grid" not in edge


def test_a_strategy_whose_rounds_repeat_is_refused_and_does_not_ask_for_ever(tiny: Tiny, tmp_path: Path) -> None:
    class Repeats(DropDiverged):
        def next_trials(self, cycle: int, rows: pa.Table) -> Sequence[Pair]:
            return [(0.02, 0)]

    repeats = Repeats(candidates=(0.02,), seeds=(0, 1), tolerance=0.005)
    with pytest.raises(ExperimentError, match=r"cycle 0: asks for \(0\.02, 0\) again"):
        run_oracle(tiny("pruning.cycles=0"), tmp_path, executor="local", strategy=repeats)


def test_a_plan_counts_the_winners_of_every_seed_that_carry_retrain_trains_again(tiny: Tiny, tmp_path: Path) -> None:
    experiment = tiny()
    planned = plan(experiment, executor="local", strategy=dropping(experiment), pack_size=1)
    run_oracle(experiment, tmp_path, executor="local", strategy=dropping(experiment), pack_size=1, carry="retrain")
    again = len(trained(tmp_path)) - read_trials(tmp_path).num_rows
    assert planned.trainings_retrain - planned.trainings == again == 3 * 2


def test_pairs_may_come_in_any_kind_of_collection(tiny: Tiny, tmp_path: Path) -> None:
    for index, pairs in enumerate(({(0.1, 1), (0.1, 0)}, [[0.1, 0], [0.1, 1]], dict.fromkeys([(0.1, 0), (0.1, 1)]))):
        run_oracle(
            tiny("pruning.cycles=0"),
            tmp_path / str(index),
            executor="local",
            strategy=Fixed(parameters={}, pairs=pairs),
        )
        assert pairs_of(read_trials(tmp_path / str(index))) == [(0.1, 0), (0.1, 1)]
