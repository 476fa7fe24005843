"""Containers die, the daemon restarts, the owner is killed: no verdict is lost, wrong, or ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker import DockerClient
from docker.errors import DockerException

from sandbox import Case, Limits, Outcome, Program, Result, SandboxError, SandboxUnavailableError
from sandbox.docker_backend import DockerSandbox
from sandbox.image import DEFAULT_TAG
from sandbox.owner import LABEL

pytestmark = pytest.mark.docker

SQUARE = Program(files={"main.py": b"print(int(input()) ** 2)"}, python="main.py")
FAIL = Program(files={"main.py": b"raise SystemExit(int(input()) % 100 + 1)"}, python="main.py")


@pytest.fixture
def client() -> Iterator[DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture
async def box() -> AsyncIterator[DockerSandbox]:
    sandbox = DockerSandbox(num_slots=2)
    yield sandbox
    await sandbox.close()


def containers_of(client: DockerClient, pid: int) -> list[Any]:
    found = client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True)
    return [one for one in found if json.loads(one.labels[LABEL])["pid"] == pid]


async def submit(box: DockerSandbox, number: int) -> None:
    """One submission of two cases; every third fails on purpose."""
    program = FAIL if number % 3 == 0 else SQUARE
    cases = [Case(stdin=b"%d" % value) for value in (number, number + 1)]
    results = await box.run(program, cases, Limits())
    for value, result in zip((number, number + 1), results, strict=True):
        if program is SQUARE:
            assert (result.outcome, result.stdout) == (Outcome.EXITED, b"%d\n" % value**2), result
        else:
            expected = (Outcome.RUNTIME_ERROR, value % 100 + 1)
            assert (result.outcome, result.exit_code) == expected, result


async def submit_all(box: DockerSandbox, num: int, wanted: Callable[[], bool]) -> int:
    """At least `num` submissions, eight at a time, and more while `wanted`."""
    numbers = iter(range(10**9))
    done = 0

    async def worker() -> None:
        nonlocal done
        while done < num or wanted():
            await submit(box, next(numbers))
            done += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(worker())
    return done


async def test_containers_killed_at_random(box: DockerSandbox, client: DockerClient) -> None:
    chance = random.Random(1)
    num_killed = 0

    async def killer() -> None:
        nonlocal num_killed
        while True:
            await asyncio.sleep(chance.uniform(0.3, 1.5))
            running = await asyncio.to_thread(containers_of, client, os.getpid())
            if running:
                with contextlib.suppress(DockerException):
                    await asyncio.to_thread(chance.choice(running).kill)
                    num_killed += 1

    task = asyncio.create_task(killer())
    await submit_all(box, 2000, lambda: num_killed < 5)
    task.cancel()
    metrics = box.metrics.snapshot()
    assert metrics["infrastructure_errors"] == 0
    assert metrics["slots_lost"] > 0 and num_killed >= 5


async def test_a_killed_session_is_our_fault(box: DockerSandbox, client: DockerClient) -> None:
    program = Program(files={"main.py": b"import time; time.sleep(60)"}, python="main.py")
    with pytest.raises(SandboxError, match="container died"):
        async with box.session(program, Limits()) as session:
            for handle in containers_of(client, os.getpid()):
                handle.kill()
            await session.receive()
    await submit(box, 5)


FILL = b"""
import os, time
time.sleep(1)
while True:  # no single process exceeds its own limit
    if os.fork() == 0:
        held = bytearray(40 << 20)
        time.sleep(60)
    time.sleep(0.1)
"""


@pytest.mark.parametrize("in_session", [False, True])
async def test_the_kernel_kills_the_supervisor_in_a_full_container(
    in_session: bool, client: DockerClient
) -> None:
    """Stopped, it can neither end the program nor tell of it; the daemon can."""
    program = Program(files={"main.py": FILL}, python="main.py")
    limits = Limits(cpu_s=5, wall_s=30, memory_mb=64)
    async with DockerSandbox(num_slots=1, max_memory_mb=64, disk_mb=16) as box:

        async def run() -> Result:
            if not in_session:
                return (await box.run(program, [Case()], limits))[0]
            async with box.session(program, limits) as session:
                assert await session.receive() is None
                return await session.finish()

        await box.run(Program(files={"main.py": b""}, python="main.py"), [Case()], limits)
        running = asyncio.create_task(run())
        await asyncio.sleep(0.3)
        [handle] = containers_of(client, os.getpid())
        handle.kill(signal="SIGSTOP")
        await asyncio.sleep(2.5)
        handle.kill()
        result = await running
        assert result.outcome is Outcome.MEMORY_LIMIT, result
        assert box.metrics.slots_lost == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_its_owner(client: DockerClient, number: signal.Signals) -> None:
    source = """
import asyncio
from sandbox import Case, DockerSandbox, Limits, Program
async def main():
    box = DockerSandbox(num_slots=2)
    program = Program(files={"main.py": b"print(1, flush=True)"}, python="main.py")
    await asyncio.gather(*(box.run(program, [Case()], Limits()) for _ in range(2)))
    print("running", flush=True)
    program = Program(files={"main.py": b"import time; time.sleep(600)"}, python="main.py")
    await box.run(program, [Case()], Limits(wall_s=600))
