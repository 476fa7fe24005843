"""The verifier's worker processes: deadlines, blame, threads, forks, and that none is left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

import pytest

from verifiers import Problem, Status, Verdict
from verifiers.forms import adapt
from verifiers.mathematics import MathVerifier
from verifiers.runner import Runner

SLOW_GOLD = "\\sqrt{8}"
SLOW_ANSWER = "\\boxed{2\\sqrt{2}}"
"""Right, and needs a worker process."""
ENDLESS = "\\boxed{\\int e^{-x^2} \\sin(x^x) dx}"
"""Against a gold with variables, keeps sympy busy for longer than anybody waits."""


def problem(gold: str | None) -> Problem:
    return Problem(id="p", prompt="", verifier="math", answer=gold)


@pytest.fixture
def verifier() -> Iterator[MathVerifier]:
    verifier = MathVerifier(num_workers=1, timeout_s=20.0)
    yield verifier
    verifier.close_now()


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def gone(pid: int) -> bool:
    for _ in range(200):
        if not is_alive(pid):
            return True
        time.sleep(0.05)
    return False


def test_deadline_kills_the_worker_and_the_next_verdict_is_right(verifier: MathVerifier) -> None:
    assert verifier.judge(problem(SLOW_GOLD), SLOW_ANSWER).status is Status.CORRECT
    (pid,) = verifier.pids()
    verifier.deadline_s = 0.5
    verdict = verifier.judge(problem("x^2"), ENDLESS)
    assert verdict.status is Status.LIMIT and "deadline" in verdict.detail["reason"]
    assert gone(pid)
    verifier.deadline_s = 20.0
    assert verifier.judge(problem(SLOW_GOLD), SLOW_ANSWER).status is Status.CORRECT


async def test_waiting_for_a_worker_counts_against_no_deadline() -> None:
    loaded = adapt(MathVerifier, "math", "test", {"num_workers": 1, "timeout_s": 0.4})
    rows = [("x^2", ENDLESS), (SLOW_GOLD, SLOW_ANSWER)]
    async with Runner(timeout_s=0.1) as runner:
        verdicts = await asyncio.gather(*(runner.judge(loaded, problem(g), c) for g, c in rows))
    assert [verdict.status for verdict in verdicts] == [Status.LIMIT, Status.CORRECT]


def test_a_worker_that_was_killed_is_replaced_and_its_verdict_retried(
    verifier: MathVerifier,
) -> None:
    verifier.judge(problem(SLOW_GOLD), SLOW_ANSWER)
    (pid,) = verifier.pids()
    os.kill(pid, signal.SIGSTOP)  # it will not answer before it is killed
    with ThreadPoolExecutor(1) as threads:
        verdict = threads.submit(verifier.judge, problem(SLOW_GOLD), SLOW_ANSWER)
        time.sleep(0.3)
        os.kill(pid, signal.SIGKILL)
        assert verdict.result().status is Status.CORRECT
    assert verifier.pids() != [pid]


def test_a_silent_worker_is_our_fault(verifier: MathVerifier) -> None:
    verifier.judge(problem(SLOW_GOLD), SLOW_ANSWER)
    os.kill(verifier.pids()[0], signal.SIGSTOP)
    verifier.deadline_s = 0.3
    assert verifier.judge(problem(SLOW_GOLD), SLOW_ANSWER).status is Status.ERROR


async def test_async_and_threads_agree(verifier: MathVerifier) -> None:
    rows = [(SLOW_GOLD, SLOW_ANSWER), ("42", "\\boxed{42}"), ("x", "\\boxed{\\sqrt{x^2}}")]

    def statuses(verdicts: list[Verdict]) -> list[Status]:
        return [verdict.status for verdict in verdicts]

    in_loop = await asyncio.gather(*(verifier.verify(problem(g), c) for g, c in rows * 20))
    with ThreadPoolExecutor(16) as threads:
        in_threads = list(
            threads.map(lambda row: verifier.judge(problem(row[0]), row[1]), rows * 20)
        )
    expected = [Status.CORRECT, Status.CORRECT, Status.INCORRECT] * 20
    assert statuses(in_loop) == statuses(in_threads) == expected


def test_workers_outlive_the_thread_that_first_needed_them(verifier: MathVerifier) -> None:
    thread = Thread(target=verifier.judge, args=(problem(SLOW_GOLD), SLOW_ANSWER))
    thread.start()
    thread.join()
    time.sleep(0.2)
    assert all(is_alive(pid) for pid in verifier.pids()) and verifier.pids()


async def test_close_leaves_no_process(verifier: MathVerifier) -> None:
    await verifier.verify(problem(SLOW_GOLD), SLOW_ANSWER)
    (pid,) = verifier.pids()
    await verifier.close()
    assert not is_alive(pid)
    assert (await verifier.verify(problem(SLOW_GOLD), SLOW_ANSWER)).status is Status.CORRECT


def test_a_forked_process_makes_its_own_workers(verifier: MathVerifier) -> None:
    verifier.judge(problem(SLOW_GOLD), SLOW_ANSWER)
    before = verifier.pids()
    child = os.fork()
    if child == 0:
        verdict = verifier.judge(problem(SLOW_GOLD), SLOW_ANSWER)
        is_right = verdict.status is Status.CORRECT and verifier.pids() != before
        verifier.close_now()
        os._exit(0 if is_right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert verifier.judge(problem(SLOW_GOLD), SLOW_ANSWER).status is Status.CORRECT
    assert verifier.pids() == before


def test_workers_die_with_their_owner() -> None:
    code = (
        "import os; from verifiers import Problem; from verifiers.mathematics import MathVerifier; "
        "v = MathVerifier(num_workers=1); "
        f"v.judge(Problem(id='p', prompt='', verifier='math', answer={SLOW_GOLD!r}), "
        f"{SLOW_ANSWER!r}); print(v.pids()[0], flush=True); os.kill(os.getpid(), 9)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert gone(int(result.stdout))


def test_memory_of_a_worker_is_bounded() -> None:
    verifier = MathVerifier(num_workers=1, memory_mb=1024)
    verifier.judge(problem(SLOW_GOLD), SLOW_ANSWER)
    limits = Path(f"/proc/{verifier.pids()[0]}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max address space")]
    verifier.close_now()
    assert line.split()[3] == str(1 << 30)
