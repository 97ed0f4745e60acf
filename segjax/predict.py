"""Segments images or a video with a run, an exported file, or weights of another library.

  python -m segjax.predict --workdir runs/camvid-cpu --input photo.jpg --output out --overlay
  python -m segjax.predict --workdir runs/camvid-cpu --input 'photos/**/*.png' --output out
  python -m segjax.predict --model camvid.onnx --input photos --output out
  python -m segjax.predict --pretrained segformer-b0 --input photos --output out
  python -m segjax.predict --workdir runs/ct --input scan.nii.gz --output out
  python -m segjax.predict --workdir runs/land --input scene.tif --output out --vector
  python -m segjax.predict --workdir runs/camvid-cpu --input drive.mp4 --output out
  python -m segjax.predict --workdir runs/camvid-cpu --input 0 --output out --show
  python -m segjax.predict --workdir runs/mine --refine runs/refined --input photos --output out
  python -m segjax.predict --workdir runs/refined --masks theirs --input photos --output out

Images become class ids as PNG, those that lie on a map (GeoTIFF) as GeoTIFF, too, a NIfTI volume
becomes one of class ids, a video and a camera (by number) a video with the classes laid over it;
summary.json has class shares, areas where a file says how large its pixels are, and times. A folder
and folders linked into it are walked; hidden files, earlier results and masks beside images are no
input, and what is not used is named. A file that cannot be read is reported and skipped; the exit
code is 1 then. With --masks the mask of every image is refined, whatever made it, and one that is
missing or does not fit is reported likewise.
"""

from absl import flags

from segjax.runtime import cli

cli.define_checkpoint()
flags.DEFINE_string("workdir", None, "The trained run.")
flags.DEFINE_string("model", None, "In place of --workdir: a file that segjax.export wrote.")
cli.define_pretrained()
flags.DEFINE_string(
    "input",
    None,
    "An image, a pattern such as 'photos/**/*.jpg', a folder, a video, a stream such as "
    "rtsp://…, or a camera's number.",
)
flags.DEFINE_string("output", None, "The folder that the results go to.")
flags.DEFINE_bool("overlay", False, "Also write NAME_overlay.png: the classes over the image.")
flags.DEFINE_float("opacity", None, "Of the classes in overlays and videos, 0 to 1; 0.5 if absent.")
flags.DEFINE_bool("contours", False, "Outline the classes in overlays and videos.")
flags.DEFINE_bool("probabilities", False, "Also write NAME.npz: probabilities, float16.")
flags.DEFINE_bool(
    "vector", False, "Of a GeoTIFF: also write NAME.geojson, the classes' polygons on the map."
)
flags.DEFINE_integer(
    "axis",
    None,
    "Of a NIfTI volume: across which axis it is cut, 0 (right), 1 (anterior) or 2 (superior); by "
    "default that with the largest voxels.",
    lower_bound=0,
    upper_bound=2,
)
flags.DEFINE_list(
    "tta",
    [],
    "Average the segmenter's scores over flip (the mirrored image) and scales: "
    "--tta=flip,0.75,1.25. Slower.",
)
flags.DEFINE_bool(
    "uncertain_only", False, "Of a refiner: only windows with an edge or an uncertain pixel."
)
flags.DEFINE_string(
    "masks",
    None,
    "Of a refiner: a folder of masks of any program, by the names of the images, which are refined "
    "in place of the segmenter's result.",
)
flags.DEFINE_float("smoothing", 0.0, "Of a video: share of the frames before, 0 to 1.")
flags.DEFINE_bool("show", False, "Of a video: also in a window.")
OPTIONS = (
    *("checkpoint", "tta", "refine", "overlay", "opacity", "contours"),
    *("uncertain_only", "masks", "probabilities", "vector", "axis", "smoothing", "show"),
)


def main() -> None:
    """Predicts, prints a summary, and raises at the end what was skipped."""
    cli.require("input", "output")
    values = flags.FLAGS
    # Late: JAX takes seconds to import, --help should not.
    from segjax.inference import segment

    model = segment.choose(**cli.values(tuple(segment.PLACES)))
    summary = segment.segment(model, values.input, values.output, **cli.values(OPTIONS))
    segment.report(summary, values.output)


if __name__ == "__main__":
    cli.run(main)
