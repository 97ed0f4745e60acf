"""Prepares a dataset once.

As ArrayRecord, for TFDS (camvid, voc2012, oxford_pets):
  python -m segjax.prepare voc2012 --source DIR [--data_dir DIR]
NIfTI volumes as slices (folders images or imagesTr, and masks, labels or labelsTr):
  python -m segjax.prepare nifti --source DIR --output DIR [--axis N] [--neighbours N]
As folders of symbolic links, in segjax's layout (cityscapes, ade20k):
  python -m segjax.prepare cityscapes --source DIR --output DIR
"""

import argparse
import sys

from segjax.errors import SegjaxError
from segjax.runtime.files import expand_argument

DATASETS = ("camvid", "voc2012", "oxford_pets", "cityscapes", "ade20k", "nifti")


def main() -> None:
    """Prepares, and prints the flags that use the result."""
    parser = argparse.ArgumentParser(
        prog="python -m segjax.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument("--source", required=True, help="folder of the dataset as it was unpacked")
    parser.add_argument("--data_dir", help="where TFDS writes; its own directory if left out")
    parser.add_argument("--output", help="where the links go: a folder that is new or empty")
    parser.add_argument(
        "--axis",
        type=int,
        choices=(0, 1, 2),
        help="of volumes: across which they are cut, right, anterior or superior; by default that "
        "with the largest voxels",
    )
    parser.add_argument(
        "--neighbours",
        type=int,
        default=0,
        help="of volumes: slices on each side that become channels, too",
    )
    args = parser.parse_args([expand_argument(argument) for argument in sys.argv[1:]])
    from segjax.data import prepare  # late: --help answers at once

    try:
        path, use = prepare.prepare(**vars(args))
    except SegjaxError as error:
        sys.exit(f"error: {error}")
    print(f"{path}\nuse it with: {use}")


if __name__ == "__main__":
    main()
