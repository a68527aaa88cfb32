"""How candidates are trained, plain or as a pack, and on which device."""

from typing import Literal, get_args

import torch
from torch import nn

from oracle.data.images import Images
from oracle.errors import ExperimentError
from oracle.experiment import Experiment
from oracle.training.autolrs import AutoLrsTrainer
from oracle.training.loop import Trainer
from oracle.training.packs import PackTrainer
from oracle.training.parents import Parent, parent_network
from oracle.training.plain import PlainTrainer

Backend = Literal["plain", "pack"]
SMALL_NETWORK = 50_000  # parameters: below, a CPU step of one network is mostly overhead, which a pack shares


def check_backend(backend: str) -> None:
    """Raises ExperimentError unless `backend` is auto, plain or pack."""
    if backend not in ("auto", *get_args(Backend)):
        raise ExperimentError(f"backend: expected one of auto, {', '.join(get_args(Backend))}, found {backend!r}")


def default_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_backend(network: nn.Module, device: str) -> Backend:
    """Packs on a GPU, and on a CPU for small networks without convolutions; else one candidate after another."""
    small = sum(parameter.numel() for parameter in network.parameters()) <= SMALL_NETWORK
    convolutional = any(isinstance(module, nn.Conv2d) for module in network.modules())
    return "pack" if device == "cuda" or (small and not convolutional) else "plain"


def backend_of(experiment: Experiment, network: nn.Module, device: str, asked: Backend | Literal["auto"]) -> Backend:
    """The backend asked for, or the one that suits. ExperimentError where an experiment cannot be trained in packs."""
    check_backend(asked)
    if experiment.training.autolrs:
        if asked == "pack":
            raise ExperimentError("backend: found pack, but training.autolrs trains one candidate at a time: plain")
        return "plain"
    return choose_backend(network, device) if asked == "auto" else asked


def make_trainer(
    backend: Backend,
    experiment: Experiment,
    seed: int,
    images: Images,
    parent: Parent,
    device: torch.device,
    *,
    num_candidates: int,
    cycle: int = 0,
) -> Trainer:
    """A trainer whose candidates all stand at the parent. `cycle`: with the seed the key of its batches."""
    network = parent_network(experiment, seed, images, parent)
    if backend == "plain":
        assert num_candidates == 1
        plain = PlainTrainer(network, parent.masks, experiment, device)
        return AutoLrsTrainer(plain, experiment, images, key=(seed, cycle)) if experiment.training.autolrs else plain
    return PackTrainer(network, parent.masks, experiment, device, num_candidates)
