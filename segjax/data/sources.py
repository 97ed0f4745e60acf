"""Random access to (image, label): folders of files, TFDS, procedural shapes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ml_collections import ConfigDict

from segjax.data.decode import Example, Stored, decode_example
from segjax.data.folders import Pair, find_pairs, has_folder_split
from segjax.data.label_table import LabelTable, load_table
from segjax.errors import ConfigError, DataError
from segjax.runtime.files import expand

SOURCES = ("shapes", "folder", "tfds")


class Source(Protocol):
    """A split, by index. `name` says which file or record an example is.

    One that decodes files has also `inspect(index)`: the example, and what its file holds.
    """

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
                split=split, num_images=count, size=drawn_size(config), seed=config.seed
            )
        case "folder":
            found = find_pairs(config, split)
            table = load_table(config.classes, config.root)
            return FolderSource(table, *found, value_range(config))
        case "tfds":
            return TfdsSource(config, split)
    raise ConfigError(f"config.data.source is {config.source!r}; choose one of {SOURCES}")


def drawn_size(config: ConfigDict) -> tuple[int, int]:
    """Height and width of shapes; runs of earlier versions have no such field."""
    return tuple(config.get("drawn", ()) or config.size)


def value_range(config: ConfigDict) -> tuple[float, ...]:
    """`config.data.value_range`; runs of earlier versions have no such field."""
    return tuple(config.get("value_range", ()))


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
    value_range: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Example:
        return decode_example(*self._content(index)).example

    def inspect(self, index: int) -> tuple[Example, Stored]:
        """See `Source`."""
        decoded = decode_example(*self._content(index))
        return decoded.example, decoded.stored()

    def _content(self, index: int) -> tuple:
        image, mask = self.pairs[index]
        try:
            contents = image.read_bytes(), mask.read_bytes()
        except OSError as error:
            raise DataError(f"{error}; make {image} and {mask} readable or remove both") from error
        return *contents, self.table, str(image), str(mask), self.value_range

    def name(self, index: int) -> str:
        return str(self.pairs[index][0])

    def files(self) -> list[Path]:
        return [path for pair in self.pairs for path in pair]


class TfdsSource:
    """A split of a dataset that TFDS has prepared as ArrayRecord."""

    def __init__(self, config: ConfigDict, split: str) -> None:
        import tensorflow_datasets as tfds  # slow to import, and only needed here

        self.table = load_table(config.classes, config.root)
        self.keys = (config.image_key, config.label_key)
        self.value_range = value_range(config)
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
        return decode_example(*self._content(index)).example

    def inspect(self, index: int) -> tuple[Example, Stored]:
        """See `Source`."""
        decoded = decode_example(*self._content(index))
        return decoded.example, decoded.stored()

    def _content(self, index: int) -> tuple:
        record, name = self.records[index], self.name(index)
        return *(record[key] for key in self.keys), self.table, name, name, self.value_range

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
