"""The command `oracle` as a person meets it: what it prints, what it draws, what it refuses."""

import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from faults import SLOW, start

from oracle.cli import main
from oracle.errors import FolderError
from oracle.events import Event, PackProgress
from oracle.experiment import Experiment, preset_names
from oracle.search.estimate import plan
from oracle.search.run import run_oracle
from oracle.view.terminal import LiveView, cells_of

Tiny = Callable[..., Experiment]
TINY = [
    *("--set", "pruning.cycles=1", "--set", "training.epochs=2", "--set", "training.batch_size=256"),
    *("--set", "grid={spacing: explicit, values: [0.05, 0.2]}", "--set", "seeds=[0, 1]"),
]


@dataclass
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def oracle(*arguments: str) -> Done:
    """The command, in this process: an interpreter that imports torch takes seconds to start."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["oracle", *arguments])
        try:
            main()
            code: object = 0
        except SystemExit as end:
            code = end.code or 0
    assert isinstance(code, int)
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, made by the command."""
    out = tmp_path_factory.mktemp("run")
    done = oracle("search", "digits-mlp", "--out", str(out), "--executor", "local", *TINY)
    assert done.returncode == 0, done.stderr
    assert str(out / "oracle.parquet") in done.stdout
    return out


def test_search_ends_with_a_table_and_a_picture(run: Path) -> None:
    shown = oracle("show", str(run))
    assert shown.returncode == 0
    assert [line.split()[:2] for line in shown.stdout.splitlines()[1:3]] == [["0", "100.00"], ["1", "80.00"]]
    assert (run / "oracle.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert str(run / "oracle.png") in shown.stdout


def test_show_json_has_the_columns_of_the_table(run: Path) -> None:
    shown = json.loads(oracle("show", str(run), "--json").stdout)
    assert [row["cycle"] for row in shown["rows"]] == [0, 1]
    assert {"max_lr", "lo", "hi", "lo_on_edge", "val_accuracy", "test_accuracy"} <= set(shown["rows"][0])
    assert shown["metadata"]["pruning_rate"] == "0.2"


def test_a_finished_run_run_again_shows_its_table(run: Path) -> None:
    again = oracle("search", "digits-mlp", "--out", str(run), "--executor", "local", *TINY, "--json")
    assert json.loads(again.stdout) == json.loads(oracle("show", str(run), "--json").stdout)


def test_a_run_without_a_finished_cycle_is_said_in_one_line(tiny: Tiny, tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, PackProgress) and event.done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_oracle(tiny(), tmp_path, executor="local", slots=1, pack_size=3, listeners=[interrupt])
    shown = oracle("show", str(tmp_path))
    assert (shown.returncode, shown.stdout) == (0, "no cycle is finished yet; 3 trials of the first are\n")


def test_a_name_that_looks_like_markup_is_printed_as_it_is(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "C[" / "bold]"
    run_oracle(tiny("pruning.cycles=0"), out, executor="local")
    assert f"table    {out}/oracle.parquet" in oracle("show", str(out)).stdout


def test_the_address_of_the_environment_is_for_ray_alone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    asked = ["search", "digits-mlp", "--out", str(run), *TINY]
    assert oracle(*asked, "--executor", "local").returncode == 0
    assert "127.0.0.1:1" in oracle(*asked, "--executor", "ray").stderr


def test_a_run_that_takes_no_picture_is_shown_all_the_same(tiny: Tiny, tmp_path: Path) -> None:
    run_oracle(tiny(), tmp_path, executor="local")
    (tmp_path / "oracle.png").mkdir()  # as a folder that belongs to someone else: nothing can be written there
    shown = oracle("show", str(tmp_path))
    assert shown.returncode == 0
    assert "no picture" in shown.stdout
    assert len(shown.stdout.splitlines()) >= 6


def test_showing_a_run_again_writes_nothing(run: Path) -> None:
    oracle("show", str(run))
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    oracle("show", str(run))
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_presets_are_listed_with_what_they_cost() -> None:
    listed = json.loads(oracle("presets", "--json").stdout)
    assert [row["name"] for row in listed] == preset_names()
    assert {"name": "digits-mlp", "trainings": 1560}.items() <= next(
        r for r in listed if r["name"] == "digits-mlp"
    ).items()
    lines = oracle("presets").stdout.splitlines()
    assert len(lines) == len(preset_names())
    assert "1,560 trainings" in next(line for line in lines if line.startswith("digits-mlp "))


def test_plan_counts_what_a_search_trains(run: Path, tiny: Tiny) -> None:
    planned = json.loads(oracle("plan", "digits-mlp", "--executor", "local", *TINY, "--json").stdout)
    assert planned["trainings"] == 2 * 2 * 2
    assert planned["steps"] == 8 * 2 * (938 // 256)
    assert planned["trainings_done"] == 0
    assert planned["hours"] > 0
    there = oracle("plan", "digits-mlp", "--executor", "local", *TINY, "--out", str(run), "--json")
    assert json.loads(there.stdout)["trainings_done"] == 8
    assert json.loads(there.stdout)["hours"] == 0


def test_a_plan_for_a_run_that_has_begun_is_of_how_it_was_begun(tiny: Tiny, tmp_path: Path) -> None:
    run_oracle(tiny("pruning.cycles=0"), tmp_path, executor="local", backend="plain", pack_size=2)
    planned = plan(tiny(), executor="local", out=tmp_path)
    assert (planned.backend, planned.pack_size, planned.trainings_done) == ("plain", 2, 6)
    with pytest.raises(FolderError, match="pack size: 2 there, 3 asked for"):
        plan(tiny(), executor="local", out=tmp_path, pack_size=3)


def test_plan_foresees_the_disk_at_the_fullest(tiny: Tiny, tmp_path: Path) -> None:
    peak = 0

    def look(event: Event) -> None:
        nonlocal peak
        if isinstance(event, PackProgress):
            peak = max(peak, sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()))

    experiment = tiny("pruning.rewind_step=2")
    planned = plan(experiment, executor="local")
    run_oracle(experiment, tmp_path, executor="local", checkpoint_seconds=0, listeners=[look])
    # More than was seen: the last winners, and a checkpoint, which were not there together with all else. Not less, but
    # for rows, logs and the headers of files, which are small but not counted.
    assert 0.9 * peak < planned.disk_bytes < 1.6 * peak


def test_plan_foresees_the_trainings_of_carry_retrain(tiny: Tiny, tmp_path: Path) -> None:
    experiment = tiny()
    planned = plan(experiment, executor="local", pack_size=3)
    run_oracle(experiment, tmp_path, executor="local", carry="retrain", pack_size=3)
    started = [json.loads(path.read_text()) for path in tmp_path.glob("attempts/**/*.json")]
    assert planned.trainings_retrain == sum(len(it["candidates"]) for it in started)


def test_a_budget_too_small_refuses_to_start(tmp_path: Path) -> None:
    for command in (["plan", "digits-mlp"], ["search", "digits-mlp", "--out", str(tmp_path / "out")]):
        refused = oracle(*command, "--executor", "local", *TINY, "--max-hours", "0")
        assert refused.returncode == 2
        assert "more than --max-hours 0" in refused.stderr
    assert not (tmp_path / "out").exists()
    allowed = oracle(
        "search", "digits-mlp", "--out", str(tmp_path / "out"), "--executor", "local", *TINY, "--max-hours", "1"
    )
    assert allowed.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["search", "digits-mpl"], "did you mean digits-mlp"),
        (["search", "missing.yaml"], "missing.yaml"),
        (["search", "digits-mlp", "--set", "grid.point=3"], "did you mean points"),
        (["search", "digits-mlp", "--set", "pruning.rate=2"], "pruning.rate"),
        (["search", "digits-mlp", "--set", "name=../x"], "name"),
        (["search", "digits-mlp", "--set", "network.name=lenet"], "known ones"),
        (["search", "digits-mlp", "--set", "pruning.method=snip"], "snip"),
        (["search", "digits-mlp", "--set", "data.validation=5000"], "data.validation"),
        (["search", "digits-mlp", "--set", "training.batch_size=5000"], "training.batch_size"),
        (["plan", "digits-mlp", "--set", "schedule={shape: warmup, warmup_epochs: 99}"], "warmup_epochs"),
        (["plan", "fc-cifar10", "--data", "/dev/null"], "/dev/null"),
        (["plan", "fc-cifar10", "--data", "/no/such/folder"], "/no/such/folder does not exist"),
        (["plan", "fc-cifar10", "--data", "~nobody-of-this-name/x"], "no such home folder"),
        (["plan", "digits-mlp", "--data", "/dev/null"], "digits come with scikit-learn"),
        (
            ["plan", "digits-mlp", "--set", "schedule={shape: cyclical, low: 1e-4}", "--set", "grid.extend=true"],
            "grid.extend",
        ),
        (
            [
                *["plan", "digits-mlp", "--set", "network.name=vgg19-narrow", "--set", "data.resolution=16"],
                *["--set", "training.batch_size=1"],
            ],
            "training.batch_size: found 1, but this network's batch norms need at least 2",
        ),
        (["show", "."], "holds no Oracle run"),
        (["show", "~nobody-of-this-name/x"], "no such home folder"),
        (["search", "digits-mlp", "--address", "ray://x:1"], "ray job submit"),
        (["search", "digits-mlp", "--executor", "local", "--address", "auto"], "address: found auto"),
    ],
)
def test_bad_input_is_a_message_and_never_a_traceback(arguments: list[str], named: str, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "out")] if arguments[0] == "search" else []
    refused = oracle(*arguments, *out)
    assert refused.returncode == 2
    assert named in refused.stderr
    assert "Traceback" not in refused.stderr + refused.stdout
    assert not (tmp_path / "out" / "trials").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "digits-mlp", "--out", ""],
        ["plan", "digits-mlp", "--out", ""],
        ["plan", "x", "--data", ""],
        ["show", ""],
    ],
)
def test_an_empty_path_is_refused(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused = oracle(*arguments)
    assert refused.returncode == 2
    assert "found nothing between the quotes" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_where_only_ascii_can_be_shown_a_table_is_shown_all_the_same(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "argv", ["oracle", "show", str(run)])
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
    with pytest.raises(SystemExit) as done:
        main()
    sys.stdout.flush()
    assert done.value.code == 0
    assert str(run / "oracle.parquet") in shown.getvalue().decode("ascii")


@pytest.mark.parametrize("arguments", [["presets"], ["presets", "--json"], ["--help"]])
def test_a_reader_that_leaves_ends_a_command_without_a_word(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "oracle", *arguments]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("command", ["search", "plan", "show", "presets"])
def test_help_shows_an_example(command: str) -> None:
    assert f"Example: oracle {command}" in oracle(command, "--help").stdout


@pytest.mark.slow
def test_the_live_view_draws_on_a_terminal_and_cleans_up(tmp_path: Path) -> None:
    screen, terminal = pty.openpty()
    search = [sys.executable, "-m", "oracle", "search", "digits-mlp", "--executor", "local", "--out", str(tmp_path)]
    sets = [part for override in (*SLOW, "pruning.cycles=0") for part in ("--set", override)]
    process = subprocess.Popen([*search, *sets], stdout=terminal, stderr=terminal, env=os.environ | {"TERM": "xterm"})
    os.close(terminal)
    drawn = _read(screen, process)
    assert process.returncode == 0, drawn
    assert "packs done" in drawn
    assert "accuracy so far" in drawn
    assert "left " in drawn
    assert "oracle.parquet" in drawn.rsplit("packs done", 1)[1]


def _read(screen: int, process: subprocess.Popen[bytes]) -> str:
    drawn, deadline = b"", time.monotonic() + 90
    while time.monotonic() < deadline:
        if select.select([screen], [], [], 0.1)[0]:
            try:
                drawn += os.read(screen, 65536)
            except OSError:  # the last process let go of the terminal
                break
        elif process.poll() is not None:
            break
    process.wait(timeout=10)
    return drawn.decode(errors="replace")


@pytest.mark.slow
def test_without_a_terminal_progress_is_lines(tmp_path: Path) -> None:
    process = start(tmp_path, "--executor", "local", overrides=(*SLOW[:1], "training.epochs=2", *SLOW[2:]))
    printed, _ = process.communicate(timeout=60)
    assert "\x1b" not in printed
    assert "cycle 1, weights % 80.00, optimum" in printed


def test_edges_are_starred_and_missing_spreads_left_out() -> None:
    row: dict[str, Any] = dict.fromkeys(("val_accuracy", "test_accuracy", "val_accuracy_std", "test_accuracy_std"))
    row |= {"cycle": 3, "weights_remaining": 0.512, "max_lr": 0.1, "lo": 0.05, "hi": 0.1}
    row |= {"lo_on_edge": False, "hi_on_edge": True, "val_accuracy": 0.9712}
    assert cells_of(row) == ["3", "51.20", "0.1", "[0.05, 0.1*]", "-", "-", "97.12", "-"]


def test_the_live_view_is_a_listener_that_needs_no_terminal(tiny: Tiny, tmp_path: Path) -> None:
    from rich.console import Console

    with open(tmp_path / "log", "w") as file:
        run_oracle(tiny(), tmp_path / "out", executor="local", listeners=[LiveView(Console(file=file))])
    assert (tmp_path / "log").read_text().count(", optimum ") == 3
