"""Random access to (image, label): folders of files, TFDS, procedural shapes."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ml_collections import ConfigDict

from segjax.data import decode, pixels
from segjax.data.background import decode_unmasked, require_background
from segjax.data.decode import Decoded, Example, decode_example
from segjax.data.folders import Pair
from segjax.data.formats.raster import Raster
from segjax.data.label_table import LabelTable, load_table
from segjax.data.pixels import RGB, Pixels
from segjax.data.splits import find_pairs, has_folder_split
from segjax.errors import ConfigError, DataError
from segjax.runtime.files import expand

SOURCES = ("shapes", "folder", "tfds")
NUM_SAMPLED = 32  # images that say what all are


class Source(Protocol):
    """A split, by index. `name` says which file or record an example is.

    One that decodes files has also `inspect(index)`: the example, with its files.
    """

    table: LabelTable
    pixels: Pixels = RGB  # what images are

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Example: ...
    def name(self, index: int) -> str: ...


class Subset:
    """A source without some of its examples."""

    def __init__(self, source: Source, without: Sequence[int]) -> None:
        self.table, self._source = source.table, source
        self.pixels = getattr(source, "pixels", RGB)
        self._indices = sorted(set(range(len(source))) - set(without))

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        return self._source[self._indices[index]]

    def name(self, index: int) -> str:
        return self._source.name(self._indices[index])


def build_source(config: ConfigDict, split: str) -> Source:
    """The source of `split` (train, val or test) that `config`, the data section, asks for."""
    return _build(resolved(config), split)


def resolved(config: ConfigDict) -> ConfigDict:
    """The data section with the fields that say what images are: see `pixels.resolve`.

    Those that are left open are found from some images of the training split.
    """
    is_open = config.get("bands") == "auto" or not config.get("channels", 3)
    if not is_open and config.get("dtype", "uint8"):
        return config
    config = config.copy_and_resolve_references()
    rasters = []
    if config.source != "shapes":
        pixels.numbers(config.bands)
        with suppress(DataError):  # named by who opens the data
            rasters = [*_sample(_build(config, "train"))]
    config.update(pixels.resolve(config, rasters))
    return config


def _sample(source: "FolderSource | TfdsSource") -> Iterator[Raster]:
    """Up to NUM_SAMPLED images, evenly from the whole split; those that can be read."""
    count = min(len(source), NUM_SAMPLED)
    for i in range(count):
        with suppress(DataError):
            yield source.raster(i * len(source) // count)


def _build(config: ConfigDict, split: str) -> Source:
    match config.source:
        case "shapes":
            from segjax.data import shapes

            count = config.num_train if split == "train" else config.num_val
            return shapes.ShapesSource(
                split=split, num_images=count, size=drawn_size(config), seed=config.seed
            )
        case "folder":
            found = find_pairs(config, split)
            table = load_table(config.classes, config.root)
            return FolderSource(table, *found, pixels.of(config))
        case "tfds":
            return TfdsSource(config, split)
    raise ConfigError(f"config.data.source is {config.source!r}; choose one of {SOURCES}")


def drawn_size(config: ConfigDict) -> tuple[int, int]:
    """Height and width of shapes; runs of earlier versions have no such field."""
    return tuple(config.get("drawn", ()) or config.size)


def has_split(config: ConfigDict, split: str) -> bool:
    """Whether the data have this split; only `test` may be missing."""
    if config.source == "folder":
        return has_folder_split(config, split)
    if config.source == "tfds":
        parts = [part.partition("[")[0] for part in config.splits[split].split("+")]
        return all(part in tfds_builder(config.name, config.root).info.splits for part in parts)
    return True


@dataclass(frozen=True)
class FolderSource:
    """Image and mask files, paired; for the rest see `folders.Found`."""

    table: LabelTable
    pairs: tuple[Pair, ...]
    left_out: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    division: str = ""
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    pixels: Pixels = RGB

    def __post_init__(self) -> None:
        require_background(self.table, [image for image, mask in self.pairs if mask is None])

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Example:
        return self.inspect(index).example

    def inspect(self, index: int) -> Decoded:
        """See `Source`."""
        image, mask = self.pairs[index]
        try:
            contents = [path.read_bytes() for path in (image, mask) if path]
        except OSError as error:
            raise DataError(f"{error}; make {image} and {mask} readable or remove both") from error
        if mask is None:
            return decode_unmasked(*contents, self.table, str(image), self.pixels)
        return decode_example(*contents, self.table, str(image), str(mask), self.pixels)

    def raster(self, index: int) -> Raster:
        """The file of an image."""
        image, _ = self.pairs[index]
        try:
            return decode.read(image.read_bytes(), str(image))
        except OSError as error:
            raise DataError(f"{error}; make it readable or remove it") from error

    def name(self, index: int) -> str:
        return str(self.pairs[index][0])

    def files(self) -> list[Path]:
        return [path for pair in self.pairs for path in pair if path]


class TfdsSource:
    """A split of a dataset that TFDS has prepared as ArrayRecord."""

    def __init__(self, config: ConfigDict, split: str) -> None:
        import tensorflow_datasets as tfds  # slow to import, and only needed here

        self.table = load_table(config.classes, config.root)
        self.keys = (config.image_key, config.label_key)
        self.pixels = pixels.of(config)
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
        return self.inspect(index).example

    def inspect(self, index: int) -> Decoded:
        """See `Source`."""
        return decode_example(*self._content(index))

    def _content(self, index: int) -> tuple:
        record, name = self.records[index], self.name(index)
        return *(record[key] for key in self.keys), self.table, name, name, self.pixels

    def raster(self, index: int) -> Raster:
        """The file of an image."""
        return decode.read(self.records[index][self.keys[0]], self.name(index))

    def name(self, index: int) -> str:
        return f"{self.builder.name}/{self.split}[{index}]"

    def files(self) -> list[Path]:
        return sorted(path for path in Path(self.builder.data_dir).iterdir() if path.is_file())


def tfds_builder(name: str, root: str) -> Any:
    """The TFDS builder of a prepared dataset: a builder's name below `root`, or a directory.

    `root` '' is TFDS's own data directory. Never uses the network; DataError if nothing is there.
    """
    import tensorflow_datasets as tfds

    if (Path(name) / "features.json").is_file():
        return tfds.builder_from_directory(Path(name))
    data_dir = Path(root or expand(str(tfds.core.constants.DATA_DIR)))
    try:
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
    except ValueError as error:
        make = f"tfds build {name} --file_format=array_record --data_dir={data_dir}"
        if (Path(__file__).parent / "builders" / f"{name}.py").is_file():
            make = f"python -m segjax.prepare {name} --source DIR --data_dir {data_dir}"
        raise DataError(
            f"config.data.name = {name!r}: no dataset prepared by TFDS below {data_dir}; "
            f"prepare it once with `{make}`, or set config.data.root to the folder that holds it"
        ) from error
