"""The Docker backend: a pool of warm, hardened containers. See docs/sandbox.md."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sandbox.connection import connect, require
from sandbox.container import MAX_PROCESSES, Container, ContainerOptions
from sandbox.errors import SandboxError, SlotLostError
from sandbox.image import DEFAULT_TAG
from sandbox.owner import sweep
from sandbox.pool import Pool, PoolOptions
from sandbox.protocol import Case, Limits, Outcome, Program, Result

if TYPE_CHECKING:
    from docker import DockerClient

_PROBES = (
    (b"print(6 * 7)", Outcome.EXITED, b"42\n"),
    (b"raise SystemExit(3)", Outcome.RUNTIME_ERROR, b""),
)
"""A known right and a known wrong program, and how each ends."""


class DockerSandbox(Pool):
    """Runs programs in Docker containers. Containers start on first use.

    Args:
        num_slots: containers, that is programs at once; null: one for each CPU we may use.
        runtime: an OCI runtime the daemon knows (`runsc` for gVisor); null: the daemon's default.
        image: null: the one `rlvr sandbox build` makes.
        base_url: the daemon; null: `DOCKER_HOST`, else the local socket. Not over TLS or SSH.
        cpus: CPU time a second that one container may use.
        max_memory_mb: the most `Limits.memory_mb` may ask for.
        disk_mb: size of the working directory, and of /tmp.
        preload: trusted Python programs, name -> source. A program whose main file has that name
            and content need not be compiled again for each run (`fork` only).
        pool: any other field of `PoolOptions`.
    """

    def __init__(
        self,
        num_slots: int | None = None,
        runtime: str | None = None,
        image: str | None = None,
        *,
        base_url: str | None = None,
        cpus: float = 1.0,
        max_memory_mb: int = 2048,
        disk_mb: int = 256,
        preload: Mapping[str, bytes] | None = None,
        **pool: Any,
    ) -> None:
        num_slots = num_slots or len(os.sched_getaffinity(0))
        super().__init__(self._start_container, PoolOptions(num_slots=num_slots, **pool))
        self._container_options = ContainerOptions(
            image=image or DEFAULT_TAG,
            runtime=runtime,
            cpus=cpus,
            memory_mb=max_memory_mb,
            disk_mb=disk_mb,
            preload=preload or {},
        )
        self._base_url = base_url
        self._client: DockerClient | None = None
        self._connecting = asyncio.Lock()
        self.runtime_info: dict[str, Any] = {}
        """What the last container said of itself: Python, how it measures, its runtime."""

    async def close(self) -> None:
        await super().close()
        if self._client is not None:
            self._client.close()

    def check_limits(self, limits: Limits) -> None:
        options = self._container_options
        for name, value, most, option in (
            ("memory_mb", limits.memory_mb, options.memory_mb, "max_memory_mb"),
            ("file_bytes", limits.file_bytes, options.disk_mb << 20, "disk_mb"),
            ("processes", limits.processes, MAX_PROCESSES, "a constant"),
        ):
            if value > most:
                raise ValueError(
                    f"limit {name} is {value}, the containers give at most {most} ({option})"
                )

    async def _start_container(self) -> Container:
        from docker.errors import DockerException

        client = await self._connect()
        try:
            container = await Container.start(client, self._container_options)
        except (DockerException, OSError) as error:
            raise SandboxError(f"Docker could not start a sandbox container: {error}") from error
        try:
            await _probe(container)
        except BaseException:
            await asyncio.shield(container.close())
            raise
        self.runtime_info = {**container.hello, "runtime": self._container_options.runtime}
        return container

    async def _connect(self) -> DockerClient:
        async with self._connecting:
            if self._client is None:
                self._client = await asyncio.to_thread(self._connect_blocking)
            return self._client

    def _connect_blocking(self) -> DockerClient:
        client = connect(self._base_url)
        try:
            require(client, self._container_options.image, self._container_options.runtime)
            sweep(client)
        except BaseException:
            client.close()
            raise
        return client


async def _probe(container: Container) -> None:
    """A new container must tell right from wrong before it judges anything.

    Raises:
        SlotLostError: it does not.
    """
    for source, outcome, stdout in _PROBES:
        results: list[Result] = []
        program = Program(files={"main.py": source}, python="main.py")
        await container.run(
            program, [Case()], Limits(), lambda r, to=results: to.append(r) or False
        )
        if [(r.outcome, r.stdout) for r in results] != [(outcome, stdout)]:
            raise SlotLostError(f"a new container failed its health probe: {results}")
