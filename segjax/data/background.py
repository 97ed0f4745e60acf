"""Images without a mask, in which there is nothing but the background: config.data.missing_mask."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segjax.data import decode
from segjax.data.decode import Decoded
from segjax.data.label_table import VOID, LabelTable
from segjax.data.pixels import Pixels, to_image
from segjax.errors import ConfigError

MISSING_MASK = ("raise", "background")


def require_background(table: LabelTable, unmasked: Sequence[Path]) -> None:
    """Raises ConfigError where images have no mask and the table no background."""
    if unmasked and table.background is None:
        raise ConfigError(
            f"config.data.missing_mask is 'background', and no class is called so, but "
            f"{', '.join(table.names[:5])}; {len(unmasked)} images have no mask, such as "
            f"{unmasked[0]}: call a class of the label table background, or add masks"
        )


def decode_unmasked(data: bytes, table: LabelTable, where: str, pixels: Pixels) -> Decoded:
    """An image as an example whose label is background, and void where the image has no data."""
    picture = decode.read(data, where)
    image, missing = to_image(picture, where, pixels)
    label = np.full(image.shape[:2], table.background, np.uint8)
    if missing is not None:
        label[missing] = VOID
    return Decoded({"image": image, "label": label}, picture, picture, missing)
