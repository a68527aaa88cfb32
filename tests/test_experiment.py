"""Experiments: what the YAML may say, what is refused and how, and the identity that a run's folder remembers."""

import functools
import hashlib
import json
import os
import random
import re
import socket
import tracemalloc

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
from oracle.training import train

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


def short(value):
    """Of a text that is too long for a test's name, the start."""
    return value[:30] if isinstance(value, str) else None


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
        ("training.clip_norm=0", ["training.clip_norm: found 0", "greater than or equal to 1e-30"]),
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
        ("grid.low=0", ["grid.low: found 0", "greater than or equal to 1e-30"]),
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
        ("grid=!!python/object/apply:os.getcwd []", ["line 1: found the tag !!python/object/apply:os.getcwd"]),
        ("grid=*x", ["is not YAML", "undefined alias 'x'"]),
        ("grid={<<: 3}", ["is not YAML", "expected a mapping or list of mappings for merging"]),
        ("grid={[1]: 2}", ["keys must be words, found a list"]),
        ("grid={{a: 1}: 2}", ["keys must be words, found a mapping"]),
        ("search={strategy: mine, 1: a, '1': b}", ["key given twice: 1"]),
        ("search={strategy: mine, null: a, 'null': b}", ["key given twice: null"]),
        ("grid={<<: {low: 1, low: 2}}", ["key given twice: low"]),
        ('data.path="\\ud800"', ["is not UTF-8 text", "half of a surrogate pair"]),
        ('data.path="a\\0b"', ["data.path: 'a\\x00b' holds a NUL character"]),
        ('network.weights="a\\0b"', ["network.weights: 'a\\x00b' holds a NUL character"]),
        ("da\udcffta=1", ["its key is not UTF-8 text"]),
        ("name=da\udcffta", ["is not YAML", "special characters are not allowed"]),
    ],
)
def test_bad_input_is_refused_by_its_key_and_what_is_allowed(override, named):
    message = refusal(override)
    for part in named:
        assert part in message


# Numbers that float32 and 64-bit integers do not hold

HUGE = ["1" + "0" * 400, str(10**50), str(2**63)]
WHOLE = [
    "data.validation",
    "data.train",
    "data.resolution",
    "pruning.cycles",
    "pruning.rewind_step",
    "pruning.batch",
    "training.epochs",
    "training.batch_size",
    "grid.points",
    "grid.max_extra",
]
REAL = [
    "pruning.rate",
    "schedule.warmup",
    "optimizer.momentum",
    "optimizer.weight_decay",
    "training.clip_norm",
    "grid.low",
    "grid.high",
    "tolerance",
]


@pytest.mark.parametrize("number", HUGE, ids=short)
@pytest.mark.parametrize("key", WHOLE)
def test_a_whole_number_beyond_64_bits_is_refused_by_its_key(key, number):
    message = refusal(f"{key}={number}")
    assert f"{key}: found {number[:20]}" in message
    assert "input should be less than or equal to" in message


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1e308", "3.5e38", "-1e308", "1e999", ".inf", ".nan"], ids=short)
@pytest.mark.parametrize("key", REAL)
def test_a_number_beyond_float32_is_refused_by_its_key(key, number):
    assert f"{key}: found " in refusal(f"{key}={number}")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("seeds=[1{zeros}]", "seeds.0: found 1"),
        ("peaks=1e308", "peaks.0: found 1e+308: input should be less than or equal to 1e+20"),
        ("peaks=1e-320", "peaks.0: found 1e-320: input should be greater than or equal to 1e-30"),
        ("peaks=[1{zeros}]", "peaks.0: found 1"),
        ("optimizer.weight_decay=1e308", "found 1e+308: input should be less than or equal to 1e+30"),
        ("optimizer={name: adam, epsilon: 1e308}", "optimizer.epsilon: found 1e+308"),
        ("optimizer={name: adam, epsilon: 1e-320}", "optimizer.epsilon: found 1e-320"),  # 0 in float32: 0 / 0
        ("optimizer={name: rmsprop, epsilon: 1e-46}", "optimizer.epsilon: found 1e-46"),
        ("optimizer={name: rmsprop, weight_decay: 1e308}", "optimizer.weight_decay: found 1e+308"),
        ("training.clip_norm=1e-320", "training.clip_norm: found 1e-320"),
        ("schedule={shape: cyclical, low: 1e308}", "schedule.low: found 1e+308"),
        ("schedule={shape: warmup, warmup_epochs: 1e308}", "schedule.warmup_epochs: found 1e+308"),
        ("schedule={shape: warmup, drop_epochs: [1e308]}", "schedule.drop_epochs.0: found 1e+308"),
        ("grid.low=1e-320", "grid.low: found 1e-320"),  # high / low overflows
        ("grid={spacing: explicit, values: [1, 1e308]}", "grid.values.1: found 1e+308"),
        ("training.epochs=1{digits}", "a number has 5,001 digits, expected at most 1,000"),
        ("seeds=[{seeds}]", "seeds: found [0, 1, "),
        ("grid={spacing: explicit, values: [{seeds}]}", "grid.values"),
        ("schedule={shape: warmup, drops: [{zero}]}", "schedule.drops"),
    ],
)
def test_numbers_that_no_training_can_use_are_refused(override, named):
    fill = {"{zeros}": "0" * 400, "{digits}": "0" * 5000, "{zero}": "0," * 1001}
    fill["{seeds}"] = ", ".join(str(seed) for seed in range(10_001))
    for key, text in fill.items():
        override = override.replace(key, text)
    message = refusal(override)
    assert named in message
    assert len(message) < 1000


