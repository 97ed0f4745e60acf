"""Trials of a sweep: each is a training in a work directory of its own."""

import logging
import math
import shutil
import sys
import time
import warnings
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import jax
import optuna
from ml_collections import ConfigDict
from optuna.trial import FrozenTrial, TrialState

from segjax.errors import ConfigError, InUseError, TrainingError
from segjax.runtime.devices import Parallel
from segjax.runtime.files import write_json
from segjax.training import loop
from segjax.training.validate import validate
from segjax.tuning.picture import picture
from segjax.tuning.space import as_flags, parse_search, suggest, with_values
from segjax.tuning.study import Sweep, alone, number_of, open_study, resume_later, rows

log = logging.getLogger(__name__)
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
MAX_FAILURES = 5  # of a process, one after the other; then something else must be wrong


def search(config: ConfigDict, texts: list[str], folder: str | Path, **options: Any) -> None:
    """Searches, or resumes, from the command line's values, and logs the best.

    Args:
      texts: of --search, see `parse_search`; options: the other fields of `Sweep`.

    Raises ConfigError, before anything is trained, if no trial can run.
    """
    sweep = Sweep(config, parse_search(config, texts), Path(folder), **options)
    # A line for each epoch and trial is enough; the rest is in reports and TensorBoard.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("segjax").setLevel(logging.WARNING)
    logging.getLogger("segjax.tuning").setLevel(logging.INFO)
    check(sweep)
    best = run(sweep)
    found = (
        f"mIoU {best['mean_iou']:.4f}, trial {best['trial']}: {best['flags']}" if best else "none"
    )
    log.info("Best: %s\nAll trials: %s", found, sweep.folder / "sweep.{json,png}")


def check(sweep: Sweep) -> None:
    """Raises ConfigError if the configuration, or one of the choices, cannot run."""
    devices = Parallel(sweep.config.parallel)
    validate(sweep.config, devices)
    for field, distribution in sweep.search.items():
        for choice in getattr(distribution, "choices", ()):
            try:
                validate(with_values(sweep.config, {field: choice}), devices)
            except ConfigError as error:
                raise ConfigError(f"--search {field}: {error}") from error


def run(sweep: Sweep) -> dict[str, Any]:
    """Takes trials until enough are finished; returns the best, as in sweep.json."""
    with open_study(sweep) as study:
        try:
            _take_trials(sweep, study)
        finally:
            best = write_report(sweep, study)
    return best


def _take_trials(sweep: Sweep, study: optuna.Study) -> None:
    failures, waits = 0, False

    def after(study: optuna.Study, trial: FrozenTrial) -> None:
        nonlocal failures
        reason = trial.user_attrs.get("error", "")
        if trial.state != TrialState.FAIL:
            failures = 0
        elif reason:  # or it was left to another process
            failures += 1
        log.info("Trial %d: %s %s", number_of(trial), trial.state.name, reason or trial.value)
        write_report(sweep, study)
        if failures == MAX_FAILURES:
            raise TrainingError(f"{failures} trials in a row have failed, the last: {reason}")

    while (state := _progress(study, sweep.trials)) != "finished":
        if state == "ours":
            study.optimize(
                partial(objective, sweep), n_trials=1, catch=TrainingError, callbacks=[after]
            )
            waits = False
            continue
        if not waits:
            log.info("Waiting for trials of other processes; one that has died is taken over")
        waits = True
        time.sleep(sweep.grace / 10)


def _progress(study: optuna.Study, trials: int) -> str:
    """finished, ours (there is one to take) or theirs (the last ones are running)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # see open_study
        optuna.storages.fail_stale_trials(study)
    states = Counter(trial.state for trial in study.get_trials(deepcopy=False))
    finished = sum(states[state] for state in FINISHED)
    if finished >= trials:
        return "finished"
    return "ours" if finished + states[TrialState.RUNNING] < trials else "theirs"


def objective(sweep: Sweep, trial: optuna.Trial) -> float:
    """Trains a trial in its work directory; returns the validation mIoU of its best checkpoint."""
    params = {field: suggest(trial, field, d) for field, d in sweep.search.items()}
    folder = sweep.folder / "trials" / str(number_of(trial))
    log.info("Trial %d: %s", number_of(trial), as_flags(params))
    try:
        return _train(trial, with_values(sweep.config, params), folder)
    except optuna.TrialPruned:
        _drop_checkpoints(folder)
        raise
    except InUseError as error:  # the process that it was taken from lives; its next report ends it
        resume_later(trial.study, trial)
        time.sleep(sweep.grace)
        raise TrainingError(str(error)) from error
    except (ConfigError, TrainingError, jax.errors.JaxRuntimeError) as error:  # the last: memory
        reason = str(error).partition("\n")[0]
        trial.set_user_attr("error", reason)
        _drop_checkpoints(folder)
        raise TrainingError(reason) from error
    except optuna.exceptions.UpdateFinishedTrialError:
        sys.exit(
            f"Error: trial {number_of(trial)} was silent for {sweep.grace} s, and another process "
            "took it over; raise --grace"
        )
    except BaseException:  # Ctrl-C, or something that is not the fault of these values
        resume_later(trial.study, trial)
        raise
    finally:
        jax.clear_caches()  # the next trial compiles its own steps


def _train(trial: optuna.Trial, config: ConfigDict, folder: Path) -> float:
    start, before = time.monotonic(), trial.user_attrs.get("seconds", 0.0)
    reported: set[int] = set()

    def on_epoch(epochs: list[dict[str, Any]]) -> None:
        trial.set_user_attr("seconds", before + time.monotonic() - start)
        for row in epochs:  # all of it: a trial that is resumed is a new one to Optuna
            if "val_mean_iou" in row and row["epoch"] not in reported:
                trial.report(row["val_mean_iou"], row["epoch"])
                reported.add(row["epoch"])
                log.info("  epoch %d: mIoU %.4f", row["epoch"], row["val_mean_iou"])
        if epochs[-1]["epoch"] < config.num_epochs and trial.should_prune():
            raise optuna.TrialPruned

    _share_data_check(folder)
    score = loop.train_and_evaluate(config, folder, on_epoch)[1]["mean_iou"]
    if not math.isfinite(score):
        raise TrainingError(f"the validation mIoU is {score}: no class has a labelled pixel")
    trial.set_user_attr("seconds", before + time.monotonic() - start)
    return score


def _drop_checkpoints(folder: Path) -> None:
    """Of a trial that nobody will use; scores, configuration and curves stay."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _share_data_check(folder: Path) -> None:
    """Another trial has decoded every file already; a report of other data is not believed."""
    known = next(folder.parent.glob("*/data.json"), None)
    if known and not (folder / "data.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(known, folder)


def write_report(sweep: Sweep, study: optuna.Study) -> dict[str, Any]:
    """Writes sweep.json and sweep.png; returns the row of the best trial, empty without one."""
    with alone(sweep.folder):
        table = rows(study)
        complete = [row for row in table if row["state"] == "complete"]
        best = max(complete, key=lambda row: row["mean_iou"], default={})
        if best:
            best = {**best, "flags": as_flags(best["params"])}
        write_json(sweep.folder / "sweep.json", {"best": best or None, "trials": table})
        picture(table, sweep.search).savefig(sweep.folder / "sweep.png")
    return best