asyncio.run(main())
"""
    owner = subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert owner.stdout is not None and owner.stdout.readline() == b"running\n"
    assert containers_of(client, owner.pid)
    owner.send_signal(number)
    owner.wait(30)
    owner.stdout.close()
    assert eventually(lambda: not containers_of(client, owner.pid))


async def test_the_next_start_removes_what_a_dead_owner_left(
    client: DockerClient, box: DockerSandbox
) -> None:
    label = subprocess.run(
        [sys.executable, "-c", "from sandbox.owner import owner_label; print(owner_label())"],
        capture_output=True,
        check=True,
    ).stdout.decode()
    left = client.containers.create(DEFAULT_TAG, ["sleep", "1"], labels={LABEL: label.strip()})
    await submit(box, 1)
    assert left.id not in [one.id for one in client.containers.list(all=True, ignore_removed=True)]


async def test_close_removes_everything(client: DockerClient) -> None:
    async with DockerSandbox(num_slots=2, max_runs=1) as box:
        await asyncio.gather(*(submit(box, number) for number in range(6)))
        assert containers_of(client, os.getpid())
    assert eventually(lambda: not containers_of(client, os.getpid()))


async def test_no_daemon_no_image_no_runtime() -> None:
    for options, message in (
        ({"base_url": "unix:///nonexistent.sock"}, "no Docker daemon can be reached.*dockerd"),
        ({"image": "rlvr-no-such-image:1"}, "no Docker image rlvr-no-such-image:1.*sandbox build"),
        ({"runtime": "no-such"}, "no runtime 'no-such', only .*runc.*daemon.json"),
    ):
        async with DockerSandbox(**options) as box:  # type: ignore[arg-type]
            with pytest.raises(SandboxUnavailableError, match=message):
                await box.run(SQUARE, [Case(stdin=b"1")], Limits())


async def test_more_memory_than_the_containers_have() -> None:
    async with DockerSandbox(max_memory_mb=256) as box:
        with pytest.raises(ValueError, match=r"at most 256 .max_memory_mb."):
            await box.run(SQUARE, [Case()], Limits(memory_mb=512))


class PrivateDaemon:
    """A second dockerd, so that restarting it disturbs nobody."""

    def __init__(self, folder: Path) -> None:
        self.url = f"unix://{folder}/docker.sock"
        self._folder = folder
        (folder / "daemon.json").write_text("{}")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    # In a network of its own: it would take the machine's bridge away.
                    *(
                        "unshare",
                        "--net",
                        "dockerd",
                        "--host",
                        self.url,
                        "--data-root",
                        f"{self._folder}/data",
                    ),
                    *("--exec-root", f"{self._folder}/exec", "--pidfile", f"{self._folder}/pid"),
                    *(
                        "--bridge",
                        "none",
                        "--iptables=false",
                        "--config-file",
                        f"{self._folder}/daemon.json",
                    ),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ready(self) -> bool:
        try:
            with contextlib.closing(DockerClient(base_url=self.url, timeout=5)) as client:
                return client.ping()
        except (DockerException, OSError):
            return False

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)


@pytest.fixture
def daemon(client: DockerClient) -> Iterator[PrivateDaemon]:
    if os.geteuid() != 0 or not all(map(shutil.which, ("dockerd", "unshare"))):
        pytest.skip("a second Docker daemon needs root, dockerd and unshare")
    with tempfile.TemporaryDirectory(prefix="rlvr-dockerd-", ignore_cleanup_errors=True) as name:
        daemon = PrivateDaemon(Path(name))
        daemon.start()
        if not eventually(daemon.ready):
            daemon.stop()
            pytest.skip(
                f"a second dockerd does not start: {(Path(name) / 'log').read_text()[-300:]}"
            )
        with contextlib.closing(DockerClient(base_url=daemon.url, timeout=300)) as private:
            private.images.load(b"".join(client.images.get(DEFAULT_TAG).save(named=DEFAULT_TAG)))
        yield daemon
        daemon.stop()


async def test_the_daemon_restarts_under_load(daemon: PrivateDaemon) -> None:
    async with DockerSandbox(num_slots=2, base_url=daemon.url) as box:
        restarted = asyncio.Event()

        async def restart() -> None:
            await asyncio.sleep(1)
            await asyncio.to_thread(daemon.stop)
            await asyncio.to_thread(daemon.start)
            restarted.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(restart())
            await submit_all(box, 500, lambda: not restarted.is_set())
            await submit_all(box, 50, lambda: False)
        assert box.metrics.snapshot()["infrastructure_errors"] == 0
        assert box.metrics.slots_lost > 0


def eventually(condition: Callable[[], bool], timeout_s: float = 60) -> bool:
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if condition():
            return True
        time.sleep(0.1)
    return False
