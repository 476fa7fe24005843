"""`rlvr sandbox build | status | clean`, as plain functions. All block."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sandbox import image
from sandbox.connection import connect
from sandbox.errors import SandboxError
from sandbox.image import Method
from sandbox.owner import LABEL, is_orphan, sweep

if TYPE_CHECKING:
    from docker import DockerClient


def build(
    *,
    method: Method = "auto",
    mirror: str | None = None,
    force: bool = False,
    say: Callable[[str], None] = print,
) -> str:
    """Make the image if it is not there yet (or `force`), and return its tag.

    Raises:
        SandboxError: there is no daemon, or the build failed; says what to do.
    """
    client = connect()
    try:
        if force or not image.exists(client):
            image.build(client, method=method, mirror=mirror, say=say)
        return image.DEFAULT_TAG
    finally:
        client.close()


def status() -> dict[str, Any]:
    """What `rlvr sandbox status` and `rlvr doctor` show.

    Returns:
        Docker's version, cgroup version and runtimes; the image's tag and size (0: not built);
        each of our containers with its state and whether its owner is dead.

    Raises:
        SandboxUnavailableError: no daemon can be reached.
    """
    client = connect()
    try:
        info = client.info()
        return {
            "docker": info["ServerVersion"],
            "cgroup": info.get("CgroupVersion", "1"),
            "runtimes": sorted(info["Runtimes"]),
            "image": image.DEFAULT_TAG,
            "image_mb": _size_mb(client),
            "containers": [
                {
                    "name": handle.name,
                    "state": handle.status,
                    "orphan": is_orphan(handle.labels.get(LABEL, "")),
                }
                for handle in _containers(client)
            ],
        }
    finally:
        client.close()


def clean(*, images: bool = False) -> list[str]:
    """Remove the containers of dead owners and images of other versions; with `images`, this
    version's too.

    Returns:
        The names of what was removed.
    """
    client = connect()
    try:
        removed = sweep(client)
        for found in client.images.list(name=image.REPOSITORY):
            for tag in found.tags:
                if images or tag != image.DEFAULT_TAG:
                    client.images.remove(tag)
                    removed.append(tag)
        return removed
    finally:
        client.close()


def main(arguments: list[str]) -> None:
    """For scripts: `build`, which ends with one line and status 1 where it cannot."""
    if arguments != ["build"]:
        raise SystemExit(f"sandbox: unknown arguments {arguments}")
    try:
        build(say=lambda line: print(f"sandbox: {line}"))
    except SandboxError as error:
        raise SystemExit(f"sandbox: {error}") from None


def _containers(client: DockerClient) -> list[Any]:
    return client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True)


def _size_mb(client: DockerClient) -> int:
    if not image.exists(client):
        return 0
    return client.images.get(image.DEFAULT_TAG).attrs["Size"] >> 20
