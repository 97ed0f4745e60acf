"""Searches fields of a configuration for the best validation mIoU, with Optuna.

  python experiments/sweep.py --config configs/quickstart.py --trials 20 \\
    --search optim.learning_rate=log:1e-4:1e-1 --search loss.dice=float:0:2 \\
    --search model.upsample=nearest,bilinear --search batch_size=int:4:16:4

FIELD=float:LOW:HIGH, FIELD=log:LOW:HIGH (as likely in every decade), FIELD=int:LOW:HIGH[:STEP], or
FIELD=A,B,C. --config.FIELD=VALUE fixes any other field. The same command resumes a sweep that was
stopped or killed, and may run several times at once (on GPUs: one each, by CUDA_VISIBLE_DEVICES)
until --trials trials are complete or pruned. In --study: sweep.json, sweep.png, trials/NUMBER.
"""

import ast
import fcntl
import logging
import math
import re
import shlex
import shutil
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from ml_collections import ConfigDict

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from segjax.errors import ConfigError, InUseError, TrainingError  # noqa: E402
from segjax.run import workdir  # noqa: E402
from segjax.runtime import cli, process  # noqa: E402
from segjax.runtime.files import write_json  # noqa: E402

try:
    import optuna
except ImportError:
    sys.exit("Error: the sweep needs Optuna; pip install optuna")
