"""What training asks of a data set; and a data set as tensors on the device, split once, and its batches.

Axes: N images of a set, B images of a batch, C channels, H rows, W columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from oracle.data.memory import FEWER, HOST, check_batch, check_fits, evaluated_together
from oracle.data.sources import RawImages
from oracle.errors import DataError
from oracle.rng import generator

Batch = tuple[Tensor, Tensor]  # images float [B, C, H, W], labels int64 [B]
EVALUATION_BATCH = 1000  # images at most; a forward pass without gradients of 1,000 CIFAR images stays well below 1 GiB
CROP_PADDING = 4  # pixels a side, zeros: the usual recipe for CIFAR


class Images(Protocol):
    """What training asks of a data set, held in memory or streamed."""

    num_classes: int
    input_shape: tuple[int, int, int]
    num_train: int
    num_validation: int
    num_test: int

    def epoch(self, key: tuple[int, int, int], batch_size: int) -> Iterator[Batch]:
        """The shuffled, augmented batches of (seed, cycle, epoch); the last, short one is dropped."""

    def validation(self) -> Iterator[Batch]:
        """All validation images, never augmented, in one order."""

    def test(self) -> Iterator[Batch]:
        """All test images."""

    def sample(self, size: int, *key: int | str) -> Batch:
        """A fixed batch of training images, not augmented, keyed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Set:
    images: Tensor  # uint8 [N, C, H, W]
    labels: Tensor  # int64 [N]


