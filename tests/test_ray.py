"""The Ray executor on real clusters: one of the process's own, and several nodes started by hand."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from faults import (
    SLOW,
    alive,
    checkpointed,
    descendants,
    finish,
    kill,
    rows_there,
    start,
    started_since,
    timeless,
    until,
)

from oracle.errors import ClusterError, FolderError, TrialError
from oracle.events import CancelToken, TrialFinished
from oracle.execution.jobs import Job, Pack, Work
from oracle.execution.ray_tune import RayExecutor
from oracle.experiment import load_experiment
from oracle.runs.cycle import CycleStore
from oracle.runs.event_log import read_events
from oracle.runs.records import attempts, read_oracle, read_trials
from oracle.runs.settings import Settings
from oracle.search.run import run_oracle
from oracle.storage import Folder

pytestmark = pytest.mark.slow

TWO_SLOTS = ("--slots", "2", "--pack-size", "3")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slow run, in peace and without Ray."""
    out = tmp_path_factory.mktemp("undisturbed")
    run_oracle(load_experiment("digits-mlp", overrides=SLOW), out, executor="local", pack_size=3)
    return out


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder for temporary files with a path so short that Ray's go there too."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        yield Path(folder)


def test_ray_ends_with_the_bits_of_the_local_executor_and_leaves_nothing_behind(
    tmp_path: Path, scratch: Path, undisturbed: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    process = start(tmp_path / "out", *TWO_SLOTS, env={"HOME": str(home), "TMPDIR": str(scratch)})
    below = until(lambda: len(descendants(process.pid)) > 3 and descendants(process.pid), "Ray's processes")
    printed = finish(process)
    assert timeless(read_oracle(tmp_path / "out")) == timeless(read_oracle(undisturbed))
    assert timeless(read_trials(tmp_path / "out")) == timeless(read_trials(undisturbed))
    assert list(home.iterdir()) == [], "something was written into the home folder"
    until(lambda: not alive(below), "the end of Ray's processes", seconds=20)
    assert list(scratch.iterdir()) == [], "something was left among temporary files"
    assert "oracle.parquet" in printed
    assert not [word for word in ("INFO", "WARNING", "usage stat", "Trial status") if word in printed], printed
    workers = {attempt["pid"] for attempt in attempts(Folder(tmp_path / "out"))}
    assert len(workers) >= 2, "one worker did all"
    assert process.pid not in workers


def test_worker_killed_twice_in_mid_pack_ends_with_the_same_bits(
    tmp_path: Path, scratch: Path, undisturbed: Path
) -> None:
    process = start(tmp_path, *TWO_SLOTS, env={"TMPDIR": str(scratch)})
    killed: list[int] = []
    for _ in range(2):

        def training_and_checkpointed() -> int | None:
            """A worker not killed yet that has begun, or gone on with, a pack whose checkpoint is there."""
            held = {Path(name).stem for name in checkpointed(tmp_path)}
            for attempt in attempts(Folder(tmp_path)):
                if attempt["pid"] not in killed and attempt["commit"] in held and psutil.pid_exists(attempt["pid"]):
                    return int(attempt["pid"])
            return None

        pid = until(training_and_checkpointed, "a worker in mid-pack")
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)
    finish(process)
    assert list(scratch.iterdir()) == [], "something was left among temporary files"
    assert len(set(killed)) == 2
    assert timeless(read_oracle(tmp_path)) == timeless(read_oracle(undisturbed))
    assert timeless(read_trials(tmp_path)) == timeless(read_trials(undisturbed))
    told = [event for _, event in read_events(Folder(tmp_path)) if isinstance(event, TrialFinished)]
    assert len({(it.cycle, it.seed, it.max_lr) for it in told}) == read_trials(tmp_path).num_rows
    resumed = [attempt for attempt in attempts(Folder(tmp_path)) if attempt["from_epoch"] > 0]
    assert {attempt["pid"] for attempt in resumed}, "no worker went on from a checkpoint"


def test_driver_killed_in_mid_pack_takes_its_cluster_along_and_can_be_run_again(
    tmp_path: Path, scratch: Path, undisturbed: Path
) -> None:
    process = start(tmp_path, *TWO_SLOTS, env={"TMPDIR": str(scratch)})
    until(lambda: checkpointed(tmp_path), "a checkpoint")
    below = descendants(process.pid)
    assert len(below) > 3
    [guard] = [it for it in below if "guard.py" in " ".join(it.cmdline())]
    assert os.getpgid(guard.pid) != os.getpgid(process.pid), "Ctrl-C would reach what cleans up"
    kill(process)
    until(lambda: not alive(below), "the end of Ray's processes", seconds=60)
    assert list(scratch.iterdir()) == [], "something was left among temporary files"
    moment, done = time.time(), rows_there(tmp_path)
    finish(start(tmp_path, *TWO_SLOTS))
    assert timeless(read_oracle(tmp_path)) == timeless(read_oracle(undisturbed))
    assert not done & started_since(tmp_path, moment)


