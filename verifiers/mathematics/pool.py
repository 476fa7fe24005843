"""Worker processes for comparisons that need numbers: started on use, killed at the deadline.

One `Pool` serves threads and event loops alike. It belongs to the process that made it; a process
forked from that one must make its own (`MathVerifier` does). Requests and answers are JSON lines:
nothing that a completion wrote is ever unpickled or evaluated.

A worker has its address space limited, is killed with its whole process group at the deadline,
limits its own CPU time in case the parent dies first, and is replaced after `MAX_REQUESTS`
requests, so that caches of the libraries cannot grow for ever.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Any, NamedTuple

MAX_REQUESTS = 5_000
START_TIMEOUT_S = 60.0
"""For the imports of a new worker on a busy machine; not part of any verdict's deadline."""
_CLOSED = "the math verifier was closed while a verdict was under way"
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from verifiers.mathematics.worker import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)


class Outcome(StrEnum):
    """How a request ended."""

    DONE = "done"
    TIME = "time"
    """Killed at the deadline."""
    DIED = "died"
    """The process ended for a reason of its own."""


class Reply(NamedTuple):
    outcome: Outcome
    stages: list[dict[str, Any]]
    """The lines it wrote for this request; the last one of a done request is the result."""
    reason: str = ""


class PoolClosed(RuntimeError):
    """The pool was closed."""


class Pool:
    """Worker processes, one request each at a time.

    Args:
        size: number of processes.
        memory_mb: limit of a worker's address space.
    """

    def __init__(self, size: int, memory_mb: int) -> None:
        self.size = size
        # Workers are killed when the *thread* that started them ends (that is what Linux watches),
        # so one thread that lives as long as the pool starts them all.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="math-pool")
        self._workers = [_Worker(self._starter, memory_mb) for _ in range(size)]
        # In turn: a worker that was killed starts anew while the others have theirs.
        self._idle: queue.Queue[_Worker] = queue.Queue()
        for worker in self._workers:
            self._idle.put(worker)
        self._closed = False
        self._lock = threading.Lock()

    def ask(self, request: dict[str, Any], timeout_s: float) -> Reply:
        """Have a worker answer; waits for a free one, which is not part of the deadline.

        Raises:
            PoolClosed: the pool is closed.
            OSError: a worker cannot be started.
        """
        worker = self._idle.get()
        try:
            if self._closed:
                raise PoolClosed(_CLOSED)
            return worker.ask(request, timeout_s)
        finally:
            self._idle.put(worker)

    def pids(self) -> list[int]:
        """Process ids of the workers that run."""
        return [worker.process.pid for worker in self._workers if worker.process is not None]

    def close(self) -> None:
        """Kill all workers and wait until they are gone. Requests under way get `DIED`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for worker in self._workers:
            worker.kill()
        for _ in self._workers:  # each comes back from its request before it is reaped
            self._idle.get()
        for worker in self._workers:
            worker.stop()
            self._idle.put(worker)
        self._starter.shutdown(wait=True)


class _Worker:
    def __init__(self, starter: ThreadPoolExecutor, memory_mb: int) -> None:
        self._starter = starter
        self._memory_mb = memory_mb
        self.process: subprocess.Popen[bytes] | None = None
        self._requests = 0
        self._buffer = b""
        self._is_ready = False
        self._closed = False

    def ask(self, request: dict[str, Any], timeout_s: float) -> Reply:
        if self.process is not None and (
            self._requests >= MAX_REQUESTS or self.process.poll() is not None
        ):
            self.stop()
        if self.process is None:
            self.start()
        self._await_ready()
        process = self.process
        assert process is not None and process.stdin is not None
        self._requests += 1
        deadline = time.monotonic() + timeout_s
        stages: list[dict[str, Any]] = []
        try:
            process.stdin.write(json.dumps({**request, "timeout_s": timeout_s}).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            return Reply(Outcome.DIED, stages, self.stop(died=True))
        while True:
            line = self._line(deadline)
            if line is None:
                self.stop()
                self.start()  # the next request need not wait for the imports
                return Reply(Outcome.TIME, stages, f"it passed the deadline of {timeout_s:g} s")
            if not line:
                return Reply(Outcome.DIED, stages, self.stop(died=True))
            stages.append(json.loads(line))
            if "result" in stages[-1]:
                return Reply(Outcome.DONE, stages)
            if stages[-1]["stage"] == "importing":
                deadline = time.monotonic() + START_TIMEOUT_S
            elif stages[-1]["stage"] == "imported":
                deadline = time.monotonic() + timeout_s

    def kill(self) -> None:
        """Kill the process for good."""
        self._closed = True
        process = self.process
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def stop(self, *, died: bool = False) -> str:
        """Kill the process and all of its group; say how it ended."""
        process, self.process = self.process, None
        if process is None:
            return "it was stopped"
        if died:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1.0)  # to learn how it ended, before the kill below
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):  # what was not sent cannot be flushed
                stream.close()
        return f"it died by {signal.Signals(-code).name}" if code < 0 else f"it exited with {code}"

    def start(self) -> None:
        """Start the process, without waiting until it is ready."""
        if self._closed:
            return
        self.process = self._starter.submit(self._spawn).result()
        self._requests, self._buffer, self._is_ready = 0, b"", False

    def _await_ready(self) -> None:
        if self.process is None:
            raise PoolClosed(_CLOSED)
        if not self._is_ready and self._line(time.monotonic() + START_TIMEOUT_S) != b'"ready"':
            why = self.stop(died=True)
            raise OSError(f"a worker process of the math verifier did not start: {why}")
        self._is_ready = True

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            (
                *(sys.executable, "-c", _BOOT),
                *(json.dumps(sys.path), str(os.getpid()), str(self._memory_mb)),
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is ours; the whole group is killed at once
        )

    def _line(self, deadline: float) -> bytes | None:
        """The next line; empty when the process has ended, null at the deadline."""
        process = self.process
        assert process is not None and process.stdout is not None
        poller = select.poll()  # not `select`, which fails for descriptors over 1,023
        poller.register(process.stdout, select.POLLIN)
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not poller.poll(left * 1_000):
                return None
            chunk = os.read(process.stdout.fileno(), 65_536)
            if not chunk:
                return b""
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line
