import math
from datetime import date

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oracle.errors import TableError
from silo_fit.fit import fit
from silo_fit.tables import parse_intervals, read_intervals

GOOD = {"cycle": [0, 3, 7], "lo": [0.03, 0.05, 0.08], "max_lr": [0.04, 0.06, 0.09], "hi": [0.05, 0.07, 0.1]}


def changed(column, row, value):
    table = {name: list(values) for name, values in GOOD.items()}
    table[column][row] = value
    return pd.DataFrame(table)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("lo", 0.2, "cycle 3: lo 0.2 is above hi"),
        ("lo", math.nan, "cycle 3: lo .*NaN"),
        ("hi", math.inf, "cycle 3: hi is infinite"),
        ("hi", -math.inf, "cycle 3: hi is infinite"),
        ("cycle", 0, "cycle 0: there twice"),
        ("cycle", -1, "row 2: cycle -1"),
        ("cycle", 2.5, "row 2: cycle 2.5"),
        ("cycle", 3.0000001, "row 2: cycle 3.0000001"),
        ("cycle", math.nan, "row 2: cycle .*NaN"),
        ("cycle", 10**12, "row 2: cycle"),
        ("max_lr", 0.08, "cycle 3: the optimum max_lr 0.08 is outside"),
        ("max_lr", 0.0, "cycle 3: the optimum max_lr is 0"),
        ("lo", -0.1, "cycle 3: lo is -0.1"),
        ("lo", "abc", "cycle 3: lo is the text 'abc'"),
        ("cycle", "two", "row 2: cycle is the text 'two'"),
        ("lo", None, "cycle 3: lo is missing"),
        ("lo", True, "cycle 3: lo is True"),
        ("lo", date(2026, 1, 1), r"cycle 3: lo is datetime.date\(2026, 1, 1\); a number is needed"),
        ("hi", [0.1], r"cycle 3: hi is \[0.1\]; a number is needed"),
    ],
)
def test_unusable_value_is_refused_with_its_cycle_or_column(column, value, said):
    with pytest.raises(TableError, match=said):
        fit(changed(column, 1, value), pruning_rate=0.2)


@pytest.mark.parametrize("column", list(GOOD))
def test_missing_column_is_refused_by_name(column):
    table = pd.DataFrame(GOOD).drop(columns=column)
    with pytest.raises(TableError, match=f"no column {column};"):
        fit(table, pruning_rate=0.2)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("num_candidates", 0, "cycle 3: num_candidates is 0; a whole number"),
        ("num_candidates", 2.5, "cycle 3: num_candidates is 2.5; a whole number"),
        ("num_seeds", "five", "cycle 3: num_seeds is the text 'five'"),
        ("lo_on_edge", "perhaps", "cycle 3: lo_on_edge is 'perhaps'; true or false"),
        ("hi_on_edge", None, "cycle 3: hi_on_edge is None; true or false"),
    ],
)
def test_a_column_that_an_oracle_adds_is_checked_too(column, value, said):
    values = [value if position == 1 else 1 for position in range(len(GOOD["cycle"]))]
    with pytest.raises(TableError, match=said):
        parse_intervals(pd.DataFrame(GOOD | {column: pd.Series(values, dtype=object)}), pruning_rate=0.2)


def test_spaces_around_the_names_of_columns_do_not_matter():
    table = pd.DataFrame(GOOD).rename(columns=lambda name: f" {name} ")
    assert parse_intervals(table, pruning_rate=0.2).cycles.tolist() == GOOD["cycle"]


def test_table_without_rows_is_refused():
    with pytest.raises(TableError, match="no rows"):
        fit(pd.DataFrame(GOOD).iloc[:0], pruning_rate=0.2)


def test_column_that_is_there_twice_is_refused():
    table = pd.DataFrame(GOOD)
    with pytest.raises(TableError, match="column lo: there 2 times"):
        fit(pd.concat([table, table[["lo"]]], axis=1), pruning_rate=0.2)


def test_what_is_no_table_is_refused():
    with pytest.raises(TableError, match="not dict"):
        fit(GOOD, pruning_rate=0.2)


@pytest.mark.parametrize("rate", [0, 1, -0.2, 20, math.nan, 1e-12, 1 - 1e-12])
def test_pruning_rate_outside_0_to_1_is_refused(rate):
    with pytest.raises(TableError, match="pruning rate"):
        fit(pd.DataFrame(GOOD), pruning_rate=rate)


