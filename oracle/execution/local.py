"""A cycle's packs in this process, without Ray."""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import torch

from oracle.data.images import Images
from oracle.data.sources import RawImages
from oracle.events import Watch
from oracle.execution.worker import Job, Pack, run_pack
from oracle.storage import Folder
from oracle.training.train import Backend, default_device


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

    def run(self, job: Job, packs: Sequence[Pack], raw: RawImages | None, watch: Watch) -> None:
        """Train what the packs lack. Raises the first error, once running packs have stopped at their next epoch."""
        images, stop, threads = self._images, threading.Event(), torch.get_num_threads()

        def train(pack: Pack) -> None:
            run_pack(job, pack, images, progress=lambda done: _move(watch, pack, done, stop))
            _move(watch, pack, 1.0, stop)

        pool = ThreadPoolExecutor(self.slots)
        try:
            waiting: set[Future[None]] = {pool.submit(train, pack) for pack in packs}
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)

    def close(self) -> None:
        """Nothing to give back."""


class _Stopped(BaseException):
    """Takes a thread out of its training; its last checkpoint stays."""


def _move(watch: Watch, pack: Pack, done: float, stop: threading.Event) -> None:
    if stop.is_set():
        raise _Stopped
    watch.pack_moves(pack=pack.name, done=done)


def default_slots(backend: Backend, device: str) -> int:
    """One a core where each slot trains one candidate in plain PyTorch on one thread, else one."""
    return os.cpu_count() or 1 if backend == "plain" and device == "cpu" else 1
