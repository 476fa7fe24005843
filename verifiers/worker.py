"""The process that runs sync verifiers: `python -c "... main(parent_pid, memory_mb)"`.

Requests arrive on stdin as pickles (we trust our parent), answers leave as JSON lines (it need not
trust us: a verifier may have been talked into anything by a completion): first
`{"failure": verdict | null, "more": n}`, then n verdicts. Imports are few on purpose: starting
takes tens of milliseconds.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import resource
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any, BinaryIO

from verifiers.forms import LoadedVerifier
from verifiers.problem import Problem
from verifiers.protocol import to_verdict, to_verdicts
from verifiers.registry import load
from verifiers.verdict import Verdict

MAX_TRACEBACK_CHARS = 2_000
_PR_SET_PDEATHSIG = 1


def main(parent_pid: int, memory_mb: int) -> None:
    _die_with(parent_pid)
    if memory_mb:
        # Data, not address space: libraries reserve far more of that than they use.
        resource.setrlimit(resource.RLIMIT_DATA, (memory_mb << 20, memory_mb << 20))
    requests, answers = _claim_pipes()
    loaded: dict[str, LoadedVerifier] = {}
    while True:
        try:
            request = pickle.load(requests)
        except EOFError:
            return
        answer = _answer(request, loaded)
        if isinstance(answer, Verdict):
            lines: list[Any] = [{"failure": answer.to_json(), "more": 0}]
        else:
            lines = [{"failure": None, "more": len(answer)}]
            lines += [verdict.to_json() for verdict in answer]
        answers.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        answers.flush()


def _answer(request: tuple[Any, ...], loaded: dict[str, LoadedVerifier]) -> Verdict | list[Verdict]:
    """Carry out `("load", key, spec, params)` or `("judge", key, problems, completions)`."""
    kind, key, first, second = request
    try:
        if kind == "load":
            loaded[key] = load(first, **second)
            return []
        return judge(loaded[key], first, second)
    except (Exception, SystemExit) as error:  # the boundary: a verifier may raise anything
        return raised(error)


def judge(
    verifier: LoadedVerifier, problems: Sequence[Problem], completions: Sequence[str]
) -> list[Verdict]:
    """Verdicts of a sync verifier, in order.

    Raises:
        whatever the verifier raises.
    """
    if verifier.verify_batch is not None:
        return to_verdicts(verifier.verify_batch(problems, completions), len(problems))
    return [
        to_verdict(verifier.verify(problem, completion))
        for problem, completion in zip(problems, completions, strict=True)
    ]


def raised(error: BaseException) -> Verdict:
    """The verdict for a verifier that raised: our fault, with the end of the traceback."""
    text = "".join(traceback.format_exception(error))
    return Verdict.error(
        reason=f"the verifier raised {type(error).__name__}: {error}"[:MAX_TRACEBACK_CHARS],
        traceback=text[-MAX_TRACEBACK_CHARS:],
    )


def _die_with(parent_pid: int) -> None:
    """Be killed when the parent dies, even by kill -9 and even in the middle of a verdict."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the call above
        sys.exit(1)


def _claim_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Take stdin and stdout for ourselves, out of the way of verifiers that read or print."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return requests, answers
