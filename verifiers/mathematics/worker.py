"""The process that compares what needs numbers; see `pool` for its keeper.

Reads one JSON line a request: `{"gold", "answer", "letter_units", "allow_calculation",
"timeout_s"}`.
Writes `{"stage": "gold"}` when the gold has been read and has a value by itself, then
`{"result": true | false | "limit" | "error" | "fault", "reason"}`. What fails before the first
line is the gold's fault, what fails after it the completion's; `fault` is ours.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import json
import os
import resource
import select
import signal
import sys
import traceback
from typing import Any

from verifiers.mathematics.answer import Answer, is_opaque, read
from verifiers.mathematics.compare import same_answer
from verifiers.mathematics.expr import TooLarge, Undefined
from verifiers.mathematics.numeric import NumericOracle

MAX_TRACEBACK_CHARS = 2_000
WITH_SYMPY = ("verifiers.mathematics.opaque", "verifiers.mathematics.inequality")
IDLE_S = 0.2
ANSWERS_FD = 9
"""Descriptor of the pipe to the parent, moved out of the way of libraries that print."""
_PR_SET_PDEATHSIG = 1
GOLD_CACHE = 512
"""Golds kept parsed in each process."""
CPU_GRACE_S = 5
"""CPU time beyond the deadline (for imports) after which the process ends by itself, should nobody
kill it."""


def main(parent_pid: int, memory_mb: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the call above
        sys.exit(1)
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(1, ANSWERS_FD)
    os.dup2(2, 1)  # whatever a library prints must not look like an answer
    _send("ready")
    if not select.select([0], [], [], IDLE_S)[0]:  # nobody waits: a good time for long imports
        for module in WITH_SYMPY:
            _with_sympy(module)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit_cpu(request["timeout_s"])
        _send(_judge(request))


def _send(value: Any) -> None:
    os.write(ANSWERS_FD, json.dumps(value).encode() + b"\n")


def _judge(request: dict[str, Any]) -> dict[str, Any]:
    stage = "gold"
    try:
        gold = _checked_gold(request["gold"])
        stage = "answer"
        _send({"stage": "gold"})
        answer = read(request["answer"], letter_units=request["letter_units"])
        same = _same(gold, answer, allow_calculation=request["allow_calculation"])
        return {"result": same, "reason": answer.why or ""}
    except (TooLarge, MemoryError, RecursionError, OverflowError) as error:
        reason = str(error) or type(error).__name__
        return {"result": "error" if stage == "gold" else "limit", "reason": reason}
    except Undefined as error:
        return {"result": "error" if stage == "gold" else False, "reason": str(error)}
    except Exception as error:  # the boundary of the process: a fault of ours, with its place
        where = "".join(traceback.format_exception(error))[-MAX_TRACEBACK_CHARS:]
        return {"result": "fault", "reason": f"{type(error).__name__}: {error}", "traceback": where}


@functools.lru_cache(maxsize=GOLD_CACHE)
def _checked_gold(text: str) -> Answer:
    """The gold, known to have a value: it equals itself.

    Raises:
        Undefined: it does not.
    """
    gold = read(text)
    if not _same(gold, gold, allow_calculation=True):
        raise Undefined("it does not equal itself")
    return gold


def _same(gold: Answer, answer: Answer, *, allow_calculation: bool) -> bool:
    if is_opaque(gold) or is_opaque(answer):
        opaque = _with_sympy(WITH_SYMPY[0])
        return opaque.same_opaque(gold.text, answer.text)
    oracle = NumericOracle(lambda: _with_sympy(WITH_SYMPY[1]).solve)
    return same_answer(gold, answer, oracle, allow_calculation=allow_calculation)


def _with_sympy(module: str) -> Any:
    """Import what few requests need and takes a second; the deadline stands still meanwhile."""
    if module in sys.modules:
        return sys.modules[module]
    _send({"stage": "importing"})
    imported = importlib.import_module(module)
    _send({"stage": "imported"})
    return imported


def _limit_cpu(timeout_s: float) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(usage.ru_utime + usage.ru_stime + timeout_s) + 1 + CPU_GRACE_S
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))
