"""A round's packs on Ray Tune: one `Tuner.fit` a round, one Tune trial a pack. The only file that imports Ray.

Workers commit their own rows; Ray's results are never read back, except to say why a pack has none. Facts behind the
choices (Ray 2.60): actors do not outlive a fit, so trials share actors (`reuse_actors`) and are long; a bug and a lost
machine look alike to `max_failures`, so bugs are reported as results and only lost workers are tried again; the Tuner's
own restore repeats finished trials, so what is missing is decided from our records alone.
"""

import contextlib
import io
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import ray
import torch
from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, Stopper, TuneConfig, Tuner
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import oracle.execution.compilers  # noqa: F401  # first: a worker starts here
from oracle import errors
from oracle.data import data_key, load_images
from oracle.data.images import Images
from oracle.data.sources import RawImages
from oracle.errors import ClusterError, Error, FolderError, TrialError
from oracle.events import CancelToken, Event, PackProgress, TrialFinished
from oracle.execution import guard
from oracle.execution.jobs import Job, Pack, Work
from oracle.execution.worker import run_pack
from oracle.runs.cycle import pairs_of
from oracle.storage import Folder

Result = TypeVar("Result")
LOST_WORKERS = 5  # times that one pack's worker may be lost before the search gives up
REPORT_SECONDS = 1.0  # between two signs of life of a pack
LONG_PACK_SECONDS = 30.0  # from here on a pack is a Tune trial of its own; shorter ones are dealt out, a share a slot
SIGNAL_SECONDS = 0.02  # while Ray ends: until SIGTERM finds our handler again
ENDING_SECONDS = 15.0  # for Ray to end, which it may not where its processes were stopped too; the guard kills the rest
GUARD_SECONDS = 4.0  # the same, once somebody does not want to wait
NODE_SECONDS = 60.0  # for every node to prove that it can write
# The type of the frame that opens an HTTP/2 connection (RFC 9113, 3.4), which Ray's gRPC runs on.
HTTP2_SETTINGS = b"\x04"
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + HTTP2_SETTINGS + b"\0\0\0\0\0"
AUTHENTICATION = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
RAYS_OWN = ("RAY_", "TUNE_", "KMP_", "PYTHONBREAKPOINT")
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # else workers run at nice 15, behind everything else on the machine
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C stops the search, not only the fit
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


