"""Volumes of a folder as slices in segjax's layout: OUTPUT/{images,masks}/VOLUME/SLICE.

What is read: {images,imagesTr}/NAME.nii.gz with {masks,labels,labelsTr}/NAME.nii.gz. Several files
NAME_0000.nii.gz, NAME_0001.nii.gz … are channels, as nnU-Net has them; dataset.json, where there is
one, names the classes.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from segjax.data.formats import volumes
from segjax.data.formats.volumes import Volume
from segjax.data.listing import is_hidden
from segjax.errors import ConfigError, DataError
from segjax.runtime.files import read_text, write_json

IMAGES, MASKS = ("images", "imagesTr"), ("masks", "labels", "labelsTr")


def prepare(source: str, output: str, axis: int | None = None, neighbours: int = 0) -> Path:
    """Writes slices as .npy, of the volumes' type, and masks as .png; returns OUTPUT.

    Args:
      axis: see `volumes.read`; neighbours: slices on each side that become channels, too.

    Raises DataError for volumes without a mask, of another shape or affine, and for no volume.
    """
    root, out = Path(source).resolve(), Path(output).resolve()
    if neighbours < 0:
        raise ConfigError(f"--neighbours is {neighbours}; it must be at least 0")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: exists already; remove it, or name another folder as --output")
    images, masks = _channels(_folder(root, IMAGES)), _files(_folder(root, MASKS))
    alone = sorted(images.keys() ^ masks.keys())
    if alone:
        raise DataError(f"{root}: {len(alone)} volumes without a partner, such as {alone[0]}")
    values = set()
    for name, paths in tqdm(images.items(), unit="volume", disable=None):
        parts = [volumes.read(path, axis) for path in paths]
        mask = volumes.read(masks[name], parts[0].axis)
        _require_alike([*paths, masks[name]], [*parts, mask])
        values |= _write(out, name, parts, mask, 2 * neighbours + 1)
    write_json(out / "classes.json", _classes(root, sorted(values)))
    return out


def _folder(root: Path, names: Sequence[str]) -> Path:
    found = [root / name for name in names if (root / name).is_dir()]
    if len(found) != 1:
        raise DataError(f"{root}: holds {len(found)} folders of {', '.join(names)}; one is needed")
    return found[0]


def _files(folder: Path) -> dict[str, Path]:
    paths = [p for p in sorted(folder.iterdir()) if volumes.is_volume(p) and not is_hidden(p.name)]
    if not paths:
        raise DataError(f"{folder}: holds no file ending in {', '.join(volumes.SUFFIXES)}")
    return {volumes.stem(path): path for path in paths}


def _channels(folder: Path) -> dict[str, list[Path]]:
    """The files of every volume, in the order of their numbers."""
    found = defaultdict(list)
    for name, path in _files(folder).items():
        found[re.sub(r"_\d{4}$", "", name)].append(path)
    return found


def _require_alike(paths: list[Path], found: list[Volume]) -> None:
    first = found[0]
    for path, other in zip(paths[1:], found[1:], strict=True):
        if other.array.shape != first.array.shape:
            raise DataError(
                f"{path}: a volume of {[*other.array.shape]}, and {paths[0]} of "
                f"{[*first.array.shape]} (right, anterior, superior); resample one of them"
            )
        if not np.allclose(other.file.affine, first.file.affine, atol=1e-3):
            raise DataError(f"{path}: lies elsewhere than {paths[0]} (another affine); resample it")


def _write(out: Path, name: str, parts: list[Volume], mask: Volume, channels: int) -> set[int]:
    """The slices of a volume; returns the values of its mask."""
    if mask.array.dtype.kind == "f" and (mask.array == np.rint(mask.array)).all():
        mask = mask._replace(array=mask.array.astype(np.int32))
    low, high = int(mask.array.min()), int(mask.array.max())
    if mask.array.dtype.kind not in "ui" or not 0 <= low <= high < 2**16:
        raise DataError(f"{name}: a mask of {mask.array.dtype}, {low} … {high}; save ids from 0")
    for i in range(len(mask)):
        image = np.concatenate([part.around(i, channels) for part in parts], axis=-1)
        label = mask.slice(i)
        for kind in ("images", "masks"):
            (out / kind / name).mkdir(parents=True, exist_ok=True)
        np.save(out / "images" / name / f"{i:04}.npy", image)
        stored = np.ascontiguousarray(label, np.uint8 if high < 256 else np.uint16)
        Image.fromarray(stored).save(out / "masks" / name / f"{i:04}.png")
    return {*np.unique(mask.array).tolist()}


def _classes(root: Path, values: list[int]) -> dict[str, list]:
    """The names of dataset.json, {name: value} or, formerly, {value: name}; else by number."""
    path = root / "dataset.json"
    names = {str(value): value for value in values}
    if path.is_file():
        try:
            names = dict(_named(json.loads(read_text(path))["labels"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f'{path}: "labels" must hold names and values; correct it') from error
    if lost := sorted(set(values) - set(names.values())):
        raise DataError(f"{path}: masks hold {lost}, which it does not name; add them")
    if len(names) < 2:
        raise DataError(f"{root}: masks hold {values} alone; two classes are needed")
    return {"classes": [*names], "values": [*names.values()]}


def _named(labels: dict[str, object]) -> Iterator[tuple[str, int]]:
    for key, value in labels.items():
        name, number = (value, key) if str(key).isdecimal() else (key, value)
        yield str(name), int(number)
