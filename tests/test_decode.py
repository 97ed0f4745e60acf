"""Images are what their files hold: every band, bit and page, or a refusal that names them."""

import io
from concurrent.futures import ThreadPoolExecutor

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from test_masks import at_byte, by_cv2, by_pil, by_pypng, by_tifffile, palette

from segjax.data import decode
from segjax.data.decode import decode_example, decode_image
from segjax.data.label_table import LabelTable
from segjax.errors import DataError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (7, 9, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (7, 9, 3)).astype(np.uint16)
GREY, GREY16, ALPHA = RGB[..., 0], DEEP[..., 0], RGB[..., :1] // 2
BY_257 = np.rint(DEEP / 257).astype(np.uint8)  # what 16 bits become
THREE, INVERTED = dict(planarconfig="contig", photometric="minisblack"), "miniswhite"


def grey(array):
    return np.repeat(array[..., None], 3, axis=2)


def rgba(extrasample, alpha=ALPHA):
    options = dict(photometric="rgb", extrasamples=[extrasample])
    return by_tifffile(np.dstack([RGB, alpha]), **options)


def untagged():
    """Four bands and not a word about the last."""
    data = rgba("unassalpha")
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return at_byte(file.pages.first.tags["ExtraSamples"].offset, b"\x53\x01", data)


def imagej(count):
    """Several images behind one page."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.stack([GREY] * count), imagej=True, metadata={"axes": "ZYX"})
    return buffer.getvalue()


def with_overview(*, thumbnail_first=False):
    """A GeoTIFF: the image, a smaller copy, and a mask of opacity."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        if thumbnail_first:
            file.write(RGB[::3, ::3], photometric="rgb", subfiletype=1)
        file.write(RGB, photometric="rgb")
        file.write(RGB[::2, ::2], photometric="rgb", subfiletype=1)
        file.write(GREY > 9, photometric="mask", subfiletype=4)
    return buffer.getvalue()


def packed(bits):
    """A TIFF of 8 bits as one of fewer, by its bytes; `GREY` loses its low bits."""
    values = GREY[:, :8] >> 8 - bits
    rows = np.packbits(np.unpackbits(values[..., None], axis=2)[..., -bits:].reshape(7, -1), axis=1)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, rows, photometric="minisblack", metadata=None)
    buffer.seek(0)
    with tifffile.TiffFile(buffer) as file:
        tags = {name: file.pages.first.tags[name].valueoffset for name in
                ("ImageWidth", "BitsPerSample")}  # fmt: skip
    data = at_byte(tags["ImageWidth"], b"\x08", buffer.getvalue())
    return at_byte(tags["BitsPerSample"], bytes([bits]), data), values


