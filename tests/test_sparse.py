"""A sparse Oracle: which cycles are searched, at what the others are trained, and what reads and refuses such a run."""

import contextlib
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from faults import timeless
from folders import trained
from listeners import told

import oracle.cli
from oracle.errors import CancelledError, ExperimentError, TableError
from oracle.events import CancelToken, TrainingStarted, TrialFinished
from oracle.execution.executors import Launch
from oracle.experiment import Experiment, load_experiment
from oracle.runs.decisions import Decision
from oracle.runs.records import read_experiment, read_oracle, read_trials
from oracle.runs.tables import TRIALS
from oracle.search.intervals import find_interval
from oracle.search.progress import cycle_progress
from oracle.search.rounds import of_cycle
from oracle.search.run import run_oracle
from oracle.search.strategies import trainings
from oracle.storage import Folder
from silo_fit.fit import fit
from silo_fit.sparse import SparseOracle, run_sparse
from silo_fit.sparse_strategy import share_within, sparse_strategy
from silo_fit.tables import Intervals, parse_intervals, read_intervals

Tiny = Callable[..., Experiment]

RATES = (0.02, 0.1, 0.4)
GRID = "grid={spacing: explicit, values: [0.02, 0.1, 0.4]}"
TINY = ("pruning.cycles=4", "training.epochs=3", "training.batch_size=256", GRID, "seeds=[0, 1]")
SEARCHED = (0, 2, 3)  # of cycles 0 to 4: 1 follows one searched cycle, 4 three
LOCAL = Launch(executor="local", slots=1)
DIVERGING = 1000.0  # max_lr: nothing survives it
FINE = "grid={spacing: log, low: 0.01, high: 1, points: 25}"
COMMAND = ("sparse", "digits-mlp", "--executor", "local", *(part for override in TINY for part in ("--set", override)))


