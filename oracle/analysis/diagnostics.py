"""What the winners look like inside: the distributions that the paper draws in Fig. 1 and Figs. 4 to 10.

Of each cycle and seed, at the trained weights of the optimum and on one batch of 128 training images (the paper's batch in
Fig. 1; the spread of a gradient depends on it), not augmented, the same for all cycles and seeds:

    weight_gradient   dL/dw, L the batch's mean cross-entropy
    weight_update     max_lr dL/dw: the paper's weight update, gradient times learning rate, at the schedule's peak
    weight_change     trained weight minus the parent's: what the whole training did (Definition 2, over all epochs)
    hidden            what each layer reads from the layers before it; the first layer reads images and has none, nor has
                      the projection behind attention, which PyTorch computes inside one call

Pruned weights are left out. Batch norms use the batch's own statistics, as in a training step, and dropout is off. Layers
go by their weight's key in state_dict; "all" is all of them together. Projection shortcuts read what their block reads, so
their `hidden` is not counted twice; in DenseNet every layer reads all maps of its block, and each reading counts.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oracle.data.images import Batch, Images
from oracle.experiment import Experiment
from oracle.pruning.layers import is_shortcut, prunable, prunable_layers
from oracle.runs.cycle import CycleStore
from oracle.runs.lineage import lineages_of
from oracle.runs.records import read_experiment
from oracle.runs.tables import from_parquet, oracle_rows, to_parquet
from oracle.storage import Folder
from oracle.training.parents import Parent, State, Winner, parent_network

BATCH = 128  # images
ALL = "all"

DIAGNOSTICS = pa.schema(
    [
        pa.field("cycle", pa.int64(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("layer", pa.string(), nullable=False),
        pa.field("quantity", pa.string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),  # of finite values; all that follows is of these
        pa.field("not_finite", pa.int64(), nullable=False),
        pa.field("mean", pa.float64()),  # null if there is no finite value, and so are the next three
        pa.field("std", pa.float64()),  # of the values as they are: divided by count
        pa.field("min", pa.float64()),
        pa.field("max", pa.float64()),
        pa.field("edges", pa.list_(pa.float64()), nullable=False),  # from min to max, one more than counts
        pa.field("counts", pa.list_(pa.int64()), nullable=False),  # edges[i] <= value < edges[i + 1]; the last: <=
        pa.field("lineage", pa.string(), nullable=False),  # which optima the winner came from
    ]
)

Visitor = Callable[[str, Tensor], None]  # told a layer and some of its values
Walk = Callable[[Visitor], None]  # tells a visitor all values of a quantity; may be walked twice


def read_diagnostics(out: str | Path | Folder) -> pa.Table:
    """All diagnostics of a run that belong to its chain, by cycle and seed. Columns: `DIAGNOSTICS`, but for lineage.

    Empty where the experiment asked for none. Raises FolderError where `out` holds no run.
    """
    folder = out if isinstance(out, Folder) else Folder(out)
    experiment = read_experiment(folder)
    lineages, rows = lineages_of(folder, experiment), oracle_rows(folder)
    seeds, names = experiment.seeds, lineages.of(rows)
    optima = [row["max_lr"] for row in rows]
    found = [
        diagnostics_of_winner(
            CycleStore(folder=folder, cycle=cycle, lineage=names[cycle]), seed, lineages.of_winners(optima[: cycle + 1])
        )
        for cycle in range(len(rows))
        for seed in seeds
    ]
    tables = [DIAGNOSTICS.empty_table(), *(table for table in found if table is not None)]
    return pa.concat_tables(tables).drop_columns("lineage")


def diagnostics_of_winner(store: CycleStore, seed: int, after: str) -> pa.Table | None:
    """What was written of a winner, None where that is missing, of another winner, or cannot be read.

    `after`: the lineage of what follows from the winner.
    """
    name = _name(store, seed)
    content = store.folder.read(name)
    table = from_parquet(content, DIAGNOSTICS, where=store.folder / name) if content is not None else None
    if table is None or not pc.all(pc.equal(table["lineage"], after)).as_py():
        return None
    return table


def has_diagnostics(store: CycleStore, seed: int, after: str) -> bool:
    """Whether a winner's diagnostics are there."""
    return diagnostics_of_winner(store, seed, after) is not None


def write_diagnostics(store: CycleStore, seed: int, table: pa.Table) -> None:
    """Put a winner's diagnostics beside the trials."""
    store.folder.write(_name(store, seed), to_parquet(table))


