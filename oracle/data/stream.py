"""Image folders that are too large for the device: decoded, cropped and sent there while it trains.

Axes: B images of a batch, C = 3 channels, H = W pixels a side.
"""

import math
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2 import functional as transforms

from oracle.data.decode import decoded
from oracle.data.files import Found, files_below, folders_in
from oracle.data.images import Batch, check_sample, split
from oracle.data.memory import check_batch, check_fits, evaluated_together
from oracle.errors import DataError
from oracle.rng import generator

# Mean and standard deviation of red, green and blue, as fractions of full brightness, over ImageNet's training images:
# torchvision's pretrained networks expect their inputs so. Constants, not measured on the folder: a pretrained start
# needs these, and it needs no pass over a million files. Other images are then a little off mean 0 and deviation 1,
# which batch norm takes up.
MEAN = (0.485, 0.456, 0.406)
SPREAD = (0.229, 0.224, 0.225)
RESOLUTION = 224  # pixels a side, where the experiment names none
SHORT_SIDE_RATIO = 256 / 224  # of the resized image to the crop that is evaluated: torchvision's recipe for ImageNet
CROP_AREA = (0.08, 1.0)  # of a random crop to the image; with CROP_ASPECT, the recipe of Szegedy et al. 2015
CROP_ASPECT = 4 / 3  # width to height of a random crop: from 1 / CROP_ASPECT to CROP_ASPECT
CROP_TRIES = 10  # draws of a crop that may stick out of the image: torchvision's number
EVALUATION_BATCH = 250  # images at most; the largest map of ResNet-50 at 224 pixels then takes 0.8 GB
MOST_WORKERS = 16  # processes that decode images, at most

AugmentationKey = tuple[int, int, int]  # seed, cycle, epoch


