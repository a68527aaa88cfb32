"""Networks on disk: parents, final states and winners of a cycle, in safetensors, one file each.

Each file's header has a checksum of all that it holds and of its name, so that no file passes for another. Files of
versions before it have none, and are read as they were: their shapes alone are looked at. What is not whole is never
used; the reader is told its name, and answers with None.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from oracle.pruning.masks import dense_masks
from oracle.runs.cycle import CycleStore
from oracle.storage import Folder
from oracle.training.parents import Parent, State, Winner

STATE = "weights"  # what the files call a state dict
_CHECKSUM = "sha256"
Told = Callable[[str], None]  # hears the name of a file that is there, and not whole


def _untold(name: str) -> None:
    """Nobody is to hear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Which tensors a network of the experiment has."""

    state: Mapping[str, tuple[torch.Size, bool]]  # shape, whether floating
    prunable: frozenset[str]  # which of them every method masks; filters' biases and norms may be masked as well
    rewinds: bool  # whether cycle 0 keeps the states to rewind to

    @classmethod
    def of(cls, network: nn.Module, *, rewinds: bool) -> Self:
        """As a network has them."""
        return cls(
            state={name: _form(value) for name, value in network.state_dict().items()},
            prunable=frozenset(dense_masks(network)),
            rewinds=rewinds,
        )

    def has_state(self, state: State) -> bool:
        """Whether these are a state dict of the network."""
        return {name: _form(value) for name, value in state.items()} == dict(self.state)

    def has_rewind(self, rewind: State, cycle: int) -> bool:
        """Whether these are what a trained network of a cycle keeps to rewind to."""
        return self.has_state(rewind) if self.rewinds and cycle == 0 else not rewind

    def has_masks(self, masks: State) -> bool:
        """Whether these are masks of the network."""
        fit = all(
            name in self.state and mask.dtype == torch.bool and mask.shape == self.state[name][0]
            for name, mask in masks.items()
        )
        return fit and self.prunable <= masks.keys()


def parent_name(store: CycleStore, seed: int) -> str:
    """Where a parent lies in the folder."""
    return store.path("parents", f"seed={seed}-{store.lineage}.safetensors")


def write_parent(store: CycleStore, seed: int, parent: Parent) -> None:
    """Put a parent where the workers of its cycle find it."""
    tensors = prefixed(STATE, parent.state) | prefixed("masks", parent.masks)
    header = {"weights_remaining": repr(parent.weights_remaining)}
    write_tensors(store.folder, parent_name(store, seed), tensors, header)


def read_parent(store: CycleStore, seed: int, form: Form | None = None, *, damaged: Told = _untold) -> Parent | None:
    """A parent, or None where it is missing or damaged. `form`: which one without a checksum must have."""
    name = parent_name(store, seed)
    found = read_tensors(store.folder, name, ("weights_remaining",), damaged=damaged)
    if found is None:
        return None
    tensors, header, vouched_for = found
    state, masks = part(tensors, STATE), part(tensors, "masks")
    remaining = _number(header["weights_remaining"])
    fits = vouched_for or form is None or (form.has_state(state) and form.has_masks(masks))
    if remaining is None or not fits:
        damaged(name)
        return None
    return Parent(state=state, masks=masks, weights_remaining=remaining)


def write_winner(store: CycleStore, seed: int, max_lr: float, winner: Winner) -> None:
    """Keep a seed's trained network at the cycle's optimum."""
    tensors = prefixed(STATE, winner.state) | prefixed("masks", winner.masks)
    tensors |= prefixed("rewind", winner.rewind or {})
    header = {"lineage": store.lineage, "max_lr": repr(max_lr)}
    write_tensors(store.folder, winner_name(store, seed), tensors, header)


def read_winner(
    store: CycleStore, seed: int, max_lr: float, form: Form | None = None, *, damaged: Told = _untold
) -> Winner | None:
    """The winner of this chain, or None where it is missing, of another chain or damaged. `form`: see `read_parent`."""
    name = winner_name(store, seed)
    found = read_tensors(store.folder, name, ("lineage", "max_lr"), damaged=damaged)
    if found is None or found[1] != {"lineage": store.lineage, "max_lr": repr(max_lr)}:
        return None
    tensors, _, vouched_for = found
    state, masks, rewind = (part(tensors, prefix) for prefix in (STATE, "masks", "rewind"))
    fits = form is None or (form.has_state(state) and form.has_masks(masks) and form.has_rewind(rewind, store.cycle))
    if not (vouched_for or fits):
        damaged(name)
        return None
    return Winner(state=state, masks=masks, rewind=rewind or None)


def winners_are_whole(store: CycleStore, seeds: Sequence[int]) -> bool:
    """Whether all winners are there, as long as their own first bytes say: a look that reads no tensors."""
    return all(_is_whole(store.folder, winner_name(store, seed)) for seed in seeds)


def write_finals(store: CycleStore, commit: str, candidates: Sequence[float], *, states: State, rewind: State) -> None:
    """Write the final states of candidates that were trained together, stacked, under their commit's name."""
    tensors = prefixed(STATE, states) | prefixed("rewind", rewind)
    write_tensors(store.folder, finals_name(store, commit), tensors, {"candidates": json.dumps(candidates)})


