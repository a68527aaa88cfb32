"""The strategy adaptive in whole searches, and what every search says of how sure it is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from folders import trained
from typer.testing import CliRunner

from oracle.chain import run_oracle
from oracle.cli import app
from oracle.errors import DivergedError, ExperimentError
from oracle.events import CycleStarted, Event, Notice, TrainingStarted
from oracle.experiment import Experiment, load_experiment
from oracle.intervals import estimate_interval, find_interval
from oracle.records import read_oracle, read_trials
from oracle.runs.cycle import pairs_of
from oracle.runs.tables import ESTIMATED, P_WITHIN, from_parquet, to_parquet
from oracle.search import certainty
from oracle.search.accuracy_curve import AccuracyCurve
from oracle.search.adaptive import Adaptive, spaced
from oracle.search.how_sure import with_estimates
from search_spaces.grids import MaxLrGrid

Tiny = Callable[..., Experiment]

NINE = ("grid={spacing: log, low: 0.01, high: 1, points: 9}", "pruning.cycles=1")
ADAPTIVE = (*NINE, "search.strategy=adaptive")


@pytest.fixture
def adaptive(tiny: Tiny) -> Experiment:
    return tiny(*ADAPTIVE)


def searched(experiment: Experiment, out: Path) -> pa.Table:
    return run_oracle(experiment, out, executor="local", slots=1)


def p_within(out: Path) -> pa.Table:
    found = from_parquet((out / "p_within.parquet").read_bytes(), P_WITHIN, where=str(out))
    assert found is not None
    return found


# What every search says


def test_a_grid_search_keeps_the_papers_procedure_and_says_how_sure_it_is(tiny: Tiny, tmp_path: Path) -> None:
    experiment = tiny(*NINE)
    rows = searched(experiment, tmp_path).to_pylist()
    trials = read_trials(tmp_path)
    for row in rows:
        own = [trial for trial in trials.to_pylist() if trial["cycle"] == row["cycle"]]
        papers = find_interval(own, tolerance=experiment.tolerance)
        assert {name: row[name] for name in papers if name != "seconds"} == {
            name: value for name, value in papers.items() if name != "seconds"
        }
        so_far = [trial for trial in trials.to_pylist() if trial["cycle"] <= row["cycle"]]
        said = estimate_interval(
            so_far,
            candidates=experiment.candidates(0),
            num_validation=experiment.data.validation,
            tolerance=experiment.tolerance,
        )
        names = {"max_lr": "curve_max_lr", "lo": "curve_lo", "hi": "curve_hi"}
        vectors = ("p_within", "curve", "curve_std")
        assert {name: row[name] for name in ESTIMATED} == {
            names.get(name, name): value for name, value in said.items() if name not in vectors
        }
        of_cycle = [each for each in p_within(tmp_path).to_pylist() if each["cycle"] == row["cycle"]]
        assert [each["max_lr"] for each in of_cycle] == list(experiment.candidates(0))
        for name in vectors:
            assert [each[name] for each in of_cycle] == said[name]


def test_one_rate_a_cycle_says_nothing_of_a_curve(tiny: Tiny, tmp_path: Path) -> None:
    [row, *_] = searched(tiny("peaks=0.1"), tmp_path).to_pylist()
    assert {row[name] for name in ESTIMATED} == {None}
    assert not (tmp_path / "p_within.parquet").exists()
    assert CliRunner().invoke(app, ["show", str(tmp_path)]).exit_code == 0


def test_other_estimates_retrain_nothing_and_are_left_as_they_are(tiny: Tiny, tmp_path: Path) -> None:
    """As another type of CPU or a later version would have written them."""
    table, starts = searched(tiny(*NINE), tmp_path), trained(tmp_path)
    place = table.schema.get_field_index("p_optimum_within")
    other = table.set_column(place, table.schema.field(place), pa.array([0.123] * len(table), type=pa.float64()))
    (tmp_path / "oracle.parquet").write_bytes(to_parquet(other))
    again = searched(tiny(*NINE), tmp_path)
    assert trained(tmp_path) == starts
    assert again["p_optimum_within"].to_pylist() == [0.123] * len(table)


@pytest.mark.parametrize("lost", ["the columns", "p_within.parquet", "p_within.parquet damaged", "both"])
def test_runs_of_older_versions_are_estimated_as_they_are_shown_and_not_written(
    tiny: Tiny, tmp_path: Path, lost: str
) -> None:
    table = searched(tiny(*NINE), tmp_path)
    candidates = p_within(tmp_path)
    if lost in {"the columns", "both"}:
        (tmp_path / "oracle.parquet").write_bytes(to_parquet(table.drop_columns(list(ESTIMATED))))
    if lost in {"p_within.parquet", "both"}:
        (tmp_path / "p_within.parquet").unlink()
    elif "damaged" in lost:
        content = (tmp_path / "p_within.parquet").read_bytes()
        (tmp_path / "p_within.parquet").write_bytes(content[: len(content) // 2])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    found, rows = with_estimates(tmp_path)
    assert found.equals(table)
    assert rows.equals(candidates)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")} == before


def test_what_p_within_parquet_has_lost_is_made_anew(tiny: Tiny, tmp_path: Path) -> None:
    experiment = tiny(*NINE)
    searched(experiment, tmp_path)
    whole = p_within(tmp_path)
    (tmp_path / "p_within.parquet").unlink()
    searched(experiment, tmp_path)
    assert p_within(tmp_path).equals(whole)
    (tmp_path / "winners/cycle=000/seed=0.safetensors").unlink()
    searched(experiment, tmp_path)
    assert p_within(tmp_path).equals(whole)


def test_no_search_ends_for_want_of_an_estimate(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: Any) -> AccuracyCurve:
        raise np.linalg.LinAlgError("Matrix is not positive definite")

    monkeypatch.setattr(certainty, "accuracy_curve", failing)
    said: list[Event] = []
    rows = run_oracle(tiny(*NINE), tmp_path, executor="local", listeners=[said.append]).to_pylist()
    assert [row["curve_max_lr"] for row in rows] == [None, None]
    told = [event.text for event in said if isinstance(event, Notice)]
    assert told.count("cycle 1: how sure its interval is cannot be told: Matrix is not positive definite") == 1
    assert CliRunner().invoke(app, ["show", str(tmp_path)]).exit_code == 0


def test_show_says_it_in_words_and_for_programs(tiny: Tiny, tmp_path: Path) -> None:
    searched(tiny(*NINE), tmp_path)
    shown = CliRunner().invoke(app, ["show", str(tmp_path)])
    assert shown.exit_code == 0
    assert "surely" in shown.output
    assert "cycle 1: " in shown.output
    assert "within half a point" in shown.output
    found = json.loads(CliRunner().invoke(app, ["show", str(tmp_path), "--json"]).output)
    assert found["rows"] == read_oracle(tmp_path).to_pylist()
    assert len(found["p_within"]) == 2 * 9


# The strategy


def test_adaptive_trains_every_third_rate_and_takes_optimum_and_interval_from_the_curve(
    adaptive: Experiment, tmp_path: Path
) -> None:
    rows, grid = searched(adaptive, tmp_path).to_pylist(), adaptive.candidates(0)
    for row in rows:
        tried = {trial["max_lr"] for trial in read_trials(tmp_path).to_pylist() if trial["cycle"] == row["cycle"]}
        assert {grid[1], grid[4], grid[7]} <= tried
        assert len(tried) <= 3 + 2
        assert row["max_lr"] in tried
        assert (row["max_lr"], row["lo"], row["hi"]) == (row["curve_max_lr"], row["curve_lo"], row["curve_hi"])
        place = grid.index(row["lo"])
        assert row["lo_outside"] == (grid[place - 1] if place else None)
        assert row["lo_on_edge"] == (place == 0)


def test_adaptive_grows_beyond_an_edge_that_the_interval_reaches(tiny: Tiny, tmp_path: Path) -> None:
    low = "grid={spacing: log, low: 1e-4, high: 1e-2, points: 9, extend: true, max_extra: 9}"
    [row] = searched(tiny(low, "pruning.cycles=0", "search.strategy=adaptive"), tmp_path).to_pylist()
    assert row["max_lr"] > 0.01
    assert len(p_within(tmp_path)) > 9


def test_explicit_grids_are_searched_adaptively(tiny: Tiny, tmp_path: Path) -> None:
    values = [0.01, 0.02, 0.05, 0.1, 0.15, 0.3, 0.6]
    grid = f"grid={{spacing: explicit, values: {values}}}"
    [row] = searched(tiny(grid, "pruning.cycles=0", "search.strategy=adaptive"), tmp_path).to_pylist()
    tried = set(read_trials(tmp_path)["max_lr"].to_pylist())
    assert {0.02, 0.15, 0.6} <= tried < set(values)
    assert row["max_lr"] in tried


def nudged(monkeypatch: pytest.MonkeyPatch, most: float) -> None:
    """Estimates a little off, as on another type of CPU."""
    exact = certainty.accuracy_curve

    def other(*args: Any) -> AccuracyCurve:
        found = exact(*args)
        moved = most * np.random.default_rng(0).uniform(-1, 1, len(found.mean))
        return AccuracyCurve(mean=found.mean + moved, covariance=found.covariance * (1 + most))

    monkeypatch.setattr(certainty, "accuracy_curve", other)


@pytest.mark.parametrize("most", [1e-6, 3.0])
def test_a_second_round_under_way_is_finished_as_it_was_begun(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: float
) -> None:
    """Stopped with half of the second round trained; another CPU, or a model that errs by points, asks for nothing else."""
    experiment = tiny(*ADAPTIVE, "tolerance=0.02", "training.epochs=6")
    with monkeypatch.context() as patch:
        seen: list[TrainingStarted] = []

        def interrupt(event: Event) -> None:
            if isinstance(event, TrainingStarted):
                seen.append(event)
            elif len(seen) == 2 and event.__class__.__name__ == "TrialFinished":
                raise KeyboardInterrupt

        patch.setattr(Adaptive, "_middles", lambda *_: [2, 5])  # whatever the machine finds: two more
        with pytest.raises(KeyboardInterrupt):
            run_oracle(experiment, tmp_path, executor="local", slots=1, pack_size=1, listeners=[interrupt])
    decision = json.loads((tmp_path / "decisions/cycle=000.json").read_text())
    assert len(decision["rounds"]) == 2
    decided = {(max_lr, seed) for pairs in decision["rounds"] for max_lr, seed in pairs}
    done = {(0, trial["seed"], trial["max_lr"]) for trial in read_trials(tmp_path).to_pylist()}
    assert 3 * 2 < len(done) < len(decided)
    nudged(monkeypatch, most)
    run_oracle(experiment, tmp_path, executor="local", slots=1)
    of_first = [start for start in trained(tmp_path) if start[0] == 0]
    assert {(max_lr, seed) for _, seed, max_lr in of_first} == decided
    assert all(of_first.count(trial) == 1 for trial in done)
    own = [trial for trial in read_trials(tmp_path).to_pylist() if trial["cycle"] == 0]
    assert {(trial["max_lr"], trial["seed"]) for trial in own} == decided


def test_a_finished_search_stays_where_the_curve_is_a_little_different(
    adaptive: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, starts = searched(adaptive, tmp_path), trained(tmp_path)
    nudged(monkeypatch, 1e-6)
    started: list[Event] = []
    again = run_oracle(
        adaptive,
        tmp_path,
        executor="local",
        listeners=[lambda event: started.append(event) if isinstance(event, CycleStarted) else None],
    )
    assert again.equals(table)
    assert trained(tmp_path) == starts
    assert started == []
    (tmp_path / "oracle.parquet").unlink()
    names = ["max_lr", "lo", "hi", "val_accuracy"]
    assert searched(adaptive, tmp_path).select(names).equals(table.select(names))
    assert trained(tmp_path) == starts


@pytest.mark.slow
def test_more_cycles_and_more_seeds_go_on(tiny: Tiny, tmp_path: Path) -> None:
    searched(tiny(*ADAPTIVE), tmp_path)
    starts = trained(tmp_path)
    searched(tiny(*ADAPTIVE, "pruning.cycles=2"), tmp_path)
    assert trained(tmp_path)[: len(starts)] == starts
    before = trained(tmp_path)
    table = searched(tiny(*ADAPTIVE, "pruning.cycles=2", "seeds=[0, 1, 2]"), tmp_path)
    assert table["num_seeds"].to_pylist() == [3, 3, 3]
    again = [start for start in trained(tmp_path) if start[0] == 0 and start[1] < 2]
    assert [start for start in again if start in before] == [start for start in before if start[0] == 0]
    assert len(set(again)) == len(again)  # of cycle 0, whatever was trained is not trained again
    assert {seed for _, seed in pairs_of(read_trials(tmp_path))} == {0, 1, 2}


def test_the_parameters_are_a_part_of_the_runs_identity() -> None:
    def identity(*search: str) -> str:
        return load_experiment("digits-mlp", overrides=search).hash

    assert identity() != identity("search.strategy=adaptive")
    assert identity("search.strategy=adaptive") == identity("search={strategy: adaptive, spacing: 3, rounds: 2}")
    assert identity("search.strategy=adaptive") != identity("search={strategy: adaptive, spacing: 4}")


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("{strategy: adaptive, spacing: 0}", r"search\.spacing: found 0: input should be greater than or equal to 1"),
        ("{strategy: adaptive, rounds: 1.5}", r"search\.rounds: found 1\.5"),
        ("{strategy: adaptive, confidence: 95}", r"search\.confidence: found 95: input should be less than 1"),
        (
            "{strategy: adaptive, stride: 3}",
            r"search\.stride: unknown key; .*allowed: strategy, spacing, rounds, confidence",
        ),
        ("adaptive", r"search: found 'adaptive'"),
    ],
)
def test_wrong_parameters_are_refused_by_name(search: str, message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        load_experiment("digits-mlp", overrides=[f"search={search}"])


def test_peaks_leave_nothing_to_search() -> None:
    with pytest.raises(ExperimentError, match=r"peaks: fixes the max_lr of every cycle.*leave one out"):
        load_experiment("digits-mlp", overrides=["peaks=0.1", "search.strategy=adaptive"])


# Where it looks


Rounds = list[set[tuple[int, int]]]  # (index of the rate, seed)


def rounds_of(
    *peaks: float,
    width: float,
    spacing: int = 3,
    tolerance: float = 0.005,
    points: int = 24,
    num_rounds: int = 2,
    noise: float = 0.0005,
    cliff: int = 1000,
    extend: bool = False,
) -> list[Rounds]:
    """What adaptive asks for at each cycle, on planted parabolas about these peaks; from `cliff` on all diverge."""
    grid = MaxLrGrid(low=0.01, high=1.0, points=points, spacing="log", extend=extend)
    rates = grid.candidates()
    places = {rate: place for place, rate in enumerate(rates)}
    if extend:
        places |= {grid.beyond(step, high=True): points - 1 + step for step in range(1, 25)}
        places |= {grid.beyond(step, high=False): -step for step in range(1, 25)}
    strategy = Adaptive(
        grid=grid, seeds=SEEDS, tolerance=tolerance, num_validation=10_000, spacing=spacing, rounds=num_rounds
    )
    rows: list[dict[str, Any]] = []
    cycles: list[Rounds] = []
    for cycle, at in enumerate(peaks):
        cycles.append([])
        while asked := strategy.next_trials(cycle, pa.Table.from_pylist(rows, schema=SCHEMA)):
            cycles[-1].append({(places[max_lr], seed) for max_lr, seed in asked})
            assert len(cycles[-1][-1]) == len(asked)
            for max_lr, seed in asked:
                place = places[max_lr]
                accuracy = 0.95 - 0.005 * ((place - at) / width) ** 2 + 0.001 * seed
                accuracy += noise * np.random.default_rng([place % 10_000, seed]).normal()
                outcome = "diverged" if place >= cliff else "finished"
                rows.append(
                    {"cycle": cycle, "seed": seed, "max_lr": max_lr, "outcome": outcome, "val_loss": 0.5}
                    | {"val_accuracy": min(1.0, max(0.1, accuracy)), "round": len(cycles[-1]) - 1}
                )
    return cycles


SEEDS = (0, 1, 2)
SCHEMA = pa.schema(
    [(name, pa.float64()) for name in ("cycle", "seed", "max_lr")]
    + [("outcome", pa.string())]
    + [(name, pa.float64()) for name in ("val_accuracy", "val_loss")]
    + [("round", pa.int64())]
)


def tried_in(asked: set[tuple[int, int]]) -> list[int]:
    """The rates of a round in which every seed tries the same."""
    places = sorted({place for place, _ in asked})
    assert asked == {(place, seed) for place in places for seed in SEEDS}
    return places


@pytest.mark.parametrize(
    ("at", "width", "second"),
    [
        (12, 3, [8, 12, 14]),  # the curve's best, and the lower middles of 7 to 10 and 13 to 16, where the ends fall
        (11, 9, [0, 11]),  # nothing falls by half a point between two rates; the lower end is near the edge
        (2.4, 2, [0, 2, 5]),  # the edge, the best, the middle of 4 to 7
        (21, 2, [17, 21, 23]),
    ],
)
def test_cycle_0_tries_every_third_rate_then_best_middles_and_edges(at: float, width: float, second: list[int]) -> None:
    [rounds] = rounds_of(at, width=width)
    assert [tried_in(asked) for asked in rounds] == [[1, 4, 7, 10, 13, 16, 19, 22], second]


def test_no_middle_is_tried_where_the_fall_may_be_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    [[_, *later]] = rounds_of(14, width=4, noise=0.02)
    assert [tried_in(asked) for asked in later] == [[14]]
    monkeypatch.setattr(AccuracyCurve, "std_of_gap", lambda *_: 0.0)
    [[_, *sure]] = rounds_of(14, width=4, noise=0.02)
    assert [tried_in(asked) for asked in sure] == [[11, 14, 20]]


def test_later_cycles_try_with_one_seed_what_the_cycle_before_left_in_no_doubt() -> None:
    _, [first, *_] = rounds_of(11, 11, width=2)
    seeds = {place: {seed for own, seed in first if own == place} for place, _ in first}
    assert set(seeds) == {1, 4, 7, 10, 13, 16, 19, 22}
    assert [place for place in sorted(seeds) if seeds[place] == set(SEEDS)] == [10, 13]
    assert all(own in ({0}, set(SEEDS)) for own in seeds.values())


@pytest.mark.parametrize("num_rounds", [1, 2, 3])
def test_an_interval_that_moved_is_found_and_tried_with_every_seed(num_rounds: int) -> None:
    _, [first, second, *_] = rounds_of(5, 16, width=2, num_rounds=num_rounds)
    assert {(16, 0)} == {pair for pair in first if pair[0] == 16}
    assert {(16, 1), (16, 2)} <= second
    assert not first & second


def test_scouted_rates_are_tried_with_every_seed_where_all_others_diverge() -> None:
    _, [first, second, *_] = rounds_of(16, 6, width=3, cliff=12)
    assert {(7, 0)} == {pair for pair in first if pair[0] == 7}
    assert {(7, 1), (7, 2)} <= second


def test_seeds_in_another_order_train_the_same(tiny: Tiny, tmp_path: Path) -> None:
    """Their order is no part of a run's identity, so it may not decide which of them scouts."""
    asked = []
    for name, seeds in (("a", "[0, 1]"), ("b", "[1, 0]")):
        searched(tiny(*ADAPTIVE, f"seeds={seeds}"), tmp_path / name)
        asked.append({(cycle, *pair) for cycle, *pair in trained(tmp_path / name)})
    assert asked[0] == asked[1]
    assert len({seed for cycle, seed, _ in asked[0] if cycle == 1}) == 2


