"""A fit knows how sure the intervals are: three kinds of them, what the grid leaves open, the verdict, what is shown."""

import json
import math
import re
from html import unescape

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oracle.errors import TableError
from silo_fit import words
from silo_fit.certify import certify, found_limits
from silo_fit.curve import SiloCurve, shape
from silo_fit.determine import extreme_curves
from silo_fit.estimates import CycleCurve
from silo_fit.fit import check, fit
from silo_fit.report import render
from silo_fit.tables import parse_intervals, read_intervals
from silo_fit.verdict import judge

TRUE = SiloCurve(eps=0.03, delta=0.07, q=1.3, beta=4.5, pruning_rate=0.2)
CYCLES = np.arange(7)
GRID = np.geomspace(0.01, 0.3, 30)
ENDS = ("lo_possible", "lo_sure", "hi_sure", "hi_possible")


def planted(**changes):
    """Nested intervals around a true curve, as an Oracle's table has them."""
    best = TRUE(CYCLES)
    columns = {"cycle": CYCLES, "lo": 0.8 * best, "max_lr": best, "hi": 1.2 * best}
    columns |= {"lo_possible": 0.6 * best, "lo_sure": 0.95 * best, "hi_sure": 1.05 * best, "hi_possible": 1.4 * best}
    return pd.DataFrame(columns | changes)


def probabilities(*, width=0.3, cycles=CYCLES, grid=GRID, p_within=None):
    """A p_within table: 1 within `width` of the true curve (in log), 0 elsewhere, unless given."""
    rows = []
    for cycle in cycles:
        for rate in grid:
            away = abs(math.log(rate / TRUE(float(cycle))))
            p = float(away < width) if p_within is None else p_within
            rows.append(
                {"cycle": cycle, "max_lr": rate, "p_within": p, "curve": 0.9 - 0.02 * away**2, "curve_std": 0.002}
            )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def table():
    """As Arrow, with what an Oracle says of itself."""
    return pa.Table.from_pandas(planted(), preserve_index=False).replace_schema_metadata(
        {"pruning_rate": "0.2", "tolerance": "0.005", "name": "mine"}
    )


@pytest.fixture(scope="module")
def result(table):
    return fit(parse_intervals(table, p_within=probabilities()), trials=10)


@pytest.fixture
def folder(table, tmp_path):
    """A folder with the two tables and nothing else."""
    pq.write_table(table, tmp_path / "oracle.parquet")
    probabilities().to_parquet(tmp_path / "p_within.parquet")
    return tmp_path


# Three kinds of intervals


def test_each_kind_has_its_hits_its_proof_and_its_ranges(result):
    assert [kind.kind for kind in result.kinds] == ["sure", "estimated", "possible"]
    for kind in result.kinds:
        own = result.intervals.of_kind(kind.kind)
        proof = certify(own, q=(0, 3), beta=(3, 6))
        assert kind.hits == sum(own.inside(result.curve))
        assert (kind.reachable_hits, kind.most_hits) == (proof.hits, proof.most_hits) == (7, 7)
        assert kind.certified
        for name, (low, high) in kind.limits.ranges.items():
            assert low <= getattr(TRUE, name) <= high, (kind.kind, name)
    assert result.kinds[1].limits is result.limits


def test_what_is_sure_determines_more_than_what_is_possible(result):
    sure, estimated, possible = (kind.limits.ranges for kind in result.kinds)
    for name in ("eps", "top"):
        lows, highs = zip(*(ranges[name] for ranges in (possible, estimated, sure)), strict=True)
        assert list(lows) == sorted(lows)
        assert list(highs) == sorted(highs, reverse=True)
        assert lows[0] < lows[2]


