"""A sandbox without isolation, just enough for tests of what stands on top of the protocol.

Python programs run in a fork of the test process, which takes milliseconds instead of tens.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from sandbox.protocol import Case, Limits, Outcome, Program, Result, Session
from verifiers.code_pools import Pools


class ForkSandbox:
    """Runs Python programs in forks, others as subprocesses, with a wall limit. For tests only."""

    def __init__(self) -> None:
        self.programs: list[Program] = []
        """Everything that was run, for tests that look at what a candidate is given."""
        self.cases: list[Case] = []

    async def run(
        self,
        program: Program,
        cases: Sequence[Case],
        limits: Limits,
        *,
        stop: Callable[[int, Result], bool] | None = None,
        deadline_s: float | None = None,
    ) -> list[Result]:
        self.programs.append(program)
        self.cases.extend(cases)
        results: list[Result] = []
        for index, case in enumerate(cases):
            with tempfile.TemporaryDirectory() as folder:
                results.append(await asyncio.to_thread(_run, program, case, limits, Path(folder)))
            if stop is not None and stop(index, results[-1]):
                break
        return results

    @asynccontextmanager
    async def session(
        self, program: Program, limits: Limits, *, deadline_s: float | None = None
    ) -> AsyncIterator[Session]:
        self.programs.append(program)
        with tempfile.TemporaryDirectory() as folder:
            session = _Session(program, Path(folder))
            try:
                yield session
            finally:
                await session.finish()

    def check_limits(self, limits: Limits) -> None:
        if limits.memory_mb > 2048:
            raise ValueError(f"limit memory_mb is {limits.memory_mb}, there are 2048")

    async def close(self) -> None:
        pass


def fork_pools() -> Pools:
    return Pools(candidates=ForkSandbox(), judges=ForkSandbox())


def _lay(program: Program, folder: Path) -> None:
    for name, content in program.files.items():
        (folder / name).write_bytes(content)
        if name in program.executable:
            (folder / name).chmod(0o755)


def _run(program: Program, case: Case, limits: Limits, folder: Path) -> Result:
    _lay(program, folder)
    start = time.perf_counter()
    assert limits.wall_s is not None
    file = tempfile.TemporaryFile
    with file() as stdin, file() as out, file() as err:
        stdin.write(case.stdin)
        stdin.seek(0)
        fds = (stdin.fileno(), out.fileno(), err.fileno())
        if program.python:
            code = _wait(_fork(program, folder, fds, case.args, {}), limits.wall_s)
        else:
            command = [*program.argv, *case.args]
            with suppress(subprocess.TimeoutExpired):
                code = None
                code = subprocess.run(
                    *(command,),
                    cwd=folder,
                    stdin=stdin,
                    stdout=out,
                    stderr=err,
                    timeout=limits.wall_s,
                ).returncode
        printed = [_content(out), _content(err)]
    files = {n: (folder / n).read_bytes() for n in case.collect if (folder / n).is_file()}
    outcome = Outcome.EXITED if code == 0 else Outcome.RUNTIME_ERROR
    if sum(map(len, printed)) > limits.output_bytes:
        outcome = Outcome.OUTPUT_LIMIT
    if code is None:
        outcome = Outcome.TIME_LIMIT
    return _result(outcome, code, printed, time.perf_counter() - start, files)


def _content(file: Any) -> bytes:
    file.seek(0)
    return file.read()


def _result(
    outcome: Outcome,
    code: int | None,
    printed: list[bytes],
    wall_s: float,
    files: dict[str, bytes] | None = None,
) -> Result:
    return Result(
        outcome=outcome,
        exit_code=code,
        signal=None,
        stdout=printed[0],
        stderr=printed[1],
        wall_s=wall_s,
        cpu_s=wall_s,
        memory_mb=10.0,
        files=files or {},
        timed_out_on="wall" if outcome is Outcome.TIME_LIMIT else None,
    )


def _fork(
    program: Program,
    folder: Path,
    fds: tuple[int, int, int],
    args: Sequence[str],
    environment: dict[str, str],
) -> int:
    pid = os.fork()
    if pid:
        return pid
    status, leave = 1, os._exit
    try:
        for target, fd in enumerate(fds):
            os.dup2(fd, target)
        inherited = [0, 1, 2, *map(int, environment.get("SANDBOX_CHANNEL", "2").split(","))]
        for first, last in pairwise([*sorted(inherited), 4096]):
            os.closerange(first + 1, last)
        os.chdir(folder)
        os.environ.update(environment)
        assert program.python is not None
        sys.argv = [program.python, *args]
        for fd, mode, name in ((0, "r", "stdin"), (1, "w", "stdout"), (2, "w", "stderr")):
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(program.files[program.python], program.python, "exec"), main.__dict__)
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        leave(status)
    return 0


def _wait(pid: int, wall_s: float) -> int | None:
    """The exit status (negative for a signal), or null if it had to be killed."""
    handle = os.pidfd_open(pid)
    try:
        in_time = select.select([handle], [], [], wall_s)[0]
    finally:
        os.close(handle)
    if not in_time:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if in_time else None


class _Session:
    def __init__(self, program: Program, folder: Path) -> None:
        _lay(program, folder)
        to_program, self._write = os.pipe()
        self._read, from_program = os.pipe()
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        self._start = time.perf_counter()
        null = os.open(os.devnull, os.O_RDONLY)
        fds = (null, self._out.fileno(), self._err.fileno())
        channel = {"SANDBOX_CHANNEL": f"{to_program},{from_program}"}
        self._pid = _fork(program, folder, fds, (), channel)
        for fd in (to_program, from_program, null):
            os.close(fd)
        self._result: Result | None = None

    async def send(self, message: bytes) -> None:
        with suppress(BrokenPipeError):
            data = len(message).to_bytes(4, "big") + message
            await asyncio.to_thread(os.write, self._write, data)

    async def receive(self) -> bytes | None:
        head = await self._exactly(4)
        return await self._exactly(int.from_bytes(head, "big")) if head else None

    async def _exactly(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            while not select.select([self._read], [], [], 0)[0]:
                await asyncio.sleep(0.001)
            part = os.read(self._read, size - len(data))
            if not part:
                return None
            data += part
        return data

    async def finish(self) -> Result:
        if self._result is None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            code = await asyncio.to_thread(_wait, self._pid, 5.0)
            os.close(self._write)
            os.close(self._read)
            outcome = Outcome.EXITED if code == 0 else Outcome.RUNTIME_ERROR
            printed = [_content(self._out), _content(self._err)]
            self._out.close()
            self._err.close()
            took_s = time.perf_counter() - self._start
            self._result = _result(outcome, code, printed, took_s)
        return self._result
