"""What happens during a run, as plain data. Whoever wants to know is a listener: a callable that takes an event."""

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """A run begins, or goes on."""

    name: str  # of the experiment
    experiment: str  # its hash
    folder: str  # where the run lies
    cycles: int  # cycle 0, the dense network, included
    candidates: int  # of a cycle's first round
    seeds: int
    trials: int  # that a cycle is likely to take


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFinished:
    """A training is over and its row committed. Names and units as in the trials' table."""

    cycle: int
    seed: int
    max_lr: float
    outcome: str
    weights_remaining: float
    val_accuracy: float | None
    val_loss: float | None
    test_accuracy: float | None
    best_epoch: int | None
    seconds: float | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "TrialFinished":
        """From a row of the trials' table."""
        return cls(**{field.name: row[field.name] for field in dataclasses.fields(cls)})


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleStarted:
    """A cycle that is not finished is worked on."""

    cycle: int
    done: tuple[TrialFinished, ...]  # in earlier runs


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStarted:
    """Trials of a cycle have no rows yet, or their weights are lost, and are now trained."""

    cycle: int
    packs: int
    trials: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PackProgress:
    """A part of a pack is trained."""

    pack: str  # its name
    done: float  # fraction; 1 once its rows are there


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleFinished:
    """A cycle is finished, now or in an earlier run."""

    row: Mapping[str, Any]  # as in oracle.parquet


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that a person should know."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded:
    """The run is over: `stopped` by a person or a cancelled token, `failed` by anything else."""

    outcome: Literal["finished", "stopped", "failed"]


Event = RunStarted | CycleStarted | TrainingStarted | TrialFinished | PackProgress | CycleFinished | Notice | RunEnded
Listener = Callable[[Event], None]
KINDS: Mapping[str, type] = {kind.__name__: kind for kind in get_args(Event)}


class Broadcast:
    """Tells every listener every event, one at a time, from whatever thread. One that fails is named once, and told on."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        """`listeners`: in the order in which they are told."""
        self._listeners = tuple(listeners)
        self._failed: set[int] = set()  # positions of listeners
        self._lock = threading.RLock()  # a notice of a failure is told while its event still is

    def __call__(self, event: Event) -> None:
        """Tell `event`. Never raises what a listener raises."""
        with self._lock:
            for position, listener in enumerate(self._listeners):
                try:
                    listener(event)
                except Exception as error:
                    if position not in self._failed:
                        self._failed.add(position)
                        self(Notice(text=f"{_name(listener)} failed, and the search goes on: {error or repr(error)}"))


class CancelToken:
    """Asks a search to stop, from any thread. Trainings look at it between epochs; what is finished is kept."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask. There is no way back."""
        self._event.set()

    def is_cancelled(self) -> bool:
        """Whether somebody has asked."""
        return self._event.is_set()


def to_plain(event: Event) -> dict[str, Any]:
    """An event as plain values, with its kind under `event`.

    >>> to_plain(PackProgress(pack="c000-s0", done=0.5))
    {'event': 'PackProgress', 'pack': 'c000-s0', 'done': 0.5}
    """
    return {"event": type(event).__name__, **asdict(event)}


def from_plain(fields: Mapping[str, Any]) -> Event | None:
    """What `to_plain` gave, after JSON too; None for a kind, or fields, that this version does not know."""
    kind = KINDS.get(str(fields.get("event")))
    if kind is None:
        return None
    known = {field.name: fields[field.name] for field in dataclasses.fields(kind) if field.name in fields}
    try:
        if kind is CycleStarted:
            known["done"] = tuple(TrialFinished.of(row) for row in known["done"])
        event: Event = kind(**known)
    except (TypeError, KeyError):  # a field without a default is missing, or is something else
        return None
    return event


def _name(listener: Listener) -> str:
    return str(getattr(listener, "__name__", type(listener).__name__))
