"""Where images come from. Each source gives a `RawImages`: the training and the test set, whole, as uint8.

Nothing is unpickled but torchvision's own CIFAR files, whose MD5 sums torchvision checks first.
"""

import io
import json
import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from oracle.data.decode import decoded, header
from oracle.data.files import check_file, files_below
from oracle.data.memory import FEWER, Shape, check_fits, free_bytes, full_memory_named
from oracle.errors import DataError
from oracle.experiment import Data
from oracle.storage import expanded

T = TypeVar("T")
DEFAULT_ROOT = "data"  # folder, below the one at hand, where CIFAR is looked for and downloaded to
IMAGE_COLUMNS = ("img", "image")
MOST_THREADS = 32  # that decode
MOST_CLASSES = 100_000  # where they have no names: a larger label is rather an identifier; ImageNet-21k has 21,843


@dataclass(frozen=True, slots=True, kw_only=True)
class RawImages:
    """A data set as it is stored: uint8 images [N, C, H, W], labels int64 [N] in 0 .. num_classes - 1."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int


def load_raw(data: Data) -> RawImages:
    """Read a data set whole. Raises DataError, saying what is missing and where it belongs."""
    if data.source not in SOURCES:
        raise DataError(f"data.source {data.source} cannot be read whole; these can: {', '.join(SOURCES)}")
    try:
        with full_memory_named(f"data.source {data.source}", FEWER):
            return SOURCES[data.source](data)
    except OSError as error:
        raise DataError(
            f"data.path (--data): {data.path or DEFAULT_ROOT} cannot be read: {error.strerror or error}"
        ) from error


def _digits(data: Data) -> RawImages:
    """scikit-learn's digits: 1,797 images, 8 x 8, 16 grey levels; every fifth is kept for the test set."""
    from sklearn.datasets import load_digits

    if data.path is not None:
        raise DataError(f"data.path (--data): found {data.path}, but digits come with scikit-learn; leave it out")
    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    test = np.arange(len(labels)) % 5 == 4
    return RawImages(
        train_images=images[~test],
        train_labels=labels[~test],
        test_images=images[test],
        test_labels=labels[test],
        num_classes=10,
    )


def _cifar(data: Data) -> RawImages:
    """CIFAR-10 or -100 as image Parquet where `path` holds such files, else by torchvision, downloaded on first use."""
    root = expanded(data.path or DEFAULT_ROOT)
    if data.path is not None and not root.exists():
        raise DataError(
            f"data.path (--data): {root} does not exist; leave it out to download {data.source} into {DEFAULT_ROOT}/"
        )
    _refuse_special(root)
    num_classes = {"cifar10": 10, "cifar100": 100}[data.source]
    if root.is_file() or any(root.rglob("*.parquet")):
        raw = _parquet(data.model_copy(update={"path": str(root), "resolution": None}))
        if raw.num_classes != num_classes:
            raise DataError(f"{root}: {data.source} has {num_classes} classes, found {raw.num_classes} labels")
        return raw
    return _torchvision_cifar(data.source, root, num_classes)


def _torchvision_cifar(source: str, root: Path, num_classes: int) -> RawImages:
    from torchvision.datasets import CIFAR10, CIFAR100

    dataset = {"cifar10": CIFAR10, "cifar100": CIFAR100}[source]
    try:
        train, test = (dataset(str(root), train=train, download=True) for train in (True, False))
    except (OSError, RuntimeError) as error:  # no network, no space, a broken archive
        raise DataError(
            f"{source} is not in {root.absolute()} and could not be downloaded ({error}). Place the folder "
            f"{dataset.base_folder} there (from {dataset.filename}), or point --data at a folder of image Parquet files "
            "(train-*.parquet and test-*.parquet)"
        ) from None
    return RawImages(
        train_images=train.data.transpose(0, 3, 1, 2),
        train_labels=np.array(train.targets, dtype=np.int64),
        test_images=test.data.transpose(0, 3, 1, 2),
        test_labels=np.array(test.targets, dtype=np.int64),
        num_classes=num_classes,
    )


