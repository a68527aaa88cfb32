"""Images and labels: what each source gives, what it refuses, and the batches that training sees.

Axes: N images, C = 3 channels, H = 6 rows, W = 5 columns, each of its own size so that a swapped axis fails.
"""

import io
import itertools
import os
import socket
import stat

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision.datasets
from encoded import encoded, write_shard
from PIL import Image

from oracle.data import load_images
from oracle.data.images import DeviceImages
from oracle.data.sources import RawImages, load_raw
from oracle.errors import DataError, Error
from oracle.experiment import Data, load_experiment
from oracle.search.preflight import pinned

CPU = torch.device("cpu")
C, H, W = 3, 6, 5


def noise(num, channels=C, height=H, width=W, seed=0):
    """uint8 [N, H, W, C] (or [N, H, W]), as Pillow takes it."""
    shape = (num, height, width, channels) if channels > 1 else (num, height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def load(path, **fields):
    return load_raw(Data(source="parquet", path=str(path), **fields))


def refusal(path, **fields):
    with pytest.raises(DataError) as caught:
        load(path, **fields)
    assert isinstance(caught.value, Error)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


# Sources


def test_digits_are_scikit_learns_and_every_fifth_is_for_the_test():
    from sklearn.datasets import load_digits

    raw, bunch = load_raw(Data(source="digits")), load_digits()
    assert raw.train_images.shape == (1438, 1, 8, 8)
    assert raw.test_images.shape == (359, 1, 8, 8)
    assert raw.train_images.dtype == raw.test_images.dtype == np.uint8
    assert raw.num_classes == 10
    assert (raw.test_images[:, 0] == bunch.images[4::5]).all()
    assert (raw.test_labels == bunch.target[4::5]).all()
    assert (raw.train_images[:4, 0] == bunch.images[:4]).all()
    assert (raw.train_images[4, 0] == bunch.images[5]).all()
    assert raw.train_labels[4] == bunch.target[5]


def test_one_file_gives_every_fifth_image_to_the_test(tmp_path):
    pixels, labels = noise(12), list(range(12))
    write_shard(tmp_path / "all.parquet", map(encoded, pixels), labels)
    raw = load(tmp_path / "all.parquet")
    assert raw.test_labels.tolist() == [4, 9]
    assert raw.train_labels.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11]
    assert (raw.test_images == pixels[[4, 9]].transpose(0, 3, 1, 2)).all()  # PNG keeps every bit
    assert raw.train_images.shape == (10, C, H, W)
    assert raw.num_classes == 12


@pytest.mark.parametrize("column", ["img", "image"])
@pytest.mark.parametrize("form", ["png", "jpeg"])
def test_a_folder_of_shards_is_read_in_the_order_of_their_names(tmp_path, column, form):
    pixels = noise(9)
    contents = [encoded(image, form) for image in pixels]
    parts = {"train-00001-of-00002": [4, 5], "train-00000-of-00002": [0, 1, 2, 3], "test-00000-of-00001": [6, 7, 8]}
    for name, rows in parts.items():
        write_shard(tmp_path / "data" / f"{name}.parquet", [contents[row] for row in rows], rows, column=column)
    raw = load(tmp_path)
    assert raw.train_labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert raw.test_labels.tolist() == [6, 7, 8]
    expected = np.stack([np.asarray(Image.open(io.BytesIO(content))) for content in contents]).transpose(0, 3, 1, 2)
    assert (raw.train_images == expected[:6]).all()
    assert (raw.test_images == expected[6:]).all()


def test_a_validation_shard_serves_as_test_and_fine_label_as_label(tmp_path):
    write_shard(tmp_path / "train.parquet", map(encoded, noise(4)), [0, 1, 2, 3], label="fine_label")
    write_shard(tmp_path / "validation.parquet", map(encoded, noise(2)), [0, 1], label="fine_label")
    assert (load(tmp_path).num_classes, len(load(tmp_path).test_labels)) == (4, 2)


def test_class_names_in_the_metadata_count_the_classes(tmp_path):
    names = [f"class {index}" for index in range(7)]
    write_shard(tmp_path / "all.parquet", map(encoded, noise(10)), [0, 1] * 5, names=names)
    assert load(tmp_path / "all.parquet").num_classes == 7