class StreamImages:
    """A folder of images in ImageNet's layout: train/CLASS/*.jpg, and val/CLASS/*.jpg for the test set.

    See `oracle.data.images.Images`. Every image has random numbers of its own, keyed by (seed, cycle, epoch) and its place
    among the sorted files, so batches do not depend on how many processes decode them.
    """

    def __init__(
        self,
        root: Path,
        *,
        validation: int,
        train: int | None = None,
        augment: str,
        resolution: int | None = None,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        workers: int | None = None,
    ) -> None:
        """Splits off `validation` training images once, the same for every seed.

        `train`: images to train on, all that are left by default. `workers`: processes that decode; by default 16 or the
        cores where there is a GPU to feed, and none on a CPU, whose cores train. Raises DataError for a folder that is
        missing, has no classes or not the same in both parts.
        """
        if augment not in {"none", "resized-crop-flip"}:
            raise DataError(f"data.augment {augment} is not for image folders, which know none and resized-crop-flip")
        listed, test = _listed(root / "train"), _listed(root / "val")
        if listed.classes != test.classes:
            differ = sorted(set(listed.classes) ^ set(test.classes))
            raise DataError(
                f"{root}: train has {len(listed.classes)} classes and val {len(test.classes)}, expected the same in both; "
                f"only one of them has {', '.join(differ[:5])}"
            )
        _check_apart(listed, test)
        kept, held_out = split(len(listed.samples), validation, train)
        size = resolution or RESOLUTION
        self.num_classes = len(listed.classes)
        self.input_shape = (3, size, size)
        self.num_train, self.num_validation, self.num_test = len(kept), len(held_out), len(test.samples)
        self._train = [listed.samples[index] for index in kept]
        self._validation = [listed.samples[index] for index in held_out]
        self._test = test.samples
        self._augment = augment == "resized-crop-flip"
        self._device = device
        self._together = evaluated_together(EVALUATION_BATCH, self.input_shape, dtype)
        self._mean = (255 * torch.tensor(MEAN)).to(device, dtype).view(-1, 1, 1)
        self._scale = 1 / (255 * torch.tensor(SPREAD)).to(device, dtype).view(-1, 1, 1)
        if workers is None:
            workers = min(MOST_WORKERS, os.cpu_count() or 1) if device.type == "cuda" else 0
        self._workers = workers

    def epoch(self, key: AugmentationKey, batch_size: int) -> Iterator[Batch]:
        """See `Images.epoch`."""
        check_batch("training.batch_size", batch_size, self.input_shape, self._mean.dtype, self._device)
        order = torch.randperm(self.num_train, generator=generator("batches", *key))
        whole = order[: self.num_train // batch_size * batch_size].view(-1, batch_size)
        return self._load(_Files(self._train, self.input_shape[1], key if self._augment else None), whole.tolist())

    def validation(self) -> Iterator[Batch]:
        """See `Images.validation`."""
        return self._evaluated(self._validation)

    def test(self) -> Iterator[Batch]:
        """See `Images.test`."""
        return self._evaluated(self._test)

    def sample(self, size: int, *key: int | str) -> Batch:
        """See `Images.sample`."""
        check_sample(size, self.num_train)
        check_batch("pruning.batch", size, self.input_shape, self._mean.dtype, self._device)
        chosen = torch.randperm(self.num_train, generator=generator("sample", *key))[:size].tolist()
        [batch] = self._load(_Files(self._train, self.input_shape[1], None), [chosen])
        return batch

    def _evaluated(self, samples: list[tuple[str, int]]) -> Iterator[Batch]:
        most = min(self._together, len(samples))
        check_batch("evaluation", most, self.input_shape, self._mean.dtype, self._device)
        indices = list(range(len(samples)))
        batches = [indices[start : start + self._together] for start in range(0, len(indices), self._together)]
        return self._load(_Files(samples, self.input_shape[1], None), batches)

    def _load(self, files: "_Files", batches: list[list[int]]) -> Iterator[Batch]:
        """Decode these batches in order. uint8 until they are on the device: a quarter of the memory on the way."""
        loader = DataLoader(
            files,
            batch_sampler=batches,
            num_workers=self._workers,
            collate_fn=_stack,
            worker_init_fn=_ignore_interrupts,
            pin_memory=self._device.type == "cuda",
            generator=generator("loader"),  # seeds the workers, which draw nothing; else the global numbers would move
        )
        for loaded in loader:
            if isinstance(loaded, DataError):
                raise loaded
            pixels, labels = (part.to(self._device, non_blocking=True) for part in loaded)
            yield (pixels.to(self._mean.dtype) - self._mean) * self._scale, labels


class _Files(Dataset[Any]):
    """Image files as uint8 [C, H, W] and a label; augmented where there is a key."""

    def __init__(self, samples: Sequence[tuple[str, int]], size: int, key: AugmentationKey | None) -> None:
        self._samples, self._size, self._key = samples, size, key

    def __getitem__(self, index: int) -> tuple[Tensor, int] | DataError:
        path, label = self._samples[index]
        try:
            with decoded(path, path) as file:
                image = transforms.pil_to_tensor(file.convert("RGB"))
                if self._key is None:
                    return _centre(image, self._size), label
                return _resized_crop_flip(image, self._size, generator("augmentation", *self._key, index)), label
        except DataError as error:  # returned, not raised: a worker process would wrap it into a traceback
            return error


def _centre(image: Tensor, size: int) -> Tensor:
    """The square in the middle, a little less than the short side, resized to `size`."""
    short = round(SHORT_SIDE_RATIO * size)
    height, width = image.shape[1:]
    length = short * max(height, width) // min(height, width)
    check_fits(3 * short * length, f"{width} x {height} pixels, resized to a short side of {short}", "crop it")
    resized = transforms.resize(image, [short], antialias=True)
    centre: Tensor = transforms.center_crop(resized, [size, size])
    return centre


def _resized_crop_flip(image: Tensor, size: int, draws: torch.Generator) -> Tensor:
    """A random part of the image, resized to `size`, mirrored every second time."""
    height, width = image.shape[1:]
    places = torch.rand(3, generator=draws, dtype=torch.float64).tolist()
    rows, columns = _crop_shape(height, width, draws)
    top, left = int(places[0] * (height - rows + 1)), int(places[1] * (width - columns + 1))
    crop = transforms.resized_crop(image, top, left, rows, columns, [size, size], antialias=True)
    flipped: Tensor = transforms.horizontal_flip(crop) if places[2] < 0.5 else crop
    return flipped


def _crop_shape(height: int, width: int, draws: torch.Generator) -> tuple[int, int]:
    """Rows and columns of a random crop: area uniform in CROP_AREA, log of the aspect uniform.

    Drawn again if it sticks out; after CROP_TRIES the largest crop with an aspect within the limits.
    """
    areas, aspects = torch.rand(2, CROP_TRIES, generator=draws, dtype=torch.float64).tolist()
    for area, aspect in zip(areas, aspects, strict=True):
        pixels = height * width * (CROP_AREA[0] + (CROP_AREA[1] - CROP_AREA[0]) * area)
        ratio = math.exp((2 * aspect - 1) * math.log(CROP_ASPECT))
        rows, columns = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < rows <= height and 0 < columns <= width:
            return rows, columns
    return min(height, round(width * CROP_ASPECT)), min(width, round(height * CROP_ASPECT))


def _stack(items: Sequence[tuple[Tensor, int] | DataError]) -> tuple[Tensor, Tensor] | DataError:
    """A batch, or the first error in it."""
    good: list[tuple[Tensor, int]] = []
    for item in items:
        if isinstance(item, DataError):
            return item
        good.append(item)
    return torch.stack([image for image, _ in good]), torch.tensor([label for _, label in good])


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches every process of the terminal; the main one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True, slots=True)
class _Part:
    """What train/ or val/ holds."""

    classes: list[str]
    files: list[Found]
    samples: list[tuple[str, int]]  # each file's path and class


def _is_image(name: str) -> bool:
    """By its name. What starts with a dot is none: .ipynb_checkpoints, macOS's ._0.jpg."""
    return name.lower().endswith(IMG_EXTENSIONS) and not name.startswith(".")


def _listed(part: Path) -> _Part:
    """The classes and files below a folder, sorted by name."""
    try:
        classes = [name for name in folders_in(str(part)) if not name.startswith(".")]
        if not classes:
            raise FileNotFoundError("there are no folders in it")
        files = [files_below(str(part / name), _is_image, "an image file") for name in classes]
    except OSError as error:
        raise DataError(
            f"{part.absolute()} on {socket.gethostname()}: expected a folder of classes, each a folder of images: {error}. "
            "data.path (--data) names the folder that holds train/ and val/; every node of a cluster reads it there"
        ) from None
    empty = [name for name, own in zip(classes, files, strict=True) if not own]
    if empty:
        raise DataError(
            f"{part.absolute()}: expected images in every class, found none in {', '.join(empty[:5])}; their names end "
            f"with {', '.join(IMG_EXTENSIONS)}"
        )
    return _Part(
        classes=classes,
        files=[file for own in files for file in own],
        samples=[(file.path, label) for label, own in enumerate(files) for file in own],
    )


def _check_apart(train: _Part, test: _Part) -> None:
    """Raises DataError where links make one file two images: of two classes, or one to train on and one to test with."""
    known: dict[str, str] = {}
    for file in (*train.files, *test.files):
        other = known.setdefault(file.real, file.path)
        if other != file.path:
            raise DataError(
                f"{other} and {file.path} are one file, {file.real}: an image belongs to one class, and to train/ or val/ "
                "alone; remove one of the links"
            )