def _parquet(data: Data) -> RawImages:
    """Hugging Face style image Parquet: a folder of shards, train and test told apart by their names; or one file.

    Columns: `img` or `image`, a struct with the encoded `bytes`; `label` (or `fine_label`), int64. From one file, every
    fifth image is kept for the test set.
    """
    if data.path is None:
        raise DataError("data.source parquet needs data.path: a Parquet file, or a folder of train-* and test-* shards")
    root = expanded(data.path)
    _refuse_special(root)
    if root.is_file():
        _check_memory(root, [root], [], data.resolution)
        images, labels, names = _read_shards([root], data.resolution)
        if len(labels) < 5:
            raise DataError(f"{root}: every fifth image is kept for the test set, but there are only {len(labels)}")
        test = np.arange(len(labels)) % 5 == 4
        parts = (images[~test], labels[~test], images[test], labels[test])
    else:
        train, test_shards = _shards(root)
        _check_memory(root, train, test_shards, data.resolution)
        images, labels, names = _read_shards(train, data.resolution)
        test_images, test_labels, _ = _read_shards(test_shards, data.resolution)
        if images.shape[1:] != test_images.shape[1:]:
            raise DataError(f"{root}: training images are {images.shape[1:]}, test images {test_images.shape[1:]}")
        parts = (images, labels, test_images, test_labels)
    most = names or MOST_CLASSES  # unnamed classes are counted by the largest label
    for shown in (parts[1], parts[3]):
        if shown.min() < 0 or shown.max() >= most:
            why = "" if names else "; larger ones look like identifiers: is it the right column?"
            raise DataError(f"{root}: labels must be 0 .. {most - 1}, found {shown.min()} .. {shown.max()}{why}")
    num_classes = names or int(max(parts[1].max(), parts[3].max())) + 1
    return RawImages(
        train_images=parts[0],
        train_labels=parts[1],
        test_images=parts[2],
        test_labels=parts[3],
        num_classes=num_classes,
    )


def _shards(root: Path) -> tuple[list[Path], list[Path]]:
    files = sorted(root.rglob("*.parquet"))
    if not files:
        if root.is_dir():
            os.listdir(root)  # rglob passes over what it may not list
        raise DataError(f"{root.absolute()}: no .parquet files there; expected train-*.parquet and test-*.parquet")
    train = [file for file in files if file.name.startswith("train")]
    test = [file for file in files if file.name.startswith("test")]
    test = test or [file for file in files if file.name.startswith("valid")]
    if not train or not test:
        raise DataError(
            f"{root}: expected files that start with train and with test (or validation), found "
            f"{', '.join(file.name for file in files[:5])}"
        )
    trained, tested = _parts(train), _parts(test)
    for real in trained.keys() & tested.keys():
        raise DataError(
            f"{trained[real]} and {tested[real]} are one file, {real}: what is trained on would be tested with; remove one "
            "of the links"
        )
    return list(trained.values()), list(tested.values())


def _parts(shards: list[Path]) -> dict[str, Path]:
    """The files of these shards by the paths where they lie, each once; a shard may be a folder of parts, as of Spark."""
    parts: dict[str, Path] = {}
    for shard in shards:
        if not shard.is_dir():
            check_file(shard, "a Parquet file")
            parts.setdefault(os.path.realpath(shard), shard)
            continue
        within = sorted(files_below(str(shard), _is_part, "a Parquet file"), key=lambda file: file.path)
        shown = [file for file in within if all(map(_is_part, Path(file.path).relative_to(shard).parts))]
        if not shown:
            raise DataError(f"{shard}: expected a Parquet file, found a folder that holds none")
        for file in shown:
            parts.setdefault(file.real, Path(file.path))
    return parts


def _is_part(name: str) -> bool:
    """Spark's notes on a folder of parts, and folders of them, start so: _SUCCESS, ._SUCCESS.crc."""
    return not name.startswith((".", "_"))


def _refuse_special(root: Path) -> None:
    """Raises DataError for a pipe, a socket or a device; where there is nothing, others say what is missing."""
    if root.exists() and not root.is_dir():
        check_file(root, "a Parquet file, or a folder of them")


def _check_memory(root: Path, train: list[Path], test: list[Path], resolution: int | None) -> None:
    """Raises DataError where the images would not fit, by the numbers of rows and the first image's header."""
    images, tested = (sum(_read(pq.read_metadata, file).num_rows for file in part) for part in (train, test))
    first = _read(_first_image, train[0])
    if first is None:
        return  # the first row is broken, and what reads it says how
    channels, height, width = first
    shape = (channels, resolution or height, resolution or width)
    # Shards are decoded, then joined: both lie in memory, for the test images beside those to train on.
    needed = max(2 * images, images + 2 * tested) * math.prod(shape)
    check_fits(needed, f"{root}: {images + tested:,} images of {' x '.join(map(str, shape))}, decoded", FEWER)


