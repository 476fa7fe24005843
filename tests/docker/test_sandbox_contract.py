"""What every backend promises, in every start mode. See `sandbox.protocol`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from sandbox import Case, Limits, Outcome, Program, Result, SandboxError, SandboxUnavailableError
from sandbox.docker_backend import DockerSandbox
from sandbox.pool import Pool

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="module")]

LIMITS = Limits(cpu_s=1, wall_s=2, memory_mb=128, output_bytes=100_000, file_bytes=1 << 20)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["runc"])
async def box(request: pytest.FixtureRequest) -> AsyncIterator[Pool]:
    sandbox = DockerSandbox(num_slots=1, runtime=request.param, patience_s=5)
    try:
        await sandbox.run(Program(files={"a.py": b""}, python="a.py"), [Case()], Limits())
    except SandboxUnavailableError as error:
        pytest.skip(str(error))
    yield sandbox
    await sandbox.close()


@pytest.fixture(params=["fork", "exec"])
def start(request: pytest.FixtureRequest) -> str:
    return request.param


def python(source: str, start: str, **files: bytes) -> Program:
    return Program(
        files={"main.py": source.encode(), **files},
        python="main.py",
        start=start,  # type: ignore[arg-type]
    )


async def run(box: Pool, program: Program, case: Case | None = None, **limits: object) -> Result:
    wanted = replace(LIMITS, **limits)  # type: ignore[arg-type]
    return (await box.run(program, [case or Case()], wanted))[0]


# --- how programs begin and end ------------------------------------------------------------------


async def test_bytes_go_through_unchanged(box: Pool, start: str) -> None:
    data = bytes(range(256)) * 300
    source = (
        "import sys; d = sys.stdin.buffer.read(); sys.stdout.buffer.write(d[::-1]);"
        "sys.stderr.buffer.write(d[:9])"
    )
    result = await run(box, python(source, start), Case(stdin=data))
    assert (result.outcome, result.exit_code, result.signal) == (Outcome.EXITED, 0, None)
    assert (result.stdout, result.stderr) == (data[::-1], data[:9])


async def test_it_is_an_ordinary_main_program(box: Pool, start: str) -> None:
    source = """
import os, sys, helper
print(__name__, __file__, sys.argv, os.getcwd(), helper.X, input(), sorted(globals())[:3])
print(sorted(os.listdir('.')), os.environ['HOME'], sys.stdin.encoding, open('/dev/stdin').read())
exit()
"""
    program = python(source, start, **{"helper.py": b"X = 5", "sub/data": b"d"})
    result = await run(box, program, Case(stdin=b"one\ntwo", args=["a", "b c"]))
    expected = """__main__ main.py ['main.py', 'a', 'b c'] /box 5 one """
    assert result.stdout.decode().startswith(expected), result
    assert "['helper.py', 'main.py', 'sub'] /box utf-8 " in result.stdout.decode()


@pytest.mark.parametrize(
    ("source", "exit_code", "signal"),
    [
        ("raise SystemExit(7)", 7, None),
        ("import os; os._exit(9)", 9, None),
        ("raise SystemExit('why')", 1, None),
        ("1/0", 1, None),
        ("def f(:", 1, None),
        ("import os; os.abort()", None, 6),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", None, 9),
        ("import threading; threading.Thread(target=lambda: 1/0).start()", 0, None),
        ("import atexit, os; atexit.register(os._exit, 5)", 5, None),
    ],
)
async def test_exit_status(
    box: Pool, start: str, source: str, exit_code: int | None, signal: int | None
) -> None:
    result = await run(box, python(source, start))
    assert (result.exit_code, result.signal) == (exit_code, signal)
    assert result.outcome is (Outcome.EXITED if exit_code == 0 else Outcome.RUNTIME_ERROR)


async def test_traceback_shows_the_program_only(box: Pool, start: str) -> None:
    result = await run(box, python("def f():\n    1/0\nf()", start))
    lines = result.stderr.decode().splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == '  File "main.py", line 3, in <module>'
    assert lines[-1] == "ZeroDivisionError: division by zero"


async def test_exit_handlers_run_and_threads_are_waited_for(box: Pool, start: str) -> None:
    source = """
