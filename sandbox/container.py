"""One warm container: started once, fed jobs over its stream, thrown away when in doubt."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox.errors import SlotLostError
from sandbox.inside.frames import LENGTH, Decoder, Frame, pack
from sandbox.inside.run import MAX_STARVATION
from sandbox.jobs import decode_result, encode_job
from sandbox.owner import LABEL, owner_label
from sandbox.protocol import Case, Limits, Outcome, Program, Result
from sandbox.seccomp import profile

if TYPE_CHECKING:
    from docker import DockerClient

GRACE_S = 20.0
"""How much later than its wall limit a result may come before the container is given up."""
START_TIMEOUT_S = 60.0
_OBITUARY_S = 2.0
"""How long to wait for the daemon to say what a container died of."""
_OVERHEAD_MB = 96
"""Supervisor, zygote and tables, on top of what a run may use."""
MAX_PROCESSES = 512
_NUM_INODES = 4096
_SHM_MB = 16
_MODULES = ("frames", "place", "meter", "python_main", "zygote", "run", "supervisor")
_BOOT = """
import json, sys, types
sys.path[:] = [folder for folder in sys.path if folder]
stream = open(0, "rb", buffering=0, closefd=False)
def read(size):
    data = b""
    while len(data) < size:
        chunk = stream.read(size - len(data))
        if not chunk:
            sys.exit(0)
        data += chunk
    return data
boot = json.loads(read(int.from_bytes(read(4), "big")))
for name, source in boot["sources"].items():
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
sys.modules["sandbox.inside.supervisor"].main(**boot)
"""


class _FilledError(SlotLostError):
    """The container died because the program filled its memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerOptions:
    """What every container of a pool is made from."""

    image: str
    runtime: str | None
    cpus: float
    """CPUs' worth of time a second."""
    memory_mb: int
    """The most a run may ask for."""
    disk_mb: int
    """Size of the working directory, and of /tmp."""
    preload: Mapping[str, bytes] = field(default_factory=dict)
    """Trusted Python programs, compiled once in each container."""


class Container:
    """A slot. Serial: one job or session at a time.

    `healthy` turns false when the container must not be used again.
    """

    def __init__(
        self, handle: Any, stream: _Stream, hello: dict[str, Any], preload: Mapping[str, bytes]
    ) -> None:
        self.healthy = True
        self.num_runs = 0
        self.started_s = time.monotonic()
        self.hello = hello
        self._handle, self._stream, self._preload = handle, stream, preload
        self._ids = itertools.count()
        self._is_busy = False

    @classmethod
    async def start(cls, client: DockerClient, options: ContainerOptions) -> Container:
        """Create, attach, start, and wait until it is warm.

        Raises:
            SlotLostError: the container did not come up.
            docker.errors.DockerException, OSError: what the daemon said.
        """
        creating = asyncio.ensure_future(_in_thread(_create, client, options))
        try:
            handle, sock = await asyncio.shield(creating)
        except asyncio.CancelledError:
            # The thread goes on all the same, and what it makes would belong to nobody.
            await asyncio.wait({creating})
            if creating.exception() is None:
                handle, sock = creating.result()
                sock.close()
                await _in_thread(_remove, handle)
            raise
        stream = _Stream()
        try:
            await asyncio.get_running_loop().create_connection(lambda: stream, sock=sock)
            await _in_thread(handle.start)
            preload = {name: source.decode() for name, source in options.preload.items()}
            boot = {"sources": _sources(), "uid": _random_uid(), "preload": preload}
            text = json.dumps(boot).encode()
            stream.write(LENGTH.pack(len(text)) + text)
            hello, _ = await stream.next(START_TIMEOUT_S)
        except BaseException:
            stream.close()
            await asyncio.shield(_in_thread(_remove, handle))
            raise
        return cls(handle, stream, hello, options.preload)

    async def run(
        self,
        program: Program,
        cases: Sequence[Case],
        limits: Limits,
        on_result: Callable[[Result], bool],
    ) -> None:
        """Run the cases in order; `on_result` gets each result and says whether to stop.

        Returns after fewer cases when `on_result` said so, or when the program filled the
        container, which is not `healthy` then.

        Raises:
            SlotLostError: the container died, or something went wrong in it.
        """
        identifier = next(self._ids)
        job = encode_job(identifier, program, cases, limits, preload=self._preload)
        self._stream.write(job)
        missing, stopped = len(cases), False
        async with self._in_use(identifier):
            while True:
                try:
                    message, blobs = await self._next(limits)
                except _FilledError:
                    if missing and not stopped:  # else it died after its work
                        on_result(_out_of_memory(limits))
                    return
                if message["op"] == "done":
                    break
                self.num_runs += 1
                missing -= 1
                if not stopped and on_result(decode_result(message, blobs)):
                    stopped = True
                    self._stream.write(pack({"op": "stop", "id": identifier}))
        if message["unclean"]:
            self.healthy = False
            if missing and not stopped and message["is_fault"]:
                raise SlotLostError(f"a sandbox container gave up: {message['unclean']}")

    @contextlib.asynccontextmanager
    async def session(self, program: Program, limits: Limits) -> AsyncIterator[ContainerSession]:
        identifier = next(self._ids)
        job = encode_job(identifier, program, [Case()], limits, session=True, preload=self._preload)
        self._stream.write(job)
        self.num_runs += 1
        async with self._in_use(identifier):
            session = ContainerSession(self, identifier, limits)
            yield session
            await session.finish()

    async def close(self) -> None:
        """Kill and remove it. Never raises: what is left is swept at the next start."""
        self.healthy = False
        self._stream.close()
        await _in_thread(_remove, self._handle)

    @property
    def name(self) -> str:
        return self._handle.name

    @contextlib.asynccontextmanager
    async def _in_use(self, identifier: int) -> AsyncIterator[None]:
        """If the caller is cancelled or fails half-way, end the job before the slot is free."""
        self._is_busy = True
        try:
            yield
        except BaseException:
            if self.healthy and self._is_busy:
                self._stream.write(pack({"op": "kill", "id": identifier}))
                await self._until_done()
            raise

    async def _until_done(self) -> None:
        self.healthy = False  # should we be cancelled here
        with contextlib.suppress(SlotLostError):
            while (frame := await self._stream.next(GRACE_S))[0]["op"] != "done":
                pass
            self.healthy, self._is_busy = not frame[0]["unclean"], False

    async def _next(self, limits: Limits) -> Frame:
        try:
            frame = await self._stream.next(MAX_STARVATION * limits.effective_wall_s + GRACE_S)
        except SlotLostError as error:
            self.healthy = False
            if await _in_thread(_was_full, self._handle):
                raise _FilledError(str(error)) from error
            raise
        self._is_busy = frame[0]["op"] != "done"
        return frame


