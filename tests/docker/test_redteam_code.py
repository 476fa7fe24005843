"""No attack is accepted, none ends as a fault of ours, and the next run in its slot is right.

One slot of each kind, so that the next run is always in the container that was just attacked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.docker import redteam
from verifiers import Problem, Verdict
from verifiers.code import CodeVerifier

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="module")]

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


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["fork", "exec"])
async def verifier(
    request: pytest.FixtureRequest, sandbox_image: str
) -> AsyncIterator[CodeVerifier]:
    verifier = CodeVerifier(num_slots=1, start=request.param, image=sandbox_image)
    yield verifier
    await verifier.close()


async def judge(verifier: CodeVerifier, tests: dict[str, Any], completion: str) -> Verdict:
    problem = Problem(id="double", prompt="Double a number.", verifier="code", tests=tests)
    return await verifier.verify(problem, completion)


async def repel(verifier: CodeVerifier, tests: dict[str, Any], completion: str) -> None:
    verdict = await judge(verifier, tests, completion)
    assert verdict.status in ("incorrect", "no_answer", "limit"), verdict
    assert verdict.reward == 0.0
    for honest_tests, program in HONEST:
        patient = {**honest_tests, "limits": {}}  # a busy machine must not look like an attack
        after = await judge(verifier, patient, program)
        assert after.status == "correct", (verdict.detail, after.detail)


def fenced(source: str, language: str = "python") -> str:
    return f"````{language}\n{source}\n````"


@pytest.mark.parametrize("name", redteam.FUNCTIONS)
async def test_attack_on_function_tests(verifier: CodeVerifier, name: str) -> None:
    await repel(verifier, FUNCTION, fenced(redteam.FUNCTIONS[name]))


@pytest.mark.parametrize("name", redteam.FUNCTIONS)
async def test_attack_on_assert_tests(verifier: CodeVerifier, name: str) -> None:
    await repel(verifier, ASSERT, fenced(redteam.FUNCTIONS[name]))


@pytest.mark.parametrize("name", redteam.PROGRAMS)
async def test_attack_on_stdio_tests(verifier: CodeVerifier, name: str) -> None:
    await repel(verifier, STDIO, fenced(redteam.PROGRAMS[name]))


@pytest.mark.parametrize("name", redteam.NATIVE)
async def test_attack_by_a_compiled_program(verifier: CodeVerifier, name: str) -> None:
    language, source = redteam.NATIVE[name]
    await repel(verifier, {**STDIO, "language": language}, fenced(source, language))


@pytest.mark.parametrize("name", redteam.EXTRACTION)
async def test_attack_on_extraction(verifier: CodeVerifier, name: str) -> None:
    for tests in (FUNCTION, ASSERT):
        await repel(verifier, tests, redteam.EXTRACTION[name])


def test_there_are_enough_attacks() -> None:
    tables = (redteam.FUNCTIONS, redteam.PROGRAMS, redteam.NATIVE, redteam.EXTRACTION)
    assert sum(map(len, tables)) >= 60
