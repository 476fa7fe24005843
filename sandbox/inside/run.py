"""One run: a process tree from its start until nothing of it is left."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from sandbox.inside import meter, place

TICK_S = 0.01
"""How often limits are looked at while a program runs."""
KILL_TIMEOUT_S = 5.0
"""After SIGKILL a process is gone at once, unless the kernel holds it."""
MAX_STARVATION = 5
"""On a busy machine a program may stay for so many times its wall limit."""
CHUNK_BYTES = 1 << 16
LEAST_MESSAGE_BYTES = 64
"""What any piece read from a channel counts as at least: each becomes a frame to the host, and a
program that writes byte by byte would keep both ends busy for minutes before a limit ends it."""
_OUT_OF_MEMORY = (b"MemoryError", b"std::bad_alloc")


class Unclean(Exception):
    """Something of ours did not go as it must: the container is not to be used again."""


class Run:
    """Start one program with one standard input, watch it, end it, measure it.

    Args:
        uid: used by no other run of this container; whatever has it is killed at the end.
        request: what the zygote needs (see `zygote._become`).
        on_data: called with what the program writes to its channel; null where it has none.
    """

    def __init__(
        self,
        zygote: socket.socket,
        zygote_bytes: int,
        gauge: meter.Meter,
        uid: int,
        request: dict[str, Any],
        stdin: bytes,
        on_data: Callable[[bytes], None] | None,
    ) -> None:
        self.outcome: str | None = None
        self.timed_out_on: str | None = None
        self.interrupted = False
        self._zygote, self._gauge, self._uid = zygote, gauge, uid
        self._zygote_bytes = zygote_bytes  # every run begins with that much of the zygote's memory
        self.limits: dict[str, Any] = request["limits"]
        self._on_data = on_data
        self._report: dict[str, Any] | None = None
        self._outputs: dict[int, list[bytes]] = {}
        self._num_bytes = 0
        self._pending = bytearray()  # for the program's channel
        self._channel: int | None = None
        self._poll = select.poll()
        self._poll.register(zygote, select.POLLIN)
        self._start(request, stdin)

    def _start(self, request: dict[str, Any], stdin: bytes) -> None:
        passed = [_sealed_file(stdin)]
        for _ in range(3 if self._on_data else 2):
            reading, writing = os.pipe()
            with contextlib.suppress(PermissionError):  # gVisor's pipes keep their owner
                os.fchown(writing, self._uid, self._uid)  # so that it can open /dev/stdout
            os.set_blocking(reading, False)
            self._outputs[reading] = []
            self._poll.register(reading, select.POLLIN)
            passed.append(writing)
        self._stdout, self._stderr, *channel = self._outputs
        self._from_program = channel[0] if channel else None
        if self._on_data:
            reading, self._channel = os.pipe()
            os.set_blocking(self._channel, False)
            passed.insert(3, reading)
        self._used_before = self._gauge.cpu_s() - time.process_time()
        self._memory_before = self._gauge.memory_bytes()
        self._disk_before = place.used_bytes()
        self._peak_bytes = 0
        self._cpu_s = self._orphans_cpu_s = 0.0
        self.wall_s = self._own_wall_s = self._checked_s = 0.0
        self.started_s = time.monotonic()
        self._next_check_s = self.started_s + TICK_S
        try:
            socket.send_fds(
                self._zygote, [json.dumps({**request, "uid": self._uid}).encode()], passed
            )
        except BrokenPipeError:
            raise Unclean("the zygote is gone") from None
        finally:
            for fd in passed:
                os.close(fd)

    def watch(self, host_fd: int, on_host: Callable[[], None]) -> None:
        """Return when the program has ended, broke a limit, or was interrupted."""
        self._poll.register(host_fd, select.POLLIN)
        while self._report is None and self.outcome is None and not self.interrupted:
            for fd, _ in self._poll.poll(TICK_S * 1000):
                if fd == host_fd:
                    on_host()
                elif fd == self._zygote.fileno():
                    self._receive_report()
                elif fd == self._channel:
                    self._feed()
                elif not self._read(fd):
                    self._poll.unregister(fd)
            self.wall_s = time.monotonic() - self.started_s
            if self._report is None and time.monotonic() >= self._next_check_s:
                self._check_limits()
                self._next_check_s = time.monotonic() + TICK_S

    def write(self, data: bytes) -> None:
        """Give the program something on its channel, as fast as it reads."""
        if self._channel is not None:
            self._pending += data
            self._feed()

    def end(self) -> tuple[dict[str, Any], bytes, bytes]:
        """Kill what is left, take what it wrote, and say how it ended.

        Raises:
            Unclean: something did not die, or the zygote is not what it was.
        """
        deadline_s = time.monotonic() + KILL_TIMEOUT_S
        while True:
            _kill_all(self._uid)
            if self._report is None and self._poll_zygote():
                self._receive_report()
            self._orphans_cpu_s += _reap()
            if self._report is not None and len(meter.pids()) == 2:
                break
            if time.monotonic() > deadline_s:
                raise Unclean(f"processes {meter.pids()} outlived the run")
            time.sleep(0.0002)
        for fd in list(self._outputs):
            self._drain(fd)
        if self._channel is not None:
            os.close(self._channel)
        return self._result(), self._text(self._stdout), self._text(self._stderr)

    def out_of_memory(self) -> dict[str, Any]:
        """The result of a program that filled the container, where the kernel took one of ours for
        it: that is the program's doing all the same."""
        return {
            "outcome": "memory_limit",
            "timed_out_on": None,
            "exit_code": None,
            "signal": int(signal.SIGKILL),
            "wall_s": self.wall_s,
            "cpu_s": 0.0,
            "memory_mb": float(self.limits["memory_mb"]),
        }

    # --- while it runs ---------------------------------------------------------------------------

    def _check_limits(self) -> None:
        limits, gauge = self.limits, self._gauge
        cpu_s = gauge.cpu_s() - time.process_time() - self._used_before
        passed_s, used_s = self.wall_s - self._checked_s, max(0.0, cpu_s - self._cpu_s)
        # Waiting for a CPU does not count: a busy machine is not the program's fault.
        is_starved = used_s < passed_s and self._is_waiting()
        self._own_wall_s += used_s if is_starved else passed_s
        self._cpu_s, self._checked_s = cpu_s, self.wall_s
        memory = gauge.memory_bytes() - self._memory_before
        self._peak_bytes = max(self._peak_bytes, memory)
        if self._cpu_s > limits["cpu_s"]:
            self._break("time_limit", "cpu")
        elif max(self._own_wall_s, self.wall_s / MAX_STARVATION) > limits["wall_s"]:
            self._break("time_limit", "wall")
        elif memory > limits["memory_mb"] << 20 or ran_out_of_memory(self._gauge):
            self._break("memory_limit")
        elif place.used_bytes() - self._disk_before > limits["file_bytes"]:
            self._break("output_limit")
        self._orphans_cpu_s += _reap()

    def _is_waiting(self) -> bool:
        """True when something of the run, or the zygote on its behalf, only lacks a CPU."""
        return any(meter.is_runnable(pid) for pid in meter.pids() if pid != 1)

    def _break(self, outcome: str, timed_out_on: str | None = None) -> None:
        if self.outcome is None:
            self.outcome, self.timed_out_on = outcome, timed_out_on

    def _read(self, fd: int) -> bool:
        """Take what there is; false when nothing is left to take."""
        try:
            data = os.read(fd, CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not data:
            return False
        allowed = self.limits["output_bytes"] - self._num_bytes
        is_message = fd == self._from_program
        size = max(len(data), LEAST_MESSAGE_BYTES) if is_message else len(data)
        self._num_bytes += size
        if size > allowed:
            self._break("output_limit")
        if is_message and self._on_data:
            self._on_data(data[:allowed])
        else:
            self._outputs[fd].append(data[:allowed])
        return True

    def _feed(self) -> None:
        assert self._channel is not None
        try:
            while self._pending:
                del self._pending[: os.write(self._channel, self._pending[:CHUNK_BYTES])]
        except BlockingIOError:
            self._poll.register(self._channel, select.POLLOUT)
            return
        except BrokenPipeError:
            self._pending.clear()
        try:
            self._poll.unregister(self._channel)
        except KeyError:
            return

    def _poll_zygote(self) -> bool:
        return bool(select.select([self._zygote], [], [], TICK_S)[0])

    def _receive_report(self) -> None:
        try:
            text = self._zygote.recv(1 << 16)
        except ConnectionResetError:
            text = b""
        if not text:
            raise Unclean("the zygote is gone")
        message = json.loads(text)
        if "fault" in message:
            raise Unclean(f"a run could not be prepared: {message['fault']}")
        self._report = message

    # --- at its end ------------------------------------------------------------------------------

    def _drain(self, fd: int) -> None:
        while self._num_bytes <= self.limits["output_bytes"] and self._read(fd):
            pass
        os.close(fd)

    def _text(self, fd: int) -> bytes:
        return b"".join(self._outputs[fd])

    def _result(self) -> dict[str, Any]:
        report, limits = self._report, self.limits
        assert report is not None
        status = report["status"]
        exit_code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        cpu_s = max(report["cpu_s"] + self._orphans_cpu_s, self._cpu_s if self.outcome else 0.0)
        peak = max(self._peak_bytes, report["max_rss"] - self._zygote_bytes)
        if ran_out_of_memory(self._gauge) or peak > limits["memory_mb"] << 20:
            self._break("memory_limit")
        if number == signal.SIGXCPU or cpu_s > limits["cpu_s"]:
            self._break("time_limit", "cpu")
        if (
            number == signal.SIGXFSZ
            or place.used_bytes() - self._disk_before > limits["file_bytes"]
        ):
            self._break("output_limit")
        if exit_code == 0:
            self._break("exited")
        if not self.interrupted and _died_of_memory(self._text(self._stderr)):
            self._break("memory_limit")
        self._break("runtime_error")
        return {
            "outcome": self.outcome,
            "timed_out_on": self.timed_out_on,
            "exit_code": exit_code,
            "signal": number,
            "wall_s": self.wall_s,
            "cpu_s": cpu_s,
            "memory_mb": peak / (1 << 20),
        }


def ran_out_of_memory(gauge: meter.Meter) -> bool:
    """Whether the kernel killed something because the container reached its memory limit. What the
    program took may come back only later (page tables do), so nothing else is to run there.

    Raises:
        Unclean: it did so because the whole machine is full. No program here is to blame for that:
            the kernel prefers the sandboxes' processes, however small they are.
    """
    if gauge.oom_kills() == 0:
        return False
    if not gauge.has_been_full():
        raise Unclean("the kernel killed a process because the machine ran out of memory")
    return True


def _died_of_memory(stderr: bytes) -> bool:
    """A failed allocation ends most programs with a well-known last word. (A program may fake it:
    it then fails as the one outcome rather than the other.)"""
    last = stderr.rstrip().rpartition(b"\n")[2]
    return last.startswith(_OUT_OF_MEMORY[0]) or _OUT_OF_MEMORY[1] in stderr[-400:]


def _sealed_file(content: bytes) -> int:
    """An anonymous file nobody can change, read from its start."""
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _kill_all(uid: int) -> None:
    """Kill everything of one user in one step that no fork can outrun. With that user's rights
    `kill(-1)` does not reach the zygote, which is root; nobody else's real user is ours."""
    os.seteuid(uid)
    try:
        os.kill(-1, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    finally:
        os.seteuid(0)


def _reap() -> float:
    """CPU seconds of the orphans that have ended."""
    cpu_s = 0.0
    while True:
        pid, _, usage = os.wait4(-1, os.WNOHANG)
        if pid == 0:
            return cpu_s
        cpu_s += usage.ru_utime + usage.ru_stime