@pytest.mark.parametrize(("labels", "names"), [([0, 1, 2, 3, 7], 7 * ["x"]), ([0, 1, -1, 2, 3], None)])
def test_a_label_out_of_range_is_refused(tmp_path, labels, names):
    write_shard(tmp_path / "all.parquet", map(encoded, noise(5)), labels, names=names)
    message = refusal(tmp_path / "all.parquet")
    assert "labels must be 0 .. " in message
    assert str(max(labels, key=abs) if names else -1) in message


def test_a_test_label_that_training_never_saw_is_refused_by_the_names(tmp_path):
    write_shard(tmp_path / "train.parquet", map(encoded, noise(4)), [0, 1, 2, 2], names=["a", "b", "c"])
    write_shard(tmp_path / "test.parquet", map(encoded, noise(2)), [0, 3])
    assert "labels must be 0 .. 2, found 0 .. 3" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"column": "picture"}, "called img or image, found picture"), ({"label": "y"}, "called label or fine_label")],
)
def test_a_missing_column_is_named(tmp_path, fields, named):
    write_shard(tmp_path / "all.parquet", map(encoded, noise(5)), [0] * 5, **fields)
    assert named in refusal(tmp_path / "all.parquet")


@pytest.mark.parametrize(
    ("labels", "found"),
    [(["a"] * 5, "string"), ([0.5] * 5, "double"), (pa.array([0, 1, None, 0, 1]), "null in 1 rows")],
)
def test_labels_that_are_no_integers_are_refused(tmp_path, labels, found):
    write_shard(tmp_path / "all.parquet", map(encoded, noise(5)), labels)
    assert f"column label must hold integers, found {found}" in refusal(tmp_path / "all.parquet")


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        ([-1] * 5, "labels must be 0 .. 99999, found -1 .. -1"),
        ([0, 1, 2, 2**40, 3], "labels must be 0 .. 99999, found 0 .. 1099511627776; larger ones look like identifiers"),
        (pa.array([0, 1, 2, 2**63, 3], pa.uint64()), "from 0: Integer value 9223372036854775808 not in range"),
    ],
)
def test_labels_that_number_no_classes_are_refused(tmp_path, labels, named):
    write_shard(tmp_path / "all.parquet", map(encoded, noise(5)), labels)
    assert named in refusal(tmp_path / "all.parquet")


def test_labels_of_any_width_are_read(tmp_path):
    write_shard(tmp_path / "all.parquet", map(encoded, noise(5)), pa.array([0, 1, 2, 3, 4], pa.uint8()))
    assert load(tmp_path / "all.parquet").train_labels.dtype == np.int64


@pytest.mark.parametrize("source", ["cifar10", "parquet", "folder"])
def test_a_path_that_cannot_be_looked_at_is_refused(tmp_path, source):
    experiment = load_experiment("digits-mlp", overrides=[f"data={{source: {source}, path: {tmp_path}/{'x' * 300}}}"])
    with pytest.raises(DataError, match=r"data\.path \(--data\)[^\0]*File name too long|File name too long"):
        load_images(experiment, CPU)


def test_a_folder_of_shards_that_may_not_be_listed_says_so(tmp_path, monkeypatch):
    def fail(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", fail)  # the tests may run as root, whom nothing is denied
    monkeypatch.setattr("os.listdir", fail)
    assert refusal(tmp_path) == f"data.path (--data): {tmp_path} cannot be read: Permission denied"


@pytest.mark.parametrize("key", ["data.path", "network.weights"])
def test_a_path_with_a_nul_is_refused(key):
    with pytest.raises(Error, match="holds a NUL character"):
        pinned(load_experiment("fc-cifar10", overrides=[f'{key}="a\\0b"']))


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"not an image",
        encoded(noise(1)[0])[:60],
        encoded(noise(1)[0], "jpeg")[:200],
        encoded(noise(1)[0])[:40] + bytes(8) + encoded(noise(1)[0])[48:],
        None,
    ],
    ids=["empty", "text", "short png", "short jpeg", "png with a hole", "null"],
)
def test_a_corrupt_image_is_refused_by_file_and_row(tmp_path, broken):
    contents = [encoded(image) for image in noise(6)]
    contents[3] = broken
    write_shard(tmp_path / "all.parquet", contents, [0] * 6)
    message = refusal(tmp_path / "all.parquet")
    assert "all.parquet: row 3: the image cannot be decoded" in message


