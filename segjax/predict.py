"""Segments images or a video with a trained run, or with a file that segjax.export wrote.

  python -m segjax.predict --workdir runs/camvid-cpu --input photo.jpg --output out --overlay
  python -m segjax.predict --workdir runs/camvid-cpu --input 'photos/**/*.png' --output out
  python -m segjax.predict --model camvid.onnx --input photos --output out
  python -m segjax.predict --workdir runs/camvid-cpu --input drive.mp4 --output out
  python -m segjax.predict --workdir runs/camvid-cpu --input 0 --output out --show

Images become class ids as PNG, a video and a camera (by number) a video with the classes laid over
it; summary.json has class shares and times. A folder and folders linked into it are walked; hidden
files, earlier results and masks beside images are no input, and what is not used is named. A file
that cannot be read is reported and skipped; the exit code is 1 then.
"""

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from segjax.data.problems import some
from segjax.errors import ConfigError, DataError
from segjax.inference import inputs
from segjax.runtime import cli

if TYPE_CHECKING:
    from segjax.data.values import Census

CHECKPOINTS = ("best", "latest")
log = logging.getLogger("segjax.predict")  # its __name__ is __main__
Draw = Callable[[np.ndarray, np.ndarray], np.ndarray]  # an image and its label, as a picture
MIN_SHARE = 0.95  # of a video's frames; containers with sound count a few too many


def define_flags() -> None:
    """The flags of this entry point."""
    flags.DEFINE_string("workdir", None, "The trained run.")
    flags.DEFINE_string("model", None, "In place of --workdir: a file that segjax.export wrote.")
    flags.DEFINE_string(
        "input",
        None,
        "An image, a pattern such as 'photos/**/*.jpg', a folder, a video, a stream such as "
        "rtsp://…, or a camera's number.",
    )
    flags.DEFINE_string("output", None, "The folder that the results go to.")
    flags.DEFINE_enum("checkpoint", "best", CHECKPOINTS, "best (by validation mIoU) or latest.")
    flags.DEFINE_bool("overlay", False, "Also write NAME_overlay.png: the classes over the image.")
    flags.DEFINE_float("opacity", 0.5, "Of the classes in overlays and videos, 0 to 1.")
    flags.DEFINE_bool("contours", False, "Outline the classes in overlays and videos.")
    flags.DEFINE_bool("probabilities", False, "Also write NAME.npz: probabilities, float16.")
    flags.DEFINE_list(
        "tta",
        [],
        "Average over flip (the mirrored image) and scales: --tta=flip,0.75,1.25. Slower.",
    )
    flags.DEFINE_float("smoothing", 0.0, "Of a video: share of the frames before, 0 to 1.")
    flags.DEFINE_bool("show", False, "Of a video: also in a window.")


def predict_file(
    model: Any,
    path: Path,
    out: Path,
    draw: Draw | None,
    probabilities: bool,
    census: "Census | None" = None,
) -> dict[str, Any]:
    """Writes the results of one image; returns its entry of the summary, and adds to `census`."""
    from PIL import Image

    from segjax.data import decode

    try:
        raster = decode.read(path.read_bytes(), str(path))
        image = decode.to_rgb(raster, str(path), model.network.value_range)
        if census:
            census.add(str(path), decode.stored_in(raster))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    start = time.perf_counter()
    scores = None
    if probabilities:
        label, scores = model.label_and_probabilities(image)
    else:
        label = model.label(image)
    seconds = time.perf_counter() - start
    out.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(label, mode="P")
    picture.putpalette(model.table.palette.astype(np.uint8).tobytes())
    picture.save(out, pnginfo=_origin())
    if draw:
        Image.fromarray(draw(image, label)).save(inputs.overlay_of(out), pnginfo=_origin())
    if probabilities:
        np.savez_compressed(out.with_suffix(".npz"), probabilities=scores)
    shares = np.bincount(label.ravel(), minlength=len(model.table.names)) / label.size
    return {
        "input": str(path),
        "output": str(out),
        "size": list(label.shape),
        "seconds": round(seconds, 4),
        "class_shares": dict(zip(model.table.names, shares.round(6).tolist(), strict=True)),
    }


def _origin() -> Any:
    """By which a later call knows its own results."""
    from PIL.PngImagePlugin import PngInfo

    origin = PngInfo()
    origin.add_text("Software", inputs.SOFTWARE)
    return origin


def predict_images(
    model: Any,
    pattern: str,
    output: Path,
    *,
    overlay: bool = False,
    probabilities: bool = False,
    opacity: float = 0.5,
    contours: bool = False,
) -> dict[str, list]:
    """Segments every image of `pattern`; returns and writes summary.json.

    It holds `images`, `skipped` (that could not be read), `unused` (that are no input) and
    `warnings` about images that are dark to the network.
    """
    from tqdm import tqdm

    from segjax.data import values
    from segjax.runtime.files import write_json

    files, unused = inputs.find_images(pattern, output, overlay, probabilities)
    summary = {"images": [], "skipped": [], "unused": unused, "warnings": []}
    census = values.Census(model.network.value_range)
    draw = partial(model.overlay, opacity=opacity, contours=contours) if overlay else None
    log.info("Compiling the network")
    model.label(np.zeros((*model.network.size, 3), np.uint8))
    try:
        for path, out in tqdm(files.items(), unit="image", disable=None):
            try:
                summary["images"].append(
                    predict_file(model, path, out, draw, probabilities, census)
                )
            except DataError as error:
                summary["skipped"].append(str(error))
    finally:  # after Ctrl-C too
        if not model.network.value_range:
            summary["warnings"] = values.dark_inputs(census.values)
        write_json(output / "summary.json", summary)
    return summary


