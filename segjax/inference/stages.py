"""Stages of a pipeline that run at the same time, each in a thread of its own."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any


class Stages:
    """How long each stage was at work, in s."""

    def __init__(self) -> None:
        self.busy = {"decode": 0.0, "network": 0.0, "encode": 0.0}

    @contextmanager
    def working(self, stage: str) -> Iterator[None]:
        """Adds the time within."""
        start = time.perf_counter()
        yield
        self.busy[stage] += time.perf_counter() - start


def ahead(items: Iterator[Any], size: int) -> Iterator[Any]:
    """The items of a generator, made in another thread, `size` waiting and one more being made.

    Its exceptions are raised here; closing this closes it. (Long: its two halves share a queue.)
    """
    queue, stop = Queue(size), Event()

    def put(item: Any) -> None:
        while not stop.is_set():
            try:
                return queue.put(item, timeout=0.1)
            except Full:
                continue

    def work() -> None:
        end = None
        try:
            with closing(items):
                for item in items:
                    put((item, False))
                    if stop.is_set():
                        break
        except Exception as error:
            end = error
        put((end, True))

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            try:
                item, is_end = queue.get(timeout=0.1)  # a wait without end would not see Ctrl-C
            except Empty:
                continue
            if is_end and item is None:
                return
            if is_end:
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