class RayExecutor:
    """Trains packs as Ray Tune trials, on a cluster of this process's own or on one that runs already."""

    def __init__(
        self,
        raw: RawImages | None,
        *,
        address: str | None = None,
        slots: int | None = None,
        cpus: float = 1.0,
        gpus: float | None = None,
    ) -> None:
        """Start or join a cluster.

        `raw`: the data as stored, which travel to the workers; None for a folder of images, which they read themselves.
        `address`: None or "local" for a cluster of this process alone, else as `ray.init` takes it. `slots`: packs at a
        time, all that fit by default. `cpus`, `gpus`: of one pack, gpus defaulting to 1 where the cluster has any.
        Raises ClusterError where the cluster cannot be reached.
        """
        if ray.is_initialized():
            raise ClusterError(
                "this process is connected to Ray already, and a search ends its connection when it is done: call "
                "ray.shutdown() first, or search in a process of its own"
            )
        self._raw = raw
        self._environment = dict(os.environ)
        self._files = Path(_short_folder()) / f"oracle-{secrets.token_hex(4)}"
        self._ours = address in {None, "local"}
        self._guard: subprocess.Popen[bytes] | None = None
        try:
            with _own_signals():
                self._guard = _start_guard(self._files)
                _make_folder(self._files)  # after the guard was started, which removes it
                _connect(address, slots, self._files)
            resources = ray.cluster_resources()
            self.device = "cuda" if resources.get("GPU", 0) > 0 else "cpu"
            gpus = (1.0 if self.device == "cuda" else 0.0) if gpus is None else gpus
            self._resources = {"cpu": cpus, "gpu": gpus}
            fit = [resources.get(name.upper(), 0.0) / need for name, need in self._resources.items() if need]
            if int(min(fit)) < 1:
                raise ClusterError(f"no pack fits: it asks for {self._resources}, the cluster has {resources}")
            self.slots = min(int(min(fit)), slots or 1_000_000)
            self._pack_seconds = 0.0  # of the last fit's packs; 0: not known
        except BaseException:
            self.close()
            raise

    def prove_folder(self, folder: Folder) -> None:
        """Let every node write into `folder` and read what the driver wrote. ClusterError names the one that cannot.

        A cluster of our own has one node, this machine, and the driver has written there already.
        """
        if self._ours:
            return
        token = secrets.token_hex(8)
        folder.write(f"nodes/{token}.driver", token.encode())
        nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        probe = ray.remote(num_cpus=0, max_retries=0)(_probe)
        asked = {
            probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
                folder, token, node
            ): node
            for node in nodes
        }
        ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=NODE_SECONDS)
        faults = {asked[answer]: f"did not answer within {NODE_SECONDS:.0f} s" for answer in late}
        for answer in ready:
            try:
                fault = ray.get(answer)
            except ray.exceptions.RayError as error:
                fault = str(error).strip().splitlines()[-1]
            if fault is None and folder.read(f"nodes/{token}.{asked[answer]}") != token.encode():
                fault = "wrote a file that this process cannot see"
            if fault is not None:
                faults[asked[answer]] = fault
        folder.delete_below("nodes")
        if faults:
            lines = [
                f"node {nodes[node]['NodeManagerHostname']} ({nodes[node]['NodeManagerAddress']}, {node[:8]}): {fault}"
                for node, fault in faults.items()
            ]
            raise ClusterError(
                "every node must be able to write the run's folder, which lies at "
                f"{folder.url}:\n  " + "\n  ".join(lines) + "\nPut the folder on storage that all nodes share "
                "(a network disk, s3://, gs://) with --out, or take the node out of the cluster"
            )

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """What `function` returns on one slot of the cluster, with a slot's resources."""
        task = ray.remote(num_cpus=self._resources["cpu"], num_gpus=self._resources["gpu"], max_retries=0)(_call)
        try:
            result: Result = ray.get(task.remote(function, *arguments))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Error):
                raise error.cause from None
            raise ClusterError(f"a node of the cluster failed: {str(error).strip().splitlines()[-1]}") from None
        except ray.exceptions.RayError as error:
            raise ClusterError(f"a node of the cluster failed: {str(error).strip().splitlines()[-1]}") from None
        return result

    def run(self, works: Sequence[Work], *, cancel: CancelToken) -> None:
        """See `Executor.run`: one `Tuner.fit`. Raises what a worker refused, ClusterError where one is lost."""
        packs = [(index, pack) for index, work in enumerate(works) for pack in work.packs]
        num_shares = len(packs) if self._pack_seconds > LONG_PACK_SECONDS else min(self.slots, len(packs))
        shares = [packs[share::num_shares] for share in range(num_shares)]
        stopper, started = _Stopper(cancel), time.monotonic()
        results = self._fit(works, shares, stopper)
        self._pack_seconds = (time.monotonic() - started) * self.slots / len(packs)
        if stopper.error is not None:
            kind, message = stopper.error
            raise _ERRORS.get(kind, Error)(message)
        reasons = {str(result.error).strip().splitlines()[-1] for result in results if result.error}
        if reasons and not cancel.is_cancelled():
            for work in works:
                _check_complete(work, reasons)

    def _fit(self, works: Sequence[Work], shares: Sequence["_Share"], stopper: "_Stopper") -> Any:
        stores = [work.packs[0].store for work in works]
        there = [store.folder.names(store.path("trials")) for store in stores]  # which the packs are not among
        jobs = [work.job for work in works]
        trainable = tune.with_parameters(_train, jobs=jobs, shares=shares, there=there, raw=self._raw)
        tuner = Tuner(
            tune.with_resources(trainable, self._resources),
            param_space={"share": tune.grid_search(list(range(len(shares))))},
            tune_config=TuneConfig(reuse_actors=True, max_concurrent_trials=self.slots),
            run_config=RunConfig(
                name=f"{jobs[0].experiment.name}-{secrets.token_hex(4)}",
                storage_path=str(self._files / "tune"),
                failure_config=FailureConfig(max_failures=LOST_WORKERS),
                callbacks=[_Follow(works)],
                stop=stopper,
                verbose=0,
            ),
        )
        try:
            with _quiet():
                return tuner.fit()
        except RuntimeError as error:
            raise ClusterError(
                f"Ray stopped the search ({str(error).strip().splitlines()[0]}). Most often a worker was killed because "
                "its node ran out of memory: use fewer slots (--slots) or smaller packs (--pack-size). What was "
                "finished is kept: run the same command again"
            ) from None

    def close(self) -> None:
        """Leave the cluster; one of our own ends, and its files go."""
        try:
            _end_connection()
        finally:
            for name in [name for name in os.environ if name.startswith(RAYS_OWN)]:  # set by us, and by Ray
                if name in self._environment:
                    os.environ[name] = self._environment[name]
                else:
                    del os.environ[name]
            if self._guard is not None:
                self._guard.communicate()  # closes its input: it cleans up


