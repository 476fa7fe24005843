"""The same backend on gVisor (`runtime="runsc"`), where the daemon knows it. Slow without KVM, so
one container and few programs; what gVisor does not give is in docs/sandbox.md."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

import pytest
import pytest_asyncio

from sandbox import Case, Limits, Outcome, Program, Result, SandboxUnavailableError
from sandbox.docker_backend import DockerSandbox

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="module")]

LIMITS = Limits(cpu_s=30, wall_s=60, memory_mb=128, output_bytes=10_000)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def box() -> AsyncIterator[DockerSandbox]:
    sandbox = DockerSandbox(num_slots=1, runtime="runsc")
    try:
        await run(sandbox, "")
    except SandboxUnavailableError as error:
        pytest.skip(str(error))
    yield sandbox
    await sandbox.close()


async def run(
    box: DockerSandbox,
    source: str,
    start: Literal["fork", "exec"] = "fork",
    limits: Limits = LIMITS,
) -> Result:
    program = Program(files={"main.py": source.encode()}, python="main.py", start=start)
    return (await box.run(program, [Case(stdin=b"in")], limits))[0]


@pytest.mark.parametrize("start", ["fork", "exec"])
async def test_right_and_wrong(box: DockerSandbox, start: Literal["fork", "exec"]) -> None:
    right = await run(box, "print(input())", start)
    wrong = await run(box, "raise SystemExit(3)", start)
    assert (right.outcome, right.stdout) == (Outcome.EXITED, b"in\n")
    assert (wrong.outcome, wrong.exit_code) == (Outcome.RUNTIME_ERROR, 3)


async def test_it_is_gvisor(box: DockerSandbox) -> None:
    result = await run(box, "print(open('/proc/version').read())")
    assert b"gVisor" in result.stdout or b"Linux version 4.4.0" in result.stdout
    assert box.runtime_info["runtime"] == "runsc" and box.runtime_info["meter"] == "proc"


async def test_limits(box: DockerSandbox) -> None:
    short = Limits(cpu_s=1, wall_s=10, memory_mb=128)
    assert (await run(box, "while True: pass", limits=short)).outcome is Outcome.TIME_LIMIT
    source = "x = []\nwhile True: x.append(bytearray(1 << 20))"
    assert (await run(box, source)).outcome is Outcome.MEMORY_LIMIT
    assert (await run(box, "while True: print('x' * 99)")).outcome is Outcome.OUTPUT_LIMIT


async def test_nothing_is_left(box: DockerSandbox) -> None:
    await run(
        box,
        "import os, time, ctypes\nopen('/tmp/x', 'w'); os.makedirs('/dev/shm/a/b')\n"
        "ctypes.CDLL(None).shmget(0x77, 4096, 0o1666)\n"
        "if os.fork() == 0:\n os.setsid(); time.sleep(600)",
    )
    source = """
import os
print(os.listdir('/tmp'), os.listdir('/dev/shm'), len(open('/proc/sysvipc/shm').readlines())
      if os.path.exists('/proc/sysvipc/shm') else 1)
print(len([p for p in os.listdir('/proc') if p.isdigit()]))
"""
    assert (await run(box, source)).stdout == b"[] [] 1\n3\n"


async def test_the_stream_is_out_of_reach(box: DockerSandbox) -> None:
    source = """
import os, re
opened = set()
for pid in {p for p in os.listdir('/proc') if p.isdigit()} - {str(os.getpid())}:
    for number in os.listdir(f'/proc/{pid}/fd'):
        path = f'/proc/{pid}/fd/{number}'
        for mode in (os.O_RDONLY, os.O_WRONLY):
            try:
                os.open(path, mode | os.O_NONBLOCK)
                opened.add(os.readlink(path))
            except OSError:
                pass
print(all(re.fullmatch('/dev/null|/proc/[0-9]+/stat', name) for name in opened), opened)
for path in ('/proc/1/mem', '/proc/2/mem'):
    try:
        open(path, 'r+b')
        print('opened')
    except OSError:
        print('refused')
"""
    result = await run(box, source)
    # Usage is read from /proc there, so the supervisor may just have a file open that all may read.
    assert result.stdout.startswith(b"True "), result
    assert result.stdout.endswith(b"\nrefused\nrefused\n"), result
