"""Experiments: what the YAML may say, what is refused and how, and the identity that a run's folder remembers."""

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle.errors import Error, ExperimentError
from oracle.experiment import (
    Search,
    differences,
    experiment_from_yaml,
    load_experiment,
    preset_names,
)

# A whole experiment that no preset can change under these tests.
TEXT = """
name: digits-mlp
network: {name: mlp-64x2}
data: {source: digits, validation: 500}
pruning: {method: global_magnitude, rate: 0.2, cycles: 12, rewind: weights}
schedule: {shape: warmup, warmup: 0.1, drops: [0.6, 0.85]}
optimizer: {name: sgd, momentum: 0.9, weight_decay: 1e-4}
training: {epochs: 24, batch_size: 64}
grid: {low: 1e-3, high: 1, points: 24, spacing: log}
seeds: [0, 1, 2, 3, 4]
"""


def read(*overrides):
    return experiment_from_yaml(TEXT, overrides=overrides)


def refusal(*overrides):
    with pytest.raises(ExperimentError) as caught:
        read(*overrides)
    assert isinstance(caught.value, Error)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


# What is refused, and what the message must name.


@pytest.mark.parametrize(
    ("override", "named"),
    [
        # unknown keys, with what is allowed
        ("gird=3", ["gird: unknown key", "did you mean grid?", "seeds"]),
        ("grid.point=3", ["grid.point: unknown key", "did you mean points?", "spacing"]),
        ("network.depth=3", ["network.depth: unknown key", "allowed: name, weights"]),
        ("data.validate=3", ["data.validate: unknown key", "did you mean validation?"]),
        ("pruning.rewind_steps=3", ["pruning.rewind_steps: unknown key", "did you mean rewind_step?"]),
        ("training.lr=3", ["training.lr: unknown key", "clip_norm"]),
        ("schedule.step=3", ["schedule.step: unknown key", "warmup_epochs"]),
        ("optimizer.betas=[0.9, 0.99]", ["optimizer.betas: unknown key", "allowed: name, momentum, weight_decay"]),
        ("optimizer={name: sgd, shape: round}", ["optimizer.shape: unknown key", "allowed: name, momentum"]),
        ("schedule={shape: constant, name: x}", ["schedule.name: unknown key", "allowed: shape"]),
        # wrong types
        ("training.epochs=ten", ["training.epochs: found 'ten'", "integer"]),
        ("training.epochs=2.5", ["training.epochs: found 2.5", "integer"]),
        ("training.epochs=true", ["training.epochs: found True", "integer"]),
        ("training.epochs=", ["training.epochs: found None", "integer"]),
        ("training.clip_norm=[1]", ["training.clip_norm: found [1]", "number"]),
        ("grid.points='16'", ["grid.points: found '16'", "integer"]),
        ("grid.points=true", ["grid.points: found True", "integer"]),
        ("grid.low='1e-3'", ["grid.low: found '1e-3'", "number"]),
        ("grid.extend=1", ["grid.extend: found 1", "boolean"]),
        ("data.path=5", ["data.path: found 5", "string"]),
        ("name=5", ["name: found 5", "string"]),
        ("seeds=3", ["seeds: found 3", "array"]),
        ("seeds=[0, one]", ["seeds.1: found 'one'", "integer"]),
        ("network=mlp-64x2", ["network: found 'mlp-64x2'", "object"]),
        ("schedule=constant", ["schedule: found 'constant'", "object"]),
        ("grid=[0.1, 0.2]", ["grid: found [0.1, 0.2]", "object"]),
        ("pruning.prune_output=maybe", ["pruning.prune_output: found 'maybe'", "boolean"]),
        # wrong range
        ("training.epochs=0", ["training.epochs: found 0", "greater than or equal to 1"]),
        ("training.epochs=100001", ["training.epochs: found 100001", "less than or equal to 100000"]),
        ("data.resolution=100000", ["data.resolution: found 100000", "less than or equal to 4096"]),
        ("training.batch_size=-1", ["training.batch_size: found -1", "greater than 0"]),
        ("training.clip_norm=0", ["training.clip_norm: found 0", "greater than 0"]),
        ("pruning.rate=0", ["pruning.rate: found 0", "greater than 0"]),
        ("pruning.rate=1", ["pruning.rate: found 1", "less than 1"]),
        ("pruning.rate=.nan", ["pruning.rate: found nan", "finite"]),
        ("pruning.rate=20", ["pruning.rate: found 20", "less than 1"]),
        ("pruning.cycles=-1", ["pruning.cycles: found -1", "greater than or equal to 0"]),
        ("pruning.cycles=1001", ["pruning.cycles: found 1001", "1000"]),
        ("pruning.rewind_step=-1", ["pruning.rewind_step: found -1", "greater than or equal to 0"]),
        ("tolerance=0", ["tolerance: found 0", "greater than 0"]),
        ("tolerance=1", ["tolerance: found 1", "less than 1"]),
        ("optimizer.momentum=1", ["optimizer.momentum: found 1", "less than 1"]),
        ("optimizer.weight_decay=-1", ["optimizer.weight_decay: found -1", "greater than or equal to 0"]),
        ("optimizer={name: adam, betas: [0.9]}", ["optimizer.betas.1"]),
        ("optimizer={name: adam, betas: [0.9, 1]}", ["optimizer.betas.1: found 1", "less than 1"]),
        ("schedule.warmup=1.1", ["schedule.warmup: found 1.1", "less than or equal to 1"]),
        ("schedule.drops=[0.5, 2]", ["schedule.drops.1: found 2", "less than or equal to 1"]),
        ("schedule={shape: decay, length: 0}", ["schedule.length: found 0", "greater than 0"]),
        ("schedule={shape: cyclical, step: 2}", ["schedule.step: found 2", "less than or equal to 1"]),
        ("seeds=[]", ["seeds: found []", "at least 1"]),
        ("seeds=[-1]", ["seeds.0: found -1", "greater than or equal to 0"]),
        ("seeds=[9223372036854775808]", ["seeds.0", "less than 9223372036854775808"]),  # Parquet holds int64
        ("grid.low=0", ["grid.low: found 0", "greater than 0"]),
        ("grid.high=.inf", ["grid.high: found inf", "finite"]),
        ("grid.points=0", ["grid.points: found 0", "greater than or equal to 1"]),
        # not one of those allowed
        ("data.source=mnist", ["data.source: found 'mnist'", "'digits'", "'parquet'"]),
        ("data.augment=flip", ["data.augment: found 'flip'", "'crop-flip'"]),
        ("pruning.rewind=some", ["pruning.rewind: found 'some'", "'weights'", "'reinit'"]),
        ("training.precision=fp16", ["training.precision: found 'fp16'", "'bf16'"]),
        ("schedule.shape=step", ["schedule.shape: must be one of constant, decay, cosine, rex, cyclical, warmup"]),
        ("schedule={}", ["schedule.shape: must be one of constant"]),
        ("schedule={shape: [warmup]}", ["schedule.shape: must be one of constant"]),
        ("optimizer.name=adamw", ["optimizer.name: must be one of sgd, adam, rmsprop"]),
        ("grid.spacing=cubic", ["grid.spacing: found 'cubic'", "'explicit'"]),
        # what does not go together
        ("seeds=[1, 2, 1]", ["seeds must differ", "[1, 2, 1]"]),
        ("pruning={cycles: 2, rewind: none, rewind_step: 5}", ["pruning: rewind_step goes with rewind: weights"]),
        ("schedule.warmup_epochs=3", ["schedule: warmup", "warmup_epochs", "give one"]),
        ("schedule.drop_epochs=[3]", ["schedule: drops", "drop_epochs", "give one"]),
        ("schedule.drops=[0.9, 0.5]", ["schedule: drops must ascend", "[0.9, 0.5]"]),
        ("grid={low: 0.2, high: 0.1, points: 3}", ["grid: low must be below high", "0.2", "0.1"]),
        ("grid={low: 0.1, high: 0.2, points: 1}", ["grid: one point cannot cover [0.1, 0.2]"]),
        ("grid={spacing: explicit}", ["grid: values and spacing: explicit go together"]),
        ("grid={values: [0.1]}", ["grid: values and spacing: explicit go together"]),
        ("grid={spacing: explicit, values: []}", ["grid: values must be at least one"]),
        ("grid={spacing: explicit, values: [0.2, 0.1]}", ["grid: values must be", "larger than the one before"]),
        ("grid={spacing: explicit, values: [0.1], low: 0.1}", ["grid: an explicit grid takes values alone"]),
        ("grid={low: 1, high: 1.00000000001, points: 3}", ["grid: 3 points", "too close"]),
        ("grid={low: 1, high: 1, points: 1, extend: true}", ["grid: extend needs at least two candidates"]),
        ("network.weights_sha256=abc", ["network.weights_sha256: found 'abc': expected 64 hexadecimal digits"]),
        # strategies
        ("search={strategy: grid, spacing: 3}", ["search: strategy grid takes no parameters, found spacing"]),
        ("search.keep=3", ["search: strategy grid takes no parameters, found keep"]),
        ("search=mine", ["search: found 'mine'", "object"]),
        ("search.strategy=3", ["search.strategy: found 3", "string"]),
        ("search.strategy=../x", ["search.strategy: found '../x': use lower-case letters"]),
        ("search={strategy: mine, keep: .nan}", ["search: keep: found nan", "finite numbers"]),
        ("search={strategy: mine, inner: {keep: [1, .inf]}}", ["search: inner: found {'keep': [1, inf]}", "finite"]),
        ("serach={strategy: mine}", ["serach: unknown key", "did you mean search?"]),
        # YAML that says something else than it seems to
        ("grid={low: 1e-3, low: 1e-2}", ["key given twice: low"]),
        ("grid={2020-01-01: 1}", ["keys must be words"]),
        ("grid=&x [*x]", ["no value may hold itself"]),
        ("name=2020-13-45", ["is not YAML", "month"]),
        ("grid={", ["is not YAML"]),
        ("grid=!!python/object/apply:os.getcwd []", ["is not YAML", "python/object"]),
    ],
)
def test_bad_input_is_refused_by_its_key_and_what_is_allowed(override, named):
    message = refusal(override)
    for part in named:
        assert part in message