def test_a_cycle_where_nothing_is_sure_cannot_be_surely_hit():
    lo_sure, hi_sure = 0.95 * TRUE(CYCLES), 1.05 * TRUE(CYCLES)
    lo_sure[[2, 5]] = hi_sure[[2, 5]] = np.nan
    found = fit(planted(lo_sure=lo_sure, hi_sure=hi_sure), pruning_rate=0.2, trials=5)
    sure = found.kinds[0]
    assert (sure.num_intervals, sure.reachable_hits, sure.most_hits) == (5, 5, 5)
    assert words.kinds(found)[0][1] == f"{sure.hits} of 7 (2 cycles have none)"


def test_where_nothing_is_sure_anywhere_that_is_said():
    found = fit(planted(lo_sure=np.nan, hi_sure=np.nan), pruning_rate=0.2, trials=5)
    assert words.kinds(found)[0][1:] == ("0 of 7 (no cycle has any)", "0, proven")
    assert found.kinds[0].limits is None
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["kinds"]["sure"]["ranges"] is None


def test_a_table_without_estimates_has_its_own_intervals_alone(silo_fit, tmp_path):
    plain = planted().drop(columns=list(ENDS))
    found = fit(plain, pruning_rate=0.2, trials=5)
    assert found.intervals.kinds == ("estimated",)
    assert not {"verdict", "kinds", "expected_hits"} & set(found.as_dict())
    plain.to_csv(tmp_path / "plain.csv", index=False)
    out = silo_fit("fit", tmp_path / "plain.csv", "--pruning-rate", 0.2, "--trials", 5)[1]
    assert not re.search("surely|may be inside|p inside|verdict", out)
    assert f"by all curves that hit {found.hits}" in out
    html = render(found).partition('<script id="figures"')[0]
    assert not re.search("surely|may be inside|p inside|How sure|Accuracy curve", html)


def test_columns_of_nulls_are_no_estimates():
    found = parse_intervals(planted(**dict.fromkeys(ENDS, np.nan)), pruning_rate=0.2)
    assert found.estimates is None


def test_csv_and_parquet_with_the_same_columns_say_the_same(table, tmp_path):
    planted().to_csv(tmp_path / "mine.csv", index=False)
    pq.write_table(table, tmp_path / "mine.parquet")
    one, other = (
        fit(read_intervals(tmp_path / name, pruning_rate=0.2), trials=5).as_dict() | {"source": ""}
        for name in ("mine.csv", "mine.parquet")
    )
    assert one["kinds"]["possible"]["hits"] == 7
    assert json.dumps(one) == json.dumps(other)


def test_order_of_rows_does_not_matter_to_estimates(table):
    shuffled = planted().iloc[[3, 0, 6, 1, 5, 2, 4]]
    one, other = (
        fit(parse_intervals(rows, pruning_rate=0.2, p_within=probabilities()), trials=5).as_dict()
        for rows in (planted(), shuffled)
    )
    assert json.dumps(one) == json.dumps(other)


def changed(column, value, row=3):
    values = planted()[column].tolist() if column in planted() else [None] * len(CYCLES)
    values[row] = value
    return planted(**{column: pd.Series(values, dtype=object)})


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("lo_sure", None, "cycle 3: lo_sure is missing, but hi_sure is 0.0"),
        ("hi_possible", math.nan, "cycle 3: hi_possible is missing, but lo_possible is"),
        ("lo_sure", "abc", "cycle 3: lo_sure is the text 'abc'; a number is needed"),
        ("hi_sure", math.inf, "cycle 3: hi_sure is infinite"),
        ("lo_possible", -0.1, "cycle 3: lo_possible is -0.1; a learning rate cannot be below 0"),
        ("lo_sure", 0.9, "cycle 3: lo_sure 0.9 is above hi_sure"),
        ("hi_possible", 0.031, r"cycle 3: what is sure, .* is not within what is possible"),
        ("lo_outside", 0.2, "cycle 3: lo_outside is 0.2; the next candidate below lo"),
        ("hi_outside", 0.001, "cycle 3: hi_outside is 0.001; the next candidate above hi"),
        ("lo_outside", "x", "cycle 3: lo_outside is the text 'x'"),
        ("hi_open", "perhaps", "cycle 3: hi_open is 'perhaps'; true, false or nothing is needed"),
        ("evidence", "some", "cycle 3: evidence is 'some'; assumed, low, measured or nothing is needed"),
        ("seed_se_lo", "much", "cycle 3: seed_se_lo is the text 'much'"),
    ],
)
def test_an_estimate_that_cannot_be_is_refused_with_its_cycle_and_column(column, value, said):
    with pytest.raises(TableError, match=said):
        parse_intervals(changed(column, value), pruning_rate=0.2)


