"""Seeds that are added where a cycle's optimum is not sure: what they train, what stays, stops, refusals."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from faults import timeless
from folders import trained
from typer.testing import CliRunner

from oracle.chain import run_oracle
from oracle.cli import app
from oracle.errors import ExperimentError, FolderError
from oracle.events import Event, Notice, TrainingStarted, TrialFinished
from oracle.experiment import Experiment
from oracle.intervals import find_interval
from oracle.records import read_oracle, read_trials
from oracle.runs.decisions import Decision
from oracle.runs.tables import TRIALS
from oracle.search import until_sure
from oracle.search.adaptive import Adaptive
from oracle.search.certainty import CurveReading
from oracle.search.progress import cycle_progress
from oracle.search.rounds import ROUND
from oracle.search.strategies import GridSearch, Strategy
from oracle.search.until_sure import UntilSure
from oracle.training import run
from search_spaces.grids import MaxLrGrid

Tiny = Callable[..., Experiment]

NINE = ("grid={spacing: log, low: 0.01, high: 1, points: 9}", "pruning.cycles=2")
FLAT = ("grid={spacing: log, low: 0.1, high: 0.3, points: 6}", "pruning.cycles=0", "tolerance=0.0001")
COUNTED = ("cycle", "max_lr", "lo", "hi", "num_seeds", "num_seeds_added", "val_accuracy")


@pytest.fixture
def unsure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cycle 1 is sure from four seeds on, the others at once: whatever this machine finds."""
    exact = until_sure.read_curve

    def planted(rows: pa.Table, **more: Any) -> CurveReading:
        found = exact(rows, **more)
        last = max(rows["cycle"].to_pylist())
        sure = last != 1 or found.num_seeds >= 4
        return replace(found, p_near=tuple(1.0 if sure else 0.5 for _ in found.grid))

    monkeypatch.setattr(until_sure, "read_curve", planted)


def searched(experiment: Experiment, out: Path, **more: Any) -> pa.Table:
    return run_oracle(experiment, out, **{"executor": "local", "slots": 1, "until_sure": 0.95, "max_seeds": 6} | more)


def trials_of(out: Path, cycle: int) -> list[dict[str, Any]]:
    return [row for row in read_trials(out).to_pylist() if row["cycle"] == cycle]


@pytest.mark.usefixtures("unsure")
@pytest.mark.parametrize(
    "more", [(), ("search.strategy=adaptive",), ("pruning.rewind=weights", "pruning.rewind_step=2")]
)
def test_added_seeds_train_the_optima_before_and_what_is_in_doubt_at_the_unsure_cycle(
    tiny: Tiny, tmp_path: Path, more: tuple[str, ...]
) -> None:
    experiment = tiny(*NINE, *more)
    plain = searched(experiment, tmp_path / "plain", until_sure=None, max_seeds=None)
    rows = searched(experiment, tmp_path / "sure").to_pylist()
    assert [(row["num_seeds"], row["num_seeds_added"]) for row in rows] == [(2, 0), (4, 2), (2, 0)]
    assert timeless(pa.Table.from_pylist([rows[0]])) == timeless(plain.slice(0, 1).set_column(
        plain.schema.get_field_index("num_seeds_added"), "num_seeds_added", pa.array([0])
    ))  # fmt: skip
    untimed = [row | {"seconds": None, "commit": None} for row in trials_of(tmp_path / "sure", 0)]
    assert untimed == [row | {"seconds": None, "commit": None} for row in trials_of(tmp_path / "plain", 0)]

    at_first = [(seed, max_lr) for cycle, seed, max_lr in trained(tmp_path / "sure") if cycle == 0 and seed > 1]
    assert at_first == [(2, rows[0]["max_lr"]), (3, rows[0]["max_lr"])]
    of_seed = {
        seed: {row["max_lr"] for row in trials_of(tmp_path / "sure", 1) if row["seed"] == seed} for seed in range(4)
    }
    assert len(of_seed[2]) >= 2
    assert len(of_seed[3]) >= 2
    assert of_seed[2] <= of_seed[0]
    assert rows[1]["max_lr"] in of_seed[2] & of_seed[3]
    assert {row["seed"] for row in trials_of(tmp_path / "sure", 2)} == {0, 1}
    assert max(Counter(trained(tmp_path / "sure")).values()) == 1
    if "search.strategy=adaptive" not in more:
        again = find_interval(trials_of(tmp_path / "sure", 1), tolerance=experiment.tolerance)
        assert {name: rows[1][name] for name in ("max_lr", "lo", "hi", "num_seeds")} == {
            name: again[name] for name in ("max_lr", "lo", "hi", "num_seeds")
        }


