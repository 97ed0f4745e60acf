"""The one evaluator: validation while training, `segjax.evaluate` and experiments all call it."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from segjax import boundary, iou, pictures, report
from segjax.data.datasets import LabelTable
from segjax.data.pipeline import Fitted, eval_batches, resize_image
from segjax.losses import Loss
from segjax.parallel import Parallel

RESOLUTIONS = ("native", "input")
MAX_LOGITS = 2**28  # of a batch: 1 GiB, however large the images are


@dataclass
class Evaluation:
    """What one split gave.

    confusion: int64 [C, C]; edges: int64, see `boundary.counts`; loss: of the whole split, as if it
    were one batch; pictures: image uint8 [H, W, 3], label and prediction uint8
    [H, W] of a few examples of the split.
    """

    confusion: np.ndarray
    edges: dict[str, np.ndarray]
    loss: float
    num_images: int
    pictures: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)

    @property
    def scores(self) -> dict[str, Any]:
        """See `iou.metrics` and `boundary.metrics`."""
        return iou.metrics(self.confusion) | boundary.metrics(self.edges)


def _picture(
    batch: dict[str, np.ndarray], prediction: np.ndarray, row: int, stretched: bool
) -> tuple:
    height, width = batch["size"][row].tolist()
    image, label = batch["image"][row], batch["label"][row, :height, :width]
    image = resize_image(image, (height, width)) if stretched else image[:height, :width]
    return image, label, prediction[row, :height, :width]


def evaluate(
    variables: Any,
    examples: Fitted,
    *,
    step: Any,
    loss: Loss,
    devices: Parallel,
    batch_size: int,
    num_pictures: int = 0,
) -> Evaluation:
    """Scores every example of a split once.

    Args:
      variables: params and batch_stats, on the devices.
      step: `steps.eval_step`, compiled by `devices`; loss: the one whose sums it gives.
      batch_size: at most; rounded up to a multiple of the number of devices.
    """
    count = len(devices.devices)
    num_logits = math.prod(examples.label_shape) * len(examples.source.table.names)
    batch_size = max(1, min(batch_size, len(examples), MAX_LOGITS // num_logits))
    batch_size = -(-batch_size // count) * count
    share = batch_size // devices.process[1]
    # Of what the first process sees, for it is the one that draws.
    seen = [i for i in range(len(examples)) if i % batch_size < share]
    wanted = {seen[i] for i in np.linspace(0, len(seen) - 1, num_pictures).astype(int)}
    totals, pictures = None, []
    for start, batch in eval_batches(examples, batch_size, devices.process):
        # In float64, on the host: a width that is rounded the other way is another score.
        batch["widths"] = boundary.widths(batch["size"])
        sums, prediction = step(variables, devices.shard(batch))
        sums = jax.tree.map(_widened, devices.unreplicate(sums))
        totals = jax.tree.map(np.add, totals, sums) if totals else sums
        rows = [i - start for i in sorted(wanted) if start <= i < start + share]
        if rows:
            prediction = devices.unshard(prediction)
            pictures += [_picture(batch, prediction, row, examples.stretched) for row in rows]
    value = float(loss.value(totals["loss"]))
    return Evaluation(totals["confusion"], totals["boundary"], value, len(examples), pictures)


def _widened(x: np.ndarray) -> np.ndarray:
    """As 64 bits, which a whole split's pixels need."""
    return x.astype(np.int64 if np.issubdtype(x.dtype, np.integer) else np.float64)


def write_split(
    folder: Path,
    name: str,
    result: Evaluation,
    table: LabelTable,
    step: int,
    resolution: str,
    writes: bool = True,
) -> dict[str, Any]:
    """Returns the report; if it `writes` (one process does), it and its pictures to report/."""
    content = report.split_report(
        result.scores,
        result.confusion.sum(axis=1),
        table.names,
        result.loss,
        result.num_images,
        step,
        resolution,
    )
    if not writes:
        return content
    folder = folder / "report"
    report.write_json(folder / f"{name}.json", content)
    # The pictures of the validation split keep the plain names.
    prefix = "" if name == "val" else f"{name}_"
    pictures.confusion_picture(result.confusion, table.names, folder / f"{prefix}confusion.png")
    if result.pictures:
        pictures.save_predictions(
            folder / f"{prefix}predictions.png",
            *zip(*result.pictures, strict=True),
            table.palette,
            table.names,
            f"{name}, step {step}: mIoU {content['mean_iou']:.3f}",
        )
    return content