class ContainerSession:
    """See `sandbox.protocol.Session`."""

    def __init__(self, container: Container, identifier: int, limits: Limits) -> None:
        self._container, self._identifier, self._limits = container, identifier, limits
        self._buffer = bytearray()
        self._result: Result | None = None
        self._done = self._killed = self._oversize = False

    async def send(self, message: bytes) -> None:
        if not self._done:
            blob = LENGTH.pack(len(message)) + message
            header = {"op": "send", "id": self._identifier}
            self._container._stream.write(pack(header, [blob]))

    async def receive(self) -> bytes | None:
        while (message := self._take_message()) is None:
            if self._done or self._oversize:
                return None
            await self._step()
        return message

    async def finish(self) -> Result:
        if not (self._done or self._killed):
            self._killed = True
            self._container._stream.write(pack({"op": "kill", "id": self._identifier}))
        while not self._done:
            await self._step()
        if self._result is None:
            raise SlotLostError("a sandbox container gave up in the middle of a session")
        if self._oversize:
            return replace(self._result, outcome=Outcome.OUTPUT_LIMIT)
        return self._result

    def _take_message(self) -> bytes | None:
        if len(self._buffer) < LENGTH.size:
            return None
        size = LENGTH.unpack_from(self._buffer)[0]
        self._oversize = size > self._limits.output_bytes
        end = LENGTH.size + size
        if self._oversize or len(self._buffer) < end:
            return None
        message = bytes(self._buffer[LENGTH.size : end])
        del self._buffer[:end]
        return message

    async def _step(self) -> None:
        try:
            message, blobs = await self._container._next(self._limits)
        except _FilledError:
            self._result = self._result or _out_of_memory(self._limits)
            self._done = True
            return
        if message["op"] == "data":
            self._buffer += blobs[0]
        elif message["op"] == "result":
            self._result = decode_result(message, blobs)
        else:
            self._done = True
            self._container.healthy = self._container.healthy and not message["unclean"]


