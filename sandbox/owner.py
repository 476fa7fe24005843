"""Whose container is it: the label every container carries, and the sweep of those whose owner is
dead."""

from __future__ import annotations

import contextlib
import json
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docker import DockerClient

LABEL = "rlvr.sandbox.owner"


@cache
def _here() -> dict[str, str]:
    """What tells this machine, since its boot, and this process namespace from any other."""
    return {
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "pid_namespace": os.readlink("/proc/self/ns/pid"),
    }


def owner_label() -> str:
    pid = os.getpid()
    return json.dumps({**_here(), "pid": pid, "start": _start_time(pid)})


def is_orphan(label: str) -> bool:
    """True when the owner lived here and does so no more. Owners elsewhere are left alone."""
    try:
        owner = json.loads(label)
        here = {name: owner[name] for name in ("boot", "pid_namespace")}
        pid, start = int(owner["pid"]), owner["start"]
    except (ValueError, KeyError, TypeError):
        return False
    return here == _here() and _start_time(pid) != start


def _start_time(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; null if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields[19]


def sweep(client: DockerClient) -> list[str]:
    """Blocking: remove the containers of dead owners, and return their names."""
    from docker.errors import DockerException

    removed = []
    for handle in client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True):
        if is_orphan(handle.labels.get(LABEL, "")):
            with contextlib.suppress(DockerException, OSError):  # it may just be removing itself
                handle.remove(force=True)
                removed.append(handle.name)
    return removed
