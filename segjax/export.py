"""Writes a trained network as one file, to run without segjax: StableHLO, ONNX or safetensors.

  python -m segjax.export --workdir runs/camvid-cpu --format stablehlo --output camvid.zip --verify
  python -m segjax.export --workdir runs/camvid-cpu --format onnx --output camvid.onnx --verify
  python -m segjax.export --workdir runs/camvid --format safetensors --output camvid.safetensors

StableHLO and ONNX files are programs: in goes `image`, uint8 [batch, height, width, 3] RGB; out
come `label`, uint8 [batch, height, width], and `probabilities`, float32 [batch, height, width,
classes]. Normalisation and padding are inside. StableHLO takes any height and width; ONNX those
that the network was trained on, and any batch. A run that resizes its images was trained on `size`
in the metadata: stretch them to it. If `value_range` in the metadata is not empty, its two numbers
of what image files hold become 0 and 255, and what lies beyond is clipped, before all that.

`segjax.predict --model FILE` does that, and takes either program in place of a run. A safetensors
file holds the weights alone, for PyTorch: those of the network that its metadata name.
"""

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from absl import flags

from segjax import cli
from segjax.errors import ConfigError, ExportError

if TYPE_CHECKING:
    from segjax.networks import Network, Trained

FORMATS = ("stablehlo", "onnx", "safetensors")
CHECKPOINTS = ("best", "latest")
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
OPSET = 18  # of ONNX: TensorRT 10 and ONNX Runtime 1.14 know it
MAX_DIFFERENCE = 1e-3  # share of pixels of another class
MAX_MEAN_IOU_CHANGE = 1e-3


def define_flags() -> None:
    """The flags of this entry point."""
    flags.DEFINE_string("workdir", None, "The trained run.")
    flags.DEFINE_enum("checkpoint", "best", CHECKPOINTS, "best (by validation mIoU) or latest.")
    flags.DEFINE_enum("format", "stablehlo", FORMATS, "stablehlo, onnx or safetensors.")
    flags.DEFINE_string("output", None, "The file to write.")
    flags.DEFINE_bool("verify", False, "Compare with the run on its validation images.")
    flags.DEFINE_string("data_root", None, "Where the data are, if not where they were.")


def metadata(trained: "Trained") -> dict[str, Any]:
    """What a file says of its network, as JSON holds it."""
    from segjax import workdir
    from segjax.state import fingerprint

    config = workdir.as_json(trained.config)
    canonical = json.dumps(config, sort_keys=True).encode()
    return {
        "input": "image: uint8 [batch, height, width, 3], RGB",
        "outputs": ["label: uint8 [batch, height, width]",
                    "probabilities: float32 [batch, height, width, classes]"],
        "table": json.loads(trained.table.to_json()),
        "size": config["data"]["size"],
        "fit": config["data"]["fit"],
        "value_range": config["data"]["value_range"],
        "mean": config["model"]["mean"],
        "std": config["model"]["std"],
        "step": trained.step,
        "parameters": fingerprint(trained.variables["params"]),
        "config_sha256": hashlib.sha256(canonical).hexdigest(),
    }  # fmt: skip


def to_stablehlo(trained: "Trained", path: Path) -> None:
    """Writes a zip file with the program (`jax.export`, every platform) and metadata.json."""
    import jax
    from jax import export

    from segjax import networks

    shape = export.symbolic_shape("batch, height, width, 3")
    image = jax.ShapeDtypeStruct(shape, "uint8")
    program = export.export(jax.jit(lambda x: _outputs(trained.logits(x))), platforms=PLATFORMS)
    content = (program(image).serialize(), json.dumps(metadata(trained), indent=2))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, member in zip(networks.MEMBERS, content, strict=True):
            file.writestr(name, member)


def to_onnx(trained: "Trained", path: Path) -> None:
    """Writes an ONNX file with metadata.

    Raises ConfigError where jax2onnx is not installed, or does not know the installed JAX.
    """
    import flax.linen as nn
    import jax
    from jax import export

    from segjax import networks
    from segjax.models import layers

    def outputs(image: jax.Array) -> tuple[jax.Array, jax.Array]:
        with nn.intercept_methods(layers.as_convolution):
            return tuple(_outputs(trained.logits(image)).values())

    height, width = trained.config.data.size
    shape = export.symbolic_shape(f"batch, {height}, {width}, 3")
    # jax2onnx adds biases of another rank, whatever the process allows.
    with _jax2onnx() as convert, jax.numpy_rank_promotion("allow"):
        model = convert(
            outputs,
            [jax.ShapeDtypeStruct(shape, "uint8")],
            model_name="segjax",
            opset=OPSET,
            input_names=["image"],
            output_names=["label", "probabilities"],
        )
    del model.graph.value_info[:]  # shapes inside, which jax2onnx gives in another order of axes
    entry = model.metadata_props.add()
    entry.key, entry.value = networks.METADATA_KEY, json.dumps(metadata(trained))
    path.write_bytes(model.SerializeToString())