def diagnose(
    experiment: Experiment,
    images: Images,
    *,
    cycle: int,
    seed: int,
    max_lr: float,
    parent: Parent,
    winner: Winner,
    after: str,
) -> pa.Table:
    """The diagnostics of one winner, one row a quantity and layer. Draws no random number and changes nothing.

    `after`: the lineage of what follows from the winner.
    """
    network = parent_network(experiment, seed, images, parent)
    network.load_state_dict(dict(winner.state))
    batch = images.sample(min(BATCH, images.num_train), "diagnostics")
    network.to(batch[0].device)
    for module in network.modules():
        module.training = isinstance(module, nn.modules.batchnorm._BatchNorm)
    gradients = _gradients(network, batch)
    kept = {name: winner.masks[name] for name in gradients}
    changes = {name: winner.state[name] - parent.state[name] for name in gradients}
    quantities: dict[str, Walk] = {
        "weight_gradient": _walk_weights(gradients, kept),
        "weight_update": _walk_weights({name: max_lr * value for name, value in gradients.items()}, kept),
        "weight_change": _walk_weights(changes, kept),
        "hidden": lambda visit: _walk_hidden(network, batch, visit),
    }
    rows = [
        {
            "cycle": cycle,
            "seed": seed,
            "layer": layer,
            "quantity": quantity,
            **summary.row(),
            "lineage": after,
        }
        for quantity, walk in quantities.items()
        for layer, summary in _summaries(walk).items()
    ]
    return pa.Table.from_pylist(rows, schema=DIAGNOSTICS)


def _name(store: CycleStore, seed: int) -> str:
    return store.path("diagnostics", f"seed={seed}.parquet")


def _gradients(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    parameters = dict(network.named_parameters())
    weights = {name: parameters[name] for name in prunable(network)}
    images, labels = batch
    loss = F.cross_entropy(network(images), labels)
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(weights, gradients, strict=True))


def _walk_weights(values: State, masks: State) -> Walk:
    def walk(visit: Visitor) -> None:
        for name, value in values.items():
            visit(name, value[masks[name].to(value.device)])

    return walk


@torch.no_grad()
def _walk_hidden(network: nn.Module, batch: Batch, visit: Visitor) -> None:
    """Every layer's input as it passes: kept together, those of a large network would not fit into memory."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: visit(name, inputs[0])

    layers = [layer for layer in prunable_layers(network)[1:] if not is_shortcut(layer.name)]
    handles = [layer.module.register_forward_pre_hook(hook(layer.name)) for layer in layers]
    try:
        network(batch[0])
    finally:
        for handle in handles:
            handle.remove()


def _summaries(walk: Walk) -> dict[str, "_Summary"]:
    """Layers in the order of the walk, then all: walked once for the moments and the edges, once for the counts."""
    found: dict[str, _Summary] = {}
    together = _Summary()

    def add(layer: str, values: Tensor) -> None:
        summary = found.setdefault(layer, _Summary())
        summary.add(values)
        together.add(values)

    def count(layer: str, values: Tensor) -> None:
        found[layer].put(values)
        together.put(values)

    walk(add)
    walk(count)
    return found | {ALL: together}


@dataclass(slots=True)
class _Summary:
    """Moments, range and histogram of values that come in parts, in float64."""

    count: int = 0
    not_finite: int = 0
    mean: float = 0.0
    squares: float = 0.0  # summed, of distances from the mean
    low: float = math.inf
    high: float = -math.inf
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def add(self, values: Tensor) -> None:
        """Take a part's moments in: (n, mean, M2) of two parts joined as Chan, Golub and LeVeque (1979) do."""
        finite = _finite(values)
        self.not_finite += values.numel() - len(finite)
        if not len(finite):
            return
        mean = float(finite.mean())
        squares = float((finite - mean).square().sum())
        count = self.count + len(finite)
        step = mean - self.mean
        self.squares += squares + step**2 * self.count * len(finite) / count
        self.mean += step * len(finite) / count
        self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))
        self.count = count

    @property
    def edges(self) -> np.ndarray:
        """Equal bins from min to max, as many as Sturges' rule says: ceil(log2 count) + 1.

        Where all values are one, that value +- 1/2, as numpy.histogram does.
        """
        if not self.count:
            return np.zeros(0)
        low, high = (self.low, self.high) if self.low < self.high else (self.low - 0.5, self.high + 0.5)
        return np.linspace(low, high, (self.count - 1).bit_length() + 2)

    def put(self, values: Tensor) -> None:
        """Count a part into the bins, once all parts are added."""
        edges = self.edges
        if not len(edges):
            return
        inner = torch.from_numpy(edges[1:-1]).to(values.device)
        bins = torch.searchsorted(inner, _finite(values), right=True)
        counts = bins.bincount(minlength=len(edges) - 1).cpu().numpy()
        self.counts = counts if not len(self.counts) else self.counts + counts

    def row(self) -> dict[str, Any]:
        """As `DIAGNOSTICS` names it."""
        known = self.count > 0
        return {
            "count": self.count,
            "not_finite": self.not_finite,
            "mean": self.mean if known else None,
            "std": math.sqrt(self.squares / self.count) if known else None,
            "min": self.low if known else None,
            "max": self.high if known else None,
            "edges": self.edges.tolist(),
            "counts": self.counts.tolist(),
        }


def _finite(values: Tensor) -> Tensor:
    flat = values.detach().double().flatten()
    return flat[flat.isfinite()]
