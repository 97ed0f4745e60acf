"""A trained network as a function of images, from a work directory or from an exported file."""

import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from ml_collections import ConfigDict

from segjax import models
from segjax.data.label_table import LabelTable
from segjax.errors import ConfigError, DataError
from segjax.evaluation import tta as test_time
from segjax.models.segmenter import Segmenter
from segjax.run import workdir
from segjax.run.checkpoints import Checkpoints
from segjax.weights import tensor_files

STABLEHLO, ONNX = "stablehlo", "onnx"
MEMBERS = ("model.stablehlo", "metadata.json")  # of the zip file that a StableHLO export is
METADATA_KEY = "segjax"  # of the metadata in an ONNX file
# What readers raise over files that are damaged, or something else.
DAMAGES = (OSError, KeyError, TypeError, ValueError, struct.error, zlib.error, zipfile.BadZipFile)
SMALLEST = float(np.finfo(np.float32).tiny)


class Network(NamedTuple):
    """A network ready for inference, of a work directory or of an exported file.

    logits: uint8 [B, h, w, 3] RGB to float32 [B, h, w, C], up to a constant in every pixel.
    size: h and w that it was trained on.
    resizes: images are stretched to `size`; otherwise they keep their pixels (see `fitting`).
    fixed_size: it takes no other (ONNX).
    value_range: what files hold to what it takes, see `decode.decode_image`.
    """

    logits: Callable[[Any], Any]
    table: LabelTable
    size: tuple[int, int]
    resizes: bool
    fixed_size: bool = False
    value_range: tuple[float, ...] = ()


class Trained(NamedTuple):
    """A checkpoint of a run: the model and its averaged variables, params and batch_stats."""

    model: Segmenter
    variables: dict[str, Any]
    config: ConfigDict
    table: LabelTable
    step: int

    def logits(self, images: jax.Array) -> jax.Array:
        """The network's function, uint8 [B, h, w, 3] to float32 [B, h, w, C]."""
        return self.model.apply(self.variables, images, train=False)

    def network(self) -> Network:
        """The function, compiled, with what prediction has to know."""
        data = self.config.data
        return Network(
            jax.jit(self.logits),
            self.table,
            tuple(data.size),
            data.fit == "resize",
            value_range=tuple(data.value_range),
        )


def restore(folder: str | Path, checkpoint: str = "best", dtype: str | None = None) -> Trained:
    """The `best` or `latest` checkpoint of a work directory; DataError where there is none.

    dtype: what it computes in; by default what it was trained in.
    """
    config, table, _ = workdir.load(Path(folder))
    fields = config.model.copy_and_resolve_references()
    fields.dtype = dtype or fields.dtype
    model = models.build(fields, len(table.names))
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image)
    like = {name: shapes.get(name, {}) for name in ("params", "batch_stats")}
    checkpoints = Checkpoints(folder, reads_only=True)
    step = checkpoints.find(checkpoint)
    variables = checkpoints.restore_ema(like, step)
    checkpoints.close()
    return Trained(model, variables, config, table, step)


def read_file(path: str | Path) -> tuple[Network, dict[str, Any]]:
    """The network in a file that segjax.export wrote, as a program, and its metadata.

    Raises:
      DataError: where it is not such a file.
      ConfigError: where ONNX Runtime is needed and not installed, and for weights alone.
    """
    try:
        if tensor_files.read_header(Path(path)):
            raise ConfigError(
                f"{path} holds weights and no program; give the run itself (--workdir), or train "
                "from them with --config.pretrained.path"
            )
        is_onnx = not zipfile.is_zipfile(path)
        probabilities, metadata = (_read_onnx if is_onnx else _read_stablehlo)(Path(path))
        table = LabelTable.from_json(json.dumps(metadata["table"]), str(path))
        size, resizes = tuple(metadata["size"]), metadata["fit"] == "resize"
        value_range = tuple(metadata.get("value_range", ()))  # files of version 0.1 have none
    except DAMAGES as error:
        reason = f"{error}".partition("\n")[0] or type(error).__name__
        raise DataError(f"{path} is not a file that segjax.export wrote ({reason})") from error

    def logits(images: Any) -> Any:
        # But for a constant in every pixel, which moves no class and no average over pixels.
        return jnp.log(jnp.maximum(probabilities(images), SMALLEST))

    compiled = logits if is_onnx else jax.jit(logits)
    return Network(compiled, table, size, resizes, is_onnx, value_range), metadata


def _read_stablehlo(path: Path) -> tuple[Callable[[Any], Any], dict[str, Any]]:
    with zipfile.ZipFile(path) as file:
        program, metadata = (file.read(name) for name in MEMBERS)
    call = export.deserialize(bytearray(program)).call
    return lambda images: call(images)["probabilities"], json.loads(metadata)


def _read_onnx(path: Path) -> tuple[Callable[[Any], Any], dict[str, Any]]:
    content = path.read_bytes()
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise ConfigError(f"{path}: to run ONNX files, pip install onnxruntime") from error
    try:
        session = ort.InferenceSession(content, providers=ort.get_available_providers())
    except Exception as error:  # ONNX Runtime's own errors have no public parent
        raise ValueError("neither a StableHLO zip file nor ONNX, or damaged") from error
    metadata = json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY])
    return lambda images: session.run(["probabilities"], {"image": np.asarray(images)})[0], metadata


def averaged(network: Network, tta: Sequence[str]) -> Network:
    """The network whose logits are means over changes of its input: see `tta.averaged`.

    Raises ConfigError for what `tta` cannot be, and for scales where the size is fixed.
    """
    test_time.scales(tta, network.fixed_size)
    logits = test_time.averaged(network.logits, tta)
    return network._replace(logits=logits if network.fixed_size else jax.jit(logits))
