"""Class maps that another program made of the images, to be refined: --masks of segjax.predict."""

from pathlib import Path
from typing import NamedTuple

from segjax.data import decode, folders
from segjax.data.decode import Decoded
from segjax.data.label_table import LabelTable
from segjax.data.listing import list_images
from segjax.data.pixels import Pixels
from segjax.errors import DataError
from segjax.inference import inputs


class Masks(NamedTuple):
    """files: of a folder, by the names that they share with images; table: what they hold."""

    folder: Path
    files: dict[str, list[Path]]
    table: LabelTable

    def beside(self, path: Path, name: str, pixels: Pixels) -> Decoded:
        """An image and its mask, FOLDER/NAME.*, as in training.

        What segjax.predict wrote holds class ids, and is read as such. Raises DataError, in a line
        that names both files, where there is no such mask or it does not fit.
        """
        found = self.files.get(name, [])
        if len(found) != 1:
            fault = f"{len(found)} files; keep one" if found else "no such file"
            raise DataError(f"{path}: its mask would be {self.folder / name}.*: {fault}")
        mask = found[0]
        table = LabelTable.of_names(self.table.names) if inputs.is_result(mask) else self.table
        image = path.read_bytes()
        try:
            return decode.decode_example(
                image, mask.read_bytes(), table, str(path), str(mask), pixels
            )
        except DataError as error:
            if str(path) in str(error) and str(mask) in str(error):
                raise
            raise DataError(f"{error} (of {path} and its mask {mask})") from error


def find_masks(folder: Path, table: LabelTable) -> Masks:
    """The masks in a folder and its folders; DataError where there is none."""
    files = folders.by_name(list_images(folder), folder)
    if not files:
        raise DataError(f"--masks {folder}: no image is in it")
    return Masks(folder, files, table)
