"""A video or a camera, segmented as it plays: decoding, the network and encoding overlap.

Each of the three runs in a thread of its own and hands on what it has made through a short queue,
so that the slowest sets the pace and no more than a few frames are held.
"""

import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from tqdm import tqdm

from segjax.data.fitting import resize_image
from segjax.errors import ConfigError, DataError
from segjax.inference.predictor import Predictor, classes, joined
from segjax.runtime.files import make_parent

CODEC = "mp4v"  # what OpenCV can write into .mp4 everywhere
RATES = (1, 240)  # frames/s that are believed
DEFAULT_RATE = 30.0  # where they are not, or a camera does not tell
AHEAD = 2  # frames decoded before they are needed
IN_FLIGHT = 2  # frames in the network
WINDOW = "segjax (q ends)"

Draw = Callable[[np.ndarray, np.ndarray], np.ndarray]
Bands = Callable[[np.ndarray], list[tuple[int, jax.Array]]]  # see `fitting.Fit.bands`


class Frame(NamedTuple):
    """image: uint8 [H, W, 3] RGB; start: when its decoding began, in s."""

    image: np.ndarray
    start: float


class Stages:
    """How long each stage was at work, in s."""

    def __init__(self) -> None:
        self.busy = {"decode": 0.0, "network": 0.0, "encode": 0.0}

    @contextmanager
    def working(self, stage: str) -> Iterator[None]:
        """Adds the time within."""
        start = time.perf_counter()
        yield
        self.busy[stage] += time.perf_counter() - start


def ahead(items: Iterator[Any], size: int) -> Iterator[Any]:
    """The items of a generator, made in another thread, `size` waiting and one more being made.

    Its exceptions are raised here; closing this closes it.
    """
    queue, stop = Queue(size), Event()

    def put(item: Any) -> None:
        while not stop.is_set():
            try:
                return queue.put(item, timeout=0.1)
            except Full:
                continue

    def work() -> None:
        end = None
        try:
            with closing(items):
                for item in items:
                    put((item, False))
                    if stop.is_set():
                        break
        except Exception as error:
            end = error
        put((end, True))

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            try:
                item, is_end = queue.get(timeout=0.1)  # a wait without end would not see Ctrl-C
            except Empty:
                continue
            if is_end and item is None:
                return
            if is_end:
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


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
    stages = Stages()
    with ExitStack() as stack:
        capture, shape = _open(source)
        stack.callback(capture.release)
        bands = _warmed_up(model, shape, smoothing)
        if show:
            _open_window()
            stack.callback(cv2.destroyAllWindows)
        rate = capture.get(cv2.CAP_PROP_FPS)
        rate = rate if RATES[0] <= rate <= RATES[1] else DEFAULT_RATE
        writer = _open_writer(output, rate, shape)
        stack.callback(writer.release)
        frames = ahead(_decode(capture, shape, stages), AHEAD)
        labelled = ahead(_labelled(frames, bands, stages), 1)
        stack.enter_context(closing(labelled))
        expected = 0 if source.isdecimal() else max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        result = _write(model, draw or model.overlay, labelled, writer, expected, show, stages)
    return {
        "input": re.sub("//[^/]*@", "//", source),  # an address may hold a password
        "output": str(output),
        "size": list(shape),
        "expected_frames": expected,
        **result,
    }


def _open(source: str) -> tuple[cv2.VideoCapture, tuple[int, int]]:
    """The capture, and height and width of its frames."""
    is_camera = source.isdecimal()
    if not is_camera and "://" not in source and not Path(source).is_file():
        raise DataError(f"--input {source}: no such video")
    capture = cv2.VideoCapture(int(source) if is_camera else source)
    shape = tuple(
        int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH)
    )
    if not capture.isOpened() or min(shape) < 1:
        capture.release()
        if is_camera:
            raise DataError(f"--input {source}: there is no camera of this number, or it is in use")
        if "://" in source:
            raise DataError(f"--input {source}: no stream can be opened there")
        raise DataError(f"{source} cannot be read as a video: it is damaged, cut off, or none")
    return capture, shape


