"""An experiment: everything that is held fixed while the Oracle searches, read from YAML.

The classes below are the format: a key of the YAML is a field here, and nothing else is allowed. What does not change
the science (executor, backend, slots, where the data lie) is left to flags and does not enter the hash.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from oracle.errors import ExperimentError
from search_spaces.grids import MaxLrGrid

NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
SHA256 = r"^[0-9a-f]{64}$"
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Network(_Model):
    """An architecture of `oracle.networks.NETWORKS`; `weights` starts it from a safetensors file.

    What the file holds is part of the experiment's identity, where it lies is not: a search writes `weights_sha256`.
    """

    name: Annotated[str, Field(pattern=NAME)]
    weights: str | None = None
    weights_sha256: Annotated[str, Field(pattern=SHA256)] | None = None  # of the file


class Data(_Model):
    """A data set, and the part of its training images that is kept for validation.

    `path` is where the files lie. It is no part of the experiment's identity.
    """

    source: Literal["digits", "cifar10", "cifar100", "parquet", "folder"]
    path: str | None = None
    validation: PositiveInt = 5000  # images
    train: PositiveInt | None = None  # images to train on, fewer for a shortened run; None: all that are left
    augment: Literal["none", "crop-flip", "resized-crop-flip"] = "none"
    resolution: Annotated[int, Field(ge=1, le=4096)] | None = None  # pixels a side; None: as stored (a folder: 224)


class Pruning(_Model):
    """What is removed after each cycle, and what its survivors go back to."""

    method: Annotated[str, Field(pattern=NAME)] = "global_magnitude"
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.2  # fraction of the weights still there
    cycles: Annotated[int, Field(ge=0, le=1000)]
    rewind: Literal["none", "weights", "reinit"] = "none"
    rewind_step: Annotated[int, Field(ge=0)] = 0  # optimiser step of cycle 0; `rewind: weights` only
    prune_output: bool = True
    batch: PositiveInt = 512  # images for gradient scores

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
    low: Annotated[float, Field(ge=0)] = 0.0  # learning rate
    step: Annotated[float, Field(gt=0, le=1)] = 0.125  # fraction of training, half a triangle


class WarmUp(_Model):
    """Linear to max_lr over the warm-up, then a tenth of what it was at each drop.

    Lengths are fractions of training (`warmup`, `drops`) or epochs (`warmup_epochs`, `drop_epochs`), not both.
    """

    shape: Literal["warmup"]
    warmup: Fraction | None = None
    drops: tuple[Fraction, ...] | None = None
    warmup_epochs: Annotated[float, Field(ge=0)] | None = None
    drop_epochs: tuple[Annotated[float, Field(ge=0)], ...] | None = None

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
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4


class Adam(_Model):
    """Adam with L2 weight decay (not AdamW)."""

    name: Literal["adam"]
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    epsilon: PositiveFloat = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4


class Rmsprop(_Model):
    """RMSprop, not centred."""

    name: Literal["rmsprop"]
    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.99
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    epsilon: PositiveFloat = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4


Optimizer = Annotated[Sgd | Adam | Rmsprop, Field(discriminator="name")]


class Training(_Model):
    """How long one training is. The last, short batch of an epoch is dropped."""

    epochs: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: PositiveInt = 128
    precision: Literal["fp32", "fp64", "bf16"] = "fp32"  # bf16: autocast over fp32 weights
    clip_norm: PositiveFloat | None = None  # largest L2 norm of a candidate's gradient


class Experiment(_Model):
    """One Oracle experiment.

    >>> experiment = load_experiment("digits-mlp", overrides=["grid.points=8", "seeds=[0, 1]"])
    >>> experiment.num_trainings
    208
    """

    name: Annotated[str, Field(pattern=NAME)]
    network: Network
    data: Data
    pruning: Pruning
    schedule: Schedule
    optimizer: Optimizer
    training: Training
    grid: MaxLrGrid
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1)]
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.005  # fraction of accuracy: half a point
    diagnostics: bool = False
    peaks: tuple[PositiveFloat, ...] | None = None  # max_lr of each cycle, or one for all, in place of the grid

    @field_validator("peaks", mode="before")
    @classmethod
    def _one_number_is_for_all_cycles(cls, peaks: Any) -> Any:
        if isinstance(peaks, int | float):
            return (peaks,)
        if peaks is not None and not isinstance(peaks, list | tuple):
            raise ValueError(f"expected one max_lr, or a list of one for each cycle, found {peaks!r}")
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
        cycles = self.pruning.cycles + 1
        if self.peaks is not None and len(self.peaks) not in {1, cycles}:
            raise ValueError(f"peaks: expected one max_lr, or one for each of {cycles} cycles, found {len(self.peaks)}")
        return self

    def candidates(self, cycle: int) -> tuple[float, ...]:
        """The rates that are tried at a cycle: the grid's, before any growth, or the one that `peaks` fixes."""
        if self.peaks is None:
            return self.grid.candidates()
        return (self.peaks[cycle if len(self.peaks) > 1 else 0],)

    @property
    def num_trainings(self) -> int:
        """Trainings of a whole search, without what `grid.extend` may add: cycles + 1 times candidates times seeds."""
        return (self.pruning.cycles + 1) * len(self.candidates(0)) * len(self.seeds)

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
        return yaml.dump(self.model_dump(mode="json", exclude_defaults=True), Dumper=_Dumper, sort_keys=False)


