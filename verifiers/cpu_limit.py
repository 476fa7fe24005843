"""A limit of CPU time inside a worker process, for code whose cost a completion can drive up."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class CpuLimitError(Exception):
    """The block used up its CPU time."""


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raise CpuLimitError in the block when this process has used `seconds` of CPU time in it.

    CPU time, not wall time, so that a busy machine does not turn good answers into `limit`.
    Python's `re` looks for signals while it backtracks, so a catastrophic pattern is interrupted
    too. Works in a process's main thread, where workers judge; elsewhere `signal` raises
    ValueError.
    """

    def interrupt(signum: int, frame: object) -> None:
        raise CpuLimitError(f"more than {seconds:g} s of CPU time")

    previous = signal.signal(signal.SIGVTALRM, interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)
