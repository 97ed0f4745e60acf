"""Signals that ask a run to stop: it saves first."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger(__name__)


@contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list; a second one acts as it always does.

    Outside the main thread, where Python installs no handlers, signals stay the host program's.
    """
    received: list[int] = []
    handlers: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in handlers.items():
            # None stands for a handler that was not installed from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def handle(number: int, _: Any) -> None:
        received.append(number)
        log.info("Signal %d: stopping soon, when all is saved. Once more stops at once.", number)
        restore()

    if threading.current_thread() is threading.main_thread():
        handlers |= {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        restore()
