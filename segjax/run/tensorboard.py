"""TensorBoard files, written without TensorFlow."""

import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import jax
import numpy as np
from tensorboardX import SummaryWriter


class Summaries:
    """Writes scalars, pictures and text to workdir/tensorboard, on the first process only.

    with Summaries(workdir) as summaries:
        summaries.scalars(step, {"train/loss": 0.3, "val/mean_iou": 0.7, "val_iou/Car": 0.8})
    """

    def __init__(self, workdir: str | Path, *, purge_step: int | None = None) -> None:
        """Opens the event file.

        Args:
          workdir: the run's directory.
          purge_step: on resuming, the first step that will run again. TensorBoard then drops what
            the interrupted run wrote from there on, and the curves stay continuous.
        """
        self._writer = None
        if jax.process_index() == 0:
            self._writer = SummaryWriter(
                str(Path(workdir) / "tensorboard"),
                purge_step=purge_step,
                flush_secs=10,
                # File names hold whole seconds: a run resumed at once would overwrite the first.
                filename_suffix=f".{purge_step or 0:09d}",
            )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one point per curve. NaN, the score of an absent class, leaves a gap."""
        if self._writer:
            for name, value in values.items():
                if not math.isnan(value):
                    self._writer.add_scalar(name, float(value), step)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Writes a picture, uint8 [H, W, 3]."""
        if self._writer:
            self._writer.add_image(name, picture, step, dataformats="HWC")

    def text(self, step: int, name: str, text: str) -> None:
        """Writes Markdown."""
        if self._writer:
            self._writer.add_text(name, text, step)

    def __enter__(self) -> "Summaries":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._writer:
            self._writer.close()