@pytest.mark.parametrize(
    "name", ["..", ".", "../x", "a/b", "a/..", "A", "", "-a", "_a", "a.b", "a b", "ä", '"a\\n"', "a" * 65]
)
def test_a_name_that_could_leave_its_folder_is_refused(name):
    assert "name: found" in refusal(f"name={name or repr('')}")


@pytest.mark.parametrize("name", ["a", "0", "a-b_c", "1e5", "0x1f", "a" * 64])
def test_a_plain_name_is_taken(name):
    assert read(f"name='{name}'").name == name


@pytest.mark.parametrize("key", ["network.name", "pruning.method"])
def test_registry_names_follow_the_same_rule(key):
    assert f"{key}: found '../x'" in refusal(f"{key}=../x")


def test_several_mistakes_are_all_told_at_once():
    message = refusal("gird=3", "training.epochs=0", "schedule.warmup=2")
    assert len(message.splitlines()) == 3


def test_a_missing_part_is_named():
    without = "\n".join(line for line in TEXT.splitlines() if not line.startswith("training"))
    with pytest.raises(ExperimentError, match=r"^here: training: is missing$"):
        experiment_from_yaml(without, where="here")


@pytest.mark.parametrize("text", ["", "[1, 2]", "just words", "5", "null"])
def test_what_is_no_mapping_is_refused(text):
    with pytest.raises(ExperimentError, match="expected keys such as name, network and data"):
        experiment_from_yaml(text)


