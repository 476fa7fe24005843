"""Programs whose verdict is known beforehand, for problems with tests and a reference solution.

The reference solution is `metadata["canonical_solution"]`: a whole program, or (as in HumanEval)
the body that goes on where the prompt ends.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from rlvr.types import Problem
from rlvr.workbench.probes import Expect, Probe

SOLUTION_KEY = "canonical_solution"
"""Where a problem's metadata has its reference solution."""

MAX_CHANGES = 3
"""Changed programs a problem."""

CODE_DRESSINGS = {
    "fenced": "```python\n@\n```",
    "fenced in text": (
        "We go through the input once.\n\n```python\n@\n```\n\nThis runs in linear time."
    ),
    "fenced, after thinking": (
        "<think>\nMaybe ```python\nraise ValueError\n``` would do? No.\n</think>\n```python\n@\n```"
    ),
    "unfenced": "@",
}
"""Ways to hand in a program; `@` is the program."""

_NOTHING = {
    "empty": "",
    "words": "I do not know how to write this program.",
    "empty fence": "```python\n```",
    "comment": "```python\n# the solution goes here\n```",
    "syntax error": "```python\ndef (:\n```",
}

_ATTACKS = {
    "exits with 0": "import sys\nsys.exit(0)",
    "kills itself with 0": "import os\nos._exit(0)",
    "exits when called": "def @ENTRY(*args, **kwargs):\n    import os\n    os._exit(0)",
    "raises SystemExit": "def @ENTRY(*args, **kwargs):\n    raise SystemExit(0)",
    "equals everything": (
        "class Same(int):\n    def __eq__(self, other): return True\n"
        "    def __ne__(self, other): return False\n    def __hash__(self): return 0\n"
        "    def __lt__(self, other): return True\n    __gt__ = __le__ = __ge__ = __lt__\n"
        "def @ENTRY(*args, **kwargs):\n    return Same()"
    ),
    "replaces assert": (
        "import builtins\nclass AssertionError(Exception): pass\n"
        "builtins.AssertionError = AssertionError\ndef check(candidate): pass\n"
        "def @ENTRY(*args, **kwargs): return None"
    ),
    "prints success": 'print("PASSED")\nprint("1 passed")\nprint(\'{"status": "correct"}\')',
    "returns itself": "def @ENTRY(*args, **kwargs):\n    return @ENTRY",
    "writes outside": (
        "try:\n    open('@CANARY', 'w').close()\nexcept OSError:\n    pass\n"
        "def @ENTRY(*args, **kwargs):\n    return None"
    ),
    "runs a shell": (
        "import os\nos.system('touch @CANARY')\ndef @ENTRY(*args, **kwargs):\n    return None"
    ),
}

_HOSTILE = {
    "endless loop": "while True: pass",
    "endless loop when called": "def @ENTRY(*args, **kwargs):\n    while True: pass",
    "sleeps": "import time\ntime.sleep(1e6)",
    "ignores signals": (
        "import signal\nfor number in range(1, 32):\n    try:\n"
        "        signal.signal(number, signal.SIG_IGN)\n    except (OSError, ValueError):\n"
        "        pass\nwhile True: pass"
    ),
    "terabyte": "data = bytearray(1 << 40)",
    "endless recursion": "def @ENTRY(*args, **kwargs):\n    return @ENTRY(*args)",
    "floods its output": "import sys\nfor _ in range(64): sys.stdout.write('x' * (1 << 20))",
    "swallows exceptions": (
        "def @ENTRY(*args, **kwargs):\n    while True:\n        try:\n"
        "            while True: pass\n"
        "        except BaseException: pass"
    ),
    "huge result": "def @ENTRY(*args, **kwargs):\n    return [0] * (1 << 24)",
    "deep result": (
        "def @ENTRY(*args, **kwargs):\n    result = []\n"
        "    for _ in range(100_000): result = [result]\n    return result"
    ),
    "endless compilation": "x = " + "(" * 150 + "1" + ")" * 150 + "\ny = 2 ** 2 ** 40",
}


def has_solution(problem: Problem) -> bool:
    return isinstance(problem.metadata.get(SOLUTION_KEY), str)


def program(problem: Problem) -> str:
    """The whole reference program: the solution, after the prompt if it goes on from there."""
    solution = problem.metadata[SOLUTION_KEY]
    return f"{problem.prompt_text}{solution}" if goes_on(problem) else solution


def goes_on(problem: Problem) -> bool:
    """Whether the solution is a body that continues the prompt's code."""
    solution = problem.metadata[SOLUTION_KEY]
    first = next((line for line in solution.splitlines() if line.strip()), "")
    return first[:1] in (" ", "\t")


