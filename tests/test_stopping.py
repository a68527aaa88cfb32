"""Ctrl-C and SIGTERM at every moment of a command: one sentence, status 130, nothing left behind."""

import os
import pty
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from faults import SLOW, alive, checkpointed, command, until

from oracle.runs.records import read_oracle

GOES_ON = "stopped; what was finished is kept, and the same command goes on from there"
TINY = ("pruning.cycles=0", "training.epochs=3", "seeds=[0]", "grid={spacing: explicit, values: [0.05, 0.2]}")


@pytest.fixture(autouse=True)
def _hears_interrupts() -> Iterator[None]:
    """What a shell starts in the background ignores SIGINT, and so would all that a test starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def start(arguments: Sequence[str], env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """A command as a shell starts it: in a process group of its own."""
    return subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | (env or {}),
    )


def signal_all(process: subprocess.Popen[str], number: int = signal.SIGINT) -> None:
    """To the whole process group, as a terminal does at Ctrl-C."""
    assert process.poll() is None, f"ended before it was stopped: {process.communicate()}"
    os.killpg(process.pid, number)


def python(code: str) -> subprocess.Popen[str]:
    """A process that runs some lines."""
    return start([sys.executable, "-c", f"import os, signal, sys, time\nfrom oracle.view import stopping\n{code}"])


def at_work(code: str) -> subprocess.Popen[str]:
    """The same, which has printed that it is ready."""
    process = python(code)
    wait_for_line(process)
    return process


def wait_for_line(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()


WORK = "print('ready', flush=True); time.sleep(60)\n"


# What the handlers promise, in processes that start at once.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_nothing_is_under_way_ends_the_process_where_it_stands(number: int) -> None:
    process = at_work(f"stopping.listen()\ntry: {WORK}finally: print('cleaned up')")
    signal_all(process, number)
    assert process.communicate(timeout=30) == ("", "stopped\n")
    assert process.returncode == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_to_work_gives_back_what_is_held(number: int) -> None:
    process = at_work(f"with stopping.orderly():\n try: {WORK} finally: print('given back')")
    signal_all(process, number)
    assert process.communicate(timeout=30) == ("given back\n", "stopped\n")
    assert process.returncode == 130


def test_a_second_signal_ends_the_process_where_it_stands() -> None:
    process = at_work(
        f"with stopping.orderly():\n try: {WORK} finally:\n  print('ready', flush=True)\n  time.sleep(60)\n  print('done')"
    )
    signal_all(process)
    wait_for_line(process)
    signal_all(process)
    assert process.communicate(timeout=30) == ("", "stopped\n")
    assert process.returncode == 130


@pytest.mark.parametrize("turned_into", ["RuntimeError('a library')", "SystemExit(1)", "ImportError('half a module')"])
def test_whatever_a_library_makes_of_an_interrupt_it_is_a_stop(turned_into: str) -> None:
    process = at_work(f"with stopping.orderly():\n try: {WORK} except KeyboardInterrupt: raise {turned_into}")
    signal_all(process)
    assert process.communicate(timeout=30) == ("", "stopped\n")
    assert process.returncode == 130


def test_work_whose_interrupt_is_lost_is_told_all_the_same() -> None:
    process = at_work(
        "asked = []\n"
        "with stopping.orderly(), stopping.telling(lambda: asked.append(True)):\n"
        f" try: {WORK} except KeyboardInterrupt: pass\n"
        " print(asked)"
    )
    signal_all(process)
    assert process.communicate(timeout=30) == ("[True]\n", "")
    assert process.returncode == 0  # it finished


def test_a_signal_at_a_fork_is_not_lost() -> None:
    process = python(
        "import subprocess\n"
        "with stopping.orderly():\n"
        " os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        " subprocess.run(['true'], preexec_fn=lambda: None)\n"  # with one, Python code runs at the fork
        " time.sleep(60)"
    )
    assert process.communicate(timeout=30) == ("", "stopped\n")
    assert process.returncode == 130


def test_a_forked_process_is_terminated_as_any_other() -> None:
    process = python(
        "import multiprocessing\n"
        "with stopping.orderly():\n"
        " child = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,))\n"
        " child.start(); time.sleep(0.2); child.terminate(); child.join(); print(child.exitcode)"
    )
    assert process.communicate(timeout=30) == ("-15\n", "")


def test_signals_that_were_ignored_stay_ignored() -> None:
    process = python(
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "with stopping.orderly(): os.kill(os.getpid(), signal.SIGINT); print('went on')"
    )
    assert process.communicate(timeout=30) == ("went on\n", "")


def test_work_gives_the_handlers_back() -> None:
    process = python(
        "before = [signal.getsignal(number) for number in stopping.SIGNALS]\n"
        "with stopping.orderly(): pass\n"
        "print(before == [signal.getsignal(number) for number in stopping.SIGNALS])"
    )
    assert process.communicate(timeout=30) == ("True\n", "")


def test_a_stop_that_nobody_can_read_is_a_stop() -> None:
    process = at_work(f"os.close(2)\nwith stopping.orderly(): {WORK}")
    signal_all(process)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 130


# The commands, stopped while they import: `-X importtime` prints each module's name once it is there.


def interrupt_at_import(module: str, *arguments: str, seconds: float = 0.0) -> tuple[int, list[str]]:
    """Status, and what was printed but for imports, of a command stopped `seconds` after it has imported `module`."""
    process = start([sys.executable, "-X", "importtime", "-m", *arguments])
    assert process.stderr is not None
    for line in process.stderr:
        if line.split("|")[-1].strip() == module:
            time.sleep(seconds)
            signal_all(process)
            break
    else:
        raise AssertionError(f"{module} was never imported: {process.communicate()}")
    out, err = process.communicate(timeout=60)
    said = [line for line in err.splitlines() if not line.startswith("import time:")]
    return process.returncode, out.splitlines() + said


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        ("typer.core", ["oracle", "presets"], "stopped"),
        ("typer.core", ["oracle", "search", "digits-mlp"], GOES_ON),
        ("pydantic", ["oracle", "plan", "digits-mlp"], "stopped"),
        ("numpy", ["oracle", "show", "."], "stopped"),
        ("numpy", ["silo_fit", "fit", "paper:resnet20"], "stopped"),
        ("optuna", ["silo_fit", "report", "paper:resnet20"], "stopped"),
    ],
)
def test_ctrl_c_while_a_command_imports_is_one_sentence(module: str, arguments: list[str], said: str) -> None:
    assert interrupt_at_import(module, *arguments) == (130, [said])


@pytest.mark.slow
def test_ctrl_c_in_the_midst_of_a_fit_is_one_sentence() -> None:
    fit = ["silo_fit", "fit", "paper:resnet20", "--trials", "1000000"]
    assert interrupt_at_import("silo_fit.fit", *fit, seconds=2) == (130, ["stopped"])


@pytest.mark.slow
@pytest.mark.parametrize("module", ["torch.nn", "torchvision.transforms", "oracle.search.chain", "ray._private.worker"])
def test_ctrl_c_while_torch_and_ray_are_imported_is_one_sentence(module: str, tmp_path: Path) -> None:
    arguments = command(tmp_path / "out", overrides=TINY)[2:]
    assert interrupt_at_import(module, *arguments) == (130, [GOES_ON])


# A search, stopped while it works.


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder for temporary files with a path so short that Ray's go there too."""
    with tempfile.TemporaryDirectory(prefix="stop-", dir="/tmp") as folder:
        yield Path(folder)


