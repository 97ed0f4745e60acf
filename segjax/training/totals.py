"""What the training steps of an epoch add up to, and the rows that the curves are drawn from."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from segjax.evaluation import iou


@dataclass
class Totals:
    """Sums over the steps of the running epoch; part of the checkpoint, so that no step is lost."""

    loss: float = 0.0
    steps: int = 0
    confusion: Any = 0
    gan: dict[str, float] = field(default_factory=dict)

    def add(self, metrics: dict[str, Any]) -> None:
        """Adds one step's `loss`, `confusion` and, where there is a discriminator, `gan`."""
        for name, value in metrics.get("gan", {}).items():
            # Not what a checkpoint of an earlier version lacks: its mean would be of a few steps.
            if name in self.gan or not self.steps:
                self.gan[name] = self.gan.get(name, 0.0) + float(value)
        self.loss += float(metrics["loss"])
        self.steps += 1
        self.confusion = self.confusion + metrics["confusion"].astype(np.int64)

    def scores(self) -> dict[str, float]:
        """Means of the steps: loss, accuracy, mean_iou, and gan/… with a discriminator."""
        scores = iou.metrics(self.confusion)
        return {
            "loss": self.loss / self.steps,
            "accuracy": scores["pixel_accuracy"],
            "mean_iou": scores["mean_iou"],
            **{f"gan/{name}": value / self.steps for name, value in self.gan.items()},
        }

    def to_json(self) -> dict[str, Any]:
        """Content for `from_json`."""
        confusion = np.asarray(self.confusion).tolist()
        return {"loss": self.loss, "steps": self.steps, "confusion": confusion, "gan": self.gan}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Totals":
        """What `to_json` wrote."""
        confusion = np.array(content["confusion"], np.int64)
        return cls(content["loss"], content["steps"], confusion, content["gan"])


def prefixed(prefix: str, scores: dict[str, float]) -> dict[str, float]:
    """{'loss': 1} to {'train_loss': 1} for the prefix 'train_'."""
    return {f"{prefix}{name}": value for name, value in scores.items()}
