"""The code verifier on real containers: right programs are right, wrong ones wrong, limits hold."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from rlvr.config import ScoringConfig
from rlvr.score_file import score_file
from verifiers import Problem, Verdict
from verifiers.code import CodeVerifier

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["fork", "exec"])
async def verifier(
    request: pytest.FixtureRequest, sandbox_image: str
) -> AsyncIterator[CodeVerifier]:
    verifier = CodeVerifier(start=request.param, num_slots=2)
    yield verifier
    await verifier.close()


async def judge(verifier: CodeVerifier, tests: Any, completion: str, prompt: str = "") -> Verdict:
    problem = Problem(id="p", prompt=prompt, verifier="code", tests=tests)
    return await verifier.verify(problem, completion)


def stdio(language: str, *cases: tuple[str, str], **more: Any) -> dict[str, Any]:
    rows = [{"stdin": stdin, "stdout": stdout} for stdin, stdout in cases]
    return {"kind": "stdio", "language": language, "cases": rows, **more}


def asserts(code: str, **more: Any) -> dict[str, Any]:
    return {"kind": "assert", "entry_point": "f", "code": code, **more}


def function(entry_point: str, *cases: tuple[list[Any], Any], **more: Any) -> dict[str, Any]:
    rows = [{"args": args, "expected": expected} for args, expected in cases]
    return {"kind": "function", "entry_point": entry_point, "cases": rows, **more}


SUM = (("1 2\n", "3\n"), ("-5 5\n", "0"), ("10 20", "30"))
PRIMES = (([10], [2, 3, 5, 7]), ([1], []), ([2], [2]))
CHECKER = """import sys
n = int(open(sys.argv[1]).read())
found = list(map(int, open(sys.argv[2]).read().split()))
sys.exit(0 if len(found) == 2 and sum(found) == n else 1)
"""
GOLD: dict[str, tuple[dict[str, Any], str]] = {
    "python": (stdio("python", *SUM), "print(sum(map(int, input().split())))"),
    "python_lines": (
        stdio("python", ("2\na\nb\n", "b\na\n"), compare="lines"),
        "n = int(input())\nprint(*[input() for _ in range(n)][::-1], sep='\\n')",
    ),
    "c": (
        stdio("c", *SUM),
        '#include <stdio.h>\nint main(void){int a,b;scanf("%d%d",&a,&b);printf("%d\\n",a+b);}',
    ),
    "cpp": (
        stdio("c++", *SUM),
        "#include <bits/stdc++.h>\nint main(){int a,b;std::cin>>a>>b;std::cout<<a+b<<std::endl;}",
    ),
    "c_float": (
        stdio("c", ("2", "1.41421356"), float_tolerance=1e-6),
        '#include <math.h>\n#include <stdio.h>\nint main(void){double x;scanf("%lf",&x);'
        'printf("%.12f\\n",sqrt(x));}',
    ),
    "checker": (
        stdio("python", ("7", "3 4"), ("10", "5 5"), checker={"code": CHECKER}),
        "n = int(input())\nprint(0, n)",
    ),
    "function": (
        function("primes", *PRIMES),
        "def primes(n):\n"
        "    return [k for k in range(2, n + 1) if all(k % d for d in range(2, k))]",
    ),
    "function_types": (
        function(
            "f",
            ([], {"__tuple__": [{"__set__": [1, 2]}, {"__bytes__": "00ff"}, None, True]}),
        ),
        "def f():\n    return ({1, 2}, b'\\x00\\xff', None, True)",
    ),
    "function_numpy": (
        function("mean", ([[1, 2, 6]], 3.0)),
        "import numpy as np\ndef mean(xs):\n    return np.mean(xs)",
    ),
    "function_one_process": (
        function("count", ([], 1), ([], 2), process="submission"),
        "n = 0\ndef count():\n    global n\n    n += 1\n    return n",
    ),
    "function_large": (
        function("grow", ([100_000], list(range(100_000)))),
        "def grow(n):\n    return list(range(n))",
    ),
    "assert": (
        asserts("assert f(2) == 4\nassert f('a') == 'aa'"),
        "def f(x):\n    return 2 * x",
    ),
    "assert_many_calls": (
        asserts("def check(g):\n    for i in range(300):\n        assert g([i] * 9) == 9 * i"),
        "def f(xs):\n    return sum(xs)",
    ),
}


@pytest.mark.parametrize("name", GOLD)
async def test_gold_passes_and_an_empty_program_does_not(verifier: CodeVerifier, name: str) -> None:
    tests, program = GOLD[name]
    gold = await judge(verifier, tests, program)
    assert gold.status == "correct", gold.detail
    empty = await judge(verifier, tests, "```\n# nothing\n```" if name[0] != "c" else "```\n;\n```")
    assert empty.status == "incorrect", empty.detail


LOOP, HOG = "while True: pass", "a = []\nwhile True: a.append(bytearray(1 << 20))"
FLOOD = "while True: print('x' * 1000)"


@pytest.mark.parametrize(
    ("body", "outcome"), [(LOOP, "time_limit"), (HOG, "memory_limit"), (FLOOD, "output_limit")]
)
async def test_limits(verifier: CodeVerifier, body: str, outcome: str) -> None:
    limits = {"time_s": 1, "memory_mb": 128, "output_bytes": 100_000}
    indented = body.replace("\n", "\n    ")
    for tests, program in (
        (stdio("python", ("", "1"), limits=limits), body),
        (function("f", ([], 1), limits=limits), f"def f():\n    {indented}"),
        (
            asserts("assert f()", limits=limits),
            f"def f():\n    {indented}",
        ),
    ):
        verdict = await judge(verifier, tests, f"```python\n{program}\n```")
        assert verdict.status == "limit", verdict.detail
        assert verdict.detail["outcomes"] == [outcome], verdict.detail


async def test_a_compile_error_shows_the_compilers_words(verifier: CodeVerifier) -> None:
    verdict = await judge(verifier, stdio("c", ("", "")), "```c\nint main(void) { retrun 0; }\n```")
    assert verdict.status == "incorrect" and verdict.detail["outcomes"] == ["compile_error"]
    assert "retrun" in verdict.detail["reason"]


async def test_details_say_what_a_person_needs(verifier: CodeVerifier) -> None:
    program = "def f(x):\n    print('looking')\n    return 1 // x"
    verdict = await judge(verifier, function("f", ([1], 1), ([0], 0)), program)
    failure = verdict.detail["first_failure"]
    assert failure["case"] == 1 and failure["args"] == "[0]" and failure["expected"] == "0"
    assert "ZeroDivisionError" in failure["note"]
    assert "looking" in failure["stderr"] and "line 3" in failure["stderr"]


async def test_many_at_once_each_get_their_own_verdict(verifier: CodeVerifier) -> None:
    async def one(index: int) -> bool:
        tests, right = (
            (function("f", ([index], index + 1)), index % 2 == 0),
            (
                {"kind": "assert", "entry_point": "f", "code": f"assert f({index}) == {index + 1}"},
                0,
            ),
            (stdio("python", (f"{index}", f"{index + 1}")), index % 2 == 0),
        )[index % 3]
        step = 1 if right else 2
        program = f"def f(x):\n    return x + {step}"
        if tests["kind"] == "stdio":
            program = f"print(int(input()) + {step})"
        verdict = await judge(verifier, tests, program)
        return verdict.status == ("correct" if right else "incorrect")

    limit = asyncio.Semaphore(8)

    async def limited(index: int) -> bool:
        async with limit:
            return await one(index)

    assert all(await asyncio.gather(*(limited(index) for index in range(120))))


async def test_closing_one_verifier_leaves_the_others_sandboxes(verifier: CodeVerifier) -> None:
    tests, program = GOLD["function"]
    other = CodeVerifier(num_slots=2)
    assert (await judge(other, tests, program)).status == "correct"
    await other.close()
    assert (await judge(verifier, tests, program)).status == "correct"
    assert (await judge(other, tests, program)).status == "correct", "it can be used again"
    await other.close()


async def test_score_file(tmp_path: Path, sandbox_image: str) -> None:
    rows = [
        {"id": name, "problem": {"tests": tests}, "completion": program}
        for name, (tests, program) in GOLD.items()
    ]
    rows.append({"id": "bad", "problem": {"tests": {"kind": "assert"}}, "completion": "x"})
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = await asyncio.to_thread(score_file, "code", source, output, ScoringConfig())
    assert summary.counts["correct"] == len(GOLD) and summary.counts["error"] == 1
    last = json.loads(output.read_text().splitlines()[-1])
    assert last["reward"] is None and "entry_point" in last["detail"]["reason"]


HUMANEVAL = os.environ.get("RLVR_HUMANEVAL", "")


@pytest.mark.skipif(not HUMANEVAL, reason="RLVR_HUMANEVAL is not set to HumanEval.jsonl.gz")
@pytest.mark.parametrize(
    ("dressing", "status"),
    [
        ("{body}", "correct"),
        ("{prompt}{body}", "correct"),
        ("Sure!\n```python\n{prompt}{body}```\nThat is it.", "correct"),
        ("```python\n{body}```", "correct"),
        ("    pass\n", "incorrect"),
        ("", "no_answer"),
    ],
)
async def test_humaneval(verifier: CodeVerifier, dressing: str, status: str) -> None:
    with gzip.open(HUMANEVAL, "rt") as file:
        rows = [json.loads(line) for line in file]
    limit = asyncio.Semaphore(verifier.max_concurrency)

    async def one(row: dict[str, Any]) -> str:
        tests = {"kind": "assert", "entry_point": row["entry_point"], "code": row["test"]}
        completion = dressing.replace("{prompt}", row["prompt"])
        completion = completion.replace("{body}", row["canonical_solution"])
        async with limit:
            verdict = await judge(verifier, tests, completion, row["prompt"])
        return row["task_id"] if verdict.status != status else ""

    assert not [name for name in await asyncio.gather(*map(one, rows)) if name]
