"""Networks: their sizes, their bits, what fits them, and pretrained weights."""

import copy
import errno
import functools
import json
import os
import re
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from shapes import SMALL
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from oracle.errors import Error, FolderError, NetworkError
from oracle.networks import NETWORKS, build_network
from oracle.networks.pretrained import convert_checkpoint, load_weights, weights_sha256
from oracle.pruning.layers import prunable

torch.set_num_threads(1)


def small(name, seed=0, num_classes=7):
    generator = torch.Generator().manual_seed(seed)
    return build_network(name, num_classes=num_classes, input_shape=SMALL[name], generator=generator)


@pytest.mark.parametrize(
    ("name", "num_classes", "input_shape", "total", "prunable_total"),
    [
        ("fc-256x3", 10, (3, 32, 32), 920_842, 920_064),
        ("resnet20", 10, (3, 32, 32), 272_474, 270_896),
        ("vgg19", 10, (3, 32, 32), 20_040_522, 20_024_000),
        ("densenet40", 10, (3, 32, 32), 1_059_298, 1_040_568),
        ("densenet40", 100, (3, 32, 32), 1_100_428, 1_081_608),
        ("alexnet", 10, (3, 32, 32), 57_023_306, 57_013_952),
        ("mobilenetv2", 100, (3, 32, 32), 2_351_972, 2_317_760),
        ("resnet50", 1000, (3, 224, 224), 25_557_032, 25_502_912),
        ("vit-b-16", 10, (3, 384, 384), 86_098_186, 85_532_160),
    ],
)
@pytest.mark.slow
def test_network_has_the_published_size(name, num_classes, input_shape, total, prunable_total):
    network = build_network(name, num_classes=num_classes, input_shape=input_shape)
    parameters = dict(network.named_parameters())
    assert sum(p.numel() for p in parameters.values()) == total
    assert sum(parameters[key].numel() for key in prunable(network)) == prunable_total
    assert all(value.isfinite().all() for value in network.state_dict().values())
    assert network.training


def test_every_small_network_is_tested_and_names_are_plain():
    full = {"fc-256x3", "resnet20", "vgg19", "densenet40", "alexnet", "mobilenetv2", "resnet50", "vit-b-16"}
    assert SMALL.keys() | full == NETWORKS.keys()
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", name) for name in NETWORKS)


@pytest.mark.parametrize("name", SMALL)
def test_bits_come_from_the_generator_alone(name):
    before = torch.get_rng_state()
    network = small(name, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again, other = small(name, seed=1).state_dict(), small(name, seed=2).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in network.state_dict().items())
    drawn = [key for key in prunable(network) if again[key].any()]  # ViT's head starts at zero
    assert drawn
    assert not any(torch.equal(again[key], other[key]) for key in drawn)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"num_classes": "10"}, "num_classes is '10', expected a whole number"),
        ({"num_classes": 2.5}, "num_classes is 2.5"),
        ({"input_shape": None}, "input_shape is None, expected"),
        ({"input_shape": ("1", 8, 8)}, "input_shape is"),
        ({"input_shape": (1, 8.5, 8)}, "input_shape is"),
        ({"input_shape": (1, 8)}, "input_shape is"),
    ],
)
def test_counts_that_are_no_counts_are_refused(fields, named):
    with pytest.raises(NetworkError, match=re.escape(named)):
        build_network("mlp-64x2", **{"num_classes": 10, "input_shape": (1, 8, 8)} | fields)


def test_no_generator_means_seed_zero():
    network = build_network("mlp-64x2", num_classes=7, input_shape=(1, 8, 8))
    assert torch.equal(network[1].weight, small("mlp-64x2", seed=0)[1].weight)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_network_maps_images_to_finite_logits(name, dtype):
    network = small(name).to(dtype)
    images = torch.randn(5, *SMALL[name], dtype=dtype, generator=torch.Generator().manual_seed(0))
    for mode in (True, False):
        logits = network.train(mode)(images)
        assert logits.shape == (5, 7)
        assert logits.dtype == dtype
        assert logits.isfinite().all()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.slow
