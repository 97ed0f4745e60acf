"""Writes masks of class ids as annotations, to be corrected in another tool.

  python -m segjax.annotate coco --images DIR --masks DIR --classes classes.json --output FILE.json
  python -m segjax.annotate labelme --images DIR --masks DIR --classes classes.json --output DIR

Masks, such as segjax.predict writes, have the names of their images. Every connected part of a
class but background becomes a region: for COCO as RLE, for LabelMe as a polygon with a cut to each
hole. Both cover exactly the same pixels; --tolerance makes polygons of fewer points.
segjax.prepare reads both.
"""

import argparse
import sys

from segjax.errors import ConfigError, SegjaxError
from segjax.runtime.files import expand_argument


def main() -> None:
    """Writes the annotations, and prints how many."""
    parser = argparse.ArgumentParser(
        prog="python -m segjax.annotate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("tool", choices=("coco", "labelme"))
    parser.add_argument("--images", required=True, help="folder of images")
    parser.add_argument("--masks", required=True, help="folder of masks of ids 0 … C-1, 255: void")
    parser.add_argument("--classes", required=True, help="classes.json, or a built-in table")
    parser.add_argument("--output", required=True, help="new file (coco) or folder (labelme)")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        help="of labelme: pixels by which an outline may be off; 0 (exact) if left out",
    )
    args = parser.parse_args([expand_argument(argument) for argument in sys.argv[1:]])
    try:
        if args.tolerance and (args.tool == "coco" or not 0 < args.tolerance < 100):
            raise ConfigError(f"--tolerance {args.tolerance}: of labelme alone, from 0 to 100")
        from segjax.data.annotations.write import write  # late: --help answers at once

        done = write(**vars(args))
    except SegjaxError as error:
        sys.exit(f"error: {error}")
    print(f"{args.output}: {done['regions']} regions of {done['images']} images")


if __name__ == "__main__":
    main()
