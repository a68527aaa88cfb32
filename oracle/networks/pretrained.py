"""Pretrained starts: a torchvision checkpoint becomes a safetensors file, and that file a network's weights.

Nothing is unpickled but by torch.load with weights_only; a search itself reads safetensors alone.
"""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, deserialize
from safetensors.torch import load, save
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from oracle.errors import FolderError, NetworkError
from oracle.networks import build_network
from oracle.storage import read_file, shown, write_file

# Networks with the shapes of a torchvision checkpoint, and the prefix of their heads' keys.
_HEAD_PREFIXES: Mapping[str, str] = {"resnet50": "fc.", "mobilenetv2": "classifier.", "vit-b-16": "heads."}
MOST_CLASSES = 100_000  # ImageNet-21k has 21,843
MOST_SIDE = 4096  # pixels, as data.resolution
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


def convert_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    *,
    name: str,
    num_classes: int,
    input_shape: tuple[int, int, int],
    generator: torch.Generator | None = None,
) -> list[str]:
    """Write a torchvision checkpoint (.pth, a state dict) of network `name` as safetensors for `load_weights`.

    Returns what had to be changed, a sentence each, to be told to the user; empty if every number is the checkpoint's:

    - a head for another number of classes is replaced by a fresh one, drawn from `generator` (see `build_network`);
    - ViT's position embeddings for images of another side are interpolated (bicubic, by torchvision's own function).

    NetworkError if `name` has no torchvision checkpoint, or the file cannot be read as one of it; FolderError if `out`
    cannot be written. `out` is written whole, in a folder that is made if it is not there.
    """
    if name not in _HEAD_PREFIXES:
        raise NetworkError(
            f"network {name!r} has no torchvision checkpoint; those that have one are {', '.join(_HEAD_PREFIXES)}"
        )
    _check_sizes(num_classes, input_shape)
    network = build_network(name, num_classes=num_classes, input_shape=input_shape, generator=generator)
    own = network.state_dict()
    state = _renamed(_read_checkpoint(checkpoint))
    _check_types(own, state, str(checkpoint))
    changes = []
    if name == "vit-b-16":
        state, said = _with_positions(state, own, input_shape[1], str(checkpoint))
        changes += said
    head = {key: value for key, value in own.items() if key.startswith(_HEAD_PREFIXES[name])}
    theirs = {key: state[key] for key in head if key in state}
    is_head = all(value.dim() == head[key].dim() for key, value in theirs.items())  # else `_check_fits` refuses it
    if is_head and any(value.shape != head[key].shape for key, value in theirs.items()):
        state |= head
        found = next(iter(theirs.values())).shape[0]
        changes.append(f"the head for {found} classes was replaced by a fresh one for {num_classes}")
    for key in own:
        if (
            key.endswith("num_batches_tracked") and key not in state
        ):  # old checkpoints have none, and it does not matter
            state[key] = own[key]
    _check_fits(own, state, str(checkpoint))
    write_file(out, save({key: state[key].to(own[key].dtype).contiguous().clone() for key in own}))
    return changes


def _check_sizes(num_classes: int, input_shape: tuple[int, int, int]) -> None:
    """NetworkError where the network would be larger than any memory. What are no counts, `build_network` refuses."""
    try:
        too_large = num_classes > MOST_CLASSES or max(input_shape) > MOST_SIDE
    except TypeError:
        return
    if too_large:
        raise NetworkError(
            f"found {num_classes:,} classes and images of {' x '.join(f'{size:,}' for size in input_shape)}, expected at "
            f"most {MOST_CLASSES:,} classes and {MOST_SIDE:,} pixels a side"
        )