def _warmed_up(model: Predictor, shape: tuple[int, int], smoothing: float) -> Bands:
    """The function from a frame to bands of class ids, compiled before the first frame.

    It does not wait for them. Raises ConfigError where frames in tiles are to be smoothed.
    """
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


def _open_writer(output: Path, rate: float, shape: tuple[int, int]) -> cv2.VideoWriter:
    code = cv2.VideoWriter_fourcc(*CODEC)
    even = tuple(n + n % 2 for n in shape[::-1])
    writer = cv2.VideoWriter(str(make_parent(output)), code, rate, even)
    if not writer.isOpened():
        raise DataError(f"{output} cannot be written as a video; choose another --output")
    return writer


def _even(picture: np.ndarray) -> np.ndarray:
    """With an odd last row or column twice, for codecs take even sizes only."""
    below, right = (n % 2 for n in picture.shape[:2])
    return cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_REPLICATE)


def _open_window() -> None:
    try:
        cv2.namedWindow(WINDOW)
    except cv2.error as error:
        raise ConfigError(
            "--show: this OpenCV has no windows; pip uninstall opencv-python-headless and pip "
            "install opencv-python"
        ) from error


def _decode(capture: cv2.VideoCapture, shape: tuple[int, int], stages: Stages) -> Iterator[Frame]:
    while True:
        with stages.working("decode"):
            start = time.perf_counter()
            found, image = capture.read()
            if found:
                image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                image = image if image.shape[:2] == shape else resize_image(image, shape)
        if not found:
            return
        yield Frame(image, start)


def _labelled(
    frames: Iterator[Frame], bands: Bands, stages: Stages
) -> Iterator[tuple[Frame, np.ndarray]]:
    """Frames with their class ids, uint8 [H, W]."""
    in_flight: deque = deque()

    def oldest() -> tuple[Frame, np.ndarray]:
        frame, found = in_flight.popleft()
        return frame, joined(found, np.empty(frame.image.shape[:2], np.uint8))

    with closing(frames):
        for frame in frames:
            with stages.working("network"):
                in_flight.append((frame, bands(frame.image)))
                done = oldest() if len(in_flight) == IN_FLIGHT else None
            if done:
                yield done
        while in_flight:
            yield oldest()


def _write(
    model: Predictor,
    draw: Draw,
    labelled: Iterator[tuple[Frame, np.ndarray]],
    writer: cv2.VideoWriter,
    expected: int,
    show: bool,
    stages: Stages,
) -> dict[str, Any]:
    """Lays the classes over the frames and writes them, until they end or someone ends them."""
    latencies, interrupted = [], False
    counts = np.zeros(len(model.table.names), np.int64)
    bar = tqdm(total=expected or None, unit="frame", disable=None)
    begin = time.perf_counter()
    try:
        for frame, label in labelled:
            with stages.working("encode"):
                picture = cv2.cvtColor(draw(frame.image, label), cv2.COLOR_RGB2BGR)
                writer.write(_even(picture))
                counts += np.bincount(label.ravel(), minlength=len(counts))
            latencies.append(time.perf_counter() - frame.start)
            bar.update()
            if show:
                cv2.imshow(WINDOW, picture)
                if cv2.waitKey(1) == ord("q"):
                    interrupted = True
                    break
    except KeyboardInterrupt:
        interrupted = True
    seconds = time.perf_counter() - begin
    bar.close()
    p50, p95 = np.percentile(latencies, (50, 95)) if latencies else (0, 0)
    shares = counts / max(1, counts.sum())
    return {
        "frames": len(latencies),
        "interrupted": interrupted,
        "frames_per_s": round(len(latencies) / seconds, 2),
        "latency_ms": {"p50": round(1000 * p50, 1), "p95": round(1000 * p95, 1)},
        "busy": {stage: round(busy / seconds, 3) for stage, busy in stages.busy.items()},
        "class_shares": dict(zip(model.table.names, shares.round(6).tolist(), strict=True)),
    }
