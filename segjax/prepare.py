"""Prepares a dataset once.

As ArrayRecord, for TFDS (camvid, voc2012, oxford_pets):
  python -m segjax.prepare voc2012 --source DIR [--data_dir DIR]
NIfTI volumes as slices (folders images or imagesTr, and masks, labels or labelsTr):
  python -m segjax.prepare nifti --source DIR --output DIR [--axis N] [--neighbours N]
As folders of symbolic links, in segjax's layout (cityscapes, ade20k):
  python -m segjax.prepare cityscapes --source DIR --output DIR
The export of an annotation tool, as masks beside links to the images (coco, coco-panoptic, labelme,
cvat, label_studio, roboflow, supervisely, qupath), or polygons over GeoTIFFs (geojson):
  python -m segjax.prepare coco --source DIR --output DIR [--empty=background] [--on_error=skip]
  python -m segjax.prepare geojson --source DIR --output DIR [--property=class]
"""

import argparse
import sys
from typing import Any

from segjax.errors import ConfigError, SegjaxError
from segjax.runtime.files import expand_argument

DATASETS = ("camvid", "voc2012", "oxford_pets", "cityscapes", "ade20k", "nifti")
TOOLS = (
    *("coco", "coco-panoptic", "labelme", "cvat", "label_studio", "roboflow"),
    *("supervisely", "geojson", "qupath"),
)
OPTIONS = {"nifti": ("axis", "neighbours"), **dict.fromkeys(TOOLS, ("empty", "on_error"))}
OPTIONS["geojson"] += ("property",)


def main() -> None:
    """Prepares, and prints the flags that use the result."""
    parser = argparse.ArgumentParser(
        prog="python -m segjax.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", choices=(*DATASETS, *TOOLS))
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
        help="of volumes: slices on each side that become channels, too",
    )
    parser.add_argument(
        "--empty",
        choices=("drop", "background"),
        help="of a tool: images without annotations are left out, or all background",
    )
    parser.add_argument(
        "--on_error",
        choices=("raise", "skip"),
        help="of a tool: faults are named and nothing is written, or left out and counted",
    )
    parser.add_argument("--property", help="of geojson: which property of a feature is its class")
    args = parser.parse_args([expand_argument(argument) for argument in sys.argv[1:]])
    try:
        path, use = _convert(args) if args.dataset in TOOLS else _prepare(args)
    except SegjaxError as error:
        sys.exit(f"error: {error}")
    print(f"{path}\nuse it with: {use}")


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """What is given of OPTIONS; ConfigError for those of other datasets."""
    names = dict.fromkeys(name for group in OPTIONS.values() for name in group)
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if foreign := given.keys() - set(OPTIONS.get(args.dataset, ())):
        raise ConfigError(f"{args.dataset} has no --{sorted(foreign)[0]}; leave it out")
    return given


def _prepare(args: argparse.Namespace) -> tuple[str, str]:
    options = _options(args)
    from segjax.data import prepare  # late: --help answers at once

    path, use = prepare.prepare(args.dataset, args.source, args.data_dir, args.output, **options)
    return str(path), use


def _convert(args: argparse.Namespace) -> tuple[str, str]:
    options = _options(args)
    if not args.output or args.data_dir:
        raise ConfigError(f"{args.dataset} becomes a folder; say where with --output alone")
    from segjax.data.annotations import convert

    path, report = convert.convert(args.dataset, args.source, args.output, **options)
    print(convert.format_report(report))
    return str(path), f"--config folder --config.data.root={path}"


if __name__ == "__main__":
    main()
