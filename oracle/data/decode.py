"""Encoded images as 8-bit pixels, grey or in colour: the one place where image files are opened.

What has 16 bits a pixel keeps the upper 8 (value >> 8), as Pillow itself does where such an image has colours; its own
conversion of grey ones makes all above 255 white.
"""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

from oracle.data.memory import Shape, check_fits
from oracle.errors import DataError

SIXTEEN_BITS = {"I;16", "I;16B", "I;16L", "I;16N"}  # modes of Pillow's
RANGED = {"PNG", "TIFF", "JPEG2000", "PPM"}  # formats whose 16 bits go from 0, black, to a white that is known
WAY_OUT = "save it with 8 bits a pixel"


@contextlib.contextmanager
def decoded(source: str | io.BytesIO, where: str) -> Iterator[Image.Image]:
    """The image of a file, in Pillow's mode L or RGB. DataError, naming `where`, for whatever goes wrong meanwhile."""
    try:
        with Image.open(source) as image:
            width, height = image.size
            check_fits(decoded_bytes(image), f"{width} x {height} pixels", "store it smaller")
            yield eight_bits(image)
    except Exception as error:  # broken images raise almost anything: OSError, SyntaxError, ValueError, ...
        why = str(error) or ("the memory is full" if isinstance(error, MemoryError) else type(error).__name__)
        hint = " Store it smaller" if isinstance(error, Image.DecompressionBombError) else ""
        raise DataError(f"{where}: the image cannot be decoded: {why}{hint}") from None


def header(content: bytes) -> tuple[Shape, int] | None:
    """An image's channels, height and width once decoded, and the least memory that takes; None where it is broken."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return (1 if _is_grey(image) else 3, image.height, image.width), decoded_bytes(image)
    except Exception:  # as above; decoding it will say what is wrong
        return None


def decoded_bytes(image: Image.Image) -> int:
    """The least memory that decoding takes: Pillow's own pixels, four bytes where they have colours, and an array."""
    return image.width * image.height * (1 + 1 if _is_grey(image) else 4 + 3)


def eight_bits(image: Image.Image) -> Image.Image:
    """In mode L or RGB. DataError where nobody can know which value is white."""
    if image.mode in {"L", "RGB"}:
        return image
    if _is_grey(image):
        return _upper_bits(image)
    if image.mode in {"I", "F"}:
        kind = "floating-point numbers" if image.mode == "F" else "32 bits, or a sign,"
        raise DataError(f"its pixels have {kind} (mode {image.mode}), so which value is white is not known; {WAY_OUT}")
    return image.convert("RGB")  # without its alpha channel


def _is_grey(image: Image.Image) -> bool:
    # Mode I says 32 bits; but a PGM file has at most 16, which Pillow scales to 0 .. 65535.
    return image.mode == "L" or image.mode in SIXTEEN_BITS or (image.mode, image.format) == ("I", "PPM")


def _upper_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits (in TIFF also 12) as mode L."""
    if image.format not in RANGED:
        raise DataError(f"which of its 16-bit values is white is not known in {image.format} files; {WAY_OUT}")
    levels, bits = np.asarray(image).astype(np.uint16), 16
    if isinstance(image, TiffImageFile):
        bits = image.tag_v2[BITSPERSAMPLE][0]
        if image.tag_v2[PHOTOMETRIC_INTERPRETATION] == 0:  # 0 is white, which Pillow minds in 8-bit files alone
            levels = 2**bits - 1 - levels
    brightest, white = int(levels.max()), 2**bits - 1
    if 0 < brightest < 2 ** (bits - 8):
        raise DataError(
            f"its brightest value is {brightest} of {white}, so all of it is black in 8 bits; were 8-bit values saved with "
            f"{bits} bits? {WAY_OUT}"
        )
    return Image.fromarray((levels >> (bits - 8)).astype(np.uint8))
