"""Prepare a dataset for TFDS once: python -m segjax.data.prepare camvid --source DIR."""

import argparse
import sys
from pathlib import Path

from segjax.data.sources import pair_files
from segjax.errors import SegjaxError


def prepare_camvid(source: str, data_dir: str | None = None) -> Path:
    """Write CamVid as ArrayRecord below `data_dir` (default: TFDS's own), and return where.

    `source` holds {train,val,test}/{images,masks}/NAME.*; DataError for what is missing there.
    """
    import tensorflow_datasets as tfds

    from segjax.data.builders.camvid import SPLITS, Camvid

    folder = Path(source).expanduser().resolve()
    for split in SPLITS:
        pair_files(folder / split)
    builder = Camvid(data_dir=data_dir, file_format="array_record")
    if builder.data_path.exists():
        print(f"{builder.data_path} exists already; remove it to prepare it again")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder))
    return Path(builder.data_path)


def main() -> None:
    """Read the command line, prepare, and print the flags that use the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=["camvid"])
    parser.add_argument("--source", required=True, help="folder of {train,val,test}/{images,masks}")
    parser.add_argument("--data_dir", help="where to write; TFDS's own directory if left out")
    args = parser.parse_args()
    try:
        path = prepare_camvid(args.source, args.data_dir)
    except SegjaxError as error:
        sys.exit(f"error: {error}")
    print(
        f"{path}\nuse it with: --config.data.source=tfds --config.data.name=camvid "
        f"--config.data.root={path.parents[1]} --config.data.classes=camvid "
        "--config.data.label_key=label"
    )


if __name__ == "__main__":
    main()
