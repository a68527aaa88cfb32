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

BackendChoice = Literal["auto", "plain", "pack"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Who trains, and how. ExperimentError where a value is none of those allowed."""

    executor: str = "ray"  # a key of EXECUTORS
    address: str | None = None  # of a cluster; None: one of this process's own
    slots: int | None = None  # packs at a time; None: all that fit
    backend: BackendChoice = "auto"
    pack_size: int | None = None  # candidates in a pack, at most; None: as the search sees fit

    def __post_init__(self) -> None:
        check_choice("executor", self.executor, tuple(EXECUTORS))
        if self.address is not None and not EXECUTORS[self.executor].joins_clusters:
            raise ExperimentError(
                f"address: found {self.address}, but the {self.executor} executor trains in this process; leave one out"
            )
        check_choice("backend", self.backend, get_args(BackendChoice))
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


def _nothing() -> None:
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """An executor, before it is made: what flags and estimates must know of it."""

    make: Make  # from the data on this machine's device, the same as stored (None: a folder), the backend that is meant
    joins_clusters: bool  # whether it takes an address
    round_seconds: float  # what every round of trainings costs beside them, on two cores
    load: Callable[[], None] = _nothing  # imports what `make` needs, where that takes a while


def _load_ray() -> None:
    import oracle.execution.ray_tune  # noqa: F401


def _make_ray(launch: Launch, images: "Images", raw: "RawImages | None", backend: "Backend") -> "Executor":
    from oracle.execution.ray_tune import RayExecutor

    return RayExecutor(raw, address=launch.address, slots=launch.slots)


def _make_local(launch: Launch, images: "Images", raw: "RawImages | None", backend: "Backend") -> "Executor":
    from oracle.execution.local import LocalExecutor

    return LocalExecutor(images, slots=launch.slots, backend=backend)


# Each imports what it needs when it is made, or before. Ray: a fit's actors start, and torch is imported.
EXECUTORS: Mapping[str, Kind] = {
    "ray": Kind(make=_make_ray, joins_clusters=True, round_seconds=6.0, load=_load_ray),
    "local": Kind(make=_make_local, joins_clusters=False, round_seconds=0.0),
}
