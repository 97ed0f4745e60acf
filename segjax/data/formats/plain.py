"""BMP and PBM, PGM, PPM, read directly."""

import re
import struct

import numpy as np

from segjax.data.formats.raster import Raster, Refused, check_size

BMP_COMPRESSIONS = {1: "RLE8", 2: "RLE4", 3: "BITFIELDS", 4: "JPEG", 5: "PNG"}
BGR_MASKS = (0xFF0000, 0xFF00, 0xFF)
BETWEEN = rb"(?:\s|#[^\n]*\n)+"


def read_bmp(data: bytes) -> Raster:
    """1, 4 and 8 bits with a palette, 24 and 32 without; not compressed."""
    offset, header = struct.unpack("<II", data[10:18])
    if header == 12:  # of OS/2
        (width, height, _, bits), compression, colors = struct.unpack("<4H", data[18:26]), 0, 0
    else:
        width, height, _, bits, compression = struct.unpack("<iiHHI", data[18:34])
        (colors,) = struct.unpack("<I", data[46:50])
    check_size(abs(height), width)
    in_order = bits == 32 and struct.unpack("<3I", data[54:66]) == BGR_MASKS
    if compression and not (compression == 3 and in_order):
        name = BMP_COMPRESSIONS.get(compression, compression)
        raise Refused(f"with compression {name}; save it without, or as PNG")
    if bits not in (1, 4, 8, 24, 32):
        raise Refused(f"of {bits} bits a pixel; save it as PNG")
    stride = (width * bits + 31) // 32 * 4
    rows = np.frombuffer(data, np.uint8, stride * abs(height), offset).reshape(-1, stride)
    rows = rows[::-1] if height > 0 else rows
    if bits > 8:
        pixels = rows[:, : width * bits // 8].reshape(len(rows), width, -1)
        return Raster(np.ascontiguousarray(pixels[..., 2::-1]), "BMP", 8, 255)
    pixels = _unpack(rows, bits)[:, :width, None]
    entry, count = 3 if header == 12 else 4, colors or 2**bits
    entries = np.frombuffer(data, np.uint8, entry * count, 14 + header).reshape(count, entry)
    if (beyond := int(pixels.max())) >= count:
        raise ValueError(f"index {beyond} in a palette of {count} colours")
    return Raster(pixels, "BMP", bits, 2**bits - 1, palette=entries[:, 2::-1])


def read_netpbm(data: bytes) -> Raster:
    """P1 to P6 (https://netpbm.sourceforge.net/doc/). White is 1, also in bitmaps."""
    kind = int(data[1:2])
    fields = 2 if kind in (1, 4) else 3  # a bitmap states no largest value
    header = re.match(rb"P\d" + (BETWEEN + rb"(\d{1,9})") * fields, data)
    if not header:
        raise ValueError("no width, height and largest value")
    width, height, largest = (*map(int, header.groups()), 1)[:3]
    check_size(height, width)
    if not 0 < largest < 65536:
        raise ValueError(f"a largest value of {largest}")
    bands, body = 3 if kind in (3, 6) else 1, data[header.end() :]
    dtype = np.dtype(np.uint8 if largest < 256 else ">u2")
    count = height * width * bands
    if kind < 4:
        text = re.sub(rb"#[^\n]*\n?", b"", body)
        words = re.findall(rb"[01]", text) if kind == 1 else text.split()
        values, rest = np.array([int(word) for word in words[:count]]), words[count:]
    else:
        stride = (width + 7) // 8
        size = height * stride if kind == 4 else count * dtype.itemsize
        # One white space ends the header; some programs write a line's end of two.
        start = 2 if body.startswith(b"\r\n") and len(body) >= 2 + size else 1
        rest = body[start + size :]
        values = np.frombuffer(body[start : start + size], np.uint8 if kind == 4 else dtype)
        if kind == 4:
            values = _unpack(values.reshape(height, stride), 1)[:, :width].ravel()
    if rest.strip() if isinstance(rest, bytes) else rest:
        raise Refused("with more behind its first image; save each as a file")
    if len(values) >= count and values.min() < 0:
        raise ValueError("values below 0")
    if len(values) < count or values.max() > largest:
        raise ValueError("too few values" if len(values) < count else f"values above {largest}")
    pixels = values.reshape(height, width, bands).astype(dtype.newbyteorder("="))
    pixels = 1 - pixels if kind in (1, 4) else pixels
    return Raster(pixels, ("PBM", "PGM", "PPM")[(kind - 1) % 3], largest.bit_length(), largest)


def _unpack(rows: np.ndarray, bits: int) -> np.ndarray:
    """Bytes [H, n] to samples [H, n * 8 / bits], the highest bits first."""
    if bits == 8:
        return rows
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    return (rows[..., None] >> shifts & (2**bits - 1)).reshape(len(rows), -1)
