"""The command line of every entry point: absl flags, plain errors, quiet libraries.

Nothing here imports JAX, so that `--help` and a mistyped flag answer at once.
"""

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from segjax.errors import ConfigError, SegjaxError
from segjax.runtime import process, recipes, suggestions
from segjax.runtime.files import expand, expand_argument, expand_config

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # --help shows --config among the flags of the entry point
INTERRUPTED = 130  # the exit code of a program stopped by Ctrl-C


def define_config() -> None:
    """--config=FILE.py[:VARIANT] and --config.FIELD=VALUE."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        "A configuration of segjax by name, or a file, with a variant if it has any: camvid, "
        "camvid:cpu, mine.py. --config.FIELD=VALUE changes a field.",
        lock_config=True,
    )


def define_multihost() -> None:
    """--multihost and what it needs where no cluster manager says it."""
    flags.DEFINE_bool("multihost", False, "This is one of several processes that train together.")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, for --multihost.")
    flags.DEFINE_integer("num_processes", None, "How many they are, for --multihost.")
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0, for --multihost.")


def define_checkpoint() -> None:
    """--checkpoint=best or latest, and --refine=WORKDIR of a refiner."""
    flags.DEFINE_enum(
        "checkpoint", "best", ("best", "latest"), "best (by validation mIoU) or latest."
    )
    flags.DEFINE_string("refine", None, "The work directory of a refiner of --workdir.")


def define_pretrained() -> None:
    """--pretrained, weights of another library in place of a run."""
    flags.DEFINE_string(
        "pretrained",
        None,
        "In place of --workdir: a whole network of transformers, segmentation_models.pytorch or "
        "NVlabs, as a file of weights or the folder it was saved as.",
    )


def require(*names: str) -> None:
    """Raises ConfigError where one of these flags has no value."""
    for name in names:
        if not FLAGS[name].value:
            raise ConfigError(f"--{name} is missing; see --help")


def values(names: Sequence[str]) -> dict[str, Any]:
    """The values of these flags, by name."""
    return {name: FLAGS[name].value for name in names}


def _join_the_others() -> None:
    """Connects this process with the others; SLURM, Open MPI and Kubernetes need no more flags."""
    import jax

    try:
        jax.distributed.initialize(
            FLAGS.coordinator,
            FLAGS.num_processes,
            FLAGS.process_id,
            initialization_timeout=120,
            heartbeat_timeout_seconds=30,
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"--multihost: {reason}; outside SLURM, Open MPI and Kubernetes give every process "
            "--coordinator=HOST:PORT --num_processes=N --process_id=I"
        ) from error
    if jax.process_index() > 0:
        logging.getLogger("segjax").setLevel(logging.WARNING)


def config() -> ConfigDict:
    """The configuration that --config names; ConfigError without one.

    ~ in its paths is the home folder, and one number for data.size a square.
    """
    if FLAGS.config is None:
        raise ConfigError("--config is missing; try --config quickstart")
    expand_config(FLAGS.config)
    if len(FLAGS.config.data.size) == 1:
        FLAGS.config.data.size *= 2
    return FLAGS.config


def config_name() -> str:
    """'camvid-cpu' for --config configs/camvid.py:cpu."""
    filename = config_flags.get_config_filename(FLAGS["config"])
    path, _, variant = filename.partition(":")
    return "-".join(filter(None, (Path(path).stem, variant)))


def _describe(error: BaseException) -> str:
    """The message in one line; ml_collections wraps that of a field which does not exist."""
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    lines = str(error.args[0] if error.args else error).splitlines()
    unknown = "unknown field " if isinstance(error, KeyError) else ""
    return unknown + ". ".join(lines)


def _find_configs(argv: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Which arguments name a configuration, and the name; the last one counts."""
    for i, (argument, following) in enumerate(pairwise([*argv, ""])):
        if argument in ("--config", "-config") and following:
            yield i + 1, following
        elif argument.startswith(("--config=", "-config=")):
            yield i, argument.partition("=")[2]


def _with_files(argv: list[str]) -> list[str]:
    """The arguments, with its file in place of a configuration's name."""
    argv = list(argv)
    for i, name in _find_configs(argv):
        path, colon, variant = name.partition(":")
        argv[i] = argv[i].removesuffix(name) + str(recipes.find(path)) + colon + variant
    return argv


