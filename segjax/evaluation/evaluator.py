"""The one evaluator: validation while training, `segjax.evaluate` and experiments all call it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import numpy as np

from segjax.data.decode import Example
from segjax.data.fitting import pad, padded_shape, resize_image
from segjax.data.label_table import VOID, LabelTable
from segjax.data.pipeline import MAX_LOGITS, EvalSplit, FixedShapeSource, eval_batches
from segjax.data.pixels import shown
from segjax.evaluation import boundary, iou, plots, report
from segjax.evaluation.loss import Loss
from segjax.evaluation.step import counts
from segjax.runtime.devices import Parallel
from segjax.runtime.files import write_json

RESOLUTIONS = ("native", "input")
Picture = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass
class Evaluation:
    """What one split gave.

    confusion: int64 [C, C]; edges: int64, see `boundary.counts`; loss: of the whole split, as if it
    were one batch (Lovász, and the boundary loss next to other bands: of every band of
    an image that is too large to be taken at once);
    num_tiled: images that were cut into tiles; data: which they are; pictures: image uint8
    [H, W, 3], label and prediction uint8 [H, W] of a few examples of the split.
    """

    confusion: np.ndarray
    edges: dict[str, np.ndarray]
    loss: float
    num_images: int
    num_tiled: int = 0
    data: dict[str, Any] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)

    @property
    def scores(self) -> dict[str, Any]:
        """See `iou.metrics` and `boundary.metrics`."""
        return iou.metrics(self.confusion) | boundary.metrics(self.edges)


def evaluate(
    variables: Any,
    examples: EvalSplit,
    *,
    step: Callable,
    loss: Loss,
    logits: Callable,
    devices: Parallel,
    batch_size: int,
    num_pictures: int = 0,
) -> Evaluation:
    """Scores every example of a split once.

    Args:
      variables: params and batch_stats, on the devices.
      step: `step.eval_step`, compiled by `devices`; loss: the one whose sums it gives; logits: of
        variables, the function that `fitting` or `refining` takes, for images that go through the
        network alone.
      batch_size: at most; rounded up to a multiple of the number of devices.
    """
    sizes = [_batch_size(group, batch_size, len(devices.devices)) for group in examples.groups]
    drawn = _drawn(examples, sizes, devices.process[1], num_pictures)
    scored = [
        _score_group(partial(step, variables), group, size, devices, rows)
        for group, size, rows in zip(examples.groups, sizes, drawn, strict=False)
    ]
    if len(examples.large):
        scored.append(_score_large(logits, variables, examples, loss, devices, drawn[-1]))
    totals, pictures = None, []
    for sums, drawn_now in chain(*scored):
        sums = jax.tree.map(_widened, sums)
        totals = jax.tree.map(np.add, totals, sums) if totals else sums
        pictures += drawn_now
    value = float(loss.value(totals["loss"]))
    facts = len(examples), examples.num_tiled, examples.about
    return Evaluation(totals["confusion"], totals["boundary"], value, *facts, pictures)


def _drawn(examples: EvalSplit, sizes: list[int], num_processes: int, count: int) -> list[set[int]]:
    """Which examples of every group, and at last of the large ones, become pictures.

    They are of those that the first process sees, for it is the one that draws.
    """
    seen = [
        (number, i)
        for number, (group, size) in enumerate(zip(examples.groups, sizes, strict=True))
        for i in range(len(group))
        if i % size < size // num_processes
    ]
    seen += [(len(sizes), i) for i in range(len(examples.large))]
    drawn = [set() for _ in range(len(sizes) + 1)]
    for place in np.linspace(0, len(seen) - 1, count).astype(int):
        number, i = seen[place]
        drawn[number].add(i)
    return drawn


def _score_group(
    step: Callable, group: FixedShapeSource, batch_size: int, devices: Parallel, drawn: set[int]
) -> Iterator[tuple[Any, list[Picture]]]:
    for start, batch in eval_batches(group, batch_size, devices.process):
        # In float64, on the host: a width that is rounded the other way is another score.
        batch["widths"] = boundary.widths(batch["size"])
        sums, prediction = step(devices.shard(batch))
        sums = devices.unreplicate(sums)
        rows = [i for i in range(len(batch["size"])) if start + i in drawn]
        prediction = devices.unshard(prediction) if rows else None
        yield sums, [_picture(batch, prediction, row, group.stretched) for row in rows]


def _batch_size(group: FixedShapeSource, at_most: int, num_devices: int) -> int:
    num_logits = np.prod(group.label_shape) * len(group.source.table.names)
    size = max(1, min(at_most, len(group), int(MAX_LOGITS // num_logits)))
    return -(-size // num_devices) * num_devices


def _picture(
    batch: dict[str, np.ndarray], prediction: np.ndarray, row: int, stretched: bool
) -> Picture:
    height, width = batch["size"][row].tolist()
    image, label = batch["image"][row], batch["label"][row, :height, :width]
    image = resize_image(image, (height, width)) if stretched else image[:height, :width]
    return shown(image), label, prediction[row, :height, :width]


def _score_large(
    logits: Callable,
    variables: Any,
    split: EvalSplit,
    loss: Loss,
    devices: Parallel,
    drawn: set[int],
) -> Iterator[tuple[Any, list[Picture]]]:
    """Every process scores all large images, and all of a refiner, one at a time on one device."""
    variables = jax.device_put(devices.unreplicate(variables), jax.local_devices()[0])
    for i in range(len(split.large)):
        example = split.large[i]
        sums, prediction = _score_bands(logits(variables), example, split, loss)
        yield sums, [(shown(example["image"]), example["label"], prediction)] if i in drawn else []


def _score_bands(
    logits: Any, example: Example, split: EvalSplit, loss: Loss
) -> tuple[dict[str, Any], np.ndarray]:
    """The sums of `step.eval_step` and the prediction, uint8 [H, W], of one image, in bands."""
    label, num_classes = example["label"], len(split.table.names)
    shape = padded_shape(label.shape)
    prediction, losses = np.zeros(shape, np.uint8), None
    for top, band in split.fit.bands(logits, example["image"], num_classes, _unchanged):
        rows = pad(label[top : top + len(band), : band.shape[1]], band.shape[:2], VOID)
        sums, classes = _score_band(loss, band, rows)
        out = prediction[top : top + len(band), : band.shape[1]]
        out[:] = np.asarray(classes)[: out.shape[0], : out.shape[1]]
        losses = jax.tree.map(np.add, losses, sums) if losses else sums
    size = np.array([label.shape], np.int32)
    counted = _counts(
        pad(label, shape, VOID)[None],
        prediction[None],
        size,
        boundary.widths(size),
        num_classes=num_classes,
    )
    return {"loss": losses, **counted}, prediction[: label.shape[0], : label.shape[1]]


_counts = jax.jit(counts, static_argnames="num_classes")


@partial(jax.jit, static_argnames="loss")
def _score_band(loss: Loss, logits: jax.Array, label: jax.Array) -> tuple[Any, jax.Array]:
    return loss.sums(logits[None], label[None]), logits.argmax(-1).astype("uint8")


def _unchanged(logits: jax.Array) -> jax.Array:
    return logits


def _widened(x: Any) -> np.ndarray:
    """As 64 bits, which a whole split's pixels need."""
    x = np.asarray(x)
    return x.astype(np.int64 if np.issubdtype(x.dtype, np.integer) else np.float64)


