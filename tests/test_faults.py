"""Whatever is killed, truncated or full: nothing finished is lost or trained twice, and the bits are the same."""

import functools
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import SLOW, checkpointed, command, finish, kill, rows_there, start, started_since, timeless, until
from listeners import noting

import oracle.training.run
from oracle.errors import FolderError, TrialError
from oracle.experiment import Experiment, load_experiment
from oracle.runs.records import attempts, read_oracle, read_trials
from oracle.search.run import run_oracle
from oracle.search.strategies import GridSearch
from oracle.storage import Folder

Tiny = Callable[..., Experiment]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slow run, in peace."""
    out = tmp_path_factory.mktemp("undisturbed")
    run_oracle(load_experiment("digits-mlp", overrides=SLOW), out, executor="local")
    return out


def test_driver_killed_twice_in_mid_pack_ends_with_the_same_bits(tmp_path: Path, undisturbed: Path) -> None:
    seen: list[str] = []
    moments: list[tuple[float, set[tuple[int, int, float]]]] = []
    for _ in range(2):
        process = start(tmp_path, "--executor", "local")
        fresh = until(
            functools.partial(checkpointed, tmp_path, beyond=tuple(seen)), "a checkpoint of a pack not seen before"
        )
        kill(process)
        seen += fresh
        moments.append((time.time(), rows_there(tmp_path)))
    finish(start(tmp_path, "--executor", "local"))
    assert timeless(read_oracle(tmp_path)) == timeless(read_oracle(undisturbed))
    assert timeless(read_trials(tmp_path)) == timeless(read_trials(undisturbed))
    for moment, done in moments:
        assert not done & started_since(tmp_path, moment), "a finished trial was trained again"
    assert any(attempt["from_epoch"] > 0 for attempt in attempts(Folder(tmp_path))), "no pack went on from a checkpoint"


def test_killed_plain_backend_keeps_each_finished_candidate(tmp_path: Path) -> None:
    quick = (*SLOW[:1], "training.epochs=40", *SLOW[2:])
    options = ("--executor", "local", "--backend", "plain", "--slots", "1")
    process = start(tmp_path / "a", *options, overrides=quick)
    until(lambda: (tmp_path / "a" / "experiment.yaml").exists() and len(rows_there(tmp_path / "a")) >= 2, "two rows")
    kill(process)
    moment, done = time.time(), rows_there(tmp_path / "a")
    finish(start(tmp_path / "a", *options, overrides=quick))
    finish(start(tmp_path / "b", *options, overrides=quick))
    assert not done & started_since(tmp_path / "a", moment)
    assert timeless(read_trials(tmp_path / "a")) == timeless(read_trials(tmp_path / "b"))


def test_interrupt_says_how_to_go_on_and_shows_no_traceback(tmp_path: Path) -> None:
    process = start(tmp_path, "--executor", "local")
    until(lambda: checkpointed(tmp_path), "a checkpoint")
    process.terminate()
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "same command goes on" in printed
    assert "Traceback" not in printed


def _stop_in_the_last_cycle(experiment: Experiment, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until the rows of cycle 2 are there, and break off before it is chosen."""
    choose = GridSearch.choose

    def stop(self: GridSearch, cycle: int, rows: Any) -> dict[str, Any]:
        if cycle == 2:
            raise KeyboardInterrupt
        return choose(self, cycle, rows)

    monkeypatch.setattr(GridSearch, "choose", stop)
    with pytest.raises(KeyboardInterrupt):
        run_oracle(experiment, out, executor="local")
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("pattern", "trained_again"),
    [
        ("trials/cycle=002/*-s0-*.parquet", 3),  # one commit: its pack of three
        ("trials/cycle=001/merged-*.parquet", 6),  # a finished cycle's rows: its six trials
        ("oracle.parquet", 0),  # follows from the trials
        ("parents/cycle=002/seed=0-*.safetensors", 0),  # follows from the winners
        ("winners/cycle=000/seed=0.safetensors", 3),  # the network of one seed: its pack of three
    ],
)
def test_a_truncated_file_costs_only_what_was_in_it(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, trained_again: int
) -> None:
    _stop_in_the_last_cycle(tiny(), tmp_path / "a", monkeypatch)
    [victim] = (tmp_path / "a").glob(pattern)
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    before = attempts(Folder(tmp_path / "a"))
    said: list[str] = []
    run_oracle(tiny(), tmp_path / "a", executor="local", listeners=[noting(said)])
    told = "the winners of seeds [0] once more" if pattern.startswith("winners") else pattern.split("*")[0]
    assert pattern.startswith("parents") or any(told in text for text in said), said  # parents cost nothing
    run_oracle(tiny(), tmp_path / "b", executor="local")
    again = [it for it in attempts(Folder(tmp_path / "a")) if it not in before]
    assert sum(len(it["candidates"]) for it in again) == trained_again
    assert timeless(read_oracle(tmp_path / "a")) == timeless(read_oracle(tmp_path / "b"))
    assert timeless(read_trials(tmp_path / "a")) == timeless(read_trials(tmp_path / "b"))


