"""Image and mask files, as bytes, to what a network is trained on."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from segjax.data.formats import arrays, dicom, plain, raster, readers, tiff
from segjax.data.formats.raster import Raster, Refused
from segjax.data.label_table import VOID, LabelTable
from segjax.data.pixels import RGB, Pixels, lacking, to_image, turn
from segjax.errors import ConfigError, DataError

SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".jp2", ".j2k", ".j2c", ".jpf", ".pbm", ".pgm", ".ppm", ".pnm", ".npy", ".npz", ".dcm"),
}
# A file's first bytes say what it is: where they stand, what they are, name, reader.
SIGNATURES = (
    (0, (b"\x89PNG\r\n\x1a\n",), "PNG", readers.read_png),
    (0, (b"\xff\xd8\xff",), "JPEG", readers.read_jpeg),
    (0, (b"GIF87a", b"GIF89a"), "GIF", readers.read_gif),
    (8, (b"WEBP",), "WebP", readers.read_webp),
    (4, (b"jP  \r\n\x87\n",), "JPEG 2000", readers.read_jpeg2000),
    (0, (readers.JP2_START,), "JPEG 2000", readers.read_jpeg2000),
    (0, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF", tiff.read_tiff),
    (0, (b"BM",), "BMP", plain.read_bmp),
    (0, tuple(b"P%d" % kind for kind in range(1, 7)), "PBM, PGM or PPM", plain.read_netpbm),
    (0, (b"\x93NUMPY",), "NumPy array", arrays.read_npy),
    (0, (b"PK\x03\x04",), "NumPy archive", arrays.read_npz),
    (128, (b"DICM",), "DICOM", dicom.read_dicom),
    (4, (b"ftypavif", b"ftypavis"), "AVIF", None),
    (4, (b"ftyp",), "HEIF", None),
    (0, (b"\xff\x0a", b"\0\0\0\x0cJXL "), "JPEG XL", None),
    (0, (b"v/1\x01",), "OpenEXR", None),
    (0, (b"version https://git-lfs",), "Git LFS pointer (git lfs pull)", None),
)
READ = ", ".join(dict.fromkeys(name for _, _, name, reader in SIGNATURES if reader))

Example = dict[str, np.ndarray]  # image: [H, W, C], see Pixels; label: uint8 [H, W], see LabelTable


class Stored(NamedTuple):
    """What the file of an example's image holds.

    kind: see `Raster.kind`. low, high: of its samples. largest: what means full brightness.
    turned: a tag turns or mirrors it, none its mask, and the sizes cannot tell.
    """

    kind: str
    low: float
    high: float
    largest: int | None
    turned: bool


def stored_in(image: Raster, turned: bool = False) -> Stored:
    """What a file holds; for `turned` see `Stored`."""
    samples, gaps = image.samples, lacking(image)
    if gaps is not None:
        samples = samples[~gaps] if not gaps.all() else np.zeros(1, samples.dtype)
    low, high = samples.min().item(), samples.max().item()
    return Stored(image.kind, low, high, image.white, turned)


def read(data: bytes | np.ndarray, where: str) -> Raster:
    """A file, or an array, as it is; DataError, beginning with `where`, if it cannot be read."""
    name, reader = ("array", raster.of_array) if isinstance(data, np.ndarray) else _find(data)
    if reader is None:
        remedy = f"what is read is {READ}" if data else "restore or remove it"
        raise DataError(f"{where}: {name} ({len(data)} bytes); {remedy}")
    try:
        return reader(data)
    except Refused as refusal:
        raise DataError(f"{where}: {name} {refusal}") from refusal
    except ConfigError:  # a library is not installed
        raise
    except MemoryError as error:
        raise DataError(f"{where}: {name} too large for memory; cut it into tiles") from error
    except Exception as error:  # the libraries raise a dozen types over damaged files
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(
            f"{where}: damaged {name} ({len(data)} bytes): {reason}; restore or remove it"
        ) from error


def _find(data: bytes) -> tuple[str, Callable[[bytes], Raster] | None]:
    if not data:
        return "an empty file", None
    for at, beginnings, name, reader in SIGNATURES:
        if data.startswith(beginnings, at):
            return name if reader else f"a file of type {name}", reader
    return f"no image, it begins with {data[:8]!r}", None


def decode_image(data: bytes, where: str, value_range: tuple[float, ...] = ()) -> np.ndarray:
    """Any image file as RGB, uint8 [H, W, 3], turned as it says, without alpha.

    value_range: (low, high), the stored values that become 0 and 255, with clipping; () for those
      of the type. DataError, beginning with `where`, where a file cannot be read, or needs it.
    """
    return to_image(read(data, where), where, RGB._replace(value_range=tuple(value_range)))[0]


def decode_mask(data: bytes, where: str, as_colors: bool) -> np.ndarray:
    """A mask file's ids as they were written, integers [H, W], or RGB uint8 [H, W, 3].

    A palette gives its indices, or its colours with `as_colors`. Turned as the file says, without
    alpha. DataError, beginning with `where`, for what may have changed the ids.
    """
    return to_ids(read(data, where), where, as_colors)


def to_ids(mask: Raster, where: str, as_colors: bool) -> np.ndarray:
    """See `decode_mask`."""
    if mask.loss:
        raise DataError(f"{where}: a mask with {mask.loss}, which may change ids; export a PNG")
    if mask.inverted:
        raise DataError(
            f"{where}: a mask whose 0 is white (MINISWHITE), which some libraries read as 1 and "
            "others as 0; save it as MINISBLACK, or as PNG"
        )
    if mask.pixels.dtype.kind not in "ui":
        raise DataError(f"{where}: a mask of {mask.pixels.dtype}; save integers")
    ids = _colors(mask, where) if as_colors else _indices(mask, where)
    if ids.shape[-1] not in (1, 3) or mask.pages > 1:
        raise DataError(f"{where}: a mask of {ids.shape[-1]} bands; save ids in one band")
    return turn(ids[..., 0] if ids.shape[-1] == 1 else ids, mask.orientation)


def _colors(mask: Raster, where: str) -> np.ndarray:
    if mask.palette is not None or mask.largest in (None, 255, 65535):
        return mask.samples
    if 255 % mask.largest:
        raise DataError(f"{where}: a mask of {mask.kind}; save colours with 8 bits a channel")
    return (mask.opaque * (255 // mask.largest)).astype(np.uint8)


def _indices(mask: Raster, where: str) -> np.ndarray:
    ids = mask.opaque
    if mask.renumbered and (mask.samples != ids).any():
        raise DataError(
            f"{where}: a {mask.format} mask with a palette, which many programs renumber when they "
            "write it; export a PNG"
        )
    if ids.shape[-1] == 3 and ids.dtype.itemsize > 1 and (ids != ids[..., :1]).any():
        raise DataError(f"{where}: a mask of {mask.kind} that differ; save ids in one band")
    return ids


class Decoded(NamedTuple):
    """An example, the files that it was made of, and where the image has no data."""

    example: Example
    image: Raster
    mask: Raster
    missing: np.ndarray | None = None

    def stored(self) -> Stored:
        """What the image's file holds."""
        image, (height, width) = self.image, self.example["label"].shape
        swapped = (image.orientation > 4) != (self.mask.orientation > 4)
        turned = image.orientation != self.mask.orientation and (height == width or not swapped)
        return stored_in(image, turned)


def decode_example(
    image: bytes | np.ndarray,
    mask: bytes | np.ndarray,
    table: LabelTable,
    image_name: str,
    mask_name: str,
    pixels: Pixels = RGB,
) -> Decoded:
    """Contents of an image and a mask file, or arrays, as an example; DataError names the file.

    pixels: what the image is to be. Where it has no data the label is void.
    """
    picture, labels = read(image, image_name), read(mask, mask_name)
    found, missing = to_image(picture, image_name, pixels)
    label = table.encode(to_ids(labels, mask_name, bool(table.colors)), mask_name)
    if found.shape[:2] != label.shape:
        (height, width), (mask_height, mask_width) = found.shape[:2], label.shape
        remedy = "export the mask at the size of the image"
        if (height, width) == (mask_width, mask_height):
            remedy = "a tag (EXIF) may turn the image only: rotate the mask, or remove the tag"
        raise DataError(
            f"{mask_name}: the mask is {mask_height}×{mask_width} (height×width), its image "
            f"{image_name} is {height}×{width}; {remedy}"
        )
    if missing is not None:
        label = np.where(missing, np.uint8(VOID), label)
    return Decoded({"image": found, "label": label}, picture, labels, missing)
