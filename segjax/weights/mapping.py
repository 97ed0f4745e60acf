"""A network's variables under the names and in the layouts of other libraries.

segjax's variables are flat here: `params/encoder/stem/conv/kernel` to array. A `Source` is what one
library saves of one network: a row for each tensor, read and written by the same rows.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from segjax.errors import ConfigError, DataError
from segjax.weights.tensor_files import Tensors

COUNTER = "num_batches_tracked"  # of PyTorch's batch norm; with a momentum it is not used
HEAD = "params/head/"


class Transform(NamedTuple):
    """From the layout of a file to segjax's: an order of the axes, for tensors of so many.

    part, parts: a tensor holds several variables, one after the other along its first axis.
    """

    axes: tuple[int, ...]
    part: int = 0
    parts: int = 1

    def read(self, tensor: np.ndarray) -> np.ndarray:
        """In segjax's layout."""
        return np.array_split(tensor, self.parts)[self.part].transpose(self.axes)

    def write(self, array: np.ndarray) -> np.ndarray:
        """In the file's layout; of several parts one."""
        return array.transpose(np.argsort(self.axes))


VECTOR = Transform((0,))
CONVOLUTION = Transform((2, 3, 1, 0))  # PyTorch's [out, in, h, w] to [h, w, in, out]
DENSE = Transform((1, 0))  # PyTorch's [out, in] to [in, out]
SAME_4D = Transform((0, 1, 2, 3))  # Keras's convolutions
DEPTHWISE_KERAS = Transform((0, 1, 3, 2))  # [h, w, in, 1] to [h, w, 1, in]


class Row(NamedTuple):
    """A tensor of a file, segjax's variable for it, and how the one becomes the other."""

    name: str
    variable: str
    transform: Transform


Shapes = dict[str, tuple[int, ...]]  # of a file's tensors, by segjax's variable


def no_fields(shapes: Shapes) -> dict[str, Any]:
    """Nothing: see `Source.fields`."""
    return {}


class Source(NamedTuple):
    """What a library saves of a network.

    encoder: the value of config.model.encoder that is this network.
    mark: a tensor that its files have, and those of no later source in SOURCES.
    rows: one for every variable; of all variants of the network, which may have fewer.
    classifier: how the names of tensors begin that have none.
    conventions: fields of config.model that its weights need, by their dotted names.
    stem: the variable that convolves the image.
    whole: what a network has to be for a file of its decoder to fill it.
    remedy: of a variable, what was loaded and what is wanted, both by variable: what to set where
      the two have other shapes.
    fields: of the shapes of a file's tensors, by variable: what config.model must be, by dotted
      names.
    """

    library: str
    network: str
    encoder: str
    mark: str
    rows: tuple[Row, ...]
    classifier: tuple[str, ...]
    conventions: dict[str, Any]
    stem: str
    whole: str
    remedy: Callable[[str, dict[str, Any], dict[str, Any]], str]
    fields: Callable[[Shapes], dict[str, Any]] = no_fields

    @property
    def names(self) -> dict[str, str]:
        """The variable of every tensor, or one of them."""
        return {row.name: row.variable for row in self.rows}

    def needed(self, tensors: Tensors) -> dict[str, Any]:
        """What config.model must be for a file, by dotted names."""
        present = (row for row in self.rows if row.name in tensors)
        shapes = {row.variable: tensors[row.name].shape for row in present}
        return {"encoder": self.encoder, **self.fields(shapes)}

    @property
    def is_whole(self) -> bool:
        """It has a decoder and a head."""
        return any(row.variable.startswith(HEAD) for row in self.rows)

    def read(self, tensors: Tensors, names: Iterable[str]) -> dict[str, np.ndarray]:
        """The variables of these tensors; DataError for one whose axes its row does not fit."""
        names, variables = set(names), {}
        for name, variable, transform in self.rows:
            if name not in names:
                continue
            tensor = tensors[name]
            if tensor.ndim != len(transform.axes):
                raise DataError(
                    f"{name} has the shape {tensor.shape}; in {self.library}'s {self.network} it "
                    f"has {len(transform.axes)} axes"
                )
            variables[variable] = transform.read(tensor)
        return variables

    def write(self, variables: dict[str, Any]) -> Tensors:
        """The tensors of all variables, under the library's names and in its layout."""
        parts: dict[str, list[np.ndarray]] = {}
        for name, variable, transform in self.rows:
            if variable in variables:
                array = transform.write(np.asarray(variables[variable]))
                parts.setdefault(name, []).append(array)
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def require_fields(config: ConfigDict, format: str, library: str, can_be: dict[str, tuple]) -> None:
    """Raises ConfigError where a field of config.model has none of the values that it can have."""
    fields = flatten_dict(config.to_dict(), sep=".")
    for field, allowed in can_be.items():
        if fields[field] not in allowed:
            raise ConfigError(
                f"--format {format}: config.model.{field} is {fields[field]!r}, and {library} has "
                f"{' or '.join(map(str, allowed))} only; take stablehlo or onnx"
            )


def with_counters(tensors: Tensors) -> Tensors:
    """The same with the number of batches that PyTorch's batch norms count."""
    counters = [name.replace("running_var", COUNTER) for name in tensors if "running_var" in name]
    return tensors | dict.fromkeys(counters, np.array(0))


def conv_norm(
    layer: str, conv: str, norm: str, kernel: Transform, names: tuple[str, ...], separator: str
) -> list[Row]:
    """The rows of a convolution without bias and the batch norm behind it.

    layer: its path in segjax; conv, norm: the two in the file; names: of the weights there: kernel,
      scale, bias, mean, variance.
    """
    ours = ("params/{}/norm/scale", "params/{}/norm/bias",
            "batch_stats/{}/norm/mean", "batch_stats/{}/norm/var")  # fmt: skip
    return [
        Row(f"{conv}{separator}{names[0]}", f"params/{layer}/conv/kernel", kernel),
        *(
            Row(f"{norm}{separator}{name}", variable.format(layer), VECTOR)
            for name, variable in zip(names[1:], ours, strict=True)
        ),
    ]