@pytest.mark.parametrize("backend", ["plain", "pack"])
@pytest.mark.parametrize("precision", ["fp32", *(pytest.param(it, marks=pytest.mark.slow) for it in ("fp64", "bf16"))])
@pytest.mark.parametrize(
    "override",
    [
        "optimizer={name: sgd, momentum: 0.9999999999999999, weight_decay: 1e30}",
        "optimizer={name: adam, betas: [0.9999999999999999, 0.9999999999999999], epsilon: 1e-30, weight_decay: 1e30}",
        "optimizer={name: adam, betas: [0, 0], epsilon: 1e30}",
        "optimizer={name: rmsprop, alpha: 0.9999999999999999, momentum: 0.9999999999999999, epsilon: 1e-30}",
        "training.clip_norm=1e30",
        "training.clip_norm=1e-30",
        "peaks=1e20",
        "peaks=1e-30",
        "schedule={shape: cyclical, low: 1e20}",
    ],
)
def test_numbers_at_their_bounds_end_as_rows(override, precision, backend, tiny):
    peaks = [] if override.startswith("peaks") else ["peaks=1e20"]
    sets = ["training.epochs=1", "data.validation=64", "data.train=256", "seeds=[0]", f"training.precision={precision}"]
    experiment = tiny(*sets, *peaks, override)
    rows, _ = train(experiment, cycle=0, candidates=experiment.candidates(0), backend=backend)
    assert [row["outcome"] in {"finished", "diverged"} for row in rows] == [True]


# YAML that is larger than it looks, or leaves the dialect


def laughs(levels, width=9):
    """A list of lists of ... that stands for width**levels values, in a few hundred bytes."""
    lines = ["a0: &a0 [lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (laughs(12), "line 6: it holds 29,634 values or more"),
        (laughs(6, 40), "values or more, each alias counted as what it stands for; expected at most 25,000"),
        ("a: &a " + "x" * 20_000 + "\nb: [" + "*a, " * 100 + "]", "it holds 1,000,0"),  # few values, many characters
        (
            "".join(f"a{n}: &a{n} {{<<: [" + f"*a{n - 1}, " * 9 * (n > 0) + f"{{k{n}: 1}}]}}\n" for n in range(9)),
            "values",
        ),
        ("x: &x [*x]", "*x stands in itself, and no value may hold itself"),
        ("x: &x {y: [1, *x]}", "*x stands in itself"),
        ("x: &x {<<: *x}", "*x stands in itself"),
        ("x: " + "[" * 40 + "]" * 40, "lists and mappings lie in each other more than 32 deep"),
        ("x: " + "{a: " * 5000, "more than 32 deep"),
        ("- " * 5000, "more than 32 deep"),
        ("".join(f"k{n}: 1\n" for n in range(70_000)), "line 1001: a mapping has more than 1,000 keys"),
        ("{" + "".join(f"k{n}: 1, " for n in range(70_000)) + "}", "line 1: a mapping has more than 1,000 keys"),
        pytest.param("x: [" + "1, " * 25_000 + "]", "it holds 25,001 values or more", marks=pytest.mark.slow),
        ("#" * 1_000_001, "is 1,000,001 characters long, expected at most 1,000,000; an experiment has a few thousand"),
    ],
    ids=short,
)
def test_yaml_that_stands_for_too_much_is_refused_before_it_is_built(text, named):
    with pytest.raises(ExperimentError) as caught:
        experiment_from_yaml(text)
    assert named in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", [laughs(12), "a: &a " + "x" * 20_000 + "\nb: [" + "*a, " * 20_000 + "]"], ids=short)
