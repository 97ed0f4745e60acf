"""What --input of segjax.predict names: images, a video, or a camera."""

import glob
import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit

from segjax.data.formats import geotiff
from segjax.data.formats.volumes import is_volume
from segjax.data.listing import SUFFIXES, Listing, is_hidden, is_mask_folder, list_images
from segjax.data.problems import some
from segjax.errors import ConfigError, DataError
from segjax.inference import georeference

SUMMARIES = ({"images", "skipped"}, {"output", "frames"})  # keys of images', and of a video's
SOFTWARE = georeference.SOFTWARE  # what files say of themselves that it wrote
# fmt: off
VIDEO_SUFFIXES = {
    ".3gp", ".asf", ".avi", ".divx", ".flv", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv",
    ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv",
}
# fmt: on


class Inputs(NamedTuple):
    """files: every image and its result; unused: what else there is, a line each."""

    files: dict[Path, Path]
    unused: list[str]


def is_camera(source: str) -> bool:
    """Whether --input is the number of a camera."""
    return source.isdecimal() and not Path(source).exists()


def is_stream(source: str) -> bool:
    """Whether --input is an address, such as rtsp://…"""
    return "://" in source and not Path(source).exists()


def name_of(source: str) -> str:
    """What the result of a video, a camera or a stream is called."""
    if is_camera(source):
        return f"camera{source}"
    if not is_stream(source):
        return Path(source).stem
    parts = urlsplit(source)
    return re.sub(r"[^\w.-]+", "_", PurePosixPath(parts.path).stem or parts.hostname or "stream")


def find_video(source: str) -> str | None:
    """The video, camera or stream that --input names; None where it names something else.

    Raises ConfigError for several videos.
    """
    if is_camera(source) or is_stream(source):
        return source
    found = [source] if Path(source).exists() else sorted(glob.glob(source, recursive=True))
    videos = [p for p in found if Path(p).suffix.lower() in VIDEO_SUFFIXES and Path(p).is_file()]
    if not found and Path(source).suffix.lower() in VIDEO_SUFFIXES:
        return source  # a file that does not exist
    if len(videos) < len(found) or not videos:
        return None
    if len(videos) > 1:
        raise ConfigError(
            f"--input {source} names {len(videos)} videos, {videos[0]} to {videos[-1]}; give one "
            "at a time"
        )
    return videos[0]


def find_volumes(source: str) -> list[Path]:
    """The NIfTI volumes that --input names; [] where it names something else.

    Raises ConfigError where it names images, too.
    """
    root = Path(source)
    found = [root] if root.is_file() else sorted(map(Path, glob.glob(source, recursive=True)))
    if root.is_dir():
        found = [path for path in sorted(root.iterdir()) if not is_hidden(path.name)]
    volumes = [path for path in found if is_volume(path)]
    images = [path for path in found if path.suffix.lower() in SUFFIXES]
    if volumes and images:
        raise ConfigError(
            f"--input {source} names volumes and images, such as {images[0]}; give one kind"
        )
    return volumes


def find_images(
    pattern: str,
    output: Path,
    overlay: bool = False,
    probabilities: bool = False,
    vector: bool = False,
) -> Inputs:
    """Every image that a file, a pattern (** is any number of folders) or a folder names.

    Folders are walked. Results of earlier calls, and masks beside the images of a data set, are no
    input; whatever is not used is named.

    Args:
      output: the folder below which results go.
      overlay, probabilities, vector: whether there will be these beside the results.

    Raises:
      DataError: where there is no image.
      ConfigError: where a result would replace an image, another result, or a file of the user's.
    """
    root = Path(pattern)
    if root.is_file():
        base, (files, unused) = root.parent, Listing([root], [])
    else:
        base, found = (root, list_images(root)) if root.is_dir() else _match(pattern)
        files, unused = _without_results_and_masks(found, base, output)
    if not files:
        others = "".join(f"\n  not used: {line}" for line in some(unused))
        raise DataError(
            f"--input {pattern}: no such image, and no pattern or folder of images{others}"
        )
    results = [output / name for name in _names_of_results([p.relative_to(base) for p in files])]
    written = results + [overlay_of(result) for result in results if overlay]
    maps = [r.with_suffix(".tif") for f, r in zip(files, results, strict=True) if is_tiff(f)]
    beside = [result.with_suffix(".npz") for result in results if probabilities]
    beside += [path.with_suffix(".geojson") for path in maps if vector]
    lost = _not_ours(files, written + maps, beside)
    if lost:
        raise ConfigError(
            f"--output {output} would replace images or other files that segjax.predict (or this "
            f"version of it) did not write, such as {lost[0]}; choose another folder"
        )
    if len(set(written)) < len(written):
        raise ConfigError(f"--input {pattern}: two images would become one file; name them apart")
    require_own(output)
    return Inputs(dict(zip(files, results, strict=True)), unused)


