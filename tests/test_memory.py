"""What cannot fit is refused with the numbers before it is asked for, and what is free is read as the system tells it.

The sizes asked for are of terabytes, which no machine that runs these tests has: what is refused here is refused anywhere.
"""

import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from encoded import png, write_shard

from oracle.data import load_images
from oracle.data.images import DeviceImages
from oracle.data.memory import check_fits, evaluated_together, free_bytes
from oracle.data.sources import RawImages, load_raw
from oracle.errors import DataError
from oracle.execution.executors import Launch
from oracle.experiment import Data
from oracle.search.preflight import prepare

CPU = torch.device("cpu")
NUMBERS = r"[\d.]+ TB of memory are needed, .* has [\d.]+ [MGT]B free"
WAY_OUT = "a smaller data.resolution, fewer images, or a folder that is read while it trains"


def raw_images(num_train, *shape):
    """Any number of images to train on in a byte of memory, and one to test with."""
    return RawImages(
        train_images=np.broadcast_to(np.uint8(7), (num_train, *shape)),
        train_labels=np.zeros(num_train, dtype=np.int64),
        test_images=np.zeros((1, *shape), dtype=np.uint8),
        test_labels=np.zeros(1, dtype=np.int64),
        num_classes=2,
    )


# Refusals


def test_images_of_81_megapixels_are_refused_by_their_headers(tmp_path):
    header = png(9000, 9000, 8, 2, [])
    write_shard(tmp_path / "all.parquet", [header] * 20_000, [0] * 20_000)
    with pytest.raises(DataError, match=rf"20,000 images of 3 x 9000 x 9000, decoded: 9\.7 TB.*{WAY_OUT}") as caught:
        load_raw(Data(source="parquet", path=str(tmp_path / "all.parquet")))
    assert re.search(NUMBERS, str(caught.value))


def test_shards_are_counted_together_and_at_the_resolution_they_get(tmp_path):
    header = png(5, 6, 8, 0, [])
    for name in ("train-0", "train-1", "test-0"):
        write_shard(tmp_path / f"{name}.parquet", [header] * 50_000, [0] * 50_000)
    with pytest.raises(DataError, match=r"150,000 images of 1 x 4096 x 4096, decoded: 3\.4 TB"):
        load_raw(Data(source="parquet", path=str(tmp_path), resolution=4096))


@pytest.mark.parametrize(("augment", "needed"), [("none", "33.9 TB"), ("crop-flip", "7.6 TB")])
def test_copies_that_do_not_fit_on_the_device_are_refused(augment, needed):
    """A byte a pixel as stored; beside it four, twice, as they are normalised, or a byte in a padded image."""
    with pytest.raises(DataError, match=rf"5000 images of 3 x 16000 x 16000, kept ready: {needed}.*{WAY_OUT}"):
        DeviceImages(raw_images(5000, 3, 16_000, 16_000), validation=100, augment=augment, device=CPU)


@pytest.mark.parametrize(("precision", "needed"), [("fp32", "18.6 TB"), ("fp64", "36.5 TB")])
def test_a_network_that_does_not_fit_is_refused_before_it_is_made(tiny, monkeypatch, precision, needed):
    """64 x 10^10 weights in its first layer: seven copies of each, and a byte for its mask."""
    images = SimpleNamespace(input_shape=(1, 100_000, 100_000), num_classes=10)
    monkeypatch.setattr("oracle.search.preflight.load_images", lambda *_: images)
    experiment = tiny("network.name=mlp-64x2", f"training.precision={precision}")
    refusal = r"network mlp-64x2 for images of 1 x 100000 x 100000: 640,000,004,874 parameters, trained: "
    with pytest.raises(DataError, match=rf"{refusal}{needed} of memory are needed.*a smaller data\.resolution"):
        prepare(experiment, Launch(), folder=None)


def test_a_training_batch_that_does_not_fit_is_refused(tiny):
    experiment = tiny("data.resolution=512", "training.batch_size=1000000")
    images = load_images(
        experiment, CPU, raw_images(1_500_000, 1, 1, 1)
    )  # as a cluster's driver does, which trains none
    with pytest.raises(DataError, match=r"training\.batch_size: 1000000 images of 1 x 512 x 512 at once: 1\.0 TB"):
        next(images.epoch((0, 0, 0), 1_000_000))


def test_images_that_cannot_be_evaluated_even_one_by_one_are_refused():
    images = DeviceImages(raw_images(50, 3, 1, 1), validation=9, augment="none", resolution=300_000, device=CPU)
    for batches in (images.validation(), images.test()):
        with pytest.raises(DataError, match=r"evaluation: 1 images of 3 x 300000 x 300000 at once: 1\.1 TB"):
            next(batches)


def test_a_sample_that_does_not_fit_is_refused():
    images = DeviceImages(raw_images(1_500_000, 1, 1, 1), validation=9, augment="none", resolution=512, device=CPU)
    with pytest.raises(DataError, match=r"pruning\.batch: 1000000 images of 1 x 512 x 512 at once: 1\.0 TB"):
        images.sample(1_000_000, 0)


def test_images_that_fit_are_not_refused():
    check_fits(2**26, "a little", "")
    assert DeviceImages(raw_images(50, 3, 7, 7), validation=9, augment="none", device=CPU).num_train == 41


# Evaluation


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("side", [8, 32, 224, 384])
def test_evaluation_batches_of_the_sizes_in_use_have_not_changed(side, dtype):
    assert evaluated_together(1000, (3, side, side), dtype) == 1000
    assert evaluated_together(250, (3, 2 * side, 2 * side), dtype) == 250