def preset_names() -> list[str]:
    """Names of the experiments that ship with the package."""
    return sorted(file.name.removesuffix(".yaml") for file in _presets().iterdir() if file.name.endswith(".yaml"))


def load_experiment(name_or_path: str | Path, *, overrides: Sequence[str] = ()) -> Experiment:
    """Read a preset by its name, or a YAML file by its path, and change what `overrides` say ("grid.points=16").

    Raises ExperimentError, naming the key and what is allowed, where anything is not as the format asks.
    """
    where, text = _source(str(name_or_path))
    return experiment_from_yaml(text, where=where, overrides=overrides)


def experiment_from_yaml(text: str, *, where: str = "experiment", overrides: Sequence[str] = ()) -> Experiment:
    """Validate YAML text; `where` names it in messages. Raises ExperimentError."""
    fields = _parse(text, where)
    if not isinstance(fields, dict):
        raise ExperimentError(f"{where}: expected keys such as name, network and data, found {type(fields).__name__}")
    for override in overrides:
        _override(fields, override)
    try:
        plain = json.dumps(fields, default=str)
    except (TypeError, ValueError, RecursionError) as error:  # a key that is a date, an alias to its own parent
        raise ExperimentError(f"{where}: keys must be words, and no value may hold itself: {error}") from None
    try:
        return Experiment.model_validate_json(plain)
    except ValidationError as error:
        faults = [detail for detail in error.errors() if detail["type"] != "too_short" or not detail["input"]]
        lines = [_explain(detail, fields) for detail in faults]  # pydantic calls a list of wrong items too short, too
        raise ExperimentError("\n".join(f"{where}: {line}" for line in lines)) from None


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


def _presets() -> Any:
    return resources.files("search_spaces") / "presets"


def _source(name_or_path: str) -> tuple[str, str]:
    """Where an experiment is described (for messages), and the text."""
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        try:
            return str(path), path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ExperimentError(f"{path}: cannot be read: {error}") from None
    if name_or_path in preset_names():
        return f"preset {name_or_path}", (_presets() / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    near = difflib.get_close_matches(name_or_path, preset_names(), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ExperimentError(
        f"no preset is called {name_or_path!r}; {hint}`oracle presets` lists them; a file of your own ends in .yaml"
    )


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers: `1e-4` is one, `1:30` is not. No `010`, which older YAML takes for 8. No key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]  # <<: may be overridden
        keys = [self.construct_object(key, deep=True) for key in own]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key given twice: {', '.join(twice)}", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag not in {"tag:yaml.org,2002:float", "tag:yaml.org,2002:int"}
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9]\d*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would not read as text, such as the name 1e5."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: builds plain values only
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date in a month 13
        raise ExperimentError(f"{where}: is not YAML: {error}") from None


def _override(fields: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ExperimentError(f"--set {override}: expected key=value, such as grid.points=16")
    *parents, last = key.strip().split(".")
    for parent in parents:
        inner = fields.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ExperimentError(f"--set {override}: {parent} holds {inner!r} and has no keys of its own")
        fields = inner
    fields[last] = _parse(value, f"--set {override}")


_MODELS: Mapping[str, type[BaseModel]] = {
    "": Experiment, "network": Network, "data": Data, "pruning": Pruning, "training": Training, "grid": MaxLrGrid,
}  # fmt: skip
_CHOICES: Mapping[str, Mapping[str, type[BaseModel]]] = {
    "schedule": {
        "constant": Constant, "decay": Decay, "cosine": Cosine, "rex": Rex, "cyclical": Cyclical, "warmup": WarmUp,
    },
    "optimizer": {"sgd": Sgd, "adam": Adam, "rmsprop": Rmsprop},
}  # fmt: skip
_PATTERNS: Mapping[str, str] = {
    NAME: "use lower-case letters, digits, - and _, starting with a letter or digit, 64 at most",
    SHA256: "expected 64 hexadecimal digits, a to f in lower case, as sha256sum prints them",
}


def _explain(detail: Any, fields: Mapping[str, Any]) -> str:
    """One pydantic error as a line for people: the key, what was found, what is allowed."""
    path = [str(part) for part in detail["loc"]]
    if len(path) > 1 and path[1] in _CHOICES.get(path[0], {}):
        del path[1]  # pydantic names the chosen class between a field and its key
    key = ".".join(path)
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "missing":
        return f"{key}: is missing"
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key; {_allowed_keys(path[:-1], fields, path[-1])}"
    if detail["type"] in {"union_tag_not_found", "union_tag_invalid"}:
        selector = detail["ctx"]["discriminator"].strip("'")
        return f"{key}.{selector}: must be one of {', '.join(_CHOICES[key])}"
    if detail["type"] == "value_error":
        return f"{key}: {message}" if key else message
    if detail["type"] == "string_pattern_mismatch":
        message = _PATTERNS[detail["ctx"]["pattern"]]
    return f"{key}: found {detail['input']!r}: {message[:1].lower()}{message[1:]}"


def _allowed_keys(parents: list[str], fields: Mapping[str, Any], wrong: str) -> str:
    parent = ".".join(parents)
    if parent in _CHOICES:
        selector = {"schedule": "shape", "optimizer": "name"}[parent]
        model = _CHOICES[parent][fields[parent][selector]]
    else:
        model = _MODELS[parent]
    known = list(model.model_fields)
    near = difflib.get_close_matches(wrong, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}allowed: {', '.join(known)}"
