"""A trained network as a function of images, from a work directory or from an exported file."""

import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from segjax.data import pixels
from segjax.data.fitting import FILL, Fit
from segjax.data.label_table import LabelTable
from segjax.data.pixels import RGB, Pixels
from segjax.data.refining import Refined, TwoStage
from segjax.errors import ConfigError, DataError
from segjax.evaluation import tta as test_time
from segjax.weights import tensor_files
from segjax.weights.runs import Trained

STABLEHLO, ONNX = "stablehlo", "onnx"
MEMBERS = ("model.stablehlo", "metadata.json")  # of the zip file that a StableHLO export is
METADATA_KEY = "segjax"  # of the metadata in an ONNX file
# What readers raise over files that are damaged, or something else.
DAMAGES = (OSError, KeyError, TypeError, ValueError, struct.error, zlib.error, zipfile.BadZipFile)
NO_REFINER = "there is no refiner; give its work directory as --workdir, or add it by --refine"
SMALLEST = float(np.finfo(np.float32).tiny)


class Network(NamedTuple):
    """A network ready for inference, of a work directory or of an exported file.

    logits: images [B, h, w, channels] to float32 [B, h, w, C], up to a constant in every pixel;
      with a refiner both functions.
    fit: how an image meets it.
    pixels: what images are; `pixels.to_image` makes them of files.
    """

    logits: Callable[[Any], Any] | TwoStage
    table: LabelTable
    fit: Fit | Refined
    pixels: Pixels = RGB


def of(trained: Trained) -> Network:
    """The functions of a run, compiled, with what prediction has to know."""
    logits = jax.jit(trained.logits)
    if trained.segmenter:
        logits = TwoStage(jax.jit(trained.segmenter.logits), logits)
    return Network(logits, trained.table, trained.fit, pixels.of(trained.config.data))


def read_file(path: str | Path) -> tuple[Network, dict[str, Any]]:
    """The network in a file that segjax.export wrote, as a program, and its metadata.

    Raises:
      DataError: where it is not such a file.
      ConfigError: where ONNX Runtime is needed and not installed, and for weights alone.
    """
    try:
        if tensor_files.read_header(Path(path)):
            raise ConfigError(
                f"{path} holds weights and no program; give it as --pretrained, or train from them "
                "with --config.pretrained.path"
            )
        is_onnx = not zipfile.is_zipfile(path)
        probabilities, metadata = (_read_onnx if is_onnx else _read_stablehlo)(Path(path))
        table = LabelTable.from_json(json.dumps(metadata["table"]), str(path))
        size, fit = tuple(metadata["size"]), metadata["fit"]
        kind = _pixels(metadata)
    except DAMAGES as error:
        reason = f"{error}".partition("\n")[0] or type(error).__name__
        raise DataError(f"{path} is not a file that segjax.export wrote ({reason})") from error

    def logits(images: Any) -> Any:
        # But for a constant in every pixel, which moves no class and no average over pixels.
        return jnp.log(jnp.maximum(probabilities(images), SMALLEST))

    compiled = logits if is_onnx else jax.jit(logits)
    filled = tuple(metadata.get("fill", FILL))
    fit = Fit(size, fit == "resize", is_onnx, is_whole=fit == "whole", fill=filled)
    return Network(compiled, table, fit, kind), metadata


def _pixels(metadata: dict[str, Any]) -> Pixels:
    """What images are to a file; those of earlier versions take RGB."""
    fields = {"value_range": metadata.get("value_range", ()), **metadata.get("pixels", {})}
    return Pixels(**{**fields, "value_range": tuple(fields["value_range"])})


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

    With a refiner those of its segmenter are. Raises ConfigError for what `tta` cannot be, and for
    scales where the size is fixed.
    """
    if isinstance(network.logits, TwoStage):
        test_time.scales(tta)
        coarse = jax.jit(test_time.averaged(network.logits.coarse, tta))
        return network._replace(logits=network.logits._replace(coarse=coarse))
    test_time.scales(tta, network.fit.fixed_size)
    logits = test_time.averaged(network.logits, tta)
    return network._replace(logits=logits if network.fit.fixed_size else jax.jit(logits))


def only_uncertain(network: Network) -> Network:
    """The same with the refiner where the segmenter is uncertain alone; ConfigError without one."""
    if not isinstance(network.fit, Refined):
        raise ConfigError(f"--uncertain_only: {NO_REFINER}")
    return network._replace(fit=network.fit._replace(only_uncertain=True))