from optuna.distributions import (  # noqa: E402
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

log = logging.getLogger("sweep")
SYNTAX = "FIELD=float:LOW:HIGH, log:LOW:HIGH, int:LOW:HIGH[:STEP], or different values A,B,C"
GREY = "#888888"
MARKERS = {  # of matplotlib, by state; other states are not drawn
    "complete": dict(marker="o", ls="", color="#1f6fb4", alpha=0.8),
    "pruned": dict(marker="v", ls="", color="#e0691a", mfc="none"),
    "failed": dict(marker="x", ls="", color="#c0182b"),
    "best": dict(marker="*", ls="", color="#f2b705", mec="black", ms=13),
}
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
MAX_FAILURES = 5  # of a process, one after the other; then something else must be wrong
MAX_DEATHS = 5  # of a trial; then it is the trial that kills its process, by its memory for example


cli.define_config()
_SEARCH = flags.DEFINE_multi_string("search", [], f"Once for each field: {SYNTAX}.")
_TRIALS = flags.DEFINE_integer("trials", 20, "Complete or pruned ones, of all processes.", 1)
_STUDY = flags.DEFINE_string("study", None, "Its folder; runs/sweep/<config name> by default.")
_STORAGE = flags.DEFINE_string(
    "storage", "", "An Optuna storage URL; SQLite in --study by default."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of what is tried; config.seed is that of the training.", 0)
_PRUNE = flags.DEFINE_bool("prune", True, "End trials that are below the median of those before.")
_GRACE = flags.DEFINE_integer("grace", 60, "Seconds of silence after which a process is dead.", 4)


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


def parse_search(config: ConfigDict, texts: list[str]) -> dict[str, BaseDistribution]:
    """What `--search` asks for, by field; choices stay texts, which any storage can hold."""
    search: dict[str, BaseDistribution] = {}
    for text in texts:
        field, _, values = text.partition("=")
        try:
            if field in search:
                raise ValueError("is there twice")
            search[field] = _distribution(_held(config, field), values)
        except ValueError as error:
            raise ConfigError(f"--search {text}: {error}") from error
    if not search:
        raise ConfigError(f"--search is missing: {SYNTAX}")
    return search


def _held(config: ConfigDict, field: str) -> Any:
    """The field's value; where there is no such field, ml_collections knows one that is alike."""
    try:
        value = config[field]
    except (KeyError, TypeError) as error:
        reason = str(error.args[0]).splitlines()[-1] if isinstance(error, KeyError) else ""
        hint = reason if "Did you mean" in reason else "segjax/defaults.py has all"
        raise ValueError(f"the configuration has no field {field!r}. {hint}") from error
    if isinstance(value, ConfigDict):
        raise ValueError(f"it is a section; name one of its fields: {', '.join(value)}")
    return value


def _distribution(held: Any, values: str) -> BaseDistribution:
    kind, *limits = values.split(":")
    if kind in ("float", "log", "int"):
        fits = (int,) if kind == "int" else (float,) if kind == "float" else (int, float)
        if type(held) not in fits:
            raise ValueError(f"the field holds {type(held).__name__}, which {kind} does not fit")
        if len(limits) not in ((2, 3) if kind == "int" else (2,)):
            raise ValueError(f"write {SYNTAX}")
        low, high, *step = (_typed(held, limit) for limit in limits)
        if not low < high:
            raise ValueError(f"{low} is not below {high}")
        if step:  # the end, where whole steps do not lead to it
            high = low + (high - low) // max(step[0], 1) * step[0]
            return IntDistribution(low, high, step=step[0])
        return (IntDistribution if type(held) is int else FloatDistribution)(
            low, high, kind == "log"
        )
    choices = re.split(r",(?![^(]*\))", values)  # not at commas in (8,16)
    for choice in choices:
        _typed(held, choice)
    if len(set(choices)) < max(2, len(choices)):
        raise ValueError(f"write {SYNTAX}")
    return CategoricalDistribution(choices)


def _typed(held: Any, text: str) -> Any:
    """The text as a value of the type that the field holds."""
    if isinstance(held, str):
        return text
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        value = None
    if type(held) is float and type(value) is int:
        value = float(value)
    if type(value) is not type(held):
        raise ValueError(f"{text!r} is no {type(held).__name__}, as the field is; write {SYNTAX}")
    return value


def with_values(config: ConfigDict, params: dict[str, Any]) -> ConfigDict:
    """The configuration with the values of a trial."""
    config = config.copy_and_resolve_references()
    typed = {f: _typed(config[f], v) if isinstance(v, str) else v for f, v in params.items()}
    config.update_from_flattened_dict(typed)
    return config


def as_flags(params: dict[str, Any]) -> str:
    """The values of a trial as flags for segjax.main."""
    return " ".join(f"--config.{field}={shlex.quote(str(v))}" for field, v in params.items())


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


def check(sweep: Sweep) -> None:
    """Raises ConfigError for a configuration, or a choice in it, that no run can be made of."""
    from segjax.runtime.devices import Parallel
    from segjax.training import build

    devices = Parallel(sweep.config.parallel)
    build.validate(sweep.config, devices)
    for field, distribution in sweep.search.items():
        for choice in getattr(distribution, "choices", ()):
            try:
                build.validate(with_values(sweep.config, {field: choice}), devices)
            except ConfigError as error:
                raise ConfigError(f"--search {field}: {error}") from error


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
    told = {f"config.{f}": v for f, v in workdir.deciding_fields(sweep.config).items()}
    told |= {f"search {field}": str(d) for field, d in sweep.search.items()}
    held = study.user_attrs.get("told", told)
    # Of fields that came after a study, what its trials were trained with.
    later = {f"config.{f}": v for f, v in workdir.LATER.items() if f not in workdir.FREE}
    held = later | held
    changed = [
        f"{name} was {held.get(name)}, is {told.get(name)}"
        for name in sorted(held.keys() | told.keys())
        if held.get(name) != told.get(name)
    ]
    if changed:
        raise ConfigError(
            f"--study {sweep.folder} holds another sweep: {'; '.join(changed)}. Choose another "
            "--study, or give the same command to resume"
        )
    study.set_user_attr("told", told)


def number_of(trial: optuna.Trial | FrozenTrial) -> int:
    """The work directory's number: that of the first of the trials that were one, interrupted."""
    return trial.user_attrs.get("number", trial.number)


def resume_later(study: optuna.Study, trial: optuna.Trial | FrozenTrial, **more: Any) -> None:
    """Enqueues an interrupted trial anew; it goes on in its work directory where it was."""
    attributes = {**trial.user_attrs, "number": number_of(trial), **more}
    study.enqueue_trial(trial.params, user_attrs=attributes)


def take_over(study: optuna.Study, trial: FrozenTrial) -> None:
    """What becomes of a trial whose process has died."""
    deaths = trial.user_attrs.get("deaths", 0) + 1
    log.info("Trial %d: its process has died (%d of %d)", number_of(trial), deaths, MAX_DEATHS)
    if deaths < MAX_DEATHS:
        resume_later(study, trial, deaths=deaths)


def objective(sweep: Sweep, trial: optuna.Trial) -> float:
    """Trains a trial in its work directory; returns the validation mIoU of its best checkpoint."""
    import jax

    params = {field: _suggest(trial, field, d) for field, d in sweep.search.items()}
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
    from segjax.training import loop  # late: JAX takes seconds to import, --help should not

    start, before = time.monotonic(), trial.user_attrs.get("seconds", 0.0)
    reported: set[int] = set()

    def on_epoch(history: list[dict[str, Any]]) -> None:
        trial.set_user_attr("seconds", before + time.monotonic() - start)
        for row in history:  # all of it: a trial that is resumed is a new one to Optuna
            if "val_mean_iou" in row and row["epoch"] not in reported:
                trial.report(row["val_mean_iou"], row["epoch"])
                reported.add(row["epoch"])
                log.info("  epoch %d: mIoU %.4f", row["epoch"], row["val_mean_iou"])
        if history[-1]["epoch"] < config.num_epochs and trial.should_prune():
            raise optuna.TrialPruned

    _share_data_check(folder)
    score = loop.train_and_evaluate(config, folder, on_epoch)[1]["mean_iou"]
    if not math.isfinite(score):
        raise TrainingError(f"the validation mIoU is {score}: no class has a labelled pixel")
    trial.set_user_attr("seconds", before + time.monotonic() - start)
    return score


def _suggest(trial: optuna.Trial, field: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(field, distribution.choices)
    whole = isinstance(distribution, IntDistribution)
    suggest = trial.suggest_int if whole else trial.suggest_float
    d = distribution
    return suggest(field, d.low, d.high, step=d.step, log=d.log)


def _drop_checkpoints(folder: Path) -> None:
    """Of a trial that nobody will use; scores, configuration and curves stay."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _share_data_check(folder: Path) -> None:
    """Another trial has decoded every file already; a report of other data is not believed."""
    known = next(folder.parent.glob("*/data.json"), None)
    if known and not (folder / "data.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(known, folder)


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


def picture(table: list[dict[str, Any]], search: dict[str, BaseDistribution]) -> Figure:
    """The best so far, trial by trial, and the scores against each searched field."""
    columns = min(3, len(search) + 1)
    lines = math.ceil((len(search) + 1) / columns)
    figure = Figure(figsize=(4.4 * columns, 3.4 * lines), dpi=120, layout="constrained")
    first, *panels = figure.subplots(lines, columns, squeeze=False).flat
    complete = [row for row in table if row["state"] == "complete"]
    if complete:
        top = max(complete, key=lambda row: row["mean_iou"])
        table = [*table, {**top, "state": "best"}]
        best = np.maximum.accumulate([row["mean_iou"] for row in complete])
        first.step(
            [row["trial"] for row in complete], best, where="post", color=GREY, label="best so far"
        )
    _points(first, [(row, row["trial"]) for row in table])
    first.set(xlabel="trial", ylabel="validation mIoU")
    first.xaxis.set_major_locator(MaxNLocator(integer=True))
    if table:
        figure.legend(*first.get_legend_handles_labels(), loc="outside upper left", ncols=5)
    for panel, (field, distribution) in zip(panels, search.items(), strict=False):
        known = [row for row in table if field in row["params"]]
        values = [row["params"][field] for row in known]
        panel.set(xlabel=field, ylabel="validation mIoU")
        if isinstance(distribution, CategoricalDistribution):
            values = [distribution.choices.index(value) for value in values]
            panel.set_xticks(range(len(distribution.choices)), distribution.choices)
            panel.set_xlim(-0.5, len(distribution.choices) - 0.5)
        else:
            _axis(panel, distribution)
        _points(panel, list(zip(known, values, strict=True)))
    for panel in panels[len(search) :]:
        panel.set_axis_off()
    return figure


def _axis(panel: Axes, distribution: FloatDistribution | IntDistribution) -> None:
    """All that is searched, so that a best value at the edge is seen to be there."""
    low, high = distribution.low, distribution.high
    margin = 0.04
    if not distribution.log:
        margin *= high - low
        panel.set_xlim(low - margin, high + margin)
        return
    panel.set_xscale("log")
    panel.set_xlim(low * (low / high) ** margin, high * (high / low) ** margin)
    panel.xaxis.set_major_locator(LogLocator(subs=(1,) if high / low > 30 else (1, 2, 5)))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter("")


def _points(panel: Axes, points: list[tuple[dict[str, Any], Any]]) -> None:
    for state, style in MARKERS.items():
        chosen = [(x, row["mean_iou"]) for row, x in points if row["state"] == state]
        if not chosen:
            continue
        x, y = zip(*chosen, strict=True)
        if state == "failed":  # without a score: on the axis
            panel.plot(
                x, [0.02] * len(x), transform=panel.get_xaxis_transform(), label=state, **style
            )
        else:
            panel.plot(x, y, label=state, **style)
    panel.grid(alpha=0.25)


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


def main() -> None:
    """Reads flags, checks what can be checked before anything is trained, and searches."""
    config = cli.config()
    search = parse_search(config, _SEARCH.value)
    sweep = Sweep(
        config=config,
        search=search,
        folder=Path(_STUDY.value or f"runs/sweep/{cli.config_name()}"),
        trials=_TRIALS.value,
        storage=_STORAGE.value,
        seed=_SEED.value,
        prune=_PRUNE.value,
        grace=_GRACE.value,
    )
    # A line for each epoch and trial is enough; the rest is in reports and TensorBoard.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("segjax").setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    check(sweep)
    process.use_kept_memory()
    best = run(sweep)
    found = (
        f"mIoU {best['mean_iou']:.4f}, trial {best['trial']}: {best['flags']}" if best else "none"
    )
    log.info("Best: %s\nAll trials: %s", found, sweep.folder / "sweep.{json,png}")


if __name__ == "__main__":
    cli.run(main)
