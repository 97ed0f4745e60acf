"""The run that a refiner builds on: its fields become the refiner's, and a copy of it is kept."""

import logging
from pathlib import Path

from ml_collections import ConfigDict

from segjax import defaults
from segjax.data.counts import Report
from segjax.errors import ConfigError, DataError
from segjax.run import workdir
from segjax.weights import runs
from segjax.weights.runs import Trained

log = logging.getLogger(__name__)
# Fields of config.data that are the refiner's own; without a root it is the segmenter's.
OWN = ("root", "size", "fit", "num_threads", "cache_gb", "device_gb")


def with_segmenter(
    config: ConfigDict, folder: Path | None = None
) -> tuple[ConfigDict, Trained | None]:
    """The configuration with the model and the data of the segmenter that it refines, and that.

    Both come as they are from a configuration without a refiner, and None.

    Args:
      folder: the refiner's work directory; if it is resumed its segmenter is there.

    Raises ConfigError where no refiner can be trained on it, and DataError where there is none.
    """
    if config.refiner.name == "none":
        return config, None
    source = _source(config, folder)
    try:
        segmenter = runs.restore(source)
    except DataError as error:
        where = f"config.init_from is {config.init_from!r}: " if source.name != runs.COPY else ""
        raise DataError(f"{where}{error}") from error
    _require_refinable(config, segmenter)
    _require_unchanged(config, segmenter.config)
    found = _with_fields_of(segmenter, config)
    given, taken = map(workdir.deciding_fields, (config, found))
    fields = [f"config.{k} = {v!r}" for k, v in taken.items() if v != given.get(k)]
    log.info("As in the run that is refined: %s", ", ".join(fields) or "all fields")
    return found, segmenter


def _source(config: ConfigDict, folder: Path | None) -> Path:
    """The segmenter's work directory: that of config.init_from until something is saved."""
    if folder and workdir.holds_checkpoints(folder):
        return folder / runs.COPY
    if not config.init_from:
        raise ConfigError(
            "config.init_from is ''; a refiner needs the work directory of the run it refines"
        )
    return Path(config.init_from)


def _with_fields_of(segmenter: Trained, config: ConfigDict) -> ConfigDict:
    config, theirs = config.copy_and_resolve_references(), segmenter.config.data
    own = {name: config.data[name] for name in OWN}
    if not config.data.root:
        own.pop("root")
    config.model = segmenter.config.model
    config.data = ConfigDict({**theirs, **own})
    if theirs.source == "shapes":  # which are drawn at the segmenter's size
        config.data.drawn = tuple(theirs.drawn or theirs.size)
    return config


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
    source, place = _source(config, folder), folder / runs.COPY
    if source != place:
        runs.copy(source, segmenter.step, place)
        log.info("The segmenter of %s, step %d, is kept in %s", source, segmenter.step, place)


def require_same_data(config: ConfigDict, segmenter: Trained, data: Report, folder: Path) -> None:
    """Raises ConfigError where the data have other classes, or splits, than the segmenter's.

    Else images that it was trained on could be among those that the refiner is scored on.
    """
    if segmenter.table.names != data.table.names:
        raise ConfigError(
            f"config.init_from is {config.init_from!r}, a run with other classes than the data: "
            f"{', '.join(segmenter.table.names)}"
        )
    workdir.require_division(_source(config, folder), data.divided)
