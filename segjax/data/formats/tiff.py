"""TIFF, with what its tags say: https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf."""

import io
import math
import re
import struct

import numpy as np
from tifffile import TiffFile, TiffPage
from tifffile.tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, TIFF

from segjax.data.formats.raster import MAX_BANDS, Raster, Refused, check_size, full_scale

EXACT = {
    *("NONE", "CCITTRLE", "CCITTFAX3", "CCITTFAX4", "LZW", "DEFLATE", "ADOBE_DEFLATE", "PACKBITS"),
    *("LZMA", "ZSTD", "PNG"),
}
GREY = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)
READ = (*GREY, PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE)
ORIENTATION = 274
GDAL_NODATA = 42113


def read_tiff(data: bytes) -> Raster:
    """One page of any bands, of any integer or floating-point type, or several of one band each."""
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
        if (count := _images_behind(page)) > max(1, len(own)):
            raise Refused(f"of {count} pages without headers of their own; save each as a file")
        compression = _name(COMPRESSION, page.compression)
        if len(own) > 1:
            _require_alike(own)
        for each in own:
            _judge(each, compression)
        pixels = np.concatenate([_pixels(each) for each in own], axis=2)
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
        nodata=_nodata(page),
        pages=len(own),
    )


def _pixels(page: TiffPage) -> np.ndarray:
    """[H, W, bands], of what is stored as [planes, H, W, bands] where planes or bands is 1."""
    pixels = page.asarray(maxworkers=1).reshape(np.delete(page.shaped, 1))
    return np.moveaxis(pixels, 0, 2).reshape(*pixels.shape[1:3], -1)


def _require_alike(pages: list[TiffPage]) -> None:
    """Raises Refused for pages that cannot be the bands of one image."""
    kinds = {(page.shape, page.dtype, page.photometric, page.compression) for page in pages}
    if len(kinds) > 1 or pages[0].samplesperpixel > 1 or pages[0].photometric not in GREY:
        raise Refused(f"of {len(pages)} pages that differ, or have several bands; save each as a "
                      "file")  # fmt: skip
    if len(pages) > MAX_BANDS:
        raise Refused(f"of {len(pages)} pages; at most {MAX_BANDS} are read")


def _nodata(page: TiffPage) -> float | None:
    """What GDAL wrote as the value of pixels without data."""
    try:
        return float(page.tags.valueof(GDAL_NODATA, "none").strip("\0 "))
    except ValueError:
        return None


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
    if not 1 <= bands <= MAX_BANDS or (page.photometric == PHOTOMETRIC.PALETTE and bands > 1):
        raise Refused(f"of {page.samplesperpixel} bands ({_name(PHOTOMETRIC, page.photometric)}); "
                      "save those that are meant")  # fmt: skip


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