def test_a_truncated_checkpoint_starts_its_pack_over(tmp_path: Path, undisturbed: Path) -> None:
    process = start(tmp_path, "--executor", "local")
    [checkpoint] = until(lambda: checkpointed(tmp_path), "a checkpoint")
    kill(process)
    content = Path(checkpoint).read_bytes()
    Path(checkpoint).write_bytes(content[: len(content) // 2])
    finish(start(tmp_path, "--executor", "local"))
    assert timeless(read_oracle(tmp_path)) == timeless(read_oracle(undisturbed))
    assert all(attempt["from_epoch"] == 0 for attempt in attempts(Folder(tmp_path)))


def test_unreadable_settings_are_refused_by_name(tiny: Tiny, tmp_path: Path) -> None:
    run_oracle(tiny("pruning.cycles=0"), tmp_path, executor="local")
    settings = (tmp_path / "settings.json").read_bytes()
    for broken in (settings[:10], settings.replace(b'"pack_size": 3', b'"pack_size": 0'), b"[]", b"{}"):
        assert broken != settings
        (tmp_path / "settings.json").write_bytes(broken)
        with pytest.raises(FolderError, match=r"settings\.json: cannot be read .* delete it to have that chosen anew"):
            run_oracle(tiny(), tmp_path, executor="local")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KiB: room for some commits of a cycle, not for all."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a small file system can only be mounted by root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_said_and_the_run_goes_on_once_there_is_room(
    tiny: Tiny, tmp_path: Path, small_disk: Path
) -> None:
    experiment = tiny("seeds=[0, 1, 2]")
    with pytest.raises(FolderError, match=r"the disk is full .* run the same command again"):
        run_oracle(experiment, small_disk / "run", executor="local")
    assert not list(small_disk.glob("**/*.partial"))
    done, moment = rows_there(small_disk / "run"), time.time()
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    resumed = run_oracle(experiment, small_disk / "run", executor="local")
    assert done, "the disk was full before anything was finished"
    assert not done & started_since(small_disk / "run", moment)
    assert timeless(resumed) == timeless(run_oracle(experiment, tmp_path / "peace", executor="local"))


def test_a_crash_names_search_cycle_max_lr_and_seed(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = oracle.training.run.run_trainer

    def crash(*args: Any, **kwargs: Any) -> Any:
        if kwargs["seed"] == 1 and kwargs["cycle"] == 1:
            raise RuntimeError("device-side assert")
        return real(*args, **kwargs)

    monkeypatch.setattr(oracle.training.run, "run_trainer", crash)
    with pytest.raises(
        TrialError, match=r"search digits-mlp, cycle 1, seed 1, max_lr 0\.02, 0\.1, 0\.4: .*device-side"
    ):
        run_oracle(tiny(), tmp_path, executor="local")
    assert len(rows_there(tmp_path)) == 9  # cycle 0, and seed 0 of cycle 1


def test_the_slow_run_is_what_the_command_runs(tmp_path: Path) -> None:
    assert "--checkpoint-seconds" in command(tmp_path), "fault tests need checkpoints after every epoch"
