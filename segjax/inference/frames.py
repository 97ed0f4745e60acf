"""Frames of a video, a camera or a stream, and files and windows that they go to."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from segjax.data.fitting import resize_image
from segjax.errors import ConfigError, DataError
from segjax.inference.stages import Stages
from segjax.runtime.files import make_parent

CODEC = "mp4v"  # what OpenCV can write into .mp4 everywhere
RATES = (1, 240)  # frames/s that are believed
DEFAULT_RATE = 30.0  # where they are not, or a camera gives none
WINDOW = "segjax (q ends)"


class Frame(NamedTuple):
    """image: uint8 [H, W, 3] RGB; start: when its decoding began, in s."""

    image: np.ndarray
    start: float


def open_source(source: str) -> tuple[cv2.VideoCapture, tuple[int, int]]:
    """The capture, and height and width of its frames; DataError where there are none."""
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


def rate_of(capture: cv2.VideoCapture) -> float:
    """Frames/s of a video."""
    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if RATES[0] <= rate <= RATES[1] else DEFAULT_RATE


def count_of(capture: cv2.VideoCapture, source: str) -> int:
    """How many frames a video says it has; 0 for a camera or a stream."""
    return 0 if source.isdecimal() else max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))


def open_writer(output: Path, rate: float, shape: tuple[int, int]) -> cv2.VideoWriter:
    """A writer of .mp4 files; DataError where it cannot be opened."""
    code = cv2.VideoWriter_fourcc(*CODEC)
    size = tuple(n + n % 2 for n in shape[::-1])
    writer = cv2.VideoWriter(str(make_parent(output)), code, rate, size)
    if not writer.isOpened():
        raise DataError(f"{output} cannot be written as a video; choose another --output")
    return writer


def even(picture: np.ndarray) -> np.ndarray:
    """A picture with an odd last row or column twice: codecs take even sizes only."""
    below, right = (n % 2 for n in picture.shape[:2])
    return cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_REPLICATE)


def open_window() -> None:
    """The window of --show; ConfigError where OpenCV has none."""
    try:
        cv2.namedWindow(WINDOW)
    except cv2.error as error:
        raise ConfigError(
            "--show: this OpenCV has no windows; pip uninstall opencv-python-headless and pip "
            "install opencv-python"
        ) from error


def decode(capture: cv2.VideoCapture, shape: tuple[int, int], stages: Stages) -> Iterator[Frame]:
    """Frames until the video ends, all of one shape."""
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