def test_a_key_given_twice_is_refused():
    with pytest.raises(ExperimentError, match="key given twice: tolerance"):
        experiment_from_yaml(TEXT + "tolerance: 0.01\ntolerance: 0.02\n")


def test_two_documents_are_refused():
    with pytest.raises(ExperimentError, match="is not YAML"):
        experiment_from_yaml(TEXT + "---\n" + TEXT)


# Lengths in epochs


@pytest.mark.parametrize(
    ("schedule", "named"),
    [
        ("{shape: warmup, warmup_epochs: 24.5}", "schedule.warmup_epochs: 24.5 epochs do not fit"),
        ("{shape: warmup, drop_epochs: [12, 25]}", "schedule.drop_epochs: 25 epochs do not fit"),
    ],
)
def test_lengths_in_epochs_that_exceed_the_training_are_refused(schedule, named):
    message = refusal(f"schedule={schedule}")
    assert named in message
    assert "training.epochs = 24" in message
    assert "fractions of training" in message


def test_lengths_in_epochs_may_fill_the_training():
    schedule = read("schedule={shape: warmup, warmup_epochs: 24, drop_epochs: [12, 24]}").schedule
    assert (schedule.warmup_epochs, schedule.drop_epochs) == (24, (12, 24))


# Numbers and overrides


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-4", 1e-4), ("1E-4", 1e-4), ("5e-1", 0.5), (".5", 0.5), ("0.5", 0.5), ("+0.5", 0.5), ("1.e-4", 1e-4)],
)
def test_scientific_notation_is_a_number(text, number):
    assert read(f"pruning.rate={text}").pruning.rate == number
    assert experiment_from_yaml(TEXT.replace("rate: 0.2", f"rate: {text}")).pruning.rate == number