class DeviceImages:
    """A data set that lies on the device whole."""

    def __init__(
        self,
        raw: RawImages,
        *,
        validation: int,
        train: int | None = None,
        augment: str,
        resolution: int | None = None,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Splits off `validation` images once, the same for every seed. Raises DataError where none would be left.

        `train`: images to train on, all that are left by default. `resolution`: pixels a side that batches are resized
        to; images lie on the device as they are stored.
        """
        kept, held_out = split(len(raw.train_labels), validation, train)
        if augment not in {"none", "crop-flip"}:
            raise DataError(f"data.augment {augment} is for image folders; this source knows none and crop-flip")
        self.num_classes = raw.num_classes
        channels, height, width = raw.train_images.shape[1:]
        self._resized = resolution is not None and (height, width) != (resolution, resolution)
        self.input_shape = (channels, resolution or height, resolution or width)
        self.num_train, self.num_validation, self.num_test = len(kept), len(held_out), len(raw.test_labels)
        self._augment = augment == "crop-flip"
        self._dtype = dtype
        self._check_memory(raw, device)
        self._together = evaluated_together(EVALUATION_BATCH, self.input_shape, dtype)
        self._train = _on_device(raw.train_images[kept], raw.train_labels[kept], device)
        self._validation = _on_device(raw.train_images[held_out], raw.train_labels[held_out], device)
        self._test = _on_device(raw.test_images, raw.test_labels, device)
        mean, spread = _statistics(self._train.images)
        self._mean = mean.to(device, dtype).view(1, -1, 1, 1)
        spread[spread == 0] = 1.0  # a channel that never changes stays at 0
        self._scale = 1 / spread.to(device, dtype).view(1, -1, 1, 1)
        if self._augment:
            self._padded = F.pad(self._train.images, (CROP_PADDING,) * 4)
            self._rows = torch.arange(height, device=device)
            self._columns = torch.arange(width, device=device)
        elif not self._resized:
            self._ready = self._normal(self._train.images)

    def epoch(self, key: tuple[int, int, int], batch_size: int) -> Iterator[Batch]:
        """See `Images.epoch`."""
        seed, cycle, epoch = key
        device = self._train.labels.device
        check_batch("training.batch_size", batch_size, self.input_shape, self._dtype, device)
        order = torch.randperm(self.num_train, generator=generator("batches", seed, cycle, epoch)).to(device)
        if self._augment:
            draws = generator("augmentation", seed, cycle, epoch)
            shifts = torch.randint(2 * CROP_PADDING + 1, (2, self.num_train), generator=draws).to(device)
            flips = torch.randint(2, (self.num_train,), generator=draws, dtype=torch.bool).to(device)
        for start in range(0, self.num_train - batch_size + 1, batch_size):
            part = slice(start, start + batch_size)
            chosen = order[part]
            if self._augment:
                images = self._crop(chosen, shifts[:, part], flips[part])
            else:
                images = self._normal(self._train.images[chosen]) if self._resized else self._ready[chosen]
            yield images, self._train.labels[chosen]

    def validation(self) -> Iterator[Batch]:
        """See `Images.validation`."""
        return self._batches(self._validation)

    def test(self) -> Iterator[Batch]:
        """See `Images.test`."""
        return self._batches(self._test)

    def sample(self, size: int, *key: int | str) -> Batch:
        """See `Images.sample`."""
        check_sample(size, self.num_train)
        check_batch("pruning.batch", size, self.input_shape, self._dtype, self._train.labels.device)
        order = torch.randperm(self.num_train, generator=generator("sample", *key))[:size].to(self._train.labels.device)
        return self._normal(self._train.images[order]), self._train.labels[order]

    def _batches(self, part: _Set) -> Iterator[Batch]:
        most = min(self._together, len(part.labels))
        check_batch("evaluation", most, self.input_shape, self._dtype, part.labels.device)
        for start in range(0, len(part.labels), self._together):
            chosen = slice(start, start + self._together)
            yield self._normal(part.images[chosen]), part.labels[chosen]

    def _check_memory(self, raw: RawImages, device: torch.device) -> None:
        """Raises DataError where the device has no room for the images and their padded, or normalised, copies."""
        channels, height, width = raw.train_images.shape[1:]
        one = channels * height * width
        stored = (self.num_train + self.num_validation) * one
        if device.type != "cpu":  # else the test images stay where they are
            stored += len(raw.test_images) * one
            check_fits(self.num_train * one, "the images to train on, split off", FEWER, HOST)
        copies = 0
        if self._augment:
            copies = self.num_train * channels * (height + 2 * CROP_PADDING) * (width + 2 * CROP_PADDING)
        elif not self._resized:
            copies = 2 * self._dtype.itemsize * self.num_train * one  # before and after they are scaled
        images = f"{self.num_train + self.num_validation} images of {channels} x {height} x {width}, kept ready"
        check_fits(stored + copies, images, FEWER, device)

    def _normal(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] to mean 0 and standard deviation 1 over the training images, channel by channel; resized."""
        normal = (images.to(self._dtype) - self._mean) * self._scale
        if not self._resized:
            return normal
        return F.interpolate(normal, self.input_shape[1:], mode="bilinear", antialias=True)

    def _crop(self, chosen: Tensor, shifts: Tensor, flips: Tensor) -> Tensor:
        """Each image cropped out of its zero-padded self, mirrored where `flips` says: one gather for the batch."""
        columns = torch.where(flips[:, None], self._columns.flip(0), self._columns)  # [B, W]
        rows = shifts[0][:, None] + self._rows  # [B, H]
        columns = shifts[1][:, None] + columns
        channels = torch.arange(self.input_shape[0], device=chosen.device)
        cropped = self._padded[
            chosen[:, None, None, None], channels[:, None, None], rows[:, None, :, None], columns[:, None, None, :]
        ]
        return self._normal(cropped)


def split(available: int, validation: int, train: int | None = None) -> tuple[list[int], list[int]]:
    """Indices of the images to train on, and of `validation` held out: the same for every seed.

    `train`: how many of those that are left are trained on; None: all. Raises DataError where a part would be empty or
    there are not enough.
    """
    if not 0 < validation < available:
        raise DataError(f"data.validation: found {validation}, but there are {available} training images to split")
    order = torch.randperm(available, generator=generator("validation split")).tolist()
    if train is not None and train > available - validation:
        raise DataError(
            f"data.train: found {train}, but {available - validation} images are left beside the validation set"
        )
    return order[validation:][:train], order[:validation]


def check_sample(size: int, num_train: int) -> None:
    """Raises DataError where a sample is asked for that is larger than the training set."""
    if size > num_train:
        raise DataError(f"pruning.batch: found {size}, but there are only {num_train} training images")


def _statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of uint8 [N, C, H, W]: float64 [C], exact, from counts of the 256 levels.

    A float32 sum stops growing at 2**24 levels: on CIFAR-10 it gives a mean of 93 for 125.
    """
    counts = torch.stack([images[:, channel].flatten().bincount(minlength=256) for channel in range(images.shape[1])])
    shares = counts.cpu().double() / (images.numel() // images.shape[1])
    levels = torch.arange(256, dtype=torch.float64)
    mean = shares @ levels
    variance = (shares * (levels - mean[:, None]) ** 2).sum(1)
    return mean, variance.sqrt()


def _on_device(images: object, labels: object, device: torch.device) -> _Set:
    # Decoded images lie channels-last in memory; flattening them would copy every batch.
    return _Set(images=torch.as_tensor(images).to(device).contiguous(), labels=torch.as_tensor(labels).to(device))