def test_what_a_worker_refuses_is_said_once_by_the_driver(tmp_path: Path) -> None:
    (tmp_path / "trials").write_text("a file where a folder should be")
    experiment = load_experiment("digits-mlp", overrides=[*SLOW, "training.epochs=2"])
    with pytest.raises(FolderError, match=r"trials/cycle=000/.*cannot be written"):
        run_oracle(experiment, tmp_path, executor="ray", slots=2)
    starts = [attempt["commit"] for attempt in attempts(Folder(tmp_path))]
    assert len(starts) == len(set(starts)), "a refusal was tried again"


def test_a_worker_that_crashes_is_a_message_and_is_not_tried_again(tmp_path: Path) -> None:
    settings = Settings(backend="pack", device="cpu", pack_size=3, threads=1, versions={})
    job = Job(experiment=load_experiment("digits-mlp"), settings=settings)
    store = CycleStore(folder=Folder(tmp_path), cycle=0, lineage="")
    pack = Pack(store=store, seed=0, candidates=(0.1,))
    no_images: Any = "neither images nor None"
    executor = RayExecutor(no_images, slots=1)
    try:
        with pytest.raises(TrialError, match="search digits-mlp: a worker crashed: AttributeError"):
            executor.run([Work(job=job, packs=[pack], tell=lambda event: None)], cancel=CancelToken())
    finally:
        executor.close()


