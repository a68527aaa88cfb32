"""Image folders: what a folder gives, what it refuses, and that batches do not depend on who decodes them."""

import os
import shutil
import stat
import threading

import numpy as np
import pytest
import torch
from encoded import png
from PIL import Image
from torchvision.datasets import ImageFolder

from oracle.chain import run_oracle
from oracle.data import load_images
from oracle.data.stream import MEAN, SPREAD, StreamImages, _crop_shape
from oracle.errors import DataError
from oracle.experiment import load_experiment
from oracle.rng import generator
from oracle.runs.records import read_trials

CPU = torch.device("cpu")
CLASSES = ("cat", "dog", "eel")
SIZE = 12  # pixels a side, after the crop
PER_CLASS = {"train": 8, "val": 5}


def smooth(rng, height, width):
    """An image that survives JPEG: two ramps and a constant."""
    rows, columns = np.linspace(0, 200, height)[:, None], np.linspace(0, 200, width)[None]
    planes = [rows + 0 * columns, columns + 0 * rows, 0 * rows + 0 * columns + rng.integers(0, 200)]
    return np.stack(planes, 2).astype(np.uint8)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Three classes of images of many shapes and forms, in ImageNet's layout."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, number in PER_CLASS.items():
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
            for index in range(number):
                image = Image.fromarray(smooth(rng, int(rng.integers(10, 40)), int(rng.integers(10, 40))))
                if index == 0:
                    image = image.convert("L")
                image.save(root / part / name / f"{index}.{('jpg', 'png', 'JPEG')[index % 3]}")
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    return root


def stream(folder, **changes):
    settings = {"validation": 5, "augment": "resized-crop-flip", "resolution": SIZE, "device": CPU, "workers": 0}
    return StreamImages(folder, **(settings | changes))


def epoch(images, *key, batch_size=4):
    batches = list(images.epoch(key, batch_size))
    return torch.stack([x for x, _ in batches]), torch.stack([y for _, y in batches])


def test_counts_shapes_and_labels(folder):
    images = stream(folder)
    assert (images.num_classes, images.input_shape) == (3, (3, SIZE, SIZE))
    assert (images.num_train, images.num_validation) == (19, 5)
    x, _ = epoch(images, 0, 0, 0)
    assert x.shape == (4, 4, 3, SIZE, SIZE)  # 19 images: the last, short batch is dropped
    assert x.dtype == torch.float32
    [(tested, labels)] = images.test()
    assert labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert tested.shape == (15, 3, SIZE, SIZE)
    [(_, labels)] = images.validation()
    trained = torch.cat([part for _, part in images.epoch((0, 0, 0), 1)])
    assert torch.bincount(torch.cat([trained, labels])).tolist() == [8, 8, 8]


def test_training_and_validation_share_no_file_and_miss_none(folder):
    images = stream(folder)
    train, validation = ({path for path, _ in part} for part in (images._train, images._validation))
    assert not train & validation
    assert len(train | validation) == 24
    assert {path for path, _ in stream(folder, augment="none")._validation} == validation


def test_workers_change_no_bit(folder):
    alone, helped = stream(folder), stream(folder, workers=2)
    for key in ((0, 0, 0), (3, 1, 2)):
        for one, other in zip(epoch(alone, *key), epoch(helped, *key), strict=True):
            assert torch.equal(one, other)
    for part in ("validation", "test"):
        [(x, y)], [(u, v)] = getattr(alone, part)(), getattr(helped, part)()
        assert torch.equal(x, u)
        assert torch.equal(y, v)
    assert torch.equal(alone.sample(7, 1)[0], helped.sample(7, 1)[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_no_other_random_number_moves(folder, workers):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    epoch(stream(folder, workers=workers), 0, 0, 0)
    assert torch.equal(torch.rand(3), expected)


def test_threads_do_not_disturb_each_other(folder):
    images, found = stream(folder), {}

    def read(seed):
        found[seed] = epoch(images, seed, 0, 0)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[seed][0], epoch(images, seed, 0, 0)[0]) for seed in range(4))


def test_batches_and_augmentation_are_keyed(folder):
    images = stream(folder)
    x, y = epoch(images, 1, 2, 3)
    again, _ = epoch(images, 1, 2, 3)
    assert torch.equal(x, again)
    for key in ((0, 2, 3), (1, 0, 3), (1, 2, 0)):
        other, labels = epoch(images, *key)
        assert not torch.equal(y, labels)
        assert not torch.equal(x, other)


def test_an_image_is_augmented_alike_wherever_it_stands_in_the_epoch(folder):
    images = stream(folder)
    by_one = torch.cat([x for x, _ in images.epoch((0, 0, 0), 1)])
    by_four = torch.cat([x for x, _ in images.epoch((0, 0, 0), 4)])
    assert torch.equal(by_one[:16], by_four)


