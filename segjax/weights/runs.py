"""A trained run as a model and its variables, and a copy of one for a run that builds on it."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from segjax import models
from segjax.data import normalization, pixels
from segjax.data.fitting import Fit
from segjax.data.label_table import LabelTable
from segjax.data.refining import Refined
from segjax.errors import ConfigError, DataError
from segjax.run import workdir
from segjax.run.checkpoints import Checkpoints
from segjax.run.state import fingerprint
from segjax.runtime.files import expand

COPY = "segmenter"  # in the work directory of a refiner: the run that it refines
FILES = ("config.json", "classes.json", "pixel_counts.json", "splits.json")
# Items of a checkpoint that only training needs.
NOT_COPIED = ("params", "batch_stats", "opt_state", "discriminator", "step", "progress")


class Trained(NamedTuple):
    """A checkpoint of a run: the model and its averaged variables, params and batch_stats.

    segmenter: that of a refiner, else None.
    """

    model: nn.Module
    variables: dict[str, Any]
    config: ConfigDict
    table: LabelTable
    step: int
    segmenter: "Trained | None" = None

    def logits(self, images: jax.Array) -> jax.Array:
        """The model's function: images [B, h, w, c], or what a refiner takes, to [B, h, w, C]."""
        return self.model.apply(self.variables, images, train=False)

    @property
    def fit(self) -> Fit | Refined:
        """How an image meets it."""
        if self.segmenter:
            return Refined(self.segmenter.fit)
        return normalization.fit(self.config)


def restore(folder: str | Path, checkpoint: str = "best", dtype: str | None = None) -> Trained:
    """The `best` or `latest` checkpoint of a work directory; DataError where there is none.

    dtype: what it computes in; by default what it was trained in.
    """
    config, table, _ = workdir.load(Path(folder))
    fields = config.copy_and_resolve_references()
    fields.model.dtype = dtype or fields.model.dtype
    num_classes, channels = len(table.names), pixels.of(fields.data).channels
    if fields.refiner.name == "none":
        model, segmenter = models.build(fields.model, num_classes, channels=channels), None
    else:
        model = models.build_refiner(fields.refiner, fields.model, num_classes, channels=channels)
        segmenter = restore(Path(folder) / COPY, dtype=dtype)
    image = jax.ShapeDtypeStruct((1, 64, 64, model.in_channels), jnp.uint8)
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image)
    like = {name: shapes.get(name, {}) for name in ("params", "batch_stats")}
    checkpoints = Checkpoints(folder, reads_only=True)
    step = checkpoints.find(checkpoint)
    variables = checkpoints.restore_ema(like, step)
    checkpoints.close()
    return Trained(model, variables, config, table, step, segmenter)


def with_refiner(folder: Path, refine: str | Path | None) -> Path:
    """The work directory of a refiner, once it is known to refine the run in `folder`.

    `folder` itself where `refine` is None. Raises DataError where there is no run, ConfigError for
    what is no refiner, and for one of another segmenter or of other classes.
    """
    if refine is None:
        return folder
    refine = Path(expand(str(refine)))
    if not (refine / "config.json").is_file():
        raise DataError(f"--refine {refine}: no run is there; give the work directory of a refiner")
    (config, table, _), (given, classes, _) = map(workdir.load, (refine, folder))
    if given.refiner.name != "none":
        raise ConfigError(f"--workdir {folder} holds a refiner already; leave --refine out")
    if config.refiner.name == "none":
        raise ConfigError(
            f"--refine {refine} holds a run, but no refiner; train one with --config refine "
            f"--config.init_from={folder}"
        )
    if table.names != classes.names:
        raise ConfigError(
            f"--refine {refine} has the classes {', '.join(table.names)}, and --workdir {folder} "
            f"{', '.join(classes.names)}; give a refiner that was trained on the latter"
        )
    kept, best = restore(refine / COPY), restore(folder)
    if fingerprint(kept.variables) != fingerprint(best.variables):
        raise ConfigError(
            f"--refine {refine} refines another segmenter (step {kept.step}) than the best of "
            f"--workdir {folder} (step {best.step}); give --workdir {refine} alone to use the one "
            "it was trained with, or train a refiner of the latter"
        )
    return refine


def copy(source: Path, step: int, folder: Path) -> None:
    """A work directory in `folder` with a checkpoint of another, as much as `restore` reads."""
    unfinished = folder.with_name(f".{folder.name}.tmp")
    for leftover in (unfinished, folder):  # of a start that failed
        shutil.rmtree(leftover, ignore_errors=True)
    checkpoint = Path("checkpoints", str(step))
    ignore = shutil.ignore_patterns(*NOT_COPIED)
    shutil.copytree(source / checkpoint, unfinished / checkpoint, ignore=ignore)
    for name in FILES:
        if (source / name).exists():
            shutil.copy(source / name, unfinished / name)
    unfinished.rename(folder)