def test_one_process_may_search_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    before = {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH")}
    for _ in range(2):
        RayExecutor(None, slots=1).close()
        assert before == {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH")}
    assert list(tmp_path.iterdir()) == [], "something was written into the home folder"


def test_a_process_connected_to_ray_already_is_told_so(tmp_path: Path) -> None:
    code = (
        "import ray; ray.init(address='local', num_cpus=1, include_dashboard=False, log_to_driver=False)\n"
        "from oracle.chain import run_oracle; from oracle.experiment import load_experiment\n"
        f"try: run_oracle(load_experiment('digits-mlp'), {str(tmp_path / 'out')!r})\n"
        "except Exception as error: print(type(error).__name__, error, ray.is_initialized())\n"
        "ray.shutdown()"
    )
    env = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120)
    assert done.stdout.startswith("ClusterError this process is connected to Ray already"), done.stderr
    assert done.stdout.strip().endswith("True"), "a cluster that is not ours was ended"
    assert not (tmp_path / "out").exists()


def test_a_long_path_for_temporary_files_is_no_obstacle(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    overrides = ("pruning.cycles=0", "training.epochs=2", "seeds=[0]", "grid.points=4")
    finish(start(tmp_path / "out", "--slots", "1", env={"TMPDIR": str(long)}, overrides=overrides))
    assert read_oracle(tmp_path / "out").num_rows == 1


def test_no_cluster_at_the_address_is_said_within_seconds(tmp_path: Path) -> None:
    experiment = load_experiment("digits-mlp", overrides=SLOW)
    before = time.monotonic()
    with pytest.raises(ClusterError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        run_oracle(experiment, tmp_path, executor="ray", address="127.0.0.1:1")
    assert time.monotonic() - before < 20  # Ray itself would block for 81 s
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(
            target=lambda: server.accept()[0].sendall(b"HTTP/1.0 400 Bad request\r\n"), daemon=True
        ).start()
        port = server.getsockname()[1]
        with pytest.raises(ClusterError, match=f"127.0.0.1:{port} is no Ray head"):
            run_oracle(experiment, tmp_path, executor="ray", address=f"127.0.0.1:{port}")
    for address, way_out in [
        ("ray://head:10001", "ray job submit"),
        ("nowhere", "HOST:PORT"),
        ("localhost:²", "HOST:PORT"),
        ("x..y:1", "no Ray"),
    ]:
        with pytest.raises(ClusterError, match=way_out):
            run_oracle(experiment, tmp_path, executor="ray", address=address)


# Several nodes: raylets of this machine, joined by a token.


def _ray(*arguments: str, env: dict[str, str]) -> list[str]:
    return [
        "env",
        *(f"{name}={value}" for name, value in env.items()),
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        *arguments,
    ]


@pytest.fixture
def head(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A head node with one core, guarded by a token: its address, and the environment to join it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = Path("/tmp") / f"ray-head-{port}"  # short: Ray keeps sockets there
    scratch = Path("/tmp") / f"ray-tmp-{port}"
    scratch.mkdir()
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5" * 32, "RAY_USAGE_STATS_ENABLED": "0"}
    env["TMPDIR"] = str(scratch)
    options = [
        "--head",
        f"--port={port}",
        "--num-cpus=1",
        "--include-dashboard=false",
        f"--temp-dir={files}",
        "--block",
    ]
    process = subprocess.Popen(
        _ray("start", *options, env=env), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        until(lambda: _listens(port), "the head node")
        yield f"127.0.0.1:{port}", env
    finally:
        _end(process)
        shutil.rmtree(files, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)


def _join(address: str, env: dict[str, str], *before: str) -> subprocess.Popen[bytes]:
    options = [f"--address={address}", "--num-cpus=1", "--block"]
    return subprocess.Popen(
        [*before, *_ray("start", *options, env=env)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a node and all below it, by their ids."""
    below = descendants(process.pid) if process.poll() is None else []
    for each in [psutil.Process(process.pid), *below] if process.poll() is None else below:
        if each.is_running():
            each.kill()
    process.wait(timeout=30)


def _nodes(address: str, env: dict[str, str]) -> int:
    """Nodes alive, asked in another process: a driver keeps the mode that it first connected with."""
    code = f"import ray; ray.init('{address}', logging_level='error'); print(sum(n['Alive'] for n in ray.nodes()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | env)
    return int(done.stdout or 0)


def test_a_search_runs_over_two_nodes_and_outlives_the_loss_of_one(
    tmp_path: Path, head: tuple[str, dict[str, str]], undisturbed: Path
) -> None:
    address, env = head
    node = _join(address, env)
    try:
        until(lambda: _nodes(address, env) == 2, "the second node")
        process = start(tmp_path / "out", "--address", address, "--pack-size", "3", env=env)

        def both_train() -> bool:
            below = {child.pid for child in descendants(node.pid)}
            pids = {attempt["pid"] for attempt in attempts(Folder(tmp_path / "out"))}
            return bool(pids & below) and bool(pids - below) and len(checkpointed(tmp_path / "out")) == 2

        until(both_train, "packs on both nodes")
        lost = {child.pid for child in descendants(node.pid)}
        _end(node)
        finish(process)
    finally:
        _end(node)
    assert timeless(read_oracle(tmp_path / "out")) == timeless(read_oracle(undisturbed))
    begun = [attempt for attempt in attempts(Folder(tmp_path / "out")) if attempt["pid"] in lost]
    went_on = [it["commit"] for it in attempts(Folder(tmp_path / "out")) if it["pid"] not in lost]
    assert any(attempt["commit"] in went_on for attempt in begun), "no pack of the lost node went on elsewhere"


def test_a_plan_counts_the_slots_of_the_cluster_it_is_for(head: tuple[str, dict[str, str]]) -> None:
    address, env = head
    plan = [sys.executable, "-m", "oracle", "plan", "digits-mlp", "--address", address, "--json"]
    done = subprocess.run(plan, capture_output=True, text=True, env=os.environ | env, timeout=120)
    assert done.returncode == 0, done.stderr
    planned = json.loads(done.stdout)
    assert planned["slots"] == 1  # as the head node has, whatever this machine has
    assert planned["seconds_per_training"] > 0
    assert not list(Path(env["TMPDIR"]).glob("torch*")), "a worker left a folder of torch's"


def test_a_node_that_cannot_write_the_folder_is_named(tmp_path: Path, head: tuple[str, dict[str, str]]) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a node with a file system of its own needs root and unshare")
    address, env = head
    out = tmp_path / "out"
    out.mkdir()
    hide = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o ro tmpfs {out} && exec "$@"', "sh"]
    if subprocess.run([*hide, "true"], capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    node = _join(address, env, *hide)
    try:
        until(lambda: _nodes(address, env) == 2, "the second node")
        process = start(out, "--address", address, env=env)
        printed, _ = process.communicate(timeout=120)
    finally:
        _end(node)
    assert process.returncode == 2
    assert "every node must be able to write" in printed
    assert f"node {socket.gethostname()}" in printed
    assert "Traceback" not in printed
    assert not list(out.glob("trials/**/*.parquet"))


def test_a_cluster_with_a_token_is_not_joined_without_one(tmp_path: Path, head: tuple[str, dict[str, str]]) -> None:
    address, _ = head
    process = start(tmp_path, "--address", address, env={"HOME": str(tmp_path)})
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 2, printed
    assert "RAY_AUTH_TOKEN" in printed
    assert "Traceback" not in printed