def test_evaluation_batches_of_large_images_are_smaller():
    assert evaluated_together(1000, (3, 4096, 4096), torch.float32) == 21  # 4.2 GB, not 201
    assert evaluated_together(1000, (3, 50_000, 50_000), torch.float64) == 1


def test_smaller_evaluation_batches_hold_the_same_images(monkeypatch):
    raw = raw_images(60, 3, 6, 5)
    raw = RawImages(
        train_images=np.random.default_rng(0).integers(0, 256, (60, 3, 6, 5), dtype=np.uint8),
        train_labels=np.arange(60),
        test_images=raw.test_images,
        test_labels=raw.test_labels,
        num_classes=60,
    )
    whole = DeviceImages(raw, validation=13, augment="none", device=CPU)
    monkeypatch.setattr("oracle.data.memory.EVALUATED_BYTES", 5 * 3 * 6 * 5 * 4 + 1)
    parts = list(DeviceImages(raw, validation=13, augment="none", device=CPU).validation())
    [(pixels, labels)] = whole.validation()
    assert [len(y) for _, y in parts] == [5, 5, 3]
    assert torch.equal(torch.cat([x for x, _ in parts]), pixels)
    assert torch.equal(torch.cat([y for _, y in parts]), labels)


# What is free. Trees of files as Linux shows them.

MEMINFO = "MemTotal:       24000000 kB\nMemFree:        1000 kB\nMemAvailable:   2000000 kB\nSwapFree: 9 kB\n"


def system(root, **files):
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return free_bytes(root=root)


def test_the_machine_tells_what_is_free(tmp_path):
    assert system(tmp_path) == 2_000_000 * 1024


def test_this_machine_tells_what_is_free():
    if sys.platform != "linux":
        pytest.skip("only Linux tells it here")
    assert free_bytes() > 2**20


def test_nothing_is_refused_where_nobody_tells_what_is_free(tmp_path):
    assert free_bytes(root=tmp_path) is None
    assert free_bytes(torch.device("meta")) is None
    check_fits(10**18, "more than there is", "", torch.device("meta"))


# Of this name: what the group may have, what it uses, and how much of that are disk caches.
SECOND = ("memory.max", "memory.current", "active_file {}\ninactive_file {}\nanon 5\n")
FIRST = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "total_active_file {}\ntotal_inactive_file {}\nactive_file 1\n",
)


def group(base, names, limit, used, active=0, inactive=0):
    return {
        f"{base}/{names[0]}": f"{limit}\n",
        f"{base}/{names[1]}": f"{used}\n",
        f"{base}/memory.stat": names[2].format(active, inactive),
    }


@pytest.mark.parametrize(
    ("line", "base", "names"),
    [("0::{}", "sys/fs/cgroup", SECOND), ("4:cpu,memory:{}", "sys/fs/cgroup/memory", FIRST)],
    ids=["version 2", "version 1"],
)
def test_the_tightest_limit_of_all_groups_around_counts(tmp_path, line, base, names):
    own = {"proc/self/cgroup": "7:cpuset:/other\n" + line.format("/job/step") + "\n"}
    inner, outer = group(f"{base}/job/step", names, 900, 500), group(f"{base}/job", names, 800, 600, 40, 2)
    assert system(tmp_path / "a", **own, **inner, **outer) == 242
    assert system(tmp_path / "b", **own, **inner) == 400
    assert system(tmp_path / "c", **own, **group(f"{base}/job", names, "max", 1)) == 2_000_000 * 1024
    assert system(tmp_path / "d", **own, **group(base, names, 100, 300)) == 0
    # In a container the path may be of the machine outside; its own group is then the root.
    assert system(tmp_path / "e", **own, **group(base, names, 700, 300)) == 400
    assert system(tmp_path / "f", **own, **group(f"{base}/job", names, 2**63 - 4096, 1)) == 2_000_000 * 1024


# Where the memory runs out all the same: limits that are not told beforehand, other processes

LIMITED = """
import resource, sys
import numpy as np, torch
from oracle.data import load_images
from oracle.data.sources import RawImages, load_raw
from oracle.errors import DataError
from oracle.experiment import Data, load_experiment

def work(kind):
    if kind == "decoded":
        load_raw(Data(source="parquet", path=sys.argv[2]))
    labels = np.zeros(200, dtype=np.int64)
    raw = RawImages(train_images=images, train_labels=labels, test_images=images, test_labels=labels, num_classes=2)
    experiment = load_experiment("digits-mlp", overrides=["data.validation=9", "training.batch_size=1"])
    load_images(experiment, torch.device("cpu"), raw)

images = np.ones((200, 1, 1000, 1000), dtype=np.uint8)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 700_000_000,) * 2)
try:
    work(sys.argv[1])
except DataError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize("kind", ["decoded", "kept ready"])
def test_memory_that_runs_out_is_a_refusal(tmp_path, kind):
    if kind == "decoded":
        side = 13_000
        write_shard(tmp_path / "all.parquet", [png(side, side, 8, 0, [bytes(side)] * side)] * 10, [0] * 10)
    found = subprocess.run(
        [sys.executable, "-c", LIMITED, kind, str(tmp_path / "all.parquet")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    assert "Traceback" not in found.stderr
    assert re.search(r"the memory (of \S+ )?is full", found.stdout), found
