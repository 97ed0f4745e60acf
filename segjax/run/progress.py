"""What the terminal shows while training: a live line in a terminal, plain lines elsewhere."""

import logging
import math
import sys
import time
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger(__name__)


class Progress:
    """Measures images/s and the share of time spent waiting for data, and prints both."""

    def __init__(
        self, start_step: int, total_steps: int, steps_per_epoch: int, batch_size: int
    ) -> None:
        self.total_steps, self.steps_per_epoch = total_steps, steps_per_epoch
        self.batch_size = batch_size
        live = sys.stderr.isatty()
        self._bar = tqdm(total=total_steps, initial=start_step, unit="step", disable=not live)
        self._redirect = logging_redirect_tqdm()
        self._reset()

    def _reset(self) -> None:
        self._since, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The same batches, with the time that each was waited for."""
        while True:
            start = time.perf_counter()
            batch = next(batches)
            self._waited += time.perf_counter() - start
            yield batch

    def pause(self) -> None:
        """Restarts the clock, after an evaluation or a checkpoint."""
        self._bar.unpause()
        self._reset()

    def step(self, compiled: bool = False) -> None:
        """Counts one step; one that was compiled first says nothing about the rate."""
        if compiled:
            self.pause()
        else:
            self._steps += 1
        self._bar.update()

    def show(self, step: int, loss: float, accuracy: float) -> dict[str, float]:
        """Prints the state of things, and returns images/s and the data-wait share since last.

        Both are NaN where there was no step but one that was compiled first.
        """
        seconds = max(time.perf_counter() - self._since, 1e-9)
        rate = self._steps * self.batch_size / seconds if self._steps else math.nan
        waiting = self._waited / seconds if self._steps else math.nan
        epoch = -(-step // self.steps_per_epoch)
        self._bar.set_description(f"epoch {epoch}")
        self._bar.set_postfix_str(f"loss {loss:.4f}" + f", {rate:.1f} images/s" * bool(self._steps))
        if self._bar.disable:
            speed = ""
            if self._steps:
                left = (self.total_steps - step) * self.batch_size / rate
                speed = (
                    f"  {rate:.1f} images/s  waiting for data {100 * waiting:.0f} %  ETA "
                    f"{tqdm.format_interval(left)}"
                )
            log.info(
                "step %d/%d  epoch %d  loss %.4f  accuracy %.3f%s",
                *(step, self.total_steps, epoch, loss, accuracy, speed),
            )
        self._reset()
        return {"images_per_s": rate, "data_wait": waiting}

    def __enter__(self) -> "Progress":
        self._redirect.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.close()
        self._redirect.__exit__(*error)
