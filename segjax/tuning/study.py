"""An Optuna study in a folder: opened by several processes, resumed, and read as a table."""

import fcntl
import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from ml_collections import ConfigDict
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from segjax.defaults import MOVED
from segjax.errors import ConfigError
from segjax.run import workdir

log = logging.getLogger(__name__)
MAX_DEATHS = 5  # of a trial; then it is the trial that kills its process, by its memory for example
COMMAND = "told"  # the attribute, so named in all studies, of what a sweep was started with


@dataclass(frozen=True)
class Sweep:
    """What to search, and where; all processes of a sweep are given the same."""

    config: ConfigDict
    search: dict[str, BaseDistribution]
    folder: Path
    trials: int
    storage: str = ""
    seed: int = 0
    prune: bool = True
    grace: int = 60


class PerTrialSampler(optuna.samplers.TPESampler):
    """TPE whose draws are a function of (seed, trial).

    With one stream of random numbers a resumed sweep, or a second process, would draw them again.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        sequence = np.random.SeedSequence([self.seed, trial.number])
        super().__init__(seed=int(sequence.generate_state(1)[0]))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """What only one process of this machine may do at a time; the lock ends with its process."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def open_study(sweep: Sweep) -> Iterator[optuna.Study]:
    """The study, new or, if it is the same, as it was left; closed at the end.

    Raises ConfigError for what cannot be opened.
    """
    sweep.folder.mkdir(parents=True, exist_ok=True)
    url = sweep.storage or f"sqlite:///{sweep.folder / 'study.db'}"
    with ExitStack() as stack:
        try:
            with alone(sweep.folder), warnings.catch_warnings():
                # "Experimental" since Optuna 2.9, and what tells a dead process from a slow one.
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                storage = stack.enter_context(_storage(url, sweep.grace))
                study = optuna.create_study(
                    storage=storage,
                    study_name=sweep.folder.resolve().name,
                    direction="maximize",
                    load_if_exists=True,
                    sampler=PerTrialSampler(sweep.seed),
                    # None: MedianPruner
                    pruner=None if sweep.prune else optuna.pruners.NopPruner(),
                )
                _require_same(sweep, study)
        except (SQLAlchemyError, ImportError, optuna.exceptions.StorageInternalError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{url} cannot be opened ({reason}); correct --storage") from error
        yield study


@contextmanager
def _storage(url: str, grace: int) -> Iterator[optuna.storages.RDBStorage]:
    storage = optuna.storages.RDBStorage(
        url,
        engine_kwargs={"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {},
        heartbeat_interval=max(1, grace // 4),
        grace_period=grace,
        heartbeat_stale_trial_callback=take_over,
    )
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _require_same(sweep: Sweep, study: optuna.Study) -> None:
    searched = {name.removeprefix("search ") for name in study.user_attrs.get(COMMAND, {})}
    for field in sorted(searched & MOVED.keys()):
        raise ConfigError(
            f"--study {sweep.folder} searches {field}, which is {MOVED[field]} since; Optuna knows "
            "its trials by the earlier name, so it cannot be resumed. Choose another --study"
        )
    new = {f"config.{f}": v for f, v in workdir.deciding_fields(sweep.config).items()}
    new |= {f"search {field}": str(d) for field, d in sweep.search.items()}
    old = {_name_today(name): v for name, v in study.user_attrs.get(COMMAND, new).items()}
    # Of fields that came after a study, what its trials were trained with.
    later = {f"config.{f}": v for f, v in workdir.LATER.items() if f not in workdir.FREE}
    old = later | old
    changed = [
        f"{name} was {old.get(name)}, is {new.get(name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if changed:
        raise ConfigError(
            f"--study {sweep.folder} holds another sweep: {'; '.join(changed)}. Choose another "
            "--study, or give the same command to resume"
        )
    study.set_user_attr(COMMAND, new)


def _name_today(name: str) -> str:
    """The name of a field that the study's first version may have had under another.

    Those of --search stay: Optuna knows the values of earlier trials by them.
    """
    section, dot, field = name.partition(".")
    return section + dot + MOVED.get(field, field) if section == "config" else name


def number_of(trial: optuna.Trial | FrozenTrial) -> int:
    """The work directory's number: that of the first of the trials that were one, interrupted."""
    return trial.user_attrs.get("number", trial.number)


def resume_later(study: optuna.Study, trial: optuna.Trial | FrozenTrial, **more: Any) -> None:
    """Enqueues an interrupted trial again; it goes on in its work directory where it was."""
    attributes = {**trial.user_attrs, "number": number_of(trial), **more}
    study.enqueue_trial(trial.params, user_attrs=attributes)


def take_over(study: optuna.Study, trial: FrozenTrial) -> None:
    """What becomes of a trial whose process has died."""
    deaths = trial.user_attrs.get("deaths", 0) + 1
    log.info("Trial %d: its process has died (%d of %d)", number_of(trial), deaths, MAX_DEATHS)
    if deaths < MAX_DEATHS:
        resume_later(study, trial, deaths=deaths)


def rows(study: optuna.Study) -> list[dict[str, Any]]:
    """A row for each work directory, as its last attempt ended."""
    found = {}
    for trial in study.get_trials(deepcopy=False):
        if trial.state == TrialState.WAITING:  # to be resumed
            continue
        error = trial.user_attrs.get("error")
        failed = "failed" if error else "interrupted"
        found[number_of(trial)] = {
            "trial": number_of(trial),
            "state": failed if trial.state == TrialState.FAIL else trial.state.name.lower(),
            "mean_iou": trial.value,
            "seconds": round(trial.user_attrs.get("seconds", 0.0), 1),
            "params": trial.params,
            **({"error": error} if error else {}),
        }
    return list(found.values())