@pytest.mark.parametrize("text", ["010", "1:30", "0x10", "1_000", "0b11"])
def test_what_yaml_of_old_takes_for_a_whole_number_is_refused(text):
    with pytest.raises(ExperimentError, match=r"training\.epochs"):
        read(f"training.epochs={text}")


def test_overrides_change_one_value_and_leave_its_neighbours():
    before, after = read(), read("grid.points=16")
    assert after.grid == before.grid.model_copy(update={"points": 16})
    assert after.model_copy(update={"grid": before.grid}) == before


def test_overrides_replace_lists_and_whole_parts():
    assert read("seeds=[7, 8]").seeds == (7, 8)
    assert read("schedule.drops=[0.1, 0.2, 0.3]").schedule.drops == (0.1, 0.2, 0.3)
    assert read("schedule={shape: rex}").schedule.model_dump() == {"shape": "rex"}


def test_overrides_make_parts_that_the_file_leaves_out_and_the_last_one_holds():
    without = "\n".join(line for line in TEXT.splitlines() if not line.startswith("grid"))
    grid = experiment_from_yaml(without, overrides=["grid.points=3", "grid.high=0.5", "grid.points=5"]).grid
    assert (grid.low, grid.high, grid.points) == (1e-4, 0.5, 5)


@pytest.mark.parametrize("override", ["seeds.0=3", "name.first=x", "tolerance.a.b=1"])
def test_an_override_into_a_value_without_keys_is_refused(override):
    text = TEXT + "tolerance: 0.01\n"
    with pytest.raises(ExperimentError, match="has no keys of its own"):
        experiment_from_yaml(text, overrides=[override])


@pytest.mark.parametrize("override", ["grid.points", "=3", ""])
def test_an_override_without_key_or_value_is_refused(override):
    assert "expected key=value, such as grid.points=16" in refusal(override)


def test_values_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        read().tolerance = 0.5


# Files


def test_an_experiment_is_read_from_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    assert load_experiment(path, overrides=["name=mine"]) == read("name=mine")


