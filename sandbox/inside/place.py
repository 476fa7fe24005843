"""The places a program can write to: laying files out, bringing them back, wiping.

Wiping happens when no process of the run is left, so nothing changes under our hands; what it must
survive is what the run has left: trees deeper than any path may be long, directories without
permissions, FIFOs, symlinks to anywhere, full file systems.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Mapping

WORK = "/box"
"""The working directory of every run: owned by root, sticky, writable by all."""
PLACES = (WORK, "/tmp", "/dev/shm")
"""Small tmpfs mounts."""
_MQUEUE = "/dev/mqueue"
_SYSV = ("shm", "msg", "sem")
_IPC_RMID = 0


def lay(files: Mapping[str, bytes], executable: list[str]) -> None:
    """Write the program's files. They are root's, so the program can neither change nor, in a
    sticky directory, remove them."""
    for name, content in files.items():
        folder = WORK
        for part in name.split("/")[:-1]:
            folder = f"{folder}/{part}"
            if not os.path.isdir(folder):
                os.mkdir(folder)
                os.chmod(folder, 0o1777)
        mode = 0o555 if name in executable else 0o444
        fd = os.open(f"{WORK}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)


def collect(names: list[str], max_bytes: int) -> dict[str, bytes]:
    """Regular files of the working directory, by plain name; links are not followed."""
    found = {}
    for name in names:
        try:
            fd = os.open(os.path.join(WORK, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        if stat.S_ISREG(os.fstat(fd).st_mode):
            with open(fd, "rb", closefd=False) as file:
                found[name] = file.read(max_bytes)
        os.close(fd)
    return found


def used_bytes() -> int:
    """What all places hold together."""
    used = 0
    for place in PLACES:
        info = os.statvfs(place)
        used += (info.f_blocks - info.f_bfree) * info.f_frsize
    return used


def wipe() -> None:
    for place in PLACES:
        if os.listdir(place):
            _empty(place)
        os.utime(place, (0, 0))
    for name in os.listdir(_MQUEUE) if os.path.isdir(_MQUEUE) else ():
        os.unlink(os.path.join(_MQUEUE, name))
    for kind in _SYSV:
        _remove_sysv(kind)


def _empty(place: str) -> None:
    """Remove everything below. Directories are hoisted to the top before they are emptied, so
    that no depth needs a longer path, a further descriptor, or recursion."""
    mark = ".wipe-" + os.urandom(8).hex()
    hoisted = 0
    while entries := list(os.scandir(os.fsencode(place))):
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            for child in list(os.scandir(entry.path)):
                if child.is_dir(follow_symlinks=False):
                    os.rename(child.path, os.fsencode(f"{place}/{mark}-{hoisted}"))
                    hoisted += 1
                else:
                    os.unlink(child.path)
            os.rmdir(entry.path)


def _remove_sysv(kind: str) -> None:
    """System V objects live until they are removed. (Our seccomp profile lets none be made; other
    runtimes may not know the profile.)"""
    try:
        with open(f"/proc/sysvipc/{kind}") as table:
            rows = table.read().splitlines()[1:]
    except FileNotFoundError:
        return
    for row in rows:
        libc, identifier = ctypes.CDLL(None), int(row.split()[1])
        if kind == "sem":
            libc.semctl(identifier, 0, _IPC_RMID)
        else:
            getattr(libc, f"{kind}ctl")(identifier, _IPC_RMID, None)