def test_an_image_broken_at_any_byte_is_decoded_or_refused_but_never_crashes(tmp_path):
    """Pillow raises OSError, SyntaxError and ValueError, by the byte that is wrong."""
    whole, outcomes = encoded(noise(1, height=3, width=3)[0]), set()
    for place, mask in itertools.product(range(len(whole)), (1, 255)):
        broken = whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :]
        write_shard(tmp_path / "all.parquet", [broken] * 5, [0] * 5)
        try:
            load(tmp_path / "all.parquet")
            outcomes.add("decoded")
        except DataError:
            outcomes.add("refused")
    assert outcomes == {"decoded", "refused"}


@pytest.mark.parametrize("keep", [0, 4, 0.5, 0.99])
def test_a_truncated_parquet_file_is_refused_by_name(tmp_path, keep):
    path = tmp_path / "train-0.parquet"
    write_shard(path, map(encoded, noise(5)), [0] * 5)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    write_shard(tmp_path / "test-0.parquet", map(encoded, noise(5)), [0] * 5)
    assert "train-0.parquet: is not a readable Parquet file" in refusal(tmp_path)


def test_images_of_mixed_sizes_need_a_resolution(tmp_path):
    contents = [encoded(noise(1, height=side, width=side + 1, seed=side)[0]) for side in (4, 5, 6, 7, 8)]
    write_shard(tmp_path / "all.parquet", contents, [0, 1, 2, 3, 4])
    assert "(3, 4, 5), (3, 5, 6)" in refusal(tmp_path / "all.parquet")
    assert "data.resolution resizes them" in refusal(tmp_path / "all.parquet")
    raw = load(tmp_path / "all.parquet", resolution=7)
    assert raw.train_images.shape == (4, 3, 7, 7)


def test_images_that_have_the_resolution_are_not_touched(tmp_path):
    pixels = noise(5, height=7, width=7)
    write_shard(tmp_path / "all.parquet", map(encoded, pixels), [0] * 5)
    raw = load(tmp_path / "all.parquet", resolution=7)
    assert (raw.train_images == pixels[:4].transpose(0, 3, 1, 2)).all()


def test_shards_of_different_sizes_are_refused(tmp_path):
    write_shard(tmp_path / "train-0.parquet", map(encoded, noise(5)), [0] * 5)
    write_shard(tmp_path / "train-1.parquet", map(encoded, noise(5, height=8)), [0] * 5)
    write_shard(tmp_path / "test.parquet", map(encoded, noise(5)), [0] * 5)
    assert "differ in shape from file to file: [(3, 6, 5), (3, 8, 5)]" in refusal(tmp_path)


def test_test_images_of_another_size_are_refused(tmp_path):
    write_shard(tmp_path / "train.parquet", map(encoded, noise(5)), [0] * 5)
    write_shard(tmp_path / "test.parquet", map(encoded, noise(5, height=8)), [0] * 5)
    assert "training images are (3, 6, 5), test images (3, 8, 5)" in refusal(tmp_path)


def test_grey_images_have_one_channel_and_do_not_mix_with_colour(tmp_path):
    grey = [encoded(image) for image in noise(5, channels=1)]
    write_shard(tmp_path / "grey.parquet", grey, [0] * 5)
    assert load(tmp_path / "grey.parquet").train_images.shape == (4, 1, H, W)
    write_shard(tmp_path / "mixed.parquet", [*grey, encoded(noise(1)[0])], [0] * 6)
    message = refusal(tmp_path / "mixed.parquet")
    assert "(1, 6, 5), (3, 6, 5)" in message
    assert "resolution" not in message  # it would not help


def test_images_with_a_palette_or_alpha_become_rgb(tmp_path):
    rgba = noise(5, channels=4)
    rgba[..., 3] = 255
    palette = io.BytesIO()
    Image.fromarray(noise(1)[0]).quantize(16).save(palette, "png")
    contents = [encoded(image) for image in rgba[:4]] + [palette.getvalue()]
    write_shard(tmp_path / "all.parquet", contents, [0] * 5)
    raw = load(tmp_path / "all.parquet")
    assert (raw.train_images == rgba[:4, ..., :3].transpose(0, 3, 1, 2)).all()
    assert raw.test_images.shape == (1, 3, H, W)


def test_a_file_too_small_to_split_is_refused(tmp_path):
    write_shard(tmp_path / "all.parquet", map(encoded, noise(4)), [0] * 4)
    assert "there are only 4" in refusal(tmp_path / "all.parquet")
    write_shard(tmp_path / "none.parquet", [], pa.array([], pa.int64()))
    assert "no rows" in refusal(tmp_path / "none.parquet")


