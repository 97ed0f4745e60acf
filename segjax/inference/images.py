"""Images in, files of class ids out, with a summary."""

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from segjax.data import decode, values
from segjax.data.folders import name_of
from segjax.data.formats import geotiff
from segjax.data.formats.geotiff import Georeference
from segjax.data.label_table import VOID
from segjax.data.pixels import Pixels, to_image
from segjax.errors import DataError
from segjax.inference import georeference, inputs, scenes
from segjax.inference.masks import Masks
from segjax.inference.predictor import Predictor
from segjax.runtime.files import write_json

log = logging.getLogger(__name__)
Draw = Callable[[np.ndarray, np.ndarray], np.ndarray]  # an image and its label, as a picture


def predict_file(
    model: Predictor,
    path: Path,
    out: Path,
    draw: Draw | None,
    probabilities: bool,
    census: values.Census | None = None,
    masks: Masks | None = None,
    name: str = "",
    vector: bool = False,
) -> dict[str, Any]:
    """Writes the results of one image; returns its entry of the summary, and adds to `census`.

    Where the image has no data its label is VOID. name: by which the image has its mask in `masks`.
    """
    start = time.perf_counter()
    with scenes.opened(path, model.network.fit, model.network.pixels) as scene:
        if scene and not (draw or probabilities or masks):
            image, scores, label = None, None, model.label(scene)
            missing = scene.missing
        else:
            image, mask, missing = _read(path, model.network.pixels, masks, name, census)
            start = time.perf_counter()
            label, scores = _segment(model, image, mask, probabilities)
    seconds = time.perf_counter() - start
    if missing is not None:
        label[missing] = VOID
    out.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(label, mode="P")
    picture.putpalette(model.table.palette.astype(np.uint8).tobytes())
    picture.save(out, pnginfo=_origin())
    if draw:
        Image.fromarray(draw(image, label)).save(inputs.overlay_of(out), pnginfo=_origin())
    if probabilities:
        np.savez_compressed(out.with_suffix(".npz"), probabilities=scores)
    counts = model.table.count(label)
    shares = counts / max(counts.sum(), 1)
    place = geotiff.read(path)
    return {
        "input": str(path),
        "output": str(out),
        "size": list(label.shape),
        "seconds": round(seconds, 4),
        "class_shares": dict(zip(model.table.names, shares.round(6).tolist(), strict=True)),
        **(_write_map(out, label, model, place, vector) if place else {}),
    }


def _write_map(
    out: Path, label: np.ndarray, model: Predictor, place: Georeference, vector: bool
) -> dict[str, Any]:
    """Writes the results that lie on a map; returns what the summary says of them."""
    georeference.write(out.with_suffix(".tif"), label, model.table, place)
    if vector:
        georeference.write_vector(out.with_suffix(".geojson"), label, model.table, place)
    areas = georeference.areas(label, model.table, place)
    return {"map": str(out.with_suffix(".tif")), **({"class_areas_m2": areas} if areas else {})}


def _segment(
    model: Predictor, image: np.ndarray, mask: np.ndarray | None, probabilities: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Class ids and, if they are wanted, probabilities."""
    if probabilities:
        return model.label_and_probabilities(image, mask)
    return model.label(image, mask), None


def _read(
    path: Path, pixels: Pixels, masks: Masks | None, name: str, census: values.Census | None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """An image, its mask if there are `masks`, and where it has no data; adds to `census`."""
    try:
        if masks:
            found = masks.beside(path, name, pixels)
            raster, mask, missing = found.image, found.example["label"], found.missing
            image = found.example["image"]
        else:
            raster, mask = decode.read(path.read_bytes(), str(path)), None
            image, missing = to_image(raster, str(path), pixels)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from error
    if census:
        census.add(str(path), decode.stored_in(raster))
    return image, mask, missing


def _origin() -> PngInfo:
    """By which a later call knows its own results."""
    origin = PngInfo()
    origin.add_text("Software", inputs.SOFTWARE)
    return origin


def predict_images(
    model: Predictor,
    pattern: str,
    output: Path,
    *,
    overlay: bool = False,
    probabilities: bool = False,
    opacity: float = 0.5,
    contours: bool = False,
    masks: Masks | None = None,
    vector: bool = False,
) -> dict[str, list]:
    """Segments every image of `pattern`, or refines its mask; returns and writes summary.json.

    It holds `images`, `skipped` (that could not be read), `unused` (that are no input) and
    `warnings` about images that are dark to the network.
    """
    files, unused = inputs.find_images(pattern, output, overlay, probabilities, vector)
    summary = {"images": [], "skipped": [], "unused": unused, "warnings": []}
    census = values.Census(model.network.pixels.value_range)
    draw = partial(model.overlay, opacity=opacity, contours=contours) if overlay else None
    log.info("Compiling the network")
    kind = model.network.pixels
    blank = np.zeros((*model.fit.size, kind.channels), kind.type)
    model.label(blank, np.zeros(model.fit.size, np.uint8) if masks else None)
    try:
        for path, out in tqdm(files.items(), unit="image", disable=None):
            try:
                name = name_of(out, output)
                summary["images"].append(
                    predict_file(model, path, out, draw, probabilities, census, masks, name, vector)
                )
            except DataError as error:
                summary["skipped"].append(str(error))
    finally:  # after Ctrl-C too
        if kind.is_rgb and not kind.value_range:
            summary["warnings"] = values.dark_inputs(census.values)
        write_json(output / "summary.json", summary)
    return summary