def _names_of_results(names: list[Path]) -> list[str]:
    """a/b.png for a/b.jpg; a/b.jpg.png where there is another a/b."""
    stems = Counter(name.with_suffix("") for name in names)
    return [
        f"{name}.png" if stems[name.with_suffix("")] > 1 else str(name.with_suffix(".png"))
        for name in names
    ]


def is_tiff(path: Path) -> bool:
    """Whether a file may lie on a map."""
    return path.suffix.lower() in geotiff.SUFFIXES


def _not_ours(files: list[Path], written: list[Path], beside: list[Path]) -> list[Path]:
    """What would be replaced although segjax.predict did not write it: images, others' files."""
    images = {path.resolve() for path in files}
    return [
        *(p for p in written if p.resolve() in images or (p.exists() and not is_result(p))),
        *(p for p in beside if p.exists() and not p.with_suffix(".png").exists()),
    ]


def require_own(output: Path, videos: Sequence[Path] = ()) -> None:
    """Raises ConfigError where summary.json, or one of `videos`, is not of an earlier call."""
    path, summary = output / "summary.json", {}
    with suppress(OSError, ValueError):  # there is none, or it is another program's
        summary = json.loads(path.read_text(encoding="utf-8"))
    summary = summary if isinstance(summary, dict) else {}
    is_own = any(keys <= summary.keys() for keys in SUMMARIES) or not path.exists()
    named = Path(str(summary.get("output"))).name
    lost = [p for p in videos if p.name != named] + ([] if is_own else [path])
    if lost:
        raise ConfigError(
            f"{lost[0]} is there already, and not by the last call of segjax.predict on {output}; "
            "move it, or choose another --output"
        )


def overlay_of(result: Path) -> Path:
    """Where the overlay of a result goes."""
    return result.with_name(f"{result.stem}_overlay.png")


def is_result(path: Path) -> bool:
    """Whether segjax.predict wrote a PNG or TIFF file: it says so before its pixels."""
    mark = SOFTWARE if is_tiff(path) else f"tEXtSoftware\0{SOFTWARE}"
    try:
        with path.open("rb") as file:
            return mark.encode() in file.read(4096)
    except OSError:
        return False


def _is_ours(path: Path) -> bool:
    """Whether a file is a result, or the probabilities beside one."""
    return is_result(path.with_suffix(".png") if path.suffix == ".npz" else path)


def _match(pattern: str) -> tuple[Path, Listing]:
    """The part of a pattern before its first * or the like, and the images that match."""
    parts = Path(pattern).parts
    fixed = list(takewhile(lambda part: not re.search(r"[*?[]", part), parts))
    return Path(*fixed), list_images(Path(*fixed), parts[len(fixed) :])


def _without_results_and_masks(found: Listing, base: Path, output: Path) -> Listing:
    into, is_mask = output.resolve(), cache(is_mask_folder)
    below = base.resolve() in into.parents  # else all of the images may lie below `output`
    images, results, masks = [], [], defaultdict(list)
    for path in found.images:
        between = path.parents[: len(path.parents) - len(base.parents) - 1]
        mask_folder = next((p for p in between if is_mask(p)), None)
        if mask_folder:
            masks[mask_folder].append(path)
        elif _is_ours(path) or (below and into in path.resolve().parents):
            results.append(path)
        else:
            images.append(path)
    unused = [f"{p}: {len(files)} masks of the images beside it" for p, files in masks.items()]
    if results:
        unused.append(f"{results[0]}: one of {len(results)} results of segjax.predict")
    return Listing(images, [*found.unused, *unused])