def test_a_folder_without_shards_says_what_belongs_there(tmp_path):
    assert "train-*.parquet and test-*.parquet" in refusal(tmp_path)
    assert "train-*.parquet and test-*.parquet" in refusal(tmp_path / "missing")
    write_shard(tmp_path / "train-0.parquet", map(encoded, noise(5)), [0] * 5)
    assert "found train-0.parquet" in refusal(tmp_path)


# Links, and what is no regular file


def write_split(root, trained="train-0.parquet", tested="test-0.parquet"):
    write_shard(root / trained, map(encoded, noise(5)), [0, 1, 2, 3, 4])
    write_shard(root / tested, map(encoded, noise(3, seed=1)), [0, 1, 2])


def test_a_file_to_train_on_that_is_linked_among_the_test_files_is_refused(tmp_path):
    write_split(tmp_path)
    (tmp_path / "test-1.parquet").symlink_to("train-0.parquet")
    message = refusal(tmp_path)
    assert f"{tmp_path}/train-0.parquet and {tmp_path}/test-1.parquet are one file" in message
    assert "remove one of the links" in message


def test_links_to_one_file_count_once(tmp_path):
    write_split(tmp_path)
    expected = load(tmp_path)
    (tmp_path / "train-1.parquet").symlink_to("train-0.parquet")
    (tmp_path / "again").symlink_to(tmp_path)
    assert (load(tmp_path).train_images == expected.train_images).all()
    assert load(tmp_path).test_labels.tolist() == [0, 1, 2]


def test_files_that_are_links_into_a_store_are_read(tmp_path):
    """As Hugging Face's cache keeps them."""
    write_split(tmp_path / "blobs", "1234", "5678")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "train-0.parquet").symlink_to("../blobs/1234")
    (tmp_path / "snapshot" / "test-0.parquet").symlink_to("../blobs/5678")
    assert load(tmp_path / "snapshot").train_labels.tolist() == [0, 1, 2, 3, 4]


def test_a_folder_of_parts_is_read_as_pyarrow_reads_it(tmp_path):
    """As Spark writes it; and parts that are shards by their own names too are read once."""
    folder = tmp_path / "train.parquet"
    names = ["part-1.parquet", "train-2.parquet", "a/part.parquet", "a-b/part.parquet", "Z.parquet"]
    for index, name in enumerate(names):
        write_shard(folder / name, map(encoded, noise(2, seed=index)), [index] * 2)
    write_shard(tmp_path / "test.parquet" / "part-0.parquet", map(encoded, noise(2)), [0, 1])
    expected = pq.read_table(folder)["label"].to_pylist()
    for name in ("_SUCCESS", "._SUCCESS.crc"):
        (folder / name).write_bytes(b"")
    write_shard(folder / "_temporary" / "part.parquet", map(encoded, noise(2)), [9] * 2)
    assert load(tmp_path).train_labels.tolist() == expected
    assert sorted(expected) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    (tmp_path / "train-empty.parquet").mkdir()
    assert "train-empty.parquet: expected a Parquet file, found a folder that holds none" in refusal(tmp_path)


def pipe(path):
    os.mkfifo(path)


def closed_socket(path):
    os.mknod(path, stat.S_IFSOCK | 0o600)


def endless_device(path):
    path.symlink_to("/dev/zero")


def dead_link(path):
    path.symlink_to("nowhere")


