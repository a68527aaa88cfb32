"""Encoded images as 8-bit pixels: 16-bit ones are scaled, those without a known white refused, the others as ever."""

import io

import numpy as np
import pytest
import torch
from encoded import encoded, png_16, tiff, write_shard
from PIL import Image

from oracle.data.sources import load_raw
from oracle.data.stream import StreamImages
from oracle.errors import DataError
from oracle.experiment import Data

CPU = torch.device("cpu")
H, W = 3, 4
# Both ends of a level of 8 bits, where rounding and the upper byte differ.
LEVELS = np.array([[0, 255, 256, 1000], [32767, 32768, 65279, 65280], [65535, 511, 512, 767]], dtype=np.uint16)
UPPER = (LEVELS // 256).astype(np.uint8)


def jpeg2000(levels):
    sink = io.BytesIO()
    Image.fromarray(levels).save(sink, "JPEG2000", irreversible=False)
    return sink.getvalue()


def packed_12_bits(levels):
    bits = "".join(f"{level:012b}" for level in levels.flatten())
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


SIXTEEN_BITS = {
    "png": png_16(LEVELS),
    "little-endian tiff": tiff(LEVELS.astype("<u2").tobytes(), W, H, bits=16),
    "big-endian tiff": tiff(LEVELS.astype(">u2").tobytes(), W, H, bits=16, order=">"),
    "tiff where white is 0": tiff((65535 - LEVELS).astype("<u2").tobytes(), W, H, bits=16, white_is_zero=True),
    "tiff of 12 bits": tiff(packed_12_bits(LEVELS // 16), W, H, bits=12),
    "pgm": b"P5 4 3 65535\n" + LEVELS.astype(">u2").tobytes(),
    "jpeg 2000": jpeg2000(LEVELS),
}
NO_WHITE = {
    "32 bits": tiff(LEVELS.astype("<u4").tobytes(), W, H, bits=32),
    "signed": tiff(LEVELS.astype("<i2").tobytes(), W, H, bits=16, kind=2),
    "floating point": tiff((LEVELS / 65535).astype("<f4").tobytes(), W, H, bits=32, kind=3),
    "pfm": b"Pf\n4 3\n-1.0\n" + (LEVELS / 65535).astype("<f4").tobytes(),
    "fits": b"".join(
        f"{key:8}= {value:>20}".ljust(80).encode()
        for key, value in {"SIMPLE": "T", "BITPIX": 16, "NAXIS": 2, "NAXIS1": W, "NAXIS2": H}.items()
    ).ljust(2800)
    + b"END".ljust(80)
    + LEVELS.astype(">i2").tobytes().ljust(2880, b"\0"),
}


def of_parquet(tmp_path, content):
    """The pixels of one image [C, H, W]."""
    write_shard(tmp_path / "all.parquet", [content] * 5, [0] * 5)
    return load_raw(Data(source="parquet", path=str(tmp_path / "all.parquet"))).train_images[0]


def of_folder(tmp_path, content):
    """A folder of two classes with this image alone; how its test images look, at a size that resizes nothing but H = 3."""
    for part in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
            for index in range(2):
                (tmp_path / part / name / f"{index}.png").write_bytes(content)  # Pillow looks at what is in it
    [(x, _)] = StreamImages(tmp_path, validation=1, augment="none", resolution=3, device=CPU, workers=0).test()
    return x


@pytest.mark.parametrize("content", SIXTEEN_BITS.values(), ids=SIXTEEN_BITS)
def test_16_bits_keep_their_upper_byte(tmp_path, content):
    pixels = of_parquet(tmp_path, content)
    assert pixels.dtype == np.uint8
    assert pixels.tolist() == [UPPER.tolist()]  # one channel, as other grey images


@pytest.mark.parametrize("content", SIXTEEN_BITS.values(), ids=SIXTEEN_BITS)
def test_16_bits_in_a_folder_train_as_their_upper_byte(tmp_path, content):
    found, expected = of_folder(tmp_path / "16", content), of_folder(tmp_path / "8", encoded(UPPER))
    assert torch.equal(found, expected)
    assert found.unique().numel() > 3  # not white alone


def test_grey_and_colour_of_16_bits_have_the_same_levels(tmp_path):
    colour = of_parquet(tmp_path, png_16(np.stack([LEVELS] * 3, 2)))
    assert (colour == of_parquet(tmp_path, png_16(LEVELS))).all()


def test_16_bits_and_8_bits_of_grey_mix(tmp_path):
    write_shard(tmp_path / "all.parquet", [png_16(LEVELS), encoded(UPPER)] * 3, [0] * 6)
    raw = load_raw(Data(source="parquet", path=str(tmp_path / "all.parquet")))
    assert (raw.train_images == UPPER).all()
    assert raw.train_images.shape == (5, 1, H, W)


@pytest.mark.parametrize("content", NO_WHITE.values(), ids=NO_WHITE)
@pytest.mark.parametrize("read", [of_parquet, of_folder])
def test_an_image_whose_white_is_not_known_is_refused(tmp_path, content, read):
    with pytest.raises(DataError, match=r"cannot be decoded: .*white is not known.*save it with 8 bits") as caught:
        read(tmp_path, content)
    assert ("row 0" if read is of_parquet else f"{tmp_path}/val/a/0.png") in str(caught.value)


@pytest.mark.parametrize("read", [of_parquet, of_folder])
def test_8_bit_values_saved_with_16_bits_are_refused_and_black_is_not(tmp_path, read):
    with pytest.raises(DataError, match=r"its brightest value is 255 of 65535.*were 8-bit values saved with 16"):
        read(tmp_path, png_16(UPPER.astype(np.uint16)))
    assert len(np.unique(read(tmp_path, png_16(0 * LEVELS)))) <= 3  # one level in each channel


OTHER_MODES = ["1", "P", "LA", "RGBA", "CMYK", "YCbCr", "LAB"]


@pytest.mark.parametrize("mode", OTHER_MODES)
def test_other_modes_become_colour_as_pillow_converts_them(tmp_path, mode):
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8))
    if mode == "LAB":
        image = Image.frombytes("LAB", (W, H), colour.tobytes())
    else:
        image = colour.convert("L").convert(mode) if mode == "LA" else colour.convert(mode)
    sink = io.BytesIO()
    image.save(sink, "TIFF")
    with Image.open(io.BytesIO(sink.getvalue())) as stored:
        assert stored.mode == mode
        expected = np.asarray(stored.convert("RGB"))
    assert (of_parquet(tmp_path, sink.getvalue()) == expected.transpose(2, 0, 1)).all()
    assert torch.equal(of_folder(tmp_path / "a", sink.getvalue()), of_folder(tmp_path / "b", encoded(expected)))
    assert len(np.unique(expected)) > 1


def test_an_image_of_more_pixels_than_pillow_decodes_says_so(tmp_path):
    too_large = Image.MAX_IMAGE_PIXELS * 2 + 1
    with pytest.raises(DataError, match=rf"row 0: .*cannot be decoded.*{too_large} pixels.*Store it smaller"):
        of_parquet(tmp_path, b"P5 %d 1 255\n" % too_large)
