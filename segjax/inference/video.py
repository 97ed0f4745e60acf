"""A video or a camera, segmented as it plays: decoding, the network and encoding overlap.

Each of the three runs in a thread of its own and passes its results on through a short queue, so
that the slowest sets the pace and no more than a few frames are in memory.
"""

import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
from tqdm import tqdm

from segjax.errors import ConfigError
from segjax.inference import frames, inputs
from segjax.inference.frames import Frame
from segjax.inference.predictor import Predictor, classes, joined
from segjax.inference.stages import Stages, ahead
from segjax.runtime.files import write_json

AHEAD = 2  # frames decoded before they are needed
IN_FLIGHT = 2  # frames in the network

Draw = Callable[[np.ndarray, np.ndarray], np.ndarray]
Bands = Callable[[np.ndarray], list[tuple[int, jax.Array]]]  # see `fitting.Fit.bands`


def predict_video(
    model: Predictor,
    source: str,
    output: Path,
    *,
    smoothing: float = 0.0,
    show: bool = False,
    opacity: float = 0.5,
    contours: bool = False,
) -> dict[str, Any]:
    """Segments a video, a camera or a stream; returns and writes summary.json.

    For what is in it see `segment_video`; the picture is `Predictor.overlay`.
    """
    kind = model.network.pixels
    if not kind.is_rgb:
        raise ConfigError(
            f"--input {source}: the network takes {kind.describe()}, and a video has colours of 8 "
            "bits; give its frames as images"
        )
    if kind.value_range:
        raise ConfigError(
            f"--input {source}: the network was trained with config.data.value_range = "
            f"{kind.value_range}, and a video has 8 bits; give its frames as images"
        )
    result = output / f"{inputs.name_of(source)}.mp4"
    if result.resolve() == Path(source).resolve():
        raise ConfigError(f"--output {output} would replace the video; choose another folder")
    inputs.require_own(output, [result] if result.exists() else [])
    draw = partial(model.overlay, opacity=opacity, contours=contours)
    summary = segment_video(model, source, result, smoothing=smoothing, show=show, draw=draw)
    write_json(output / "summary.json", summary)
    return summary


def segment_video(
    model: Predictor,
    source: str,
    output: Path,
    *,
    smoothing: float = 0.0,
    show: bool = False,
    draw: Draw | None = None,
) -> dict[str, Any]:
    """Writes the video with its classes laid over it; Ctrl-C and a vanished camera end it well.

    Args:
      source: a file, the number of a camera, or the address of a stream (rtsp://…).
      output: an .mp4 file.
      smoothing: share of the frames before in the probabilities, 0 (none) to 1.
      show: also in a window.
      draw: a frame and its label to a picture of the same shape; by default `model.overlay`.

    Returns:
      frames, expected_frames (0 for a camera), frames_per_s, latency_ms (p50, p95), the share of
      the time that each stage worked, class_shares, and interrupted: whether by Ctrl-C or the
      window's q.
    """
    if not 0 <= smoothing < 1:
        raise ConfigError(f"--smoothing is {smoothing}; give at least 0 and less than 1")
    shape, expected, result = _segment(model, source, output, smoothing, show, draw)
    return {
        "input": re.sub("//[^/]*@", "//", source),  # an address may hold a password
        "output": str(output),
        "size": list(shape),
        "expected_frames": expected,
        **result,
    }


def _segment(
    model: Predictor, source: str, output: Path, smoothing: float, show: bool, draw: Draw | None
) -> tuple[tuple[int, int], int, dict[str, Any]]:
    """The frames' shape, how many were expected, and what the summary says of those written."""
    stages = Stages()
    with ExitStack() as stack:
        capture, shape = frames.open_source(source)
        stack.callback(capture.release)
        bands = _warmed_up(model, shape, smoothing)
        if show:
            frames.open_window()
            stack.callback(cv2.destroyAllWindows)
        writer = frames.open_writer(output, frames.rate_of(capture), shape)
        stack.callback(writer.release)
        decoded = ahead(frames.decode(capture, shape, stages), AHEAD)
        labelled = stack.enter_context(closing(ahead(_labelled(decoded, bands, stages), 1)))
        expected = frames.count_of(capture, source)
        bar = stack.enter_context(tqdm(total=expected or None, unit="frame", disable=None))
        written = _Written(model.table.names)
        _write(labelled, draw or model.overlay, writer, written, bar, show, stages)
        return shape, expected, written.summary(stages)