@pytest.mark.parametrize("column", ENDS)
def test_one_end_without_the_other_is_refused_by_name(column):
    with pytest.raises(TableError, match=f"without {column}; give both, or neither"):
        parse_intervals(planted().drop(columns=column), pruning_rate=0.2)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("p_within", 1.2, "p_within, cycle 0, max_lr 0.01: p_within is 1.2; a probability"),
        ("p_within", None, "p_within, cycle 0: p_within is missing"),
        ("max_lr", 0.0, "p_within, cycle 0: max_lr is 0"),
        ("max_lr", GRID[1], "p_within, cycle 0: max_lr 0.011.* is there twice"),
        ("curve_std", -1.0, "cycle 0, max_lr 0.01: curve_std is -1"),
        ("cycle", 0.5, "p_within, cycle 0.5: a cycle is a whole number"),
    ],
)
def test_a_probability_that_cannot_be_is_refused(column, value, said):
    rows = probabilities()
    rows[column] = [value, *rows[column][1:]]
    with pytest.raises(TableError, match=said):
        parse_intervals(planted(), pruning_rate=0.2, p_within=rows)
    with pytest.raises(TableError, match=f"p_within: no column {column}"):
        parse_intervals(planted(), pruning_rate=0.2, p_within=rows.drop(columns=column))


# What the grid leaves open


def coarse(*, neighbours=True, factor=4.0):
    """Intervals of one candidate each, on a grid with this factor between candidates."""
    best = np.array([0.064 / factor, 0.064, 0.064])
    columns = {"cycle": [0, 20, 30], "lo": best, "max_lr": best, "hi": best}
    beyond = {"lo_outside": best / factor, "hi_outside": best * factor}
    return pd.DataFrame(columns | (beyond if neighbours else {}))


def test_ranges_reach_to_the_next_candidates():
    """Cycle 0 holds eps alone, and its interval may end anywhere between the candidates next to its only one."""
    found = fit(coarse(), pruning_rate=0.2, trials=5)
    low, high = found.ranges["eps"]
    assert low == pytest.approx(0.064 / 16, rel=0.01)  # ends are told to a thousandth of their range
    assert high == pytest.approx(0.064, rel=0.01)
    assert found.determined["eps"] == "determined to [0.004, 0.064]"


def test_ranges_of_what_is_sure_or_possible_reach_to_the_next_candidates_too():
    """At cycle 0, where the curve is eps, a single candidate is sure; the next ones are not, and in between is unknown."""
    grid = np.array([0.01, 0.02, 0.04, 0.08, 0.16])
    ends = {"lo_possible": 0.02, "lo_sure": 0.04, "hi_sure": 0.04, "hi_possible": 0.08}
    table = pd.DataFrame({"cycle": [0], "lo": [0.02], "max_lr": [0.04], "hi": [0.04]} | ends)
    found = fit(
        parse_intervals(table, pruning_rate=0.2, p_within=probabilities(cycles=[0], grid=grid)), q=(1, 1), trials=2
    )
    ranges = {kind.kind: kind.limits.ranges["eps"] for kind in found.kinds}
    assert ranges["sure"] == pytest.approx((0.02, 0.08), rel=0.01)  # ends are told to a thousandth of their range
    assert ranges["possible"] == pytest.approx((0.01, 0.16), rel=0.01)
    assert ranges["estimated"] == pytest.approx((0.02, 0.04), rel=0.01)  # which names no neighbours


