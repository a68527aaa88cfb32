"""How many trainings each way of choosing max_lr costs."""

import math

from silo_fit.tables import Intervals

ASSUMED_CANDIDATES = 20  # a cycle, where the table does not say how many were tried
SPARSE_CYCLES = 6  # that a sparse Oracle searches, where the table itself holds every cycle
MOST_DIGITS = 300  # of a count: a float holds 308


def trainings(intervals: Intervals) -> dict[str, float]:
    """Count trainings for n candidates, a chain of k = L + 1 trainings, and a sparse Oracle of c searched cycles.

        greedy_oracle      n k             every candidate at every cycle, as the strategy grid
        sparse_oracle      n c + (k - c)   the same at c cycles, one training at each of the others
        joint_oracle       n^k             every combination over the chain; left out beyond 1e300
        silo_grid          n^2 k           a whole chain for every pair (eps, delta)
        silo_one_by_one    n + n (k - 1)   eps on the dense network, then a chain for every delta
        silo_one_network   2 n + (k - 1)   eps on the dense network, then delta on the network of target sparsity
                                           alone, its masks frozen

    All are multiplied by the number of seeds, where the table has it. k is the table's last cycle + 1; c is the number of
    its cycles where that is below k. Source: what each procedure trains. Liu et al. 2023 ("SILO vs Oracle (Complexity)")
    state O(nk) for the Oracle, and for SILO O(n^2), which counts the pairs and not their chains.

    >>> from silo_fit.tables import read_intervals
    >>> counts = trainings(read_intervals("paper:resnet20"))
    >>> counts["candidates"], counts["chain"], counts["greedy_oracle"], counts["silo_one_network"]
    (20, 8, 160, 47)
    """
    n = intervals.num_candidates or ASSUMED_CANDIDATES
    k = int(intervals.cycles[-1]) + 1
    c = len(intervals.cycles) if len(intervals.cycles) < k else min(SPARSE_CYCLES, k)
    seeds = intervals.num_seeds or 1
    counts = {
        "greedy_oracle": n * k,
        "sparse_oracle": n * c + (k - c),
        "joint_oracle": float(n) ** k if k * math.log10(n) < MOST_DIGITS else None,
        "silo_grid": n * n * k,
        "silo_one_by_one": n + n * (k - 1),
        "silo_one_network": 2 * n + (k - 1),
    }
    known = {name: count * seeds for name, count in counts.items() if count is not None}
    return {"candidates": n, "chain": k, "sparse_cycles": c, "seeds": seeds, **known}
