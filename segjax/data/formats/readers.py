"""PNG, JPEG, GIF, WebP and JPEG 2000, each by a library that returns its samples unchanged."""

import io
import struct
from collections.abc import Iterator

import cv2
import imagecodecs
import numpy as np
from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from segjax.data.formats.raster import Raster, Refused, check_size, full_scale

# Pillow's classes are called directly: its open() refuses large images, by a limit for the whole
# process that is not ours to change.
EXIF_ORIENTATION = 0x0112
PNG_PALETTE = 3  # the colour type
PNG_BANDS = {0: 1, 2: 3, PNG_PALETTE: 1, 4: 2, 6: 4}
JP2_START = b"\xff\x4f\xff\x51"  # of the codestream, which boxes may stand around
SRGB, GREY = 16, 17  # colour spaces of JPEG 2000


def read_png(data: bytes) -> Raster:
    """Every bit depth and colour type; gAMA, sBIT and tRNS change no sample."""
    width, height, bits, color = struct.unpack(">IIBB", data[16:26])
    check_size(height, width)
    bands = PNG_BANDS[color]
    is_deep = bits == 16 and bands > 1  # of which Pillow keeps the high bytes only
    try:
        image = PngImageFile(io.BytesIO(data))
        if not is_deep or b"eXIf" in data:
            image.load()  # what is said of an image may stand behind its pixels
    except ValueError as error:
        if "MAX_TEXT" not in str(error):  # Pillow's limits
            raise
        refusal = "with more than 1 MB of compressed text; save it without metadata"
        raise Refused(refusal) from error
    if (frames := getattr(image, "n_frames", 1)) > 1:
        raise Refused(f"of {frames} frames; save each as a file")
    pixels = imagecodecs.png_decode(data) if is_deep else np.array(image)
    pixels = pixels.reshape(height, width, -1)[..., :bands]  # without what tRNS made
    if bits < 8:
        pixels = pixels.astype(np.uint8)
        if color == 0 and bits > 1:
            pixels //= 255 // (2**bits - 1)  # by which Pillow multiplies
    return Raster(
        pixels,
        "PNG",
        bits,
        2**bits - 1,
        palette=_palette(image, pixels) if color == PNG_PALETTE else None,
        alpha=bands in (2, 4),
        orientation=_orientation(image.info.get("exif")),
    )


def read_jpeg(data: bytes) -> Raster:
    """8 bits; CMYK becomes RGB. Of several pictures (MPO) the first, which is the photograph."""
    try:
        image = JpegImageFile(io.BytesIO(data))
    except SyntaxError as error:  # Pillow's own
        if "-bit" in str(error):
            raise Refused("whose samples have not 8 bits; save it as PNG or TIFF") from error
        raise
    check_size(image.height, image.width)
    color = cv2.IMREAD_GRAYSCALE if image.mode == "L" else cv2.IMREAD_COLOR_RGB
    flags = color | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise ValueError("cut off, or bytes inside are wrong")
    return Raster(
        pixels.reshape(image.height, image.width, -1),
        "JPEG",
        8,
        255,
        orientation=_orientation(image.info.get("exif")),
        loss="JPEG compression",
    )


def read_gif(data: bytes) -> Raster:
    """A single frame that fills its picture."""
    image = GifImageFile(io.BytesIO(data))
    check_size(image.height, image.width)
    if image.n_frames > 1:
        raise Refused(f"of {image.n_frames} frames; save each as a file")
    if [tuple(tile[1]) for tile in image.tile] != [(0, 0, *image.size)]:
        raise Refused("whose frame does not fill the picture; save it as PNG")
    pixels = np.asarray(image)[..., None]
    if image.mode == "L":  # a palette of greys in their order
        return Raster(pixels, "GIF", 8, 255)
    return Raster(pixels, "GIF", 8, 255, palette=_palette(image, pixels), renumbered=True)


def read_webp(data: bytes) -> Raster:
    """Lossless (VP8L) or lossy (VP8), by the chunk that holds the pixels."""
    chunks = dict(_riff_chunks(data))
    if b"ANIM" in chunks or b"ANMF" in chunks:
        raise Refused("with an animation; save each frame as a file")
    pixels = imagecodecs.webp_decode(data)
    loss = "" if b"VP8L" in chunks else "lossy WebP compression"
    if pixels.shape[-1] == 4 and not pixels[..., 3].all():
        loss = loss or "transparent pixels, whose values WebP encoders clear"
    return Raster(
        pixels,
        "WebP",
        8,
        255,
        alpha=pixels.shape[-1] == 4,
        orientation=_orientation(chunks.get(b"EXIF")),
        loss=loss,
    )


def read_jpeg2000(data: bytes) -> Raster:
    """One or three bands of one size, up to 16 bits; with or without boxes around the codestream.

    ITU-T T.800, A.5.1 (SIZ) and I.5.3 (boxes).
    """
    start = data.index(JP2_START)
    boxes, size = data[:start], data[start + 8 :]
    width, height, left, top = struct.unpack(">4I", size[:16])
    check_size(height - top, width - left)
    (bands,) = struct.unpack(">H", size[32:34])
    depths, *steps = (set(size[34 + i : 34 + 3 * bands : 3]) for i in range(3))
    if bands not in (1, 3) or len(depths) > 1 or steps != [{1}, {1}]:
        raise Refused(f"of {bands} bands; one and three, of one size and depth, are read")
    color = boxes.find(b"colr")
    by_number = color >= 0 and boxes[color + 4] == 1
    if b"pclr" in boxes or (
        by_number and int.from_bytes(boxes[color + 7 : color + 11]) not in (SRGB, GREY)
    ):
        raise Refused("with a palette, or neither RGB nor grey; save it as PNG or TIFF")
    pixels = imagecodecs.jpeg2k_decode(data)
    bits = (depths.pop() & 127) + 1
    return Raster(
        pixels.reshape(*pixels.shape[:2], bands),
        "JPEG 2000",
        bits,
        full_scale(pixels.dtype, bits),
        # Also where its wavelets are reversible: layers may have been left out, unsaid.
        loss="JPEG 2000 compression",
    )


def _palette(image: Image.Image, pixels: np.ndarray) -> np.ndarray:
    palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    if (beyond := int(pixels.max())) >= len(palette):
        raise ValueError(f"index {beyond} in a palette of {len(palette)} colours")
    return palette


def _orientation(exif: bytes | None) -> int:
    """1 to 8; 1 where nothing is said, or EXIF data are damaged."""
    tags = Image.Exif()
    try:
        tags.load(exif)
        value = tags.get(EXIF_ORIENTATION, 1)
    except Exception:  # Pillow raises half a dozen types
        return 1
    return value if value in range(1, 9) else 1


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    while at + 8 <= len(data):
        name, length = struct.unpack("<4sI", data[at : at + 8])
        content = data[at + 8 : at + 8 + length]
        if len(content) < length:
            raise ValueError("cut off")
        yield name, content
        at += 8 + length + length % 2
