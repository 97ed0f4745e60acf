"""Images, a video or a camera in, results in a folder out: what `python -m segjax.predict` does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segjax.data.problems import some
from segjax.errors import ConfigError, DataError
from segjax.inference import inputs, networks, predictor
from segjax.inference.images import predict_images
from segjax.inference.masks import find_masks
from segjax.inference.predictor import Predictor
from segjax.inference.video import predict_video
from segjax.inference.volumes import predict_volumes
from segjax.runtime.files import expand
from segjax.weights import downloaded

MIN_SHARE = 0.95  # of a video's frames; containers with sound count a few too many


PLACES = {
    "workdir": "the folder of a run",
    "model": "an exported file",
    "pretrained": "weights of another library",
}


def choose(**places: str | None) -> str:
    """The one of these flags of PLACES that is given; ConfigError for none and for several."""
    given = {flag: path for flag, path in places.items() if path}
    if not given:
        raise ConfigError(f"give {', or '.join(f'--{flag}, {PLACES[flag]}' for flag in places)}")
    if len(given) > 1:
        raise ConfigError(f"--{' and --'.join(given)} are given together; leave all but one out")
    ((flag, path),) = given.items()
    if flag == "model" and not Path(path).is_file():
        raise DataError(f"--model {path}: no such file")
    if flag == "workdir" and not Path(path).is_dir():
        raise DataError(f"--workdir {path}: no such folder; train first")
    if flag == "pretrained":
        downloaded.require(Path(path))
    return path


def segment(
    model: str | Path | Predictor,
    source: str,
    output: str | Path,
    *,
    checkpoint: str = "best",
    tta: Sequence[str] = (),
    refine: str | Path | None = None,
    uncertain_only: bool = False,
    masks: str | Path | None = None,
    overlay: bool = False,
    opacity: float | None = None,
    contours: bool = False,
    probabilities: bool = False,
    vector: bool = False,
    axis: int | None = None,
    smoothing: float = 0.0,
    show: bool = False,
) -> dict[str, Any]:
    """Segments images, a video or a camera; returns and writes OUTPUT/summary.json.

    For the arguments see the flags of segjax.predict; `model` is a work directory, a file that
    segjax.export wrote, weights of another library, or what `predictor.load` returned. (Long, for
    it has many arguments.)

    Raises ConfigError for arguments that do not go together, DataError where there is no input.
    """
    source, output = expand(source), Path(expand(str(output)))
    video, volumes = inputs.find_video(source), inputs.find_volumes(source)
    if not 0 <= (opacity or 0) <= 1:
        raise ConfigError(f"--opacity is {opacity}; give 0 (not seen) to 1")
    drawing = {"opacity": 0.5 if opacity is None else opacity, "contours": contours}
    if volumes:
        given = {"overlay": overlay, "probabilities": probabilities, "masks": masks,
                 "vector": vector, "smoothing": smoothing, "show": show}  # fmt: skip
        for name in (name for name, value in given.items() if value):
            raise ConfigError(f"--{name} is not for volumes, of which label maps are made")
    elif axis is not None:
        raise ConfigError(f"--axis is for NIfTI volumes; --input {source} is none")
    elif video:
        for name, value in (
            ("probabilities", probabilities),
            ("masks", masks),
            ("vector", vector),
        ):
            if value:
                raise ConfigError(f"--{name} is for images; a video becomes an overlay")
    else:
        for name, value in (("show", show), ("smoothing", smoothing)):
            if value:
                raise ConfigError(f"--{name} is for a video; --input {source} is none")
        if (opacity is not None or contours) and not overlay:
            raise ConfigError("--opacity and --contours change overlays; add --overlay")
        inputs.find_images(
            source, output, overlay, probabilities, vector
        )  # before the network is loaded
        masks = masks and _place_of_masks(masks, output, tta)
    _make_folder(output)
    model = _load(model, checkpoint, tta, refine, uncertain_only)
    if masks and not model.refines:
        raise ConfigError(f"--masks {masks}: {networks.NO_REFINER}")
    if volumes:
        return predict_volumes(model, volumes, output, axis)
    found = find_masks(masks, model.table) if masks else None
    if video:
        return predict_video(model, video, output, smoothing=smoothing, show=show, **drawing)
    return predict_images(
        model,
        source,
        output,
        overlay=overlay,
        probabilities=probabilities,
        masks=found,
        vector=vector,
        **drawing,
    )


def _load(
    model: str | Path | Predictor,
    checkpoint: str,
    tta: Sequence[str],
    refine: str | Path | None,
    uncertain_only: bool,
) -> Predictor:
    if not isinstance(model, Predictor):
        model = predictor.load(model, checkpoint, tta, refine)
    elif refine:
        raise ConfigError("refine is given with a model that is loaded; give it to segjax.load")
    return Predictor(networks.only_uncertain(model.network)) if uncertain_only else model


def _place_of_masks(folder: str | Path, output: Path, tta: Sequence[str]) -> Path:
    """Their folder; ConfigError where they are not to be refined, or would be replaced."""
    folder = Path(expand(str(folder)))
    if not folder.is_dir():
        raise DataError(f"--masks {folder}: no such folder")
    if tta:
        raise ConfigError(
            "--tta is of the segmenter, which does not run with --masks; leave it out"
        )
    if folder.resolve() == output.resolve():
        raise ConfigError(f"--output {output} would replace the masks; choose another folder")
    return folder


def _make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--output {output} cannot be made a folder ({error.strerror}); choose another"
        ) from error


def report(summary: dict[str, Any], output: str) -> None:
    """Prints what `segment` did; raises DataError for what was skipped or damaged."""
    if "frames" in summary:
        _report_video(summary)
    else:
        _report_images(summary, output)


def _report_images(summary: dict[str, Any], output: str) -> None:
    for line in some(summary["unused"]):
        print(f"not used: {line}")
    for line in summary["warnings"]:
        print(f"warning: {line}")
    counts = ", ".join(f"{len(summary[kind])} {kind}" for kind in ("skipped", "unused"))
    print(f"{len(summary['images'])} images segmented, {counts}: {output}/summary.json")
    if summary["skipped"]:
        raise DataError("\n".join(["these were skipped:", *summary["skipped"]]))


def _report_video(summary: dict[str, Any]) -> None:
    frames, expected, latency = (summary[k] for k in ("frames", "expected_frames", "latency_ms"))
    busy = ", ".join(f"{stage} {share:.0%}" for stage, share in summary["busy"].items())
    print(f"{summary['output']}: {frames} frames, {summary['frames_per_s']} frames/s, latency "
          f"{latency['p50']} ms (95 %: {latency['p95']} ms); at work: {busy}")  # fmt: skip
    if summary["interrupted"]:
        raise KeyboardInterrupt
    if frames < MIN_SHARE * max(expected, 1):
        raise DataError(
            f"{summary['input']} ended after {frames} of {expected} frames: it is damaged or cut "
            "off"
        )