def read_final(
    store: CycleStore, commit: str, max_lr: float, masks: State, form: Form | None = None, *, damaged: Told = _untold
) -> Winner | None:
    """One candidate out of a commit's final states, or None where they are gone or damaged. `form`: see `read_parent`."""
    name = finals_name(store, commit)
    found = read_tensors(store.folder, name, ("candidates",), damaged=damaged)
    if found is None:
        return None
    tensors, header, vouched_for = found
    try:
        candidates = json.loads(header["candidates"])
        index = candidates.index(max_lr)
        own = {key: value[index] for key, value in tensors.items() if len(value) == len(candidates)}
    except (ValueError, AttributeError, TypeError, RecursionError):
        own = {}
    state, rewind = part(own, STATE), part(own, "rewind")
    fits = form is None or (form.has_state(state) and form.has_rewind(rewind, store.cycle))
    if not state or not (vouched_for or fits):
        damaged(name)
        return None
    return Winner(state=state, masks=masks, rewind=rewind or None)


def write_tensors(folder: Folder, name: str, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write named tensors as safetensors, and in its header a checksum of name, tensors and header."""
    whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    fields = {**header, _CHECKSUM: _checksum(name, whole, header)}
    # One key: safetensors orders several at random, and the same network should be the same bytes.
    folder.write(name, safetensors.torch.save(whole, {"header": json.dumps(fields)}))


def read_tensors(
    folder: Folder, name: str, fields: Sequence[str], *, damaged: Told = _untold
) -> tuple[dict[str, Tensor], dict[str, str], bool] | None:
    """Tensors, header, and whether a checksum vouches for them.

    None where there is no such file, or it is damaged, or its header has other fields than these.
    """
    content = folder.read(name)
    if content is None:
        return None
    try:
        tensors = safetensors.torch.load(content)
        length = int.from_bytes(content[:8], "little")
        header: dict[str, str] = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["header"])
        checksum = header.pop(_CHECKSUM, None)
        if set(header) != set(fields) or not all(isinstance(value, str) for value in header.values()):
            raise ValueError("a header of something else")
        if checksum is not None and checksum != _checksum(name, tensors, header):
            raise ValueError("not what was written")
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        damaged(name)
        return None
    return tensors, header, checksum is not None


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under names that say which group they belong to."""
    return {f"{prefix}/{name}": value for name, value in tensors.items()}


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """One group of `prefixed` tensors, under their own names."""
    start = f"{prefix}/"
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def winner_name(store: CycleStore, seed: int) -> str:
    """Where a winner lies in the folder."""
    return store.path("winners", f"seed={seed}.safetensors")


def finals_name(store: CycleStore, commit: str) -> str:
    """Where the final states of a commit lie in the folder."""
    return store.path("weights", f"{commit}.safetensors")


def _checksum(name: str, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps([name, dict(header)], sort_keys=True).encode())
    for key, value in sorted(tensors.items()):
        digest.update(repr((key, str(value.dtype), tuple(value.shape))).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _form(value: Tensor) -> tuple[torch.Size, bool]:
    return value.shape, value.is_floating_point()


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


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
