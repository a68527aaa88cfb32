"""How sure a run is, in words and in a table that fits the terminal."""

from typing import Any

import pytest
from rich.console import Console

from oracle.runs.tables import ORACLE
from oracle.view.terminal import cycle_table
from oracle.view.words import advice, how_sure, overall

ROW: dict[str, Any] = dict.fromkeys(ORACLE.names) | {
    "cycle": 4,
    "max_lr": 0.05,
    "lo": 0.02,
    "hi": 0.12,
    "lo_on_edge": False,
    "hi_on_edge": False,
    "weights_remaining": 0.4096,
    "val_accuracy": 0.9728,
    "val_accuracy_std": 0.0067,
    "test_accuracy": 0.9638,
    "test_accuracy_std": 0.01,
    "curve_max_lr": 0.05,
    "lo_possible": 0.009,
    "lo_sure": 0.02,
    "hi_sure": 0.12,
    "hi_possible": 0.22,
    "lo_open": False,
    "hi_open": False,
    "evidence": "measured",
    "seed_se_lo": 0.004,
    "image_se_lo": 0.001,
    "seed_se_hi": 0.002,
    "image_se_hi": 0.003,
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "any max_lr from 0.02 to 0.12 is surely within half a point; 0.009 to 0.22 may be"),
        ({"hi_sure": 0.02}, "max_lr 0.02 is surely within half a point; 0.009 to 0.22 may be"),
        ({"lo_sure": None, "hi_sure": None}, "no max_lr is surely within half a point; 0.009 to 0.22 may be"),
        (
            {"hi_open": True},
            "any max_lr from 0.02 to 0.12 is surely within half a point; 0.009 to 0.22 and beyond may be",
        ),
        (
            {"lo_open": True},
            "any max_lr from 0.02 to 0.12 is surely within half a point; 0.009 to 0.22 and below may be",
        ),
    ],
)
def test_a_row_is_said_in_one_sentence(change: dict[str, Any], said: str) -> None:
    assert how_sure(ROW | change, tolerance=0.005) == f"cycle 4: {said}; more seeds would narrow this"


def test_a_row_without_an_estimate_is_not_spoken_of() -> None:
    assert how_sure(ROW | {"curve_max_lr": None}, tolerance=0.005) is None
    assert overall([ROW | {"curve_max_lr": None}]) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "more seeds would narrow this"),  # at one end the seeds' error is the larger one
        ({"seed_se_lo": 0.0005}, "only more validation images would narrow this"),
        ({"seed_se_lo": 0.0005, "image_se_hi": None}, "only more validation images would narrow this"),
        ({"image_se_lo": None, "image_se_hi": None}, "more seeds would narrow this"),
        ({"evidence": "low", "seed_se_lo": 0.0005}, "more seeds would narrow this"),
        ({"lo_possible": 0.02, "hi_possible": 0.12}, "only a finer grid would narrow this"),
        (
            {"evidence": "assumed", "lo_sure": None},
            "one seed says nothing of noise, which is assumed: more seeds would tell",
        ),
    ],
)
def test_seeds_are_advised_while_their_error_is_the_larger_one_then_images_then_the_grid(
    change: dict[str, Any], said: str
) -> None:
    assert advice(ROW | change) == said


def test_a_runs_advice_counts_its_cycles() -> None:
    rows = [ROW, ROW, ROW | {"seed_se_lo": 0.0005}]
    assert overall(rows) == "narrower ranges: more seeds at 2 of 3 cycles, only more validation images at 1 of 3 cycles"


NARROW = [(120, []), (90, ["test %"]), (80, ["test %", "weights %"]), (60, ["test %", "weights %", "val %"])]


@pytest.mark.parametrize(("width", "spared"), NARROW)
def test_a_narrow_terminal_gets_fewer_columns_and_no_broken_numbers(width: int, spared: list[str]) -> None:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(cycle_table([ROW], width=width))
    text = console.export_text()
    assert "…" not in text
    assert "[0.009, 0.22]" in text
    assert [name for name in ("test %", "weights %", "val %") if name not in text] == spared


def test_a_table_without_estimates_has_no_empty_columns() -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(cycle_table([ROW | {"curve_max_lr": None}], width=120))
    assert "surely" not in console.export_text()