def _first_image(file: Path) -> Shape | None:
    """Channels, height and width of a file's first image, by its header; None where it has none that can be read."""
    with pq.ParquetFile(file) as parquet:
        names = [name for name in IMAGE_COLUMNS if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(batch_size=1, columns=names[:1]) if names else ():
            found = header(_content(batch.column(0)[0].as_py()))
            return None if found is None else found[0]
    return None


def _read(read: Callable[[Path], T], file: Path) -> T:
    """What is read from a Parquet file. DataError where it is broken."""
    try:
        return read(file)
    except MemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: is not a readable Parquet file: {error}") from None


def _read_shards(files: list[Path], resolution: int | None) -> tuple[np.ndarray, np.ndarray, int | None]:
    """Images [N, C, H, W], labels [N], and the number of class names where the file says them."""
    images, labels, num_names = [], [], None
    for file in files:
        table = _read(pq.read_table, file)
        image, label = _column(table, IMAGE_COLUMNS, file), _column(table, ("label", "fine_label"), file)
        num_names = num_names or _num_class_names(table.schema, label)
        labels.append(_labels(table[label], label, file))
        images.append(_decode(table[image], file, resolution))
    shapes = {part.shape[1:] for part in images}
    if len(shapes) > 1:
        raise DataError(f"{files[0].parent}: images differ in shape from file to file: {sorted(shapes)}")
    return np.concatenate(images), np.concatenate(labels), num_names


def _column(table: pa.Table, names: tuple[str, ...], file: Path) -> str:
    for name in names:
        if name in table.column_names:
            return name
    raise DataError(f"{file}: expected a column called {' or '.join(names)}, found {', '.join(table.column_names)}")


def _labels(column: pa.ChunkedArray, name: str, file: Path) -> np.ndarray:
    if not pa.types.is_integer(column.type):
        raise DataError(f"{file}: column {name} must hold integers, found {column.type}")
    if column.null_count:
        raise DataError(f"{file}: column {name} must hold integers, found null in {column.null_count} rows")
    try:
        labels: np.ndarray = column.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid as error:  # uint64 beyond int64
        raise DataError(f"{file}: column {name} must hold the numbers of classes, from 0: {error}") from None
    return labels


def _num_class_names(schema: pa.Schema, label: str) -> int | None:
    """The number of classes as Hugging Face writes it into the schema's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return len(features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _decode(column: Any, file: Path, resolution: int | None) -> np.ndarray:
    """Encoded images to uint8 [N, C, H, W], on all cores (Pillow lets go of the interpreter while it decodes)."""
    contents = [_content(value) for value in column.to_pylist()]

    def decode(item: tuple[int, bytes]) -> np.ndarray:
        row, content = item
        with decoded(io.BytesIO(content), f"{file}: row {row}") as image:
            if resolution is not None and image.size != (resolution, resolution):
                image = image.resize((resolution, resolution), Image.Resampling.BILINEAR)
            pixels = np.asarray(image)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    with ThreadPoolExecutor(_threads(contents)) as pool:
        images = list(pool.map(decode, enumerate(contents), chunksize=512))
    shapes = {image.shape for image in images}
    if len(shapes) != 1:
        found = ", ".join(str(shape) for shape in sorted(shapes)[:4]) or "no rows"
        hint = "; data.resolution resizes them" if len({shape[1:] for shape in shapes}) > 1 else ""
        raise DataError(f"{file}: images must be of one shape (channels, height, width), found {found}{hint}")
    return np.stack(images)


def _content(value: object) -> bytes:
    """An encoded image; empty where a row holds none."""
    content = value.get("bytes") if isinstance(value, Mapping) else None
    return content if isinstance(content, bytes) else b""


def _threads(contents: list[bytes]) -> int:
    """How many images are decoded at a time: as many as there are cores for, and room, if all are as large as the first."""
    most = min(MOST_THREADS, (os.cpu_count() or 1) + 4)  # as ThreadPoolExecutor has it: more would wait for each other
    found, free = header(contents[0]) if contents else None, free_bytes()
    if found is None or free is None:
        return most
    return max(1, min(most, free // max(1, found[1])))


SOURCES: Mapping[str, Callable[[Data], RawImages]] = {
    "digits": _digits,
    "cifar10": _cifar,
    "cifar100": _cifar,
    "parquet": _parquet,
}