def test_batched_networks_equal_single_ones(name):
    networks = [small(name, seed).double() for seed in range(3)]
    images = torch.randn(5, *SMALL[name], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parameters, buffers = stack_module_state(networks)
    skeleton = copy.deepcopy(networks[0])

    def loss(parameters, buffers):
        return functional_call(skeleton, (parameters, buffers), (images,)).square().mean()

    gradients, losses = vmap(torch.func.grad_and_value(loss))(parameters, buffers)
    for index, network in enumerate(networks):
        alone = network(images).square().mean()
        alone.backward()
        torch.testing.assert_close(losses[index], alone)
        for key, p in network.named_parameters():
            # a bias before a batch norm has a true gradient of 0, which rounding alone fills: hence atol
            torch.testing.assert_close(gradients[key][index], p.grad, rtol=1e-7, atol=1e-9)
        for key, buffer in network.named_buffers():
            torch.testing.assert_close(buffers[key][index], buffer)


def test_weights_are_kaiming_normal_and_the_rest_is_neutral():
    network = build_network("vgg19", num_classes=10, input_shape=(3, 32, 32))
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels >= 256:
            std = (2 / module.weight[0].numel()) ** 0.5
            # over half a million draws: the standard deviation is known to 0.1%
            assert module.weight.std().item() == pytest.approx(std, rel=0.01)
            assert not module.bias.any()
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()
            assert (module.running_var == 1).all()


def test_mobilenet_ends_in_an_8x8_map():
    network = build_network("mobilenetv2", num_classes=100, input_shape=(3, 32, 32))
    assert network.features(torch.zeros(2, 3, 32, 32)).shape == (2, 1280, 8, 8)


def test_vit_starts_as_torchvision_starts_it():
    network = small("vit-tiny")
    assert not network.heads.head.weight.any()
    assert not network.class_token.any()
    for block in network.encoder.layers:
        assert (block.ln_1.weight == 1).all()
        assert block.mlp[0].weight.abs().max() <= (6 / (48 + 192)) ** 0.5
        assert 0 < block.mlp[0].bias.abs().max() < 1e-5
    assert network.encoder.pos_embedding.std().item() == pytest.approx(0.02, rel=0.2)  # 240 numbers: known to 5%


@pytest.mark.parametrize(
    ("name", "input_shape", "says"),
    [
        ("vgg19", (1, 8, 8), "8x8.*at least 16"),
        ("resnet20", (3, 32, 2), "32x2.*at least 4"),
        ("densenet40", (3, 3, 3), "at least 4"),
        ("alexnet", (3, 28, 28), "28x28.*at least 29"),
        ("mobilenetv2", (3, 2, 2), "at least 4"),
        ("resnet50", (3, 16, 16), "at least 32"),
        ("resnet50", (1, 64, 64), "1 channels.*reads 3"),
        ("vit-b-16", (3, 30, 30), "30x30.*32x32"),
        ("vit-b-16", (3, 32, 64), "32x64.*square"),
        ("mlp-64x2", (8, 8), "input_shape"),
    ],
)
def test_images_that_do_not_fit_are_refused(name, input_shape, says):
    with pytest.raises(NetworkError, match=f"{name}.*{says}"):
        build_network(name, num_classes=10, input_shape=input_shape)


def test_smallest_images_that_are_not_refused_work():
    for name, side in {"resnet8": 4, "densenet22": 4, "vgg19-narrow": 16, "alexnet-narrow": 29}.items():
        network = build_network(name, num_classes=3, input_shape=(1, side, side))
        assert network(torch.zeros(2, 1, side, side)).shape == (2, 3)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(NetworkError, match=r"'resnet19'.*fc-256x3.*resnet20.*vgg19"):
        build_network("resnet19", num_classes=10, input_shape=(3, 32, 32))


def test_one_class_is_refused():
    with pytest.raises(NetworkError, match="num_classes is 1"):
        build_network("resnet20", num_classes=1, input_shape=(3, 32, 32))


def torchvision_checkpoint(path, model):
    state = {key: torch.full_like(value, index) for index, (key, value) in enumerate(model.state_dict().items())}
    torch.save(state, path)
    return state


@pytest.mark.slow
def test_torchvision_checkpoint_of_resnet50_fits(tmp_path):
    state = torchvision_checkpoint(tmp_path / "a.pth", torchvision.models.resnet50())
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "a.pth")  # as the first published file has it
    out = tmp_path / "a.safetensors"
    said = convert_checkpoint(tmp_path / "a.pth", out, name="resnet50", num_classes=1000, input_shape=(3, 224, 224))
    assert said == []
    network = build_network("resnet50", num_classes=1000, input_shape=(3, 224, 224))
    load_weights(network, out)
    assert all(torch.equal(value, old[key]) for key, value in network.state_dict().items() if key in old)