def test_missing_pruning_rate_is_refused_and_metadata_supply_it():
    table = pa.table(GOOD)
    with pytest.raises(TableError, match="--pruning-rate"):
        parse_intervals(table)
    described = table.replace_schema_metadata({"pruning_rate": "0.3"})
    assert parse_intervals(described).pruning_rate == 0.3
    with pytest.raises(TableError, match=r"0\.2 was given, but the table was made with 0\.3"):
        parse_intervals(described, pruning_rate=0.2)


def test_percent_remaining_becomes_the_nearest_cycle():
    table = pd.DataFrame(GOOD).drop(columns="cycle").assign(percent_remaining=[100, 51.3, 21.1])
    intervals = parse_intervals(table, pruning_rate=0.2)
    assert intervals.cycles.tolist() == [0, 3, 7]
    assert intervals.warnings == ()


def test_percent_remaining_far_from_a_whole_cycle_is_warned_of():
    table = pd.DataFrame(GOOD).drop(columns="cycle").assign(percent_remaining=[100, 57, 21.1])  # 57%: cycle 2.52
    intervals = parse_intervals(table, pruning_rate=0.2)
    assert [("57%" in warning, "0.48" in warning) for warning in intervals.warnings] == [(True, True)]
    assert intervals.warnings[0] in fit(intervals).notices


@pytest.mark.parametrize("percent", [0, -5, 101])
def test_impossible_percent_remaining_is_refused(percent):
    table = pd.DataFrame(GOOD).drop(columns="cycle").assign(percent_remaining=[100, percent, 21.1])
    with pytest.raises(TableError, match="row 2: percent_remaining"):
        parse_intervals(table, pruning_rate=0.2)


def test_where_cycle_and_percent_remaining_are_given_cycle_is_read_and_that_is_said():
    table = pd.DataFrame(GOOD).assign(percent_remaining=[100, 90, 80])
    intervals = parse_intervals(table, pruning_rate=0.2)
    assert intervals.cycles.tolist() == GOOD["cycle"]
    assert "only cycle is read" in intervals.warnings[0]


def test_csv_parquet_and_folder_read_the_same(tmp_path):
    table = pa.table(GOOD).replace_schema_metadata({"pruning_rate": "0.2", "name": "mine"})
    pq.write_table(table, tmp_path / "oracle.parquet")
    pd.DataFrame(GOOD).to_csv(tmp_path / "mine.csv", index=False)
    read = [
        read_intervals(tmp_path),
        read_intervals(tmp_path / "oracle.parquet"),
        read_intervals(tmp_path / "mine.csv", pruning_rate=0.2),
    ]
    assert len({(*one.cycles, *one.lo, *one.max_lr, *one.hi, one.pruning_rate) for one in read}) == 1
    assert dict(read[0].metadata)["name"] == "mine"


def test_files_that_cannot_be_read_are_refused_without_a_traceback(tmp_path):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "false.parquet").write_text("no parquet")
    (tmp_path / "table.xlsx").write_text("x")
    (tmp_path / "wide.csv").write_text("cycle,lo,max_lr,hi\n0,1,1,1\n", encoding="utf-16")
    (tmp_path / "semicolons.csv").write_text("cycle;lo;max_lr;hi\n0;1;1;1\n")
    (tmp_path / "latin.csv").write_bytes("cycle,lo,max_lr,hi,größe\n0,0.1,0.1,0.1,1\n".encode("latin-1"))
    for name, said in (
        ("empty.csv", "cannot be read"),
        ("false.parquet", "cannot be read"),
        ("table.xlsx", "not a .csv or .parquet"),
        ("nowhere", "no such file"),
        ("", r"no oracle\.parquet"),
        ("latin.csv", "not UTF-8"),
        ("wide.csv", "UTF-8 text with commas"),
        ("semicolons.csv", "parted by commas"),
    ):
        with pytest.raises(TableError, match=said):
            read_intervals(tmp_path / name, pruning_rate=0.2)
    with pytest.raises(TableError, match="paper:vgg19"):
        read_intervals("paper:alexnet")


@pytest.mark.parametrize(("name", "hits"), [("vgg19", 5), ("resnet20", 3)])
def test_the_papers_own_numbers_hit_5_of_5_and_3_of_5(name, hits):
    intervals = read_intervals(f"paper:{name}")
    assert intervals.paper_curve is not None
    assert sum(intervals.inside(intervals.paper_curve)) == hits
