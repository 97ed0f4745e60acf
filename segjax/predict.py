"""Segments images or a video with a trained run, or with a file that segjax.export wrote.

  python -m segjax.predict --workdir runs/camvid-cpu --input photo.jpg --output out --overlay
  python -m segjax.predict --workdir runs/camvid-cpu --input 'photos/*.png' --output out
  python -m segjax.predict --model camvid.onnx --input photos --output out
  python -m segjax.predict --workdir runs/camvid-cpu --input drive.mp4 --output out
  python -m segjax.predict --workdir runs/camvid-cpu --input 0 --output out --show

Images become class ids as PNG, a video and a camera (by number) a video with the classes laid over
it; summary.json has class shares and times. A folder is walked. A file that cannot be read is
reported and skipped; the exit code is 1 then.
"""

import glob
import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from segjax import cli
from segjax.errors import ConfigError, DataError

CHECKPOINTS = ("best", "latest")
log = logging.getLogger("segjax.predict")  # its __name__ is __main__
MIN_SHARE = 0.95  # of a video's frames; containers with sound count a few too many
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


def define_flags() -> None:
    """The flags of this entry point."""
    flags.DEFINE_string("workdir", None, "The trained run.")
    flags.DEFINE_string("model", None, "In place of --workdir: a file that segjax.export wrote.")
    flags.DEFINE_string(
        "input",
        None,
        "An image, a pattern such as 'photos/*.jpg', a folder, a video, or a camera's number.",
    )
    flags.DEFINE_string("output", None, "The folder that the results go to.")
    flags.DEFINE_enum("checkpoint", "best", CHECKPOINTS, "best (by validation mIoU) or latest.")
    flags.DEFINE_bool("overlay", False, "Also write NAME_overlay.png: the classes over the image.")
    flags.DEFINE_bool("probabilities", False, "Also write NAME.npz: probabilities, float16.")
    flags.DEFINE_list(
        "tta",
        [],
        "Average over flip (the mirrored image) and scales: --tta=flip,0.75,1.25. Slower.",
    )
    flags.DEFINE_float("smoothing", 0.0, "Of a video: share of the frames before, 0 to 1.")
    flags.DEFINE_bool("show", False, "Of a video: also in a window.")


def find_images(pattern: str, output: Path, overlay: bool = False) -> dict[Path, Path]:
    """Every image that a file, a pattern or a folder names, and its result below `output`.

    overlay: whether there will be overlays beside the results.

    Raises:
      DataError: where there is no image.
      ConfigError: where a result would replace an image or another result.
    """
    from segjax.data.folders import SUFFIXES

    root = Path(pattern).expanduser()
    if root.is_dir():
        files = [p for p in sorted(root.rglob("*")) if p.suffix.lower() in SUFFIXES]
        if output.resolve() != root.resolve():  # results of an earlier call are no input
            files = [p for p in files if output.resolve() not in p.resolve().parents]
        base = root
    else:
        files = [root] if root.exists() else [Path(p) for p in sorted(glob.glob(str(root)))]
        base = Path(os.path.commonpath([p.parent for p in files])) if files else root
    if not files:
        raise DataError(f"--input {pattern}: no such image, and no pattern or folder of images")
    names = [p.relative_to(base) for p in files]
    stems = [name.with_suffix("") for name in names]
    results = [
        output / (f"{name}.png" if stems.count(stem) > 1 else name.with_suffix(".png"))
        for name, stem in zip(names, stems, strict=True)
    ]
    written = results + [_overlay_of(result) for result in results if overlay]
    if {p.resolve() for p in files} & {p.resolve() for p in written}:
        raise ConfigError(f"--output {output} would replace images; choose another folder")
    if len(set(written)) < len(written):
        raise ConfigError(f"--input {pattern}: two images would become one file; name them apart")
    return dict(zip(files, results, strict=True))


def _overlay_of(result: Path) -> Path:
    return result.with_name(f"{result.stem}_overlay.png")


