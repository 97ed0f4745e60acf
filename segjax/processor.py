"""What makes training fast on a processor and has to be set before a program starts.

Measured in experiments/throughput.
"""

import contextlib
import os
import sys
from importlib.metadata import version

# Large arrays lie on pages of 2 MiB, and their memory is kept for the next step: otherwise every
# step takes some hundred MiB anew, page by page.
MEMORY = f"glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold={2**40}"
# Convolutions by Eigen and not by YNNPACK, which takes twice as long for many of them.
CONVOLUTIONS = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
JAXLIB = (0, 10), (0, 13)  # from and before: XLA ends a program at a flag that it does not know


def settings() -> dict[str, str]:
    """Environment variables for a fast process; memory is the user's who sets GLIBC_TUNABLES."""
    found = {}
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        found["GLIBC_TUNABLES"] = MEMORY
    first, end = JAXLIB
    if first <= tuple(map(int, version("jaxlib").split(".")[:2])) < end:
        found["XLA_FLAGS"] = f"{CONVOLUTIONS} {os.environ.get('XLA_FLAGS', '')}".strip()
    return found


def keeps_memory() -> bool:
    """True where glibc keeps what the first thread takes; it never does so for other threads."""
    return os.environ.get("GLIBC_TUNABLES") == MEMORY


def start_anew() -> None:
    """Starts this process anew, once, with `settings`, for glibc reads its own at the start.

    Where that is not possible, as for a program from standard input, nothing happens.
    """
    # A mark among the arguments: an executable that is a wrapper may change the environment.
    again = "started_anew" in sys._xoptions
    from_a_file = sys.executable and sys.argv[0] not in ("", "-", "-c")
    if again or not from_a_file or os.name != "posix":
        return
    command = [sys.executable, "-X", "started_anew", *sys.orig_argv[1:]]
    with contextlib.suppress(OSError):
        os.execve(sys.executable, command, os.environ | settings())
