"""Images as files hold them, among them forms that Pillow reads but does not write; and Parquet files of images."""

import io
import json
import struct
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def encoded(pixels, form="png"):
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, form)
    return sink.getvalue()


def write_shard(path, contents, labels, *, column="img", label="label", names=None):
    """One image Parquet file as Hugging Face datasets writes it."""
    images = pa.array(
        [{"bytes": content, "path": f"{row}.png"} for row, content in enumerate(contents)],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table({column: images, label: labels})
    if names is not None:
        features = {column: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, bits, colour, rows):
    """`colour`: 0 grey, 2 RGB. `rows`: of each row its bytes; none for a file that ends after its header."""
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def png_16(levels):
    """A 16-bit PNG of levels [H, W], grey, or [H, W, 3]."""
    colour = 0 if levels.ndim == 2 else 2
    return png(levels.shape[1], levels.shape[0], 16, colour, [row.astype(">u2").tobytes() for row in levels])


def tiff(content, width, height, *, bits, white_is_zero=False, kind=1, order="<"):
    """An uncompressed grey TIFF. `kind`: 1 unsigned, 2 signed, 3 floating point."""
    first = 8 + 2 + 12 * 10 + 4  # where the pixels begin
    shorts = {258: bits, 259: 1, 262: 0 if white_is_zero else 1, 277: 1, 339: kind}
    longs = {256: width, 257: height, 273: first, 278: height, 279: len(content)}
    entries = [(tag, 3, struct.pack(order + "HH", value, 0)) for tag, value in shorts.items()]
    entries += [(tag, 4, struct.pack(order + "I", value)) for tag, value in longs.items()]
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HIH", 42, 8, len(entries))
    body = b"".join(struct.pack(order + "HHI", tag, form, 1) + value for tag, form, value in sorted(entries))
    return head + body + struct.pack(order + "I", 0) + content