import atexit, threading, time
atexit.register(print, "last")
threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
print("first", end=" ")
"""
    assert (await run(box, python(source, start))).stdout == b"first thread\nlast\n"


async def test_random_differs_and_hashes_do_not(box: Pool, start: str) -> None:
    program = python("import random; print(random.random(), hash('x'))", start)
    first, second = await box.run(program, [Case(), Case()], LIMITS)
    (random_1, hash_1), (random_2, hash_2) = first.stdout.split(), second.stdout.split()
    assert random_1 != random_2 and hash_1 == hash_2


async def test_numpy(box: Pool, start: str) -> None:
    program = python("import numpy; print((numpy.eye(9) @ numpy.ones(9)).sum())", start)
    result = await run(box, program, memory_mb=256, cpu_s=10, wall_s=20)
    assert result.stdout == b"9.0\n", result


async def test_compile_then_run(box: Pool) -> None:
    source = b'#include <cstdio>\nint main(){int a,b;scanf("%d%d",&a,&b);printf("%d\\n",a+b);}'
    compiler = Program(files={"a.cc": source}, argv=["g++", "-O1", "-o", "program", "a.cc"])
    wide = Limits(cpu_s=20, memory_mb=512, file_bytes=64 << 20)
    compiled = (await box.run(compiler, [Case(collect=["program", "absent"])], wide))[0]
    assert compiled.outcome is Outcome.EXITED, compiled
    assert list(compiled.files) == ["program"]
    program = Program(files=compiled.files, argv=["./program"], executable=["program"])
    results = await box.run(program, [Case(stdin=b"2 3"), Case(stdin=b"-1 1")], LIMITS)
    assert [result.stdout for result in results] == [b"5\n", b"0\n"]


async def test_a_command_that_does_not_exist(box: Pool) -> None:
    result = await run(box, Program(argv=["no-such-program"]))
    assert (result.outcome, result.exit_code) == (Outcome.RUNTIME_ERROR, 127)
    assert b"no-such-program: No such file" in result.stderr


# --- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source", "outcome"),
    [
        ("busy", "while True: pass", Outcome.TIME_LIMIT),
        (
            "busy children",
            "import os\nfor _ in range(3): os.fork()\nwhile True: pass",
            Outcome.TIME_LIMIT,
        ),
        ("asleep", "import time; time.sleep(60)", Outcome.TIME_LIMIT),
        (
            "deaf and asleep",
            "import signal, time\nfor s in set(signal.valid_signals()) - {9, 19}:"
            " signal.signal(s, signal.SIG_IGN)\ntime.sleep(60)",
            Outcome.TIME_LIMIT,
        ),
        ("stopped", "import os; os.kill(os.getpid(), 19)", Outcome.TIME_LIMIT),
        ("waits for a pipe", "import os; os.read(os.pipe()[0], 1)", Outcome.TIME_LIMIT),
        (
            "touches much",
            "x = []\nwhile True: x.append(bytearray(1 << 20))",
            Outcome.MEMORY_LIMIT,
        ),
        ("asks for too much", "x = bytearray(1 << 40)", Outcome.MEMORY_LIMIT),
        (
            "children touch much",
            "import os, time\nfor _ in range(2): os.fork()\n"
            "x = bytearray(b'x') * (60 << 20)\ntime.sleep(9)",
            Outcome.MEMORY_LIMIT,
        ),
        (
            "shared memory",
            "import mmap\nm = mmap.mmap(-1, 300 << 20)\nwhile True: m.write(b'x' * (1 << 20))",
            Outcome.MEMORY_LIMIT,
        ),
        ("prints for ever", "while True: print('x' * 99)", Outcome.OUTPUT_LIMIT),
        ("one huge line", "print('x' * 10_000_000)", Outcome.OUTPUT_LIMIT),
        (
            "errors for ever",
            "import sys\nwhile True: sys.stderr.write('x' * 99)",
            Outcome.OUTPUT_LIMIT,
        ),
        ("a large file", "open('x', 'wb').write(b'x' * (2 << 20))", Outcome.OUTPUT_LIMIT),
        ("a sparse file", "open('x', 'wb').truncate(1 << 40)", Outcome.OUTPUT_LIMIT),
        (
            "many files",
            "for i in range(20): open(f'/tmp/{i}', 'wb').write(b'x' * (1 << 17))",
            Outcome.OUTPUT_LIMIT,
        ),
        (
            "too many processes",
            "import os, time\nfor _ in range(40):\n if os.fork() == 0: time.sleep(9)",
            Outcome.RUNTIME_ERROR,
        ),
        (
            "too many threads",
            "import threading, time\n"
            "for _ in range(40): threading.Thread(target=time.sleep, args=[1]).start()",
            Outcome.RUNTIME_ERROR,
        ),
        (
            "too many open files",
            "x = [open('/dev/null') for _ in range(99)]",
            Outcome.RUNTIME_ERROR,
        ),
        ("recursion in C", "import sys; sys.setrecursionlimit(10**9)\n"
         "class A:\n def __getattr__(s, n): return getattr(s, n)\nA().x", Outcome.RUNTIME_ERROR),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 25 else "",
)  # fmt: skip
async def test_limits_hold_and_are_named(
    box: Pool, start: str, name: str, source: str, outcome: Outcome
) -> None:
    del name
    result = await run(box, python(source, start))
    assert result.outcome is outcome, result
    assert len(result.stdout) + len(result.stderr) <= LIMITS.output_bytes
    after = await run(box, python("print('fine')", start))
    assert (after.outcome, after.stdout) == (Outcome.EXITED, b"fine\n")


async def test_which_clock_ran_out(box: Pool, start: str) -> None:
    busy = await run(box, python("while True: pass", start), cpu_s=0.3)
    asleep = await run(box, python("import time; time.sleep(9)", start), wall_s=0.3)
    assert (busy.timed_out_on, asleep.timed_out_on) == ("cpu", "wall")
    assert busy.cpu_s >= 0.3 and asleep.wall_s >= 0.3 and asleep.cpu_s < 0.3


async def test_output_at_the_limit_is_kept_and_beyond_it_is_cut(box: Pool, start: str) -> None:
    exact = await run(box, python("print('x' * 999)", start), output_bytes=1000)
    beyond = await run(box, python("print('x' * 1000)", start), output_bytes=1000)
    assert (exact.outcome, len(exact.stdout)) == (Outcome.EXITED, 1000)
    assert (beyond.outcome, len(beyond.stdout)) == (Outcome.OUTPUT_LIMIT, 1000)


# --- jobs ----------------------------------------------------------------------------------------


async def test_cases_run_in_order_each_in_a_fresh_place(box: Pool, start: str) -> None:
    source = """