def test_hits_stay_those_of_the_closed_intervals():
    finer, plain = (fit(coarse(neighbours=known), pruning_rate=0.2, trials=5) for known in (True, False))
    assert (finer.curve, finer.hits, finer.most_hits, finer.per_cycle) == (plain.curve, plain.hits, plain.most_hits, plain.per_cycle)  # fmt: skip  # noqa: E501
    assert finer.ranges["eps"][0] < 0.5 * plain.ranges["eps"][0]


@pytest.mark.parametrize("seed", range(4))
def test_no_curve_with_as_many_hits_leaves_the_ranges_wherever_intervals_end_between_candidates(seed):
    rng = np.random.default_rng(seed)
    grid = np.geomspace(0.005, 0.5, 16)
    cycles = np.arange(8)
    best = TRUE(cycles) * np.exp(0.25 * rng.normal(size=8))
    at = np.abs(np.log(grid[:, None] / best)).argmin(axis=0)
    first, last = at - rng.integers(0, 2, 8), at + rng.integers(0, 2, 8)
    rows = pd.DataFrame(
        {"cycle": cycles, "lo": grid[first], "max_lr": grid[at], "hi": grid[last],
         "lo_outside": grid[first - 1], "hi_outside": grid[last + 1]}
    )  # fmt: skip
    found = fit(rows, pruning_rate=0.2, trials=10)
    lo = grid[first] * (grid[first - 1] / grid[first]) ** rng.uniform(0, 1, 8)  # where the intervals truly end
    hi = grid[last] * (grid[last + 1] / grid[last]) ** rng.uniform(0, 1, 8)
    num = 40_000
    q, beta = rng.uniform(0, 3, num), rng.uniform(3, 6, num)
    eps, top = (np.exp(rng.uniform(math.log(0.005), math.log(0.5), num)) for _ in range(2))
    values = eps[:, None] + (top - eps)[:, None] * shape(cycles, q[:, None], beta[:, None], 0.2)
    good = (top >= eps) & (((lo <= values) & (values <= hi)).sum(axis=1) >= found.hits)
    numbers = {"eps": eps, "delta": top - eps, "top": top, "q": q, "beta": beta}
    assert good.sum() > 20
    outside_closed = 0
    for name, (low, high) in found.ranges.items():
        assert (numbers[name][good] >= low).all(), name
        assert (numbers[name][good] <= (math.inf if high is None else high)).all(), name
    plain = fit(rows.drop(columns=["lo_outside", "hi_outside"]), pruning_rate=0.2, trials=10)
    for name in ("eps", "top"):
        low, high = plain.ranges[name]
        outside_closed += int(((numbers[name][good] < low) | (numbers[name][good] > (high or math.inf))).sum())
    assert outside_closed > 0  # else the test could not fail


def test_extreme_curves_hold_all_with_fewer_hits_too():
    table = parse_intervals(planted(), pruning_rate=0.2)
    values, rng = shape(CYCLES, 1.0, 5.0, 0.2), np.random.default_rng(0)
    lo, hi = found_limits(table)
    for hits in (3, 5, 7):
        _, eps, delta = extreme_curves(values[None], lo, hi, hits)
        heights = eps[:, None] + delta[:, None] * values
        assert (((lo - 1e-12 <= heights) & (heights <= hi + 1e-12)).sum(axis=1) >= hits).all()  # rounding
        tried = rng.uniform(0, 1, (20_000, 2))
        found = tried[:, :1] + tried[:, 1:] * values
        good = found[((lo <= found) & (found <= hi)).sum(axis=1) >= hits]
        assert len(good) > 10
        assert (good >= heights.min(axis=0) - 1e-12).all()
        assert (good <= heights.max(axis=0) + 1e-12).all()