@pytest.mark.slow
@pytest.mark.usefixtures("unsure")
@pytest.mark.parametrize("carry", ["keep", "retrain"])
def test_stopped_at_any_training_and_run_again_it_ends_the_same(tiny: Tiny, tmp_path: Path, carry: str) -> None:
    experiment = tiny(*NINE, "pruning.cycles=1")
    starts: list[Event] = []
    whole = searched(experiment, tmp_path / "whole", carry=carry, listeners=[starts.append])
    count = sum(isinstance(event, TrainingStarted) for event in starts)
    assert count >= 2 + 2 * 2  # a round a cycle, and a way and a round for each seed that was added
    for stop in range(count):
        for kind in (TrainingStarted, TrialFinished):
            seen, out = [0], tmp_path / f"{stop}-{kind.__name__}"

            def interrupt(event: Event, seen: list[int] = seen, stop: int = stop, kind: type = kind) -> None:
                seen[0] += isinstance(event, TrainingStarted)
                if seen[0] == stop + 1 and isinstance(event, kind):
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                searched(experiment, out, carry=carry, listeners=[interrupt])
            table = searched(experiment, out, carry=carry)
            assert timeless(table.select(COUNTED)) == timeless(whole.select(COUNTED))
    assert (
        searched(experiment, tmp_path / "0-TrainingStarted", until_sure=None, max_seeds=None)
        .select(COUNTED)
        .equals(whole.select(COUNTED))
    )  # the same search without the flag: what is there stays


def test_seeds_are_added_where_the_estimate_itself_is_not_sure_and_it_is_said_where_they_do_not_do(
    tiny: Tiny, tmp_path: Path
) -> None:
    said: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, Notice):
            said.append(event.text)

    experiment = tiny(*FLAT)
    [row] = searched(experiment, tmp_path, until_sure=0.9999, max_seeds=4, listeners=[hear]).to_pylist()
    assert (row["num_seeds"], row["num_seeds_added"]) == (4, 2)
    [told] = [text for text in said if "probability" in text]
    assert told.startswith("cycle 0: the optimum is within the tolerance of the best with probability 0.")
    assert told.endswith("less than the 0.9999 that was asked for, after 4 seeds, as many as --max-seeds allows")


