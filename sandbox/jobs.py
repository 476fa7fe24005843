"""Jobs and results as frames (see `sandbox.inside.frames`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from sandbox.inside import frames
from sandbox.protocol import Case, Limits, Outcome, Program, Result

_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/box",
    "TMPDIR": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # the same program gets the same verdict
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
MAX_ARGUMENT_CHARS = 16_384
"""They go to the zygote in one message of bounded size; data belongs in files or stdin."""


def encode_job(
    identifier: int,
    program: Program,
    cases: Sequence[Case],
    limits: Limits,
    *,
    session: bool = False,
    preload: Mapping[str, bytes] | None = None,
) -> bytes:
    """The frame that starts a job.

    Raises:
        ValueError: the program has no main file or two, or a path leaves the working directory.
    """
    _check(program, cases)
    environment = {**_ENVIRONMENT, **program.env}
    if session:
        environment["SANDBOX_CHANNEL"] = "3,4"
    message = {
        "op": "job",
        "id": identifier,
        "session": session,
        "files": list(program.files),
        "executable": list(program.executable),
        "argv": list(program.argv),
        "python": program.python,
        "preloaded": program.python is not None
        and (preload or {}).get(program.python) == program.files[program.python],
        "start": program.start,
        "env": environment,
        "limits": {
            "cpu_s": limits.cpu_s,
            "wall_s": limits.effective_wall_s,
            "memory_mb": limits.memory_mb,
            "output_bytes": limits.output_bytes,
            "processes": limits.processes,
            "file_bytes": limits.file_bytes,
            "open_files": limits.open_files,
        },
        "cases": [{"args": list(case.args), "collect": list(case.collect)} for case in cases],
    }
    return frames.pack(message, [*program.files.values(), *(case.stdin for case in cases)])


def decode_result(message: dict[str, Any], blobs: list[bytes]) -> Result:
    stdout, stderr, *files = blobs
    return Result(
        outcome=Outcome(message["outcome"]),
        exit_code=message["exit_code"],
        signal=message["signal"],
        stdout=stdout,
        stderr=stderr,
        wall_s=message["wall_s"],
        cpu_s=message["cpu_s"],
        memory_mb=message["memory_mb"],
        files=dict(zip(message["files"], files, strict=True)),
        timed_out_on=message["timed_out_on"],
    )


def _check(program: Program, cases: Sequence[Case]) -> None:
    if bool(program.argv) == (program.python is not None):
        raise ValueError("a program has either argv or a python main file")
    if program.python is not None and program.python not in program.files:
        raise ValueError(f"the main file {program.python!r} is not among the program's files")
    for name in program.files:
        path = PurePosixPath(name)
        plain = str(path) == name != "." and ".." not in path.parts and "\0" not in name
        if path.is_absolute() or not plain:
            raise ValueError(f"{name!r} is not a plain relative path inside the working directory")
    words = [*program.argv, *program.env, *program.env.values()]
    for case in cases:
        if sum(map(len, [*words, *case.args])) > MAX_ARGUMENT_CHARS:
            raise ValueError(f"arguments and environment exceed {MAX_ARGUMENT_CHARS} characters")
    for name in {name for case in cases for name in case.collect}:
        if "/" in name or name in ("", ".", ".."):
            raise ValueError(f"collect takes plain file names, not {name!r}")
