"""NIfTI volumes in, label maps of the same affine out, with a summary."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from segjax.data.formats import raster, volumes
from segjax.data.formats.volumes import Volume
from segjax.data.label_table import VOID
from segjax.data.pixels import to_image
from segjax.errors import ConfigError, DataError
from segjax.inference import inputs
from segjax.inference.predictor import Predictor
from segjax.runtime.files import write_json

AXES = ("right", "anterior", "superior")


def predict_volumes(
    model: Predictor, files: list[Path], output: Path, axis: int | None = None
) -> dict[str, Any]:
    """Segments volumes slice by slice; returns and writes summary.json.

    axis: across which they are cut, see `volumes.read`. A network of several channels sees as many
    neighbouring slices. Raises ConfigError where a result would replace another file.
    """
    results = {path: output / f"{volumes.stem(path)}.nii.gz" for path in files}
    if len(set(results.values())) < len(files) or set(results.values()) & set(files):
        raise ConfigError(f"--output {output}: results would replace volumes, or each other")
    inputs.require_own(output)
    summary = {"images": [], "skipped": [], "unused": [], "warnings": []}
    try:
        for path, out in results.items():
            try:
                summary["images"].append(_predict(model, path, out, axis))
            except DataError as error:
                summary["skipped"].append(str(error))
    finally:
        write_json(output / "summary.json", summary)
    return summary


def _predict(model: Predictor, path: Path, out: Path, axis: int | None) -> dict[str, Any]:
    volume, start = volumes.read(path, axis), time.perf_counter()
    array = volume.write(out, _labels(model, volume, path))
    counts = model.table.count(array)
    names, voxel = model.table.names, float(np.prod(volume.spacing))
    return {
        "input": str(path),
        "output": str(out),
        "size": list(array.shape),
        "seconds": round(time.perf_counter() - start, 4),
        "axis": AXES[volume.axis],
        "class_shares": dict(
            zip(names, (counts / max(counts.sum(), 1)).round(6).tolist(), strict=True)
        ),
        "class_volumes_mm3": dict(zip(names, (counts * voxel).round(3).tolist(), strict=True)),
    }


def _labels(model: Predictor, volume: Volume, path: Path) -> Iterator[np.ndarray]:
    kind = model.network.pixels
    channels = 1 if kind.is_rgb else kind.channels
    if channels % 2 == 0:
        raise DataError(
            f"{path}: the network takes {channels} channels, and a slice with its neighbours has "
            "an odd number; cut volumes into slices (segjax.prepare nifti) and predict these"
        )
    for i in tqdm(range(len(volume)), unit="slice", disable=None):
        stored = raster.of_array(volume.around(i, channels), "NIfTI")
        image, missing = to_image(stored, f"{path}, slice {i}", kind)
        label = model.label(image)
        if missing is not None:
            label[missing] = VOID
        yield label
