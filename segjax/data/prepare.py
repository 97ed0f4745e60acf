"""Datasets in the form that training reads: ArrayRecord for TFDS, or folders of links."""

from pathlib import Path

import tensorflow_datasets as tfds

from segjax.data import link, slices
from segjax.data.builders import camvid, oxford_pets, voc2012
from segjax.errors import ConfigError

BUILDERS = {
    "camvid": camvid.Camvid,
    "voc2012": voc2012.Voc2012,
    "oxford_pets": oxford_pets.OxfordPets,
}
TABLES = {"camvid": "camvid", "voc2012": "voc", "oxford_pets": "oxford_pets"}


def build(dataset: str, source: str, data_dir: str | None = None) -> Path:
    """Writes a dataset as ArrayRecord below `data_dir` (default: TFDS's own), and returns where.

    DataError for what is missing or faulty in `source`.
    """
    folder = Path(source).resolve()
    BUILDERS[dataset].pairs(folder)  # what is missing is said before anything is written
    builder = BUILDERS[dataset](data_dir=data_dir, file_format="array_record")
    if builder.data_path.exists():
        print(f"{builder.data_path} exists already; remove it to prepare it again")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder))
    return Path(builder.data_path)


def prepare(
    dataset: str,
    source: str,
    data_dir: str | None = None,
    output: str | None = None,
    axis: int | None = None,
    neighbours: int = 0,
) -> tuple[Path, str]:
    """Prepares a dataset; returns where it is, and the flags of segjax.main that train on it.

    axis, neighbours: of volumes, see `slices.prepare`.
    """
    flags = f"--config {dataset}"
    if dataset in BUILDERS:
        path = build(dataset, source, data_dir)
        flags += (
            f" --config.data.source=tfds --config.data.name={dataset} "
            f"--config.data.root={path.parents[1]} "
            f"--config.data.classes={TABLES[dataset]} --config.data.label_key=label"
        )
        return path, flags
    if not output:
        raise ConfigError(f"{dataset} becomes a folder; say where with --output")
    if dataset == "nifti":
        path = slices.prepare(source, output, axis, neighbours)
        return path, f"--config folder --config.data.root={path}"
    path = link.link(dataset, source, output)
    return path, f"{flags} --config.data.root={path}"


if __name__ == "__main__":
    raise SystemExit("Error: the command is python -m segjax.prepare now")