def test_head_of_another_number_of_classes_is_replaced_and_said(tmp_path):
    state = torchvision_checkpoint(tmp_path / "a.pth", torchvision.models.mobilenet_v2())
    out = tmp_path / "a.safetensors"
    said = convert_checkpoint(tmp_path / "a.pth", out, name="mobilenetv2", num_classes=100, input_shape=(3, 32, 32))
    assert said == ["the head for 1000 classes was replaced by a fresh one for 100"]
    converted = load_file(out)
    assert converted["classifier.1.weight"].shape == (100, 1280)
    assert torch.equal(converted["features.0.0.weight"], state["features.0.0.weight"])


@pytest.mark.slow
def test_vit_position_embeddings_are_interpolated_and_said(tmp_path):
    with torch.device("meta"):
        model = torchvision.models.vit_b_16()
    state = {key: torch.ones(value.shape) for key, value in model.state_dict().items()}
    state = {key.replace(".mlp.0.", ".mlp.linear_1."): value for key, value in state.items()}  # the first files' keys
    torch.save(state, tmp_path / "a.pth")
    out = tmp_path / "a.safetensors"
    said = convert_checkpoint(tmp_path / "a.pth", out, name="vit-b-16", num_classes=1000, input_shape=(3, 64, 64))
    assert said == ["position embeddings were interpolated from 196 to 16 patches"]
    embedding = load_file(out)["encoder.pos_embedding"]
    assert embedding.shape == (1, 17, 768)
    torch.testing.assert_close(embedding, torch.ones_like(embedding))


def test_checkpoint_that_does_not_fit_is_refused(tmp_path):
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "a.pth")
    torch.save({"model": {"conv1.weight": torch.zeros(3)}}, tmp_path / "b.pth")
    (tmp_path / "c.pth").write_bytes(b"no checkpoint")
    torch.save(nn.Linear(2, 2), tmp_path / "d.pth")  # a pickled module: refused by weights_only
    torch.save({1: torch.zeros(3)}, tmp_path / "e.pth")
    arguments = {"num_classes": 1000, "input_shape": (3, 64, 64)}
    for file, says in {
        "a": "bn1.weight is missing",
        "b": "a dict with model",
        "c": "read",
        "d": "read",
        "e": "holds a dict with 1",
    }.items():
        with pytest.raises(NetworkError, match=f"{file}.pth.*{says}"):
            convert_checkpoint(tmp_path / f"{file}.pth", tmp_path / "out", name="resnet50", **arguments)
    assert not (tmp_path / "out").exists()
    with pytest.raises(NetworkError, match=r"missing\.pth' cannot be read: No such file"):
        convert_checkpoint(tmp_path / "missing.pth", tmp_path / "out", name="resnet50", **arguments)
    with pytest.raises(NetworkError, match=r"resnet20.*resnet50, mobilenetv2, vit-b-16"):
        convert_checkpoint(tmp_path / "a.pth", tmp_path / "out", name="resnet20", **arguments)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"classifier.1.weight": torch.zeros(7, 1280), "classifier.1.bias": None}, None),
        ({"features.0.0.weight": None}, "features.0.0.weight is missing"),
    ],
)
def test_a_checkpoint_with_half_a_head_gets_a_fresh_one(tmp_path, change, says):
    state = build_network("mobilenetv2", num_classes=1000, input_shape=(3, 32, 32)).state_dict() | change
    torch.save({key: value for key, value in state.items() if value is not None}, tmp_path / "a.pth")
    arguments = {"name": "mobilenetv2", "num_classes": 10, "input_shape": (3, 32, 32)}
    if says is None:
        changes = convert_checkpoint(tmp_path / "a.pth", tmp_path / "out", **arguments)
        assert changes == ["the head for 7 classes was replaced by a fresh one for 10"]
    else:
        with pytest.raises(NetworkError, match=says):
            convert_checkpoint(tmp_path / "a.pth", tmp_path / "out", **arguments)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("classifier.1.weight", torch.tensor(3.0), r"classifier.1.weight has shape \(\), expected \(10, 1280\)"),
        ("classifier.1.bias", torch.tensor(3.0), r"classifier.1.bias has shape \(\), expected \(10,\)"),
        ("features.0.1.running_var", torch.full((32,), float("nan")), "features.0.1.running_var holds NaN"),
        ("features.0.1.bias", torch.full((32,), 1e300, dtype=torch.float64), r"holds NaN or infinity \(1 of "),
    ],
)
def test_a_checkpoint_of_a_wrong_rank_or_without_numbers_is_refused(tmp_path, key, value, says):
    state = build_network("mobilenetv2", num_classes=10, input_shape=(3, 32, 32)).state_dict()
    torch.save(state | {key: value}, tmp_path / "a.pth")
    with pytest.raises(NetworkError, match=says):
        convert_checkpoint(
            tmp_path / "a.pth", tmp_path / "out", name="mobilenetv2", num_classes=10, input_shape=(3, 32, 32)
        )
    assert not (tmp_path / "out").exists()


