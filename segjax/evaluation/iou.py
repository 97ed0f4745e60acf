"""Mean IoU and its relatives, from one confusion matrix.

Definition: count every pixel of the split in a single matrix, leave void pixels out, take
IoU = TP / (TP + FP + FN) per class and average over the classes whose union is not empty.
Averaging the IoU of images, batches or devices gives another number.
Reference: Everingham et al., "The Pascal VOC Challenge: A Retrospective", IJCV 2015, section 3.2.
"""

import jax
import jax.numpy as jnp
import numpy as np


def confusion_matrix(label: jax.Array, prediction: jax.Array, num_classes: int) -> jax.Array:
    """Counts pixels by (label, prediction).

    Args:
      label: integers of any shape; a value that is no class (void, 255) is left out.
      prediction: integers of the same shape, 0 … num_classes-1, such as `logits.argmax(-1)`.
      num_classes: C.

    Returns:
      int32 [C, C], rows are labels, columns predictions. Sum over batches in int64, on the host.

    Raises:
      TypeError: where an array holds no integers.
      ValueError: where the two shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> from segjax.evaluation import iou
      >>> label = jnp.array([[0, 0, 1, 255]])
      >>> prediction = jnp.array([[0, 1, 1, 0]])
      >>> iou.confusion_matrix(label, prediction, num_classes=2).tolist()
      [[1, 1], [0, 1]]
    """
    for name, array in (("label", label), ("prediction", prediction)):
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise TypeError(f"{name} must hold integer class ids, got {array.dtype}")
    if label.shape != prediction.shape:
        raise ValueError(f"label {label.shape} and prediction {prediction.shape} differ in shape")
    label, prediction = label.astype(jnp.int32), prediction.astype(jnp.int32)
    # Void goes to one spill bin at the end. Integer bins stay exact where float32 stops at 2^24.
    is_class = (label >= 0) & (label < num_classes)
    cell = jnp.where(is_class, label * num_classes + prediction, num_classes**2)
    counts = jnp.bincount(cell.ravel(), length=num_classes**2 + 1)
    return counts[:-1].reshape(num_classes, num_classes).astype(jnp.int32)


def metrics(confusion: np.ndarray) -> dict[str, float | np.ndarray]:
    """Turns a confusion matrix of the whole split into scores in [0, 1], computed in float64.

    Args:
      confusion: int64 [C, C], rows are labels, columns predictions.

    Returns:
      mean_iou, mean_dice: over classes that occur in the labels or the predictions.
      mean_accuracy: over classes that occur in the labels.
      pixel_accuracy: share of the labelled pixels that are right.
      iou, accuracy (recall), dice: float64 [C], NaN where undefined.
      A mean over no class is NaN.

    Example:
      >>> from segjax.evaluation import iou
      >>> scores = iou.metrics([[1, 1], [0, 1]])
      >>> scores["iou"].tolist(), scores["mean_iou"]
      ([0.5, 0.5], 0.5)
      >>> round(scores["pixel_accuracy"], 3)
      0.667
    """
    confusion = np.asarray(confusion, np.int64)
    correct = np.diagonal(confusion)
    labelled, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    iou = ratio(correct, labelled + predicted - correct)
    accuracy = ratio(correct, labelled)
    dice = ratio(2 * correct, labelled + predicted)
    return {
        "mean_iou": mean(iou),
        "pixel_accuracy": float(ratio(correct.sum(), labelled.sum())),
        "mean_accuracy": mean(accuracy),
        "mean_dice": mean(dice),
        "iou": iou,
        "accuracy": accuracy,
        "dice": dice,
    }


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Element by element in float64, NaN where the denominator is 0."""
    undefined = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)


def mean(values: np.ndarray) -> float:
    """The mean of what is not NaN; NaN where nothing is left."""
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if defined.size else float("nan")