def test_validation_test_and_sample_are_never_augmented(folder):
    images, plain = stream(folder), stream(folder, augment="none")
    for part in ("validation", "test"):
        [(x, _)], [(again, _)], [(u, _)] = getattr(images, part)(), getattr(images, part)(), getattr(plain, part)()
        assert torch.equal(x, again)
        assert torch.equal(x, u)
    assert torch.equal(images.sample(9, 3)[0], plain.sample(9, 3)[0])
    assert not torch.equal(images.sample(9, 3)[1], images.sample(9, 4)[1])


def test_without_augmentation_epochs_differ_in_order_alone(folder):
    images = stream(folder, augment="none")
    first, second = (torch.cat([x for x, _ in images.epoch((0, 0, e), 1)]).flatten(1) for e in (0, 1))
    assert not torch.equal(first, second)
    assert {tuple(row) for row in first.tolist()} == {tuple(row) for row in second.tolist()}


def test_levels_are_normalised_by_imagenets_constants(tmp_path):
    for part in ("train", "val"):
        for name, level in (("dark", 0), ("light", 255)):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(2):
                Image.new("RGB", (30, 20), (level,) * 3).save(tmp_path / part / name / f"{index}.png")
    images = stream(tmp_path, validation=1, dtype=torch.float64)
    [(x, y)] = images.test()
    for image, label in zip(x, y.tolist(), strict=True):
        for channel in range(3):
            # constants of three digits; float32 rounds them at 1e-7
            assert image[channel].unique().item() == pytest.approx((label - MEAN[channel]) / SPREAD[channel], rel=1e-6)


def test_a_wide_image_is_resized_by_its_short_side_and_cut_in_its_centre(tmp_path):
    """A ramp over 64 columns, of which the middle 14 * 12 / 14 of a 32-row image's square are seen."""
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None] * 4, (32, 64, 3)).copy()
    for part in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(2):
                Image.fromarray(ramp).save(tmp_path / part / name / f"{index}.png")
    [(x, _)] = stream(tmp_path, validation=1, dtype=torch.float64).test()
    levels = (x[0, 0] * SPREAD[0] + MEAN[0]) * 255
    # Columns of the stored image: its 32 rows became round(12 * 256 / 224) = 14.
    columns = (torch.arange(SIZE) - (SIZE - 1) / 2) * 32 / 14 + 31.5
    assert levels[0].tolist() == pytest.approx((4 * columns).tolist(), abs=1.0)  # rounded to whole levels, twice


def test_random_crops_keep_area_and_aspect_within_the_recipe():
    for height, width in ((50, 80), (300, 300), (9, 200)):
        for draw in range(200):
            rows, columns = _crop_shape(height, width, generator("crop", height, draw))
            assert 0 < rows <= height
            assert 0 < columns <= width
            # whole pixels move each side by up to half a pixel
            assert (columns + 0.5) / (rows - 0.5) >= 3 / 4
            assert (columns - 0.5) / (rows + 0.5) <= 4 / 3
            if height != 9:
                assert (rows + 0.5) * (columns + 0.5) >= 0.08 * height * width


def test_half_of_the_images_are_mirrored(tmp_path):
    ramp = np.broadcast_to(np.arange(40, dtype=np.uint8)[None, :, None] * 6, (40, 40, 3)).copy()
    for part in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(21):
                Image.fromarray(ramp).save(tmp_path / part / name / f"{index:02d}.png")
    x, _ = epoch(stream(tmp_path, validation=2), 0, 0, 0)
    mirrored = (x[:, :, 0, 0, 0] > x[:, :, 0, 0, -1]).sum().item()
    assert 8 <= mirrored <= 32  # of 40: further off than 3.8 standard deviations is 1 in 7,000


# What cannot be used


def test_a_missing_folder_is_named_and_so_is_the_machine(tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path}/nowhere/train on \S+: expected a folder of classes.*every node"):
        stream(tmp_path / "nowhere")


def test_no_classes_and_a_class_without_images_are_refused(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="expected a folder of classes"):
        stream(tmp_path)
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        stream(tmp_path)