SPECIAL = {
    "a named pipe": pipe,
    "a socket": closed_socket,
    "a device": endless_device,
    "a link that leads nowhere": dead_link,
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_a_shard_that_is_no_regular_file_is_refused_and_not_read(tmp_path, kind):
    write_split(tmp_path)
    SPECIAL[kind](tmp_path / "train-1.parquet")
    assert f"{tmp_path}/train-1.parquet: expected a Parquet file, found {kind}" in refusal(tmp_path)


@pytest.mark.parametrize("source", ["parquet", "cifar10"])
@pytest.mark.parametrize("kind", ["a named pipe", "a socket", "a device"])
def test_a_path_that_is_no_regular_file_is_refused_and_not_read(tmp_path, kind, source):
    SPECIAL[kind](tmp_path / "all.parquet")
    with pytest.raises(DataError, match=rf"all\.parquet: expected a Parquet file, or a folder of them, found {kind}"):
        load_raw(Data(source=source, path=str(tmp_path / "all.parquet")))


def test_parquet_without_a_path_is_refused():
    with pytest.raises(DataError, match=r"needs data\.path"):
        load_raw(Data(source="parquet"))


# CIFAR


@pytest.fixture(scope="module")
def cifar10(cifar10_parquet):
    return load_raw(Data(source="cifar10", path=str(cifar10_parquet)))


@pytest.mark.slow
def test_real_cifar10_is_whole(cifar10):
    assert cifar10.train_images.shape == (50_000, 3, 32, 32)
    assert cifar10.test_images.shape == (10_000, 3, 32, 32)
    assert cifar10.num_classes == 10
    assert np.bincount(cifar10.train_labels).tolist() == [5000] * 10
    assert np.bincount(cifar10.test_labels).tolist() == [1000] * 10


@pytest.mark.slow
def test_real_cifar10_is_normalised_by_its_published_mean_and_deviation(cifar10):
    images = DeviceImages(cifar10, validation=5000, augment="crop-flip", device=CPU)
    # 0.4914, 0.4822, 0.4465 and 0.2470, 0.2435, 0.2616 are of all 50,000; of 45,000 they differ by less than 0.3 levels.
    assert images._mean.flatten().tolist() == pytest.approx([125.3, 123.0, 113.9], abs=0.3)
    assert (1 / images._scale).flatten().tolist() == pytest.approx([63.0, 62.1, 66.7], abs=0.3)
    first, labels = next(images.validation())
    assert first.shape == (1000, 3, 32, 32)
    assert labels.dtype == torch.int64


def test_cifar_finds_parquet_in_its_default_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_shard(tmp_path / "data" / "train.parquet", map(encoded, noise(10)), list(range(10)))
    write_shard(tmp_path / "data" / "test.parquet", map(encoded, noise(2)), [0, 9])
    assert load_raw(Data(source="cifar10")).num_classes == 10
    with pytest.raises(DataError, match="cifar100 has 100 classes, found 10"):
        load_raw(Data(source="cifar100"))


@pytest.mark.parametrize(("source", "folder"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
def test_without_network_cifar_says_where_to_place_the_files(tmp_path, monkeypatch, source, folder):
    with socket.socket() as closed:  # a port that nobody listens on, in place of the network
        closed.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{closed.getsockname()[1]}"
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DataError, match="could not be downloaded") as caught:
        load_raw(Data(source=source, path=str(tmp_path)))
    message = str(caught.value)
    assert str(tmp_path) in message
    assert f"Place the folder {folder} there" in message
    assert "train-*.parquet" in message


def test_torchvisions_cifar_keeps_its_images_and_labels(tmp_path, monkeypatch):
    pixels = {True: noise(6, height=32, width=32), False: noise(4, height=32, width=32, seed=1)}

    class Fake:
        def __init__(self, root, train, download):
            assert root == str(tmp_path)
            assert download
            self.data, self.targets = pixels[train], list(range(len(pixels[train])))

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Fake)
    raw = load_raw(Data(source="cifar10", path=str(tmp_path)))
    assert (raw.train_images == pixels[True].transpose(0, 3, 1, 2)).all()
    assert (raw.test_images == pixels[False].transpose(0, 3, 1, 2)).all()
    assert raw.train_labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert raw.num_classes == 10


# The split and the batches. Each image has a label of its own, by which it is known again.


def numbered(num_train=60, num_test=7):
    return RawImages(
        train_images=noise(num_train).transpose(0, 3, 1, 2),
        train_labels=np.arange(num_train),
        test_images=noise(num_test, seed=1).transpose(0, 3, 1, 2),
        test_labels=np.arange(num_test),
        num_classes=num_train,
    )


def device_images(raw=None, *, validation=13, augment="none", dtype=torch.float64):
    return DeviceImages(raw or numbered(), validation=validation, augment=augment, device=CPU, dtype=dtype)


def labels_of(batches):
    return torch.cat([labels for _, labels in batches]).tolist()


@pytest.mark.parametrize("augment", ["none", "crop-flip"])
def test_training_and_validation_share_no_image_and_miss_none(augment):
    images = device_images(augment=augment)
    trained, validated = labels_of(images.epoch((0, 0, 0), 1)), labels_of(images.validation())
    assert (len(trained), len(validated)) == (images.num_train, images.num_validation) == (47, 13)
    assert sorted(trained + validated) == list(range(60))


def test_a_shortened_training_set_keeps_the_validation_images(tiny):
    whole = load_images(tiny(), CPU)
    short = load_images(tiny("data.train=600"), CPU)
    assert (short.num_train, short.num_validation) == (600, whole.num_validation)
    assert torch.equal(next(iter(short.validation()))[1], next(iter(whole.validation()))[1])
    with pytest.raises(DataError, match=r"data\.train: found 5000, but 938 images are left"):
        load_images(tiny("data.train=5000"), CPU)


def test_the_split_is_the_same_for_every_seed_and_schedule(tiny):
    first = load_images(tiny(), CPU)
    other = load_images(tiny("seeds=[5]", "training.epochs=9", "grid={low: 1, high: 2, points: 3}"), CPU)
    for (x, y), (u, v) in zip(first.validation(), other.validation(), strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


def test_training_images_have_mean_0_and_deviation_1():
    batches = list(device_images().epoch((0, 0, 0), 47))
    pixels = batches[0][0]
    assert pixels.dtype == torch.float64
    # float64 sums of 1,410 pixels
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx([0] * C, abs=1e-12)
    assert pixels.std((0, 2, 3), correction=0).tolist() == pytest.approx([1] * C, abs=1e-12)


def test_a_mean_of_many_pixels_does_not_saturate():
    """A float32 sum of 4 million pixels adds 192 for every 201, where the channels lie together as Pillow leaves them."""
    pixels = np.full((4000, 32, 32, 3), (201, 10, 255), dtype=np.uint8)
    pixels[::2] -= 2
    raw = RawImages(
        train_images=pixels.transpose(0, 3, 1, 2),
        train_labels=np.zeros(4000, dtype=np.int64),
        test_images=pixels[:2].transpose(0, 3, 1, 2),
        test_labels=np.zeros(2, dtype=np.int64),
        num_classes=2,
    )
    images = DeviceImages(raw, validation=2, augment="crop-flip", device=CPU)
    x, _ = next(images.test())
    # Half the pixels lie a level below the mean and half above, so they become -1 and 1, but for 2 images of 4,000.
    assert x[0].flatten().tolist() == pytest.approx([-1] * 3072, abs=2e-3)
    assert x[1].flatten().tolist() == pytest.approx([1] * 3072, abs=2e-3)


def test_a_channel_that_never_changes_stays_at_0():
    raw = numbered()
    raw.train_images[:, 1] = 77
    images = device_images(raw)
    x, _ = next(images.epoch((0, 0, 0), 47))
    assert (x[:, 1] == 0).all()
    assert all(batch.isfinite().all() for batch, _ in images.test())


@pytest.mark.parametrize("augment", ["none", "crop-flip"])
def test_validation_and_test_are_never_augmented_nor_shuffled(augment):
    raw = numbered()
    plain, images = device_images(raw), device_images(raw, augment=augment)
    for part in ("validation", "test"):
        first, second = list(getattr(images, part)()), list(getattr(images, part)())
        for (x, y), (u, v), (p, q) in zip(first, second, getattr(plain, part)(), strict=True):
            assert torch.equal(x, u)
            assert torch.equal(x, p)
            assert torch.equal(y, v)
            assert torch.equal(y, q)
    x, labels = next(images.validation())
    pixels = torch.tensor(raw.train_images[labels.numpy()], dtype=torch.float64)
    assert torch.equal(x, (pixels - images._mean) * images._scale)


def test_the_last_short_batch_is_dropped():
    batches = list(device_images().epoch((0, 0, 0), 10))  # 47 images
    assert [tuple(x.shape) for x, _ in batches] == [(10, C, H, W)] * 4
    assert len(set(labels_of(batches))) == 40


@pytest.mark.parametrize("augment", ["none", "crop-flip"])
def test_batches_are_keyed_by_seed_cycle_and_epoch(augment):
    images = device_images(augment=augment)

    def epoch(*key):
        batches = list(images.epoch(key, 10))
        return torch.cat([x for x, _ in batches]), labels_of(batches)

    x, labels = epoch(1, 2, 3)
    again, same = epoch(1, 2, 3)
    assert torch.equal(x, again)
    assert labels == same
    orders = [tuple(epoch(*key)[1]) for key in itertools.product((1, 2, 3), repeat=3)]
    assert len(set(orders)) == 27


def test_batches_do_not_depend_on_what_was_drawn_between_them():
    images = device_images(augment="crop-flip")
    undisturbed = [x for x, _ in images.epoch((0, 0, 0), 10)]
    disturbed = []
    for x, _ in images.epoch((0, 0, 0), 10):
        disturbed.append(x)
        list(images.epoch((9, 9, 9), 10))
        torch.rand(3)
    assert all(torch.equal(a, b) for a, b in zip(undisturbed, disturbed, strict=True))


def test_crop_flip_is_a_crop_of_the_padded_image_and_every_crop_comes():
    """Each image is searched among all 9 x 9 x 2 that a slow loop cuts out of it, one by one."""
    raw = numbered(num_train=400)
    images = device_images(raw, validation=100, augment="crop-flip")
    seen = set()
    for x, labels in images.epoch((0, 0, 0), 10):
        levels = (x / images._scale + images._mean).numpy()
        assert np.abs(levels - levels.round()).max() < 1e-9  # float64; they were whole numbers up to 255
        for image, label in zip(levels.round().astype(np.uint8), labels.tolist(), strict=True):
            padded = np.zeros((C, H + 8, W + 8), dtype=np.uint8)
            padded[:, 4:-4, 4:-4] = raw.train_images[label]
            found = []
            for row, column, flip in itertools.product(range(9), range(9), (False, True)):
                crop = padded[:, row : row + H, column : column + W]
                if (image == (crop[:, :, ::-1] if flip else crop)).all():
                    found.append((row, column, flip))
            assert len(found) == 1
            seen.add(found[0])
    rows, columns, flips = ({place[axis] for place in seen} for axis in range(3))
    assert rows == columns == set(range(9))
    assert flips == {False, True}
    assert len(seen) > 100  # of 162 places, 300 draws hit 137 on average: nothing is tied to anything else


def test_each_epoch_augments_anew():
    images = device_images(augment="crop-flip")

    def by_label(epoch):
        return {int(y): x for x, labels in images.epoch((0, 0, epoch), 47) for x, y in zip(x, labels, strict=True)}

    first, second = by_label(0), by_label(1)
    assert sum(torch.equal(first[label], second[label]) for label in first) < 5  # of 47; 1 in 162 by chance


def test_a_sample_is_fixed_by_its_key_and_not_augmented():
    raw = numbered()
    plain, images = device_images(raw), device_images(raw, augment="crop-flip")
    x, labels = images.sample(9, 3)
    assert torch.equal(labels, images.sample(9, 3)[1])
    assert torch.equal(x, plain.sample(9, 3)[0])
    assert not torch.equal(labels, images.sample(9, 4)[1])
    assert len(set(labels.tolist())) == 9
    assert not set(labels.tolist()) & set(labels_of(images.validation()))


def test_precision_decides_the_dtype(tiny):
    for precision, dtype in (("fp32", torch.float32), ("fp64", torch.float64), ("bf16", torch.float32)):
        images = load_images(tiny(f"training.precision={precision}"), CPU)
        assert next(images.validation())[0].dtype == dtype
        assert next(images.epoch((0, 0, 0), 5))[0].dtype == dtype


# What does not fit


@pytest.mark.parametrize("validation", [60, 61, 10_000])
def test_validation_that_leaves_nothing_is_refused(validation):
    with pytest.raises(DataError, match=rf"data\.validation: found {validation}, but there are 60 training images"):
        device_images(validation=validation)


def test_a_batch_larger_than_the_training_set_is_refused(tiny):
    with pytest.raises(DataError, match=r"training\.batch_size: found 939, but only 938 images are left"):
        load_images(tiny("training.batch_size=939"), CPU)
    assert load_images(tiny("training.batch_size=938"), CPU).num_train == 938


def test_a_sample_larger_than_the_training_set_is_refused():
    with pytest.raises(DataError, match=r"pruning\.batch: found 48, but there are only 47"):
        device_images().sample(48, 0)


def test_an_augmentation_for_folders_is_refused():
    with pytest.raises(DataError, match=r"data\.augment resized-crop-flip is for image folders"):
        device_images(augment="resized-crop-flip")


def test_a_preset_without_its_data_is_refused_before_anything_else(tmp_path):
    experiment = load_experiment("fc-cifar10-small", overrides=[f"data.path={tmp_path / 'none.parquet'}"])
    (tmp_path / "none.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        load_images(experiment, CPU)