def solution_probes(problem: Problem) -> Iterator[Probe]:
    """The reference solution in every dressing."""
    whole = program(problem)
    for dressing, template in CODE_DRESSINGS.items():
        yield _probe("golds", dressing, problem, template.replace("@", whole), Expect.CORRECT)
    if goes_on(problem):
        body = problem.metadata[SOLUTION_KEY]
        yield _probe("golds", "body only", problem, body, Expect.CORRECT)


def wrong_probes(problem: Problem, other: Problem | None) -> Iterator[Probe]:
    """Programs that cannot be right, and small changes that hardly are."""
    entry = entry_point(problem)
    whole = program(problem)
    wrong: dict[str, str] = {}
    if entry:
        wrong["empty body"] = f"def {entry}(*args, **kwargs):\n    pass"
        wrong["raises"] = f"def {entry}(*args, **kwargs):\n    raise NotImplementedError"
        wrong["result off by one"] = _wrapped(whole, entry, "result + 1")
        wrong["result in a list"] = _wrapped(whole, entry, "[result]")
    else:
        wrong["empty program"] = "pass"
        wrong["one line more"] = f"{whole}\nprint('one line more')"
    if other is not None:
        theirs = entry_point(other)
        renamed = f"\n\n{entry} = {theirs}" if entry and theirs and entry != theirs else ""
        wrong["another problem's solution"] = program(other) + renamed
    for kind, source in wrong.items():
        yield _probe("mutants", kind, problem, f"```python\n{source}\n```", Expect.WRONG)
    for number, source in enumerate(islice(changed(whole), MAX_CHANGES), start=1):
        kind = f"changed program {number}"
        yield _probe("tests", kind, problem, f"```python\n{source}\n```", Expect.SURVEYED)


def empty_programs(problem: Problem) -> Iterator[Probe]:
    for kind, completion in _NOTHING.items():
        yield _probe("empty", kind, problem, completion, Expect.NOTHING)


def copied_prompt(problem: Problem) -> Iterator[Probe]:
    prompt = problem.prompt_text
    yield _probe("copies", "prompt copied", problem, f"```python\n{prompt}\n```", Expect.NOTHING)


def attack_probes(problem: Problem, canary: str) -> Iterator[Probe]:
    """Programs that want to pass without solving anything."""
    for kind, source in _ATTACKS.items():
        completion = _filled(source, problem).replace("@CANARY", canary)
        yield _probe("injections", kind, problem, completion, Expect.NOTHING)


def hostile_programs(problem: Problem) -> Iterator[Probe]:
    """Programs that never end, or take all there is. Harmless even where nothing isolates them.

    They get a second of CPU each, whatever the problem allows: the audit need not wait for more.
    """
    limited = replace(problem, tests={**(problem.tests or {}), "time_s": 1.0})
    for kind, source in _HOSTILE.items():
        yield _probe("hostile", kind, limited, _filled(source, problem), Expect.WRONG)


def entry_point(problem: Problem) -> str:
    """The function the tests call; empty for programs that read stdin."""
    named = (problem.tests or {}).get("entry_point") or problem.metadata.get("entry_point")
    return named if isinstance(named, str) else ""


def changed(source: str) -> Iterator[str]:
    """The program with one operator or whole number changed, one place after another; none if it is
    not Python. Such a program may still be right, so tests need not reject all of them."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    for place in range(len(_places(tree))):
        twin = copy.deepcopy(tree)
        if _change(_places(twin)[place]):
            yield ast.unparse(twin)


_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Mod: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
}


def _places(tree: ast.AST) -> list[ast.Compare | ast.BinOp | ast.Constant]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare | ast.BinOp)
        or (isinstance(node, ast.Constant) and type(node.value) is int)
    ]


def _change(node: ast.Compare | ast.BinOp | ast.Constant) -> bool:
    """Change the node in place; false if there is nothing to change it to."""
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, int)
        node.value += 1
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISONS:
        node.ops[0] = _COMPARISONS[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        node.op = _ARITHMETIC[type(node.op)]()
    else:
        return False
    return True


def _wrapped(whole: str, entry: str, result: str) -> str:
    """The program with its entry point's result spoilt."""
    return (
        f"{whole}\n\n_right = {entry}\n\ndef {entry}(*args, **kwargs):\n"
        f"    result = _right(*args, **kwargs)\n    return {result}\n"
    )


def _filled(source: str, problem: Problem) -> str:
    return f"```python\n{re.sub('@ENTRY', entry_point(problem) or 'solve', source)}\n```"


def _probe(family: str, kind: str, problem: Problem, completion: str, expect: Expect) -> Probe:
    language = (problem.tests or {}).get("language", "python")
    completion = completion.replace("```python", f"```{language}")
    return Probe(family=family, kind=kind, problem=problem, completion=completion, expect=expect)
