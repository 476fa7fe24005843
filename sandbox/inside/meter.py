"""What the container's processes use, read from its cgroup, or from /proc where there is none."""

from __future__ import annotations

import os

_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TREES = {
    "cgroup1": (
        "/sys/fs/cgroup/cpuacct/cpuacct.usage",
        "/sys/fs/cgroup/memory/memory.stat",
        "/sys/fs/cgroup/memory/memory.oom_control",
    ),
    "cgroup2": (
        "/sys/fs/cgroup/cpu.stat",
        "/sys/fs/cgroup/memory.stat",
        "/sys/fs/cgroup/memory.events",
    ),
}
_CGROUP1_MOST = "/sys/fs/cgroup/memory/memory.max_usage_in_bytes"
_CGROUP1_LIMIT = "/sys/fs/cgroup/memory/memory.limit_in_bytes"
_SLACK_BYTES = 1 << 20
"""An allocation of several pages fails a little below the limit."""


class Meter:
    """CPU seconds, memory bytes and OOM kills of the whole container, this process included."""

    def __init__(self) -> None:
        for kind, paths in _TREES.items():
            if all(os.path.exists(path) for path in paths):
                self.kind = kind
                self._cpu, self._memory, self._oom = (os.open(p, os.O_RDONLY) for p in paths)
                return
        self.kind = "proc"

    def cpu_s(self) -> float:
        if self.kind == "cgroup1":
            return int(os.pread(self._cpu, 64, 0)) / 1e9
        if self.kind == "cgroup2":
            return _table(self._cpu)[b"usage_usec"] / 1e6
        return sum(_stat(pid, 11, 15) for pid in pids()) / _CLOCK_TICKS

    def memory_bytes(self) -> int:
        """Anonymous and shared memory, tmpfs and memfd included; no page cache."""
        if self.kind == "proc":
            return sum(_stat(pid, 21, 22) for pid in pids()) * _PAGE_BYTES
        table = _table(self._memory)
        return table[b"rss" if self.kind == "cgroup1" else b"anon"] + table[b"shmem"]

    def oom_kills(self) -> int:
        return 0 if self.kind == "proc" else _table(self._oom).get(b"oom_kill", 0)

    def has_been_full(self) -> bool:
        """Whether the container ever reached its memory limit. The kernel also kills when the whole
        machine is full. (Not by `failcnt`: where swap is accounted for, new kernels leave it 0.)"""
        if self.kind == "cgroup2":
            return _table(self._oom)[b"oom"] > 0
        return _number(_CGROUP1_MOST) >= _number(_CGROUP1_LIMIT) - _SLACK_BYTES


def pids() -> list[int]:
    """Every process of the container."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def resident_bytes(pid: int) -> int:
    return _stat(pid, 21, 22) * _PAGE_BYTES


def _number(path: str) -> int:
    with open(path, "rb") as file:
        return int(file.read())


def _table(fd: int) -> dict[bytes, int]:
    fields = os.pread(fd, 16384, 0).split()
    return dict(zip(fields[::2], map(int, fields[1::2]), strict=True))


def is_runnable(pid: int) -> bool:
    return _fields(pid)[:1] == [b"R"]


def _stat(pid: int, first: int, end: int) -> int:
    return sum(map(int, _fields(pid)[first:end]))


def _fields(pid: int) -> list[bytes]:
    """/proc/PID/stat from the state on; empty for a process that is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