class _Stream(asyncio.Protocol):
    """Docker's attach stream as frames. stdout is the supervisor's voice; what it writes to stderr
    is only good for an error message."""

    def __init__(self) -> None:
        self._raw = bytearray()
        self._decoder = Decoder()
        self._frames: asyncio.Queue[Frame | None] = asyncio.Queue()
        self._stderr = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._raw += data
        while len(self._raw) >= 8:
            size = LENGTH.unpack_from(self._raw, 4)[0]
            if len(self._raw) < 8 + size:
                return
            payload = bytes(self._raw[8 : 8 + size])
            is_stderr = self._raw[0] == 2
            del self._raw[: 8 + size]
            if is_stderr:
                self._stderr = (self._stderr + payload)[-2000:]
                continue
            for frame in self._decoder.feed(payload):
                self._frames.put_nowait(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self._frames.put_nowait(None)

    def write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def next(self, timeout_s: float) -> Frame:
        try:
            async with asyncio.timeout(timeout_s):
                frame = await self._frames.get()
        except TimeoutError:
            raise SlotLostError(f"a sandbox container said nothing for {timeout_s:.0f} s") from None
        if frame is None:
            self._frames.put_nowait(None)
            last = self._stderr.decode(errors="replace").strip()
            raise SlotLostError(f"a sandbox container died{': ' + last if last else ''}")
        return frame


def _create(client: DockerClient, options: ContainerOptions) -> tuple[Any, socket.socket]:
    """Blocking: the created container, and its stream (attached before it starts)."""
    from docker.types import LogConfig, Ulimit

    tmpfs = f"rw,exec,nosuid,nodev,size={options.disk_mb}m,nr_inodes={_NUM_INODES},mode=1777"
    memory = f"{options.memory_mb + options.disk_mb + _OVERHEAD_MB}m"
    handle = client.containers.create(
        options.image,
        ["/usr/bin/python3", "-S", "-s", "-c", _BOOT],
        stdin_open=True,  # not detached: the container's stdin closes with our connection
        auto_remove=True,
        name=f"rlvr-sandbox-{os.getpid()}-{os.urandom(4).hex()}",
        labels={LABEL: owner_label()},
        environment={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"},
        hostname="sandbox",
        working_dir="/",
        user="0:0",
        stop_signal="SIGKILL",
        runtime=options.runtime,
        network_mode="none",
        ipc_mode="private",
        cgroupns="private",
        read_only=True,
        tmpfs={
            "/box": tmpfs,
            "/tmp": tmpfs,
            "/dev/shm": f"rw,noexec,nosuid,nodev,size={_SHM_MB}m,nr_inodes=256,mode=1777",
        },
        cap_drop=["ALL"],
        # To give up root, and to end and clean up after other users.
        cap_add=["SETUID", "SETGID", "KILL", "CHOWN", "DAC_OVERRIDE", "FOWNER"],
        security_opt=["no-new-privileges:true", f"seccomp={json.dumps(profile())}"],
        mem_limit=memory,
        memswap_limit=memory,
        nano_cpus=int(options.cpus * 1e9),
        pids_limit=MAX_PROCESSES + 16,
        ulimits=[
            Ulimit(name="core", soft=0, hard=0),
            Ulimit(name="nofile", soft=4096, hard=4096),
        ],
        log_config=LogConfig(type="none"),
    )
    try:
        attached = client.api.attach_socket(
            str(handle.id), params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        )
        sock = socket.socket(fileno=os.dup(attached.fileno()))
        sock.setblocking(False)
        attached.close()
    except BaseException:
        _remove(handle)
        raise
    return handle, sock


def _remove(handle: Any) -> None:
    """It removes itself when it ends; this only makes it end, or remove what never started."""
    from docker.errors import DockerException

    with contextlib.suppress(DockerException, OSError):
        handle.remove(force=True)


def _was_full(handle: Any) -> bool:
    """Blocking: whether a container that died had reached its memory limit. It is gone already, but
    the daemon remembers what happened to the last few. (With cgroup v2 it reports kills for want of
    the machine's memory, too; but then the program dies first, and the supervisor tells of it.)"""
    from docker.errors import DockerException

    try:
        events = handle.client.api.events(
            since=1, until=time.time() + _OBITUARY_S, filters={"container": handle.id}, decode=True
        )
        with contextlib.closing(events):
            for event in events:
                if event["Action"] in ("oom", "die"):
                    return event["Action"] == "oom"
    except (DockerException, OSError):
        pass  # no word of the daemon: the slot is lost, and the program not blamed
    return False


def _out_of_memory(limits: Limits) -> Result:
    """The program filled the container, and the kernel did not spare the supervisor."""
    return Result(
        outcome=Outcome.MEMORY_LIMIT,
        exit_code=None,
        signal=int(signal.SIGKILL),
        stdout=b"",
        stderr=b"",
        wall_s=0.0,
        cpu_s=0.0,
        memory_mb=float(limits.memory_mb),
    )


@cache
def _sources() -> dict[str, str]:
    folder = Path(__file__).with_name("inside")
    sources = {"sandbox": "", "sandbox.inside": ""}
    for name in _MODULES:
        sources[f"sandbox.inside.{name}"] = (folder / f"{name}.py").read_text(encoding="utf-8")
    return sources


def _random_uid() -> int:
    """The first user id of a range that, in all likelihood, no other container uses: the kernel
    counts a user's processes across containers."""
    return 100_000_000 + 100_000 * random.randrange(10_000)


async def _in_thread(function: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.to_thread(function, *args)
