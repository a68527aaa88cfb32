"""The commands as people and programs meet them."""

import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from silo_fit import words
from silo_fit.fit import fit
from silo_fit.tables import read_intervals

ROWS = "0,0.03,0.04,0.05\n3,0.05,0.06,0.07\n7,0.08,0.09,0.1\n"


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("cycle,lo,max_lr,hi\n" + ROWS)
    return path


def test_fit_says_hits_proof_parameters_and_costs(silo_fit):
    code, out, err = silo_fit("fit", "paper:resnet20")
    assert (code, err) == (0, "")
    for part in (
        "5 of 5 intervals hit",
        "proven",
        "beta",
        "not determined",
        "3 of 5",
        "search next",
        "greedy Oracle 160",
    ):
        assert part in " ".join(out.split())


def test_fit_prints_the_whole_comparison(silo_fit):
    printed = " ".join(silo_fit("fit", "paper:resnet20")[1].split())
    for row in words.comparison(fit(read_intervals("paper:resnet20"))):
        assert " ".join(filter(None, row)) in printed


def test_fit_speaks_json(silo_fit, table):
    code, out, _ = silo_fit("fit", table, "--pruning-rate", 0.2, "--seed", 3, "--trials", 5, "--json")
    fields = json.loads(out)
    assert code == 0
    assert (fields["hits"], fields["num_cycles"], fields["certified"]) == (3, 3, True)
    assert (fields["settings"]["seed"], fields["settings"]["trials"]) == (3, 5)


def test_check_counts_the_papers_own_curve(silo_fit):
    arguments = ("check", "paper:resnet20", "--eps", 0.03, "--delta", 0.04, "--q", 1, "--beta", 5)
    _, out, _ = silo_fit(*arguments)
    assert "3 of 5" in out
    fields = json.loads(silo_fit(*arguments, "--json")[1])
    assert [row["cycle"] for row in fields["per_cycle"] if not row["inside"]] == [3, 7]


def test_ranges_and_wide_reach_the_search(silo_fit, table):
    narrow = json.loads(
        silo_fit("fit", table, "--pruning-rate", 0.2, "--q", 1, 2, "--beta", 4, 4.5, "--trials", 2, "--json")[1]
    )
    assert narrow["settings"]["q"] == [1, 2]
    assert 4 <= narrow["curve"]["beta"] <= 4.5
    wide = json.loads(silo_fit("fit", table, "--pruning-rate", 0.2, "--wide", "--trials", 2, "--json")[1])
    assert wide["settings"]["q"] == [0, 10]
    code, _, err = silo_fit("fit", table, "--pruning-rate", 0.2, "--wide", "--q", 1, 2)
    assert code == 2
    assert "--wide" in err


@pytest.mark.parametrize(
    ("rows", "rate", "said"),
    [
        ("0,0.05,0.04,0.03\n", 0.2, "cycle 0: lo 0.05 is above hi"),
        ("2,nan,0.04,0.05\n", 0.2, "cycle 2: lo"),
        ("2,0.03,0.04,inf\n", 0.2, "cycle 2: hi is infinite"),
        ("2,0.03,0.04,0.05\n2,0.03,0.04,0.05\n", 0.2, "cycle 2: there twice"),
        ("-1,0.03,0.04,0.05\n", 0.2, "cycle -1"),
        ("1.5,0.03,0.04,0.05\n", 0.2, "cycle 1.5"),
        ("2,0.03,0.06,0.05\n", 0.2, "cycle 2: the optimum"),
        ("2,abc,0.04,0.05\n", 0.2, "cycle 2: lo is the text 'abc'"),
        ("", 0.2, "no rows"),
        (ROWS, 1.5, "pruning rate"),
    ],
)
def test_refusal_is_one_message_on_stderr_and_code_2(silo_fit, tmp_path, rows, rate, said):
    (tmp_path / "bad.csv").write_text("cycle,lo,max_lr,hi\n" + rows)
    code, out, err = silo_fit("fit", tmp_path / "bad.csv", "--pruning-rate", rate)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_missing_file_folder_or_rate_is_refused_without_a_traceback(silo_fit, table, tmp_path):
    for arguments in (("fit", tmp_path / "no.csv"), ("report", tmp_path), ("fit", table), ("check", table, "--eps", 1, "--delta", 1)):  # fmt: skip  # noqa: E501
        code, _, err = silo_fit(*arguments)
        assert code == 2
        assert err.startswith("error: ")


def test_installed_command_refuses_without_a_traceback(tmp_path):
    command = [sys.executable, "-m", "silo_fit.cli", "fit", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    assert "oracle.parquet" in run.stderr


@pytest.mark.parametrize("command", ["fit", "check", "report"])
def test_help_shows_an_example(silo_fit, command):
    code, out, _ = silo_fit(command, "--help")
    assert code == 0
    assert f"Example: silo-fit {command} " in out


def test_report_lies_beside_the_table_unless_told_otherwise(silo_fit, tmp_path):
    rows = {"cycle": [0, 3], "lo": [0.03, 0.05], "max_lr": [0.04, 0.06], "hi": [0.05, 0.07]}
    described = pa.table(rows).replace_schema_metadata({"pruning_rate": "0.2"})
    pq.write_table(described, tmp_path / "oracle.parquet")
    assert silo_fit("report", tmp_path, "--trials", 2)[0] == 0
    assert (tmp_path / "report.html").stat().st_size > 1e6
    out = silo_fit("report", tmp_path, "--trials", 2, "--out", tmp_path / "new" / "other.html", "--json")[1]
    assert json.loads(out)["bytes"] == (tmp_path / "new" / "other.html").stat().st_size
