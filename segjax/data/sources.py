"""Random access to (image, label): folders of files, TFDS, procedural shapes."""

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ml_collections import ConfigDict

from segjax.data.datasets import LabelTable, load_table
from segjax.data.decode import Example, decode_example, turns_unseen
from segjax.errors import ConfigError, DataError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
Pair = tuple[Path, Path]  # of an image and its mask
LAYOUT = "expected ROOT/{train,val,test}/{images,masks}/NAME.* or ROOT/{images,masks}/NAME.*"


class Source(Protocol):
    """A split, by index. `name` says which file or record an example is."""

    table: LabelTable

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Example: ...
    def name(self, index: int) -> str: ...


class Subset:
    """A source without some of its examples."""

    def __init__(self, source: Source, without: Sequence[int]) -> None:
        self.table, self._source = source.table, source
        self._indices = sorted(set(range(len(source))) - set(without))

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        return self._source[self._indices[index]]

    def name(self, index: int) -> str:
        return self._source.name(self._indices[index])


def build_source(config: ConfigDict, split: str) -> Source:
    """The source of `split` (train, val or test) that `config`, the data section, asks for."""
    match config.source:
        case "shapes":
            from segjax.data import shapes

            count = config.num_train if split == "train" else config.num_val
            return shapes.ShapesSource(
                split=split, num_images=count, size=config.size, seed=config.seed
            )
        case "folder":
            pairs, left_out = folder_pairs(config, split)
            return FolderSource(load_table(config.classes, config.root), pairs, left_out)
        case "tfds":
            return TfdsSource(config, split)
    raise ConfigError(f"config.data.source = {config.source!r}: choose shapes, folder or tfds")


def has_split(config: ConfigDict, split: str) -> bool:
    """Whether the data have this split; only `test` may be missing."""
    if config.source == "folder":
        if _has_split_folders(config):
            return bool(config.splits[split]) and _split_folder(config, split).is_dir()
        return split == "train" or config[f"{split}_fraction"] > 0
    if config.source == "tfds":
        parts = [part.partition("[")[0] for part in config.splits[split].split("+")]
        return all(part in tfds_builder(config.name, config.root).info.splits for part in parts)
    return True


@dataclass(frozen=True)
class FolderSource:
    """Image and mask files, paired; `left_out` tells of files that could not be."""

    table: LabelTable
    pairs: tuple[Pair, ...]
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Example:
        image, mask = self.pairs[index]
        try:
            contents = image.read_bytes(), mask.read_bytes()
        except OSError as error:
            raise DataError(f"{error}; make {image} and {mask} readable or remove both") from error
        return decode_example(*contents, self.table, str(image), str(mask))

    def name(self, index: int) -> str:
        return str(self.pairs[index][0])

    def turns_unseen(self, index: int) -> bool:
        """See `decode.turns_unseen`."""
        return turns_unseen(self.pairs[index][0].read_bytes())

    def files(self) -> list[Path]:
        return [path for pair in self.pairs for path in pair]


class TfdsSource:
    """A split of a dataset that TFDS has prepared as ArrayRecord."""

    def __init__(self, config: ConfigDict, split: str) -> None:
        import tensorflow_datasets as tfds  # slow to import, and only needed here

        self.table = load_table(config.classes, config.root)
        self.keys = (config.image_key, config.label_key)
        self.builder = tfds_builder(config.name, config.root)
        self.split = config.splits[split]
        features = list(self.builder.info.features)
        for option, key in zip(("image_key", "label_key"), self.keys, strict=True):
            if key not in features:
                raise ConfigError(f"config.data.{option} = {key!r}: the dataset has {features}")
        # TFDS would turn a palette mask into colours and ignore EXIF, so files are decoded here.
        as_they_are = dict.fromkeys(self.keys, tfds.decode.SkipDecoding())
        try:
            self.records = self.builder.as_data_source(self.split, decoders=as_they_are)
        except NotImplementedError as error:
            raise DataError(
                f"{self.builder.data_dir}: not stored as ArrayRecord, which random access needs; "
                "prepare it again, elsewhere, with file_format=array_record"
            ) from error
        except ValueError as error:
            raise ConfigError(f"config.data.splits.{split} = {self.split!r}: {error}") from error

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        record, name = self.records[index], self.name(index)
        return decode_example(*(record[key] for key in self.keys), self.table, name, name)

    def name(self, index: int) -> str:
        return f"{self.builder.name}/{self.split}[{index}]"

    def files(self) -> list[Path]:
        return sorted(path for path in Path(self.builder.data_dir).iterdir() if path.is_file())


