"""A cycle's packs in this process, without Ray."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import torch

from oracle.data.images import Images
from oracle.events import CancelToken
from oracle.execution.jobs import Pack, Work
from oracle.execution.worker import run_pack
from oracle.storage import Folder
from oracle.training.backends import Backend, default_device


class LocalExecutor:
    """Trains packs on this machine's device, `slots` at a time, a thread each."""

    def __init__(self, images: Images, *, slots: int | None, backend: Backend) -> None:
        """`images`: on this machine's device. `slots`: by default one a core for the plain backend on a CPU; packs and
        a GPU are busiest with one."""
        self.device = default_device().type
        self.slots = slots or default_slots(backend, self.device)
        self._images = images

    def prove_folder(self, folder: Folder) -> None:
        """Nothing to prove: the process that trains is the one that opened it."""

    def run(self, works: Sequence[Work], *, cancel: CancelToken) -> None:
        """See `Executor.run`. Raises the first error, once running packs have stopped at their next epoch."""
        stop, threads = CancelToken(), torch.get_num_threads()

        def train(work: Work, pack: Pack) -> None:
            run_pack(
                work.job,
                pack,
                self._images,
                tell=work.tell,
                cancelled=lambda: stop.is_cancelled() or cancel.is_cancelled(),
            )

        pool = ThreadPoolExecutor(self.slots)
        try:
            waiting: set[Future[None]] = {pool.submit(train, work, pack) for work in works for pack in work.packs}
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        finally:
            stop.cancel()
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """See `Executor.call`."""
        return function(*arguments)

    def close(self) -> None:
        """Nothing to give back."""


def default_slots(backend: Backend, device: str) -> int:
    """One a core where each slot trains one candidate in plain PyTorch on one thread, else one."""
    return os.cpu_count() or 1 if backend == "plain" and device == "cpu" else 1