def predict_file(model: Any, path: Path, out: Path, overlay: bool, probabilities: bool) -> dict:
    """Writes the results of one image; returns its entry of the summary."""
    from PIL import Image

    from segjax.data.decode import decode_image

    try:
        image = decode_image(path.read_bytes(), str(path), model.network.value_range)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    start = time.perf_counter()
    label = model.label(image)
    seconds = time.perf_counter() - start
    out.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(label, mode="P")
    picture.putpalette(model.table.palette.astype(np.uint8).tobytes())
    picture.save(out)
    if overlay:
        blended = model.overlay(image, label)
        Image.fromarray(blended).save(_overlay_of(out))
    if probabilities:
        np.savez_compressed(out.with_suffix(".npz"), probabilities=model.probabilities(image))
    shares = np.bincount(label.ravel(), minlength=len(model.table.names)) / label.size
    return {
        "input": str(path),
        "output": str(out),
        "size": list(label.shape),
        "seconds": round(seconds, 4),
        "class_shares": dict(zip(model.table.names, shares.round(6).tolist(), strict=True)),
    }


def predict_images(
    model: Any, pattern: str, output: Path, *, overlay: bool = False, probabilities: bool = False
) -> dict[str, list]:
    """Segments every image of `pattern`; returns and writes summary.json: `images`, `skipped`."""
    from tqdm import tqdm

    from segjax.report import write_json

    files, summary = find_images(pattern, output, overlay), {"images": [], "skipped": []}
    log.info("Compiling the network")
    model.label(np.zeros((*model.network.size, 3), np.uint8))
    try:
        for path, out in tqdm(files.items(), unit="image", disable=None):
            try:
                summary["images"].append(predict_file(model, path, out, overlay, probabilities))
            except DataError as error:
                summary["skipped"].append(str(error))
    finally:  # after Ctrl-C too
        write_json(output / "summary.json", summary)
    return summary


def predict_video(
    model: Any, source: str, output: Path, *, smoothing: float = 0.0, show: bool = False
) -> dict[str, Any]:
    """Segments a video or a camera; returns and writes summary.json, see `video.segment_video`."""
    from segjax.report import write_json
    from segjax.video import segment_video

    if model.network.value_range:
        raise ConfigError(
            f"--input {source}: the network was trained with config.data.value_range = "
            f"{model.network.value_range}, and a video has 8 bits; give its frames as images"
        )
    name = f"camera{source}" if source.isdecimal() else Path(source).stem
    result = output / f"{name}.mp4"
    if result.resolve() == Path(source).resolve():
        raise ConfigError(f"--output {output} would replace the video; choose another folder")
    summary = segment_video(model, source, result, smoothing=smoothing, show=show)
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
        Path(values.output).expanduser().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--output {values.output} cannot be made a folder ({error.strerror}); choose another"
        ) from error
    from segjax import predictor

    return predictor.load(values.model or values.workdir, values.checkpoint, values.tta)


def _main_images() -> None:
    values = flags.FLAGS
    for name in ("show", "smoothing"):
        if values[name].value:
            raise ConfigError(f"--{name} is for a video; --input {values.input} is none")
    output = Path(values.output).expanduser()
    find_images(values.input, output, values.overlay)  # before the network is loaded
    options = {name: values[name].value for name in ("overlay", "probabilities")}
    summary = predict_images(_load(), values.input, output, **options)
    print(f"{len(summary['images'])} images segmented, {len(summary['skipped'])} skipped: "
          f"{values.output}/summary.json")  # fmt: skip
    if summary["skipped"]:
        raise DataError("\n".join(["these were skipped:", *summary["skipped"]]))


def _main_video() -> None:
    values = flags.FLAGS
    if values.probabilities:
        raise ConfigError("--probabilities is for images; a video becomes an overlay")
    options = {name: values[name].value for name in ("smoothing", "show")}
    output = Path(values.output).expanduser()
    summary = predict_video(_load(), values.input, output, **options)
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
    is_camera = values.input.isdecimal() and not Path(values.input).exists()
    if is_camera or Path(values.input).suffix.lower() in VIDEO_SUFFIXES:
        _main_video()
    else:
        _main_images()


if __name__ == "__main__":
    define_flags()
    cli.run(main)