@pytest.mark.parametrize(("points", "spacing"), [(24, 3), (51, 3), (10, 3), (8, 4), (24, 5)])
@pytest.mark.slow
def test_no_search_trains_more_than_its_plan_says_at_most(points: int, spacing: int) -> None:
    grid = MaxLrGrid(low=0.01, high=1.0, points=points, spacing="log")
    strategy = Adaptive(grid=grid, seeds=SEEDS, tolerance=0.005, num_validation=10_000, spacing=spacing)
    planned = strategy.trainings(2)
    assert planned.most is not None
    for at in np.linspace(0, points - 1, 6):
        for width in (0.5, 2.0, 9.0):
            for moved in (0, points - 1):
                cycles = rounds_of(at, moved, width=width, spacing=spacing, points=points)
                asked = sum(len(pairs) for rounds in cycles for pairs in rounds)
                assert planned.least <= asked <= planned.most


@pytest.mark.parametrize("points", [1, 2, 3, 4, 5, 6])
def test_small_grids_get_three_candidates_or_all(points: int) -> None:
    grid = MaxLrGrid(spacing="explicit", values=tuple(0.1 * (place + 1) for place in range(points)))
    assert len(spaced(grid.candidates(), 3)) >= min(3, points)


def test_smaller_rates_are_tried_where_all_others_diverge() -> None:
    grid = MaxLrGrid(low=0.01, high=1.0, points=10, spacing="log")
    strategy, rates = Adaptive(grid=grid, seeds=(0, 1), tolerance=0.005, num_validation=1000), grid.candidates()
    rows = [
        {"cycle": 0, "seed": seed, "max_lr": max_lr, "outcome": "diverged", "round": 0}
        for max_lr, seed in strategy.next_trials(0, pa.Table.from_pylist([], schema=SCHEMA))
    ]
    assert set(strategy.next_trials(0, pa.Table.from_pylist(rows, schema=SCHEMA))) == {(rates[0], 0), (rates[0], 1)}
    rows += [{"cycle": 0, "seed": seed, "max_lr": rates[0], "outcome": "diverged", "round": 1} for seed in (0, 1)]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    assert list(strategy.next_trials(0, table)) == []
    with pytest.raises(DivergedError, match="every candidate of the grid"):
        strategy.choose(0, table)


@pytest.mark.parametrize(("points", "spacing"), [(9, 3), (12, 3), (16, 2), (24, 3), (51, 3), (12, 5)])
@pytest.mark.parametrize("upwards", [True, False])
def test_a_grid_that_may_grow_does_so_to_its_bound(points: int, spacing: int, upwards: bool) -> None:
    """Accuracy rises beyond the edge for ever."""
    at = points + 200 if upwards else -200
    [rounds] = rounds_of(at, width=30, points=points, spacing=spacing, extend=True)
    tried = sorted({place for asked in rounds for place in tried_in(asked)})
    beyond = [place - points + 1 if upwards else -place for place in tried]
    assert max(beyond) == 24
    steps = [step for step in beyond if step > 0]
    assert len(steps) == -(-24 // spacing)
    strategy = Adaptive(
        grid=MaxLrGrid(low=0.01, high=1.0, points=points, spacing="log", extend=True),
        seeds=SEEDS, tolerance=0.005, num_validation=10_000, spacing=spacing,
    )  # fmt: skip
    planned = strategy.trainings(1)
    assert planned.most is not None
    assert sum(map(len, rounds)) <= planned.most
