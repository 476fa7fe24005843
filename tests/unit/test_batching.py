"""Batches, limits of concurrency, permanent errors, memory and `close`, as the runner does them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from unittest import TestCase

import pytest

from verifiers import Problem, VerifierLoadError, load
from verifiers.registry import LoadedVerifier
from verifiers.runner import Runner
from verifiers.verdict import Status, Verdict

PROBLEM = Problem(id="p", prompt="?", verifier="v")

SOURCE = """
import asyncio, os, time
from pathlib import Path
from verifiers import Verdict

class Many:
    max_batch_size = 4
    def __init__(self, log): self.log = Path(log)
    def verify_batch(self, problems, completions):
        assert len(problems) == len(completions)
        with self.log.open("a") as file: file.write(f"{len(completions)}\\n")
        if "raise" in completions: raise KeyError("the_key")
        if "die" in completions: os._exit(3)
        if "hang" in completions: time.sleep(600)
        if "short" in completions: return []
        if "text" in completions: return "1.0"
        return [float(text) if text != "bad" else None for text in completions]

class ManyAsync(Many):
    async def verify_batch(self, problems, completions):
        await asyncio.sleep(0.01)
        return super().verify_batch(problems, completions)

def both(problems, completions): return [text == "yes" for text in completions]

class Limited:
    max_concurrency = 2
    in_flight = most = 0
    async def verify(self, problem, completion):
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await asyncio.sleep(0.01)
        self.in_flight -= 1
        return True

class Counted:
    def __init__(self, log): self.log = Path(log)
    def verify(self, problem, completion):
        with self.log.open("a") as file: file.write("1\\n")
        return Verdict.error(reason="no gold", permanent=completion == "permanent")

def memory(problem, completion): return len(bytearray(int(completion) << 20)) > 0

class Closed:
    closed = 0
    async def verify(self, problem, completion): return True
    async def close(self): self.closed += 1

class ClosedSync(Closed):
    def verify(self, problem, completion): return True

class CloseRaises(Closed):
    async def close(self): raise OSError("cannot close")

class CloseHangs(Closed):
    async def close(self): await asyncio.sleep(600)

class Bad:
    max_concurrency = 0
    def verify(self, problem, completion): return True

class WrongBatch:
    def verify_batch(self, completions): return []
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def get(tmp_path: Path) -> Callable[..., LoadedVerifier]:
    (tmp_path / "v.py").write_text(SOURCE)
    return lambda name, **params: load(f"{tmp_path}/v.py:{name}", **params)


Get = Callable[..., LoadedVerifier]


async def judge_all(runner: Runner, verifier: LoadedVerifier, texts: list[str]) -> list[Verdict]:
    return await asyncio.gather(*(runner.judge(verifier, PROBLEM, text) for text in texts))


def sizes(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()]


@pytest.mark.parametrize("name", ["Many", "ManyAsync"])
async def test_requests_are_judged_in_batches_of_bounded_size(
    get: Get, log: Path, name: str
) -> None:
    async with Runner(timeout_s=20, num_workers=1) as runner:
        verdicts = await judge_all(
            runner, get(name, log=str(log)), [f"0.{k}" for k in range(1, 10)]
        )
    assert [verdict.reward for verdict in verdicts] == [k / 10 for k in range(1, 10)]
    assert sum(sizes(log)) == 9
    assert max(sizes(log)) == 4


@pytest.mark.parametrize(("name", "bad"), [("Many", "raise"), ("Many", "die"), ("Many", "hang"),
                                            ("ManyAsync", "raise"), ("Many", "short"),
                                            ("Many", "text"), ("Many", "bad")])  # fmt: skip
async def test_one_bad_member_does_not_spoil_its_batch(
    get: Get, log: Path, name: str, bad: str
) -> None:
    timeout_s = 1.0 if bad == "hang" else 20
    async with Runner(timeout_s=timeout_s, max_retries=0, num_workers=1) as runner:
        verdicts = await judge_all(runner, get(name, log=str(log)), ["1", bad, "0", "0.5"])
    assert [verdict.reward for verdict in verdicts] == [1.0, None, 0.0, 0.5]
    assert verdicts[1].status is Status.ERROR