def test_aliases_that_stand_for_gigabytes_take_less_than_a_megabyte(text):
    tracemalloc.start()
    try:
        with pytest.raises(ExperimentError, match=r"it holds .* or more, each alias counted as what it stands for"):
            experiment_from_yaml(text)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "value",
    [
        "!!timestamp abc",
        '!!int ""',
        "!!int 0b",
        "!!float x",
        '!!float ""',
        '!!binary "é"',
        "!!set {a}",
        "!!omap [a: 1]",
        "!!omap 3",
        "!!pairs 3",
        "!!null x",
        "!!bool maybe",
        "!!str 5",
        "!!seq {}",
        "!!map []",
        "!!value x",
        "!!merge x",
        "!!python/name:os.getcwd x",
        "!!python/tuple [1]",
        "!mine 5",
        "! 5",
        "!<tag:yaml.org,2002:int> x",
        "[1, {a: !!int x}]",
        "{!!int x: 1}",
        "&a !!int x",
    ],
)
def test_explicit_tags_are_no_part_of_the_dialect(value):
    assert re.search(
        r"line 1: found the tag !\S*; experiments have none: write the value alone", refusal(f"name={value}")
    )
    with pytest.raises(ExperimentError, match="found the tag"):
        experiment_from_yaml(TEXT + f"name: {value}")


def test_aliases_and_merges_are_read_as_before():
    text = TEXT.replace("[0.6, 0.85]", "&drops [0.6, 0.85]").replace("grid: {low", "grid: {<<: &base {points: 3}, low")
    text = text.replace("points: 24, ", "") + "search: {strategy: mine, drops: *drops, base: {<<: *base, more: 1}}\n"
    experiment = experiment_from_yaml(text)
    assert experiment.grid.points == 3
    assert experiment.search.parameters == {"drops": [0.6, 0.85], "base": {"points": 3, "more": 1}}


def test_an_override_changes_one_value_where_an_alias_stands_for_two():
    text = TEXT + "search: {strategy: mine, one: &x {keep: 1}, other: *x}\n"
    changed = experiment_from_yaml(text, overrides=["search.one.keep=2"])
    assert changed.search.parameters == {"one": {"keep": 2}, "other": {"keep": 1}}


def test_keys_that_are_no_words_are_written_as_json_writes_them():
    experiment = read("search={strategy: mine, inner: {1: a, true: b, 0.5: c, null: d}}")
    assert experiment.search.parameters == {"inner": {"1": "a", "true": "b", "0.5": "c", "null": "d"}}
    assert experiment_from_yaml(experiment.to_yaml()).hash == experiment.hash


def test_characters_beyond_16_bits_are_read_from_json_too():
    assert read(f"data.path={json.dumps('🙂/ä')}").data.path == "🙂/ä"


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"deep": functools.reduce(lambda inner, _: [inner], range(40), 0)}, "more than 32 deep"),
        ({"deep": functools.reduce(lambda inner, _: [inner], range(450), 0)}, "more than 32 deep"),
        ({"long": "x" * 1_000_001}, "characters long, expected at most 1,000,000"),
        ({"many": [["x"] * 999] * 26}, "it holds 25,0.. values or more"),
        ({"half": "\ud800"}, "half of a surrogate pair"),
        ({"inner": {f"k{number}": 1 for number in range(1001)}}, "a mapping has more than 1,000 keys"),
    ],
)
def test_parameters_that_could_not_be_read_back_are_refused(parameters, named):
    with pytest.raises(ValueError, match=f"{next(iter(parameters))}: written as YAML: .*{named}"):
        Search(strategy="mine", **parameters)