def test_other_classes_in_val_are_refused(tmp_path, folder):
    (tmp_path / "train").symlink_to(folder / "train")
    (tmp_path / "val").mkdir()
    for name in ("cat", "fox"):
        (tmp_path / "val" / name).symlink_to(folder / "val" / "cat")
    with pytest.raises(DataError, match=r"train has 3 classes and val 2.*dog, eel, fox"):
        stream(tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_decoded_is_named(tmp_path, folder, workers):
    for part in ("train", "val"):
        for name in CLASSES:
            (tmp_path / part / name).mkdir(parents=True)
            for file in (folder / part / name).iterdir():
                (tmp_path / part / name / file.name).symlink_to(file)
    broken = tmp_path / "val" / "eel" / "3.jpg"
    broken.unlink()
    broken.write_bytes(b"\xff\xd8 not much of a JPEG")
    with pytest.raises(DataError, match=rf"^{broken}: the image cannot be decoded") as caught:
        list(stream(tmp_path, workers=workers).test())
    assert "Traceback" not in str(caught.value)


def test_too_large_a_split_sample_or_batch_is_refused(folder):
    with pytest.raises(DataError, match=r"data\.validation: found 24"):
        stream(folder, validation=24)
    with pytest.raises(DataError, match=r"pruning\.batch: found 20, but there are only 19"):
        stream(folder).sample(20, 0)
    with pytest.raises(DataError, match=r"training\.batch_size: found 20, but only 19 images"):
        load_images(of(folder, "training.batch_size=20"), CPU)


def test_an_augmentation_of_another_source_and_a_missing_path_are_refused(folder):
    with pytest.raises(DataError, match=r"crop-flip is not for image folders"):
        stream(folder, augment="crop-flip")
    with pytest.raises(DataError, match=r"needs data\.path"):
        load_images(load_experiment("digits-mlp", overrides=["data={source: folder}"]), CPU)


# Links, and what is no regular file


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copied")


def listed(root):
    """All paths below a root, by part: those to train on and to validate with, and those to test with."""
    images = stream(root)
    return images._train + images._validation, images._test


def test_images_are_listed_in_torchvisions_order(copied):
    """Which image is held out, and each one's random numbers, depend on it."""
    for name in ("a/x.png", "a-b/x.PNG", "a/b/x.webp", "B/x.jpeg", "10.png", "9.png"):
        (copied / "val" / "cat" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(copied / "val" / "cat" / "1.png", copied / "val" / "cat" / name)
    (copied / "val" / "cat" / "link").symlink_to(copied / "train" / "cat")
    shutil.move(copied / "train", copied.parent / "elsewhere")
    shutil.copytree(copied.parent / "elsewhere", copied / "train")
    (copied / "val" / "cat" / "link").unlink()
    (copied / "val" / "cat" / "link").symlink_to(copied.parent / "elsewhere" / "cat")
    assert listed(copied)[1] == ImageFolder(str(copied / "val")).samples
    assert len(listed(copied)[1]) == 15 + 6 + 8


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("train/cat/again", "train/cat"),
        ("train/cat/up", "train"),
        ("train/cat/top", "."),
        ("train/cat/root", "/"),
        ("train/again", "train"),
        ("train/top", "."),
        ("val/dog/top", "."),
    ],
)
def test_a_link_to_a_folder_above_lists_nothing_twice(copied, link, target):
    expected = listed(copied)
    (copied / link).symlink_to(copied / target)
    assert listed(copied) == expected


def test_links_in_a_circle_list_each_image_once(copied):
    for name in ("a", "b"):
        (copied / "train" / "cat" / name).mkdir()
        Image.new("RGB", (20, 20)).save(copied / "train" / "cat" / name / "one.png")
    expected = listed(copied)
    (copied / "train" / "cat" / "a" / "other").symlink_to("../b")
    (copied / "train" / "cat" / "b" / "other").symlink_to("../a")
    assert listed(copied) == expected
    assert len(expected[0]) == 26


def test_links_to_one_image_in_its_class_count_once(copied):
    expected = listed(copied)
    (copied / "train" / "cat" / "again.jpg").symlink_to("0.jpg")
    (copied / "train" / "cat" / "far.jpg").symlink_to(copied / "train" / "cat" / "0.jpg")
    (copied / "train" / "cat" / "link.jpg").symlink_to("far.jpg")  # of a link
    (copied / "elsewhere").symlink_to(copied / "train" / "dog")
    (copied / "train" / "cat" / "up.jpg").symlink_to(copied / "elsewhere" / ".." / "cat" / "0.jpg")
    assert listed(copied) == expected


@pytest.mark.parametrize(
    ("link", "target", "named"),
    [
        ("val/cat/linked.jpg", "train/cat/0.jpg", ("train/cat/0.jpg", "val/cat/linked.jpg")),
        ("train/cat/linked.jpg", "val/cat/0.jpg", ("train/cat/linked.jpg", "val/cat/0.jpg")),
        ("train/eel/linked.jpg", "train/cat/0.jpg", ("train/cat/0.jpg", "train/eel/linked.jpg")),
        ("train/cat/others", "train/dog", ("train/cat/others/0.jpg", "train/dog/0.jpg")),
        ("train/cat/others", "val/cat", ("train/cat/others/0.jpg", "val/cat/0.jpg")),
    ],
)
def test_an_image_in_two_classes_or_in_train_and_val_through_a_link_is_refused(copied, link, target, named):
    (copied / link).symlink_to(copied / target)
    with pytest.raises(
        DataError, match="belongs to one class, and to train/ or val/ alone; remove one of the links"
    ) as caught:
        stream(copied)
    assert str(caught.value).startswith(f"{copied / named[0]} and {copied / named[1]} are one file, {copied / target}")


