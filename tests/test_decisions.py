"""Decisions: written before they are acted on, read back, and made anew only where they are lost or more was asked for."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import TINY
from faults import timeless
from folders import trained

from oracle.chain import run_oracle
from oracle.events import CycleStarted, Event, TrainingStarted
from oracle.experiment import Experiment, load_experiment
from oracle.records import read_oracle, read_trials
from oracle.runs.cycle import pairs_of
from oracle.runs.decisions import Decision, Pair
from oracle.search.strategies import GridSearch

Tiny = Callable[..., Experiment]


def test_a_finished_cycle_stays_whatever_a_later_version_would_choose(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = run_oracle(tiny(), tmp_path, executor="local")
    starts = trained(tmp_path)

    def other(self: GridSearch, cycle: int, rows: pa.Table) -> dict[str, Any]:
        raise AssertionError("was asked for a choice that is made already")

    monkeypatch.setattr(GridSearch, "choose", other)
    (tmp_path / "oracle.parquet").unlink()
    assert run_oracle(tiny(), tmp_path, executor="local").equals(table)
    assert trained(tmp_path) == starts


def test_a_round_under_way_is_finished_as_it_was_begun(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of a second round; a version that would ask for another one goes on with it all the same."""
    grown = ("pruning.cycles=0", "grid={spacing: log, low: 1e-4, high: 1e-3, points: 3, extend: true, max_extra: 1}")
    rounds = []

    def interrupt(event: Event) -> None:
        if isinstance(event, TrainingStarted):
            rounds.append(event)
            if len(rounds) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_oracle(tiny(*grown), tmp_path, executor="local", listeners=[interrupt])
    before = json.loads((tmp_path / "decisions/cycle=000.json").read_text())
    assert len(before["rounds"]) == 2
    assert before["row"] is None
    decided = {(max_lr, seed) for pairs in before["rounds"] for max_lr, seed in pairs}

    next_trials = GridSearch.next_trials

    def other(self: GridSearch, cycle: int, rows: pa.Table) -> Sequence[Pair]:
        if not rows.num_rows:  # what the run begins with, for the terminal
            return next_trials(self, cycle, rows)
        assert decided <= set(pairs_of(rows)), "was asked for a round while one is under way"
        return ()

    monkeypatch.setattr(GridSearch, "next_trials", other)
    run_oracle(tiny(*grown), tmp_path, executor="local")
    assert set(pairs_of(read_trials(tmp_path))) == decided
    assert len(trained(tmp_path)) == len(decided)


def damaged(content: bytes) -> dict[str, bytes]:
    """Ways in which a decision can be none, or one that nobody made."""
    fields = json.loads(content)
    row = fields["row"]

    def with_row(**more: Any) -> bytes:
        return json.dumps({**fields, "row": {**row, **more}}).encode()

    return {
        "empty": b"",
        "cut": content[: len(content) // 2],
        "a list": b"[]",
        "no rounds": b'{"basis": {}, "rounds": 3, "row": null}',
        "a short row": json.dumps({**fields, "row": {"max_lr": 0.1}}).encode(),
        "a row of text": json.dumps({**fields, "row": "high"}).encode(),
        "no end": with_row(lo=None),
        "an end of text": with_row(lo="low"),
        "an optimum that nobody trained": with_row(max_lr=0.3, hi=1.0),
        "a number that is none": with_row(val_loss=float("nan")),
        "another cycle": with_row(cycle=5),
        "a huge rate": json.dumps({**fields, "rounds": [[[10**400, 0]]]}).encode(),
        "a rate below 0": json.dumps({**fields, "rounds": [[[-0.1, 0]], *fields["rounds"]]}).encode(),
        "another seed": json.dumps({**fields, "rounds": [*fields["rounds"], [[0.1, 7]]]}).encode(),
        "a trial twice": json.dumps({**fields, "rounds": [*fields["rounds"], *fields["rounds"]]}).encode(),
        "nested": b"[" * 90_000,
        "of other seeds": json.dumps({**fields, "basis": {**fields["basis"], "seeds": [0]}}).encode(),
    }


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    run_oracle(load_experiment("digits-mlp", overrides=TINY), out, executor="local")
    return out


@pytest.mark.parametrize("damage", ["deleted", *damaged(b'{"basis": {}, "rounds": [], "row": {}}')])
@pytest.mark.slow
def test_a_decision_that_is_lost_is_made_anew_from_the_trials(whole_run: Path, tmp_path: Path, damage: str) -> None:
    out = shutil.copytree(whole_run, tmp_path / "run")
    path, starts, table = out / "decisions/cycle=001.json", trained(out), read_oracle(out)
    content = path.read_bytes()
    path.unlink() if damage == "deleted" else path.write_bytes(damaged(content)[damage])
    (out / "oracle.parquet").unlink()  # so that only the trials are left to decide from
    assert timeless(run_oracle(load_experiment("digits-mlp", overrides=TINY), out, executor="local")) == timeless(table)
    assert Decision.from_json(path.read_bytes()) == Decision.from_json(content)
    assert trained(out) == starts


def test_a_committed_row_stands_where_its_decision_is_lost(
    whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in every run of a version that kept none: a later one that would choose otherwise changes no finished cycle."""
    out = shutil.copytree(whole_run, tmp_path / "run")
    shutil.rmtree(out / "decisions")
    starts, table = trained(out), read_oracle(out)

    def other(self: GridSearch, cycle: int, rows: pa.Table) -> dict[str, Any]:
        raise AssertionError("was asked for a choice that is committed already")

    monkeypatch.setattr(GridSearch, "choose", other)
    assert run_oracle(load_experiment("digits-mlp", overrides=TINY), out, executor="local").equals(table)
    assert trained(out) == starts
    assert len(list((out / "decisions").iterdir())) == 3


def test_a_decision_of_a_later_version_keeps_its_row_without_what_is_not_known_here(
    whole_run: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(whole_run, tmp_path / "run")
    path = out / "decisions/cycle=000.json"
    fields = json.loads(path.read_bytes())
    path.write_text(json.dumps({**fields, "row": {**fields["row"], "lo_possible": 0.01}}))
    heard: list[Event] = []
    table = read_oracle(out)
    experiment = load_experiment("digits-mlp", overrides=TINY)
    assert run_oracle(experiment, out, executor="local", listeners=[heard.append]).equals(table)
    assert not [event for event in heard if isinstance(event, CycleStarted)]


def test_more_seeds_decide_anew_and_more_cycles_do_not(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[int] = []
    choose = GridSearch.choose

    def counting(self: GridSearch, cycle: int, rows: pa.Table) -> dict[str, Any]:
        chosen.append(cycle)
        return choose(self, cycle, rows)

    monkeypatch.setattr(GridSearch, "choose", counting)
    run_oracle(tiny("pruning.cycles=1", "seeds=[0]"), tmp_path, executor="local")
    run_oracle(tiny("seeds=[0]"), tmp_path, executor="local")
    assert chosen == [0, 1, 2]
    run_oracle(tiny(), tmp_path, executor="local")
    assert chosen == [0, 1, 2, 0, 1, 2]