@pytest.mark.parametrize(
    "value", [10**5000, functools.reduce(lambda inner, _: [inner], range(2000), 0), b"x"], ids=["int", "list", "bytes"]
)
def test_parameters_that_are_no_plain_values_are_refused(value):
    with pytest.raises(ValueError, match=r"keep: found .*expected text, finite numbers"):
        Search(strategy="mine", keep=value)


def test_what_could_not_be_read_back_is_not_written():
    parameters = {f"k{number}": "x" * 300_000 for number in range(4)}  # each for itself is fine
    experiment = read().model_copy(update={"search": Search(strategy="mine", **parameters)})
    with pytest.raises(ExperimentError, match=r"written as YAML: is 1,2.* characters long"):
        experiment.to_yaml()


@pytest.mark.slow
def test_the_largest_experiment_is_read_back():
    rates = [round(0.1 + number / 1e6, 6) for number in range(10_000)]
    experiment = read(
        "pruning.cycles=1000",
        f"seeds={[2**62 + number for number in range(10_000)]}",
        f"grid={{spacing: explicit, values: {rates}}}",
        f"peaks={rates[:1001]}",
        f"schedule.drops={rates[:1000]}",
    )
    assert experiment_from_yaml(experiment.to_yaml()) == experiment


# Messages


def test_of_many_mistakes_the_first_few_are_told_and_the_rest_counted():
    message = refusal("seeds=[" + "one, " * 2_000 + "]", *(f"k{number}=1" for number in range(900)))
    assert "seeds.0: found 'one': input should be a valid integer" in message
    told = len(message.splitlines()) - 1
    assert message.splitlines()[-1] == f"experiment: and {2_900 - told:,} more like these"
    assert len(message) < 1500


@pytest.mark.parametrize(
    "overrides",
    [
        ["name=" + "a" * 100_000],
        ["a" * 100_000 + "=1"],
        ["a" * 100_000],
        ["grid." + "a" * 100_000 + "=1"],
        ["grid=" + "a" * 100_000],
        ["grid=[" + "a," * 2_000 + "]"],
        ["network.weights=" + "a" * 100_000],
        ["grid=[", "name='" + "a" * 100_000],
        ["name=*" + "a" * 100_000],
        ["name=&" + "a" * 100_000],
        ["name=!" + "a" * 100_000],
        ["name={" + "a" * 1000 + ": 1, " + "a" * 1000 + ": 2}"],
        ["name=[" + "{" * 100_000],
        ["tolerance.a" + ".a" * 100_000 + "=1"],
        ["seeds=[" + "1, " * 2_000 + "1]"],
        ["schedule.drops=[" + "0.9, " * 400 + "0.1]"],
        ["schedule.shape=" + "a" * 100_000],
        ["peaks=" + "a" * 100_000],
        ["search={strategy: mine, x: [" + ".nan, " * 2_000 + "]}"],
        ["search={" + ", ".join(f"k{number}: 1" for number in range(900)) + "}"],
        [f"{'a' * 200}{number}={'b' * 5000}" for number in range(50)],
    ],
)
def test_messages_are_short_whatever_was_given(overrides):
    assert len(refusal(*overrides)) < 1900


def test_a_message_of_a_file_with_a_long_name_is_short(tmp_path):
    folder = tmp_path.joinpath(*["d" * 200] * 15)
    folder.mkdir(parents=True)
    path = folder / "mine.yaml"
    path.write_text(TEXT + "".join(f"k{number}: 1\n" for number in range(100)))
    with pytest.raises(ExperimentError) as caught:
        load_experiment(path)
    assert len(str(caught.value)) < 1900
    assert "mine.yaml: k0: unknown key" in str(caught.value)


