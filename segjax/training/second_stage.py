"""The run that a refiner builds on: its fields become the refiner's, and a copy of it is kept."""

import logging
from pathlib import Path

from ml_collections import ConfigDict

from segjax import defaults
from segjax.data.label_table import LabelTable
from segjax.errors import ConfigError, DataError
from segjax.run import workdir
from segjax.weights import runs
from segjax.weights.runs import Trained

log = logging.getLogger(__name__)
# Fields of config.data that are the refiner's own; without a root it is the segmenter's.
OWN = ("root", "size", "fit", "num_threads", "cache_gb", "device_gb")


def with_segmenter(config: ConfigDict, folder: Path) -> tuple[ConfigDict, Trained | None]:
    """The configuration with the model and the data of the segmenter that it refines, and that.

    Both come as they are from a configuration without a refiner, and None. A run that is resumed
    has its segmenter in `folder`. Raises ConfigError where no refiner can be trained on it, and
    DataError where there is none.
    """
    if config.refiner.name == "none":
        return config, None
    source = folder / runs.COPY
    if not source.is_dir():
        if not config.init_from:
            raise ConfigError(
                "config.init_from is ''; a refiner needs the work directory of the run it refines"
            )
        source = Path(config.init_from)
    try:
        segmenter = runs.restore(source)
    except DataError as error:
        raise DataError(f"config.init_from is {config.init_from!r}: {error}") from error
    _require_refinable(config, segmenter)
    _require_unchanged(config, segmenter.config)
    config = config.copy_and_resolve_references()
    own = {name: config.data[name] for name in OWN}
    if not config.data.root:
        own.pop("root")
    config.model = segmenter.config.model
    config.data = ConfigDict({**segmenter.config.data, **own})
    return config, segmenter


def _require_refinable(config: ConfigDict, segmenter: Trained) -> None:
    where = f"config.init_from is {config.init_from!r}, a run"
    if segmenter.segmenter:
        raise ConfigError(f"{where} of a refiner; give the run that it refines, or refine no more")
    if segmenter.config.data.fit != "resize":
        raise ConfigError(
            f"{where} with config.data.fit='pad', which sees images at their own resolution "
            "already; refine one with 'resize'"
        )


def _require_unchanged(config: ConfigDict, found: ConfigDict) -> None:
    """Raises ConfigError for a field that is set, and that the segmenter has otherwise."""
    fields, theirs, usual = map(workdir.deciding_fields, (config, found, defaults.get_config()))
    for name, value in fields.items():
        section, _, field = name.partition(".")
        if section not in ("model", "data") or field in OWN:
            continue
        if value not in (usual.get(name), theirs.get(name)):
            raise ConfigError(
                f"config.{name} is {value!r}, and {theirs.get(name)!r} in the run of "
                "config.init_from, whose network and images a refiner takes; leave it out"
            )


def keep(config: ConfigDict, segmenter: Trained, folder: Path) -> None:
    """Copies the segmenter into the work directory, from which it is read from then on."""
    place = folder / runs.COPY
    if not place.is_dir():
        runs.copy(Path(config.init_from), segmenter.step, place)
        log.info("The segmenter of %s, step %d, is kept in %s", config.init_from, segmenter.step,
                 place)  # fmt: skip


def require_same_classes(config: ConfigDict, segmenter: Trained, table: LabelTable) -> None:
    """Raises ConfigError where the data have other classes than the segmenter."""
    if segmenter.table.names != table.names:
        raise ConfigError(
            f"config.init_from is {config.init_from!r}, a run with other classes than the data: "
            f"{', '.join(segmenter.table.names)}"
        )


def of_run(config: ConfigDict, folder: Path) -> Trained | None:
    """The segmenter that the work directory of a refiner holds; None of another run."""
    return None if config.refiner.name == "none" else runs.restore(folder / runs.COPY)