_ERRORS: dict[str, type[Error]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Error)
}
_TOKEN = secrets.token_hex(32)  # one a process: Ray keeps the first that it has read
_IMAGES: dict[str, Images] = {}  # of this worker process, so that its second pack finds them ready
_Share = Sequence[tuple[int, Pack]]  # what one Tune trial trains: packs, and the positions of their works


def _check_complete(work: Work, reasons: set[str]) -> None:
    """Raises ClusterError where packs have no rows. `reasons`: what Ray said of their workers."""
    packs = work.packs
    store = packs[0].store  # all are of one cycle
    done = set(pairs_of(store.trials()))
    lost = [pack for pack in packs if not pack.pairs <= done]
    if lost:
        raise ClusterError(
            f"search {work.job.experiment.name}, cycle {store.cycle}: {len(lost)} of {len(packs)} packs have no rows, "
            f"the first for seed {lost[0].seed}, max_lr {lost[0].candidates[0]:g} and on: "
            f"{'; '.join(sorted(reasons))}. What was finished is kept: run the same "
            "command again"
        )


def _train(
    config: dict[str, Any],
    *,
    jobs: Sequence[Job],
    shares: Sequence[_Share],
    there: Sequence[Sequence[str]],
    raw: RawImages | None,
) -> None:
    """One Tune trial. A refusal or a crash is a result: it would be the same anywhere, so Ray must not try it again."""
    share = shares[config["share"]]
    reported = time.monotonic()
    index = share[0][0]  # of the work whose pack is trained
    finished: list[dict[str, Any]] = []  # trials of it that no report has told of yet

    def send(**fields: Any) -> None:
        nonlocal finished
        tune.report({"work": index, "pack": None, "fraction": 0.0, "finished": finished, "error": None, **fields})
        finished = []

    def report(event: Event) -> None:
        nonlocal reported
        if isinstance(event, TrialFinished):
            finished.append(asdict(event))
        elif isinstance(event, PackProgress) and (event.done == 1 or time.monotonic() - reported >= REPORT_SECONDS):
            reported = time.monotonic()
            send(pack=event.pack, fraction=event.done)

    committed: dict[int, Collection[str]] = {}  # by a worker that was lost, in whose place Ray puts this one
    try:
        for index, pack in share:
            job = jobs[index]
            images = data_key(job.experiment)
            if images not in _IMAGES:
                _IMAGES[images] = load_images(job.experiment, torch.device(job.settings.device), raw)
            if index not in committed:
                committed[index] = pack.store.commits_but(there[index])
            run_pack(job, pack, _IMAGES[images], tell=report, committed=committed[index])
    except Error as error:
        send(error=(type(error).__name__, str(error)))
    except Exception as error:
        text = f"search {jobs[index].experiment.name}: a worker crashed: {type(error).__name__}: {error}"
        send(error=(TrialError.__name__, text))


class _Follow(Callback):  # type: ignore[misc]  # Ray ships no types
    """Passes on what the workers tell."""

    def __init__(self, works: Sequence[Work]) -> None:
        self._works = works

    def __getstate__(self) -> dict[str, Any]:
        return {}  # the Tuner saves itself for a restore that nobody does, and a terminal cannot be saved

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        tell = self._works[result["work"]].tell
        for fields in result["finished"]:
            tell(TrialFinished(**fields))
        if result["pack"] is not None:
            tell(PackProgress(pack=result["pack"], done=result["fraction"]))


