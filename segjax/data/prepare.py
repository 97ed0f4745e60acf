"""Prepare a dataset once.

As ArrayRecord, for TFDS (camvid, voc2012, oxford_pets):
  python -m segjax.data.prepare voc2012 --source DIR [--data_dir DIR]
As folders of symbolic links, in segjax's layout (cityscapes, ade20k):
  python -m segjax.data.prepare cityscapes --source DIR --output DIR
"""

import argparse
import sys
from pathlib import Path

from segjax.data import link
from segjax.errors import ConfigError, SegjaxError
from segjax.runtime.files import expand_argument

BUILT = {"camvid": "camvid", "voc2012": "voc", "oxford_pets": "oxford_pets"}  # label tables
LINKED = ("cityscapes", "ade20k")


def build(dataset: str, source: str, data_dir: str | None = None) -> Path:
    """Write a dataset as ArrayRecord below `data_dir` (default: TFDS's own), and return where.

    DataError for what is missing or faulty in `source`.
    """
    import tensorflow_datasets as tfds

    from segjax.data.builders import camvid, oxford_pets, voc2012

    builders = (camvid.Camvid, voc2012.Voc2012, oxford_pets.OxfordPets)
    builder_class = dict(zip(BUILT, builders, strict=True))[dataset]
    folder = Path(source).resolve()
    builder_class.pairs(folder)  # what is missing is said before anything is written
    builder = builder_class(data_dir=data_dir, file_format="array_record")
    if builder.data_path.exists():
        print(f"{builder.data_path} exists already; remove it to prepare it again")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder))
    return Path(builder.data_path)


def main() -> None:
    """Read the command line, prepare, and print the flags that use the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", choices=[*BUILT, *LINKED])
    parser.add_argument("--source", required=True, help="folder of the dataset as it was unpacked")
    parser.add_argument("--data_dir", help="where TFDS writes; its own directory if left out")
    parser.add_argument("--output", help="where the links go: a folder that is new or empty")
    args = parser.parse_args([expand_argument(argument) for argument in sys.argv[1:]])
    flags = f"--config configs/{args.dataset}.py"
    try:
        if args.dataset in BUILT:
            path = build(args.dataset, args.source, args.data_dir)
            flags += (
                f" --config.data.source=tfds --config.data.name={args.dataset} "
                f"--config.data.root={path.parents[1]} "
                f"--config.data.classes={BUILT[args.dataset]} --config.data.label_key=label"
            )
        elif args.output:
            path = link.link(args.dataset, args.source, args.output)
            flags += f" --config.data.root={path}"
        else:
            raise ConfigError(f"{args.dataset} becomes a folder of links; say where with --output")
    except SegjaxError as error:
        sys.exit(f"error: {error}")
    print(f"{path}\nuse it with: {flags}")


if __name__ == "__main__":
    main()
