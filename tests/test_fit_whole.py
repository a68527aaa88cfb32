"""The whole fit: what it promises to people and to programs."""

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import optuna
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle.errors import CurveError
from silo_fit import fit as fit_module
from silo_fit import words
from silo_fit.complexity import trainings
from silo_fit.curve import SiloCurve
from silo_fit.fit import check, fit
from silo_fit.tables import parse_intervals, read_intervals

TABLE = pd.DataFrame(
    {
        "cycle": [0, 2, 3, 4, 5, 6, 9, 12],
        "lo": [0.018, 0.019, 0.024, 0.036, 0.050, 0.060, 0.070, 0.071],
        "max_lr": [0.020, 0.022, 0.028, 0.042, 0.060, 0.072, 0.078, 0.079],
        "hi": [0.022, 0.025, 0.034, 0.052, 0.070, 0.080, 0.090, 0.091],
    }
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def result():
    return fit(TABLE, pruning_rate=0.2)


def test_import_of_fit_loads_neither_torch_nor_ray():
    code = "import silo_fit.fit, sys; print([name for name in ('torch', 'ray', 'optuna') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_fitting_and_reading_load_neither_torch_nor_ray(tmp_path):
    TABLE.to_csv(tmp_path / "table.csv", index=False)
    code = (
        "import sys; from silo_fit.cli import app; "
        f"app(['fit', {str(tmp_path / 'table.csv')!r}, '--pruning-rate', '0.2', '--json'], standalone_mode=False); "
        "print([name for name in ('torch', 'ray') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip().endswith("[]")


@pytest.mark.parametrize("name", ["vgg19", "resnet20"])
def test_all_five_intervals_of_the_papers_tables_are_hit_and_proven(name):
    best = fit(read_intervals(f"paper:{name}"))
    assert (best.hits, best.most_hits, best.certified) == (5, 5, True)
    assert best.rivals.paper_default.hits == 5
    assert best.rivals.whole_q_hits == 5
    assert "not determined" in best.determined["beta"]


def test_fit_counts_what_it_says(result):
    values = result.curve(TABLE["cycle"])
    inside = (values >= TABLE["lo"]) & (values <= TABLE["hi"])
    assert result.hits == inside.sum()
    assert [row.inside for row in result.per_cycle] == inside.tolist()
    assert result.num_cycles == 8
    assert result.depth == min(row.depth for row in result.per_cycle if row.inside)
    assert result.certified == (result.hits == result.most_hits)
    for row in result.per_cycle:
        assert row.margin == pytest.approx(min(row.silo - row.lo, row.hi - row.silo))
    for name, (low, high) in result.ranges.items():
        assert low <= getattr(result.curve, name) <= high


def test_half_way_and_rise_are_those_of_the_curve(result):
    start, end = result.rise
    for cycle, part in ((start, 0.05), (result.curve.half_way, 0.5), (end, 0.95)):
        assert (result.curve(cycle) - result.curve.eps) / result.curve.delta == pytest.approx(part)


def test_planted_curve_is_recovered():
    """Noise-free optima on a true curve: least squares lead back to it, as far as the curve determines its numbers."""
    true = SiloCurve(eps=0.03, delta=0.07, q=1.7, beta=4.4, pruning_rate=0.2)
    cycles = np.arange(16)
    best = true(cycles)
    table = pd.DataFrame({"cycle": cycles, "lo": 0.9 * best, "max_lr": best, "hi": 1.1 * best})
    found = fit(table, pruning_rate=0.2, trials=100)
    assert found.hits == 16
    assert found.curve(cycles) == pytest.approx(best, rel=0.01)  # a hundred steps of refinement come closer than that
    assert found.curve.q == pytest.approx(1.7, abs=0.05)


@given(st.permutations(range(len(TABLE))), st.sampled_from([1e-4, 1 / 3, 1.7, math.pi, 1e3, 12345.678]))
@settings(max_examples=12, deadline=None)
@pytest.mark.slow
def test_order_of_rows_and_unit_of_rates_do_not_matter(order, unit):
    other = TABLE.iloc[list(order)].copy()
    other[["lo", "max_lr", "hi"]] *= unit
    first, second = fit(TABLE, pruning_rate=0.2, trials=15), fit(other, pruning_rate=0.2, trials=15)
    assert (first.hits, first.most_hits) == (second.hits, second.most_hits)
    for name in ("eps", "delta", "top"):
        assert getattr(second.curve, name) / unit == pytest.approx(getattr(first.curve, name), rel=1e-9)
        assert [end / unit for end in second.ranges[name]] == pytest.approx(first.ranges[name], rel=1e-9)
    for name in ("q", "beta"):
        assert getattr(second.curve, name) == pytest.approx(getattr(first.curve, name), rel=1e-9)
        assert second.ranges[name] == pytest.approx(first.ranges[name], rel=1e-9)


def test_same_seed_gives_the_same_bits_and_arrow_the_same_as_pandas(result):
    again = fit(pa.Table.from_pandas(TABLE, preserve_index=False), pruning_rate=0.2)
    assert json.dumps(again.as_dict()) == json.dumps(result.as_dict())


def test_another_seed_tries_other_points(result):
    assert (
        fit(TABLE, pruning_rate=0.2, seed=1, trials=20).curve != fit(TABLE, pruning_rate=0.2, seed=2, trials=20).curve
    )


def test_json_has_no_infinity_and_the_names_of_the_fields(result):
    fields = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    for name in ("hits", "num_cycles", "most_hits", "certified", "depth", "per_cycle", "ranges", "curve"):
        assert name in fields
    assert set(fields["ranges"]) == {"eps", "delta", "top", "q", "beta"}
    assert fields["curve"] == result.curve.as_dict()
    assert [row["cycle"] for row in fields["per_cycle"]] == TABLE["cycle"].tolist()


def test_names_in_json_have_not_changed(result):
    assert list(result.as_dict()) == [
        "curve", "hits", "num_cycles", "most_hits", "certified", "depth", "per_cycle", "ranges", "determined", "half_way",
        "rise", "s_shape_supported", "constant_max_lr", "constant_hits", "whole_q_hits", "wide_hits", "wide_certified",
        "wide_ranges", "paper_default", "paper_curve", "found_by", "next_cycle", "edge_limited", "trainings", "settings",
        "versions", "source", "notices",
    ]  # fmt: skip


def test_a_gap_in_the_proof_is_said(result):
    short = dataclasses.replace(result, most_hits=result.hits + 2)
    assert not short.certified
    assert "a gap of 2 remains" in words.proof(short)
    assert any("not certified" in notice for notice in short.notices)
    assert words.proof(result).startswith("proven: no curve with q in [0, 3] and beta in [3, 6]")


@pytest.mark.parametrize("kind", ["flat", "falling"])
def test_flat_and_falling_tables_support_no_s_shape(kind):
    best = {"flat": np.full(8, 0.05), "falling": np.linspace(0.09, 0.02, 8)}[kind]
    table = pd.DataFrame({"cycle": range(8), "lo": 0.9 * best, "max_lr": best, "hi": 1.1 * best})
    found = fit(table, pruning_rate=0.2)
    assert not found.s_shape_supported
    assert found.rivals.constant_hits == found.hits == found.most_hits
    hit = ((table["lo"] <= found.rivals.constant_max_lr) & (found.rivals.constant_max_lr <= table["hi"])).sum()
    assert hit == found.rivals.constant_hits
    assert any("no S-shape supported" in notice for notice in found.notices)


def test_rising_table_supports_an_s_shape(result):
    assert result.s_shape_supported
    assert not any("S-shape" in notice for notice in result.notices)


def test_zero_widths_on_a_true_curve_are_all_hit_on_the_edge():
    true = SiloCurve(eps=0.03, delta=0.07, q=1.3, beta=4.1, pruning_rate=0.2)
    best = true(np.arange(9))
    found = fit(pd.DataFrame({"cycle": range(9), "lo": best, "max_lr": best, "hi": best}), pruning_rate=0.2)
    assert (found.hits, found.certified, found.depth) == (9, True, 0.0)
    assert all(row.on_edge for row in found.per_cycle)
    assert any("on the edge" in notice for notice in found.notices)


def test_intervals_that_touch_are_solved_on_the_edge():
    table = pd.DataFrame(
        {"cycle": [3, 4, 5], "lo": [0.05, 0.06, 0.05], "max_lr": [0.05, 0.07, 0.06], "hi": [0.06, 0.08, 0.06]}
    )
    found = fit(table, pruning_rate=0.2)
    assert (found.hits, found.certified) == (3, True)
    assert {row.cycle for row in found.per_cycle if row.on_edge} >= {4, 5}


def test_certificates_curve_is_used_and_said_where_optuna_ends_below_it():
    """A point-like optimum that fifteen trials cannot meet."""
    true = SiloCurve(eps=0.03, delta=0.07, q=2.3, beta=5.1, pruning_rate=0.2)
    best = true(np.arange(12))
    table = pd.DataFrame({"cycle": range(12), "lo": best * 0.9999, "max_lr": best, "hi": best * 1.0001})
    found = fit(table, pruning_rate=0.2, trials=15)
    assert found.found_by == "certificate"
    assert (found.hits, found.most_hits) == (12, 12)
    assert any("Optuna" in notice for notice in found.notices)


def test_wider_range_that_hits_more_is_said_and_not_taken():
    true = SiloCurve(eps=0.02, delta=0.08, q=6.0, beta=8.0, pruning_rate=0.2)
    best = true(np.arange(16))
    table = pd.DataFrame({"cycle": range(16), "lo": 0.97 * best, "max_lr": best, "hi": 1.03 * best})
    found = fit(table, pruning_rate=0.2)
    assert found.curve.q <= 3
    assert 3 <= found.curve.beta <= 6
    assert found.rivals.wide_hits == 16 > found.hits
    assert any("wider range hits more: 16" in notice for notice in found.notices)
    wide = fit(table, pruning_rate=0.2, q=(0, 10), beta=(1, 12))
    assert wide.hits == 16
    assert any("beyond the paper's recommendation" in notice for notice in wide.notices)


def test_next_cycle_is_an_unsearched_one_where_the_best_curves_differ(result):
    following = result.next_cycle
    assert following.cycle not in set(TABLE["cycle"])
    low, high = result.best_curves.band(np.array([float(following.cycle)]))
    assert (following.low, following.high) == (low[0], high[0])


def test_next_cycle_lies_in_the_rise_however_far_the_last_one_is():
    table = pd.DataFrame({"cycle": [0, 2, 5000], "lo": [0.01, 0.01, 0.05], "max_lr": [0.02, 0.02, 0.06], "hi": [0.03, 0.03, 0.07]})  # fmt: skip  # noqa: E501
    found = fit(table, pruning_rate=0.2)
    low, high = found.best_curves.band(np.arange(3.0, 12.0))
    assert found.next_cycle.cycle == 3 + np.argmax((high - low) / (high + low))


def test_a_rise_that_is_not_over_is_said_and_its_height_has_no_upper_bound():
    table = pd.DataFrame({"cycle": [0, 1, 2], "lo": [0.01, 0.015, 0.04], "max_lr": [0.02, 0.02, 0.05], "hi": [0.03, 0.03, 0.06]})  # fmt: skip  # noqa: E501
    found = fit(table, pruning_rate=0.2)
    assert found.hits == 3
    assert found.ranges["delta"][1] is None
    assert "no upper bound" in found.determined["delta"]
    assert any("the rise is not over at cycle 2" in notice for notice in found.notices)
    assert not any("the rise is not over" in notice for notice in fit(TABLE, pruning_rate=0.2).notices)


@pytest.mark.parametrize("name", ["vgg19", "resnet20"])
@pytest.mark.slow
def test_another_seed_ends_at_the_same_curve(name):
    first, *others = (fit(read_intervals(f"paper:{name}"), seed=seed).curve.as_dict() for seed in range(4))
    for other in others:
        assert other == pytest.approx(first, rel=1e-3)  # the loss is flat to 1e-9 that near its least


def test_next_cycle_is_none_where_all_are_searched():
    best = SiloCurve(eps=0.03, delta=0.07, q=1, beta=5, pruning_rate=0.2)(np.arange(12))
    table = pd.DataFrame({"cycle": range(12), "lo": 0.9 * best, "max_lr": best, "hi": 1.1 * best})
    assert fit(table, pruning_rate=0.2).next_cycle is None


def test_intervals_on_the_grids_edge_are_named():
    assert fit(TABLE, pruning_rate=0.2).edge_limited is None
    flagged = TABLE.assign(lo_on_edge=False, hi_on_edge=[False] * 6 + [True] * 2).iloc[::-1]
    assert fit(flagged, pruning_rate=0.2).edge_limited == (9, 12)


def test_training_counts_are_those_of_20_candidates_and_25_cycles():
    cycles = [0, 3, 4, 6, 10, 24]
    table = pd.DataFrame({"cycle": cycles, "lo": 1, "max_lr": 2, "hi": 3, "num_candidates": 20, "num_seeds": 1})
    counts = trainings(parse_intervals(table, pruning_rate=0.2))
    assert counts["greedy_oracle"] == counts["silo_one_by_one"] == 500
    assert counts["joint_oracle"] == pytest.approx(3.4e32, rel=0.02)
    assert (counts["silo_grid"], counts["silo_one_network"], counts["sparse_oracle"]) == (10_000, 64, 139)
    seeds = trainings(parse_intervals(table.assign(num_seeds=5), pruning_rate=0.2))
    assert seeds["greedy_oracle"] == 2500


def test_a_joint_oracle_beyond_all_numbers_is_not_counted():
    table = pd.DataFrame({"cycle": [0, 400], "lo": 1, "max_lr": 2, "hi": 3})
    found = fit(table, pruning_rate=0.2, trials=2)
    assert "joint_oracle" not in found.trainings
    assert words.trainings(found)[1]["joint Oracle"] == "over 1e300"


def test_optuna_keeps_the_callers_verbosity_and_prints_nothing(capfd):
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    try:
        fit(TABLE, pruning_rate=0.2, trials=3)
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    finally:
        optuna.logging.set_verbosity(optuna.logging.INFO)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "options", [{"trials": 0}, {"seed": -1}, {"seed": 2**32}, {"q": (3, 0)}, {"beta": (0, 1)}, {"q": (math.nan, 1)}]
)
def test_impossible_options_are_refused(options):
    with pytest.raises(CurveError, match=next(iter(options))):
        fit(TABLE, pruning_rate=0.2, **options)


def test_range_of_one_point_fits_that_point():
    found = fit(TABLE, pruning_rate=0.2, q=(1, 1), beta=(5, 5))
    assert (found.curve.q, found.curve.beta) == (1, 5)
    assert found.certified


def test_check_forgives_a_billionth_of_the_largest_hi_and_no_more():
    table = parse_intervals(TABLE, pruning_rate=0.2)
    for excess, inside in ((0.9e-9, True), (1.1e-9, False)):
        curve = SiloCurve(eps=0.022 + excess * 0.091, delta=0, q=1, beta=5, pruning_rate=0.2)
        assert check(table, curve)[0].inside is inside


@pytest.mark.slow
def test_two_hundred_cycles_are_fitted():
    rng = np.random.default_rng(0)
    best = SiloCurve(eps=0.03, delta=0.07, q=2, beta=4, pruning_rate=0.05)(np.arange(200)) * np.exp(0.05 * rng.normal(size=200))  # fmt: skip  # noqa: E501
    table = pd.DataFrame({"cycle": range(200), "lo": 0.93 * best, "max_lr": best, "hi": 1.07 * best})
    found = fit(table, pruning_rate=0.05)
    assert found.certified
    assert found.hits > 150


def test_fields_that_others_rely_on_are_there(result):
    names = ("curve", "hits", "num_cycles", "most_hits", "certified", "depth", "per_cycle", "ranges")
    assert all(hasattr(result, name) for name in (*names, "determined", "notices", "as_dict"))
    assert fit_module.fit.__kwdefaults__ == {"pruning_rate": None, "q": (0, 3), "beta": (3, 6), "seed": 0, "trials": 50}


def test_of_curves_that_fit_as_well_the_one_that_rises_least_is_chosen():
    """Points at cycles 0 and 2, or 1 and 2, can be met exactly: by a rise that has hardly begun, or by a constant."""
    points = [0.095, 0.2, 0.2]
    best = fit(pd.DataFrame({"cycle": [0, 1, 2], "lo": points, "max_lr": points, "hi": points}), pruning_rate=0.2)
    assert best.hits == 2
    assert best.curve.top == pytest.approx(0.2)