# Types of numbers

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
NO_FLOATS = [torch.bool, torch.int8, torch.int64, torch.complex64, torch.float8_e4m3fn, torch.float8_e8m0fnu]
# Two of a network with batch norms: a weight, and a count.
WEIGHT, COUNT = "features.0.1.weight", "features.0.1.num_batches_tracked"


def normed():
    return build_network("mobilenetv2", num_classes=3, input_shape=(3, 32, 32))


@pytest.fixture(scope="module")
def state():
    """A state dict whose values every type but bool holds."""
    return {key: torch.full_like(value, index % 2) for index, (key, value) in enumerate(normed().state_dict().items())}


def load_as(way, state, folder):
    """The state after its way through a file, into a network or converted."""
    if way == "weights":
        save_file({key: value.clone() for key, value in state.items()}, folder / "a")
        network = normed()
        load_weights(network, folder / "a")
        return network.state_dict()
    torch.save(state, folder / "a")
    convert_checkpoint(folder / "a", folder / "out", name="mobilenetv2", num_classes=3, input_shape=(3, 32, 32))
    return load_file(folder / "out")


@pytest.mark.parametrize("way", ["weights", "checkpoint"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_of_16_bits_and_more_are_taken(way, dtype, state, tmp_path):
    given = state | {key: value.to(dtype) for key, value in state.items() if value.is_floating_point()}
    taken = load_as(way, given, tmp_path)
    assert all(torch.equal(taken[key], value) and taken[key].dtype == value.dtype for key, value in state.items())


@pytest.mark.parametrize("way", ["weights", "checkpoint"])
@pytest.mark.parametrize("dtype", NO_FLOATS)
def test_weights_of_another_type_are_refused_by_name(way, dtype, state, tmp_path):
    with pytest.raises(NetworkError, match=rf"{WEIGHT} holds \w+, expected float16, bfloat16, float32 or float64"):
        load_as(way, state | {WEIGHT: state[WEIGHT].to(dtype)}, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("way", ["weights", "checkpoint"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bool, torch.complex64])
def test_counts_that_are_no_integers_are_refused_by_name(way, dtype, state, tmp_path):
    found = str(dtype).removeprefix("torch.")
    with pytest.raises(NetworkError, match=rf"{COUNT} holds {found}, expected integers of at most 64 bits"):
        load_as(way, state | {COUNT: state[COUNT].to(dtype)}, tmp_path)


@pytest.mark.parametrize("way", ["weights", "checkpoint"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_counts_stay_integers(way, dtype, state, tmp_path):
    taken = load_as(way, state | {COUNT: torch.tensor(100, dtype=dtype)}, tmp_path)
    assert taken[COUNT].dtype == torch.int64
    assert taken[COUNT] == 100


def test_a_type_that_torch_does_not_read_is_refused_by_name(state, tmp_path):
    header = {"1.weight": {"dtype": "F4", "shape": [2, 2], "data_offsets": [0, 2]}}
    text = json.dumps(header).encode()
    (tmp_path / "a").write_bytes(len(text).to_bytes(8, "little") + text + b"\0\0")
    with pytest.raises(NetworkError, match=r"1\.weight holds F4, expected float16"):
        load_weights(small("mlp-64x2"), tmp_path / "a")


@pytest.mark.parametrize("kind", ["sparse", "meta", "nested"])
def test_a_checkpoint_of_tensors_without_plain_numbers_is_refused(kind, state, tmp_path):
    value = {
        "sparse": lambda: state[WEIGHT].to_sparse(),
        "meta": lambda: state[WEIGHT].to("meta"),
        "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    }[kind]()
    with pytest.raises(
        NetworkError, match=rf"a': {WEIGHT} is not a plain dense tensor|cannot be read with weights_only"
    ):
        load_as("checkpoint", state | {WEIGHT: value}, tmp_path)


@pytest.mark.parametrize(("classes", "side"), [(100_001, 32), (10**30, 32), (10, 4097), (10, 10**30)])
def test_more_classes_or_pixels_than_anybody_has_are_refused_by_the_numbers(tmp_path, classes, side):
    with pytest.raises(
        NetworkError, match=rf"found {classes:,} classes and images of 3 x {side:,} x {side:,}, expected at"
    ):
        convert_checkpoint(
            tmp_path / "a.pth", tmp_path / "out", name="mobilenetv2", num_classes=classes, input_shape=(3, side, side)
        )


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_weights_that_are_no_file_are_refused(tmp_path, kind):
    path = tmp_path / "a"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")  # unlike /dev/zero, it ends, should it be read
    for read in (functools.partial(load_weights, small("mlp-64x2")), weights_sha256):
        with pytest.raises(NetworkError, match=f"weights .*a: cannot be read: it is a {kind}, expected a file"):
            read(path)
    with pytest.raises(NetworkError, match=f"checkpoint .*a: cannot be read: it is a {kind}, expected a file"):
        convert_checkpoint(path, tmp_path / "out", name="mobilenetv2", num_classes=3, input_shape=(3, 32, 32))


def test_a_message_of_weights_is_short_whatever_their_keys(tmp_path):
    save_file({"k" * 100_000 + str(number): torch.zeros(1) for number in range(5)}, tmp_path / "a")
    with pytest.raises(NetworkError, match="do not fit the network") as caught:
        load_weights(small("mlp-64x2"), tmp_path / "a")
    assert len(str(caught.value)) < 1900
    torch.save({"k" * 100_000 + str(number): 1.0 for number in range(5)}, tmp_path / "a")
    with pytest.raises(NetworkError, match="holds a dict with kkkk") as caught:
        convert_checkpoint(tmp_path / "a", tmp_path / "out", name="mobilenetv2", num_classes=3, input_shape=(3, 32, 32))
    assert len(str(caught.value)) < 1900


@pytest.mark.slow
def test_position_embeddings_of_a_billion_patches_are_refused_before_they_are_made(tmp_path):
    state = build_network("vit-b-16", num_classes=3, input_shape=(3, 32, 32)).state_dict()
    state["encoder.pos_embedding"] = torch.zeros(1, 1, 1).expand(1, 2**30 + 1, 768)  # a few bytes in the file
    torch.save(state, tmp_path / "a")
    with pytest.raises(NetworkError, match=r"pos_embedding has shape \(1, 1073741825, 768\), expected \(1, 5, 768\)"):
        convert_checkpoint(tmp_path / "a", tmp_path / "out", name="vit-b-16", num_classes=3, input_shape=(3, 32, 32))


def test_home_is_expanded_in_the_paths_of_a_conversion(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    state = build_network("mobilenetv2", num_classes=10, input_shape=(3, 32, 32)).state_dict()
    torch.save(state, tmp_path / "a.pth")
    convert_checkpoint("~/a.pth", "~/out", name="mobilenetv2", num_classes=10, input_shape=(3, 32, 32))
    assert (tmp_path / "out").exists()


@pytest.fixture
def narrow_checkpoint(tmp_path):
    """A checkpoint, and the arguments that convert it."""
    state = build_network("mobilenetv2", num_classes=10, input_shape=(3, 32, 32)).state_dict()
    torch.save(state, tmp_path / "a.pth")
    return functools.partial(
        convert_checkpoint, tmp_path / "a.pth", name="mobilenetv2", num_classes=10, input_shape=(3, 32, 32)
    )


def test_a_conversion_makes_the_folder_that_it_writes_to(tmp_path, narrow_checkpoint):
    narrow_checkpoint(tmp_path / "new" / "folder" / "out")
    load_weights(build_network("mobilenetv2", num_classes=10, input_shape=(3, 32, 32)), tmp_path / "new/folder/out")


@pytest.mark.parametrize("out", ["a.pth/out", "folder", "with\0nul"])  # below a file, a folder, no path at all
def test_an_out_that_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, narrow_checkpoint, out):
    (tmp_path / "folder").mkdir()
    with pytest.raises(Error):
        narrow_checkpoint(f"{tmp_path}/{out}")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.pth", "folder"]


def test_a_disk_that_fills_up_during_a_conversion_leaves_the_old_file(tmp_path, narrow_checkpoint, monkeypatch):
    (tmp_path / "out").write_bytes(b"old")
    asked = []

    def half(path, content):
        asked.append(path)
        with open(path, "wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(FolderError, match="the disk is full"):
        narrow_checkpoint(tmp_path / "out")
    assert asked
    assert (tmp_path / "out").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "out"]


@pytest.mark.parametrize("path", ["", "missing.safetensors", "a.pth/b", "with\0nul"])
def test_weights_that_cannot_be_read_are_refused(tmp_path, path):
    (tmp_path / "a.pth").write_bytes(b"")
    network = small("mlp-64x2", seed=0)
    for read in (functools.partial(load_weights, network), weights_sha256):
        with pytest.raises(NetworkError, match="weights "):
            read(f"{tmp_path}/{path}")
    with pytest.raises(NetworkError, match="checkpoint "):
        convert_checkpoint(
            f"{tmp_path}/{path}", tmp_path / "out", name="resnet50", num_classes=10, input_shape=(3, 64, 64)
        )


def test_tensors_that_share_memory_are_converted(tmp_path):
    state = build_network("mobilenetv2", num_classes=10, input_shape=(3, 32, 32)).state_dict()
    twins = [key for key, value in state.items() if value.shape == (32,) and value.dtype == torch.float32][:2]
    state[twins[0]] = state[twins[1]]
    torch.save(state, tmp_path / "a.pth")
    assert (
        convert_checkpoint(
            tmp_path / "a.pth", tmp_path / "out", name="mobilenetv2", num_classes=10, input_shape=(3, 32, 32)
        )
        == []
    )


@pytest.mark.parametrize("shape", [(1, 6, 192), (6,)])
@pytest.mark.slow
def test_position_embeddings_of_no_square_are_refused(tmp_path, shape):
    state = build_network("vit-b-16", num_classes=10, input_shape=(3, 32, 32)).state_dict()
    width = state["encoder.pos_embedding"].shape[2]
    torch.save(state | {"encoder.pos_embedding": torch.zeros(*shape[:-1], width)}, tmp_path / "a.pth")
    with pytest.raises(NetworkError, match=r"a\.pth.*pos"):
        convert_checkpoint(
            tmp_path / "a.pth", tmp_path / "out", name="vit-b-16", num_classes=10, input_shape=(3, 32, 32)
        )


def test_weights_that_do_not_fit_are_refused_and_change_nothing(tmp_path):
    network = small("mlp-64x2", seed=0)
    other = small("mlp-64x2", seed=1).state_dict()
    before = copy.deepcopy(network.state_dict())
    path = tmp_path / "a.safetensors"
    for key, value, says in [
        ("1.weight", None, "1.weight is missing"),
        ("5.weight", torch.zeros(9, 64), r"5.weight has shape \(9, 64\), expected \(7, 64\)"),
        ("more", torch.zeros(1), "more is not in the network"),
    ]:
        save_file({k: v for k, v in (other | {key: value}).items() if v is not None}, path)
        with pytest.raises(NetworkError, match=says):
            load_weights(network, path)
    path.write_bytes(b"nothing")
    with pytest.raises(NetworkError, match="cannot be read as safetensors"):
        load_weights(network, path)
    with pytest.raises(NetworkError, match="cannot be read"):
        load_weights(network, tmp_path / "missing.safetensors")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    save_file(other, path)
    load_weights(network, path)
    assert all(torch.equal(value, other[key]) for key, value in network.state_dict().items())
