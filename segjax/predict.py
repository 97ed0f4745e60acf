"""Segments images with a trained run: class ids as PNG, overlays, probabilities, a summary.

  python -m segjax.predict --workdir runs/camvid-cpu --input photo.jpg --output out --overlay
  python -m segjax.predict --workdir runs/camvid-cpu --input 'photos/*.png' --output out
  python -m segjax.predict --workdir runs/camvid-cpu --input photos --output out

A folder is walked. A file that cannot be read is reported and skipped; the exit code is 1 then.
"""

import glob
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from segjax import cli
from segjax.errors import ConfigError, DataError

CHECKPOINTS = ("best", "latest")


def define_flags() -> None:
    """The flags of this entry point."""
    flags.DEFINE_string("workdir", None, "The trained run.")
    flags.DEFINE_string("input", None, "An image, a pattern such as 'photos/*.jpg', or a folder.")
    flags.DEFINE_string("output", None, "The folder that the results go to.")
    flags.DEFINE_enum("checkpoint", "best", CHECKPOINTS, "best (by validation mIoU) or latest.")
    flags.DEFINE_bool("overlay", False, "Also write NAME_overlay.png: the classes over the image.")
    flags.DEFINE_bool("probabilities", False, "Also write NAME.npz: probabilities, float16.")
    flags.DEFINE_bool("flip", False, "Average with the mirrored image: slower, often better.")


def find_images(pattern: str, output: Path) -> dict[Path, Path]:
    """Every image that a file, a pattern or a folder names, and its result below `output`.

    Raises:
      DataError: where there is no image.
      ConfigError: where a result would replace an image or another result.
    """
    from segjax.data.sources import SUFFIXES

    root, output = Path(pattern).expanduser(), output.expanduser()
    if root.is_dir():
        files = [p for p in sorted(root.rglob("*")) if p.suffix.lower() in SUFFIXES]
        if output.resolve() != root.resolve():  # results of an earlier call are no input
            files = [p for p in files if output.resolve() not in p.resolve().parents]
        base = root
    else:
        files = [root] if root.exists() else [Path(p) for p in sorted(glob.glob(str(root)))]
        base = Path(os.path.commonpath([p.parent for p in files])) if files else root
    if not files:
        raise DataError(f"--input {pattern}: no such image, and no folder with images")
    names = [p.relative_to(base) for p in files]
    stems = [name.with_suffix("") for name in names]
    results = [
        output / (f"{name}.png" if stems.count(stem) > 1 else name.with_suffix(".png"))
        for name, stem in zip(names, stems, strict=True)
    ]
    if {p.resolve() for p in files} & {p.resolve() for p in results}:
        raise ConfigError(f"--output {output} would replace images; choose another folder")
    if len(set(results)) < len(results):
        raise ConfigError(f"--input {pattern}: two images would become one file; name them apart")
    return dict(zip(files, results, strict=True))


def predict_file(model: Any, path: Path, out: Path, overlay: bool, probabilities: bool) -> dict:
    """Writes the results of one image; returns its entry of the summary."""
    from PIL import Image

    from segjax.data.decode import decode_image

    try:
        image = decode_image(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    start = time.perf_counter()
    label = model.label(image)
    seconds = time.perf_counter() - start
    out.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(label, mode="P")
    picture.putpalette(model.table.palette.astype(np.uint8).tobytes())
    picture.save(out)
    if overlay:
        blended = model.overlay(image, label)
        Image.fromarray(blended).save(out.with_name(f"{out.stem}_overlay.png"))
    if probabilities:
        np.savez_compressed(out.with_suffix(".npz"), probabilities=model.probabilities(image))
    shares = np.bincount(label.ravel(), minlength=len(model.table.names)) / label.size
    return {
        "input": str(path),
        "output": str(out),
        "size": list(label.shape),
        "seconds": round(seconds, 4),
        "class_shares": dict(zip(model.table.names, shares.round(6).tolist(), strict=True)),
    }


def predict(
    folder: str | Path,
    pattern: str,
    output: Path,
    *,
    checkpoint: str = "best",
    overlay: bool = False,
    probabilities: bool = False,
    flip: bool = False,
) -> dict[str, list]:
    """Segments every image of `pattern`; returns and writes summary.json: `images`, `skipped`."""
    files = find_images(pattern, output)
    from tqdm import tqdm

    from segjax import predictor
    from segjax.report import write_json

    model = predictor.load(folder, checkpoint, flip)
    summary = {"images": [], "skipped": []}
    for path, out in tqdm(files.items(), unit="image", disable=None):
        try:
            summary["images"].append(predict_file(model, path, out, overlay, probabilities))
        except DataError as error:
            summary["skipped"].append(str(error))
    write_json(output / "summary.json", summary)
    return summary


def main() -> None:
    """Predicts, and raises at the end what was skipped."""
    values = flags.FLAGS
    for name in ("workdir", "input", "output"):
        if not values[name].value:
            raise ConfigError(f"--{name} is missing; see --help")
    options = {k: values[k].value for k in ("checkpoint", "overlay", "probabilities", "flip")}
    summary = predict(values.workdir, values.input, Path(values.output), **options)
    print(f"{len(summary['images'])} images segmented, {len(summary['skipped'])} skipped: "
          f"{values.output}/summary.json")  # fmt: skip
    if summary["skipped"]:
        raise DataError("\n".join(["skipped:", *summary["skipped"]]))


if __name__ == "__main__":
    define_flags()
    cli.run(main)
