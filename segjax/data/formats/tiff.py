"""TIFF, with what its tags say: https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf."""

import io
import math
import re
import struct

import numpy as np
from tifffile import TiffFile, TiffPage
from tifffile.tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, TIFF

from segjax.data.formats.raster import Raster, Refused, check_size, full_scale

EXACT = {
    *("NONE", "CCITTRLE", "CCITTFAX3", "CCITTFAX4", "LZW", "DEFLATE", "ADOBE_DEFLATE", "PACKBITS"),
    *("LZMA", "ZSTD", "PNG"),
}
GREY = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)
READ = (*GREY, PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE)
ORIENTATION = 274


def read_tiff(data: bytes) -> Raster:
    """One page of one or three bands, or these and alpha, of any integer or floating-point type."""
    with TiffFile(io.BytesIO(data)) as file:
        # Smaller copies and masks of opacity belong to a page and are none themselves.
        own = [page for page in file.pages if not (page.is_reduced or page.is_mask)]
        if not file.pages:
            raise ValueError("no page")
        if not own:
            raise Refused("of thumbnails and masks only; save the image itself")
        page = own[0]
        (tags,) = struct.unpack_from(file.tiff.tagnoformat, data, page.offset)
        if len(page.tags) < tags:  # tifffile goes on without those that it cannot read
            raise ValueError(f"{len(page.tags)} of {tags} tags")
        check_size(page.imagelength, page.imagewidth)
        if (count := max(len(own), _images_behind(page))) > 1:
            raise Refused(f"of {count} pages; save each as a file")
        compression = _name(COMPRESSION, page.compression)
        _judge(page, compression)
        # To [planes, H, W, bands], of which planes or bands is 1.
        pixels = page.asarray(maxworkers=1).reshape(np.delete(page.shaped, 1))
        pixels = np.moveaxis(pixels, 0, 2).reshape(*pixels.shape[1:3], -1)
        alpha = _has_alpha(page, pixels)
        orientation = page.tags.valueof(ORIENTATION, 1)
    bits = page.bitspersample
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    return Raster(
        pixels,
        "TIFF" if compression == "NONE" else f"TIFF ({compression})",
        bits,
        full_scale(pixels.dtype, bits),
        palette=_palette(page, pixels) if page.photometric == PHOTOMETRIC.PALETTE else None,
        alpha=alpha,
        inverted=page.photometric == PHOTOMETRIC.MINISWHITE,
        orientation=orientation if orientation in range(1, 9) else 1,
        loss="" if compression in EXACT else f"{compression} compression",
    )


def _images_behind(page: TiffPage) -> int:
    """How many images stand behind a single page, as ImageJ and tifffile write them.

    By the description alone: tifffile's `series` would open other files that it names.
    """
    if images := re.search(r"^images=(\d+)", page.imagej_description or "", re.MULTILINE):
        return int(images[1])
    if shape := re.search(r"shape\W+([\d, ]+)", page.shaped_description or ""):
        return math.prod(map(int, re.findall(r"\d+", shape[1]))) // max(page.size, 1)
    return 1


def _judge(page: TiffPage, compression: str) -> None:
    """Raises for what has more than one meaning, before anything is decoded."""
    is_jpeg = compression == "JPEG" and page.photometric == PHOTOMETRIC.YCBCR  # becomes RGB
    if page.photometric not in READ and not is_jpeg:
        color = _name(PHOTOMETRIC, page.photometric)
        raise Refused(f"of colour type {color}; save grey, RGB or a palette")
    if (
        not isinstance(page.bitspersample, int)
        or page.dtype is None
        or page.dtype.kind not in "buif"
    ):
        raise Refused(f"with samples of {page.bitspersample} bits and format {page.sampleformat}; "
                      "save integers or floats")  # fmt: skip
    if page.compression not in TIFF.DECOMPRESSORS:
        raise Refused(f"with compression {compression}; save it with LZW, or without")
    if page.imagedepth > 1:
        raise Refused(f"of depth {page.imagedepth}; save each plane as a file")
    # tifffile fills with zeros what is missing.
    parts, expected = len(page.dataoffsets), math.prod(page.chunked)
    if not page.is_contiguous and not parts == len(page.databytecounts) == expected:
        raise ValueError(f"{parts} of {expected} strips or tiles")
    if 0 in page.dataoffsets or 0 in page.databytecounts:
        raise Refused("with parts that were never written (sparse); save it whole")
    last = max(a + b for a, b in zip(page.dataoffsets, page.databytecounts, strict=True))
    if last > page.parent.filehandle.size:
        raise ValueError("cut off")
    bands = page.samplesperpixel - any(map(_is_alpha, page.extrasamples[-1:]))
    extra = [x.name for x in page.extrasamples] if page.photometric not in GREY else []
    if bands not in (1, 3) or "UNSPECIFIED" in extra:
        tags = f" ({_name(PHOTOMETRIC, page.photometric)}{''.join(f', {name}' for name in extra)})"
        raise Refused(
            f"of {page.samplesperpixel} bands{tags}; one and three are read, and a last one that "
            "is tagged as alpha (UNASSALPHA) is left out: save those that are meant"
        )


def _has_alpha(page: TiffPage, pixels: np.ndarray) -> bool:
    if not any(map(_is_alpha, page.extrasamples[-1:])):
        return False
    opaque = full_scale(pixels.dtype, page.bitspersample)
    if page.extrasamples[-1] == EXTRASAMPLE.ASSOCALPHA and (pixels[..., -1] != opaque).any():
        raise Refused("whose bands are multiplied by alpha (ASSOCALPHA); save them as they were")
    return True


def _is_alpha(extra: int) -> bool:
    return extra in (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA)


def _palette(page: TiffPage, pixels: np.ndarray) -> np.ndarray:
    colors = np.asarray(page.colormap).T  # uint16 [N, 3], of which some writers fill 8 bits
    if (beyond := int(pixels.max())) >= len(colors):
        raise ValueError(f"index {beyond} in a palette of {len(colors)} colours")
    return (colors if colors.max() < 256 else colors >> 8).astype(np.uint8)


def _name(names: type[COMPRESSION] | type[PHOTOMETRIC], value: int) -> str:
    try:
        return names(value).name
    except ValueError:
        return str(value)