class _Stopper(Stopper):  # type: ignore[misc]
    """Ends the fit at the first refusal, which would only be repeated, and when the search is cancelled."""

    def __init__(self, cancel: CancelToken) -> None:
        self._cancel = cancel
        self.error: tuple[str, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as above

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self.error = self.error or result.get("error")
        return False

    def stop_all(self) -> bool:
        return self.error is not None or self._cancel.is_cancelled()


def _call(function: Callable[..., Result], *arguments: Any) -> Result:
    """Runs on a node, which imports this file before that of the function."""
    return function(*arguments)


def _probe(folder: Folder, token: str, node: str) -> str | None:
    """Runs on a node: what keeps it from using the folder, or None."""
    try:
        if folder.read(f"nodes/{token}.driver") != token.encode():
            return f"does not see the files that the driver wrote to {folder.url}"
        folder.write(f"nodes/{token}.{node}", token.encode())
    except FolderError as error:
        return str(error)
    return None


def _short_folder() -> str:
    """Where Ray's files go: its sockets' paths may hold 107 characters, and its own part takes 84."""
    usual = tempfile.gettempdir()
    return "/tmp" if len(usual) > 107 - 84 and os.access("/tmp", os.W_OK) else usual


def _make_folder(files: Path) -> None:
    try:
        files.mkdir(mode=0o700)
    except OSError as error:
        raise ClusterError(
            f"{files}: Ray's files cannot be put there: {error.strerror}; TMPDIR names the folder for temporary files"
        ) from None


def _start_guard(files: Path) -> subprocess.Popen[bytes]:
    """A process that cleans up however this one ends."""
    command = [sys.executable, "-S", "-E", guard.__file__, str(files)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # away from the terminal's Ctrl-C


def _connect(address: str | None, slots: int | None, files: Path) -> None:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what failed is said once, by us
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "configure_logging": True}
    if address in {None, "local"}:
        if not AUTHENTICATION & set(os.environ):
            # Ray guards a cluster of its own by a token, and would write one into the home folder.
            os.environ["RAY_AUTH_TOKEN"] = _TOKEN
        try:
            with _quiet():
                ray.init(
                    address="local", num_cpus=slots, include_dashboard=False, _temp_dir=str(files / "ray"), **common
                )
        except (ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
            raise ClusterError(
                f"Ray cannot start on this machine: {str(error).strip().splitlines()[0]}. Its files go to {files}; "
                "--executor local searches without Ray"
            ) from None
        return
    _check_listens(address or "")
    try:
        with _quiet():
            ray.init(address=address, **common)
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"Ray at {address} cannot be joined: {str(error).strip().splitlines()[-1]}. If the cluster asks for a token, "
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH here too; the port is the head's (6379), "
            "not Ray Client's (10001); Ray and Python must be of the same version on all machines"
        ) from None


def _check_listens(address: str) -> None:
    """Ray waits 81 s for a cluster that is not there and then ends the process: look first."""
    if address == "auto":
        known = Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster"
        found = os.environ.get("RAY_ADDRESS") or (known.read_text().strip() if known.exists() else "")
        if not found:
            raise ClusterError("--address auto: no Ray cluster runs on this machine; `ray start --head` starts one")
        address = found
    if address.startswith("ray://"):
        raise ClusterError(
            f"--address {address}: a search runs on the cluster, not through Ray Client. From anywhere: ray job submit "
            "--address http://HEAD:8265 -- oracle search ... --address auto"
        )
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()):
        raise ClusterError(f"--address {address}: expected local, auto or HOST:PORT")
    try:
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(HTTP2_HELLO)
            answer = connection.recv(9)  # the head of a frame; its type is at 3
    except (OSError, UnicodeError, OverflowError) as error:  # the last two: no name or port that can be
        raise ClusterError(
            f"no Ray cluster answers at {address} ({error}); `ray status --address {address}` on the head node shows it"
        ) from None
    if answer[3:4] != HTTP2_SETTINGS and os.environ.get("RAY_USE_TLS", "0") == "0":
        raise ClusterError(
            f"what answers at {address} is no Ray head; a head listens at the port that `ray start --head` printed, "
            "most often 6379 (8265 is the dashboard's)"
        )


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts handlers of its own on SIGTERM: one exits without a word, one prints a C++ stack. Ours stays."""
    utils, handler = ray._private.utils, signal.getsignal(signal.SIGTERM)
    rays, utils.set_sigterm_handler = utils.set_sigterm_handler, lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = rays
        _hear_sigterm(handler)


def _end_connection() -> None:
    """Ray's shutdown, in a thread: interrupted, it hangs, or ends the process; and it takes our handler off SIGTERM."""
    handler, ended = signal.getsignal(signal.SIGTERM), threading.Event()

    def end() -> None:
        try:
            ray.shutdown()
        finally:
            ended.set()

    def wait(seconds: float) -> None:
        until = time.monotonic() + seconds
        while not ended.wait(SIGNAL_SECONDS) and time.monotonic() < until:
            _hear_sigterm(handler)

    threading.Thread(target=end, daemon=True).start()
    try:
        wait(ENDING_SECONDS)  # no join: in Python 3.11 an interrupted one takes its thread for ended
    finally:
        wait(GUARD_SECONDS)  # its files are in use until then


def _hear_sigterm(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():  # no other may
        signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ray prints boxes and tables whatever it is told; the live view shows what matters."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
