"""An exported file against its run: do they predict the same?"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from segjax.data import check
from segjax.data.fitting import Shape
from segjax.errors import ExportError
from segjax.evaluation import iou
from segjax.inference import composed, networks
from segjax.inference.networks import Network
from segjax.inference.predictor import Predictor
from segjax.weights import pretrained, tensor_files
from segjax.weights.runs import Trained

DTYPE = "float32"  # what files compute in: ONNX Runtime has no bfloat16 convolutions
MAX_DIFFERENCE = 1e-3  # share of pixels of another class
MAX_MEAN_IOU_CHANGE = 1e-3


def compare(
    scored: Trained, exported: Trained, path: Path, data_root: str | None = None
) -> dict[str, Any]:
    """A run and an exported file on all validation images, at their own resolution.

    Args:
      scored: the run as the evaluator scores it; exported: in the dtype that the file computes in.

    Returns:
      `images`, `dtype` of the run, `different` (share of the pixels), `mean_iou` of the run and
      `exported_mean_iou`. Where the file cannot be used as the run was scored (another dtype, tiles
      for a network of one size, no windows for a refiner) also `converted`: the run as it is used,
      against the file, of which `different` and `mean_iou` say whether the file is what it was made
      of.
    """
    config = scored.config.data.copy_and_resolve_references()
    config.update(root=data_root or config.root, allow_missing_classes=True)
    report = check.check(config, splits=("val",), trained=True)
    source = check.usable(config, "val", report)
    models = _models(scored, exported, path, report.sizes["val"])
    size, total = len(scored.table.names), 0
    different, confusion = dict.fromkeys(models, 0), dict.fromkeys(models, 0)
    for i in tqdm(range(len(source)), unit="image", disable=None):
        example = source[i]
        labels = {name: model.label(example["image"]) for name, model in models.items()}
        total += example["label"].size
        for name, label in labels.items():
            different[name] += (label != labels["file"]).sum()
            confusion[name] += np.int64(iou.confusion_matrix(example["label"], label, size))
    against = {
        name: {
            "different": float(different[name] / total),
            "mean_iou": float(iou.metrics(confusion[name])["mean_iou"]),
            "exported_mean_iou": float(iou.metrics(confusion["file"])["mean_iou"]),
        }
        for name in models
    }
    result = {"images": len(source), "dtype": scored.config.model.dtype, **against.pop("run")}
    return result | {name: against[name] for name in against.keys() - {"file"}}


def _models(
    scored: Trained, exported: Trained, path: Path, sizes: list[Shape]
) -> dict[str, Predictor]:
    """What is compared: the file, the run and, where these differ by construction, `converted`.

    sizes: of the images.
    """
    file = _read_back(exported, path)
    found = {"file": file, "run": networks.of(scored)}
    if exported.segmenter:
        differs = file.fit.fixed_size or any(map(scored.fit.is_tiled, sizes))
    else:
        differs = file.fit.fixed_size and not file.fit.resizes
    if differs or scored.model.dtype != exported.model.dtype:
        converted = networks.of(exported)
        if exported.segmenter:
            converted = converted._replace(logits=jax.jit(composed.of(exported)))
        found["converted"] = converted._replace(fit=file.fit)
    return {name: Predictor(network) for name, network in found.items()}


def _read_back(trained: Trained, path: Path) -> Network:
    if not tensor_files.read_header(path):
        return networks.read_file(path)[0]
    variables = pretrained.load(path, jax.tree.map(jnp.zeros_like, trained.variables))
    return networks.of(trained._replace(variables=variables))


def _in_a_line(result: dict[str, Any]) -> str:
    """What the file predicts against the run, or what it was made of, in a line."""
    text = "{different:.3%} of the pixels differ, mIoU {mean_iou:.4f}, exported "
    return (text + "{exported_mean_iou:.4f}").format(**result)


def describe(result: dict[str, Any]) -> str:
    """What `compare` found, in words."""
    against = f"the run as it is scored, in {result['dtype']}"
    text = f"{result['images']} validation images: against {against}, {_in_a_line(result)}"
    if "converted" in result:
        text += (
            f"; against the run as the file is used, in {DTYPE} and at the file's size if it has "
            f"but one, {_in_a_line(result['converted'])}"
        )
    return text


def require_equal(result: dict[str, Any], output: Path) -> None:
    """Raises ExportError where the file differs from what it was made of by more than rounding."""
    made_of = result.get("converted", result)
    change = abs(made_of["mean_iou"] - made_of["exported_mean_iou"])
    if made_of["different"] > MAX_DIFFERENCE or change > MAX_MEAN_IOU_CHANGE:
        raise ExportError(
            f"{output} was not written: it predicts something else than the run. On "
            f"{describe(result)}; allowed are {MAX_DIFFERENCE:.1%} and {MAX_MEAN_IOU_CHANGE}"
        )