def _warmed_up(model: Predictor, shape: tuple[int, int], smoothing: float) -> Bands:
    """The function from a frame to bands of class ids, compiled before the first frame.

    It does not wait for them. Raises ConfigError where frames in tiles, or refined ones, are to be
    smoothed.
    """
    if smoothing and model.refines:
        raise ConfigError(
            "--smoothing averages the scores of the segmenter, which a refiner redraws in every "
            "frame; leave it out, or take the segmenter alone"
        )
    if smoothing and model.fit.is_tiled(shape):
        raise ConfigError(
            f"--smoothing: frames of {shape[0]}×{shape[1]} are cut into tiles for this network, "
            "and these are not smoothed; leave it out"
        )
    previous, num_classes = None, len(model.table.names)

    @jax.jit
    def smooth(previous: jax.Array, logits: jax.Array) -> jax.Array:
        return smoothing * previous + (1 - smoothing) * jax.nn.softmax(logits)

    def bands(image: np.ndarray) -> list[tuple[int, jax.Array]]:
        nonlocal previous
        if not smoothing:
            return list(model.fit.bands(model.network.logits, image, num_classes, classes))
        scores = model.network.logits(model.fit.input(image)[None])[0]
        scores = jax.nn.softmax(scores) if previous is None else smooth(previous, scores)
        previous = scores
        return list(model.fit.rows(scores, shape, classes))

    for _ in range(3):
        joined(bands(np.zeros((*shape, 3), np.uint8)), np.empty(shape, np.uint8))
    previous = None
    return bands


def _labelled(
    decoded: Iterator[Frame], bands: Bands, stages: Stages
) -> Iterator[tuple[Frame, np.ndarray]]:
    """Frames with their class ids, uint8 [H, W]."""
    in_flight: deque = deque()

    def oldest() -> tuple[Frame, np.ndarray]:
        frame, found = in_flight.popleft()
        return frame, joined(found, np.empty(frame.image.shape[:2], np.uint8))

    with closing(decoded):
        for frame in decoded:
            with stages.working("network"):
                in_flight.append((frame, bands(frame.image)))
                done = oldest() if len(in_flight) == IN_FLIGHT else None
            if done:
                yield done
        while in_flight:
            yield oldest()


class _Written:
    """What summary.json says of the frames written so far."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names, self.counts = names, np.zeros(len(names), np.int64)
        self.latencies: list[float] = []
        self.interrupted, self.start = False, time.perf_counter()

    def summary(self, stages: Stages) -> dict[str, Any]:
        """Numbers of the frames; see `segment_video`."""
        seconds = time.perf_counter() - self.start
        p50, p95 = np.percentile(self.latencies, (50, 95)) if self.latencies else (0, 0)
        shares = self.counts / max(1, self.counts.sum())
        return {
            "frames": len(self.latencies),
            "interrupted": self.interrupted,
            "frames_per_s": round(len(self.latencies) / seconds, 2),
            "latency_ms": {"p50": round(1000 * p50, 1), "p95": round(1000 * p95, 1)},
            "busy": {stage: round(busy / seconds, 3) for stage, busy in stages.busy.items()},
            "class_shares": dict(zip(self.names, shares.round(6).tolist(), strict=True)),
        }


def _write(
    labelled: Iterator[tuple[Frame, np.ndarray]],
    draw: Draw,
    writer: cv2.VideoWriter,
    written: _Written,
    bar: tqdm,
    show: bool,
    stages: Stages,
) -> None:
    """Lays the classes over the frames and writes them, until they end or someone ends them."""
    try:
        for frame, label in labelled:
            with stages.working("encode"):
                picture = cv2.cvtColor(draw(frame.image, label), cv2.COLOR_RGB2BGR)
                writer.write(frames.even(picture))
                written.counts += np.bincount(label.ravel(), minlength=len(written.counts))
            written.latencies.append(time.perf_counter() - frame.start)
            bar.update()
            if show:
                cv2.imshow(frames.WINDOW, picture)
                if cv2.waitKey(1) == ord("q"):
                    written.interrupted = True
                    break
    except KeyboardInterrupt:
        written.interrupted = True
