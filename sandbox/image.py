"""The image every container is made from: Python with numpy, gcc and g++, nothing else.

Two ways lead to it: a pinned base from a registry, or, where none can be reached, Debian's own
`debootstrap` (needs root, and the package mirror only). Nothing of this project is in the image:
the supervisor's source goes in over the stream, so the image changes only with what stands below.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sandbox.errors import SandboxError, SandboxUnavailableError

if TYPE_CHECKING:
    from docker import DockerClient

Method = Literal["auto", "registry", "debootstrap"]

BASE = "debian:bookworm-20250520-slim"
SUITE = "bookworm"
PACKAGES = ("python3", "python3-numpy", "gcc", "g++", "libc6-dev")
REPOSITORY = "rlvr-sandbox"
_UNUSED = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/info")
_DOCKERFILE = f"""
FROM {BASE}
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \\
 && apt-get install -y --no-install-recommends {" ".join(PACKAGES)} \\
 && find / -xdev -type f -perm /6000 -exec chmod a-s {{}} + \\
 && rm -rf {" ".join("/" + folder for folder in _UNUSED)}
"""
_RECIPE = f"1 {BASE} {SUITE} {PACKAGES}"
DEFAULT_TAG = f"{REPOSITORY}:{hashlib.sha256(_RECIPE.encode()).hexdigest()[:12]}"
_DEBOOTSTRAP_TIMEOUT_S = 1800


def exists(client: DockerClient, tag: str = DEFAULT_TAG) -> bool:
    from docker.errors import ImageNotFound

    try:
        client.images.get(tag)
    except ImageNotFound:
        return False
    return True


def build(
    client: DockerClient,
    tag: str = DEFAULT_TAG,
    *,
    method: Method = "auto",
    mirror: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Make the image, replacing one of the same tag. Takes a minute or two.

    Args:
        method: `auto` tries the registry, then debootstrap.
        mirror: URL of a Debian mirror for debootstrap; null: its own default.

    Raises:
        SandboxError: saying what failed, and what to do.
    """
    if method == "registry" or (method == "auto" and _can_pull(client, say)):
        _from_registry(client, tag, say)
    else:
        _from_debootstrap(client, tag, mirror, say)


def _can_pull(client: DockerClient, say: Callable[[str], None]) -> bool:
    from docker.errors import DockerException

    try:
        client.images.pull(BASE)
    except (DockerException, OSError) as error:
        say(f"{BASE} cannot be pulled ({str(error)[:200]}); using debootstrap")
        return False
    return True


def _from_registry(client: DockerClient, tag: str, say: Callable[[str], None]) -> None:
    from docker.errors import DockerException

    say(f"building {tag} on {BASE}")
    try:
        client.images.build(fileobj=io.BytesIO(_DOCKERFILE.encode()), tag=tag, rm=True)
    except (DockerException, OSError) as error:
        raise SandboxError(f"the image could not be built on {BASE}: {error}") from error


def _from_debootstrap(
    client: DockerClient, tag: str, mirror: str | None, say: Callable[[str], None]
) -> None:
    if shutil.which("debootstrap") is None:
        raise SandboxUnavailableError(
            "the base image cannot be pulled and debootstrap is not installed: "
            "`apt-get install debootstrap`, or give the daemon access to a registry"
        )
    if os.geteuid() != 0:
        raise SandboxUnavailableError(
            "the base image cannot be pulled and debootstrap needs root: run as root, or give the "
            "daemon access to a registry"
        )
    # Not /tmp: it may be mounted without devices, which debootstrap makes.
    with tempfile.TemporaryDirectory(prefix="rlvr-sandbox-", dir="/var/tmp") as name:
        root = Path(name) / "root"
        say(f"building {tag} with debootstrap {SUITE}: about a minute")
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
        done = subprocess.run(
            [*command, SUITE, str(root), *([mirror] if mirror else [])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_DEBOOTSTRAP_TIMEOUT_S,
        )
        if done.returncode != 0:
            last = "\n".join(done.stdout.strip().splitlines()[-5:])
            raise SandboxError(f"debootstrap failed (is the mirror reachable?):\n{last}")
        _trim(root)
        _import(client, root, tag)


def _trim(root: Path) -> None:
    for folder in _UNUSED:
        shutil.rmtree(root / folder, ignore_errors=True)
    for folder, _, files in os.walk(root):
        for path in (Path(folder) / file for file in files):
            mode = path.lstat().st_mode
            if not path.is_symlink() and mode & 0o6000:
                path.chmod(mode & 0o1777)


def _import(client: DockerClient, root: Path, tag: str) -> None:
    repository, _, label = tag.rpartition(":")
    tar = subprocess.Popen(
        ["tar", "-C", str(root), "--exclude=./dev/*", "-c", "."], stdout=subprocess.PIPE
    )
    assert tar.stdout is not None
    try:
        answer = client.api.import_image_from_stream(tar.stdout, repository=repository, tag=label)
    finally:
        tar.stdout.close()
        status = tar.wait()
    if status != 0 or not exists(client, tag):
        raise SandboxError(f"the image could not be imported: tar ended with {status}, {answer}")
