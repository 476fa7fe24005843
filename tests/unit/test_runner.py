from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from verifiers import Problem, load
from verifiers.registry import LoadedVerifier
from verifiers.runner import Runner
from verifiers.verdict import Status

PROBLEM = Problem(id="p", prompt="?", verifier="v", answer="3", metadata={"pair": (1, 2)})

SOURCE = """
import asyncio, ctypes, os, subprocess, sys, time
from pathlib import Path
from verifiers import Verdict

def misbehave(problem, completion, folder="."):
    Path(folder, "calls").open("a").write(completion + "\\n")
    Path(folder, "pid").write_text(str(os.getpid()))
    match completion:
        case "hang":
            while True: pass
        case "hang in C": 9 ** 9 ** 9
        case "hang with child":
            child = subprocess.Popen(["sleep", "600"])
            Path(folder, "child").write_text(str(child.pid))
            time.sleep(600)
        case "sleep": time.sleep(600)
        case "raise": raise KeyError("the_key")
        case "exit": os._exit(3)
        case "sys.exit": sys.exit(4)
        case "segfault": ctypes.string_at(0)
        case "print": print("x" * 100_000)
        case "stdin": return sys.stdin.read() == ""
        case "nan": return float("nan")
        case "text": return "1.0"
        case "close": os.closerange(0, 256)
        case "flaky": return len(Path(folder, "calls").read_text().split()) >= 3 or "not yet"
        case "metadata": return problem.metadata["pair"] == (1, 2)
        case "torch": return not {"torch", "ray", "vllm", "numpy"} & sys.modules.keys()
        case "surrogate": return Verdict.correct(text="\\ud800")
        case "huge": return Verdict.correct(output="x" * 10_000_000)
    return True

def wrong(problem, completion): return False

class Async:
    name = "async"
    in_flight = most = 0
    async def verify(self, problem, completion):
        match completion:
            case "hang": await asyncio.sleep(600)
            case "stubborn":
                for _ in range(2):  # cancelled by the runner, then by the end of the test
                    try: await asyncio.sleep(600)
                    except asyncio.CancelledError: pass
            case "raise": raise KeyError("the_key")
            case "sys.exit": sys.exit(1)
            case "cancel": raise asyncio.CancelledError
            case "count":
                Async.in_flight += 1
                Async.most = max(Async.most, Async.in_flight)
                await asyncio.sleep(0.01)
                Async.in_flight -= 1
        return True

class InProcess:
    in_process = True
    def verify(self, problem, completion):
        if completion == "raise": raise KeyError("the_key")
        return Verdict.correct(pid=os.getpid())

def cannot_load_in_a_worker(): raise RuntimeError("built only once")
"""

Load = Callable[..., LoadedVerifier]


@pytest.fixture
def get(tmp_path: Path) -> Load:
    (tmp_path / "v.py").write_text(SOURCE)

    def get(name: str, **params: object) -> LoadedVerifier:
        return load(f"{tmp_path}/v.py:{name}", **params)

    return get


@pytest.fixture
async def runner() -> AsyncIterator[Runner]:
    async with Runner(timeout_s=20, max_retries=0, num_workers=2) as runner:
        yield runner


@pytest.fixture
async def hasty() -> AsyncIterator[Runner]:
    async with Runner(timeout_s=0.3, max_retries=0, num_workers=1) as runner:
        yield runner


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def gone(pid: int) -> bool:
    for _ in range(200):
        if not alive(pid):
            return True
        await asyncio.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("raise", "KeyError: 'the_key'"),
        ("sys.exit", "SystemExit: 4"),
        ("exit", "died"),
        ("segfault", "SIGSEGV"),
        ("close", "worker process"),
        ("nan", "returned nan"),
        ("text", "returned str"),
    ],
)
async def test_faults_of_a_sync_verifier_are_errors_and_do_not_spread(
    runner: Runner, get: Load, tmp_path: Path, completion: str, reason: str
) -> None:
    verifier = get("misbehave", folder=str(tmp_path))
    verdict = await runner.judge(verifier, PROBLEM, completion)
    assert verdict.status is Status.ERROR
    assert verdict.reward is None
    assert reason in verdict.detail["reason"]
    assert (await runner.judge(verifier, PROBLEM, "fine")).status is Status.CORRECT


async def test_the_traceback_is_kept(runner: Runner, get: Load, tmp_path: Path) -> None:
    verdict = await runner.judge(get("misbehave", folder=str(tmp_path)), PROBLEM, "raise")
    assert "in misbehave" in verdict.detail["traceback"]
    assert verdict.detail["attempts"] == 1


@pytest.mark.parametrize("completion", ["print", "stdin", "metadata", "torch", "surrogate", "huge"])
async def test_what_a_sync_verifier_may_do(
    runner: Runner, get: Load, tmp_path: Path, completion: str
) -> None:
    verdict = await runner.judge(get("misbehave", folder=str(tmp_path)), PROBLEM, completion)
    assert verdict.status is Status.CORRECT, verdict.detail


@pytest.mark.parametrize("completion", ["hang", "hang in C", "sleep"])
async def test_a_hang_is_killed_and_replaced(
    hasty: Runner, get: Load, tmp_path: Path, completion: str
) -> None:
    verifier = get("misbehave", folder=str(tmp_path))
    verdict = await hasty.judge(verifier, PROBLEM, completion)
    assert verdict.status is Status.ERROR
    assert "deadline of 0.3 s" in verdict.detail["reason"]
    assert verdict.latency_s >= 0.3
    assert await gone(int((tmp_path / "pid").read_text()))
    assert (await hasty.judge(get("wrong"), PROBLEM, "")).status is Status.INCORRECT