EXACT = {
    "TIFF": (by_tifffile(RGB, photometric="rgb"), RGB),
    "TIFF 16": (by_tifffile(DEEP, photometric="rgb"), BY_257),
    "TIFF 16 big-endian": (by_tifffile(DEEP, photometric="rgb", byteorder=">"), BY_257),
    "TIFF 16 LZW, OpenCV": (by_cv2(DEEP[..., ::-1], ".tiff"), BY_257),
    "TIFF 16 tiles": (
        by_tifffile(DEEP, photometric="rgb", tile=(16, 16), compression="zstd", predictor=2),
        BY_257,
    ),
    "TIFF planar": (
        by_tifffile(np.moveaxis(DEEP, -1, 0), photometric="rgb", planarconfig="separate"),
        BY_257,
    ),
    "TIFF of three grey bands": (by_tifffile(RGB, **THREE), RGB),
    "TIFF alpha": (rgba("unassalpha"), RGB),
    "TIFF alpha, Pillow": (by_pil(np.dstack([RGB, ALPHA]), "TIFF"), RGB),
    "TIFF opaque": (rgba("assocalpha", np.full_like(ALPHA, 255)), RGB),
    "TIFF grey 16": (by_tifffile(GREY16), grey(BY_257[..., 0])),
    "TIFF inverted": (by_tifffile(GREY, photometric=INVERTED), grey(255 - GREY)),
    "TIFF inverted 16": (by_tifffile(GREY16, photometric=INVERTED), grey(255 - BY_257[..., 0])),
    "TIFF 1": (by_pil(GREY > 99, "TIFF"), grey((GREY > 99) * np.uint8(255))),
    "TIFF palette": (by_pil(palette(GREY), "TIFF"), np.asarray(palette(GREY).convert("RGB"))),
    "BigTIFF": (by_tifffile(RGB, photometric="rgb", bigtiff=True), RGB),
    "GeoTIFF": (with_overview(), RGB),
    "TIFF, thumbnail first": (with_overview(thumbnail_first=True), RGB),
    "ImageJ": (imagej(1), grey(GREY)),
    "PNG 16": (by_cv2(DEEP[..., ::-1], ".png"), BY_257),
    "PNG 16 alpha": (imagecodecs.png_encode(np.dstack([DEEP, GREY16])), BY_257),
    "PNG 16 grey, alpha": (
        imagecodecs.png_encode(np.dstack([GREY16, 65535 - GREY16])),
        grey(BY_257[..., 0]),
    ),
    "PNG 4": (by_pypng(GREY >> 4, bitdepth=4, greyscale=True), grey((GREY >> 4) * 17)),
    "PNG gAMA": (by_pypng(RGB, greyscale=False, gamma=0.4), RGB),
    "PNG palette, tRNS": (
        by_pil(palette(GREY), "PNG", transparency=3),
        np.asarray(palette(GREY).convert("RGB")),
    ),
    "BMP": (by_pil(RGB, "BMP"), RGB),
    "WebP": (imagecodecs.webp_encode(RGB, lossless=True), RGB),
    "GIF": (by_pil(palette(GREY), "GIF"), np.asarray(palette(GREY).convert("RGB"))),
    "PPM 16": (by_cv2(DEEP[..., ::-1], ".ppm"), BY_257),
    "PGM of 4095": (
        b"P5 9 7 4095\n" + (GREY16 >> 4).astype(">u2").tobytes(),
        grey(np.rint((GREY16 >> 4) / 4095 * 255).astype(np.uint8)),
    ),
    "PBM": (by_cv2((GREY > 99).astype(np.uint8), ".pbm"), grey((GREY > 99) * np.uint8(255))),
    "JPEG 2000 16": (imagecodecs.jpeg2k_encode(DEEP, level=0, reversible=True), BY_257),
    "JPEG 2000, Pillow": (by_pil(RGB, "JPEG2000", irreversible=False), RGB),
}


@pytest.mark.parametrize("name", EXACT)
def test_pixels_are_those_that_were_written(name):
    data, pixels = EXACT[name]
    for _ in range(2):
        np.testing.assert_array_equal(decode_image(data, "a"), pixels)
    assert decode_image(data, "a").flags.c_contiguous and decode_image(data, "a").dtype == np.uint8


