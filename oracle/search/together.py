"""Several chains at once on one executor: while one prunes or has few packs, the others fill its slots.

Each chain runs in a thread of its own. Whenever every one of them waits for trainings, the packs of all are trained
together, as one round. What a chain trains, and the bits it ends with, do not depend on the others.
"""

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from oracle.data import data_key
from oracle.errors import CancelledError, DivergedError, ExperimentError
from oracle.events import Broadcast, CancelToken, Listener
from oracle.execution.executors import Launch
from oracle.execution.jobs import Executor, Work
from oracle.experiment import Experiment
from oracle.runs.event_log import EventLog
from oracle.runs.records import read_oracle
from oracle.search.preflight import Prepared, check_folder, prepare
from oracle.search.run import How, locked, search
from oracle.search.strategies import Strategy
from oracle.storage import Folder
from oracle.training.backends import default_device

WAKE_SECONDS = 0.2  # between two looks at the threads, so that Ctrl-C is heard


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """One of several searches."""

    name: str
    experiment: Experiment
    out: str | Path  # its folder
    strategy: Strategy | None = None  # None: the one that the experiment names
    listeners: Sequence[Listener] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a search ended."""

    oracle: pa.Table  # the finished cycles
    steps: int  # optimiser steps of one training
    diverged: str | None = None  # why it could not go on


def run_together(searches: Sequence[Search], *, launch: Launch, cancel: CancelToken | None = None) -> dict[str, Ended]:
    """Run searches of the same data at once, each in its folder. Run again after any stop, they go on.

    One in which every candidate of a cycle diverged ends there; the others go on. Any other refusal ends all of them, and
    what was finished is kept. Raises as `run_oracle`.
    """
    assert searches
    how, cancel = How(launch=launch), cancel or CancelToken()
    prepared: list[Prepared] = []
    folders = [Folder(each.out) for each in searches]
    for each, folder in zip(searches, folders, strict=True):
        first = prepared[0] if prepared else None
        prepared.append(prepare(each.experiment, launch, folder=folder, strategy=each.strategy, beside=first))
    for ready in prepared:
        ready.backend(default_device().type)  # refuses one that cannot be, before anything is trained
    keys = {data_key(each.experiment) for each in prepared}
    if len(keys) > 1:
        raise ExperimentError("searches that run together must read the same data: `data` and precision differ")
    with contextlib.ExitStack() as locks, locked(folders[0], how.runner(prepared[0])) as runner:
        for folder in folders[1:]:
            locks.enter_context(folder.lock())
        gathering = _Gathering(runner, len(searches), cancel)
        threads = []
        for each, ready, folder in zip(searches, prepared, folders, strict=True):
            runs = _chain(each, ready, folder, how, gathering, cancel)
            threads.append(threading.Thread(target=gathering.runs, args=(each.name, runs), name=each.name))
        try:
            for thread in threads:
                thread.start()
            gathering.train()
        finally:
            gathering.stop()
            for thread in threads:
                if thread.ident is not None:  # it was started
                    thread.join()
    gathering.check()
    return gathering.ended


def _chain(
    each: Search, ready: Prepared, folder: Folder, how: How, gathering: "_Gathering", cancel: CancelToken
) -> Callable[[], Ended]:
    training = ready.experiment.training
    steps = training.epochs * (ready.images.num_train // training.batch_size)

    def runs() -> Ended:
        try:
            table = search(
                ready,
                folder,
                gathering.executor,
                how,
                ready.strategy,
                restored=check_folder(folder, ready.experiment),
                tell=Broadcast([EventLog(folder), *each.listeners]),
                cancel=cancel,
            )
        except DivergedError as error:
            return Ended(oracle=read_oracle(folder), steps=steps, diverged=str(error))
        return Ended(oracle=table, steps=steps)

    return runs


@dataclass(slots=True, eq=False)
class _Asked:
    """What one chain waits for."""

    work: Work
    is_done: bool = False
    error: BaseException | None = None


@dataclass(slots=True, eq=False)
class _Gathering:
    """Brings the chains' work together. The chains' threads ask; the thread that made it trains."""

    runner: Executor
    at_work: int  # chains that have not ended
    cancel: CancelToken
    ended: dict[str, Ended] = field(default_factory=dict)
    errors: list[BaseException] = field(default_factory=list)
    _asked: list[_Asked] = field(default_factory=list)
    _is_over: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def executor(self) -> Executor:
        """What a chain takes for its executor."""
        return _Shared(self)

    def runs(self, name: str, chain: Callable[[], Ended]) -> None:
        """A chain from its start to its end, in a thread of its own."""
        try:
            ended = chain()
            self.ended[name] = ended
        except BaseException as error:
            self.errors.append(error)
            self.cancel.cancel()  # the others would work on for hours before anybody hears of it
        finally:
            with self._changed:
                self.at_work -= 1
                self._changed.notify_all()

    def ask(self, work: Work) -> None:
        """Have work of one chain trained, with that of the others. Raises what training it raised."""
        asked = _Asked(work)
        with self._changed:
            if self._is_over:
                return
            self._asked.append(asked)
            self._changed.notify_all()
            while not asked.is_done:
                self._changed.wait()
        if asked.error is not None:
            raise asked.error

    def train(self) -> None:
        """Train whatever all chains wait for, until the last one has ended."""
        while True:
            with self._changed:
                while len(self._asked) < self.at_work:
                    self._changed.wait(WAKE_SECONDS)
                if not self.at_work:
                    return
                asked, self._asked = self._asked, []
            error: BaseException | None = None
            try:
                if not self.cancel.is_cancelled():
                    self.runner.run([each.work for each in asked], cancel=self.cancel)
            except BaseException as raised:
                error = raised
            self._answer(asked, error)
            if error is not None and not isinstance(error, Exception):
                raise error

    def _answer(self, asked: Sequence[_Asked], error: BaseException | None) -> None:
        with self._changed:
            for each in asked:
                each.is_done, each.error = True, error
            self._changed.notify_all()

    def stop(self) -> None:
        """Let chains that still wait go, with nothing trained: they end as cancelled."""
        with self._changed:
            if self.at_work:
                self.cancel.cancel()
            self._is_over = True
            waiting, self._asked = self._asked, []
        self._answer(waiting, None)

    def check(self) -> None:
        """Raise why a chain failed; the first that was no mere echo of the others' end."""
        own = [error for error in self.errors if not isinstance(error, CancelledError)]
        for error in own or self.errors:
            raise error


class _Shared:
    """The executor as one chain sees it."""

    def __init__(self, gathering: _Gathering) -> None:
        self.slots, self.device = gathering.runner.slots, gathering.runner.device
        self._gathering = gathering

    def prove_folder(self, folder: Folder) -> None:
        """See `Executor.prove_folder`."""
        self._gathering.runner.prove_folder(folder)

    def run(self, works: Sequence[Work], *, cancel: CancelToken) -> None:
        """See `Executor.run`."""
        for work in works:
            self._gathering.ask(work)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """See `Executor.call`."""
        return self._gathering.runner.call(function, *arguments)

    def close(self) -> None:
        """Nothing to give back: the executor is the gathering's."""
