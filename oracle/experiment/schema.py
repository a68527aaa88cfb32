"""An experiment: everything that is held fixed while the Oracle searches.

The classes below are the format: a key of the YAML is a field here, and nothing else is allowed. What does not change
the science (executor, backend, slots, where the data lie) is left to flags and does not enter the hash.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from oracle.errors import ExperimentError
from oracle.experiment import dialect
from oracle.experiment.dialect import cut
from search_spaces.grids import MOST_RATE, MaxLrGrid, Rate

NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"  # of an experiment, a network, a method, a strategy: also names folders
SHA256 = r"^[0-9a-f]{64}$"  # as sha256sum prints it
Fraction = Annotated[float, Field(ge=0, le=1)]

# Bounds far beyond what anybody trains with: numbers that float32 and 64-bit integers hold, and texts and lists that can
# be written, read and told.
MOST_IMAGES = 10**9
MOST_EPOCHS = 100_000
MOST_SEEDS = 10_000
MOST_DROPS = 1_000
MOST_SPACING = 10_000
MOST_ROUNDS = 100
LEAST_FLOAT, MOST_FLOAT = 1e-30, 1e30
Images = Annotated[int, Field(gt=0, le=MOST_IMAGES)]
Epochs = Annotated[float, Field(ge=0, le=MOST_EPOCHS)]
WeightDecay = Annotated[float, Field(ge=0, le=MOST_FLOAT)]
Positive = Annotated[float, Field(ge=LEAST_FLOAT, le=MOST_FLOAT)]  # below, float32 may take it for 0


def _without_nul(path: str) -> str:
    if "\0" in path:
        raise ValueError(f"{cut(repr(path))} holds a NUL character, which no path can")
    return path


FilePath = Annotated[
    str, Field(max_length=4096), AfterValidator(_without_nul)
]  # or an address, such as s3://bucket/key


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Network(_Model):
    """An architecture of `oracle.networks.NETWORKS`; `weights` starts it from a safetensors file.

    What the file holds is part of the experiment's identity, where it lies is not: a search writes `weights_sha256`.
    """

    name: Annotated[str, Field(pattern=NAME)]
    weights: FilePath | None = None
    weights_sha256: Annotated[str, Field(pattern=SHA256)] | None = None  # of the file


class Data(_Model):
    """A data set, and the part of its training images that is kept for validation.

    `path` is where the files lie. It is no part of the experiment's identity.
    """

    source: Literal["digits", "cifar10", "cifar100", "parquet", "folder"]
    path: FilePath | None = None
    validation: Images = 5000
    train: Images | None = None  # to train on, fewer for a shortened run; None: all that are left
    augment: Literal["none", "crop-flip", "resized-crop-flip"] = "none"
    resolution: Annotated[int, Field(ge=1, le=4096)] | None = None  # pixels a side; None: as stored (a folder: 224)


class Pruning(_Model):
    """What is removed after each cycle, and what its survivors go back to."""

    method: Annotated[str, Field(pattern=NAME)] = "global_magnitude"
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.2  # fraction of the weights still there
    cycles: Annotated[int, Field(ge=0, le=1000)]
    rewind: Literal["none", "weights", "reinit"] = "none"
    rewind_step: Annotated[int, Field(ge=0, le=MOST_EPOCHS * MOST_IMAGES)] = (
        0  # optimiser step of cycle 0; `rewind: weights` only
    )
    prune_output: bool = True
    batch: Images = 512  # for gradient scores

    @model_validator(mode="after")
    def _step_belongs_to_weights(self) -> Self:
        if self.rewind_step and self.rewind != "weights":
            raise ValueError(f"rewind_step goes with rewind: weights, found rewind: {self.rewind}")
        return self


class Constant(_Model):
    """max_lr throughout."""

    shape: Literal["constant"]


class Decay(_Model):
    """Linear from max_lr to 0 over `length`, 0 after."""

    shape: Literal["decay"]
    length: Annotated[float, Field(gt=0, le=1)] = 1.0  # fraction of training


class Cosine(_Model):
    """Half a cosine from max_lr to 0, after a linear warm-up where one is asked for."""

    shape: Literal["cosine"]
    warmup: Fraction = 0.0  # fraction of training


class Rex(_Model):
    """REX: max_lr (1 - z) / (1 - z / 2), z the fraction of training done."""

    shape: Literal["rex"]


class Cyclical(_Model):
    """Triangles between `low` and max_lr, each leg `step` long."""

    shape: Literal["cyclical"]
    low: Annotated[float, Field(ge=0, le=MOST_RATE)] = 0.0
    step: Annotated[float, Field(gt=0, le=1)] = 0.125  # fraction of training, half a triangle


class WarmUp(_Model):
    """Linear to max_lr over the warm-up, then a tenth of what it was at each drop.

    Lengths are fractions of training (`warmup`, `drops`) or epochs (`warmup_epochs`, `drop_epochs`), not both.
    """

    shape: Literal["warmup"]
    warmup: Fraction | None = None
    drops: Annotated[tuple[Fraction, ...], Field(max_length=MOST_DROPS)] | None = None
    warmup_epochs: Epochs | None = None
    drop_epochs: Annotated[tuple[Epochs, ...], Field(max_length=MOST_DROPS)] | None = None

    @model_validator(mode="after")
    def _one_unit_each(self) -> Self:
        for fraction, epochs in (("warmup", "warmup_epochs"), ("drops", "drop_epochs")):
            if getattr(self, fraction) is not None and getattr(self, epochs) is not None:
                raise ValueError(f"{fraction} (fraction of training) and {epochs} say the same: give one")
        drops = self.drops or self.drop_epochs or ()
        if list(drops) != sorted(drops):
            raise ValueError(f"drops must ascend, found {list(drops)}")
        return self


Schedule = Annotated[Constant | Decay | Cosine | Rex | Cyclical | WarmUp, Field(discriminator="shape")]


class Sgd(_Model):
    """Stochastic gradient descent with heavy-ball momentum."""

    name: Literal["sgd"]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: WeightDecay = 1e-4


class Adam(_Model):
    """Adam with L2 weight decay (not AdamW)."""

    name: Literal["adam"]
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    epsilon: Positive = 1e-8
    weight_decay: WeightDecay = 1e-4


class Rmsprop(_Model):
    """RMSprop, not centred."""

    name: Literal["rmsprop"]
    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.99
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    epsilon: Positive = 1e-8
    weight_decay: WeightDecay = 1e-4


Optimizer = Annotated[Sgd | Adam | Rmsprop, Field(discriminator="name")]


class Training(_Model):
    """How long one training is. The last, short batch of an epoch is dropped."""

    epochs: Annotated[int, Field(ge=1, le=MOST_EPOCHS)]
    batch_size: Images = 128
    precision: Literal["fp32", "fp64", "bf16"] = "fp32"  # bf16: autocast over fp32 weights
    clip_norm: Positive | None = None  # largest L2 norm of a candidate's gradient
    autolrs: bool = False  # rates are chosen on the way, up to max_lr: `oracle.training.autolrs`; schedule: constant


class Search(_Model):
    """The strategy that chooses what is trained, and its parameters: the other keys, plain values (all that JSON holds).

    >>> Search(strategy="mine", keep=2, weights=[1.5, 2]).parameters
    {'keep': 2, 'weights': [1.5, 2]}
    """

    model_config = ConfigDict(extra="allow")  # the rest as in _Model

    strategy: Annotated[str, Field(pattern=NAME)] = "grid"

    @model_validator(mode="after")
    def _parameters_are_plain(self) -> Self:
        parameters = self.model_extra or {}
        if self.strategy == "grid" and parameters:
            raise ValueError(f"strategy grid takes no parameters, found {cut(', '.join(parameters))}")
        for key, value in parameters.items():
            try:
                dialect.dump(json.loads(json.dumps({key: value}, allow_nan=False)))
            except ExperimentError as error:  # more of it than is read back
                raise ValueError(f"{cut(key)}: {error}") from None
            except (TypeError, ValueError, RecursionError):
                raise ValueError(
                    f"{cut(key)}: found {_shown(value)}, expected text, finite numbers, true, false, null, or lists "
                    "and mappings of these"
                ) from None
        return self

    @property
    def parameters(self) -> dict[str, Any]:
        """A copy of what the strategy is told beside its name."""
        return self.model_dump(exclude={"strategy"})


class AdaptiveSearch(_Model):
    """The strategy adaptive: few candidates, the accuracy curve between them, and more where they decide something."""

    strategy: Literal["adaptive"]
    spacing: Annotated[int, Field(ge=1, le=MOST_SPACING)] = 3  # candidates from one that is tried first to the next
    rounds: Annotated[int, Field(ge=1, le=MOST_ROUNDS)] = 2  # of a cycle, at most
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95  # of sure and possible ends

    @property
    def parameters(self) -> dict[str, Any]:
        """What the strategy is told beside its name."""
        return self.model_dump(exclude={"strategy"})


def _search_tag(search: Any) -> str:
    strategy = search.get("strategy") if isinstance(search, Mapping) else getattr(search, "strategy", None)
    return "adaptive" if strategy == "adaptive" else "other"


# A strategy with parameters of its own that are checked here, or any other.
AnySearch = Annotated[
    Annotated[AdaptiveSearch, Tag("adaptive")] | Annotated[Search, Tag("other")], Discriminator(_search_tag)
]


def _shown(value: object) -> str:
    try:
        return cut(repr(value))
    except (ValueError, RecursionError):  # a number of 10,000 digits, lists 1,000 deep
        return f"a {type(value).__name__}"


class Experiment(_Model):
    """One Oracle experiment.

    >>> from oracle.experiment import load_experiment
    >>> experiment = load_experiment("digits-mlp", overrides=["grid.points=8", "seeds=[0, 1]"])
    >>> len(experiment.candidates(0)), len(experiment.seeds)
    (8, 2)
    """

    name: Annotated[str, Field(pattern=NAME)]
    network: Network
    data: Data
    pruning: Pruning
    schedule: Schedule
    optimizer: Optimizer
    training: Training
    grid: MaxLrGrid
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1, max_length=MOST_SEEDS)]
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.005  # fraction of accuracy: half a point
    diagnostics: bool = False
    search: AnySearch = Search()
    peaks: tuple[Rate, ...] | None = None  # max_lr of each cycle, or one for all, in place of the grid

    @field_validator("peaks", mode="before")
    @classmethod
    def _one_number_is_for_all_cycles(cls, peaks: Any) -> Any:
        if isinstance(peaks, int | float):
            return (peaks,)
        if peaks is not None and not isinstance(peaks, list | tuple):
            raise ValueError(f"expected one max_lr, or a list of one for each cycle, found {cut(repr(peaks))}")
        return peaks if peaks is None else tuple(peaks)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must differ, found {list(self.seeds)}")
        if isinstance(self.schedule, WarmUp):
            epochs = {"warmup_epochs": self.schedule.warmup_epochs or 0.0}
            epochs |= {"drop_epochs": max(self.schedule.drop_epochs or (0.0,))}
            for key, value in epochs.items():
                if value > self.training.epochs:
                    raise ValueError(
                        f"schedule.{key}: {value:g} epochs do not fit into training.epochs = {self.training.epochs}; "
                        f"fractions of training ({key.replace('_epochs', '').replace('drop', 'drops')}) scale with it"
                    )
        if isinstance(self.schedule, Cyclical) and self.schedule.low and self.grid.extend:
            raise ValueError(
                f"grid.extend may try a max_lr below schedule.low = {self.schedule.low:g}: set one of them to its default"
            )
        if self.training.autolrs and not isinstance(self.schedule, Constant):
            raise ValueError(
                "training.autolrs: chooses every rate itself, up to max_lr, so schedule must be {shape: constant}; found "
                f"{self.schedule.shape}"
            )
        if self.peaks is not None and isinstance(self.search, AdaptiveSearch):
            raise ValueError(
                "peaks: fixes the max_lr of every cycle, and search.strategy adaptive searches: leave one out"
            )
        cycles = self.pruning.cycles + 1
        if self.peaks is not None and len(self.peaks) not in {1, cycles}:
            raise ValueError(f"peaks: expected one max_lr, or one for each of {cycles} cycles, found {len(self.peaks)}")
        return self

    def candidates(self, cycle: int) -> tuple[float, ...]:
        """The rates of a cycle before any growth: the grid's, or the one that `peaks` fixes.

        `grid.extend` may add to them, and a strategy other than grid may train some of them, or others.
        """
        if self.peaks is None:
            return self.grid.candidates()
        return (self.peaks[cycle if len(self.peaks) > 1 else 0],)

    @property
    def hash(self) -> str:
        """Identity: 16 hex digits of SHA-256 over all fields that differ from their defaults, but `data.path`
        and `diagnostics`, which change no number."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]

    def identity(self) -> dict[str, Any]:
        """What makes this experiment this one, as plain values; the fields left out are at their defaults."""
        fields: dict[str, Any] = self.model_dump(mode="json", exclude_defaults=True)
        fields["data"].pop("path", None)
        if self.network.weights_sha256 is not None:
            fields["network"].pop("weights", None)
        fields["seeds"].sort()
        fields.pop("diagnostics", None)  # looks at what was trained, and changes nothing in it
        return fields

    def to_yaml(self) -> str:
        """The experiment in the format that `load_experiment` reads."""
        return dialect.dump(self.model_dump(mode="json", exclude_defaults=True))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The fields in which two identities differ, one readable line each."""
    lines = []
    for key in [*old, *(key for key in new if key not in old)]:
        was, now = old.get(key, "(default)"), new.get(key, "(default)")
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            lines += differences(was, now, f"{prefix}{key}.")
        elif was != now:
            lines.append(f"{prefix}{key}: {was} there, {now} asked for")
    return lines
