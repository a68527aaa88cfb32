"""The executors by name, and how a search is launched: none of it is part of the experiment."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from oracle.errors import ExperimentError

if TYPE_CHECKING:
    from oracle.data.images import Images
    from oracle.data.sources import RawImages
    from oracle.execution.jobs import Executor
    from oracle.training.backends import Backend

Asked = Literal["auto", "plain", "pack"]  # backends, as asked for
BACKENDS: tuple[str, ...] = get_args(Asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Who trains, and how. ExperimentError where a value is none of those allowed."""

    executor: str = "ray"  # a key of EXECUTORS
    address: str | None = None  # of a Ray cluster; None: one of this process's own
    slots: int | None = None  # packs at a time; None: all that fit
    backend: Asked = "auto"
    pack_size: int | None = None  # candidates in a pack, at most; None: as the search sees fit

    def __post_init__(self) -> None:
        check_choice("executor", self.executor, tuple(EXECUTORS))
        if self.executor == "local" and self.address is not None:
            raise ExperimentError(
                f"address: found {self.address}, but the local executor trains in this process; leave one out"
            )
        check_choice("backend", self.backend, BACKENDS)
        for name, count in (("slots", self.slots), ("pack_size", self.pack_size)):
            if count is not None and not (type(count) is int and count >= 1):
                raise ExperimentError(f"{name}: expected a whole number from 1 on, or None, found {count!r}")

    @property
    def is_elsewhere(self) -> bool:
        """Whether it joins a cluster that runs already."""
        return self.address not in {None, "local"}


def check_choice(name: str, found: str, allowed: Sequence[str]) -> None:
    """Raises ExperimentError for what is not allowed."""
    if found not in allowed:
        raise ExperimentError(f"{name}: expected one of {', '.join(allowed)}, found {found!r}")


Make = Callable[[Launch, "Images", "RawImages | None", "Backend"], "Executor"]


def _ray(launch: Launch, images: "Images", raw: "RawImages | None", backend: "Backend") -> "Executor":
    from oracle.execution.ray_tune import RayExecutor

    return RayExecutor(raw, address=launch.address, slots=launch.slots)


def _local(launch: Launch, images: "Images", raw: "RawImages | None", backend: "Backend") -> "Executor":
    from oracle.execution.local import LocalExecutor

    return LocalExecutor(images, slots=launch.slots, backend=backend)


# Made with the data on this machine's device, the data as stored (None for a folder of images), and the backend that is
# meant. Each imports what it needs when it is called.
EXECUTORS: Mapping[str, Make] = {"ray": _ray, "local": _local}
