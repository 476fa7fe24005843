"""Malformed tests are found before anything runs, and the message names the field."""

from __future__ import annotations

from typing import Any

import pytest

from verifiers.code_tests import (
    AssertTests,
    FunctionTests,
    StdioTests,
    TestsError,
    parse_tests,
)

STDIO = {"kind": "stdio", "cases": [{"stdin": "1", "stdout": "2"}]}
FUNCTION = {"kind": "function", "entry_point": "f", "cases": [{"args": [1], "expected": 2}]}
ASSERT = {"kind": "assert", "entry_point": "f", "code": "assert f(1) == 2"}


@pytest.mark.parametrize(
    ("tests", "field"),
    [
        (None, "problem.tests"),
        ({}, "problem.tests"),
        ({"kind": "magic"}, "tests.kind"),
        ({"cases": []}, "tests.kind"),
        ({**STDIO, "language": "cobol"}, "tests.language"),
        ({**STDIO, "language": 3}, "tests.language"),
        ({**STDIO, "cases": []}, "tests.cases"),
        ({**STDIO, "cases": {}}, "tests.cases"),
        ({"kind": "stdio"}, "tests.cases"),
        ({**STDIO, "cases": ["1"]}, r"tests.cases\[0\]"),
        ({**STDIO, "cases": [{"stdin": 1, "stdout": ""}]}, r"tests.cases\[0\].stdin"),
        ({**STDIO, "cases": [{"stdin": ""}]}, r"tests.cases\[0\].stdout"),
        ({**STDIO, "cases": [{"stdn": "", "stdout": ""}]}, "did you mean 'stdin'"),
        ({**STDIO, "compare": "fuzzy"}, "tests.compare"),
        ({**STDIO, "float_tolerance": -1}, "tests.float_tolerance"),
        ({**STDIO, "float_tolerance": True}, "tests.float_tolerance"),
        ({**STDIO, "float_tolerence": 0.1}, "did you mean 'float_tolerance'"),
        ({**STDIO, "time_s": "2"}, "tests.time_s"),
        ({**STDIO, "time_s": float("nan")}, "tests.time_s"),
        ({**STDIO, "limits": {"memory_mb": 0}}, "tests.limits.memory_mb"),
        ({**STDIO, "limits": []}, "tests.limits"),
        ({**STDIO, "checker": "print(1)"}, "tests.checker"),
        ({**STDIO, "checker": {"code": "def ("}}, "tests.checker.code"),
        ({**STDIO, "checker": {}}, "tests.checker.code"),
        ({**FUNCTION, "entry_point": ""}, "tests.entry_point"),
        ({**FUNCTION, "entry_point": "f()"}, "tests.entry_point"),
        ({**FUNCTION, "cases": [{"args": 1, "expected": 2}]}, r"tests.cases\[0\].args"),
        ({**FUNCTION, "cases": [{"args": []}]}, r"tests.cases\[0\].expected"),
        ({**FUNCTION, "cases": [{"expected": {"__x__": 1}}]}, r"tests.cases\[0\]"),
        ({**FUNCTION, "process": "thread"}, "tests.process"),
        ({**FUNCTION, "exact_types": "yes"}, "tests.exact_types"),
        ({**FUNCTION, "language": "cpp"}, "tests.language"),
        ({**ASSERT, "code": ""}, "tests.code"),
        ({**ASSERT, "code": "assert ("}, "tests.code"),
        ({**ASSERT, "setup": "import ("}, "tests.setup"),
        ({**ASSERT, "setup": 1}, "tests.setup"),
        ({"kind": "assert", "code": "x"}, "tests.entry_point"),
    ],
)
def test_malformed(tests: Any, field: str) -> None:
    with pytest.raises(TestsError, match=field):
        parse_tests(tests)


def test_limits_stand_beside_the_tests_or_in_an_object() -> None:
    beside = parse_tests({**STDIO, "time_s": 2, "memory_mb": 64})
    inside = parse_tests({**STDIO, "limits": {"time_s": 2, "memory_mb": 64}})
    assert beside.limits == inside.limits == {"time_s": 2, "memory_mb": 64}


def test_defaults() -> None:
    stdio, function = parse_tests(STDIO), parse_tests(FUNCTION)
    assert isinstance(stdio, StdioTests) and stdio.language.name == "python"
    assert stdio.compare == "tokens" and stdio.checker is None
    assert isinstance(function, FunctionTests) and function.process == "case"


def test_names_of_languages() -> None:
    for name, language in (("C++", "cpp"), ("Python3", "python"), ("c", "c")):
        tests = parse_tests({**STDIO, "language": name})
        assert isinstance(tests, StdioTests) and tests.language.name == language


def test_a_checker_needs_no_expected_output() -> None:
    tests = parse_tests({**STDIO, "cases": [{"stdin": "1"}], "checker": {"code": "pass"}})
    assert isinstance(tests, StdioTests) and tests.cases[0].stdout is None


def test_helpers_are_names_that_nothing_trusted_defines() -> None:
    code = (
        "def check(candidate):\n    for x in range(3):\n        assert candidate(enc(x)) == dec(x)"
    )
    alone = parse_tests({**ASSERT, "code": code})
    assert isinstance(alone, AssertTests) and alone.helpers == ("dec", "enc")
    known = parse_tests({**ASSERT, "code": code, "setup": "from m import dec"}, prelude="enc = 1")
    assert isinstance(known, AssertTests) and known.helpers == ()


def test_unknown_keys_are_left_alone() -> None:
    parse_tests({**STDIO, "source": "somewhere", "difficulty": 3})
