"""How much memory is free; and refusing what cannot fit before it is asked for.

What is counted here is the least that is needed: what passes may still be too much, what is refused could at best swap.
"""

import contextlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch

from oracle.errors import DataError

HOST = torch.device("cpu")
WORTH_ASKING = 2**26  # bytes; that much is always there, and asking for every image of a folder would take time
EVALUATED_BYTES = 2**32  # of the images that are evaluated together, as floats: 1,000 in colour of 598 pixels a side
UNLIMITED = 2**62  # bytes; the system says "no limit" as a number beyond

FEWER = (
    "a smaller data.resolution, fewer images, or a folder that is read while it trains (data.source folder) takes less"
)

Shape = tuple[int, int, int]  # channels, height, width


def check_fits(needed: int, what: str, way_out: str, device: torch.device = HOST) -> None:
    """Raises DataError, with the numbers, where `device` has less than `needed` bytes free."""
    if needed < WORTH_ASKING:
        return
    free = free_bytes(device)
    if free is not None and needed > free:
        where = socket.gethostname() + (f"'s {device}" if device.type != "cpu" else "")
        raise DataError(f"{what}: {_size(needed)} of memory are needed, {where} has {_size(free)} free; {way_out}")


def check_batch(what: str, size: int, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
    """Raises DataError where not even the images of one batch would fit on the device.

    Asked where batches are made, not where data are loaded: a cluster's driver loads them too, and trains nothing.
    """
    check_fits(
        size * _image_bytes(shape, dtype),
        f"{what}: {size} images of {' x '.join(map(str, shape))} at once",
        "make it, or data.resolution, smaller",
        device,
    )


def evaluated_together(most: int, shape: Shape, dtype: torch.dtype) -> int:
    """How many images are evaluated at once: `most`, or as many large ones as EVALUATED_BYTES hold, at least one.

    What is free at the moment does not count: the last bits of a loss depend on it, and are the same on every machine.
    """
    return min(most, max(1, EVALUATED_BYTES // _image_bytes(shape, dtype)))


def free_bytes(device: torch.device = HOST, root: Path = Path("/")) -> int | None:
    """Bytes that can still be had there, disk caches counted as free and swap as none; None where nobody says.

    `root`: where the system's files lie.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept_back = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by PyTorch, for itself
        return free + kept_back
    if device.type != "cpu":
        return None
    machine = re.search(r"^MemAvailable:\s*(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    known = [1024 * int(machine[1])] if machine else []
    return min([*known, *_rooms(root)], default=None)


@contextlib.contextmanager
def full_memory_named(what: str, way_out: str) -> Iterator[None]:
    """DataError in place of what Python and PyTorch raise where the memory runs out all the same."""
    try:
        yield
    except Exception as error:
        if not is_full_memory(error):
            raise
        raise DataError(f"{what}: the memory of {socket.gethostname()} is full ({error}); {way_out}") from None


def is_full_memory(error: BaseException) -> bool:
    """Whether this is Python, or PyTorch on a GPU or a CPU, for which it has no class of its own, out of memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    full = ("can't allocate memory", "can't start new thread")  # PyTorch, and Python where no room is left for a stack
    return isinstance(error, RuntimeError) and any(text in str(error) for text in full)


def _image_bytes(shape: Shape, dtype: torch.dtype) -> int:
    channels, height, width = shape
    return channels * height * width * dtype.itemsize


def _size(number: int) -> str:
    """For people.

    >>> _size(243_000_000), _size(201_326_592_000), _size(24_300_000_000_000)
    ('243.0 MB', '201.3 GB', '24.3 TB')
    """
    unit, name = next(((unit, name) for unit, name in ((1e12, "TB"), (1e9, "GB")) if number >= unit), (1e6, "MB"))
    return f"{number / unit:.1f} {name}"


def _rooms(root: Path) -> Iterator[int]:
    """What is left of each limit that this process's control groups set (containers, Slurm, systemd); of both versions."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        below = PurePosixPath(path.lstrip("/"))
        for group in (below, *below.parents):
            if controllers:
                folder = root / "sys/fs/cgroup/memory" / group
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_active_file", "total_inactive_file")
            else:
                folder = root / "sys/fs/cgroup" / group
                names = ("memory.max", "memory.current", "active_file", "inactive_file")
            limit, used = _text(folder / names[0]).strip(), _text(folder / names[1]).strip()
            if not (limit.isdecimal() and used.isdecimal()) or int(limit) > UNLIMITED:
                continue
            cached = re.findall(rf"^(?:{names[2]}|{names[3]}) (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
            yield max(0, int(limit) - int(used) + sum(map(int, cached)))


def _text(path: Path) -> str:
    """A file of the system's; nothing where there is none, as on other systems than Linux."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