async def test_what_a_hung_verifier_started_is_killed_too(
    hasty: Runner, get: Load, tmp_path: Path
) -> None:
    await hasty.judge(get("misbehave", folder=str(tmp_path)), PROBLEM, "hang with child")
    assert await gone(int((tmp_path / "child").read_text()))


async def test_errors_are_retried_and_other_verdicts_are_not(get: Load, tmp_path: Path) -> None:
    verifier = get("misbehave", folder=str(tmp_path))
    calls = tmp_path / "calls"
    async with Runner(timeout_s=20, max_retries=2, num_workers=1) as runner:
        assert (await runner.judge(verifier, PROBLEM, "flaky")).status is Status.CORRECT
        assert calls.read_text().split() == ["flaky"] * 3
        calls.unlink()
        verdict = await runner.judge(verifier, PROBLEM, "raise")
        assert (verdict.status, verdict.detail["attempts"]) == (Status.ERROR, 3)
        assert calls.read_text().split() == ["raise"] * 3
        (tmp_path / "wrong").mkdir()
        assert (await runner.judge(get("wrong"), PROBLEM, "")).status is Status.INCORRECT


async def test_a_cancelled_verdict_does_not_answer_the_next_one(get: Load, tmp_path: Path) -> None:
    verifier = get("misbehave", folder=str(tmp_path))
    async with Runner(timeout_s=20, max_retries=0, num_workers=1) as runner:
        await runner.judge(verifier, PROBLEM, "fine")
        task = asyncio.create_task(runner.judge(verifier, PROBLEM, "sleep"))
        while "sleep" not in (tmp_path / "calls").read_text():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await runner.judge(get("wrong"), PROBLEM, "")).status is Status.INCORRECT


async def test_many_at_once_keep_their_own_verdicts(get: Load, tmp_path: Path) -> None:
    source = tmp_path / "score.py"
    source.write_text("def score(problem, completion): return int(completion) / 1000")
    verifier = load(f"{source}:score")
    async with Runner(timeout_s=20, num_workers=3) as runner:
        verdicts = await asyncio.gather(
            *(runner.judge(verifier, PROBLEM, str(i)) for i in range(500))
        )
    assert [verdict.reward for verdict in verdicts] == [i / 1000 for i in range(500)]


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("hang", "deadline"),
        ("stubborn", "deadline"),
        ("raise", "KeyError: 'the_key'"),
        ("sys.exit", "SystemExit"),
        ("cancel", "cancelled its own task"),
    ],
)
async def test_faults_of_an_async_verifier_are_errors(
    hasty: Runner, get: Load, completion: str, reason: str
) -> None:
    verdict = await hasty.judge(get("Async"), PROBLEM, completion)
    assert verdict.status is Status.ERROR
    assert reason in verdict.detail["reason"]


async def test_async_concurrency_is_bounded(get: Load) -> None:
    verifier = get("Async")
    async with Runner(max_concurrency=3) as runner:
        await asyncio.gather(*(runner.judge(verifier, PROBLEM, "count") for _ in range(12)))
    assert type(verifier.verify.__self__).most == 3  # type: ignore[attr-defined]


async def test_in_process_verifiers_run_here(runner: Runner, get: Load) -> None:
    verdict = await runner.judge(get("InProcess"), PROBLEM, "")
    assert verdict.detail == {"pid": os.getpid()}
    assert (await runner.judge(get("InProcess"), PROBLEM, "raise")).status is Status.ERROR


async def test_a_verifier_that_stops_loading_is_an_error(
    runner: Runner, get: Load, tmp_path: Path
) -> None:
    verifier = get("wrong")
    (tmp_path / "v.py").unlink()
    verdict = await runner.judge(verifier, PROBLEM, "")
    assert verdict.status is Status.ERROR
    assert "there is no file" in verdict.detail["reason"]


async def test_close_leaves_no_process_and_ends_what_runs(get: Load, tmp_path: Path) -> None:
    runner = Runner(timeout_s=20, max_retries=2, num_workers=2)
    verifier = get("misbehave", folder=str(tmp_path))
    task = asyncio.create_task(runner.judge(verifier, PROBLEM, "sleep"))
    while not (tmp_path / "pid").is_file():
        await asyncio.sleep(0.01)
    await runner.close()
    assert not alive(int((tmp_path / "pid").read_text()))
    with pytest.raises(RuntimeError, match="closed"):
        await task


def test_workers_die_with_a_killed_parent(get: Load, tmp_path: Path) -> None:
    get("misbehave")
    script = f"""
import asyncio
from verifiers import Problem, load
from verifiers.runner import Runner
verifier = load({str(tmp_path / "v.py:misbehave")!r}, folder={str(tmp_path)!r})
problem = Problem(id="p", prompt="?", verifier="v")
asyncio.run(Runner(timeout_s=600).judge(verifier, problem, "hang"))
"""
    parent = subprocess.Popen([sys.executable, "-c", script])
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        worker = int((tmp_path / "pid").read_text())
        assert alive(worker)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 20
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(worker)


async def test_a_verifier_that_asks_for_more_time_gets_it(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import asyncio\n"
        "class Slow:\n"
        "    timeout_s = 60\n"
        "    async def verify(self, problem, completion):\n"
        "        await asyncio.sleep(0.4)\n"
        "        return True\n"
        "class Hasty(Slow):\n"
        "    timeout_s = 0.01\n"
    )
    async with Runner(timeout_s=0.2, max_retries=0) as runner:
        slow = await runner.judge(load(f"{tmp_path}/slow.py:Slow"), PROBLEM, "")
        hasty = await runner.judge(load(f"{tmp_path}/slow.py:Hasty"), PROBLEM, "")
    assert slow.status is Status.CORRECT
    assert "deadline of 0.2 s" in hasty.detail["reason"]
