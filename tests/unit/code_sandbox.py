"""A sandbox without isolation, just enough for tests of what stands on top of the protocol."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from sandbox.protocol import Case, Limits, Outcome, Program, Result, Session
from verifiers.code_pools import Pools

Process = subprocess.Popen[Any]


class PlainSandbox:
    """Runs programs as plain subprocesses with a wall limit. For tests only."""

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


def plain_pools() -> Pools:
    return Pools(candidates=PlainSandbox(), judges=PlainSandbox())


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
        process = _start(program, folder, case.args, stdin=stdin, stdout=out, stderr=err)
        code = _wait(process, limits.wall_s)
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


def _start(program: Program, folder: Path, case_args: Sequence[str], **more: Any) -> Process:
    python = [sys.executable, "-S", "-s", program.python] if program.python else program.argv
    return subprocess.Popen([*python, *case_args], cwd=folder, **more)


def _wait(process: Process, wall_s: float) -> int | None:
    """The exit status (negative for a signal), or null if it had to be killed."""
    try:
        return process.wait(wall_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


class _Session:
    def __init__(self, program: Program, folder: Path) -> None:
        _lay(program, folder)
        to_program, self._write = os.pipe()
        self._read, from_program = os.pipe()
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        self._start = time.perf_counter()
        self._process = _start(
            program,
            folder,
            (),
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            env=os.environ | {"SANDBOX_CHANNEL": f"{to_program},{from_program}"},
            pass_fds=(to_program, from_program),
        )
        os.close(to_program)
        os.close(from_program)
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
            self._process.kill()
            code = await asyncio.to_thread(self._process.wait)
            os.close(self._write)
            os.close(self._read)
            outcome = Outcome.EXITED if code == 0 else Outcome.RUNTIME_ERROR
            printed = [_content(self._out), _content(self._err)]
            self._out.close()
            self._err.close()
            took_s = time.perf_counter() - self._start
            self._result = _result(outcome, code, printed, took_s)
        return self._result