def sparse_run(out: Path, *overrides: str, cycles: tuple[int, ...] | None = SEARCHED, **more: Any) -> SparseOracle:
    plain, strategy = sparse_strategy(load_experiment("digits-mlp", overrides=[*TINY, *overrides]), cycles)
    return run_sparse(plain, strategy, str(out), launch=LOCAL, **more)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All five cycles searched; nobody changes it."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("full")
    run_oracle(load_experiment("digits-mlp", overrides=TINY), out, executor="local", slots=1)
    return out


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, full: Path) -> tuple[SparseOracle, Path]:
    """Three of them, against all; and where. Nobody changes it."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("sparse")
    return sparse_run(out, against=str(full)), out


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """The same, stopped once in a searched cycle and once in one that is not, and gone on with; and where it stopped."""
    torch.set_num_threads(1)
    out, stopped = tmp_path_factory.mktemp("disturbed"), []
    for cycle in (0, 4):
        cancel = CancelToken()

        def stop(event: Any, cycle: int = cycle, cancel: CancelToken = cancel) -> None:
            if isinstance(event, TrialFinished) and event.cycle == cycle:
                cancel.cancel()

        with pytest.raises(CancelledError):
            sparse_run(out, listeners=[stop], cancel=cancel)
        stopped.append(max(row["cycle"] for row in read_trials(out).to_pylist()))
    sparse_run(out)
    return out, stopped


def rates_of(out: Path) -> dict[int, list[float]]:
    """By cycle, every max_lr that was tried; AssertionError where a seed lacks one."""
    trials = read_trials(out).to_pylist()
    counts = Counter((row["cycle"], row["max_lr"]) for row in trials)
    assert set(counts.values()) == {2}  # seeds
    return {cycle: sorted(rate for each, rate in counts if each == cycle) for cycle in {row["cycle"] for row in trials}}


def fitted_by_hand(out: Path, cycles: tuple[int, ...]) -> Any:
    """The curve that fits these rows of oracle.parquet, and nothing else of them than their intervals."""
    rows = [row for row in read_oracle(out).to_pylist() if row["cycle"] in cycles]
    table = pa.table({name: [row[name] for row in rows] for name in ("cycle", "lo", "max_lr", "hi")})
    return fit(table, pruning_rate=0.2).curve


# What is trained.


def test_searched_cycles_try_every_candidate_and_the_others_one_rate(found) -> None:
    rates = rates_of(found[1])
    assert {cycle for cycle in range(5) if rates[cycle] == list(RATES)} == set(SEARCHED)
    assert [len(rates[cycle]) for cycle in (1, 4)] == [1, 1]
    assert found[0].searched == SEARCHED


def test_trainings_are_those_of_the_formula(found) -> None:
    n, c, k, seeds = 3, 3, 5, 2
    assert found[0].cost.trainings == len(trained(found[1])) == (n * c + (k - c)) * seeds
    assert found[0].full_trainings == n * k * seeds
    plain, strategy = sparse_strategy(load_experiment("digits-mlp", overrides=TINY), SEARCHED)
    assert trainings(plain, strategy).likely == (n * c + (k - c)) * seeds


def test_before_two_searched_cycles_the_rate_is_the_last_optimum(found) -> None:
    rows = read_oracle(found[1]).to_pylist()
    assert rows[1]["max_lr"] == rows[0]["max_lr"]
    assert rows[0]["max_lr"] in RATES


def test_after_them_it_is_what_the_fit_of_the_searched_intervals_says(found) -> None:
    curve = fitted_by_hand(found[1], SEARCHED)
    assert rates_of(found[1])[4] == [curve(4)]
    assert read_oracle(found[1])["max_lr"][4].as_py() == curve(4)


def test_cycles_between_searched_ones_take_the_fit_of_those_before_alone() -> None:
    plain, strategy = sparse_strategy(load_experiment("digits-mlp", overrides=[*TINY, FINE]), [0, 1, 3])
    trials = planted_trials(
        strategy, 5, lambda cycle, max_lr: 0.9 - 0.1 * math.log10(max_lr / (0.05 + 0.02 * cycle)) ** 2
    )
    rows = {cycle: find_interval(of_cycle(trials, cycle), tolerance=plain.tolerance) for cycle in (0, 1, 3)}
    for cycle, before in ((2, (0, 1)), (4, (0, 1, 3))):
        table = pa.table({name: [rows[each][name] for each in before] for name in ("cycle", "lo", "max_lr", "hi")})
        assert set(of_cycle(trials, cycle)["max_lr"].to_pylist()) == {fit(table, pruning_rate=0.2).curve(cycle)}


def test_searched_cycles_have_the_row_that_a_full_search_gives_as_long_as_the_chain_is_the_same(found, full) -> None:
    sparse, whole = (timeless(read_oracle(out))[0] for out in (found[1], full))
    assert sparse == whole


def test_cancelled_and_gone_on_it_ends_with_the_undisturbed_table(found, disturbed) -> None:
    out, stopped = disturbed
    assert stopped == [0, 4]  # in the midst of both kinds of cycles
    assert timeless(read_oracle(out)) == timeless(read_oracle(found[1]))
    assert timeless(read_trials(out)) == timeless(read_trials(found[1]))
    assert len(set(trained(out))) == len(trained(found[1]))


def test_run_again_it_trains_nothing(found) -> None:
    before, starts = trained(found[1]), []
    again = sparse_run(found[1], listeners=[told(TrainingStarted, lambda: starts.append(0))])
    assert (trained(found[1]), starts) == (before, [])
    assert again.rows == found[0].rows


def test_another_set_of_cycles_is_another_run(found) -> None:
    with pytest.raises(Exception, match=r"search\.cycles"):
        sparse_run(found[1], cycles=(0, 2))


@pytest.mark.slow
def test_adaptive_searches_inside_a_cycle_as_it_does_by_itself(tmp_path: Path) -> None:
    more = ("grid={spacing: log, low: 0.01, high: 1, points: 12}", "search.strategy=adaptive", "pruning.cycles=2")
    sparse_run(tmp_path / "sparse", *more, cycles=(0, 2))
    alone = load_experiment("digits-mlp", overrides=[*TINY, *more, "pruning.cycles=0"])
    run_oracle(alone, tmp_path / "alone", executor="local", slots=1)
    trials = read_trials(tmp_path / "sparse")
    counts = {cycle: len({row["max_lr"] for row in trials.to_pylist() if row["cycle"] == cycle}) for cycle in range(3)}
    assert counts[1] == 1
    assert 1 < counts[0] < 12
    assert 1 < counts[2] < 12
    first = trials.filter(pc.equal(trials["cycle"], 0))
    own = ["lineage", "commit"]  # a run's names for what it trained
    alone_trials = read_trials(tmp_path / "alone")
    assert timeless(first.drop_columns(own)) == timeless(alone_trials.drop_columns(own))
    assert set(alone.candidates(0)) >= {row["max_lr"] for row in trials.to_pylist() if row["cycle"] == 2}
    search = read_experiment(Folder(tmp_path / "sparse")).search
    assert (search.strategy, search.parameters["inside"]) == ("sparse", "adaptive")


@pytest.mark.parametrize("more", [(), pytest.param(("search.strategy=adaptive",), marks=pytest.mark.slow)])
def test_cycle_whose_value_diverges_is_searched_after_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    monkeypatch.setattr("silo_fit.sparse_strategy._value", lambda known, cycle, highest: DIVERGING)
    found = sparse_run(tmp_path, "pruning.cycles=2", *more, cycles=(0, 2))
    trials = read_trials(tmp_path).to_pylist()
    lost = [(row["cycle"], row["max_lr"]) for row in trials if row["outcome"] == "diverged"]
    assert lost == [(1, DIVERGING)] * 2  # the fault did happen
    assert rates_of(tmp_path)[1] == [*RATES, DIVERGING]
    assert found.searched == (0, 1, 2)
    row = read_oracle(tmp_path).to_pylist()[1]
    assert row["max_lr"] in RATES
    assert row["num_diverged"] == 2


# Where `auto` searches.


def known(*intervals: tuple[int, float, float]) -> Intervals:
    """Cycle, lo, hi; the optimum is in the middle."""
    rows = [{"cycle": cycle, "lo": lo, "hi": hi, "max_lr": math.sqrt(lo * hi)} for cycle, lo, hi in intervals]
    return parse_intervals(pa.Table.from_pylist(rows), pruning_rate=0.2)


def test_hardly_risen_a_wide_interval_holds_nearly_every_curve() -> None:
    # At cycle 1 s is at most 0.25**3 = 1.6% (q = 0, beta = 3), and eps within the interval around the value.
    assert share_within(known((0, 0.01, 1.0)), 1, 0.1, highest=1.0) > 0.95


def test_value_far_off_is_in_no_curves_interval() -> None:
    assert share_within(known((0, 0.01, 1.0)), 1, 1e6, highest=1.0) == 0
    assert share_within(known((0, 0.01, 1.0)), 1, 1e-6, highest=1.0) == 0


def test_where_nothing_can_have_risen_the_share_is_that_of_eps() -> None:
    """At cycle 0 max_lr is eps, log-uniform over [0.01, 1]: half of it lies within a decade of the lower end."""
    found = [share_within(known((0, 0.01, 1.0)), 0, value, highest=1.0) for value in (0.01, 0.1, 1.0)]
    assert found == pytest.approx([0.5, 1.0, 0.5], abs=0.005)  # of 200,000 draws, four standard errors


def test_narrow_interval_leaves_a_later_cycle_open() -> None:
    """eps is known, the rise is not: max_lr at cycle 12 is nearly log-uniform over [0.01, 1].

    Within half an interval of ln 1.02 there lies ln 1.02 / 2 / ln 100 = 0.2% of it, and those that have not risen by then.
    """
    assert share_within(known((0, 0.01, 0.0102)), 12, 0.01, highest=1.0) < 0.05


def test_share_grows_with_the_width_of_the_intervals_and_falls_with_the_cycle() -> None:
    narrow, wide = ([share_within(known((0, 0.03, hi)), cycle, 0.03, highest=1.0) for cycle in (1, 3, 6, 12)]
                    for hi in (0.032, 0.3))  # fmt: skip
    assert all(one < other for one, other in zip(narrow, wide, strict=True))
    assert narrow == sorted(narrow, reverse=True)


def test_interval_reaches_half_a_step_beyond_its_ends() -> None:
    """One candidate with neighbours is an interval as wide, in ratio, as one that ends half-way to them."""
    rows = [{"cycle": 0, "lo": 0.1, "max_lr": 0.1, "hi": 0.1, "lo_outside": 0.001, "hi_outside": 10.0}]
    lone = parse_intervals(pa.Table.from_pylist(rows), pruning_rate=0.2)
    same = known((0, 0.01, 1.0))
    assert share_within(lone, 2, 0.1, highest=10.0) == pytest.approx(
        share_within(same, 2, 0.1, highest=10.0),
        abs=1e-4,  # 20 of 200,000 draws: the ends are the same but for rounding
    )


def planted_trials(strategy: Any, num_cycles: int, accuracy: Callable[[int, float], float]) -> pa.Table:
    """The trials of a whole chain without training: what is asked for is answered by `accuracy` of (cycle, max_lr)."""
    trials = TRIALS.empty_table()
    for cycle in range(num_cycles):
        earlier, decision, own = trials, Decision(basis={}), TRIALS.empty_table()
        while True:
            progress = cycle_progress(strategy, cycle, decision, seeds=strategy.seeds, earlier=earlier, trials=own)
            decision = progress.decision
            if not progress.lacking:
                break
            rows = [
                dict.fromkeys(TRIALS.names)
                | {"cycle": cycle, "seed": seed, "max_lr": max_lr, "outcome": "finished", "weights_remaining": 1.0}
                | {"val_accuracy": value, "val_loss": 1 - value, "lineage": "x", "commit": "y"}
                for max_lr, seed in progress.lacking
                for value in [round(accuracy(cycle, max_lr), 4)]
            ]
            own = pa.concat_tables([own, pa.Table.from_pylist(rows, schema=TRIALS)])
        trials = pa.concat_tables([trials, own])
    return trials


def auto_searched(tolerance: float, **more: Any) -> list[int]:
    """The cycles of five that auto searches, of a network whose best rate is 0.1 throughout."""
    experiment = load_experiment("digits-mlp", overrides=[*TINY, FINE, "pruning.cycles=4", f"tolerance={tolerance}"])
    _, strategy = sparse_strategy(experiment, None, **more)
    trials = planted_trials(strategy, 5, lambda cycle, max_lr: 0.9 - 0.1 * math.log10(max_lr / 0.1) ** 2)
    counts = Counter(trials["cycle"].to_pylist())
    assert set(counts.values()) <= {2, 25 * 2}
    return sorted(cycle for cycle, number in counts.items() if number > 2)


def test_auto_searches_cycle_0_and_fewer_cycles_where_intervals_are_wide() -> None:
    narrow, wide = auto_searched(0.001), auto_searched(0.08)  # 3 and 21 of 25 candidates
    assert narrow[0] == wide[0] == 0
    assert 1 <= len(wide) < len(narrow)


@pytest.mark.slow
def test_auto_that_wants_to_be_surer_searches_more() -> None:
    unsure, sure = auto_searched(0.02, sure=0.3), auto_searched(0.02, sure=0.99)
    assert len(unsure) < len(sure)


@pytest.mark.slow
def test_auto_runs_and_goes_on(tmp_path: Path) -> None:
    first = sparse_run(tmp_path, cycles=None)
    assert 0 in first.searched
    starts = trained(tmp_path)
    assert sparse_run(tmp_path, cycles=None).rows == first.rows
    assert trained(tmp_path) == starts
    assert read_experiment(Folder(tmp_path)).search.parameters["cycles"] == "auto"


# What reads it.


def test_estimates_are_there_for_searched_cycles_and_null_for_the_others(found) -> None:
    for row in read_oracle(found[1]).to_pylist():
        names = ("lo_possible", "hi_possible", "curve_max_lr", "p_optimum_within", "evidence")
        assert {row[name] is not None for name in names} == {row["cycle"] in SEARCHED}
        if row["cycle"] not in SEARCHED:
            assert (row["lo"], row["hi"]) == (row["max_lr"], row["max_lr"])
            assert not any(row[name] for name in ("lo_on_edge", "hi_on_edge", "optimum_on_edge"))


def test_fit_has_no_interval_at_cycles_that_were_not_searched_and_says_so(silo_fit, found) -> None:
    intervals = read_intervals(found[1])
    assert intervals.cycles.tolist() == list(SEARCHED)
    assert any(warning.startswith("cycles 1, 4: one max_lr alone was trained there") for warning in intervals.warnings)
    code, said, _ = silo_fit("fit", found[1])
    assert code == 0
    assert "cycles 1, 4: one max_lr alone was trained there, so there is no interval to fit" in said
    code, said, _ = silo_fit("fit", found[1], "--json")
    assert code == 0
    assert [row["cycle"] for row in json.loads(said)["per_cycle"]] == list(SEARCHED)


def test_report_reads_it(silo_fit, found, tmp_path: Path) -> None:
    code, _, error = silo_fit("report", found[1], "--out", tmp_path / "report.html")
    assert (code, "Traceback" in error) == (0, False)
    assert "cycles 1, 4: one max_lr alone was trained there" in (tmp_path / "report.html").read_text()


def test_oracle_show_reads_it(found, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["oracle", "show", str(found[1])])
    with contextlib.suppress(SystemExit):
        oracle.cli.main()
    said, error = capsys.readouterr()
    assert error == ""
    assert all(f"{row['max_lr']:.3g}"[:5] in said for row in read_oracle(found[1]).to_pylist())


def test_run_in_which_nothing_was_searched_is_refused(silo_fit, found, tmp_path: Path) -> None:
    rows = [row for row in read_oracle(found[1]).to_pylist() if row["cycle"] not in SEARCHED]
    with pytest.raises(TableError, match="no cycle was searched, as one max_lr alone was trained at each"):
        parse_intervals(pa.Table.from_pylist(rows), pruning_rate=0.2)
    fixed = load_experiment("digits-mlp", overrides=[*TINY, "peaks=0.1", "pruning.cycles=1"])
    run_oracle(fixed, tmp_path, executor="local", slots=1)
    with pytest.raises(TableError):
        read_intervals(tmp_path)
    code, said, error = silo_fit("fit", tmp_path)
    assert (code, said, error.count("\n")) == (2, "", 1)


def test_one_cycle_that_was_not_searched_is_told_of_in_the_singular() -> None:
    rows = [{"cycle": cycle, "lo": 0.1, "max_lr": 0.1, "hi": 0.2, "num_candidates": 1 + 2 * (cycle != 1)}
            for cycle in range(3)]  # fmt: skip
    intervals = parse_intervals(pa.Table.from_pylist(rows), pruning_rate=0.2)
    assert intervals.cycles.tolist() == [0, 2]
    assert intervals.warnings == ("cycle 1: one max_lr alone was trained there, so there is no interval to fit",)


def test_some_cycles_of_a_table_keep_all_that_is_known_of_them(full: Path) -> None:
    whole = read_intervals(full)
    some = whole.at([3, 1])
    assert some.cycles.tolist() == [1, 3]
    for name in ("lo", "max_lr", "hi", "lo_outside", "hi_outside", "lo_on_edge", "hi_on_edge"):
        values = getattr(whole, name)
        assert list(map(str, getattr(some, name))) == [str(values[1]), str(values[3])]  # as text NaN equals NaN
    possible, own = whole.of_kind("possible"), some.of_kind("possible")
    assert own.lo.tolist() == possible.lo[[1, 3]].tolist()


# Against a full Oracle.


def hits_by_hand(rows: list[Mapping[str, Any]], lo: str, hi: str, curve: Callable[[int], float]) -> int:
    """Intervals are closed, and 1e-9 of the largest end is forgiven."""
    slack = 1e-9 * max(row[hi] for row in rows)
    return sum(row[lo] - slack <= curve(row["cycle"]) <= row[hi] + slack for row in rows)


def test_hits_against_a_full_oracle_are_those_at_the_cycles_that_were_not_searched(found, full: Path) -> None:
    against, own = found[0].against, found[0].fit
    assert against.cycles == (1, 4)
    rows = [row for row in read_oracle(full).to_pylist() if row["cycle"] in (1, 4)]
    level, best = own.rivals.constant_max_lr, fit(read_intervals(full)).curve
    for kind, (lo, hi) in {"estimated": ("lo", "hi"), "possible": ("lo_possible", "hi_possible")}.items():
        there = [row for row in rows if row[lo] is not None]
        assert against.num_intervals[kind] == len(there) == 2
        assert against.silo[kind] == hits_by_hand(there, lo, hi, own.curve)
        assert against.constant[kind] == hits_by_hand(there, lo, hi, lambda cycle: level)
        assert against.full[kind] == hits_by_hand(there, lo, hi, best)
    assert against.cost.trainings == 3 * 5 * 2
    assert against.cost.seconds == pytest.approx(sum(read_trials(full)["seconds"].to_pylist()), rel=1e-12)


def test_planted_hits_are_counted(found, full: Path) -> None:
    """Of planted curves rather than fitted ones, which here may hit the same by chance."""
    from silo_fit.curve import SiloCurve
    from silo_fit.kinds import hits_by_kind

    rest = read_intervals(full).at([1, 4])
    rows = [row for row in read_oracle(full).to_pylist() if row["cycle"] in (1, 4)]
    for level in RATES:
        curve = SiloCurve(eps=level, delta=0, q=1, beta=5, pruning_rate=0.2)
        assert hits_by_kind(rest, curve)["estimated"] == (hits_by_hand(rows, "lo", "hi", curve), 2)


def test_full_oracle_of_another_pruning_rate_is_refused_before_anything_is_trained(
    silo_fit, full: Path, tmp_path: Path
) -> None:
    code, said, error = silo_fit(
        *COMMAND, "--set", "pruning.rate=0.3", "--against", full, "--out", tmp_path / "out", "--cycles", "0,2"
    )
    assert (code, said) == (2, "")
    assert error == f"error: {full}: its pruning rate is 0.2, this experiment's 0.3: their cycles are not the same\n"
    assert not (tmp_path / "out").exists()


def test_full_oracle_without_an_interval_at_the_others_is_refused(found, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="has no interval at a cycle that is not searched here"):
        sparse_run(found[1], against=str(found[1]))


# The command.


def test_command_prints_every_cycle_and_what_it_cost(silo_fit, found, full: Path) -> None:
    command = (*COMMAND, "--cycles", "0,2,3", "--out", found[1], "--against", full)
    code, said, _ = silo_fit(*command)
    assert code == 0
    lines = said.splitlines()
    rows = {int(line.split()[0]): line for line in lines[1:6]}
    assert {cycle for cycle, line in rows.items() if "not searched" in line} == {1, 4}
    for row in found[0].rows:
        assert f" {row['max_lr']:.4g} " in rows[row["cycle"]]
    assert "trainings: 22; a full search of this grid takes 30 (1.4 times as many)" in said
    assert "at the cycles that were not searched (1, 4)" in said
    assert "! cycles 1, 4: one max_lr alone was trained there" in said


def test_command_prints_json_alone(silo_fit, found, full: Path) -> None:
    command = (*COMMAND, "--cycles", "0,2,3", "--out", found[1], "--against", full)
    code, printed, _ = silo_fit(*command, "--json")
    assert code == 0
    told_of = json.loads(printed)
    assert told_of == json.loads(json.dumps(found[0].as_dict(), allow_nan=False))
    assert (told_of["searched"], told_of["trainings"], told_of["full_trainings"]) == ([0, 2, 3], 22, 30)
    assert told_of["against"]["cycles"] == [1, 4]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--cycles", "1,2"), "cycles: 0 is missing"),
        (("--cycles", "0,5"), "cycles: found 5, but digits-mlp has cycles 0 to 4"),
        (("--cycles", "0,-1"), "cycles: found -1"),
        (("--cycles", "0,2,2"), "cycles: found 0, 2, 2; each may be named once"),
        (("--cycles", "0,two"), "cycles: found '0,two', expected auto, or whole numbers"),
        (("--cycles", "0,1.5"), "cycles: found '0,1.5'"),
        (("--cycles", ""), "cycles: found ''"),
        (("--cycles", "0,2", "--sure", "0.9"), "--sure goes with --cycles auto"),
        (("--sure", "0"), "sure: expected a share between 0 and 1, found 0"),
        (("--sure", "1"), "sure: expected a share between 0 and 1, found 1"),
        (("--sure", "nan"), "sure: expected a share between 0 and 1, found nan"),
        (("--set", "peaks=0.1"), "peaks: the experiment fixes every max_lr"),
        (("--set", "grid={spacing: explicit, values: [0.1]}"), "grid: has one candidate"),
        (("--against", "nowhere"), "nowhere: holds no Oracle run"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    silo_fit, tmp_path: Path, options: tuple[str, ...], named: str
) -> None:
    code, said, error = silo_fit(*COMMAND, "--out", tmp_path / "out", *options)
    assert (code, said) == (2, "")
    assert error.startswith("error: ")
    assert named in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_strategy_is_refused_by_name_where_it_is_made(tiny: Tiny) -> None:
    with pytest.raises(ExperimentError, match="cycles: 0 is missing"):
        sparse_strategy(tiny(), [])
    plain, strategy = sparse_strategy(tiny("search.strategy=adaptive"), [2, 0])
    assert strategy.cycles == (0, 2)
    assert plain.search.strategy == "grid"
    assert strategy.base.name == "adaptive"
