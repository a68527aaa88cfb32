"""The winners of a cycle: each seed's trained network at the optimum. Where they are, and which of them are lost."""

from collections.abc import Callable, Collection, Sequence

import pyarrow as pa

from oracle.execution.jobs import Pack
from oracle.experiment import Experiment
from oracle.runs.cycle import CycleStore
from oracle.training.parents import Winner


def pack_of(store: CycleStore, trials: pa.Table, seed: int, max_lr: float) -> Pack:
    """The pack that committed a trial: trained again beside the same candidates, it ends with the same bits."""
    rows = trials.select(["seed", "max_lr", "commit"]).to_pylist()
    [own] = [row for row in rows if row["seed"] == seed and row["max_lr"] == max_lr]
    candidates = sorted(row["max_lr"] for row in rows if row["commit"] == own["commit"])
    return Pack(store=store, seed=seed, candidates=tuple(candidates), again=True)


def lost_winners(
    stores: Sequence[CycleStore],
    experiment: Experiment,
    read: Callable[[CycleStore, int], Winner | None],
    *,
    but: Collection[int],
) -> list[CycleStore]:
    """Which cycles, in order, have winners that the next cycle's pruning needs and cannot read.

    Pruning reads the winners of the cycle before, and of cycle 0 where `rewind_step` is set; making a lost winner anew
    needs its own parent, and so the winners of the cycle before it. `read`: a seed's winner of a cycle, None where it is
    lost. `but`: cycles whose winners are known to be there.
    """
    always = {0} if experiment.pruning.rewind_step else set()
    lost: list[CycleStore] = []
    needed = {len(stores) - 1} | always
    for store in reversed(stores):
        if store.cycle not in needed or store.cycle in but:
            continue
        if any(read(store, seed) is None for seed in experiment.seeds):
            lost.insert(0, store)
            needed |= {store.cycle - 1} | always
    return lost
