"""Image and mask files, as bytes, to arrays."""

import io

import cv2
import numpy as np
from PIL import Image

from segjax.data.datasets import LabelTable
from segjax.errors import DataError

INDEX_MODES = {"1", "L", "LA", "P", "PA", "I", "I;16", "I;16B"}
LOSSY_FORMATS = {"JPEG", "MPO", "JPEG2000"}
ANIMATED_FORMATS = {"GIF", "PNG", "WEBP"}
EXIF_ORIENTATION = 0x0112
# Satellite tiles are larger than what Pillow takes for an attack.
Image.MAX_IMAGE_PIXELS = None

Example = dict[str, np.ndarray]  # image: uint8 [H, W, 3] RGB; label: uint8 [H, W], see LabelTable


def decode_image(data: bytes, where: str) -> np.ndarray:
    """Any image file as RGB, uint8 [H, W, 3]; DataError, beginning with `where`, if unreadable.

    EXIF rotation is applied, alpha dropped, and 16 bits become 8 by division by 257.
    """
    try:
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        raise DataError(
            f"{where}: unreadable as an image ({len(data)} bytes); restore or remove it"
        )
    if _num_frames(data) > 1:
        raise DataError(f"{where}: an animation of {_num_frames(data)} frames; save one as a file")
    if image.dtype == np.uint16:
        image = np.rint(image / 257).astype(np.uint8)
    if image.dtype != np.uint8:
        raise DataError(f"{where}: an image of {image.dtype}; save it with 8 or 16 bits a channel")
    return image


def _num_frames(data: bytes) -> int:
    try:
        image = Image.open(io.BytesIO(data))
        return getattr(image, "n_frames", 1) if image.format in ANIMATED_FORMATS else 1
    except Exception:  # what only OpenCV reads
        return 1


def turns_unseen(data: bytes) -> bool:
    """Whether EXIF turns or mirrors an image without changing its size, as no mask could tell."""
    try:
        image = Image.open(io.BytesIO(data))
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF data: OpenCV ignores them, and so do we
        return False
    return orientation in (2, 3, 4) or (orientation > 4 and image.width == image.height)


def decode_mask(data: bytes, where: str, as_colors: bool) -> np.ndarray:
    """A mask file as it is: integers [H, W], or RGB uint8 [H, W, 3]; no EXIF, no scaling.

    A palette gives its indices, or its colours with `as_colors`. DataError for what may have
    changed the labels: JPEG, several frames, floats, an unreadable file.
    """
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except Exception as error:  # PIL raises half a dozen types for damaged files
        raise DataError(
            f"{where}: unreadable as a mask ({len(data)} bytes): {error}; restore or remove it"
        ) from error
    if image.format in LOSSY_FORMATS:
        raise DataError(f"{where}: a JPEG mask; its compression invents labels, export PNG instead")
    if getattr(image, "n_frames", 1) > 1:
        raise DataError(f"{where}: a mask of {image.n_frames} frames; save each as a file")
    if image.mode in ("RGB", "RGBA") or (as_colors and image.mode in ("P", "PA")):
        return np.asarray(image.convert("RGBA"))[..., :3]
    if image.mode not in INDEX_MODES:
        raise DataError(f"{where}: a mask of PIL mode {image.mode}; save integers or RGB as PNG")
    if as_colors and image.mode == "1":
        image = image.convert("L")  # black and white, not 0 and 1
    pixels = np.asarray(image)
    pixels = pixels[..., 0] if pixels.ndim == 3 else pixels  # without alpha
    return pixels.astype(np.uint8) if pixels.dtype == bool else pixels


def decode_example(
    image: bytes | np.ndarray,
    mask: bytes | np.ndarray,
    table: LabelTable,
    image_name: str,
    mask_name: str,
) -> Example:
    """Contents of an image and a mask file, or arrays, as an example; DataError names the file."""
    pixels = decode_image(image, image_name) if isinstance(image, bytes) else image
    raw = decode_mask(mask, mask_name, bool(table.colors)) if isinstance(mask, bytes) else mask
    if pixels.shape[2:] != (3,) or pixels.dtype != np.uint8:
        raise DataError(
            f"{image_name}: image is {pixels.dtype} {pixels.shape}, not uint8 [H, W, 3]"
        )
    label = table.encode(raw[..., 0] if raw.shape[2:] == (1,) else raw, mask_name)
    if pixels.shape[:2] != label.shape:
        (height, width), (mask_height, mask_width) = pixels.shape[:2], label.shape
        remedy = "export the mask at the size of the image"
        if (height, width) == (mask_width, mask_height):
            remedy = "an EXIF tag may turn the image only: rotate the mask, or remove the tag"
        raise DataError(
            f"{mask_name}: the mask is {mask_height}×{mask_width} (height×width), its image "
            f"{image_name} is {height}×{width}; {remedy}"
        )
    return {"image": pixels, "label": label}
