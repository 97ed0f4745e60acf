"""Weights of one run as the start of another: to refine them, or to go on in another way."""

from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from segjax.data.label_table import LabelTable
from segjax.errors import ConfigError, DataError
from segjax.run import workdir
from segjax.run.checkpoints import Checkpoints

# Fields of config.model that may differ: they change training, not what the weights mean.
FREE = ("freeze_encoder", "dtype")


def variables_of(
    folder: Path, config: ConfigDict, table: LabelTable, like: dict[str, Any]
) -> dict[str, Any]:
    """The averaged params and batch_stats of a run's best checkpoint, in the structure of `like`.

    With config.pretrained.head = 'drop' the last layer stays as it is in `like`.

    Raises:
      DataError: where there is no run.
      ConfigError: where its network or its classes are not those of `config` and `table`.
    """
    where = f"config.init_from is {str(folder)!r}, a run"
    try:
        source, source_table, _ = workdir.load(folder)
        checkpoints = Checkpoints(folder, reads_only=True)
        step = checkpoints.find("best")
    except DataError as error:
        raise DataError(f"config.init_from is {str(folder)!r}: {error}") from error
    drops_head = config.pretrained.head == "drop"
    if source_table.names != table.names and not drops_head:
        raise ConfigError(
            f"{where} with other classes than the data: {', '.join(source_table.names)}; set "
            "config.pretrained.head=drop to start with a new last layer"
        )
    # By way of JSON, as the source was stored: tuples become lists.
    wanted = flatten_dict(workdir.as_json(config)["model"], sep=".")
    for field, value in flatten_dict(workdir.as_json(source)["model"], sep=".").items():
        if field not in FREE and value != wanted.get(field):
            raise ConfigError(
                f"{where} with config.model.{field}={value!r}, here it is {wanted.get(field)!r}; "
                "give it the same value"
            )
    variables = checkpoints.restore_ema(_with_classes(like, len(source_table.names)), step)
    checkpoints.close()
    if drops_head:
        variables["params"]["head"] = like["params"]["head"]
    return variables


def _with_classes(like: dict[str, Any], num_classes: int) -> dict[str, Any]:
    """`like` with the shapes of a last layer of so many classes."""
    head = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((*x.shape[:-1], num_classes), x.dtype),
        like["params"]["head"],
    )
    return {**like, "params": {**like["params"], "head": head}}
