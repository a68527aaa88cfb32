"""What would fail in a training or a pruning, refused before anything is trained."""

import torch
from torch import nn

from oracle.data.images import Images
from oracle.data.memory import HOST, check_fits
from oracle.errors import ExperimentError
from oracle.experiment import Experiment
from oracle.networks import outline_network
from oracle.pruning import find_method, next_masks
from oracle.training.schedules import learning_rates

TRAINED_COPIES = 4  # of a network's numbers, while one candidate is trained: values, gradients, momenta, a step's own
KEPT_COPIES = 3  # beside them, on the CPU: the parent, what it was made from, and the network at its best epoch

FEW_IMAGES = 2  # enough to see that gradient scores work


def check_network_fits(experiment: Experiment, images: Images, device: torch.device) -> None:
    """Refuse a network that no memory holds while one candidate is trained, before any of its numbers is made.

    Raises DataError with the numbers, NetworkError as `build_network` does.
    """
    name, shape = experiment.network.name, images.input_shape
    network = outline_network(name, num_classes=images.num_classes, input_shape=shape)
    numbers = sum(parameter.numel() for parameter in network.parameters())
    size = 8 if experiment.training.precision == "fp64" else 4
    what = f"network {name} for images of {' x '.join(map(str, shape))}: {numbers:,} parameters, trained"
    way_out = "a smaller data.resolution or another network takes less"
    kept = numbers * (KEPT_COPIES * size + 1)  # a byte more for the mask
    if device.type == "cpu":
        check_fits(kept + numbers * TRAINED_COPIES * size, what, way_out)
    else:
        check_fits(kept, what, way_out, HOST)
        check_fits(numbers * TRAINED_COPIES * size, what, way_out, device)


def check_trainable(experiment: Experiment, images: Images, network: nn.Module) -> None:
    """Refuse what does not fit the network and its images: lengths, schedules, batches of one, the pruning method.

    `network`: the experiment's, for these images. Raises ExperimentError, ScheduleError or MaskError.
    """
    steps_per_epoch = images.num_train // experiment.training.batch_size
    check_rewind_step(experiment, steps_per_epoch)
    cycles = range(experiment.pruning.cycles + 1)
    for max_lr in {max_lr for cycle in cycles for max_lr in experiment.candidates(cycle)}:
        epochs = experiment.training.epochs
        learning_rates(experiment.schedule, max_lr=max_lr, epochs=epochs, steps_per_epoch=steps_per_epoch)
    pruning, batch = experiment.pruning, None
    if find_method(pruning.method).needs_batch:
        pixels, labels = images.sample(pruning.batch, experiment.seeds[0])
        batch = pixels[:FEW_IMAGES].cpu(), labels[:FEW_IMAGES].cpu()
        _check_batch_of_one("pruning.batch", pruning.batch, network, images)
    _check_batch_of_one("training.batch_size", experiment.training.batch_size, network, images)
    next_masks(network, None, method=pruning.method, rate=pruning.rate, batch=batch, prune_output=pruning.prune_output)


def check_rewind_step(experiment: Experiment, steps_per_epoch: int) -> None:
    """Raises ExperimentError where the training ends before the step that survivors go back to."""
    steps = experiment.training.epochs * steps_per_epoch
    if experiment.pruning.rewind_step > steps:
        raise ExperimentError(
            f"pruning.rewind_step: found {experiment.pruning.rewind_step}, but a training has only {steps} steps"
        )


def _check_batch_of_one(key: str, size: int, network: nn.Module, images: Images) -> None:
    """A batch norm has nothing to normalise by where it sees one image of one pixel."""
    if size > 1:
        return
    pixels, _ = images.sample(1, 0)
    try:
        network.cpu().train()(pixels.cpu())
    except ValueError as error:
        raise ExperimentError(
            f"{key}: found 1, but this network's batch norms need at least 2 images: {error}"
        ) from None
