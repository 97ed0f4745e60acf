"""Evaluates a trained run on a split, or on other labelled data: scores as JSON, and pictures.

  python -m segjax.evaluate --workdir runs/camvid-cpu --split test
  python -m segjax.evaluate --workdir runs/camvid-cpu --split test --tta=flip,0.75,1.25
  python -m segjax.evaluate --workdir runs/camvid-cpu --data_root other
  python -m segjax.evaluate --workdir runs/camvid-cpu --images other/photos --masks other/masks
  python -m segjax.evaluate --pretrained segformer-b0 --data_root other --output b0.json

The configuration comes from the work directory, or from what is beside the weights.
report/<split>.json has the scores of the run's own data, also where --data_root says that they have
moved; those of other data go to report/<name>.json and are of all images of a folder
ROOT/{images,masks}, or of the split of a ROOT that is divided into folders. Other data may have a
classes.json that names the same classes.
"""

from absl import flags

from segjax.errors import ConfigError
from segjax.runtime import cli, process

cli.define_multihost()
cli.define_checkpoint()
flags.DEFINE_string("workdir", None, "The run to evaluate.")
cli.define_pretrained()
flags.DEFINE_enum("split", "val", ("train", "val", "test"), "The split to evaluate on.")
flags.DEFINE_string(
    "data_root", None, "Where the run's data are, if not where they were, or other data."
)
flags.DEFINE_string("images", None, "A folder of images, all to be scored, with --masks.")
flags.DEFINE_string("masks", None, "A folder of masks that have the names of the images.")
flags.DEFINE_string("name", None, "The report's name; by default the split's or the folder's.")
flags.DEFINE_string("output", None, "A .json file for the report, in place of report/NAME.json.")
flags.DEFINE_list("tta", [], "Average over flip and scales, as in segjax.predict: flip,0.75.")
flags.DEFINE_enum(
    "resolution",
    None,
    ("native", "input"),
    "Count at the labels' own resolution or at that of the network's input; as trained by default.",
)
OPTIONS = (
    *("split", "checkpoint", "data_root", "resolution"),
    *("images", "masks", "name", "output", "tta", "refine"),
)


def main() -> None:
    """Evaluates, and prints the table of scores."""
    values = flags.FLAGS
    if (values.images or values.masks) and (values.data_root or values["split"].present):
        raise ConfigError(
            "--images and --masks are scored whole; leave out --data_root and --split"
        )
    import jax  # late: it takes seconds to import, --help should not

    from segjax.evaluation.report import format_table
    from segjax.inference import segment
    from segjax.training.evaluate_run import evaluate_run

    process.use_kept_memory()
    model = segment.choose(**cli.values(("workdir", "pretrained")))
    report = evaluate_run(model, **cli.values(OPTIONS))
    if jax.process_index() == 0:
        print(format_table(report))


if __name__ == "__main__":
    cli.run(main)
