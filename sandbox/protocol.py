"""The sandbox contract: what a backend takes, what it gives back, and what it promises.

A *job* is one program and the cases to run it on. All cases of a job run in one slot, one after
another, each in a fresh process in a freshly wiped place. A *session* is one process that stays up
and exchanges messages with the host. Whatever the program does, it can only influence the bytes of
its own results: outcomes, times and sizes are measured outside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol


class Outcome(StrEnum):
    """How a program ended. There is no outcome for a fault of ours: that is a `SandboxError`."""

    EXITED = "exited"
    """It exited with status 0, within all limits. That alone never means it was right."""
    RUNTIME_ERROR = "runtime_error"
    """It exited with another status, or a signal it could not blame on a limit ended it."""
    TIME_LIMIT = "time_limit"
    """It was killed for CPU or wall time."""
    MEMORY_LIMIT = "memory_limit"
    """It was killed for memory, or its allocation failed and it died of that."""
    OUTPUT_LIMIT = "output_limit"
    """It was killed for what it wrote: to its output, or to a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one process tree may use.

    Raises:
        ValueError: a limit is not positive, or below what an empty Python program needs.
    """

    cpu_s: float = 10.0
    """CPU seconds of the whole process tree."""
    wall_s: float | None = None
    """Seconds from start to end, not counting time spent waiting for a CPU on a busy machine (at
    most four times the limit itself); null: twice `cpu_s` plus one."""
    memory_mb: int = 512
    """Memory of the whole process tree, swap off."""
    output_bytes: int = 1 << 20
    """stdout and stderr and result channel together, counted while it runs."""
    processes: int = 16
    """Processes and threads alive at once."""
    file_bytes: int = 16 << 20
    """Size of any one file, and of all of them together."""
    open_files: int = 64

    def __post_init__(self) -> None:
        for name, minimum in _MINIMUM.items():
            value = getattr(self, name)
            if value is not None and not minimum <= value < math.inf:
                raise ValueError(
                    f"limit {name} is {value}; it must be finite, and no program can do with less "
                    f"than {minimum}"
                )

    @property
    def effective_wall_s(self) -> float:
        return 2 * self.cpu_s + 1 if self.wall_s is None else self.wall_s


_MINIMUM = {
    "cpu_s": 0.1,
    "wall_s": 0.1,
    "memory_mb": 32,
    "output_bytes": 1,
    "processes": 1,
    "file_bytes": 4096,
    "open_files": 16,
}
"""What an empty Python program needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run.

    `python` programs are given by the path of their main file in `files`, and start in one of two
    ways: `fork` from a warm interpreter that has never seen anything of any run (fast), or `exec`
    of a new isolated interpreter (clean heap). Any other program is given by `argv` (exec only).
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    """Relative path -> content, laid into the working directory, read-only to the program."""
    argv: Sequence[str] = ()
    """Command line; empty for a `python` program."""
    python: str | None = None
    """Main file of a Python program, run as `__main__`."""
    start: Literal["fork", "exec"] = "fork"
    """How a Python program starts."""
    executable: Sequence[str] = ()
    """Files that get the execute bit (a compiled program)."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the small fixed environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run of a job's program."""

    stdin: bytes = b""
    args: Sequence[str] = ()
    """Added to the command line (`sys.argv[1:]`)."""
    collect: Sequence[str] = ()
    """Files of the working directory to bring back if it exits with 0 (a compiler's product)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How one case ended."""

    outcome: Outcome
    exit_code: int | None
    """Null when a signal ended it."""
    signal: int | None
    stdout: bytes
    """Cut at the output limit."""
    stderr: bytes
    """Cut at the output limit."""
    wall_s: float
    """Measured by the supervisor, outside the program."""
    cpu_s: float
    """User and system time of the whole process tree."""
    memory_mb: float
    """Peak memory of the tree beyond what every run starts with; short peaks may be missed."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """What `Case.collect` named, where it exists."""
    timed_out_on: Literal["cpu", "wall"] | None = None


class Session(Protocol):
    """A running program that exchanges messages with the host.

    The program talks over a pair of inherited descriptors whose numbers are in the environment
    variable `SANDBOX_CHANNEL` ("read,write"); each message is a 4-byte big-endian length and that
    many bytes. Its stdin is empty, its stdout and stderr are captured as usual.
    """

    async def send(self, message: bytes) -> None: ...

    async def receive(self) -> bytes | None:
        """The program's next message, or null when it has ended (then `finish` says how)."""
        ...

    async def finish(self) -> Result:
        """Kill it if it still runs, wipe its place, and say how it ended."""
        ...


class Sandbox(Protocol):
    """A backend: a pool of slots. Safe to use from one event loop.

    Every method raises `SandboxError` for faults of ours, after retrying on another slot where
    nothing was observed yet; it never raises for what a program does.
    """

    async def run(
        self,
        program: Program,
        cases: Sequence[Case],
        limits: Limits,
        *,
        stop: Callable[[int, Result], bool] | None = None,
        deadline_s: float | None = None,
    ) -> list[Result]:
        """Run the program on each case, in order, in one slot.

        Args:
            stop: called with each case's index and result; true ends the job early.
            deadline_s: gives up with a `SandboxError` when no slot was free for so long.

        Returns:
            One result a case; fewer if `stop` said so.
        """
        ...

    def session(
        self, program: Program, limits: Limits, *, deadline_s: float | None = None
    ) -> AbstractAsyncContextManager[Session]:
        """Start the program in a slot of its own and talk to it. Not retried once it started."""
        ...

    def check_limits(self, limits: Limits) -> None:
        """What `run` and `session` check too.

        Raises:
            ValueError: the limits ask for more than this sandbox has.
        """
        ...

    async def close(self) -> None:
        """Remove every container this pool owns."""
        ...