import os
print(input(), sorted(os.listdir('.')), os.listdir('/tmp'))
open('left', 'w'); open('/tmp/left', 'w')
"""
    cases = [Case(stdin=str(index).encode()) for index in range(5)]
    results = await box.run(python(source, start), cases, LIMITS)
    assert [result.stdout.decode() for result in results] == [
        f"{index} ['main.py'] []\n" for index in range(5)
    ]


async def test_stop_ends_a_job_early(box: Pool, start: str) -> None:
    seen = []

    def stop(index: int, result: Result) -> bool:
        seen.append((index, result.stdout))
        return index == 2

    program = python("print(input())", start)
    cases = [Case(stdin=str(index).encode()) for index in range(50)]
    results = await box.run(program, cases, LIMITS, stop=stop)
    assert [result.stdout for result in results] == [b"0\n", b"1\n", b"2\n"]
    assert seen == list(enumerate([b"0\n", b"1\n", b"2\n"]))


async def test_program_files_cannot_be_changed(box: Pool, start: str) -> None:
    source = """
import os
for action in (lambda: open('main.py', 'w'), lambda: os.unlink('data'), lambda: os.rmdir('sub'),
               lambda: os.rename('data', 'x'), lambda: os.chmod('data', 0o777),
               lambda: os.symlink('/etc/passwd', 'data')):
    try:
        action()
        print("done")
    except OSError as error:
        print("no")
"""
    program = python(source, start, **{"data": b"d", "sub/data": b"d"})
    assert (await run(box, program)).stdout == b"no\n" * 6


async def test_collect_follows_no_links(box: Pool, start: str) -> None:
    source = """
import os
os.symlink('/etc/passwd', 'link'); os.mkfifo('fifo'); os.mkdir('folder')
open('file', 'w').write('mine')
"""
    case = Case(collect=["link", "fifo", "folder", "file", "none"])
    assert (await run(box, python(source, start), case)).files == {"file": b"mine"}


async def test_many_at_once(box: Pool, start: str) -> None:
    program = python("print(int(input()) ** 2)", start)
    jobs = (box.run(program, [Case(stdin=b"%d" % n)], LIMITS) for n in range(30))
    results = [one for [one] in await asyncio.gather(*jobs)]
    assert {one.outcome for one in results} == {Outcome.EXITED}, results
    assert [int(one.stdout) for one in results] == [n * n for n in range(30)]


async def test_no_slot_in_time(box: Pool, start: str) -> None:
    program = python("import time; time.sleep(1)", start)
    busy = [asyncio.create_task(run(box, program)) for _ in range(box.num_slots)]
    await asyncio.sleep(0.1)
    with pytest.raises(SandboxError, match=r"no sandbox slot was free for 0\.1 s"):
        await box.run(program, [Case()], LIMITS, deadline_s=0.1)
    assert {result.outcome for result in await asyncio.gather(*busy)} == {Outcome.EXITED}


async def test_a_cancelled_job_frees_its_slot(box: Pool, start: str) -> None:
    before = box.metrics.slots_started
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await run(box, python("import time; time.sleep(60)", start), wall_s=60)
    assert (await run(box, python("print(1)", start))).stdout == b"1\n"
    assert box.metrics.slots_started == before


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "", ".", "a//b"])
async def test_paths_stay_inside(box: Pool, name: str) -> None:
    with pytest.raises(ValueError, match="not a plain relative path"):
        await box.run(Program(files={name: b""}, argv=["true"]), [Case()], LIMITS)


# --- sessions ------------------------------------------------------------------------------------

ECHO = """
import os, struct, sys
reading, writing = map(int, os.environ["SANDBOX_CHANNEL"].split(","))
source = open(reading, "rb")
while head := source.read(4):
    message = source.read(struct.unpack(">I", head)[0])
    if message == b"quit":
        print("bye"); break
    os.write(writing, head + message[::-1]) if len(message) < 60000 else \
        open(writing, "wb", closefd=False).write(head + message[::-1])
