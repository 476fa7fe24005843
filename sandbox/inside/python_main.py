"""Runs a Python file as `__main__`, the same way in a forked and in a new interpreter.

Also the source of `python3 -c` for programs that start by exec; so it imports nothing of ours.
"""

from __future__ import annotations

# Not `signal`, which brings in enum: two milliseconds of a new interpreter's fifteen.
import _signal  # pyright: ignore[reportMissingImports]
import _sitebuiltins
import atexit
import builtins
import os
import sys
from types import CodeType, ModuleType

PACKAGES = "/usr/lib/python3/dist-packages"
_EXIT = os._exit  # the program may replace it
_STARTED_AS = sys.modules.get("__main__")  # with `-c` that is us: it must outlive its replacement


def prepare(path: str, args: list[str]) -> ModuleType:
    """Make the interpreter look as if it had just been started with this file."""
    _signal.signal(_signal.SIGXFSZ, _signal.SIG_DFL)  # a file over the limit then ends the program
    sys.dont_write_bytecode = True
    sys.argv = [path, *args]
    sys.path = [os.path.dirname(os.path.abspath(path)), *sys.path, PACKAGES]
    for name in ("exit", "quit"):
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D"))
    for fd, mode, name in ((0, "r", "stdin"), (1, "w", "stdout"), (2, "w", "stderr")):
        errors = "backslashreplace" if fd == 2 else "surrogateescape"
        stream = open(fd, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.stderr.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    main = ModuleType("__main__")
    main.__dict__.update(__file__=path, __builtins__=builtins, __annotations__={})
    sys.modules["__main__"] = main
    return main


def run(path: str, main: ModuleType, code: CodeType | None = None) -> int:
    """Run it and return its exit status. Exit handlers run, threads are waited for."""
    status = _guard(lambda: exec(code or _compile(path), main.__dict__))
    threading = sys.modules.get("threading")
    if threading is not None:
        status = _guard(threading._shutdown) or status  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except (OSError, ValueError):
            status = status or 120  # what Python itself returns then
    return status


def _compile(path: str) -> CodeType:
    with open(path, "rb") as file:
        return compile(file.read(), path, "exec", dont_inherit=True)


def _guard(action) -> int:  # type: ignore[no-untyped-def]
    try:
        action()
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return (stop.code or 0) & 0xFF
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException as error:
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename == _HERE:
            frames = frames.tb_next
        sys.excepthook(type(error), error.with_traceback(frames), frames)
        return 1
    return 0


_HERE = _guard.__code__.co_filename

if __name__ == "__main__":
    _EXIT(run(sys.argv[1], prepare(sys.argv[1], sys.argv[2:])))
