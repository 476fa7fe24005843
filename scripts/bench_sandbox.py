"""Runs a second of the sandbox pool, of `docker exec` and of `docker run`, all in one run.

    python scripts/bench_sandbox.py                 # a minute or two
    python scripts/bench_sandbox.py --soak 20000    # memory and speed over many runs

Every row runs a trivial program (print one line) with as many callers as `--callers` says, in short
rounds that alternate, so that a busy moment of the machine hits all rows alike. Latency is from
submission to result, waiting for a slot included. The rows with a verifier score one completion
with the code verifier (one case; `assert` needs a judge beside the candidate).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sandbox import Case, DockerSandbox, Limits, Outcome, Program
from sandbox.connection import connect
from sandbox.image import DEFAULT_TAG
from sandbox.metrics import quantile

Action = Callable[[], Awaitable[None]]
COMMAND = ["python3", "-I", "-S", "-c", "print(42)"]
HARDENED: dict[str, Any] = {
    "network_mode": "none",
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "user": "65534:65534",
    "mem_limit": "512m",
    "pids_limit": 64,
}


@dataclass
class Row:
    name: str
    action: Action
    callers: int
    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return len(self.latencies_s) / self.seconds


async def play(row: Row, seconds: float) -> None:
    """One round: each caller submits again as soon as it has its result."""
    begin_s = time.perf_counter()

    async def caller() -> None:
        while (start_s := time.perf_counter()) - begin_s < seconds:
            await row.action()
            row.latencies_s.append(time.perf_counter() - start_s)

    await asyncio.gather(*(caller() for _ in range(row.callers)))
    row.seconds += time.perf_counter() - begin_s


def pool_action(box: DockerSandbox, start: Literal["fork", "exec"]) -> Action:
    program = Program(files={"main.py": b"print(42)"}, python="main.py", start=start)

    async def action() -> None:
        (result,) = await box.run(program, [Case()], Limits())
        if (result.outcome, result.stdout) != (Outcome.EXITED, b"42\n"):
            raise RuntimeError(f"a wrong result: {result}")

    return action


def verifier_action(verifier: Any, kind: str) -> Action:
    from verifiers import Problem, Status

    tests: dict[str, Any] = {"language": "python", "kind": kind, "entry_point": "f"}
    if kind == "function":
        tests["cases"] = [{"args": [20], "kwargs": {}, "expected": 42}]
    else:
        tests["code"] = "assert candidate(20) == 42"
    problem = Problem(id=kind, prompt="", verifier="code", tests=tests)

    async def action() -> None:
        verdict = await verifier.verify(problem, "```python\ndef f(x):\n    return 2 * x + 2\n```")
        if verdict.status is not Status.CORRECT:
            raise RuntimeError(f"a wrong verdict: {verdict}")

    return action


def docker_exec_action(container: Any) -> Action:
    async def action() -> None:
        code, output = await asyncio.to_thread(container.exec_run, COMMAND)
        if (code, output) != (0, b"42\n"):
            raise RuntimeError(f"docker exec: {code} {output}")

    return action


def docker_run_action(client: Any) -> Action:
    def run() -> bytes:
        return client.containers.run(DEFAULT_TAG, COMMAND, remove=True, **HARDENED)

    async def action() -> None:
        if await asyncio.to_thread(run) != b"42\n":
            raise RuntimeError("docker run: wrong output")

    return action


async def compare(options: argparse.Namespace) -> None:
    from verifiers.code import CodeVerifier

    client = connect()
    sleeper = client.containers.run(DEFAULT_TAG, ["sleep", "infinity"], detach=True, **HARDENED)
    box = DockerSandbox(num_slots=options.slots)
    verifiers = {start: CodeVerifier(start=start, num_slots=options.slots) for start in MODES}
    try:
        rows = [Row(f"pool, {start}", pool_action(box, start), options.callers) for start in MODES]
        rows += [
            Row(
                f"verifier, {kind} tests, {start}", verifier_action(verifier, kind), options.callers
            )
            for start, verifier in verifiers.items()
            for kind in ("function", "assert")
        ]
        slow = Row("docker exec", docker_exec_action(sleeper), options.callers)
        rows += [slow, Row("docker run", docker_run_action(client), options.callers)]
        for row in rows:
            await asyncio.gather(*(row.action() for _ in range(row.callers)))  # warm
        for _ in range(options.rounds):
            for row in rows:
                await play(row, options.seconds)
        print(f"{'':34}{'runs/s':>8}{'x exec':>8}{'p50 ms':>9}{'p99 ms':>9}{'p99/p50':>9}")
        for row in rows:
            p50, p99 = (quantile(row.latencies_s, q) * 1e3 for q in (0.5, 0.99))
            rate, ratio = row.per_second, row.per_second / slow.per_second
            print(f"{row.name:34}{rate:8.1f}{ratio:8.1f}{p50:9.1f}{p99:9.1f}{p99 / p50:9.1f}")
    finally:
        await box.close()
        for verifier in verifiers.values():
            await verifier.close()
        sleeper.remove(force=True)
        client.close()


async def soak(options: argparse.Namespace) -> None:
    """Memory of the host process and of the containers, at even intervals."""
    async with DockerSandbox(num_slots=options.slots, max_runs=10 * options.soak) as box:
        action = pool_action(box, "fork")
        await asyncio.gather(*(action() for _ in range(options.callers)))
        print(f"{'runs':>8}{'host MB':>10}{'containers MB':>15}{'runs/s':>9}")
        chunk = max(1, options.soak // 10)
        for done in range(0, options.soak + 1, chunk):
            begin_s = time.perf_counter()
            remaining = iter(range(chunk))

            async def caller(remaining: Any = remaining) -> None:
                for _ in remaining:
                    await action()

            memory = await asyncio.to_thread(container_memory_mb)
            host = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
            print(f"{done:8d}{host:10.1f}{memory:15.1f}", end="", flush=True)
            if done < options.soak:
                await asyncio.gather(*(caller() for _ in range(options.callers)))
                print(f"{chunk / (time.perf_counter() - begin_s):9.1f}", end="")
            print()
        print({name: round(value, 4) for name, value in box.metrics.snapshot().items()})


def container_memory_mb() -> float:
    """Anonymous and shared memory of this process's containers, without page cache."""
    client = connect()
    try:
        found = client.containers.list(filters={"name": f"rlvr-sandbox-{os.getpid()}-"})
        snapshots: list[Any] = [one.stats(stream=False) for one in found]
        stats = [one["memory_stats"]["stats"] for one in snapshots]
        return sum(s.get("rss", s.get("anon", 0)) + s.get("shmem", 0) for s in stats) / 2**20
    finally:
        client.close()


MODES: tuple[Literal["fork", "exec"], ...] = ("fork", "exec")


def main() -> None:
    cpus = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--slots", type=int, default=cpus)
    parser.add_argument("--callers", type=int, default=2 * cpus)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each row in each round")
    parser.add_argument("--soak", type=int, default=0, metavar="RUNS")
    options = parser.parse_args()
    asyncio.run(soak(options) if options.soak else compare(options))


if __name__ == "__main__":
    main()
