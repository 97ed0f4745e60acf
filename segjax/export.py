"""Writes a trained network as one file, to run without segjax: StableHLO, ONNX or safetensors.

  python -m segjax.export --workdir runs/camvid-cpu --format stablehlo --output camvid.zip --verify
  python -m segjax.export --workdir runs/camvid-cpu --format onnx --output camvid.onnx --verify
  python -m segjax.export --workdir runs/camvid --format safetensors --output camvid.safetensors

StableHLO and ONNX files are programs: in goes `image`, uint8 [batch, height, width, 3] RGB; out
come `label`, uint8 [batch, height, width], and `probabilities`, float32 [batch, height, width,
classes], computed in float32. Normalisation and padding are inside. StableHLO takes any height and
width; ONNX those that the network was trained on, and any batch. A run that resizes its images
(`fit` in the metadata) was trained on `size`: stretch them to it. Any other takes images whole, and
was scored with `fill` below and at the right, as segjax/data/fitting.py says. If `value_range` in
the metadata is not empty, its two numbers of what image files hold become 0 and 255, and what lies
beyond is clipped, before all that.

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

from segjax.errors import ConfigError, ExportError
from segjax.runtime import cli
from segjax.runtime.files import expand

if TYPE_CHECKING:
    from segjax.inference.networks import Network, Trained

FORMATS = ("stablehlo", "onnx", "safetensors")
CHECKPOINTS = ("best", "latest")
DTYPE = "float32"  # what files compute in: ONNX Runtime has no bfloat16 convolutions
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
    """What a file says of its network, as JSON holds it.

    dtype: what it computes in; scored_dtype: what the run was trained and scored in.
    """
    import jax.numpy as jnp

    from segjax.data.fitting import FILL
    from segjax.run import workdir
    from segjax.run.state import fingerprint

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
        "fill": list(FILL),
        "dtype": jnp.dtype(trained.model.dtype).name,
        "scored_dtype": config["model"]["dtype"],
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

    from segjax.inference import networks

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

    from segjax.inference import networks
    from segjax.models.layers.blocks import blocks

    def outputs(image: jax.Array) -> tuple[jax.Array, jax.Array]:
        with nn.intercept_methods(blocks.as_convolution):
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
    from segjax.weights import mapping

    mapping.write(path, trained.variables, trained.config.model, metadata(trained))


def _read_back(trained: "Trained", path: Path) -> "Network":
    import jax
    import jax.numpy as jnp

    from segjax.inference import networks
    from segjax.weights import pretrained, tensor_files

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


def compare(
    scored: "Trained", exported: "Trained", path: Path, data_root: str | None = None
) -> dict[str, Any]:
    """A run and an exported file on all validation images, at their own resolution.

    Args:
      scored: the run as the evaluator scores it; exported: in the dtype that the file computes in.

    Returns:
      `images`, `dtype` of the run, `different` (share of the pixels), `mean_iou` of the run and
      `exported_mean_iou`. Where the file cannot be used as the run was scored (another dtype, or
      tiles for a network of one size) also `converted`: the run as it is used, against the file, of
      which `different` and `mean_iou` say whether the file is what it was made of.
    """
    import numpy as np
    from tqdm import tqdm

    from segjax.data import check
    from segjax.evaluation import iou
    from segjax.inference.predictor import Predictor

    config = scored.config.data.copy_and_resolve_references()
    config.update(root=data_root or config.root, allow_missing_classes=True)
    source = check.usable(config, "val", check.check(config, splits=("val",), trained=True))
    file = _read_back(exported, path)
    models = {"file": file, "run": scored.network()}
    if (file.fixed_size and not file.resizes) or scored.model.dtype != exported.model.dtype:
        models["converted"] = exported.network()._replace(fixed_size=file.fixed_size)
    models = {name: Predictor(network) for name, network in models.items()}
    size, total = len(scored.table.names), 0
    different, confusion = dict.fromkeys(models, 0), dict.fromkeys(models, 0)
    for i in tqdm(range(len(source)), unit="image", disable=None):
        example = source[i]
        labels = {name: model.label(example["image"]) for name, model in models.items()}
        total += example["label"].size
        for name, label in labels.items():
            different[name] += (label != labels["file"]).sum()
            confusion[name] += np.int64(iou.confusion_matrix(example["label"], label, size))
    against = {
        name: {
            "different": float(different[name] / total),
            "mean_iou": float(iou.metrics(confusion[name])["mean_iou"]),
            "exported_mean_iou": float(iou.metrics(confusion["file"])["mean_iou"]),
        }
        for name in models
    }
    converted = {"converted": against["converted"]} if "converted" in models else {}
    dtype = scored.config.model.dtype
    return {"images": len(source), "dtype": dtype, **against["run"], **converted}


def export_run(
    folder: str | Path,
    output: str | Path,
    format: str = "stablehlo",
    *,
    checkpoint: str = "best",
    verify: bool = False,
    data_root: str | None = None,
) -> dict[str, float]:
    """Exports a run, in float32; returns what `compare` found, empty without `verify`.

    Raises ExportError, and writes no file, where the exported network predicts something else.
    """
    writers = {"stablehlo": to_stablehlo, "onnx": to_onnx, "safetensors": to_safetensors}
    from segjax.inference import networks

    folder, output = (Path(expand(str(path))) for path in (folder, output))
    trained = networks.restore(folder, checkpoint, dtype=DTYPE)
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f".{output.name}.tmp")
    try:
        writers[format](trained, unfinished)
        result = {}
        if verify:
            scored = networks.restore(folder, checkpoint)
            result = compare(scored, trained, unfinished, data_root)
            _judge(result, output)
        os.replace(unfinished, output)
    finally:
        unfinished.unlink(missing_ok=True)
    return result


def _describe(result: dict[str, Any]) -> str:
    """What the file predicts against the run, or what it was made of, in a line."""
    text = "{different:.3%} of the pixels differ, mIoU {mean_iou:.4f}, exported "
    return (text + "{exported_mean_iou:.4f}").format(**result)


def _report(result: dict[str, Any]) -> str:
    against = f"the run as it is scored, in {result['dtype']}"
    text = f"{result['images']} validation images: against {against}, {_describe(result)}"
    if "converted" in result:
        text += (
            f"; against the run as the file is used, in {DTYPE} and at the file's size if it has "
            f"but one, {_describe(result['converted'])}"
        )
    return text


def _judge(result: dict[str, Any], output: Path) -> None:
    made_of = result.get("converted", result)
    change = abs(made_of["mean_iou"] - made_of["exported_mean_iou"])
    if made_of["different"] > MAX_DIFFERENCE or change > MAX_MEAN_IOU_CHANGE:
        raise ExportError(
            f"{output} was not written: it predicts something else than the run. On "
            f"{_report(result)}; allowed are {MAX_DIFFERENCE:.1%} and {MAX_MEAN_IOU_CHANGE}"
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
    size = Path(values.output).stat().st_size / 2**20
    print(f"{values.output}: {size:.1f} MiB, computes in {DTYPE}")
    if result:
        print(f"Verified on {_report(result)}")
        if "converted" in result:
            print("The scores of the run are not those of the file: see the differences above")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