@pytest.mark.usefixtures("unsure")
def test_a_seed_that_diverges_on_its_way_is_left_out_and_not_trained_again(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, said = run.train_candidates, []

    def diverging(*args: Any, **more: Any) -> Any:
        best = exact(*args, **more)
        if more["key"] == (2, 0):
            best.alive[:] = False
        return best

    monkeypatch.setattr(run, "train_candidates", diverging)
    experiment = tiny(*NINE, "pruning.cycles=1")
    rows = searched(
        experiment, tmp_path, listeners=[lambda event: said.append(event) if isinstance(event, Notice) else None]
    )
    assert rows["num_seeds_added"].to_pylist() == [0, 2]
    assert {row["seed"] for row in trials_of(tmp_path, 1)} == {0, 1, 3, 4}
    assert any("seed 2 cannot be added, as it diverged at the optimum of cycle 0" in event.text for event in said)
    assert Counter(trained(tmp_path))[0, 2, rows["max_lr"].to_pylist()[0]] == 1


@pytest.mark.usefixtures("unsure")
def test_a_finished_folder_is_refused_with_the_command_that_trains_more_seeds(tiny: Tiny, tmp_path: Path) -> None:
    experiment = tiny(*NINE, "pruning.cycles=1")
    searched(experiment, tmp_path, until_sure=None, max_seeds=None)
    with pytest.raises(
        FolderError, match=r'every cycle is finished.*--set "seeds=\[0, 1, 2\]" in place of --until-sure'
    ):
        searched(experiment, tmp_path)
    more = searched(tiny(*NINE, "pruning.cycles=1", "seeds=[0, 1, 2]"), tmp_path, until_sure=None, max_seeds=None)
    assert more["num_seeds"].to_pylist() == [3, 3]
    assert more["num_seeds_added"].to_pylist() == [None, None]


@pytest.mark.usefixtures("unsure")
def test_the_same_command_on_what_it_has_finished_changes_nothing(tiny: Tiny, tmp_path: Path) -> None:
    """As where it was killed after the last row."""
    experiment = tiny(*NINE, "pruning.cycles=1")
    table, starts = searched(experiment, tmp_path), trained(tmp_path)
    assert searched(experiment, tmp_path).equals(table)
    assert trained(tmp_path) == starts


@pytest.mark.usefixtures("unsure")
def test_more_seeds_than_a_finished_folder_has_are_chosen_anew_and_added_to(tiny: Tiny, tmp_path: Path) -> None:
    searched(tiny(*NINE, "pruning.cycles=1"), tmp_path, until_sure=None, max_seeds=None)
    table = searched(tiny(*NINE, "pruning.cycles=1", "seeds=[0, 1, 2]"), tmp_path)
    assert table["num_seeds"].to_pylist() == [3, 4]
    assert table["num_seeds_added"].to_pylist() == [0, 1]


def planted_rows(strategy: Strategy, best: float, width: float) -> tuple[list[list[tuple[float, int]]], pa.Table]:
    """All rounds that a strategy asks for on a planted peak, by candidates' places, and their trials."""
    rates = strategy.candidates
    trials, decision = TRIALS.empty_table(), Decision(basis={"seeds": list(strategy.seeds)})
    while True:
        progress = cycle_progress(
            strategy, 0, decision, seeds=strategy.seeds, earlier=TRIALS.empty_table(), trials=trials
        )
        decision = progress.decision
        if not progress.lacking:
            return list(decision.rounds), trials
        rows = []
        for max_lr, seed in progress.lacking:
            place = rates.index(max_lr)
            noise = 0.0005 * np.random.default_rng([place, seed]).normal()
            accuracy = max(0.1, 0.95 - 0.005 * ((place - best) / width) ** 2 + noise)
            rows.append(
                dict.fromkeys(TRIALS.names)
                | {"cycle": 0, "seed": seed, "max_lr": max_lr, "outcome": "finished", "weights_remaining": 1.0}
                | {"val_accuracy": accuracy, "val_loss": 1 - accuracy, "lineage": "x", "commit": "y"}
            )
        trials = pa.concat_tables([trials, pa.Table.from_pylist(rows, schema=TRIALS)])


@pytest.mark.parametrize(("width", "best"), [(0.9, 5.5), (1.2, 5.6), (0.7, 8.4), (2.0, 3.0)])
def test_the_curves_best_is_tried_before_seeds_are_added(width: float, best: float) -> None:
    """A narrow peak between the rates that adaptive tries first: more seeds of those alone would never tell."""
    grid = MaxLrGrid(low=0.01, high=1.0, points=12, spacing="log")
    base = Adaptive(grid=grid, seeds=(0, 1, 2), tolerance=0.005, num_validation=1000)
    strategy = UntilSure(
        base=base, candidates=grid.candidates(), seeds=(0, 1, 2), tolerance=0.005, num_validation=1000,
        probability=0.95, max_seeds=12,
    )  # fmt: skip
    rounds, trials = planted_rows(strategy, best, width)
    row = strategy.choose(0, trials.append_column(ROUND, pa.array([0] * len(trials), type=ROUND.type)))
    lost = 0.5 * ((grid.candidates().index(row["max_lr"]) - best) / width) ** 2
    nearest = min(0.5 * ((place - best) / width) ** 2 for place in range(12))
    assert lost - nearest <= 0.5
    assert row["num_seeds_added"] <= 2
    assert len(rounds) <= 6


def test_where_one_seed_tried_the_curves_best_the_others_do_before_seeds_are_added() -> None:
    grid = MaxLrGrid(low=0.01, high=1.0, points=7, spacing="log")
    rates, seeds = grid.candidates(), (0, 1, 2)
    rows = [
        {"cycle": 0, "seed": seed, "max_lr": max_lr, "outcome": "finished"}
        | {"val_accuracy": 0.95 - 0.01 * abs(place - 4), "val_loss": 0.5}
        for place, max_lr in enumerate(rates)
        for seed in seeds
        if place != 4 or seed == 0
    ]
    base = GridSearch(grid=grid, seeds=seeds, tolerance=0.005)
    strategy = UntilSure(
        base=base, candidates=rates, seeds=seeds, tolerance=0.005, num_validation=1000, probability=0.95, max_seeds=4
    )
    assert strategy.next_trials(0, pa.Table.from_pylist(rows)) == ((rates[4], 1), (rates[4], 2))


def test_a_finished_cycle_is_not_said_to_have_all_seeds_that_are_allowed_now(tiny: Tiny, tmp_path: Path) -> None:
    told: dict[int, list[str]] = {}
    for most in (3, 9):
        said: list[Event] = []
        searched(tiny(*FLAT), tmp_path, until_sure=0.999999, max_seeds=most, listeners=[said.append])
        told[most] = [e.text for e in said if isinstance(e, Notice) and "that was asked for" in e.text]
    assert ["as many as --max-seeds allows" in text for text in told[3]] == [True]
    assert ["after 3 seeds; it was finished before, and stays as it is" in text for text in told[9]] == [True]


def test_ends_beside_candidates_without_the_added_seeds_are_not_the_grids() -> None:
    grid = MaxLrGrid(low=0.01, high=1.0, points=7, spacing="log")
    rates, rows = grid.candidates(), []
    for place, max_lr in enumerate(rates):
        for seed in (0, 1, 2):
            if seed < 2 or place in (2, 3, 4):
                accuracy = 0.95 if place in (2, 3, 4) else 0.90
                rows.append(
                    {"cycle": 0, "seed": seed, "max_lr": max_lr, "outcome": "finished", "val_accuracy": accuracy}
                    | {"val_loss": 1 - accuracy}
                )
    base = GridSearch(grid=grid, seeds=(0, 1), tolerance=0.005)
    strategy = UntilSure(
        base=base, candidates=rates, seeds=(0, 1), tolerance=0.005, num_validation=1000, probability=0.95, max_seeds=4
    )
    row = strategy.choose(0, pa.Table.from_pylist(rows))
    assert (row["lo"], row["hi"], row["num_seeds"]) == (rates[2], rates[4], 3)
    assert (row["lo_on_edge"], row["hi_on_edge"]) == (False, False)
    assert (row["lo_outside"], row["hi_outside"]) == (rates[1], rates[5])


def test_one_seed_may_be_added_to(tiny: Tiny, tmp_path: Path) -> None:
    experiment = tiny(*FLAT, "seeds=[0]")
    [row] = searched(experiment, tmp_path, until_sure=0.9999, max_seeds=3).to_pylist()
    assert (row["num_seeds"], row["num_seeds_added"]) == (3, 2)


@pytest.mark.usefixtures("unsure")
def test_a_lost_experiment_file_is_restored_though_seeds_were_added(tiny: Tiny, tmp_path: Path) -> None:
    experiment = tiny(*NINE, "pruning.cycles=1")
    table = searched(experiment, tmp_path)
    (tmp_path / "experiment.yaml").unlink()
    again = run_oracle(experiment, tmp_path, executor="local")
    assert again.equals(table)
    assert read_oracle(tmp_path).equals(table)


@pytest.mark.usefixtures("unsure")
@pytest.mark.parametrize("lost", [["winners/cycle=001/seed=3.safetensors"], ["winners/cycle=000", "winners/cycle=001"]])
def test_lost_winners_of_added_seeds_are_made_again(tiny: Tiny, tmp_path: Path, lost: list[str]) -> None:
    experiment = tiny(*NINE, "pruning.cycles=1")
    table = searched(experiment, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("winners/cycle=001/*")}
    for name in lost:
        path = tmp_path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = run_oracle(experiment, tmp_path, executor="local")
    assert again.select(COUNTED).equals(table.select(COUNTED))
    assert {path: path.read_bytes() for path in tmp_path.rglob("winners/cycle=001/*")} == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--max-seeds", "8"), "max_seeds: bounds the seeds that until_sure adds; give that, too"),
        (("--until-sure", "95"), "until_sure: expected a probability between 0 and 1, as 0.95, found 95"),
        (
            ("--until-sure", "0.95", "--max-seeds", "5"),
            "max_seeds: found 5, expected more than the experiment's 5 seeds",
        ),
        (("--until-sure", "0.95", "--set", "peaks=0.1"), "until_sure: the experiment's peaks fix every max_lr"),
    ],
)
def test_what_cannot_be_asked_is_refused(tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    found = CliRunner().invoke(app, ["search", "digits-mlp", "--executor", "local", "--out", str(tmp_path), *flags])
    assert isinstance(found.exception, ExperimentError)
    assert message in str(found.exception)
    assert not list(tmp_path.iterdir())


def test_the_folder_records_which_seeds_were_added(tiny: Tiny, tmp_path: Path) -> None:
    searched(tiny(*FLAT), tmp_path, until_sure=0.9999, max_seeds=3)
    rounds = json.loads((tmp_path / "decisions/cycle=000.json").read_text())["rounds"]
    assert [sorted({seed for _, seed in pairs}) for pairs in rounds] == [[0, 1], [2]]
