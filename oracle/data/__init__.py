"""Images and labels: from their sources to batches on the device."""

import torch

from oracle.data.images import DeviceImages, Images
from oracle.data.memory import FEWER, full_memory_named
from oracle.data.sources import SOURCES, RawImages, load_raw
from oracle.data.stream import StreamImages
from oracle.errors import DataError
from oracle.experiment import Data, Experiment
from oracle.storage import expanded


def read_whole(data: Data) -> RawImages | None:
    """The data set as it is stored, to be handed to `load_images`; None for a folder, which is read while it trains."""
    return load_raw(data) if data.source in SOURCES else None


def load_images(experiment: Experiment, device: torch.device, raw: RawImages | None = None) -> Images:
    """The experiment's data set, split, ready to give batches on the device; `raw` where it has been read already.

    Raises DataError, also where a batch is larger than the training set.
    """
    data = experiment.data
    dtype = torch.float64 if experiment.training.precision == "fp64" else torch.float32
    raw = read_whole(data) if raw is None else raw
    with full_memory_named(f"data.source {data.source}", FEWER):
        images = _images(data, device, dtype, raw)
    check_batch_size(experiment, images)
    return images


def data_key(experiment: Experiment) -> str:
    """The same for experiments whose images are the same, so that they need to be loaded once."""
    return f"{experiment.data.model_dump_json()} {experiment.training.precision == 'fp64'}"


def check_batch_size(experiment: Experiment, images: Images) -> None:
    """DataError where a batch is larger than the training set."""
    if experiment.training.batch_size > images.num_train:
        raise DataError(
            f"training.batch_size: found {experiment.training.batch_size}, but only {images.num_train} images are left "
            f"to train on ({experiment.data.validation} are kept for validation)"
        )


def _images(data: Data, device: torch.device, dtype: torch.dtype, raw: RawImages | None) -> Images:
    if raw is not None:
        return DeviceImages(
            raw,
            validation=data.validation,
            train=data.train,
            augment=data.augment,
            resolution=data.resolution,
            device=device,
            dtype=dtype,
        )
    if data.path is None:
        raise DataError("data.source folder needs data.path (--data): the folder that holds train/ and val/")
    return StreamImages(
        expanded(data.path),
        validation=data.validation,
        train=data.train,
        augment=data.augment,
        resolution=data.resolution,
        device=device,
        dtype=dtype,
    )
