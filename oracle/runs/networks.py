"""Networks on disk: parents, final states and winners of a cycle, in safetensors, one file each."""

import json
from collections.abc import Mapping, Sequence

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from oracle.runs.cycle import CycleStore
from oracle.storage import Folder
from oracle.training.parents import Parent, State, Winner

STATE = "weights"  # what the files call a state dict


def parent_name(store: CycleStore, seed: int) -> str:
    """Where a parent lies in the folder."""
    return store.path("parents", f"seed={seed}-{store.lineage}.safetensors")


def write_parent(store: CycleStore, seed: int, parent: Parent) -> None:
    """Put a parent where the workers of its cycle find it."""
    tensors = prefixed(STATE, parent.state) | prefixed("masks", parent.masks)
    header = {"weights_remaining": repr(parent.weights_remaining)}
    write_tensors(store.folder, parent_name(store, seed), tensors, header)


def read_parent(store: CycleStore, seed: int) -> Parent | None:
    """A parent, or None where it is missing or cannot be read."""
    found = read_tensors(store.folder, parent_name(store, seed))
    if found is None:
        return None
    tensors, header = found
    return Parent(
        state=part(tensors, STATE),
        masks=part(tensors, "masks"),
        weights_remaining=float(header["weights_remaining"]),
    )


def write_winner(store: CycleStore, seed: int, max_lr: float, winner: Winner) -> None:
    """Keep a seed's trained network at the cycle's optimum."""
    tensors = prefixed(STATE, winner.state) | prefixed("masks", winner.masks)
    tensors |= prefixed("rewind", winner.rewind or {})
    header = {"lineage": store.lineage, "max_lr": repr(max_lr)}
    write_tensors(store.folder, _winner_name(store, seed), tensors, header)


def read_winner(store: CycleStore, seed: int, max_lr: float) -> Winner | None:
    """The winner of this chain, or None where it is missing, of another chain, or cannot be read."""
    found = read_tensors(store.folder, _winner_name(store, seed))
    if found is None or found[1] != {"lineage": store.lineage, "max_lr": repr(max_lr)}:
        return None
    tensors = found[0]
    return Winner(state=part(tensors, STATE), masks=part(tensors, "masks"), rewind=part(tensors, "rewind") or None)


def winners_are_whole(store: CycleStore, seeds: Sequence[int]) -> bool:
    """Whether all winners are there, as long as their own first bytes say: a look that reads no tensors."""
    return all(_is_whole(store.folder, _winner_name(store, seed)) for seed in seeds)


def write_finals(store: CycleStore, commit: str, candidates: Sequence[float], *, states: State, rewind: State) -> None:
    """Write the final states of candidates that were trained together, stacked, under their commit's name."""
    tensors = prefixed(STATE, states) | prefixed("rewind", rewind)
    write_tensors(store.folder, _finals_name(store, commit), tensors, {"candidates": json.dumps(candidates)})


def read_final(store: CycleStore, commit: str, max_lr: float, masks: State) -> Winner | None:
    """One candidate out of a commit's final states, or None where they are gone or cannot be read."""
    found = read_tensors(store.folder, _finals_name(store, commit))
    if found is None:
        return None
    tensors, header = found
    index = json.loads(header["candidates"]).index(max_lr)
    own = {name: value[index] for name, value in tensors.items()}
    return Winner(state=part(own, STATE), masks=masks, rewind=part(own, "rewind") or None)


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


def _winner_name(store: CycleStore, seed: int) -> str:
    return store.path("winners", f"seed={seed}.safetensors")


def _finals_name(store: CycleStore, commit: str) -> str:
    return store.path("weights", f"{commit}.safetensors")


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
