"""No attack is accepted, none ends as a fault of ours, and the next run in its slot is right.

Every verifier has one slot of each kind, so that the next run is always in the container that was
just attacked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from tests.docker import redteam
from verifiers import Problem, Verdict
from verifiers.code import CodeVerifier

pytestmark = pytest.mark.docker

SLOTS = 4

LIMITS = {"time_s": 1, "wall_s": 2, "memory_mb": 256, "processes": 16, "output_bytes": 100_000}
FUNCTION = {
    "kind": "function",
    "entry_point": "double",
    "cases": [
        {"args": [x], "expected": y} for x, y in ((2, 4), (0.5, 1.0), ("a", "aa"), ([7], [7, 7]))
    ],
    "limits": LIMITS,
}
ASSERT = {
    "kind": "assert",
    "entry_point": "double",
    "code": (
        "import random\n"
        "def check(candidate):\n"
        "    assert all(map(lambda x: candidate(x) == 2 * x, (1, 2, 3)))\n"
        "    xs = [1, 2]\n"
        "    assert candidate(xs) == [1, 2, 1, 2]\n"
        "    n = random.randint(10, 10**9)\n"
        "    assert candidate(n) == 2 * n\n"
    ),
    "limits": LIMITS,
}
STDIO = {
    "kind": "stdio",
    "cases": [{"stdin": "2\n", "stdout": "4\n"}, {"stdin": "21\n", "stdout": "42\n"}],
    "limits": LIMITS,
}
HONEST_C = '#include <stdio.h>\nint main(void){int n;scanf("%d",&n);printf("%d\\n",2*n);return 0;}'
HONEST: list[tuple[dict[str, Any], str]] = [
    (FUNCTION, redteam.RIGHT),
    (ASSERT, redteam.RIGHT),
    (STDIO, "print(2 * int(input()))"),
    ({**STDIO, "language": "c"}, HONEST_C),
]


Attack = tuple[dict[str, Any], str]
"""Tests and completion."""


def fenced(source: str, language: str = "python") -> str:
    return f"````{language}\n{source}\n````"


ON_FUNCTION = {name: (FUNCTION, fenced(source)) for name, source in redteam.FUNCTIONS.items()}
ON_ASSERT = {name: (ASSERT, fenced(source)) for name, source in redteam.FUNCTIONS.items()}
ON_STDIO = {name: (STDIO, fenced(source)) for name, source in redteam.PROGRAMS.items()}
COMPILED = {
    name: ({**STDIO, "language": language}, fenced(source, language))
    for name, (language, source) in redteam.NATIVE.items()
}
ON_EXTRACTION = {
    f"{name} ({tests['kind']})": (tests, text)
    for name, text in redteam.EXTRACTION.items()
    for tests in (FUNCTION, ASSERT)
}
FAMILIES: dict[str, dict[str, Attack]] = {
    "function": ON_FUNCTION,
    "assert": ON_ASSERT,
    "stdio": ON_STDIO,
    "compiled": COMPILED,
    "extraction": ON_EXTRACTION,
}
ATTACKS = [
    (start, family, name)
    for start in ("fork", "exec")
    for family, attacks in FAMILIES.items()
    for name in attacks
    # How a program starts makes no difference to a compiler or to the extraction.
    if start == "fork" or family in ("function", "assert", "stdio")
]


@dataclass(frozen=True)
class Outcome:
    verdict: Verdict
    after: list[Verdict]
    """Of honest programs, run next in the same slots."""


async def judge(verifier: CodeVerifier, tests: dict[str, Any], completion: str) -> Verdict:
    problem = Problem(id="double", prompt="Double a number.", verifier="code", tests=tests)
    return await verifier.verify(problem, completion)


async def attack(verifier: CodeVerifier, tests: dict[str, Any], completion: str) -> Outcome:
    verdict = await judge(verifier, tests, completion)
    # A busy machine must not look like an attack: honest programs have the ordinary limits.
    after = [await judge(verifier, {**honest, "limits": {}}, text) for honest, text in HONEST]
    return Outcome(verdict, after)


@pytest.fixture(scope="module")
def outcomes(sandbox_image: str) -> dict[tuple[str, str, str], Outcome]:
    """Every attack, one after the other in each of a few slots: most of them only wait for their
    limit, so the slots side by side take a fraction of the time."""

    async def run_all(start: Literal["fork", "exec"]) -> None:
        waiting = deque(key for key in ATTACKS if key[0] == start)

        async def work(slot: int) -> None:
            # A setting of its own gives each verifier its own slots.
            verifier = CodeVerifier(
                num_slots=1, start=start, image=sandbox_image, max_memory_mb=1024 + slot
            )
            while waiting:
                key = waiting.popleft()
                done[key] = await attack(verifier, *FAMILIES[key[1]][key[2]])
            await verifier.close()

        await asyncio.gather(*(work(slot) for slot in range(SLOTS)))

    done: dict[tuple[str, str, str], Outcome] = {}
    asyncio.run(run_all("fork"))
    asyncio.run(run_all("exec"))
    return done


@pytest.mark.timeout(1800)  # the first one waits for all
@pytest.mark.parametrize("key", ATTACKS, ids="-".join)
def test_attack_is_repelled(
    outcomes: dict[tuple[str, str, str], Outcome], key: tuple[str, str, str]
) -> None:
    outcome = outcomes[key]
    assert outcome.verdict.status in ("incorrect", "no_answer", "limit"), outcome.verdict
    assert outcome.verdict.reward == 0.0
    for after in outcome.after:
        assert after.status == "correct", (outcome.verdict.detail, after.detail)


def test_there_are_enough_attacks() -> None:
    tables = (redteam.FUNCTIONS, redteam.PROGRAMS, redteam.NATIVE, redteam.EXTRACTION)
    assert sum(map(len, tables)) >= 60
