"""A network's variables under the names and in the layouts of other libraries.

segjax's variables are flat here: `params/encoder/stem/conv/kernel` to array. A `Source` is what one
library saves of one network: a row for each tensor, read and written by the same rows.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from segjax.errors import DataError
from segjax.weights.tensor_files import Tensors

COUNTER = "num_batches_tracked"  # of PyTorch's batch norm; with a momentum it is not used
HEAD = "params/head/"


class Transform(NamedTuple):
    """From the layout of a file to segjax's: an order of the axes, for tensors of so many."""

    axes: tuple[int, ...]

    def read(self, tensor: np.ndarray) -> np.ndarray:
        """In segjax's layout."""
        return tensor.transpose(self.axes)

    def write(self, array: np.ndarray) -> np.ndarray:
        """In the file's layout."""
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


class Source(NamedTuple):
    """What a library saves of a network.

    encoder: the value of config.model.encoder that is this network.
    mark: a tensor that its files have, and no other's.
    rows: one for every tensor that has a place in segjax.
    classifier: how the names of tensors begin that have none.
    conventions: fields of config.model that its weights need, by their dotted names.
    stem: the variable that convolves the image.
    whole: what a network has to be for a file of its decoder to fill it.
    remedy: of a variable, what was loaded and what is wanted, both by variable: what to set where
      the two have other shapes.
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

    @property
    def names(self) -> dict[str, str]:
        """The variable of every tensor."""
        return {row.name: row.variable for row in self.rows}

    @property
    def is_whole(self) -> bool:
        """It has a decoder and a head."""
        return any(row.variable.startswith(HEAD) for row in self.rows)

    def read(self, tensors: Tensors, names: Iterable[str]) -> dict[str, np.ndarray]:
        """The variables of these tensors; DataError for one whose axes its row does not fit."""
        rows, variables = {row.name: row for row in self.rows}, {}
        for name in names:
            tensor, (_, variable, transform) = tensors[name], rows[name]
            if tensor.ndim != len(transform.axes):
                raise DataError(
                    f"{name} has the shape {tensor.shape}; in {self.library}'s {self.network} it "
                    f"has {len(transform.axes)} axes"
                )
            variables[variable] = transform.read(tensor)
        return variables

    def write(self, variables: dict[str, Any]) -> Tensors:
        """The tensors of all variables, under the library's names and in its layout."""
        return {row.name: row.transform.write(np.asarray(variables[row.variable]))
                for row in self.rows}  # fmt: skip


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
