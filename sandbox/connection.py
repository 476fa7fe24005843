"""The one place that connects to a Docker daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox.errors import SandboxUnavailableError

if TYPE_CHECKING:
    from docker import DockerClient

API_TIMEOUT_S = 60


def connect(base_url: str | None = None) -> DockerClient:
    """Blocking: a client of a daemon that answers.

    Args:
        base_url: null: `DOCKER_HOST`, else the local socket.

    Raises:
        SandboxUnavailableError: there is none; says how to start one.
    """
    import docker
    from docker.errors import DockerException

    try:
        if base_url:
            client = docker.DockerClient(base_url=base_url, timeout=API_TIMEOUT_S)
        else:
            client = docker.from_env(timeout=API_TIMEOUT_S)
        client.ping()
    except (DockerException, OSError) as error:
        raise SandboxUnavailableError(
            f"no Docker daemon can be reached ({_root_cause(error)}). Start one: as root "
            "`dockerd &` or `systemctl start docker`; scripts/setup.sh --docker installs and "
            "starts it on Debian; DOCKER_HOST points to another"
        ) from error
    return client


def require(client: DockerClient, image: str, runtime: str | None) -> None:
    """Blocking: check that the daemon has what a container needs.

    Raises:
        SandboxUnavailableError: no image, no such runtime, or a connection we cannot stream over.
    """
    from docker.errors import ImageNotFound

    if client.api.base_url.startswith(("https", "http+docker://ssh")):
        raise SandboxUnavailableError(
            "the sandbox streams through a unix or plain TCP socket, not over TLS or SSH: point "
            "DOCKER_HOST to such a one (a forwarded unix socket will do)"
        )
    runtimes = client.info().get("Runtimes", {})
    if runtime and runtime not in runtimes:
        raise SandboxUnavailableError(
            f"Docker knows no runtime {runtime!r}, only {', '.join(sorted(runtimes))}: register "
            "it in daemon.json and restart the daemon (docs/sandbox.md)"
        )
    try:
        client.images.get(image)
    except ImageNotFound as error:
        raise SandboxUnavailableError(
            f"there is no Docker image {image}: build it with `rlvr sandbox build`"
        ) from error


def _root_cause(error: BaseException) -> str:
    while cause := error.__cause__ or error.__context__:
        error = cause
    return str(error)