@pytest.mark.parametrize("kind", ["missing", "directory", "latin-1"])
def test_a_file_that_cannot_be_read_is_refused_by_its_path(tmp_path, kind):
    path = tmp_path / "mine.yaml"
    if kind == "directory":
        path.mkdir()
    elif kind == "latin-1":
        path.write_bytes("# Größe\n".encode("latin-1"))
    with pytest.raises(ExperimentError, match="cannot be read") as caught:
        load_experiment(path)
    assert str(path) in str(caught.value)


def test_messages_name_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT + "gird: 3\n")
    with pytest.raises(ExperimentError, match=r"mine\.yaml: gird: unknown key"):
        load_experiment(path)


def test_an_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(ExperimentError, match="did you mean digits-mlp") as caught:
        load_experiment("digit-mlp")
    assert "oracle presets" in str(caught.value)


# Identity


def test_name_of_the_default_experiment_has_not_changed():
    assert read().hash == "5211ec8d4c9ac6f2"


def test_hash_is_of_the_fields_that_differ_from_their_defaults():
    fields = {
        "data": {"source": "digits", "validation": 500},
        "grid": {"high": 1.0, "low": 0.001, "points": 24, "spacing": "log"},
        "name": "digits-mlp",
        "network": {"name": "mlp-64x2"},
        "optimizer": {"name": "sgd"},
        "pruning": {"cycles": 12, "rewind": "weights"},
        "schedule": {"drops": [0.6, 0.85], "shape": "warmup", "warmup": 0.1},
        "seeds": [0, 1, 2, 3, 4],
        "training": {"batch_size": 64, "epochs": 24},
    }
    assert read().identity() == fields
    assert read().hash == hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    "override",
    [
        "tolerance=0.005",
        "diagnostics=false",
        "pruning.prune_output=true",
        "pruning.rewind_step=0",
        "data.augment=none",
        "data.resolution=",
        "network.weights=",
        "grid.extend=false",
        "grid.max_extra=24",
        "training.precision=fp32",
        "optimizer={name: sgd}",
        "schedule.warmup_epochs=",
    ],
)
def test_a_field_at_its_default_does_not_enter_the_hash(override):
    assert read(override).hash == read().hash


def test_where_the_data_lie_does_not_enter_the_hash():
    assert read("data.path=/somewhere").hash == read("data.path=elsewhere").hash == read().hash


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("grid.high=1", "grid.high=1.0"),
        ("grid.low=1e-3", "grid.low=0.001"),
        ("grid={spacing: explicit, values: [1, 2]}", "grid={spacing: explicit, values: [1.0, 2e0]}"),
        ("training.clip_norm=1", "training.clip_norm=1.0"),
        ("optimizer.weight_decay=0", "optimizer.weight_decay=0.0"),
        ("schedule.drops=[0, 1]", "schedule.drops=[0.0, 1.0]"),
    ],
)
def test_spelling_of_a_number_does_not_change_the_hash(one, other):
    assert read(one).hash == read(other).hash


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "network.name=fc-256x3",
        "network.weights=w.safetensors",
        "data.validation=501",
        "pruning.rate=0.21",
        "pruning.cycles=13",
        "schedule.warmup=0.2",
        "schedule.drops=[0.6]",
        "optimizer.momentum=0.8",
        "training.epochs=25",
        "grid.points=25",
        "seeds=[0, 1, 2, 3]",
        "tolerance=0.01",
    ],
)
def test_every_change_of_the_science_changes_the_hash(override):
    assert read(override).hash != read().hash


def test_differences_name_the_fields_and_both_values():
    lines = differences(read().identity(), read("grid.points=8", "tolerance=0.01").identity())
    assert lines == ["grid.points: 24 there, 8 asked for", "tolerance: (default) there, 0.01 asked for"]
    assert differences(read().identity(), read("data.path=x").identity()) == []


# The strategy