def test_intervals_of_one_candidate_are_warned_of_and_named():
    (known,) = (notice for notice in fit(coarse(), pruning_rate=0.2, trials=5).notices if "single" in notice)
    assert known.startswith("cycle 0, 20, 30: the interval is a single candidate")
    assert "allow for that" in known
    mixed = coarse()
    mixed.loc[1, "lo_outside"] = None
    said = [notice for notice in fit(mixed, pruning_rate=0.2, trials=5).notices if "single" in notice]
    assert [notice.partition(":")[0] for notice in said] == ["cycle 0, 30", "cycle 20"]
    assert "cannot be told" in said[1]


def test_ranges_of_intervals_without_known_neighbours_are_said_to_hold_for_exact_ends(silo_fit, tmp_path):
    coarse(neighbours=False).to_csv(tmp_path / "coarse.csv", index=False)
    fields = json.loads(silo_fit("fit", tmp_path / "coarse.csv", "--pruning-rate", 0.2, "--trials", 5, "--json")[1])
    assert fields["determined"]["eps"] == "determined to [0.016, 0.016] if the intervals are exact"
    assert any("cycle 0, 20, 30" in notice and "cannot be told" in notice for notice in fields["notices"])
    told = silo_fit("check", tmp_path / "coarse.csv", "--pruning-rate", 0.2, "--eps", 0.01, "--delta", 0.05)[1]
    assert "cycle 0, 20, 30: the interval is a single max_lr" in told
    assert not any("single" in notice for notice in fit(read_intervals("paper:vgg19"), trials=5).notices)


def test_a_single_max_lr_that_is_sure_is_warned_of_where_the_next_candidates_are_not_known():
    rows, best = planted(), TRUE(CYCLES)
    rows.loc[2, ["lo_sure", "hi_sure"]] = best[2]
    for p_within, warned in ((None, True), (probabilities(), False)):
        found = fit(parse_intervals(rows, pruning_rate=0.2, p_within=p_within), trials=2)
        said = "cycle 2: what is surely inside is a single max_lr"
        assert any(notice.startswith(said) for notice in found.notices) is warned
        _, table = words.parameter_table(found)
        assert [cell.endswith(" if exact") for cell in table[0][2:]] == [warned, False, False]


def test_neighbours_are_taken_from_the_estimates_grid_where_all_of_it_was_tried():
    index = 12
    rows = pd.DataFrame({"cycle": [0], "lo": [GRID[index]], "max_lr": [GRID[index]], "hi": [GRID[index + 1]]})
    for num, lo in ((len(GRID), GRID[index - 1]), (len(GRID) - 1, GRID[index])):
        wide = parse_intervals(
            rows.assign(num_candidates=num), pruning_rate=0.2, p_within=probabilities(cycles=[0])
        ).widened()
        assert wide.lo[0] == lo
        assert wide.hi[0] == (GRID[index + 2] if num == len(GRID) else GRID[index + 1])


# The verdict


def curve_of(p, rates=(0.01, 0.04, 0.16)):
    num = len(rates)
    return CycleCurve(max_lr=np.array(rates), p_within=np.array(p), mean=np.linspace(0.9, 0.8, num), std=np.zeros(num))


def test_p_within_is_linear_in_log_max_lr_and_0_beyond_the_candidates():
    curve = curve_of([0.2, 1.0, 0.4])
    assert [curve.p_at(rate) for rate in (0.01, 0.02, 0.04, 0.08, 0.16)] == pytest.approx([0.2, 0.6, 1.0, 0.7, 0.4])
    assert curve.p_at(0.01 * 2**0.5) == pytest.approx(0.4)
    assert [curve.p_at(rate) for rate in (0, 0.009, 0.17)] == [0, 0, 0]
    assert [curve.p_at_most(rate) for rate in (0, 0.009, 0.17)] == [0.2, 0.2, 0.4]
    assert curve.p_at(0.16 * (1 + 1e-12)) == 0.4  # rounding moves no value off the grid
    assert curve.below_best(0.04) == pytest.approx(0.05)
    assert curve.below_best(0.17) is None