@contextmanager
def _jax2onnx() -> Iterator[Callable]:
    """jax2onnx's converter, with the name that JAX 0.12 has moved; its failures as ConfigError."""
    import jax
    from jax.extend import core

    try:
        # jax2onnx 0.17 takes ClosedJaxpr from where JAX before 0.12 had it.
        with mock.patch.object(jax._src.core, "ClosedJaxpr", core.ClosedJaxpr, create=True):
            from jax2onnx import to_onnx

            logging.getLogger("onnx_ir").setLevel(logging.ERROR)
            yield to_onnx
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--format onnx: {error}; pip install --no-deps -r requirements-onnx.txt"
        ) from error
    except (AttributeError, ImportError, NotImplementedError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"--format onnx: jax2onnx {version('jax2onnx')} fails with jax {jax.__version__} "
            f"({reason}); take --format stablehlo, or other versions of the two (README.md says "
            "which were tested)"
        ) from error


def to_safetensors(trained: "Trained", path: Path) -> None:
    """Writes the state of segmentation_models.pytorch's U-Net, with metadata in the header.

    Raises ConfigError where its U-Net cannot be this network, or safetensors is not installed.
    """
    from segjax import interchange

    interchange.write(path, trained.variables, trained.config.model, metadata(trained))


def _read_back(trained: "Trained", path: Path) -> "Network":
    import jax
    import jax.numpy as jnp

    from segjax import networks, pretrained, tensor_files

    if not tensor_files.read_header(path):
        return networks.read_file(path)[0]
    variables = pretrained.load(path, jax.tree.map(jnp.zeros_like, trained.variables))
    return trained._replace(variables=variables).network()


def _outputs(logits: Any) -> dict[str, Any]:
    import jax

    return {
        "label": logits.argmax(-1).astype("uint8"),
        "probabilities": jax.nn.softmax(logits),
    }


def compare(trained: "Trained", path: Path, data_root: str | None = None) -> dict[str, float]:
    """A run and an exported file on all validation images, at their own resolution.

    Returns:
      `images`, `different` (share of the pixels), `mean_iou` and `exported_mean_iou`.
    """
    import numpy as np
    from tqdm import tqdm

    from segjax import iou
    from segjax.data import check
    from segjax.predictor import Predictor

    config = trained.config.data.copy_and_resolve_references()
    config.update(root=data_root or config.root, allow_missing_classes=True)
    source = check.usable(config, "val", check.check(config, splits=("val",)))
    models = Predictor(trained.network()), Predictor(_read_back(trained, path))
    different = total = 0
    confusion = np.zeros((2, len(trained.table.names), len(trained.table.names)), np.int64)
    for i in tqdm(range(len(source)), unit="image", disable=None):
        example = source[i]
        labels = [model.label(example["image"]) for model in models]
        different, total = different + (labels[0] != labels[1]).sum(), total + labels[0].size
        confusion += [iou.confusion_matrix(example["label"], x, confusion.shape[1]) for x in labels]
    scores = [float(iou.metrics(matrix)["mean_iou"]) for matrix in confusion]
    return {
        "images": len(source),
        "different": float(different / total),
        "mean_iou": scores[0],
        "exported_mean_iou": scores[1],
    }


def export_run(
    folder: str | Path,
    output: str | Path,
    format: str = "stablehlo",
    *,
    checkpoint: str = "best",
    verify: bool = False,
    data_root: str | None = None,
) -> dict[str, float]:
    """Exports a run, in float32; returns the comparison, empty without `verify`.

    Raises ExportError, and writes no file, where the exported network predicts something else.
    """
    writers = {"stablehlo": to_stablehlo, "onnx": to_onnx, "safetensors": to_safetensors}
    from segjax import networks

    trained, output = networks.restore(folder, checkpoint, dtype="float32"), Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f".{output.name}.tmp")
    try:
        writers[format](trained, unfinished)
        result = compare(trained, unfinished, data_root) if verify else {}
        if result:
            _judge(result, output)
        os.replace(unfinished, output)
    finally:
        unfinished.unlink(missing_ok=True)
    return result


def _describe(result: dict[str, float]) -> str:
    text = "{images} validation images: {different:.3%} of the pixels differ, mIoU {mean_iou:.4f}, "
    return (text + "exported {exported_mean_iou:.4f}").format(**result)


def _judge(result: dict[str, float], output: Path) -> None:
    change = abs(result["mean_iou"] - result["exported_mean_iou"])
    if result["different"] > MAX_DIFFERENCE or change > MAX_MEAN_IOU_CHANGE:
        raise ExportError(
            f"{output} was not written: it predicts something else than the run. On "
            f"{_describe(result)}; allowed are {MAX_DIFFERENCE:.1%} and {MAX_MEAN_IOU_CHANGE}"
        )


def main() -> None:
    """Exports, and says what was written."""
    values = flags.FLAGS
    for name in ("workdir", "output"):
        if not values[name].value:
            raise ConfigError(f"--{name} is missing; see --help")
    options = {name: values[name].value for name in ("checkpoint", "verify", "data_root")}
    if (values.format == "onnx") != (Path(values.output).suffix.lower() == ".onnx"):
        raise ConfigError(
            f"--output {values.output} with --format {values.format}: ONNX files end in .onnx, and "
            "no others do"
        )
    result = export_run(values.workdir, values.output, values.format, **options)
    print(f"{values.output}: {Path(values.output).stat().st_size / 2**20:.1f} MiB")
    if result:
        print(f"Verified on {_describe(result)}")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