def predict_video(
    model: Any,
    source: str,
    output: Path,
    *,
    smoothing: float = 0.0,
    show: bool = False,
    opacity: float = 0.5,
    contours: bool = False,
) -> dict[str, Any]:
    """Segments a video, a camera or a stream; returns and writes summary.json.

    For what is in it see `video.segment_video`.
    """
    from segjax.inference.video import segment_video
    from segjax.runtime.files import write_json

    if model.network.value_range:
        raise ConfigError(
            f"--input {source}: the network was trained with config.data.value_range = "
            f"{model.network.value_range}, and a video has 8 bits; give its frames as images"
        )
    result = output / f"{inputs.name_of(source)}.mp4"
    if result.resolve() == Path(source).resolve():
        raise ConfigError(f"--output {output} would replace the video; choose another folder")
    inputs.require_own(output, [result] if result.exists() else [])
    draw = partial(model.overlay, opacity=opacity, contours=contours)
    summary = segment_video(model, source, result, smoothing=smoothing, show=show, draw=draw)
    write_json(output / "summary.json", summary)
    return summary


def _load() -> Any:
    values = flags.FLAGS
    if not values.workdir and not values.model:
        raise ConfigError("give --workdir, the folder of a run, or --model, an exported file")
    if values.workdir and values.model:
        raise ConfigError("--workdir and --model are both given; leave one of them out")
    if values.model and not Path(values.model).is_file():
        raise DataError(f"--model {values.model}: no such file")
    if values.workdir and not Path(values.workdir).is_dir():
        raise DataError(f"--workdir {values.workdir}: no such folder; train first")
    try:
        Path(values.output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--output {values.output} cannot be made a folder ({error.strerror}); choose another"
        ) from error
    from segjax.inference import predictor

    return predictor.load(values.model or values.workdir, values.checkpoint, values.tta)


def _main_images() -> None:
    values = flags.FLAGS
    for name in ("show", "smoothing"):
        if values[name].value:
            raise ConfigError(f"--{name} is for a video; --input {values.input} is none")
    if (values["opacity"].present or values.contours) and not values.overlay:
        raise ConfigError("--opacity and --contours change overlays; add --overlay")
    output = Path(values.output)
    # Before the network is loaded.
    inputs.find_images(values.input, output, values.overlay, values.probabilities)
    names = ("overlay", "probabilities", "opacity", "contours")
    options = {name: values[name].value for name in names}
    summary = predict_images(_load(), values.input, output, **options)
    for line in some(summary["unused"]):
        print(f"not used: {line}")
    for line in summary["warnings"]:
        print(f"warning: {line}")
    counts = ", ".join(f"{len(summary[kind])} {kind}" for kind in ("skipped", "unused"))
    print(f"{len(summary['images'])} images segmented, {counts}: {values.output}/summary.json")
    if summary["skipped"]:
        raise DataError("\n".join(["these were skipped:", *summary["skipped"]]))


def _main_video(source: str) -> None:
    values = flags.FLAGS
    if values.probabilities:
        raise ConfigError("--probabilities is for images; a video becomes an overlay")
    names = ("smoothing", "show", "opacity", "contours")
    options = {name: values[name].value for name in names}
    summary = predict_video(_load(), source, Path(values.output), **options)
    frames, expected, latency = (summary[k] for k in ("frames", "expected_frames", "latency_ms"))
    busy = ", ".join(f"{stage} {share:.0%}" for stage, share in summary["busy"].items())
    print(f"{summary['output']}: {frames} frames, {summary['frames_per_s']} frames/s, latency "
          f"{latency['p50']} ms (95 %: {latency['p95']} ms); at work: {busy}")  # fmt: skip
    if summary["interrupted"]:
        raise KeyboardInterrupt
    if frames < MIN_SHARE * max(expected, 1):
        raise DataError(
            f"{values.input} ended after {frames} of {expected} frames: it is damaged or cut off"
        )


def main() -> None:
    """Predicts, and raises at the end what was skipped."""
    values = flags.FLAGS
    for name in ("input", "output"):
        if not values[name].value:
            raise ConfigError(f"--{name} is missing; see --help")
    if not 0 <= values.opacity <= 1:
        raise ConfigError(f"--opacity is {values.opacity}; give 0 (not seen) to 1")
    video = inputs.find_video(values.input)
    if video:
        _main_video(video)
    else:
        _main_images()


if __name__ == "__main__":
    define_flags()
    cli.run(main)