@pytest.mark.parametrize("override", ["search={strategy: grid}", "search={}", "search.strategy=grid"])
def test_the_default_strategy_is_the_same_experiment_as_none(override):
    plain, named = read(), read(override)
    assert named == plain
    assert named.hash == plain.hash == "5211ec8d4c9ac6f2"
    assert named.identity() == plain.identity()
    assert named.to_yaml() == plain.to_yaml()
    assert "search" not in plain.to_yaml()
    assert (plain.search.strategy, plain.search.parameters) == ("grid", {})


MINE = "{strategy: mine, keep: 2, weights: [1.5, 2], inner: {flag: true, name: '1e5', nothing: }}"


def test_a_strategy_keeps_its_parameters_through_yaml():
    experiment = read(f"search={MINE}")
    assert experiment.search.strategy == "mine"
    parameters = {"keep": 2, "weights": [1.5, 2], "inner": {"flag": True, "name": "1e5", "nothing": None}}
    assert experiment.search.parameters == parameters
    assert [type(value) for value in experiment.search.parameters["weights"]] == [float, int]
    again = experiment_from_yaml(experiment.to_yaml())
    assert again == experiment
    assert again.hash == experiment.hash
    assert again.search.parameters == parameters
    assert experiment.identity()["search"] == {"strategy": "mine"} | parameters


def test_parameters_are_handed_out_as_a_copy():
    experiment = read(f"search={MINE}")
    experiment.search.parameters["weights"].append(3)
    experiment.search.parameters["keep"] = 3
    assert experiment == read(f"search={MINE}")


def test_strategy_and_parameters_can_be_set_one_by_one():
    assert read("search.strategy=mine").search.strategy == "mine"
    assert read("search.strategy=mine", "search.keep=2") == read("search={strategy: mine, keep: 2}")
    assert read("search.strategy=mine", "search.parameters=5").search.parameters == {"parameters": 5}


@pytest.mark.parametrize("override", ["search.strategy=mine", f"search={MINE}"])
def test_another_strategy_is_another_experiment(override):
    assert read(override).hash != read().hash
    assert read("search.strategy=mine").hash != read(f"search={MINE}").hash


def test_differences_name_a_strategys_parameters():
    lines = differences(read("search={strategy: mine, keep: 2}").identity(), read("search.strategy=mine").identity())
    assert lines == ["search.keep: 2 there, (default) asked for"]


def test_a_strategy_in_code_takes_plain_parameters_alone():
    assert Search(strategy="mine", keep=2).parameters == {"keep": 2}
    with pytest.raises(ValueError, match="keep: found <object object"):
        Search(strategy="mine", keep=object())


# Presets and YAML out


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_called_as_its_file_and_survives_yaml(name):
    experiment = load_experiment(name)
    assert experiment.name == name
    again = experiment_from_yaml(experiment.to_yaml())
    assert again == experiment
    assert again.hash == experiment.hash


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_can_be_shortened_to_one_epoch(name):
    assert load_experiment(name, overrides=["training.epochs=1"]).training.epochs == 1


def test_the_shipped_presets_are_there():
    assert {"digits-mlp", "fc-cifar10", "fc-cifar10-small"} <= set(preset_names())


@settings(deadline=None, max_examples=60)
@given(
    name=st.from_regex(r"\A[a-z0-9][a-z0-9_-]{0,12}\Z"),  # 1e5 and 0x1f among them: numbers in YAML, if not quoted
    path=st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12),
    rate=st.floats(1e-300, 1, exclude_max=True),
    values=st.lists(st.floats(1e-12, 1e12), min_size=1, max_size=5, unique=True).map(sorted),
)
def test_yaml_out_is_the_experiment_that_went_in(name, path, rate, values):
    fields = read().model_dump(mode="json", exclude_defaults=True)
    fields["name"], fields["pruning"]["rate"] = name, rate
    fields["network"]["weights"], fields["data"]["path"] = path, path
    fields["grid"] = {"spacing": "explicit", "values": values}
    experiment = experiment_from_yaml(json.dumps(fields))  # JSON is YAML
    again = experiment_from_yaml(experiment.to_yaml())
    assert again == experiment
    assert again.hash == experiment.hash