@pytest.mark.parametrize("part", ["val", "val/eel"])
def test_a_part_or_class_that_is_a_link_to_what_is_trained_on_is_refused(copied, part):
    shutil.rmtree(copied / part)
    (copied / part).symlink_to(copied / part.replace("val", "train"))
    with pytest.raises(DataError, match="are one file"):
        stream(copied)


def test_a_folder_made_of_links_gives_the_same_batches(folder, tmp_path):
    for part in ("train", "val"):
        for name in CLASSES:
            (tmp_path / part / name).mkdir(parents=True)
            for file in (folder / part / name).iterdir():
                (tmp_path / part / name / file.name).symlink_to(file)
    for one, other in zip(epoch(stream(folder), 0, 0, 0), epoch(stream(tmp_path), 0, 0, 0), strict=True):
        assert torch.equal(one, other)


def pipe(path):
    os.mkfifo(path)


def closed_socket(path):
    os.mknod(path, stat.S_IFSOCK | 0o600)


def endless_device(path):
    path.symlink_to("/dev/zero")


def link_to_itself(path):
    path.symlink_to(path)


SPECIAL = {
    "a named pipe": pipe,
    "a socket": closed_socket,
    "a device": endless_device,
    "a link that leads nowhere": link_to_itself,
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_regular_file_is_refused_and_not_read(copied, kind):
    place = copied / "train" / "dog" / "x.png"
    SPECIAL[kind](place)
    with pytest.raises(DataError, match=rf"^{place}: expected an image file, found {kind}"):
        stream(copied)
    place.rename(copied / "train" / "dog" / "x.txt")
    assert stream(copied).num_train == 19


def test_a_folder_with_an_images_name_is_a_folder(copied):
    expected = listed(copied)
    (copied / "train" / "dog" / "x.png").mkdir()
    assert listed(copied) == expected
    Image.new("RGB", (20, 20)).save(copied / "train" / "dog" / "x.png" / "y.png")
    assert len(listed(copied)[0]) == len(expected[0]) + 1


def test_classes_that_are_all_hidden_are_no_classes(tmp_path):
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir(parents=True)
    with pytest.raises(DataError, match=r"expected a folder of classes.*there are no folders in it"):
        stream(tmp_path)


def test_an_image_too_long_to_be_resized_is_refused(copied):
    """256 rows of 2.56 thousand million columns."""
    place = copied / "val" / "eel" / "1.png"
    place.write_bytes(png(10_000_000, 1, 8, 0, [bytes(10_000_000)]))
    with pytest.raises(
        DataError, match=rf"{place}: .*10000000 x 1 pixels, resized.*2\.0 TB of memory are needed, .* free"
    ):
        list(stream(copied, resolution=224).test())


def test_batches_that_do_not_fit_are_refused(copied):
    images = stream(copied, resolution=300_000)  # 1.1 TB an image
    for batches in (lambda: images.epoch((0, 0, 0), 4), images.validation, images.test, lambda: images.sample(2, 0)):
        with pytest.raises(
            DataError, match=r"[124] images of 3 x 300000 x 300000 at once: [124]\.\d TB of memory are needed"
        ):
            next(iter(batches()))


# In the chain


def of(folder, *overrides):
    return load_experiment(
        "digits-mlp",
        overrides=[
            f"data={{source: folder, path: '{folder}', validation: 5, augment: resized-crop-flip, resolution: {SIZE}}}",
            "training={epochs: 2, batch_size: 6}",
            "pruning.cycles=1",
            "grid={spacing: explicit, values: [0.01, 0.02]}",
            "seeds=[0]",
            *overrides,
        ],
    )


def test_a_folder_is_224_pixels_unless_told_otherwise(folder):
    assert load_images(of(folder, "data.resolution="), CPU).input_shape == (3, 224, 224)


def test_a_search_runs_on_a_folder_that_is_given_by_a_relative_path(folder, tmp_path, monkeypatch):
    run_oracle(of(folder), tmp_path / "absolute", executor="local")
    monkeypatch.chdir(folder.parent)
    run_oracle(of(folder.name), tmp_path / "relative", executor="local", backend="pack")
    assert f"path: {folder}" in (tmp_path / "relative" / "experiment.yaml").read_text()
    one, other = (read_trials(tmp_path / name) for name in ("absolute", "relative"))
    assert one["max_lr"].to_pylist() == [0.01, 0.02] * 2
    assert one["val_accuracy"].equals(other["val_accuracy"])