async def test_a_batch_that_hangs_altogether_does_not_cost_a_deadline_each(
    get: Get, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verifiers.batching.ALONE_S", 0.0)
    async with Runner(timeout_s=0.3, max_retries=0, num_workers=1) as runner:
        verdicts = await judge_all(runner, get("Many", log=str(log)), ["hang"] * 4)
    assert {verdict.status for verdict in verdicts} == {Status.ERROR}
    assert all("deadline" in verdict.detail["reason"] for verdict in verdicts)
    assert len(sizes(log)) < 1 + 4


async def test_a_function_of_problems_and_completions_judges_batches(get: Get) -> None:
    verifier = get("both")
    assert verifier.verify_batch is not None
    assert verifier.verify(PROBLEM, "yes") is True
    async with Runner(timeout_s=20, num_workers=1) as runner:
        verdicts = await judge_all(runner, verifier, ["yes", "no"])
    assert [verdict.reward for verdict in verdicts] == [1.0, 0.0]


async def test_errors_within_a_batch_are_retried(get: Get, log: Path) -> None:
    async with Runner(timeout_s=20, max_retries=1, num_workers=1) as runner:
        verdicts = await judge_all(runner, get("Many", log=str(log)), ["1", "bad"])
    assert [verdict.reward for verdict in verdicts] == [1.0, None]
    assert sizes(log) == [2, 1]
    assert verdicts[1].detail["attempts"] == 2


async def test_a_cancelled_request_leaves_its_batch_alone(get: Get, log: Path) -> None:
    async with Runner(timeout_s=20, num_workers=1) as runner:
        verifier = get("Many", log=str(log))
        lost = asyncio.create_task(runner.judge(verifier, PROBLEM, "1"))
        kept = asyncio.create_task(runner.judge(verifier, PROBLEM, "0.5"))
        await asyncio.sleep(0)
        lost.cancel()
        assert (await kept).reward == 0.5
        assert lost.cancelled()


async def test_closing_ends_what_waits_for_a_batch(get: Get, log: Path) -> None:
    runner = Runner(timeout_s=20, max_retries=0, num_workers=1)
    verifier = get("Many", log=str(log))
    tasks = [asyncio.create_task(runner.judge(verifier, PROBLEM, "hang")) for _ in range(6)]
    while not log.is_file():
        await asyncio.sleep(0.01)
    await runner.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, RuntimeError) and "closed" in str(result) for result in results)


async def test_a_verifiers_own_limit_of_concurrency_holds(get: Get) -> None:
    verifier = get("Limited")
    async with Runner(max_concurrency=8) as runner:
        await judge_all(runner, verifier, ["x"] * 8)
    assert verifier.verify.__self__.most == 2  # type: ignore[attr-defined]


async def test_permanent_errors_are_not_retried(get: Get, log: Path) -> None:
    async with Runner(timeout_s=20, max_retries=2, num_workers=1) as runner:
        verifier = get("Counted", log=str(log))
        verdict = await runner.judge(verifier, PROBLEM, "permanent")
        assert (verdict.status, verdict.detail["attempts"]) == (Status.ERROR, 1)
        assert sizes(log) == [1]
        await runner.judge(verifier, PROBLEM, "passing")
        assert sizes(log) == [1, 1, 1, 1]


async def test_a_workers_memory_is_bounded(get: Get) -> None:
    async with Runner(timeout_s=20, max_retries=0, num_workers=1, worker_memory_mb=300) as runner:
        verifier = get("memory")
        assert (await runner.judge(verifier, PROBLEM, "20")).status is Status.CORRECT
        verdict = await runner.judge(verifier, PROBLEM, "400")
        assert "MemoryError" in verdict.detail["reason"]
        assert (await runner.judge(verifier, PROBLEM, "20")).status is Status.CORRECT


@pytest.mark.parametrize("name", ["Closed", "ClosedSync"])
async def test_used_verifiers_are_closed_once_and_others_not(get: Get, name: str) -> None:
    used, unused = get(name), get(name)
    runner = Runner(timeout_s=20, num_workers=1)
    await judge_all(runner, used, ["a", "b"])
    await runner.close()
    await runner.close()
    assert used.verify.__self__.closed == 1  # type: ignore[attr-defined]
    assert unused.verify.__self__.closed == 0  # type: ignore[attr-defined]


async def test_a_close_that_fails_is_told_and_the_others_are_closed(
    get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verifiers.runner.CLOSE_TIMEOUT_S", 0.05)
    fine = get("Closed")
    for name, error in [("CloseRaises", "OSError"), ("CloseHangs", "TimeoutError")]:
        runner = Runner()
        await judge_all(runner, get(name), ["a"])
        await judge_all(runner, fine, ["a"])
        with TestCase().assertLogs(level="WARNING") as logged:
            await runner.close()
        assert error in "".join(logged.output)
    assert fine.verify.__self__.closed == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "words"), [("Bad", "max_concurrency is 0"), ("WrongBatch", "cannot be called")]
)
def test_what_cannot_be_loaded_says_why(get: Get, name: str, words: str) -> None:
    with pytest.raises(VerifierLoadError, match=words):
        get(name)