def judged(ps, *, value=0.05, grid=(0.04, 0.05, 0.06)):
    """A constant curve, with these probabilities at its value; None: nothing is known of the cycle."""
    num = len(ps)
    table = pd.DataFrame({"cycle": range(num), "lo": 0.04, "max_lr": 0.05, "hi": 0.06})
    rows = [
        {"cycle": cycle, "max_lr": rate, "p_within": p, "curve": 0.9, "curve_std": 0.01}
        for cycle, p in enumerate(ps)
        if p is not None
        for rate in grid
    ]
    intervals = parse_intervals(table, pruning_rate=0.2, p_within=pd.DataFrame(rows))
    return judge(intervals, SiloCurve(eps=value, delta=0, q=1, beta=5, pruning_rate=0.2), is_fitted=False)


def test_expected_hits_are_the_sum_of_p_within():
    assert judged([0.9, 0.25, 1.0, 0.5]).expected_hits == pytest.approx(2.65)


@pytest.mark.parametrize(
    ("ps", "outcome"),
    [
        ([1.0, 1.0, 0.95 + 1e-9, 1.0], "confirmed"),
        ([0.99, 0.98, 0.99, 1.0], "confirmed"),
        ([0.99, 0.98, 0.99, 0.985], "open"),
        ([1.0, 1.0, 0.94, 1.0], "open"),
        ([1.0, 0.05 / 4 + 1e-9, 1.0, 1.0], "open"),
        ([1.0, 0.05 / 4 - 1e-9, 1.0, 1.0], "contradicted"),
        ([0.02], "contradicted"),
        ([0.02, 1.0], "contradicted"),
        ([0.02, 1.0, 1.0], "open"),
        ([1.0, None, 1.0], "open"),
    ],
)
def test_verdict_is_by_union_bounds(ps, outcome):
    assert judged(ps).outcome == outcome


def test_verdict_is_one_sentence_that_names_the_cycles_and_the_expected_hits():
    said = judged([1.0, 0.001, 1.0, 0.0]).sentence
    assert said.startswith("contradicted: at cycles 1 and 3 ")
    assert "2 of 4 hits are expected" in said
    assert judged([1.0, 1.0]).sentence.startswith("confirmed: the curve lies in all 2 intervals with probability 0.999")
    assert "0.97 or more" in judged([0.98, 0.99]).sentence
    assert judged([0.5, 0.75]).sentence == (
        "the data do not tell whether the curve lies in all 2 intervals; 1.25 of 2 hits are expected"
    )


def test_beyond_the_candidates_counts_as_a_miss_but_contradicts_only_where_the_last_one_does():
    for last, outcome in ((0.5, "open"), (0.001, "contradicted")):
        verdict = judged([last, last], value=0.1)
        assert (verdict.expected_hits, verdict.outcome) == (0, outcome)
        assert "beyond the candidates at cycles 0 and 1" in words.remarks(verdict)


def test_a_cycle_without_estimates_counts_as_a_miss_and_is_named():
    verdict = judged([1.0, None, 1.0])
    assert verdict.expected_hits == 2
    assert "nothing was estimated at cycle 1" in words.remarks(verdict)


def test_only_a_fitted_curve_is_said_to_be_fitted_to_these_cycles(result, silo_fit, folder):
    assert result.verdict.remarks == ("the curve was fitted to these same cycles, so this is no test on new data",)
    numbers = ("--eps", 0.03, "--delta", 0.07, "--q", 1.3, "--beta", 4.5)
    fitted, given = silo_fit("fit", folder, "--trials", 5)[1], silo_fit("check", folder, *numbers)[1]
    assert "fitted to these same cycles" in fitted
    assert "fitted to these" not in given
    assert given.splitlines()[1].startswith("confirmed: the curve lies in all 7 intervals")


