"""A trained run, or downloaded weights, to an exported file, compared with it if that is wanted."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from segjax.data.fitting import Shape
from segjax.errors import ConfigError
from segjax.evaluation import scored
from segjax.inference import exporters, verification
from segjax.inference.verification import DTYPE
from segjax.runtime.files import expand, remove
from segjax.weights import downloaded, runs, tensor_files
from segjax.weights.runs import Trained


def export_run(
    folder: str | Path,
    output: str | Path,
    format: str = "stablehlo",
    *,
    checkpoint: str = "best",
    verify: bool = False,
    data_root: str | None = None,
    refine: str | Path | None = None,
    size: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Exports in float32; returns what `compare` found with `verify`, and the size, if any.

    (Long, for it has many arguments.)

    Args:
      folder: a work directory, or weights of another library: see `downloaded.restore`.
      refine: the work directory of a refiner of the run: both become one program.
      size: of a refiner's ONNX file; by default the most common of the validation images.

    Raises:
      ConfigError: where the name of `output` is not one of its format, and for what a format cannot
        hold.
      ExportError: where the exported network predicts something else; no file is written.
    """
    if (format == "onnx") != (Path(output).suffix.lower() == ".onnx"):
        raise ConfigError(
            f"--output {output} with --format {format}: ONNX files end in .onnx, and no others do"
        )
    folder, output = (Path(expand(str(path))) for path in (folder, output))
    if downloaded.holds_weights(folder):
        downloaded.require_alone(folder, checkpoint, refine)
        trained = as_scored = _restored(folder, verify, data_root)
    else:
        folder = runs.with_refiner(folder, refine)
        trained = runs.restore(folder, checkpoint, dtype=DTYPE)
        as_scored = runs.restore(folder, checkpoint)
    result = _size_of(trained, folder, format, size)
    if not trained.segmenter:
        trained.config.data.update(result)
    writers = {
        "stablehlo": exporters.to_stablehlo,
        "onnx": partial(exporters.to_onnx, **result),
        "safetensors": partial(exporters.to_weights, format=format),
        "transformers": partial(exporters.to_weights, format=format),
    }
    if output.is_dir():
        raise ConfigError(f"--output {output} is a folder that there is; name another")
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f".{output.name}.tmp")
    remove(unfinished)
    try:
        writers[format](trained, unfinished)
        if verify:
            result |= verification.compare(as_scored, trained, unfinished, data_root)
            verification.require_equal(result, output)
        os.replace(unfinished, output)
    finally:
        remove(unfinished)
    return result


def _restored(path: Path, verify: bool, data_root: str | None) -> Trained:
    """Downloaded weights, with the label table of the data that they are to be verified on."""
    if verify and not data_root:
        raise ConfigError(
            "--verify compares on validation images, and weights of another library have none; "
            "give --data_root, a folder of images and masks of the same classes"
        )
    trained = downloaded.restore(path, DTYPE, data_root)
    if data_root:
        table = scored.table_of(Path(expand(data_root)), trained.table)
        trained.config.data.classes = table.to_json()
    return trained


def _size_of(
    trained: Trained, folder: Path, format: str, size: Sequence[int] | None
) -> dict[str, Shape]:
    """`size`, where an ONNX file has one that what it is made of has not."""
    is_free = downloaded.holds_weights(folder) and trained.config.data.fit == "pad"
    if format != "onnx" or not (trained.segmenter or is_free):
        if size:
            raise ConfigError(
                "--size is for the ONNX file of a refiner, or of weights that nothing tells the "
                "size of; all others have theirs"
            )
        return {}
    if size:
        if len(size) != 2 or min(size) < 1:
            raise ConfigError(f"--size is {','.join(map(str, size))}; give height and width")
        return {"size": tuple(size)}
    if is_free:
        return {"size": tuple(trained.config.data.size)}
    try:
        sizes = json.loads((folder / "data.json").read_text(encoding="utf-8"))["sizes"]["val"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"--size is missing: an ONNX file has one, and {folder / 'data.json'} does not tell "
            "that of the validation images; give height and width"
        ) from error
    return {"size": Counter(map(tuple, sizes)).most_common(1)[0][0]}


def describe(output: str | Path, result: dict[str, Any]) -> str:
    """What `export_run` wrote and found, in lines."""
    size = tensor_files.located(Path(output)).stat().st_size / 2**20
    lines = [f"{output}: {size:.1f} MiB, computes in {DTYPE}"]
    if "size" in result:
        lines.append("It takes images of {}×{} (height×width)".format(*result["size"]))
    if "images" in result:
        lines.append(f"Verified on {verification.describe(result)}")
    if "converted" in result:
        lines.append("The scores of the run are not those of the file: see the differences above")
    return "\n".join(lines)
