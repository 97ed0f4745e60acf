"""Ids come back as they were written, whoever wrote them, or the file is refused by name."""

import io
import struct
import zlib

import cv2
import imagecodecs
import imageio.v3 as imageio
import numpy as np
import png
import pytest
import tifffile
from PIL import Image, ImageOps

from segjax.data.decode import decode_mask
from segjax.errors import DataError

IDS = (np.arange(7 * 9).reshape(7, 9) * 37 % 251).astype(np.uint8)  # rows need padding
DEEP = IDS.astype(np.uint16) * 100 + 3
COLORS = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)


def below(bits):
    """Ids of a bit depth, all of them."""
    return IDS & (2**bits - 1)


def by_pil(image, kind, **options):
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def by_cv2(array, suffix, *options):
    ok, data = cv2.imencode(suffix, array, options)
    assert ok
    return data.tobytes()


def by_tifffile(array, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def by_imageio(array, kind, **options):
    return imageio.imwrite("<bytes>", array, extension=kind, **options)


def by_pypng(array, **options):
    buffer = io.BytesIO()
    height, width = array.shape[:2]
    png.Writer(width, height, **options).write(buffer, array.reshape(height, -1).tolist())
    return buffer.getvalue()


def palette(ids):
    image = Image.fromarray(ids).convert("P")
    image.putpalette(COLORS[: ids.max() + 1].tobytes())
    return image


def repeated(ids, *others):
    return np.dstack([ids, ids, ids, *others])


def chunk(data, name, content):
    """A PNG with one more chunk before its pixels."""
    at = data.index(b"IDAT") - 4
    body = name + content
    return (
        data[:at]
        + struct.pack(">I", len(content))
        + body
        + struct.pack(">I", zlib.crc32(body))
        + data[at:]
    )


def at_byte(at, content, data):
    return data[:at] + content + data[at + len(content) :]


ALPHA, ALPHA16 = 255 - IDS, 65535 - DEEP
GREY, COLOR = dict(greyscale=True), dict(greyscale=False)
EXACT = {
    "PNG 8, Pillow": (by_pil(IDS, "PNG"), IDS),
    "PNG 8, OpenCV": (by_cv2(IDS, ".png"), IDS),
    "PNG 8, imagecodecs": (imagecodecs.png_encode(IDS), IDS),
    "PNG 8, imageio": (by_imageio(IDS, ".png"), IDS),
    "PNG 8 interlaced": (by_pypng(IDS, interlace=True, **GREY), IDS),
    "PNG 8 tRNS": (by_pypng(IDS, transparent=(3,), **GREY), IDS),
    "PNG 8 gAMA": (by_pypng(IDS, gamma=0.45, **GREY), IDS),
    "PNG 8 sBIT": (chunk(by_pil(IDS, "PNG"), b"sBIT", b"\x05"), IDS),
    "PNG 8 LA, Pillow": (by_pil(np.dstack([IDS, ALPHA]), "PNG"), IDS),
    "PNG 8 LA, pypng": (by_pypng(np.dstack([IDS, ALPHA]), alpha=True, **GREY), IDS),
    "PNG 8 RGB, OpenCV": (by_cv2(repeated(IDS), ".png"), repeated(IDS)),
    "PNG 8 RGB tRNS": (by_pypng(repeated(IDS), transparent=(3, 3, 3), **COLOR), repeated(IDS)),
    "PNG 8 RGBA, Pillow": (by_pil(repeated(IDS, ALPHA), "PNG"), repeated(IDS)),
    "PNG 16, Pillow": (by_pil(DEEP, "PNG"), DEEP),
    "PNG 16, OpenCV": (by_cv2(DEEP, ".png"), DEEP),
    "PNG 16, imagecodecs": (imagecodecs.png_encode(DEEP), DEEP),
    "PNG 16, pypng": (by_pypng(DEEP, bitdepth=16, interlace=True, **GREY), DEEP),
    "PNG 16 tRNS": (by_pypng(DEEP, bitdepth=16, transparent=(3,), **GREY), DEEP),
    "PNG 16 of small ids": (by_cv2(IDS.astype(np.uint16), ".png"), IDS),
    "PNG 16 RGB, OpenCV": (by_cv2(repeated(DEEP), ".png"), repeated(DEEP)),
    "PNG 16 RGB, pypng": (by_pypng(repeated(DEEP), bitdepth=16, **COLOR), repeated(DEEP)),
    "PNG 16 RGB, tRNS and gAMA": (
        by_pypng(repeated(DEEP), bitdepth=16, transparent=(3, 3, 3), gamma=2.2, **COLOR),
        repeated(DEEP),
    ),
    "PNG 16 RGBA, OpenCV": (by_cv2(repeated(DEEP, ALPHA16), ".png"), repeated(DEEP)),
    "PNG 16 RGBA, imagecodecs": (imagecodecs.png_encode(repeated(DEEP, ALPHA16)), repeated(DEEP)),
    "PNG 16 LA, imagecodecs": (imagecodecs.png_encode(np.dstack([DEEP, ALPHA16])), DEEP),
    "PNG 16 LA, pypng": (
        by_pypng(np.dstack([DEEP, ALPHA16]), bitdepth=16, alpha=True, interlace=True, **GREY),
        DEEP,
    ),
    "PNG 1, Pillow": (by_pil(below(1).astype(bool), "PNG"), below(1)),
    "PNG 1, OpenCV": (by_cv2(below(1) * 255, ".png", cv2.IMWRITE_PNG_BILEVEL, 1), below(1)),
    **{
        f"PNG {bits}, pypng, {interlace}": (
            by_pypng(below(bits), bitdepth=bits, interlace=interlace, **GREY),
            below(bits),
        )
        for bits in (1, 2, 4)
        for interlace in (False, True)
    },
    **{
        f"PNG palette {bits}, {library}": (write(bits), below(bits))
        for bits in (1, 2, 4, 8)
        for library, write in {
            "Pillow": lambda bits: by_pil(palette(below(bits)), "PNG", bits=bits),
            "pypng": lambda bits: by_pypng(
                below(bits), bitdepth=bits, palette=COLORS[: 2**bits].tolist()
            ),
        }.items()
    },
    "PNG palette tRNS": (by_pil(palette(IDS), "PNG", transparency=2), IDS),
    "BMP 8, Pillow": (by_pil(IDS, "BMP"), IDS),
    "BMP 8, OpenCV": (by_cv2(IDS, ".bmp"), IDS),
    "BMP 8, imagecodecs": (imagecodecs.bmp_encode(IDS), IDS),
    "BMP 8 palette": (by_pil(palette(IDS), "BMP"), IDS),
    "BMP 8, black and white": (
        at_byte(46, b"\2", at_byte(58, b"\xff\xff\xff", by_pil(below(1), "BMP"))),
        below(1),
    ),
    "BMP 1, Pillow": (by_pil(below(1).astype(bool), "BMP"), below(1)),
    "BMP 24, OpenCV": (by_cv2(repeated(IDS), ".bmp"), repeated(IDS)),
    "BMP 32, OpenCV": (by_cv2(repeated(IDS, ALPHA), ".bmp"), repeated(IDS)),
    "BMP 32, Pillow": (by_pil(repeated(IDS, ALPHA), "BMP"), repeated(IDS)),
    "GIF grey, imagecodecs": (imagecodecs.gif_encode(IDS), IDS),
    "WebP lossless, Pillow": (by_pil(repeated(IDS), "WEBP", lossless=True), repeated(IDS)),
    "WebP lossless, imagecodecs": (
        imagecodecs.webp_encode(repeated(IDS), lossless=True),
        repeated(IDS),
    ),
    "WebP lossless RGBA": (
        by_pil(repeated(IDS, ALPHA), "WEBP", lossless=True, exact=True),
        repeated(IDS),
    ),
    "WebP lossless in VP8X": (
        by_pil(repeated(IDS), "WEBP", lossless=True, icc_profile=b"profile"),
        repeated(IDS),
    ),
    "PGM, OpenCV": (by_cv2(IDS, ".pgm"), IDS),
    "PGM, Pillow": (by_pil(IDS, "PPM"), IDS),
    "PGM 16": (by_cv2(DEEP, ".pgm"), DEEP),
    "PGM of 3": (b"P5 # of a program\n9 7\n3\n" + below(2).tobytes(), below(2)),
    "PGM as text": (
        b"P2\n9 7\n# of a program\n15\n" + b" ".join(b"%d" % x for x in below(4).flat),
        below(4),
    ),
    "PGM as text, OpenCV": (by_cv2(IDS, ".pgm", cv2.IMWRITE_PXM_BINARY, 0), IDS),
    "PBM, OpenCV": (by_cv2(below(1), ".pbm"), below(1)),
    "PBM, Pillow": (by_pil(below(1).astype(bool), "PPM"), below(1)),
    "PBM as text": (b"P1 9 7 " + bytes(48 + 1 - x for x in below(1).flat), below(1)),
    "PPM, Pillow": (by_pil(repeated(IDS), "PPM"), repeated(IDS)),
    **{
        f"TIFF {np.dtype(dtype)}, tifffile": (by_tifffile(DEEP.astype(dtype)), DEEP.astype(dtype))
        for dtype in (np.uint8, np.int8, ">u2", np.int16, np.uint32, np.int32, np.uint64, np.int64)
    },
    "TIFF 8, Pillow": (by_pil(IDS, "TIFF"), IDS),
    "TIFF 8, OpenCV": (by_cv2(IDS, ".tiff"), IDS),
    "TIFF 16, Pillow": (by_pil(DEEP, "TIFF"), DEEP),
    "TIFF 16, OpenCV": (by_cv2(DEEP, ".tiff"), DEEP),
    "TIFF 32, Pillow": (by_pil(DEEP.astype(np.int32), "TIFF"), DEEP),
    "TIFF 1, Pillow": (by_pil(below(1).astype(bool), "TIFF"), below(1)),
    "TIFF 1, fax": (by_pil(below(1).astype(bool), "TIFF", compression="group4"), below(1)),
    "TIFF 1, tifffile": (by_tifffile(below(1) > 0, photometric="minisblack"), below(1)),
    "TIFF palette, Pillow": (by_pil(palette(IDS), "TIFF"), IDS),
    "TIFF palette, tifffile": (
        by_tifffile(IDS, photometric="palette", colormap=COLORS.T.astype(np.uint16) * 257),
        IDS,
    ),
    "TIFF RGB": (by_tifffile(repeated(DEEP), photometric="rgb"), repeated(DEEP)),
    "TIFF planar": (
        by_tifffile(np.stack([IDS] * 3), photometric="rgb", planarconfig="separate"),
        repeated(IDS),
    ),
    "TIFF grey and alpha": (
        by_tifffile(
            np.dstack([DEEP, ALPHA16]),
            photometric="minisblack",
            planarconfig="contig",
            extrasamples=["unassalpha"],
        ),
        DEEP,
    ),
    "TIFF tiles": (by_tifffile(DEEP, tile=(16, 16), compression="deflate", predictor=True), DEEP),
    "BigTIFF": (by_tifffile(DEEP, bigtiff=True), DEEP),
    **{
        f"TIFF {compression}, {library}": (write(compression), IDS)
        for library, compressions, write in (
            ("tifffile", ("lzw", "deflate", "packbits", "zstd", "lzma", "png"),
             lambda compression: by_tifffile(IDS, compression=compression, rowsperstrip=2)),
            ("Pillow", ("tiff_lzw", "tiff_adobe_deflate", "packbits"),
             lambda compression: by_pil(IDS, "TIFF", compression=compression)),
        )
        for compression in compressions
    },
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_ids_are_those_that_were_written(name):
    data, ids = EXACT[name]
    np.testing.assert_array_equal(decode_mask(data, "a", as_colors=False), ids)
    assert decode_mask(data, "a", as_colors=False).dtype.kind in "ui"


def test_a_pgm_header_may_end_in_the_line_end_of_windows():
    for ids in (IDS, np.full((2, 2), 10, np.uint8)):
        header = b"P5\r\n%d %d\r\n255\r\n" % ids.shape[::-1]
        np.testing.assert_array_equal(decode_mask(header + ids.tobytes(), "a", False), ids)


def test_a_bitmap_of_4_bits():
    """Which no library here writes: the file of 8 bits, packed."""
    ids = below(4)[:, :8]
    data = by_pil(palette(ids), "BMP")
    pixels = np.frombuffer(data[-7 * 8 :], np.uint8).reshape(7, 8)
    packed = (pixels[:, ::2] << 4 | pixels[:, 1::2]).tobytes()
    data = data[:28] + struct.pack("<H", 4) + data[30 : -7 * 8] + packed
    np.testing.assert_array_equal(decode_mask(data, "a", as_colors=False), ids)
    np.testing.assert_array_equal(decode_mask(data, "a", as_colors=True), COLORS[ids])
    seen_by_pillow = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(seen_by_pillow, COLORS[ids])


REFUSED = {
    "JPEG, Pillow": (by_pil(IDS, "JPEG", quality=100), "a mask with JPEG compression, .*PNG"),
    "JPEG, OpenCV": (by_cv2(IDS, ".jpg"), "a mask with JPEG compression"),
    "WebP, Pillow": (by_pil(IDS, "WEBP", quality=100), "lossy WebP compression"),
    "WebP, imagecodecs": (
        imagecodecs.webp_encode(COLORS[IDS], lossless=False),
        "lossy WebP compression",
    ),
    "WebP RGBA": (by_pil(repeated(IDS, ALPHA), "WEBP"), "lossy WebP compression"),
    "WebP with alpha 0": (
        by_pil(repeated(IDS, ALPHA & 1), "WEBP", lossless=True),
        "a mask with transparent pixels, whose values WebP encoders clear",
    ),
    "PNG with much text": (
        chunk(by_pil(IDS, "PNG"), b"zTXt", b"x\0\0" + zlib.compress(bytes(2**21))),
        r"PNG with more than 1 MB of compressed text; save it without metadata",
    ),
    "PGM, negative": (b"P2 2 1 255 -1 3", "values below 0"),
    "WebP in VP8X": (by_pil(IDS, "WEBP", icc_profile=b"x"), "lossy WebP compression"),
    "JPEG 2000": (by_pil(IDS, "JPEG2000", irreversible=True), "JPEG 2000 compression"),
    # Reversible wavelets, of which layers are left out.
    "JPEG 2000 layers": (by_pil(IDS, "JPEG2000", quality_layers=[9]), "JPEG 2000 compression"),
    "AVIF": (by_pil(repeated(IDS), "AVIF"), r"a file of type AVIF \(\d+ bytes\); what is read is"),
    "TIFF of JPEG": (by_tifffile(IDS, compression="jpeg"), "JPEG compression"),
    "TIFF of JPEG, Pillow": (by_pil(IDS, "TIFF", compression="jpeg"), "JPEG compression"),
    "TIFF of WebP": (by_tifffile(repeated(IDS), compression="webp"), "WEBP compression"),
    "TIFF of JPEG 2000": (by_tifffile(IDS, compression="jpeg2000"), "JPEG2000 compression"),
    "TIFF of JPEG XL": (by_tifffile(IDS, compression="jpegxl"), "JPEGXL compression"),
    "TIFF inverted": (by_tifffile(IDS, photometric="miniswhite"), "0 is white .MINISWHITE"),
    "TIFF inverted by default": (by_tifffile(below(1) > 0), "0 is white .MINISWHITE"),
    "TIFF of floats": (by_tifffile(IDS.astype(np.float32)), "a mask of float32; save integers"),
    "TIFF of pages": (
        by_tifffile(np.stack([IDS] * 3), photometric="minisblack"),
        "a mask of 3 bands",
    ),
    "16-bit colours": (by_cv2(np.dstack([DEEP, DEEP, DEEP + 1]), ".png"), "3 bands of 16 bits"),
    "GIF with a palette": (by_pil(palette(IDS), "GIF"), "a GIF mask with a palette, .* renumber"),
    "GIF of ids in grey": (by_pil(IDS & 5, "GIF"), "a GIF mask with a palette"),
    "GIF, smaller frame": (
        at_byte(6, b"\x0a", imagecodecs.gif_encode(IDS)),
        "GIF whose frame does not fill",
    ),
    "PBM, several": (2 * by_cv2(below(1), ".pbm"), "with more behind its first image"),
    "BMP, RLE": (at_byte(30, b"\1", by_pil(IDS, "BMP")), "BMP with compression RLE8; save it"),
    "BMP of 16 bits": (at_byte(28, b"\x10", by_pil(IDS, "BMP")), "BMP of 16 bits a pixel"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_have_changed_ids_is_refused_by_name(name):
    data, message = REFUSED[name]
    with pytest.raises(DataError, match=rf"^m/a\.png: .*{message}"):
        decode_mask(data, "m/a.png", as_colors=False)


@pytest.mark.parametrize(
    "data",
    [
        by_pil(palette(IDS), "PNG"),
        by_pil(palette(IDS), "BMP"),
        by_pil(palette(IDS), "GIF"),
        by_pil(palette(IDS), "TIFF"),
        by_pil(COLORS[IDS], "PNG"),
        by_pil(COLORS[IDS], "WEBP", lossless=True),
        by_cv2(COLORS[IDS][..., ::-1], ".ppm"),
    ],
    ids=["PNG palette", "BMP palette", "GIF palette", "TIFF palette", "PNG", "WebP", "PPM"],
)
def test_colours_are_those_of_the_palette(data):
    np.testing.assert_array_equal(decode_mask(data, "a", as_colors=True), COLORS[IDS])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_greys_of_few_bits_are_ids_or_shades_from_black_to_white(bits):
    data = by_pypng(below(bits), bitdepth=bits, **GREY)
    shades = below(bits) * (255 // (2**bits - 1))
    np.testing.assert_array_equal(decode_mask(data, "a", as_colors=True), shades)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_turn_as_their_images_do(orientation):
    for kind in ("PNG", "TIFF"):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = by_pil(IDS, kind, exif=exif)
        turned = ImageOps.exif_transpose(Image.open(io.BytesIO(by_pil(IDS, "PNG", exif=exif))))
        np.testing.assert_array_equal(decode_mask(data, "a", False), turned)