BITS = [
    *(
        "[",
        "]",
        "{",
        "}",
        ": ",
        "- ",
        "? ",
        ", ",
        "|",
        ">",
        "%",
        "@",
        "`",
        '"',
        "'",
        "#",
        "&a ",
        "*a",
        "<<: ",
        "=",
        "\n",
    ),
    *(
        "!!int ",
        "!!timestamp ",
        "!!binary ",
        "! ",
        "%YAML 1.1\n---\n",
        "---\n",
        "\t",
        "\0",
        "\ud800",
        "🙂",
        "\x85",
        "\u2028",
    ),
    *(
        "1e400",
        "-",
        ".inf",
        ".nan",
        "0x1",
        "1:30",
        "9" * 500,
        "9" * 20,
        "~",
        "null",
        "true",
        "2020-01-01",
        "2020-13-01",
    ),
    *('"\\ud800"', '"\\0"', "a" * 2000, "[[[[" * 20, "grid", "schedule", "shape", "search", "strategy: mine", "\n  "),
]


def mutated(draw, text):
    """`text` with a few parts put in, taken out or repeated."""
    for _ in range(draw.randint(0, 3)):
        at, start, length = draw.randrange(len(text) + 1), draw.randrange(len(text) + 1), draw.randint(1, 12)
        put = draw.choice([draw.choice(BITS), "", text[start : start + length]])
        text = text[:at] + put + text[at + draw.choice([0, length]) :]
    return text


def test_whatever_the_text_an_experiment_comes_out_or_a_short_refusal():
    draw, messages, num_read = random.Random(0), [], 0
    more = "search: {strategy: mine, keep: &k [1, 2], other: *k, <<: {deep: {er: 1}}}\npeaks: [0.1]\n"
    for _ in range(400):
        text = mutated(draw, draw.choice([TEXT, TEXT + more]))
        override = mutated(draw, draw.choice(["grid.points=16", "seeds=[0, 1]", "schedule={shape: rex}", "name=a"]))
        try:
            experiment = experiment_from_yaml(text, overrides=[override] * draw.randint(0, 1))
        except Error as error:
            messages.append(str(error))
        else:
            num_read += 1
            assert experiment_from_yaml(experiment.to_yaml()) == experiment
    assert max(map(len, messages)) < 1900
    assert min(num_read, len(messages)) > 60  # both are seen often


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


@pytest.fixture(params=["pipe", "device", "socket"])
def no_file(request, tmp_path, monkeypatch):
    """Its kind, and the path of what is no file, ending in .yaml; reading it would never end, or ends at once."""
    path = tmp_path / "mine.yaml"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "device":
        path.symlink_to("/dev/null")
    else:
        monkeypatch.chdir(path.parent)  # a socket's address has room for 100 characters
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    return request.param, path


def test_an_experiment_that_is_no_file_is_refused_by_its_kind(no_file):
    kind, path = no_file
    with pytest.raises(ExperimentError, match=f"mine.yaml: cannot be read: it is a {kind}, expected a file"):
        load_experiment(path)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("a\0b.yaml", r"'a\\x00b\.yaml': holds a NUL character"),
        ("a\ud800b.yaml", r"'a\\ud800b\.yaml': holds half of a surrogate pair"),
        ("a" * 300 + ".yaml", "cannot be read: File name too long"),
        ("a/" * 3000 + "a.yaml", "cannot be read: File name too long"),
        ("~nobody-here/a.yaml", "no such home folder"),
        ("a\0b", "no preset is called 'a.x00b'"),
        ("a" * 100_000, "no preset is called 'aaa"),
    ],
    ids=short,
)
def test_a_name_that_no_file_can_have_is_refused(name, named):
    with pytest.raises(ExperimentError, match=named) as caught:
        load_experiment(name)
    assert len(str(caught.value)) < 900


def test_a_file_that_is_too_large_is_refused_before_it_is_read_whole(tmp_path):
    path = tmp_path / "mine.yaml"
    with path.open("wb") as file:
        file.truncate(10**12)  # takes no disk: it is all holes
    with pytest.raises(ExperimentError, match=r"mine\.yaml: holds more than 1,000,000 bytes"):
        load_experiment(path)


def test_line_ends_of_other_systems_make_the_same_experiment(tmp_path):
    path = tmp_path / "mine.yaml"
    for ends in (b"\r\n", b"\r"):
        path.write_bytes(TEXT.encode().replace(b"\n", ends))
        assert load_experiment(path) == read()


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