def write_report(
    path: Path,
    result: Evaluation,
    table: LabelTable,
    step: int,
    resolution: str,
    tta: Sequence[str] = (),
    writes: bool = True,
) -> dict[str, Any]:
    """Returns the report; if it `writes` (one process does), it goes to `path`, pictures beside it.

    step: of the evaluated parameters; resolution: at which size the pixels were counted; tta: what
    was averaged over.
    """
    about = {
        "loss": result.loss,
        "num_images": result.num_images,
        "num_tiled": result.num_tiled,
        "resolution": resolution,
        "tta": list(tta),
        "checkpoint_step": step,
        "data": result.data,
    }
    pixels = result.confusion.sum(axis=1)
    content = report.split_report(result.scores, pixels, table.names, about)
    if not writes:
        return content
    write_json(path, content)
    _draw(path, result, table, f"{path.stem}, step {step}: mIoU {content['mean_iou']:.3f}")
    return content


def _draw(path: Path, result: Evaluation, table: LabelTable, title: str) -> None:
    # The pictures of the validation split keep the plain names.
    prefix = "" if path.stem == "val" else f"{path.stem}_"
    plots.confusion_picture(result.confusion, table.names, path.parent / f"{prefix}confusion.png")
    if result.pictures:
        plots.save_predictions(
            path.parent / f"{prefix}predictions.png",
            *zip(*result.pictures, strict=True),
            table.palette,
            table.names,
            title,
        )
