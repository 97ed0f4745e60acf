"""Writes a trained network, to run without segjax: StableHLO, ONNX, or weights for PyTorch.

  python -m segjax.export --workdir runs/camvid-cpu --format stablehlo --output camvid.zip --verify
  python -m segjax.export --workdir runs/camvid-cpu --format onnx --output camvid.onnx --verify
  python -m segjax.export --workdir runs/camvid --format safetensors --output camvid.safetensors
  python -m segjax.export --workdir runs/segformer --format transformers --output segformer
  python -m segjax.export --pretrained segformer-b0 --format onnx --output segformer.onnx
  python -m segjax.export --workdir runs/mine --refine runs/refined --output mine.zip --verify

StableHLO and ONNX files are programs: in goes `image`, uint8 [batch, height, width, 3] RGB or the
bands and the type that the run was trained on (`input` in the metadata); out come `label`, uint8
[batch, height, width], and `probabilities`, float32 [batch, height, width, classes], computed in
float32. Normalisation and padding are inside. StableHLO takes any height and width; ONNX those that
the network was trained on, and any batch. A run that resizes its images (`fit` in the metadata) was
trained on `size`: stretch them to it. Any other takes images whole, and was scored with `fill`
below and at the right, as segjax/data/fitting.py says. If `value_range` in the metadata is not
empty, its two numbers of what image files hold become 0 and 255, and what lies beyond is clipped,
before all that.

A refiner is one program with its segmenter: StableHLO takes images of any size as they are (`fit`
is `whole`), ONNX those of --size, by default the most common size of the validation images.

`segjax.predict --model FILE` does that, and takes either program in place of a run. A safetensors
file holds the weights alone, for segmentation_models.pytorch: those of the network that its
metadata name. The folder that `transformers` writes is for its
`SegformerForSemanticSegmentation.from_pretrained`.
"""

from absl import flags

from segjax.errors import ConfigError
from segjax.runtime import cli

cli.define_checkpoint()
flags.DEFINE_string("workdir", None, "The trained run.")
cli.define_pretrained()
flags.DEFINE_enum(
    "format",
    "stablehlo",
    ("stablehlo", "onnx", "safetensors", "transformers"),
    "stablehlo, onnx, safetensors or transformers.",
)
flags.DEFINE_string("output", None, "The file to write; with transformers the folder.")
flags.DEFINE_list(
    "size", None, "Of the ONNX file of a refiner, or of --pretrained: height and width: 256,320."
)
flags.DEFINE_bool("verify", False, "Compare with the run on its validation images.")
flags.DEFINE_string("data_root", None, "Where the data are, if not where they were.")


def main() -> None:
    """Exports, and prints what was written."""
    cli.require("output")
    # Late: JAX takes seconds to import, --help should not.
    from segjax.inference import export_run, segment

    values = flags.FLAGS
    model = segment.choose(**cli.values(("workdir", "pretrained")))
    options = cli.values(("format", "checkpoint", "verify", "data_root", "refine"))
    output = values.output
    result = export_run.export_run(model, output, size=_size(), **options)
    print(export_run.describe(output, result))


def _size() -> list[int] | None:
    given = flags.FLAGS.size
    try:
        return given and [int(n) for n in given]
    except ValueError as error:
        raise ConfigError(f"--size is {','.join(given)}; give height and width") from error


if __name__ == "__main__":
    cli.run(main)