@pytest.mark.parametrize("bits", [2, 4])
def test_a_tiff_of_few_bits(bits):
    data, values = packed(bits)
    np.testing.assert_array_equal(decode_image(data, "a"), grey(values * (255 // (2**bits - 1))))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6])
def test_photographs_are_what_opencv_makes_of_them(mode, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = by_pil(Image.fromarray(RGB).convert(mode), "JPEG", exif=exif)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(decode_image(data, "a"), expected)


def test_a_tiff_of_jpeg_in_its_own_colours():
    smooth = cv2.resize(RGB, (64, 48))
    data = by_pil(smooth, "TIFF", compression="jpeg", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert abs(decode_image(data, "a") - expected).max() <= 2


PAGES = by_tifffile(np.stack([GREY] * 4), photometric="minisblack")
REFUSED = {
    "thumbnail": (by_tifffile(GREY, subfiletype=1), "TIFF of thumbnails and masks only"),
    "pages": (
        PAGES,
        "TIFF, 4 pages of 8 bits; save each as a file, or set config.data.pages=channels",
    ),
    "ImageJ": (imagej(3), "TIFF.* 3 pages"),
    "truncated": (
        by_tifffile(np.stack([GREY] * 3), photometric="minisblack", truncate=True),
        "TIFF of 3 pages",
    ),
    "compression": (
        by_tifffile(GREY, compression="jpegxl").replace(
            b"\x03\x01\x03\0\1\0\0\0\x52\xc3", b"\x03\x01\x03\0\1\0\0\0\x09\0"
        ),
        "TIFF with compression JBIG_BW; save",
    ),
    "JPEG of 12 bits": (
        imagecodecs.jpeg8_encode(GREY16 >> 4, bitspersample=12),
        "JPEG whose samples have not 8 bits",
    ),
    "untagged": (untagged(), r"an image of 4 bands; set config.data.bands=stored"),
    "unspecified": (rgba("unspecified"), r"an image of 4 bands; set config.data.bands=stored"),
    "multiplied": (rgba("assocalpha"), "multiplied by alpha .ASSOCALPHA"),
    "bands": (by_tifffile(np.dstack([RGB, RGB]), **THREE), "an image of 6 bands"),
    "two": (by_tifffile(RGB[..., :2], **THREE), "an image of 2 bands"),
    "CMYK": (by_tifffile(np.dstack([RGB, GREY]), photometric="separated"), "colour type SEPARATED"),
    "complex": (by_tifffile(RGB[..., 0] * 1j), "samples of 128 bits"),
    "float": (by_tifffile(GREY / 4), r"float 64 bits, with values from [\d.]+ to [\d.]+; set conf"),
    "signed": (by_tifffile(GREY.astype(np.int16) - 99), "signed 16 bits, with values from -"),
    "32": (
        by_tifffile(GREY.astype(np.uint32)),
        "32 bits, with values from .* config.data.value_range",
    ),
    "animation": (
        by_pil(RGB, "WEBP", save_all=True, append_images=[Image.fromarray(255 - RGB)]),
        "WebP with an animation",
    ),
    "APNG": (
        by_pil(RGB, "PNG", save_all=True, append_images=[Image.fromarray(255 - RGB)]),
        "PNG of 2 frames",
    ),
    "JPEG 2000 alpha": (by_pil(np.dstack([RGB, ALPHA]), "JPEG2000"), "JPEG 2000 of 4 bands"),
    "large": (
        at_byte(16, b"\0\1\0\0\0\1\0\0", by_pil(RGB, "PNG")),
        r"PNG of 65536×65536 pixels, and at most 2\^30 are read; cut it",
    ),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    "unknown": (b"Dear sir", "no image, it begins with b'Dear sir' .8 bytes.; what is read is PNG"),
    "empty": (b"", r"an empty file \(0 bytes\); restore or remove it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_one_meaning_is_refused_by_name(name):
    data, message = REFUSED[name]
    with pytest.raises(DataError, match=rf"^i/a\.png: .*{message}"):
        decode_image(data, "i/a.png")


COMPRESSED = dict(photometric="rgb", compression="deflate", rowsperstrip=1)
WHOLE = {
    "PNG": by_pil(RGB, "PNG"),
    "JPEG": by_pil(RGB, "JPEG"),
    "GIF": by_pil(palette(GREY), "GIF"),
    "WebP": by_pil(RGB, "WEBP"),
    "BMP": by_pil(RGB, "BMP"),
    "JPEG 2000": by_pil(RGB, "JPEG2000"),
    "PBM, PGM or PPM": by_cv2(RGB, ".ppm"),
    "TIFF": by_pil(RGB, "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_that_was_cut_off_is_damaged(name, capfd):
    data = WHOLE[name]
    for length in (len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(DataError, match=rf"^a: damaged {name} \({length} bytes\): [^<]*; rest"):
            decode_image(data[:length], "a")


def test_a_tiff_with_strips_that_are_missing_is_damaged():
    data = by_tifffile(RGB, **COMPRESSED)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        height = file.pages.first.tags["ImageLength"].valueoffset
        counts = file.pages.first.tags["StripByteCounts"].valueoffset
    with pytest.raises(DataError, match=r"damaged TIFF .*: 7 of 9 strips or tiles"):
        decode_image(at_byte(height, b"\x09", data), "a")
    with pytest.raises(DataError, match="TIFF with parts that were never written"):
        decode_image(at_byte(counts, bytes(4), data), "a")


@pytest.mark.parametrize(
    ("array", "value_range", "expected"),
    [
        (np.array([[0, 2047, 4095, 5000]], np.uint16), (0, 4095), [0, 127, 255, 255]),
        (np.array([[0, 255, 65535]], np.uint16), (0, 65535), [0, 1, 255]),
        (np.array([[0, 10, 20, 99]], np.uint8), (10, 20), [0, 0, 255, 255]),
        (np.array([[-2.0, -1, 0, 3, 9]], np.float32), (-1, 3), [0, 0, 64, 255, 255]),
        (np.array([[-500, 0, 499, 2**20]], np.int32), (-500, 500), [0, 128, 255, 255]),
    ],
)
def test_a_range_of_values_becomes_0_to_255(array, value_range, expected):
    data = by_tifffile(array)
    assert decode_image(data, "a", value_range)[0, :, 1].tolist() == expected


def test_a_range_of_values_and_white_at_0():
    data = by_tifffile(np.array([[0, 4095]], np.uint16), photometric=INVERTED)
    assert decode_image(data, "a", (0, 4095))[0, :, 0].tolist() == [255, 0]


def test_pillow_s_limit_is_neither_changed_nor_met(monkeypatch):
    limit = Image.MAX_IMAGE_PIXELS
    assert limit > 0
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for data in WHOLE.values():
        assert decode_image(data, "a").shape == RGB.shape
    assert Image.MAX_IMAGE_PIXELS == 10


def test_threads_decode_alike():
    names = sorted(EXACT) * 3
    with ThreadPoolExecutor(8) as pool:
        decoded = pool.map(lambda name: decode_image(EXACT[name][0], name), names)
    for name, pixels in zip(names, decoded, strict=True):
        np.testing.assert_array_equal(pixels, EXACT[name][1], err_msg=name)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
@pytest.mark.parametrize(("image", "mask", "turned"), [(3, 1, True), (3, 3, False), (1, 2, True)])
def test_a_tag_that_turns_the_image_alone_is_seen(kind, image, mask, turned):
    exifs = []
    for orientation in (image, mask):
        exifs.append(Image.Exif())
        exifs[-1][0x0112] = orientation
    files = by_pil(RGB, kind, exif=exifs[0]), by_pil(GREY & 1, "TIFF", exif=exifs[1])
    decoded = decode_example(*files, LabelTable.of_names(["a", "b"]), "i", "m")
    example, stored = decoded.example, decoded.stored()
    assert stored.turned == turned
    assert example["label"].shape == (7, 9)


def test_what_memory_does_not_hold_is_told_so(monkeypatch):
    def exhausted(data):
        raise MemoryError

    monkeypatch.setattr(decode, "_find", lambda data: ("PNG", exhausted))
    with pytest.raises(DataError, match=r"^a: PNG too large for memory; cut it into tiles"):
        decode.decode_image(b"x", "a")


@pytest.mark.parametrize("format", ["PNG", "BMP", "GIF"])
@pytest.mark.parametrize("value_range", [(), (0, 255)])
def test_a_palette_of_few_colours_keeps_them(format, value_range):
    image = Image.fromarray(np.full((2, 4), 1, np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 9, 200, 30])
    pixels = decode_image(by_pil(image, format), "a", value_range)
    np.testing.assert_array_equal(pixels, np.broadcast_to([9, 200, 30], (2, 4, 3)))


def test_a_file_of_far_smaller_values_than_the_range_is_refused():
    eight, sixteen = (np.full((2, 3), 200, dtype) for dtype in (np.uint8, np.uint16))
    with pytest.raises(
        DataError, match=r"^a: PNG, 1 band of 8 bits, .* = \(0, 4095\) is meant for"
    ):
        decode_image(by_pil(eight, "PNG"), "a", (0, 4095))
    assert decode_image(by_pil(eight, "PNG"), "a", (0, 510)).max() == 100
    assert decode_image(by_pil(sixteen, "PNG"), "a", (0, 4095)).max() == 12
