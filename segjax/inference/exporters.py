"""A trained network as one file: StableHLO or ONNX, which are programs, or weights for PyTorch.

What such a file takes and gives is in the docstring of segjax/export.py.
"""

import hashlib
import json
import logging
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import export
from jax.extend import core

from segjax.data import normalization, pixels
from segjax.data.fitting import Shape
from segjax.errors import ConfigError
from segjax.inference import composed, networks
from segjax.models.layers import blocks
from segjax.run import workdir
from segjax.run.state import fingerprint
from segjax.weights import pretrained
from segjax.weights.runs import Trained

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
OPSET = 18  # of ONNX: TensorRT 10 and ONNX Runtime 1.14 know it


def metadata(trained: Trained, size: Shape | None = None) -> dict[str, Any]:
    """What a file says of its network, as JSON holds it.

    dtype: what it computes in; scored_dtype: what the run was trained and scored in.

    Args:
      size: the one height and width that a refiner's file takes; by default it takes any.
    """
    config = workdir.as_json(trained.config)
    canonical = json.dumps(config, sort_keys=True).encode()
    kind = pixels.of(trained.config.data)
    rgb = ", RGB" if kind.is_rgb else ""
    refiner = {}
    if trained.segmenter:
        segmenter = fingerprint(trained.segmenter.variables["params"])
        fit, size = ("resize" if size else "whole"), list(size or trained.fit.size)
        refiner = {"fit": fit, "size": size, "segmenter_parameters": segmenter}
    return {
        "input": f"image: {kind.type} [batch, height, width, {kind.channels}]{rgb}",
        "outputs": ["label: uint8 [batch, height, width]",
                    "probabilities: float32 [batch, height, width, classes]"],
        "table": json.loads(trained.table.to_json()),
        "size": config["data"]["size"],
        "fit": config["data"]["fit"],
        "value_range": config["data"]["value_range"],
        "pixels": {k: v for k, v in kind._asdict().items() if k != "value_range"},
        "fill": list(normalization.fill(trained.config)),
        "dtype": jnp.dtype(trained.model.dtype).name,
        "scored_dtype": config["model"]["dtype"],
        "mean": config["model"]["mean"],
        "std": config["model"]["std"],
        "step": trained.step,
        "parameters": fingerprint(trained.variables["params"]),
        "config_sha256": hashlib.sha256(canonical).hexdigest(),
        **refiner,
    }  # fmt: skip


def _logits(trained: Trained) -> Callable[[jax.Array], jax.Array]:
    return composed.of(trained) if trained.segmenter else trained.logits


def _image(trained: Trained, shape: str) -> jax.ShapeDtypeStruct:
    """What a program takes, with a symbol for each length that may be any."""
    kind = pixels.of(trained.config.data)
    return jax.ShapeDtypeStruct(export.symbolic_shape(f"{shape}, {kind.channels}"), kind.type)


def to_stablehlo(trained: Trained, path: Path) -> None:
    """Writes a zip file with the program (`jax.export`, every platform) and metadata.json."""
    image = _image(trained, "batch, height, width")
    logits = _logits(trained)
    program = export.export(jax.jit(lambda x: _outputs(logits(x))), platforms=PLATFORMS)
    content = (program(image).serialize(), json.dumps(metadata(trained), indent=2))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, member in zip(networks.MEMBERS, content, strict=True):
            file.writestr(name, member)


def to_onnx(trained: Trained, path: Path, size: Shape | None = None) -> None:
    """Writes an ONNX file with metadata; `size` is needed with a refiner, see `metadata`.

    Raises ConfigError where jax2onnx is not installed, or does not know the installed JAX.
    """
    logits = _logits(trained)

    def outputs(image: jax.Array) -> tuple[jax.Array, jax.Array]:
        with nn.intercept_methods(blocks.as_convolution):
            return tuple(_outputs(logits(image)).values())

    height, width = size or trained.config.data.size
    image = _image(trained, f"batch, {height}, {width}")
    # jax2onnx adds biases of another rank, whatever the process allows.
    with _jax2onnx() as convert, jax.numpy_rank_promotion("allow"):
        model = convert(
            outputs,
            [image],
            model_name="segjax",
            opset=OPSET,
            input_names=["image"],
            output_names=["label", "probabilities"],
        )
    del model.graph.value_info[:]  # shapes inside, which jax2onnx gives in another order of axes
    entry = model.metadata_props.add()
    entry.key, entry.value = networks.METADATA_KEY, json.dumps(metadata(trained, size))
    path.write_bytes(model.SerializeToString())


@contextmanager
def _jax2onnx() -> Iterator[Callable]:
    """jax2onnx's converter, with the name that JAX 0.12 has moved; its failures as ConfigError."""
    try:
        # jax2onnx 0.17 takes ClosedJaxpr from where JAX before 0.12 had it.
        with mock.patch.object(jax._src.core, "ClosedJaxpr", core.ClosedJaxpr, create=True):
            from jax2onnx import to_onnx

            logging.getLogger("onnx_ir").setLevel(logging.ERROR)
            yield to_onnx
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--format onnx: {error}; pip install 'segjax[onnx]', then pip install --no-deps "
            "jax2onnx (in a clone: pip install --no-deps -r requirements-onnx.txt)"
        ) from error
    except (AttributeError, ImportError, NotImplementedError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"--format onnx: jax2onnx {version('jax2onnx')} fails with jax {jax.__version__} "
            f"({reason}); take --format stablehlo, or the versions of requirements-onnx.txt"
        ) from error


def to_weights(trained: Trained, path: Path, format: str) -> None:
    """Writes weights for another library, with metadata: see `pretrained.write`."""
    if trained.segmenter:
        raise ConfigError(
            f"--format {format}: no other library has a refiner; take stablehlo or onnx, or export "
            "the segmenter alone: --workdir SEGMENTER without --refine"
        )
    model = trained.config.model
    header = metadata(trained) | {"model": workdir.as_json(model)}  # for `downloaded.restore`
    pretrained.write(path, trained.variables, model, header, format)


def _outputs(logits: Any) -> dict[str, Any]:
    return {
        "label": logits.argmax(-1).astype("uint8"),
        "probabilities": jax.nn.softmax(logits),
    }
