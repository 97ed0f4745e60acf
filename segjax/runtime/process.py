"""Settings that make training fast on a CPU and have to be set before a program starts.

Measured in experiments/throughput.
"""

import contextlib
import importlib.util
import os
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

# Large arrays lie on pages of 2 MiB, and their memory is kept for the next step: otherwise every
# step takes some hundred MiB again, page by page.
MEMORY = f"glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold={2**40}"
# Convolutions by Eigen and not by YNNPACK, which takes twice as long for many of them.
CONVOLUTIONS = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
JAXLIB = (0, 10), (0, 13)  # from and before: XLA aborts on unknown flags
COMMAND = Path(__file__).resolve().parents[1] / "__main__.py"
GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # of NVIDIA, of AMD, of either under Windows


def settings() -> dict[str, str]:
    """Environment variables for a fast process; memory is the user's who sets GLIBC_TUNABLES."""
    found = {}
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        found["GLIBC_TUNABLES"] = MEMORY
    first, end = JAXLIB
    if first <= tuple(map(int, version("jaxlib").split(".")[:2])) < end:
        found["XLA_FLAGS"] = f"{CONVOLUTIONS} {os.environ.get('XLA_FLAGS', '')}".strip()
    return found


def is_used() -> bool:
    """True where JAX will run on the CPU: by request, or without a GPU or a plugin for it."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return True
    return not (entry_points(group="jax_plugins") and any(Path(gpu).exists() for gpu in GPUS))


def start_anew(program: str) -> None:
    """Re-executes the process once, with `settings`: glibc reads its own at the start.

    Nothing happens where JAX will use a GPU, nor where Python was started with another file than
    `program` or the command `segjax`: a notebook, a debugger or a profiler would be lost.
    """
    # A mark among the arguments: an executable that is a wrapper may change the environment.
    again = "started_anew" in sys._xoptions
    if again or os.name != "posix" or not is_used() or not _was_started(Path(program)):
        return
    command = [sys.executable, "-X", "started_anew", *sys.orig_argv[1:]]
    with contextlib.suppress(OSError):
        os.execve(sys.executable, command, os.environ | settings())


def _was_started(program: Path) -> bool:
    """True where Python was started with this file, with `-m segjax`, or by pip's script for it."""
    found = _started_with()
    if found is None:
        return False
    return found in (program.resolve(), COMMAND) or (found.name == "segjax" and found.is_file())


def _started_with() -> Path | None:
    """The file that is the program of this process; None for standard input, or if in doubt."""
    arguments = iter(sys.orig_argv[1:])
    for argument in arguments:
        if argument in ("-X", "-W"):  # options with a value of their own
            next(arguments, None)
        elif argument == "-m":
            spec = importlib.util.find_spec(next(arguments, ""))
            if spec and spec.submodule_search_locations:  # a package
                spec = importlib.util.find_spec(f"{spec.name}.__main__")
            return Path(spec.origin).resolve() if spec and spec.origin else None
        elif argument in ("-", "-c"):
            return None
        elif not argument.startswith("-"):
            return Path(argument).resolve()
    return None


def use_kept_memory() -> None:
    """Makes JAX run steps from the first thread, the only one whose memory glibc keeps.

    Sets a flag of JAX, for the whole process; only where `start_anew` has set glibc's.
    """
    if os.environ.get("GLIBC_TUNABLES") == MEMORY:
        import jax

        jax.config.update("jax_cpu_enable_async_dispatch", False)