def test_one_seed_is_said_to_leave_the_noise_to_be_assumed(table):
    for evidence, said in (("assumed", True), ("low", False)):
        rows = planted(evidence=evidence)
        found = parse_intervals(rows, pruning_rate=0.2, p_within=probabilities())
        assert ("one seed tells nothing of noise" in words.remarks(judge(found, TRUE, is_fitted=False))) is said


# What is shown


def test_json_has_the_verdict_the_kinds_and_the_ends_of_each_cycle(silo_fit, folder):
    fields = json.loads(silo_fit("fit", folder, "--trials", 5, "--json")[1])
    assert fields["verdict"].startswith("confirmed")
    assert fields["outcome"] == "confirmed"
    assert fields["expected_hits"] == 7
    assert list(fields["kinds"]) == ["sure", "estimated", "possible"]
    assert fields["kinds"]["possible"]["certified"] is True
    assert fields["per_cycle"][2]["hi_possible"] == pytest.approx(1.4 * TRUE(2))
    assert fields["per_cycle"][2]["p_within"] == 1
    given = json.loads(silo_fit("check", folder, "--eps", 0.3, "--delta", 0, "--json")[1])
    assert given["outcome"] == "contradicted"
    assert given["contradicted_at"] == list(range(7))
    assert given["kinds"]["estimated"] == {"hits": 0, "num_intervals": 7}


def test_terminal_begins_with_the_verdict_and_shows_the_kinds_side_by_side(silo_fit, folder):
    code, out, err = silo_fit("fit", folder, "--trials", 5)
    assert (code, err) == (0, "")
    assert out.splitlines()[1].startswith("confirmed: ")
    printed = " ".join(out.split())
    assert "surely inside 7 of 7 7, proven" in printed
    assert "may be inside 7 of 7 7, proven" in printed
    assert "p inside" in printed


def test_a_cycle_without_probabilities_or_beyond_them_is_shown_as_such():
    found = parse_intervals(planted(), pruning_rate=0.2, p_within=probabilities(cycles=[0, 1], grid=[0.02, 0.04, 0.05]))
    curve = SiloCurve(eps=0.04, delta=6, q=0, beta=3, pruning_rate=0.2)
    head, rows = words.certainty_table(found, check(found, curve), judge(found, curve, is_fitted=False))
    assert head[-2:] == ["p inside", "points lost"]
    assert [row[-2] for row in rows[:3]] == ["1.000", "0.000 (beyond)", "-"]
    assert [row[-1] for row in rows[1:3]] == ["-", "-"]


def test_page_begins_with_the_verdict_and_holds_a_curve_of_each_cycle(result):
    html = render(result)
    assert unescape(html).index("Confirmed: the curve lies in all 7") < html.index("<strong>7 of 7 intervals hit")
    assert re.findall(r"<option[^>]*>(\d+)</option>", html) == [str(cycle) for cycle in CYCLES]
    figures = json.loads(html.split('<script id="figures" type="application/json">')[1].split("</script>")[0])
    assert len(figures["accuracy"]) == 7
    names = [trace.get("name") for trace in figures["curve"]["data"]]
    assert "surely inside" in names
    assert "may be inside" in names
    traces = {trace["name"]: trace for trace in figures["accuracy"][4]["data"]}
    assert traces["SILO"]["x"] == [result.per_cycle[4].silo] * 2
    assert traces["half a point below its best"]["y"][0] == pytest.approx(100 * (0.9 - 0.005), abs=0.05)
    assert len(figures["accuracy"][4]["layout"]["shapes"]) == 2


def test_probabilities_that_are_not_there_are_said_to_be_missing(folder, silo_fit):
    (folder / "p_within.parquet").unlink()
    fields = json.loads(silo_fit("fit", folder, "--trials", 5, "--json")[1])
    assert "verdict" not in fields
    assert any("p_within.parquet" in notice for notice in fields["notices"])
    assert fields["kinds"]["sure"]["num_intervals"] == 7
