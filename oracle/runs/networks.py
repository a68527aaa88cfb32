"""Networks on disk: parents, final weights and winners, in safetensors, one file each."""

import json
from collections.abc import Mapping, Sequence

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from oracle.runs.tables import cycle_folder
from oracle.storage import Folder
from oracle.training.parents import Parent, State, Winner


def parent_name(cycle: int, seed: int, lineage: str) -> str:
    """Where a parent lies in the folder."""
    return f"{cycle_folder('parents', cycle)}/seed={seed}-{lineage}.safetensors"


def weights_name(cycle: int, commit: str) -> str:
    """Where a commit's final weights lie in the folder."""
    return f"{cycle_folder('weights', cycle)}/{commit}.safetensors"


def winner_name(cycle: int, seed: int) -> str:
    """Where a seed's trained network at a cycle's optimum lies in the folder."""
    return f"{cycle_folder('winners', cycle)}/seed={seed}.safetensors"


def write_parent(folder: Folder, cycle: int, seed: int, lineage: str, parent: Parent) -> None:
    """Put a parent where the workers of its cycle find it."""
    tensors = prefixed("weights", parent.weights) | prefixed("masks", parent.masks)
    header = {"weights_remaining": repr(parent.weights_remaining)}
    write_tensors(folder, parent_name(cycle, seed, lineage), tensors, header)


def read_parent(folder: Folder, cycle: int, seed: int, lineage: str) -> Parent | None:
    """A parent, or None where it is missing or cannot be read."""
    found = read_tensors(folder, parent_name(cycle, seed, lineage))
    if found is None:
        return None
    tensors, header = found
    return Parent(
        weights=part(tensors, "weights"),
        masks=part(tensors, "masks"),
        weights_remaining=float(header["weights_remaining"]),
    )


def write_winner(folder: Folder, cycle: int, seed: int, lineage: str, max_lr: float, winner: Winner) -> None:
    """Keep a seed's trained network at a cycle's optimum."""
    tensors = prefixed("weights", winner.weights) | prefixed("masks", winner.masks)
    tensors |= prefixed("rewind", winner.rewind or {})
    header = {"lineage": lineage, "max_lr": repr(max_lr)}
    write_tensors(folder, winner_name(cycle, seed), tensors, header)


def read_winner(folder: Folder, cycle: int, seed: int, lineage: str, max_lr: float) -> Winner | None:
    """The winner of this chain, or None where it is missing, of another chain, or cannot be read."""
    found = read_tensors(folder, winner_name(cycle, seed))
    if found is None or found[1] != {"lineage": lineage, "max_lr": repr(max_lr)}:
        return None
    tensors = found[0]
    return Winner(
        weights=part(tensors, "weights"), masks=part(tensors, "masks"), rewind=part(tensors, "rewind") or None
    )


def winners_are_whole(folder: Folder, cycle: int, seeds: Sequence[int]) -> bool:
    """Whether all winners of a cycle are there, as long as their own first bytes say: a look that reads no weights."""
    return all(_is_whole(folder, winner_name(cycle, seed)) for seed in seeds)


def _is_whole(folder: Folder, name: str) -> bool:
    size, length = folder.size(name), int.from_bytes(folder.read(name, 8) or b"", "little")
    if size is None or size < 8 + length:
        return False
    try:
        fields = json.loads((folder.read(name, 8 + length) or b"")[8:])
        ends = [field["data_offsets"][1] for key, field in fields.items() if key != "__metadata__"]
        return bool(size == 8 + length + max(ends, default=0))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False


def read_final(folder: Folder, cycle: int, commit: str, max_lr: float, masks: State) -> Winner | None:
    """One candidate out of a commit's final weights, or None where they are gone or cannot be read."""
    found = read_tensors(folder, weights_name(cycle, commit))
    if found is None:
        return None
    tensors, header = found
    index = json.loads(header["candidates"]).index(max_lr)
    own = {name: value[index] for name, value in tensors.items()}
    return Winner(weights=part(own, "weights"), masks=masks, rewind=part(own, "rewind") or None)


def write_tensors(folder: Folder, name: str, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write named tensors as safetensors."""
    whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    # One key: safetensors orders several at random, and the same network should be the same bytes.
    folder.write(name, safetensors.torch.save(whole, {"header": json.dumps(dict(header))}))


def read_tensors(folder: Folder, name: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Tensors and header, or None where there is no such file or it is not whole."""
    content = folder.read(name)
    if content is None:
        return None
    try:
        tensors = safetensors.torch.load(content)
        length = int.from_bytes(content[:8], "little")
        header: dict[str, str] = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["header"])
    except (SafetensorError, ValueError, KeyError):
        return None
    return tensors, header


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under names that say which group they belong to."""
    return {f"{prefix}/{name}": value for name, value in tensors.items()}


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """One group of `prefixed` tensors, under their own names."""
    start = f"{prefix}/"
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
