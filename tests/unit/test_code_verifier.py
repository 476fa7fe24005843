"""The code verifier over a sandbox without isolation: what is judged where, and how it ends."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from sandbox.errors import SandboxError
from tests.unit.code_sandbox import PlainSandbox, plain_pools
from verifiers import Problem, Verdict, VerifierLoadError
from verifiers.code import CodeVerifier
from verifiers.code_pools import Pools

DOUBLE = "def double(x):\n    return 2 * x\n"
HEAD = 'def helper(x):\n    return x\n\n\ndef double(x):\n    """Twice x."""\n'


def problem(tests: Any, prompt: str = "") -> Problem:
    return Problem(id="p", prompt=prompt, verifier="code", tests=tests)


def function(*cases: tuple[list[Any], Any], **more: Any) -> dict[str, Any]:
    rows = [{"args": args, "expected": expected} for args, expected in cases]
    return {"kind": "function", "entry_point": "double", "cases": rows, **more}


def asserts(code: str, **more: Any) -> dict[str, Any]:
    return {"kind": "assert", "entry_point": "double", "code": code, **more}


def stdio(*cases: tuple[str, str], **more: Any) -> dict[str, Any]:
    rows = [{"stdin": stdin, "stdout": stdout} for stdin, stdout in cases]
    return {"kind": "stdio", "language": "python", "cases": rows, **more}


async def judge(tests: Any, completion: str, prompt: str = "", **params: Any) -> Verdict:
    pools = params.pop("pools", None) or plain_pools()
    return await CodeVerifier(pools=pools, **params).verify(problem(tests, prompt), completion)


TWICE = "print(2 * int(input()))"


async def test_stdio() -> None:
    tests = stdio(("2", "4\n"), ("5", "10\n"))
    right = await judge(tests, f"```python\n{TWICE}\n```")
    assert right.status == "correct" and right.detail["outcomes"] == ["accepted", "accepted"]
    wrong = await judge(tests, "print(4)")
    assert wrong.status == "incorrect"
    assert wrong.detail["first_failure"]["case"] == 1
    assert wrong.detail["first_failure"]["expected"] == "10\n"
    assert wrong.detail["first_failure"]["actual"] == "4\n"


async def test_status_zero_alone_is_no_pass_and_another_status_is_a_failure() -> None:
    tests = stdio(("2", "4\n"))
    assert (await judge(tests, "import os; os._exit(0)")).status == "incorrect"
    failed = await judge(tests, f"{TWICE}\nraise SystemExit(1)")
    assert failed.status == "incorrect" and "exit status 1" in failed.detail["reason"]


async def test_prose_is_no_answer_and_a_broken_program_is_incorrect() -> None:
    tests = stdio(("2", "4\n"))
    assert (await judge(tests, "I cannot solve this, sorry.")).status == "no_answer"
    assert (await judge(function(([2], 4)), "I cannot solve this.")).status == "no_answer"
    assert (await judge(asserts("assert double(1) == 2"), "No idea, sir")).status == "no_answer"
    broken = await judge(tests, "```python\nprint((\n```")
    assert broken.status == "incorrect" and broken.detail["outcomes"] == ["compile_error"]


async def test_a_program_that_never_ends_is_over_the_limit() -> None:
    tests = {"wall_s": 0.3, "time_s": 0.3}
    loop = "while True: pass"
    for verdict in (
        await judge(stdio(("2", "4"), **tests), loop),
        await judge(function(([2], 4), **tests), f"def double(x):\n    {loop}"),
        await judge(asserts("assert double(2) == 4", **tests), f"def double(x):\n    {loop}"),
        await judge(asserts("assert double(2) == 4", **tests), f"{loop}\n{DOUBLE}"),
    ):
        assert verdict.status == "limit" and verdict.detail["outcomes"] == ["time_limit"]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no C compiler")
async def test_compiled_programs_are_built_once() -> None:
    pools = plain_pools()
    source = '#include <stdio.h>\nint main(void){int n;scanf("%d",&n);printf("%d",2*n);return 0;}'
    verifier = CodeVerifier(pools=pools)
    tests = {**stdio(("2", "4"), ("3", "6")), "language": "c"}
    for _ in range(2):
        assert (await verifier.verify(problem(tests), f"```c\n{source}\n```")).status == "correct"
    assert isinstance(pools.candidates, PlainSandbox)
    assert sum(run.argv[0] == "gcc" for run in pools.candidates.programs) == 1
    bad = await verifier.verify(problem(tests), "```c\nint main( {\n```")
    assert bad.status == "incorrect" and bad.detail["outcomes"] == ["compile_error"]


async def test_float_tolerance_and_checker() -> None:
    tests = stdio(("", "0.333333"), float_tolerance=1e-3)
    assert (await judge(tests, "print(1/3)")).status == "correct"
    checker = (
        "import sys\n"
        "n = int(open(sys.argv[1]).read())\n"
        "a, b = map(int, open(sys.argv[2]).read().split())\n"
        "sys.exit(0 if a + b == n and open(sys.argv[3]).read() else 1)\n"
    )
    tests = stdio(("7", "0 7"), checker={"language": "python", "code": checker})
    assert (await judge(tests, "print(3, 4)")).status == "correct"
    assert (await judge(tests, "print(3, 5)")).status == "incorrect"
    garbage = await judge(tests, "print('garbage')")
    assert garbage.status == "incorrect", "an output that breaks the checker is wrong"
    broken = stdio(("7", "0 7"), checker={"code": "import no_such_module"})
    assert (await judge(broken, "print(3, 4)")).status == "error"


async def test_function() -> None:
    tests = function(([2], 4), (["a"], "aa"), ([[1]], [1, 1]))
    assert (await judge(tests, DOUBLE)).status == "correct"
    wrong = await judge(tests, "def double(x):\n    return 4")
    assert wrong.status == "incorrect" and wrong.detail["first_failure"]["expected"] == "'aa'"
    assert (await judge(tests, "def triple(x):\n    return 3 * x")).status == "incorrect"
    assert (await judge(tests, "def double(x):\n    raise KeyError(x)")).status == "incorrect"
    noisy = "print('hello')\ndef double(x):\n    print('working')\n    return x * 2\n"
    assert (await judge(tests, noisy)).status == "correct", "printing is no reply"


async def test_the_same_function_as_a_method_of_solution() -> None:
    program = "class Solution:\n    def double(self, x):\n        return 2 * x\n"
    assert (await judge(function(([2], 4)), program)).status == "correct"
    tests = {**function(([2], 4)), "entry_point": "Solution.double"}
    assert (await judge(tests, program)).status == "correct"


async def test_keyword_arguments_and_written_types() -> None:
    tests = {
        "kind": "function",
        "entry_point": "f",
        "cases": [
            {"args": [{"__set__": [1]}], "kwargs": {"y": 2}, "expected": {"__tuple__": [1, 2]}}
        ],
    }
    assert (await judge(tests, "def f(x, y):\n    return (*x, y)")).status == "correct"
    assert (await judge(tests, "def f(x, y):\n    return [*x, y]")).status == "incorrect"


async def test_a_process_for_each_case_or_for_all() -> None:
    counter = "calls = 0\ndef double(x):\n    global calls\n    calls += 1\n    return calls\n"
    fresh, shared = function(([0], 1), ([0], 1)), function(([0], 1), ([0], 2), process="submission")
    assert (await judge(fresh, counter)).status == "correct"
    assert (await judge(shared, counter)).status == "correct"
    assert (await judge(shared, DOUBLE)).status == "incorrect"


async def test_partial_credit_and_early_stop() -> None:
    tests = function(([1], 2), ([2], 5), ([3], 6), ([4], 8))
    partial = await judge(tests, DOUBLE, partial_credit=True)
    assert partial.status == "partial" and partial.reward == 0.75
    assert len(partial.detail["outcomes"]) == 4
    stopped = await judge(tests, DOUBLE)
    assert stopped.reward == 0.0 and stopped.detail["outcomes"] == ["accepted", "wrong_answer"]
    assert stopped.detail["cases"] == 4
    everything = await judge(tests, DOUBLE, stop_early=False)
    assert everything.reward == 0.0 and len(everything.detail["outcomes"]) == 4


async def test_nothing_of_the_expected_values_reaches_the_candidate() -> None:
    pools = plain_pools()
    secret = "SECRET-VALUE-17"
    for tests in (
        function(([1], secret)),
        asserts(f"assert double(1) == {secret!r}"),
        stdio(("1", secret), checker={"code": f"raise SystemExit({secret!r} == '')"}),
    ):
        await judge(tests, DOUBLE, pools=pools)
    assert isinstance(pools.candidates, PlainSandbox)
    sent = [content for run in pools.candidates.programs for content in run.files.values()]
    sent += [case.stdin for case in pools.candidates.cases]
    assert len(sent) >= 7 and not any(secret.encode() in content for content in sent)


CHECK = "def check(candidate):\n    assert candidate(2) == 4\n    assert double('a') == 'aa'\n"


async def test_assert() -> None:
    assert (await judge(asserts(CHECK), DOUBLE)).status == "correct"
    wrong = await judge(asserts(CHECK), "def double(x):\n    return 4")
    assert wrong.status == "incorrect" and wrong.detail["outcomes"] == ["wrong_answer"]
    assert wrong.detail["first_failure"]["test"] == "assert double('a') == 'aa'"
    mbpp = asserts("assert double(2) == base", setup="base = 4")
    assert (await judge(mbpp, DOUBLE)).status == "correct"


async def test_exceptions_are_raised_in_the_tests() -> None:
    code = (
        "for kind, x in ((ValueError, 1), (KeyError, 2), (OSError, 3)):\n"
        "    try:\n        double(x)\n"
        "    except kind as error:\n        assert 'bad' in str(error)\n"
        "    else:\n        assert False\n"
    )
    program = (
        "class Own(KeyError): pass\n"
        "def double(x):\n    raise {1: ValueError, 2: Own, 3: OSError}[x]('bad')\n"
    )
    assert (await judge(asserts(code), program)).status == "correct"
    assert (await judge(asserts(code), DOUBLE)).status == "incorrect"


async def test_an_exit_cannot_be_caught_as_an_expected_value() -> None:
    for leave in (
        "raise SystemExit(0)",
        "import os; os._exit(0)",
        "exit()",
        "raise KeyboardInterrupt",
    ):
        verdict = await judge(asserts("assert double(2) == 4"), f"def double(x):\n    {leave}")
        assert verdict.status == "incorrect", leave


async def test_arguments_changed_in_place_come_back_from_a_call_that_returns_none() -> None:
    code = "xs = [1, 2]\ndouble(xs)\nassert xs == [2, 4]"
    assert (await judge(asserts(code), "def double(x):\n    x[:] = [2, 4]")).status == "correct"
    # A call that returns something must not rewrite what it is compared with.
    code = "xs = [1, 2]\nassert double(xs) == [2 * x for x in xs]"
    cheat = "def double(x):\n    x.clear()\n    return x"
    assert (await judge(asserts(code), cheat)).status == "incorrect"
    assert (await judge(asserts(code, mutation="always"), cheat)).status == "correct"


async def test_values_the_tests_cannot_be_given() -> None:
    code = "assert double(2) == 4"
    for value in ("lambda: 4", "print", "object()", "type('I', (int,), {})(4)"):
        verdict = await judge(asserts(code), f"def double(x):\n    return {value}")
        assert verdict.status == "incorrect" and "type" in verdict.detail["reason"], value


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("assert undefined_name(double(1))", "NameError"),
        ("import no_such_module\nassert double(1)", "ModuleNotFoundError"),
        ("assert 1 == 2", "AssertionError"),
        ("def check(candidate):\n    pass", "never calls"),
        ("import sys\nsys.exit(0)", "SystemExit"),
        ("import os\nos._exit(0)", "ended the judge"),
        ("assert double(lambda x: x)", "function"),
        ("try:\n    double(print)\nexcept Exception:\n    pass", "cannot be sent"),
    ],
)
async def test_tests_that_fail_by_themselves_are_an_error(code: str, reason: str) -> None:
    verdict = await judge(asserts(code), DOUBLE)
    assert verdict.status == "error" and reason in verdict.detail["reason"], verdict.detail
    assert verdict.detail["permanent"] is True


async def test_tests_that_fail_on_a_value_are_the_candidates_fault() -> None:
    for code in (
        "assert double(2) + 1 == 5",
        "assert double(2)['k']",
        "assert eval(double(2)) == 1",
    ):
        verdict = await judge(asserts(code), "def double(x):\n    return 'no_such_name'")
        assert verdict.status == "incorrect", code


async def test_a_name_that_is_missing_because_of_a_call_is_the_candidates_fault() -> None:
    code = "try:\n    got = double(2)\nexcept Exception:\n    pass\nassert got == 4"
    verdict = await judge(asserts(code), "def double(x):\n    raise ValueError")
    assert verdict.status == "incorrect"


async def test_a_deep_value_may_be_handed_back() -> None:
    program = "def double(x):\n    v = x\n    for _ in range(199):\n        v = [v]\n    return v"
    for code in ("assert double(double(1)) == 4", "assert double([[double(1)]]) == 4"):
        assert (await judge(asserts(code), program)).status == "incorrect", code


async def test_iterators_are_read_by_tests_but_equal_no_list() -> None:
    code = "assert list(double(2)) == [4] and double(2) != [4]"
    for value in ("(2 * y for y in [x])", "map(int, [4])", "zip([4])", "{4: 0}.keys()"):
        wanted = code.replace("[4]", "[(4,)]") if "zip" in value else code
        verdict = await judge(asserts(wanted), f"def double(x):\n    return {value}")
        assert verdict.status == "correct", value
        assert (await judge(function(([2], [4])), f"def double(x): return {value}")).reward == 0


async def test_helpers_come_from_the_prompt_not_from_the_candidate() -> None:
    code = "assert double(helper(3)) == 6"
    body = "    return 2 * x\n"
    assert (await judge(asserts(code), body, HEAD)).status == "correct"
    cheat = f"```python\n{DOUBLE}\ndef helper(x):\n    return 3 if x == 3 else 0\n```"
    assert (
        await judge(asserts("assert helper(5) == double(2) + 1"), cheat, HEAD)
    ).status == "correct"
    # Where nothing trusted has it, the candidate's own is called.
    assert (await judge(asserts(code), HEAD + body)).status == "correct"


@pytest.mark.parametrize(
    "completion",
    [
        "    return 2 * x\n",
        "return 2 * x\n",
        "    return 2 * x\n\nThat is all there is to it.\n",
        "    return helper(x) + x\n\n\ndef helper(x):\n    return x\n",
        "```python\n    return 2 * x\n```",
        f"```python\n{DOUBLE}```",
        "```python\ndef double(x):\n    return helper(x) + x\n```",
        HEAD + "    return 2 * x\n",
        "double = lambda x: 2 * x",
    ],
)
async def test_a_function_is_continued_from_the_prompt_or_given_whole(completion: str) -> None:
    assert (await judge(asserts(CHECK), completion, HEAD)).status == "correct"
    assert (await judge(function(([2], 4)), completion, HEAD)).status == "correct"


async def test_a_completion_may_begin_within_the_prompts_block() -> None:
    prompt = f"Complete it.\n```python\n{HEAD}"
    completion = "    return 2 * x\n```\nIt doubles:\n```\n>>> double(2)\n4\n```"
    assert (await judge(asserts(CHECK), completion, prompt)).status == "correct"
    assert (await judge(asserts(CHECK), completion, prompt, extract="block")).status == "correct"


@pytest.mark.parametrize("completion", ["", "    pass\n", "    return None\n", "\n\n"])
async def test_an_empty_body_never_passes(completion: str) -> None:
    assert (await judge(asserts(CHECK), completion, HEAD)).reward == 0.0


FORGERY = (
    "import os, json, struct, threading\n"
    "def frame(message):\n"
    "    data = json.dumps(message).encode()\n"
    "    return struct.pack('>I', len(data)) + data\n"
    "def everywhere(data):\n"
    "    for fd in range(3, 64):\n"
    "        try: os.write(fd, data)\n"
    "        except OSError: pass\n"
)


@pytest.mark.parametrize(
    "message",
    [
        {"done": 3},
        {"id": 0, "state": "ready", "message": ""},
        {"id": 1, "value": 0},
        {"id": 1},
        {"id": 1, "raise": 5},
        {"id": 1, "value": ["l", {}]},
        {"id": 2, "value": 4},
        [],
        None,
    ],
    ids=json.dumps,
)
async def test_forged_frames_are_at_most_claims(message: Any) -> None:
    program = f"{FORGERY}everywhere(frame({message!r}))\ndef double(x):\n    return 5\n"
    for tests in (function(([2], 4)), asserts(CHECK), function(([2], 4), process="submission")):
        verdict = await judge(tests, program)
        assert verdict.status == "incorrect", verdict.detail


async def test_bytes_that_are_no_frame_end_the_candidate_only() -> None:
    for junk in (b"\xff" * 8, b"\0\0\0\x02no", b"\0"):
        program = f"{FORGERY}everywhere({junk!r})\nos._exit(0)\ndef double(x): return 4\n"
        assert (await judge(function(([2], 4)), program)).status == "incorrect"
        assert (await judge(asserts(CHECK), program)).status == "incorrect"


class Flaky(PlainSandbox):
    """Fails the first so many runs."""

    def __init__(self, num_failures: int) -> None:
        super().__init__()
        self.left = num_failures

    async def run(self, *args: Any, **more: Any) -> Any:
        self.left -= 1
        if self.left >= 0:
            raise SandboxError("a container died")
        return await super().run(*args, **more)


async def test_a_sandbox_that_fails_us_is_tried_again_and_then_our_fault() -> None:
    tests = function(([2], 4))
    pools = Pools(candidates=Flaky(1), judges=PlainSandbox())
    assert (await judge(tests, DOUBLE, pools=pools)).status == "correct"
    pools = Pools(candidates=Flaky(9), judges=PlainSandbox())
    verdict = await judge(tests, DOUBLE, pools=pools)
    assert verdict.status == "error" and verdict.detail == {"reason": "a container died"}


async def test_limits_no_program_or_no_sandbox_can_live_with() -> None:
    for memory_mb in (1, 10**6):
        verdict = await judge(function(([2], 4), memory_mb=memory_mb), DOUBLE)
        assert verdict.status == "error" and "memory_mb" in verdict.detail["reason"]
    with pytest.raises(VerifierLoadError, match="memory_mb"):
        CodeVerifier(memory_mb=1)
    with pytest.raises(VerifierLoadError, match="extract"):
        CodeVerifier(extract="guess")  # type: ignore[arg-type]
    with pytest.raises(VerifierLoadError, match="stop_early"):
        CodeVerifier(partial_credit=True, stop_early=True)


async def test_printing_too_much_is_over_the_limit_even_with_the_right_value() -> None:
    program = "def double(x):\n    print('x' * 5000)\n    return 2 * x"
    for tests in (function(([2], 4)), asserts(CHECK)):
        verdict = await judge({**tests, "output_bytes": 1000}, program)
        assert verdict.status == "limit" and verdict.detail["outcomes"] == ["output_limit"]
