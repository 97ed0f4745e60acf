"""A trace of some training steps, for TensorBoard's profile plugin or for Perfetto."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import jax

log = logging.getLogger(__name__)


def traced(steps: Iterable[int], folder: Path, count: int) -> Iterator[int]:
    """Passes on the numbers of steps, and traces `count` of them after the first, which compiles.

    The trace goes to FOLDER/plugins/profile/TIME, where TensorBoard and Perfetto
    (NAME.trace.json.gz) find it. A step lasts until the next number is asked for.
    """
    with ExitStack() as trace:
        for i, step in enumerate(steps):
            if i == 1 and count:
                jax.profiler.start_trace(folder)
                trace.callback(_stop, folder)
            if 1 <= i <= count:
                with jax.profiler.StepTraceAnnotation("train", step_num=step):
                    yield step
            else:
                yield step
            if i == count:
                trace.close()


def _stop(folder: Path) -> None:
    jax.block_until_ready(jax.live_arrays())  # steps may be under way
    jax.profiler.stop_trace()
    log.info("Trace: %s", folder / "plugins" / "profile")