def _with_positions(
    state: dict[str, Tensor], own: Mapping[str, Tensor], side: int, where: str
) -> tuple[dict[str, Tensor], list[str]]:
    """ViT's state with position embeddings for images of this side, and what was changed."""
    key = "encoder.pos_embedding"
    theirs, ours = state.get(key, own[key]), own[key]
    if theirs.dim() != 3 or theirs.shape[::2] != ours.shape[::2]:
        return state, []  # `_check_fits` refuses it
    before, after = theirs.shape[1] - 1, ours.shape[1] - 1
    if before == after or before > (MOST_SIDE // 16) ** 2:  # more than any image needs: refused in the same way
        return state, []
    try:
        state = dict(interpolate_embeddings(side, 16, state))
    except (IndexError, RuntimeError, ValueError) as error:
        raise NetworkError(
            f"checkpoint {_quoted(where)}: its position embeddings cannot be interpolated: {shown(error)}"
        ) from None
    return state, [f"position embeddings were interpolated from {before} to {after} patches"]


def load_weights(network: nn.Module, path: str | Path, *, sha256: str | None = None) -> None:
    """Copy all weights and buffers of a safetensors file into a network, in place; the head too.

    `sha256`: what the file's content must hash to, 64 hex digits; None: anything. NetworkError if the file cannot be read
    or holds something else, or a tensor is missing, unknown, of another shape, of a type that no weights have (bool,
    integers, complex numbers, floats of 8 bits) or not finite; the network is then unchanged.
    """
    content = _read("weights", path)
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise NetworkError(
            f"weights {_quoted(path)}: the file has changed since the search began; put back the one whose SHA-256 is "
            f"{sha256}, or begin in another folder"
        )
    own = network.state_dict()
    try:
        state = load(content)
    except SafetensorError as error:
        raise NetworkError(
            f"weights {_quoted(path)} cannot be read as safetensors ({shown(error)}); is it a torchvision checkpoint? "
            "Convert it first"
        ) from error
    except KeyError as error:  # a type of the format that this torch does not have
        found, views = error.args[0], deserialize(content)  # type: ignore[no-untyped-call]  # of a compiled module
        key = next(key for key, view in views if view["dtype"] == found)
        raise NetworkError(_wrong_type(str(path), key, found, own[key] if key in own else torch.empty(0))) from None
    _check_types(own, state, str(path))
    _check_fits(own, state, str(path))
    network.load_state_dict(state)


def weights_sha256(path: str | Path) -> str:
    """What a file of weights hashes to, 64 hex digits. NetworkError if it cannot be read."""
    return hashlib.sha256(_read("weights", path)).hexdigest()


def _read(what: str, path: str | Path) -> bytes:
    try:
        content = read_file(path)
    except FolderError as error:
        raise NetworkError(f"{what} {error}") from error
    if content is None:
        raise NetworkError(f"{what} {_quoted(path)} cannot be read: No such file")
    return content


def _read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    content = _read("checkpoint", path)
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a truncated or foreign file raises almost anything, and torch's advice is to trust it
        raise NetworkError(
            f"checkpoint {_quoted(path)} cannot be read with weights_only: it is damaged, or holds more than tensors. Save "
            "the network's state_dict() alone"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        keys = shown(", ".join(map(str, list(state)[:5]))) if isinstance(state, dict) else ""
        found = f"a dict with {keys}" if isinstance(state, dict) else type(state).__name__
        raise NetworkError(f"checkpoint {_quoted(path)} holds {found}, expected a state dict: keys to tensors")
    return state


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """ViT's first checkpoints name the linear layers of an MLP linear_1 and linear_2; torchvision now has 0 and 3."""
    return {
        key.replace(".mlp.linear_1.", ".mlp.0.").replace(".mlp.linear_2.", ".mlp.3."): v for key, v in state.items()
    }


def _check_types(own: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str) -> None:
    """NetworkError unless weights are floating-point numbers that torch trains with, and counts integers; all dense."""
    for key, value in state.items():
        if value.is_nested or value.layout != torch.strided or value.device.type != "cpu":
            raise NetworkError(f"weights {_quoted(where)}: {shown(key)} is not a plain dense tensor; save it as one")
        if key in own and value.dtype not in (_FLOATS if own[key].is_floating_point() else _INTEGERS):
            raise NetworkError(_wrong_type(where, key, str(value.dtype).removeprefix("torch."), own[key]))


def _wrong_type(where: str, key: str, found: str, own: Tensor) -> str:
    expected = "float16, bfloat16, float32 or float64" if own.is_floating_point() else "integers of at most 64 bits"
    return (
        f"weights {_quoted(where)}: {shown(key)} holds {found}, expected {expected}; cast it yourself if that is what you "
        "mean"
    )


def _quoted(path: str | Path) -> str:
    return shown(repr(str(path)))


def _check_fits(own: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str) -> None:
    wrong = [f"{key} is missing" for key in own if key not in state]
    wrong += [f"{shown(key)} is not in the network" for key in state if key not in own]
    wrong += [
        f"{key} has shape {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise NetworkError(
            f"weights {_quoted(where)} do not fit the network: {'; '.join(wrong[:3])}{more}. Is it a file of another "
            "network, number of classes or image size?"
        )
    if broken := [key for key in own if not state[key].to(own[key].dtype).isfinite().all()]:
        raise NetworkError(
            f"weights {_quoted(where)}: {broken[0]} holds NaN or infinity ({len(broken)} of {len(own)} tensors do), "
            "expected finite numbers; did the training that saved it diverge?"
        )
