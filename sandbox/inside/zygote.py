"""The process every run is forked from: a warm interpreter that never sees anything of any run.

It receives what to start (never test data: standard input is a descriptor), forks, and reports how
the child ended. The child limits itself, gives up every privilege, and becomes the program.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import socket
import sys
import traceback
from types import CodeType
from typing import Any

from sandbox.inside import place, python_main

# Without threading, whose work after a fork costs every run more than importing it costs a few.
_PRELOAD = """
abc array ast atexit base64 bisect builtins cmath collections collections.abc contextlib copy
dataclasses datetime decimal enum fractions functools hashlib heapq inspect io itertools json
linecache math numbers operator os.path pathlib random re statistics string struct sys textwrap
time traceback types typing unicodedata zlib
"""
CONTROL_FD = 900
CHANNEL_FDS = (3, 4)
MAX_MESSAGE_BYTES = 1 << 17
_PR_SET_DUMPABLE = 4
_EXIT = os._exit  # a program that runs in a child may replace it


def start(driver_source: str, preload: dict[str, str]) -> tuple[int, socket.socket]:
    """Fork the zygote.

    Args:
        driver_source: of `python_main`, for programs that start by exec.
        preload: trusted programs, name -> source, compiled once.

    Returns:
        Its process id, and the socket to talk to it.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid:
        theirs.close()
        return pid, ours
    try:
        os.dup2(theirs.fileno(), CONTROL_FD, inheritable=False)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1):  # stderr stays: what goes wrong here is for the host to read
            os.dup2(null, fd)
        theirs.detach()
        ours.detach()
        os.closerange(3, CONTROL_FD)
        os.closerange(CONTROL_FD + 1, 4096)
        _die_first(500)
        codes = {name: compile(source, name, "exec") for name, source in preload.items()}
        _serve(socket.socket(fileno=CONTROL_FD), driver_source, codes)
    except BaseException:
        traceback.print_exc()
    finally:
        _EXIT(1)


def _die_first(score: int) -> None:
    """Have the kernel, when memory is short, take this process before those of lower scores: a
    program before the zygote, and the zygote before the supervisor, who can tell the tale."""
    with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
        file.write(b"%d" % score)


def _serve(control: socket.socket, driver_source: str, codes: dict[str, CodeType]) -> None:
    for name in _PRELOAD.split():
        importlib.import_module(name)
    libc = ctypes.CDLL(None, use_errno=True)
    for name in [name for name in sys.modules if name.startswith("sandbox")]:
        del sys.modules[name]  # a program sees an interpreter like any other
    sys.path[:] = [folder for folder in sys.path if folder]
    gc.collect()
    gc.freeze()  # what is never looked at is never copied
    control.send(b'{"ready": true}')
    while True:
        text, fds, _, _ = socket.recv_fds(control, MAX_MESSAGE_BYTES, 8)
        if not text:
            return
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = _become(json.loads(text), fds, control, libc, driver_source, codes)
            except BaseException:
                # Only our own preparation gets here; what the program raises is its own.
                control.send(json.dumps({"fault": traceback.format_exc()[-2000:]}).encode())
            finally:
                _EXIT(status)
        for fd in fds:
            os.close(fd)
        _, status, usage = os.wait4(pid, 0)
        control.send(
            json.dumps(
                {
                    "status": status,
                    "cpu_s": usage.ru_utime + usage.ru_stime,
                    "max_rss": usage.ru_maxrss * 1024,
                }
            ).encode()
        )


def _become(
    request: dict[str, Any],
    fds: list[int],
    control: socket.socket,
    libc: ctypes.CDLL,
    driver_source: str,
    codes: dict[str, CodeType],
) -> int:
    """Turn into the program; returns the exit status of one that runs in this process."""
    _take_descriptors(fds)
    os.setsid()
    _limit(request["limits"])
    _die_first(1000)
    uid = request["uid"]
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.umask(0o022)
    os.chdir(place.WORK)
    environment, command = request["env"], request["argv"]
    if command:
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        return _exec(command, environment)
    if request["start"] == "exec":
        python = [sys.executable, "-S", "-s", "-P", "-B", "-X", "utf8", "-c", driver_source]
        return _exec([*python, request["python"], *request["args"]], environment)
    libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # /proc/self is its own, as after an exec
    os.environ.clear()
    os.environ.update(environment)
    main = python_main.prepare(request["python"], request["args"])
    control.close()
    code = codes[request["python"]] if request["preloaded"] else None
    return python_main.run(request["python"], main, code)


def _take_descriptors(fds: list[int]) -> None:
    """stdin, stdout, stderr, and the channel's pair if there is one. Nothing else stays open."""
    if fds != list(range(3, 3 + len(fds))):
        raise RuntimeError(f"unexpected descriptors {fds}")
    for target, fd in enumerate(fds[:3]):
        os.dup2(fd, target)
    for target, fd in zip(CHANNEL_FDS, fds[3:], strict=False):
        os.dup2(fd, target)
    os.closerange(3 + len(fds[3:]), CONTROL_FD)


def _limit(limits: dict[str, Any]) -> None:
    cpu_s = int(limits["cpu_s"]) + 2  # the supervisor's own measure comes first
    data = (2 * limits["memory_mb"] + 256) << 20  # it may reserve more than it may touch
    for name, value in (
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_DATA, data),
        (resource.RLIMIT_STACK, min(64, limits["memory_mb"] // 4) << 20),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
    ):
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))


def _exec(command: list[str], environment: dict[str, str]) -> int:
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        return 127