def tfds_builder(name: str, root: str) -> Any:
    """The TFDS builder of a prepared dataset: a builder's name below `root`, or a directory.

    `root` '' is TFDS's own data directory. Never uses the network; DataError if nothing is there.
    """
    import tensorflow_datasets as tfds

    if (Path(name).expanduser() / "features.json").is_file():
        return tfds.builder_from_directory(Path(name).expanduser())
    data_dir = Path(root or tfds.core.constants.DATA_DIR).expanduser()
    try:
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
    except ValueError as error:
        make = f"tfds build {name} --file_format=array_record --data_dir={data_dir}"
        if name == "camvid":
            make = f"python -m segjax.data.prepare camvid --source DIR --data_dir {data_dir}"
        raise DataError(
            f"config.data.name = {name!r}: no dataset prepared by TFDS below {data_dir}; "
            f"prepare it once with `{make}`, or set config.data.root to the folder that holds it"
        ) from error


def folder_pairs(config: ConfigDict, split: str) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """Image and mask paths of a split, and, with on_error='skip', the files that pair with none.

    Where ROOT/{images,masks} is not split into folders, each name's hash with the seed decides.
    Raises DataError for a missing partner, folder or split.
    """
    skip = config.on_error == "skip"
    if _has_split_folders(config):
        pairs, left_out = pair_files(_split_folder(config, split), skip)
        return tuple(pairs), tuple(left_out)
    pairs, left_out = pair_files(Path(config.root).expanduser(), skip)
    # A hash depends on neither NumPy's version nor the other files: images that are added later
    # move no other image to another split.
    draw = {image: _draw(config.seed, image.stem) for image, _ in pairs}
    val, test = config.val_fraction, config.val_fraction + config.test_fraction
    parts = {"train": [], "val": [], "test": []}
    for pair in pairs:
        at = draw[pair[0]]
        parts["val" if at < val else "test" if at < test else "train"].append(pair)
    if not parts[split]:
        raise DataError(
            f"{config.root}: split {split!r} is empty: {len(pairs)} images with val_fraction = "
            f"{config.val_fraction} and test_fraction = {config.test_fraction}; change these"
        )
    return tuple(sorted(parts[split])), tuple(left_out)


def _draw(seed: int, stem: str) -> float:
    """A number in [0, 1) for a file's name."""
    name = unicodedata.normalize("NFC", stem)
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def pair_files(folder: Path, skip: bool = False) -> tuple[list[Pair], list[str]]:
    """FOLDER/images/NAME.* with FOLDER/masks/NAME.*, sorted, and what was left out with `skip`.

    Raises DataError that names whatever is alone or ambiguous, without `skip`.
    """
    images, masks = _by_stem(folder / "images"), _by_stem(folder / "masks")
    twice = [
        f"{stem} ({', '.join(path.name for path in paths)})"
        for found in (images, masks)
        for stem, paths in found.items()
        if len(paths) > 1
    ]
    alone = [f"{images[s][0]} has no mask" for s in sorted(images.keys() - masks.keys())]
    alone += [f"{masks[s][0]} has no image" for s in sorted(masks.keys() - images.keys())]
    if twice and not skip:
        raise DataError(f"{folder}: one name, several files; keep one of each: {twice[:20]}")
    if alone and not skip:
        shown = "\n  ".join(alone[:20])
        raise DataError(
            f"{folder}: {len(alone)} files without a partner; image and mask must share the name "
            f"up to the suffix, so add or remove:\n  {shown}"
        )
    both = [(images[stem], masks[stem]) for stem in sorted(images.keys() & masks.keys())]
    pairs = [(image[0], mask[0]) for image, mask in both if len(image) == len(mask) == 1]
    if not pairs:
        raise DataError(f"{folder}: no image has a mask of its name; {LAYOUT}")
    return pairs, [*(f"{names}: one name, several files" for names in twice), *alone]


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {LAYOUT}")
    found = defaultdict(list)
    for path in sorted(folder.iterdir()):
        is_image = path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        if is_image and path.is_file():
            # One name may be spelled in two Unicode forms, as when a Mac wrote one of the folders.
            found[unicodedata.normalize("NFC", path.stem)].append(path)
    if not found:
        raise DataError(
            f"{folder}: holds no file ending in {', '.join(sorted(SUFFIXES))}; {LAYOUT}"
        )
    return found


def _has_split_folders(config: ConfigDict) -> bool:
    root = Path(config.root).expanduser()
    if not config.root or not root.is_dir():
        raise DataError(f"config.data.root = {config.root!r}: no such folder; {LAYOUT}")
    return _split_folder(config, "train").is_dir() or not (root / "images").is_dir()


def _split_folder(config: ConfigDict, split: str) -> Path:
    return Path(config.root).expanduser() / config.splits[split]
