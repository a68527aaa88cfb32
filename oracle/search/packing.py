"""How many candidates a pack should have."""

from collections import Counter
from collections.abc import Mapping, Sequence

from oracle.runs.decisions import Pair
from oracle.training.backends import Backend

GPU_PACK = 16  # candidates a pack at most: more are thought to saturate a GPU, and memory grows with each
# What a pack costs beside its candidates, in trainings of one: its start, and kernels that cost as much for one as for two.
PACK_OVERHEAD: Mapping[Backend, float] = {"pack": 2.0, "plain": 0.25}


def fair_pack_size(pairs: Sequence[Pair], slots: int, backend: Backend, device: str = "cpu") -> int:
    """Candidates a pack so that all slots finish a round together, with as few packs as that allows.

    `pairs`: the round's trials. A pack costs its candidates and PACK_OVERHEAD.
    """
    seeds = Counter(seed for _, seed in pairs)

    def makespan(size: int) -> float:
        rounds = -(-num_packs(pairs, size) // slots)
        return rounds * (size + PACK_OVERHEAD[backend])

    most = max(seeds.values())
    largest = min(most, GPU_PACK) if device == "cuda" else most
    return min(range(largest, 0, -1), key=makespan)


def num_packs(pairs: Sequence[Pair], size: int) -> int:
    """Packs of `size` candidates at most, of one seed each."""
    return sum(-(-count // size) for count in Counter(seed for _, seed in pairs).values())
