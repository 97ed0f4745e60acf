"""One run at a time in a work directory: two would delete each other's checkpoints.

The lock is `flock` on WORKDIR/lock, which the kernel releases when its process ends, killed or not.
NFS (version 4, or 3 with its lock daemon) passes it on to the server, so that it holds between
machines, but a machine that is lost keeps it until its lease ends, or for good with version 3.
Lustre does so where it is mounted with `flock`; with `localflock` the lock holds on one machine
only, and without either there is none, which is said.
"""

import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from segjax.errors import ConfigError, InUseError
from segjax.runtime.devices import Parallel

log = logging.getLogger(__name__)
NAME = "lock"


@contextmanager
def hold(folder: Path, devices: Parallel) -> Iterator[None]:
    """Makes a work directory and keeps other runs out of it; of several processes, the first does.

    Where nothing is trained in the end, a folder that was not there is not left behind.

    Raises:
      InUseError: where another run trains in it.
      ConfigError: where it cannot be written, and in all processes but the first for either reason.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    file, error = None, None
    if devices.is_first:
        try:
            file = _take(folder)
        except (ConfigError, OSError) as caught:  # a full disk, too, stops all processes
            error = caught
    try:
        if devices.any(error is not None):
            raise error or ConfigError(
                f"--workdir {folder}: the first process cannot use it; see its message"
            )
        yield
    finally:
        if file:
            is_unused = not (folder / "config.json").exists()
            if is_unused:
                _remove_contents(folder, made)
            _release(folder, file)
            if is_unused:
                _remove_empty(made)


def _take(folder: Path) -> TextIO:
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise ConfigError(
            f"--workdir {folder} cannot be written ({error.strerror}); choose another"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:  # the second from some NFS servers
        file.seek(0)
        holder = file.read() or "another process"
        file.close()
        raise InUseError(
            f"--workdir {folder} is in use by {holder}; wait for it, stop it, or choose another "
            "--workdir. If that process no longer exists (the lock of a lost machine on a shared "
            f"file system), remove {path}"
        ) from error
    except OSError as error:
        log.warning(
            "%s: this file system has no locks (%s); see to it that no other run uses this "
            "--workdir",
            *(folder, error.strerror),
        )
    if not _is_at(path, file):  # its holder has removed it since it was opened
        file.close()
        return _take(folder)
    file.truncate(0)
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}")
    file.flush()
    return file


def _is_at(path: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _release(folder: Path, file: TextIO) -> None:
    if _is_at(folder / NAME, file):
        (folder / NAME).unlink(missing_ok=True)  # nobody else can have locked it yet
    file.close()


def _remove_contents(folder: Path, made: list[Path]) -> None:
    """Removes what a start that failed has made, while the lock is kept."""
    if folder in made:
        (folder / "data.json").unlink(missing_ok=True)
    with suppress(OSError):  # missing, or not empty
        (folder / "checkpoints").rmdir()


def _remove_empty(made: list[Path]) -> None:
    with suppress(OSError):  # another run has it by now
        for path in made:
            path.rmdir()