"""


async def test_a_session_exchanges_messages(box: Pool, start: str) -> None:
    wide = replace(LIMITS, output_bytes=16 << 20)
    async with box.session(python(ECHO, start), wide) as session:
        for message in (b"abc", b"", bytes(range(256)) * 4096):
            await session.send(message)
            assert await session.receive() == message[::-1]
        await session.send(b"quit")
        assert await session.receive() is None
        result = await session.finish()
    assert (result.outcome, result.stdout) == (Outcome.EXITED, b"bye\n")


async def test_a_session_is_killed_at_its_end(box: Pool, start: str) -> None:
    async with box.session(python(ECHO, start), LIMITS) as session:
        await session.send(b"x")
        assert await session.receive() == b"x"
    assert (await run(box, python("print(1)", start))).stdout == b"1\n"


@pytest.mark.parametrize("finished", [False, True])
async def test_an_error_in_a_session_frees_its_slot(box: Pool, start: str, finished: bool) -> None:
    before = box.metrics.slots_started
    with pytest.raises(KeyError):
        async with box.session(python(ECHO, start), LIMITS) as session:
            await session.send(b"x")
            if finished:
                await session.finish()
            raise KeyError
    assert (await run(box, python("print(1)", start))).stdout == b"1\n"
    assert box.metrics.slots_started == before


async def test_messages_wait_for_a_program_that_does_not_read(box: Pool, start: str) -> None:
    async with box.session(python("import time; time.sleep(60)", start), LIMITS) as session:
        for _ in range(20):
            await session.send(b"x" * 50_000)
        assert await session.receive() is None
        assert (await session.finish()).timed_out_on == "wall"


async def test_a_message_in_pieces_costs_more(box: Pool, start: str) -> None:
    """Each byte alone is work for both ends: a few hundred count as thousands."""
    source = """
import os, time
fd = int(os.environ["SANDBOX_CHANNEL"].split(",")[1])
for _ in range(500):
    os.write(fd, bytes(1))
    time.sleep(0.001)
"""
    limits = replace(LIMITS, output_bytes=8000)
    async with box.session(python(source, start), limits) as session:
        while await session.receive() is not None:
            pass
        assert (await session.finish()).outcome is Outcome.OUTPUT_LIMIT


@pytest.mark.parametrize(
    ("source", "outcome"),
    [
        ("os.write(writing, struct.pack('>I', 1 << 31) + b'x')", Outcome.OUTPUT_LIMIT),
        ("while True: os.write(writing, b'x' * 4096)", Outcome.OUTPUT_LIMIT),
        ("os.write(writing, struct.pack('>I', 9) + b'half')", Outcome.EXITED),
        ("os.close(writing); 1/0", Outcome.RUNTIME_ERROR),
    ],
)
async def test_broken_messages(box: Pool, start: str, source: str, outcome: Outcome) -> None:
    begin = (
        "import os, struct; reading, writing = map(int, os.environ['SANDBOX_CHANNEL'].split(','))"
    )
    async with box.session(python(f"{begin}\n{source}", start), LIMITS) as session:
        while await session.receive() is not None:
            pass
        result = await session.finish()
    assert result.outcome is outcome, result


async def test_a_program_gets_no_channel_outside_a_session(box: Pool, start: str) -> None:
    source = "import os; print('SANDBOX_CHANNEL' in os.environ)\nos.fstat(3)"
    result = await run(box, python(source, start))
    assert result.stdout == b"False\n" and b"Bad file descriptor" in result.stderr