def started_by(mark: str) -> list[psutil.Process]:
    """The processes with this mark in their environment: a command's, whoever their parents are by now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("STARTED_BY") == mark:
                found.append(process)
        except psutil.Error:  # it has just ended, or is not ours
            continue
    return alive(found)


Moment = Callable[[Path, Path], object]  # from the run's folder and that of temporary files: whether it has come
MOMENTS: dict[str, Moment] = {
    "ray starts": lambda out, scratch: list(scratch.glob("oracle-*/ray/session_*")),
    "tune starts": lambda out, scratch: (out / "settings.json").exists(),
    "mid-pack": lambda out, scratch: checkpointed(out),
    "ray ends": lambda out, scratch: (out / "oracle.parquet").exists(),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("executor", "moment", "overrides", "numbers"),
    [
        ("local", "mid-pack", SLOW, [signal.SIGINT]),
        ("local", "mid-pack", SLOW, [signal.SIGTERM]),
        ("ray", "ray starts", SLOW, [signal.SIGINT]),
        ("ray", "tune starts", SLOW, [signal.SIGTERM]),
        ("ray", "mid-pack", SLOW, [signal.SIGINT, signal.SIGINT]),
        ("ray", "ray ends", TINY, [signal.SIGINT]),
    ],
)
def test_a_stopped_search_says_so_and_leaves_nothing_behind(
    tmp_path: Path, scratch: Path, executor: str, moment: str, overrides: tuple[str, ...], numbers: list[int]
) -> None:
    out, mark = tmp_path / "out", secrets.token_hex(8)
    env = {"STARTED_BY": mark, "TMPDIR": str(scratch)}
    process = start(command(out, "--executor", executor, "--slots", "1", overrides=overrides), env)
    until(lambda: MOMENTS[moment](out, scratch), moment)
    for number in numbers:
        signal_all(process, number)
        time.sleep(0.3)  # else the second would be the first
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert [line for line in err.splitlines() if line.startswith("stopped")] == [GOES_ON]
    assert "Traceback" not in err
    until(lambda: not started_by(mark), "the end of all processes", seconds=30)
    assert list(scratch.iterdir()) == []


@pytest.mark.slow
def test_a_finished_search_leaves_nothing_among_temporary_files(tmp_path: Path, scratch: Path) -> None:
    for backend in ("pack", "plain"):
        out = tmp_path / backend
        search = command(out, "--executor", "local", "--backend", backend, overrides=TINY)
        assert subprocess.run(search, env=os.environ | {"TMPDIR": str(scratch)}, timeout=120).returncode == 0
        assert read_oracle(out).num_rows == 1
        assert list(scratch.iterdir()) == []


@pytest.mark.slow
def test_a_cache_of_compiled_code_that_the_user_chose_is_used(tmp_path: Path) -> None:
    code = (
        "import os; import oracle.execution.compilers; print(os.environ.get('TORCHINDUCTOR_CACHE_DIR'))\n"
        "from torch._inductor.runtime.cache_dir_utils import cache_dir; print(cache_dir())"
    )
    for chosen, shown in ((str(tmp_path / "mine"), str(tmp_path / "mine")), (None, "None")):
        env = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
        env |= {"TMPDIR": str(tmp_path)} | ({} if chosen is None else {"TORCHINDUCTOR_CACHE_DIR": chosen})
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
        seen, used = done.stdout.splitlines()
        assert seen == shown
        assert Path(used).parent == tmp_path  # without a choice: where torch puts it


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_shows_the_cursor_again_and_says_so_last(tmp_path: Path) -> None:
    search = command(tmp_path, "--executor", "local")
    pid, screen = pty.fork()
    if pid == 0:
        os.execvpe(search[0], search, os.environ | {"TERM": "xterm"})
    drawn = b""
    while b"packs done" not in drawn:
        drawn += os.read(screen, 65536)
    until(lambda: checkpointed(tmp_path), "a checkpoint")
    os.write(screen, b"\x03")
    try:
        while more := os.read(screen, 65536):
            drawn += more
    except OSError:  # the last process let go of the terminal
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    shown = drawn.decode(errors="replace")
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert shown.rstrip().endswith(GOES_ON)
