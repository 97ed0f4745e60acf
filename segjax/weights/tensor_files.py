"""Files of weights as arrays by name. Nothing that is in them is executed."""

import importlib
import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from segjax.errors import ConfigError, DataError

Tensors = dict[str, np.ndarray]
KERAS_3_WEIGHTS = "model.weights.h5"  # the member of a .keras file that holds them
# What transformers and segmentation_models.pytorch call the weights in a folder.
IN_FOLDERS = ("model.safetensors", "pytorch_model.bin")
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".h5", ".keras")
HEADER = "segjax"  # of what segjax says of itself in a .safetensors file


def read(path: Path) -> Tensors:
    """All tensors of a PyTorch, safetensors or Keras file, or of a folder with one, as they are.

    Floats come as float32. Keras's are named LAYER/WEIGHT, whatever its version called them.

    Raises:
      DataError: where there is no such file, or it is damaged.
      ConfigError: where the package that reads it is not installed.
    """
    path = located(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; download it first (see docs/models.md)")
    package, reader = _reader(path)
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(f"{path}: to read this file, pip install {package}") from error
    try:
        tensors = reader(path)
    except Exception as error:  # those of PyTorch, safetensors and HDF5 have no common parent
        reason = f"{error}".partition("\n")[0] or type(error).__name__
        raise DataError(f"{path} cannot be read ({reason}); download or save it again") from error
    return {name: x if x.dtype.kind in "iub" else np.float32(x) for name, x in tensors.items()}


def located(path: Path) -> Path:
    """The file with the weights of a folder that a library has saved; of a file itself."""
    names = IN_FOLDERS if path.is_dir() else ()
    return next((path / name for name in names if (path / name).is_file()), path)


def read_header(path: Path) -> dict[str, Any]:
    """What `write` was given as header; empty for all other files."""
    path = located(path)
    if _reader(path)[1] is not _read_safetensors:
        return {}
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        metadata = json.loads(file.read(length)).get("__metadata__", {})
    return json.loads(metadata.get(HEADER, "{}"))


def write(path: Path, tensors: Tensors, header: dict[str, Any]) -> None:
    """Writes a .safetensors file; ConfigError where safetensors is not installed."""
    try:
        from safetensors.numpy import save_file
    except ImportError as error:
        raise ConfigError(f"{path}: to write this file, pip install safetensors") from error
    contiguous = {name: np.asarray(x, order="C") for name, x in tensors.items()}
    save_file(contiguous, path, {"format": "pt", HEADER: json.dumps(header)})


def _reader(path: Path) -> tuple[str, Callable[[Path], Tensors]]:
    """The package that reads a file and the function that uses it, by what the file begins with."""
    with path.open("rb") as file:
        start = file.read(9)
    if start.startswith(b"\x89HDF"):
        return "h5py", _read_hdf5
    if start[8:] == b"{":  # after the length of the header, in eight bytes
        return "safetensors", _read_safetensors
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if KERAS_3_WEIGHTS in file.namelist():
                return "h5py", _read_keras
    return "torch", _read_torch


def _read_torch(path: Path) -> Tensors:
    import torch

    content = torch.load(path, map_location="cpu", weights_only=True)
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(map(torch.is_tensor, content.values())):
        raise ValueError("more than tensors is in it; torch.save(model.state_dict(), FILE) is read")
    floats = {name: x.float() if x.is_floating_point() else x for name, x in content.items()}
    return {name: x.detach().numpy() for name, x in floats.items()}


def _read_safetensors(path: Path) -> Tensors:
    from safetensors.numpy import load_file

    return load_file(path)


def _read_keras(path: Path) -> Tensors:
    with zipfile.ZipFile(path) as file:
        return _read_hdf5(io.BytesIO(file.read(KERAS_3_WEIGHTS)))


def _read_hdf5(file: Path | BinaryIO) -> Tensors:
    import h5py

    tensors = {}

    def add(path: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        if item.external:
            raise ValueError(f"{path} points to another file")
        tensors[_keras_name(path, item)] = item[()]

    with h5py.File(file) as content:
        # Beside the weights, a whole saved model has its optimizer's state.
        for part in ("model_weights", "layers"):
            content = content.get(part, content)
        content.visititems(add)
    return tensors


def _keras_name(path: str, item: Any) -> str:
    """LAYER/WEIGHT from the two layouts Keras has had.

    Keras 3 writes CLASS_7/vars/0, with the layer's name as an attribute; Keras 2 and .h5 files
    LAYER/LAYER/kernel:0, or depthwise_kernel:0.
    """
    parts = path.split("/")
    if parts[-2:-1] == ["vars"]:
        layer = item.parent.attrs["name"]
        norm = ("gamma", "beta", "moving_mean", "moving_variance")
        weights = norm if len(item.parent) == len(norm) else ("kernel", "bias")
        return f"{layer}/{weights[int(parts[-1])]}"
    weight = parts[-1].partition(":")[0].removeprefix("depthwise_")
    return f"{_current_layer(parts[0])}/{weight}"


def _current_layer(layer: str) -> str:
    """block_1_expand_BN for bn1_conv_1_bn_expand: the files for download keep names of 2018."""
    match = re.fullmatch(r"(?:mobl|bn)(\d+)_conv_(?:\d+_)?(bn_)?(\w+)", layer)
    if not match:
        return layer
    block, norm, part = match.groups()
    prefix = "expanded_conv" if block == "0" else f"block_{block}"
    return f"{prefix}_{part}" + ("_BN" if norm else "")