def _plain_config(argv: Sequence[str]) -> ConfigDict | None:
    """The configuration of --config, without what other arguments change in it."""
    with contextlib.suppress(Exception):  # whatever is wrong with the file is reported elsewhere
        return recipes.load(list(_find_configs(argv))[-1][1])
    return None


def _mistyped(argv: Sequence[str]) -> str:
    """What is wrong with the first --config.FIELD that does not exist or is a section; or ''."""
    config = _plain_config(argv)
    for argument in argv if config is not None else ():
        prefix, _, field = argument.lstrip("-").partition("=")[0].partition(".")
        if argument[:1] != "-" or get_close_matches(prefix, ["config"], 1, 0.8) == []:
            continue
        known = list(suggestions.fields(config))
        if field and prefix == "config" and field in known:
            continue
        inside = [name.removeprefix(f"{field}.") for name in known if name.startswith(f"{field}.")]
        flag = argument.partition("=")[0]
        if inside:
            return f"{flag} is a section; its fields are {', '.join(inside)}"
        if field:
            alike = [field] if field in known else suggestions.of_field(field, config)
            return f"{flag}: no such field{suggestions.text(alike, '--config.')}"
    return ""


def _explain(error: Exception, argv: Sequence[str]) -> str:
    """One line that says what to change."""
    if mistyped := _mistyped(argv):
        return mistyped
    if isinstance(error, flags.UnrecognizedFlagError):
        plain = _plain_config(argv)
        alike = suggestions.of_field(error.flagname, plain) if plain else []
        return str(error) + suggestions.text(alike, "--config.")
    if isinstance(error, flags.Error):
        no_variants = "get_config() takes" in str(error)
        start = str(error).partition(": ")[0]
        return f"{start}: this file has no variants" if no_variants else str(error)
    return f"--config: {_describe(error)}"


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses flags; every mistake ends in one line that says what to change."""
    try:
        argv = [argv[0], *map(expand_argument, argv[1:])]
    except ConfigError as error:
        sys.exit(f"Error: {error}")
    try:
        if "config" in FLAGS:
            argv = _with_files(argv)
        rest = _parsed(argv)
        if "config" in FLAGS and FLAGS.config is not None:
            _ = FLAGS.config.is_locked  # ml_collections reports what it cannot load when asked
        if len(rest) == 1:
            return rest
        message = f"unexpected argument {rest[1]!r}; flags are written --name=value"
    except (flags.Error, OSError, AttributeError, KeyError, TypeError, ValueError,
            SegjaxError) as error:  # fmt: skip
        message = _explain(error, argv)
    sys.exit(f"Error: {message}\nSee --help.")


def _parsed(argv: Sequence[str]) -> list[str]:
    try:
        return FLAGS(argv)
    except SystemExit:  # after --help, with 1
        sys.exit(0)


def _set_up_logging() -> None:
    """segjax speaks in plain lines; its libraries only when they warn."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("absl").setLevel(logging.WARNING)
    logging.getLogger("segjax").setLevel(logging.INFO)


def run(main: Callable[[], None]) -> None:
    """Parses flags and runs `main`; errors of the user's making print without a traceback."""
    # Compiled programs are kept: a second run starts training within seconds.
    with contextlib.suppress(ConfigError):  # without a home folder nothing is kept
        cache = Path(expand(os.environ.get("XDG_CACHE_HOME") or "~/.cache"))
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "segjax"))

    def wrapped(_: Sequence[str]) -> None:
        process.start_anew(main.__code__.co_filename)
        _set_up_logging()
        several = "multihost" in FLAGS and FLAGS.multihost
        if "multihost" in FLAGS and not several and FLAGS.coordinator:
            sys.exit("Error: --coordinator is for several processes; add --multihost")
        # Of several processes an orderly exit would wait for the others, which wait for this one.
        leave = os._exit if several else sys.exit
        try:
            if several:
                _join_the_others()
            main()
        except (SegjaxError, OSError) as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            leave(getattr(error, "exit_code", 1))
        except KeyboardInterrupt:
            leave(INTERRUPTED)
        except Exception:
            traceback.print_exc()
            if several:
                print(
                    "If this is an error of communication, another process died: see its log, then "
                    "start all of them again to resume",
                    file=sys.stderr,
                    flush=True,
                )
            leave(1)

    app.run(wrapped, flags_parser=_parse)
