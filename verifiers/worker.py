"""The process that runs sync verifiers: `python -c "... import main; main(parent)"`, see runner.py.

Requests arrive on stdin as pickles (we trust our parent), answers leave as JSON lines (it need not
trust us: a verifier may have been talked into anything by a completion). Imports are few on
purpose: starting takes tens of milliseconds.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import signal
import sys
import traceback
from typing import Any, BinaryIO

from verifiers.problem import Problem
from verifiers.protocol import to_verdict
from verifiers.registry import LoadedVerifier, load
from verifiers.verdict import Verdict

MAX_TRACEBACK_CHARS = 2_000
_PR_SET_PDEATHSIG = 1


def main(parent_pid: int) -> None:
    _die_with(parent_pid)
    requests, answers = _claim_pipes()
    loaded: dict[str, LoadedVerifier] = {}
    while True:
        try:
            request = pickle.load(requests)
        except EOFError:
            return
        answers.write(json.dumps(_answer(request, loaded)).encode() + b"\n")
        answers.flush()


def _answer(request: tuple[Any, ...], loaded: dict[str, LoadedVerifier]) -> dict[str, Any]:
    """Carry out one request: `("load", key, spec, params)` or `("verify", key, problem, text)`."""
    kind, key, first, second = request
    try:
        if kind == "load":
            loaded[key] = load(first, **second)
            return Verdict.correct().to_json()
        return judge(loaded[key], first, second).to_json()
    except (Exception, SystemExit) as error:  # the boundary: a verifier may raise anything
        return raised(error).to_json()


def judge(verifier: LoadedVerifier, problem: Problem, completion: str) -> Verdict:
    return to_verdict(verifier.verify(problem, completion))


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
