"""A problem's `tests`, checked: what is wrong with them is found before anything runs.

Three kinds (docs/code_verifier.md has examples)::

    {"kind": "stdio", "language", "cases": [{"stdin", "stdout"}], "compare", "float_tolerance",
     "checker": {"language", "code"}}
    {"kind": "function", "entry_point", "cases": [{"args", "kwargs", "expected"}], "process",
     "float_tolerance", "exact_types"}
    {"kind": "assert", "entry_point", "code", "setup", "mutation"}

and the limits `time_s`, `wall_s`, `memory_mb`, `output_bytes`, `processes`, beside these or in an
object `limits`. Unknown keys are left alone (data sets carry more), unless they look like a known
one misspelt.
"""

from __future__ import annotations

import ast
import builtins
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from verifiers.code_languages import LANGUAGES, Language, find
from verifiers.code_values import Tree, from_json
from verifiers.shims.values import UnsupportedValue

LIMITS = ("time_s", "wall_s", "memory_mb", "output_bytes", "processes")
KEYS = {
    "stdio": ("kind", "language", "cases", "compare", "float_tolerance", "checker", "limits"),
    "function": (
        *("kind", "language", "entry_point", "cases", "process", "float_tolerance"),
        *("exact_types", "mutation", "limits"),
    ),
    "assert": ("kind", "language", "entry_point", "code", "setup", "mutation", "limits"),
}
CASE_KEYS = {"stdio": ("stdin", "stdout"), "function": ("args", "kwargs", "expected")}


class TestsError(ValueError):
    """A problem's tests are malformed: our fault, never the completion's. The message names the
    field."""

    __test__ = False  # not a test class, whatever pytest thinks of the name


@dataclass(frozen=True, slots=True, kw_only=True)
class Checker:
    """A trusted program that judges an output: `checker INPUT OUTPUT ANSWER` (three files)."""

    language: Language
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StdioCase:
    stdin: bytes
    stdout: bytes | None
    """Null only where a checker judges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StdioTests:
    language: Language
    cases: tuple[StdioCase, ...]
    compare: Literal["tokens", "lines", "exact"]
    float_tolerance: float
    checker: Checker | None
    limits: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionCase:
    args: Tree
    """Wire form of the list of positional arguments."""
    kwargs: Tree
    expected: Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionTests:
    entry_point: str
    cases: tuple[FunctionCase, ...]
    process: Literal["case", "submission"]
    """A fresh process for each case, or one for all of them."""
    float_tolerance: float
    exact_types: bool
    mutation: str
    limits: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class AssertTests:
    entry_point: str
    code: str
    setup: str
    helpers: tuple[str, ...]
    """Names that the code uses and nothing trusted defines: functions of the candidate, if it has
    them, else a mistake in the tests."""
    mutation: str
    limits: Mapping[str, float]


Tests = StdioTests | FunctionTests | AssertTests


def parse_tests(tests: Mapping[str, Any] | None, *, prelude: str = "") -> Tests:
    """Check a problem's tests.

    Args:
        prelude: trusted code of the prompt, which assert tests may use.

    Raises:
        TestsError: naming the field that is missing or wrong.
    """
    if not tests:
        raise TestsError("the problem has no tests; the code verifier needs problem.tests")
    kind = tests.get("kind")
    if not isinstance(kind, str) or kind not in KEYS:
        raise TestsError(f"tests.kind is {kind!r}; known: {', '.join(KEYS)}")
    _check_keys(tests, (*KEYS[kind], *LIMITS), "tests")
    language = _language(tests, "tests", default="python")
    limits = _limits(tests)
    if kind == "stdio":
        return _stdio(tests, language, limits)
    if language.name != "python":
        raise TestsError(
            f"tests.kind {kind!r} is for Python, tests.language is {language.name!r}; use stdio"
        )
    mutation = _choice(tests, "mutation", ("auto", "always", "never"))
    entry_point = _text(tests, "entry_point", "tests")
    if not all(part.isidentifier() for part in entry_point.split(".")):
        raise TestsError(f"tests.entry_point is {entry_point!r}, no name of a function")
    if kind == "assert":
        if isinstance(tests.get("code"), list):  # MBPP's `test_list`
            tests = {**tests, "code": "\n".join(map(str, tests["code"]))}
        code, setup = _text(tests, "code", "tests"), tests.get("setup") or ""
        if not isinstance(setup, str):
            raise TestsError(f"tests.setup is {type(setup).__name__}, expected text")
        return AssertTests(
            entry_point=entry_point,
            code=code,
            setup=setup,
            helpers=_helpers(code, setup, prelude, entry_point),
            mutation=mutation,
            limits=limits,
        )
    cases = [
        _function_case(case, f"tests.cases[{number}]")
        for number, case in enumerate(_cases(tests, kind))
    ]
    return FunctionTests(
        entry_point=entry_point,
        cases=tuple(cases),
        process=_choice(tests, "process", ("case", "submission")),
        float_tolerance=_tolerance(tests),
        exact_types=_flag(tests, "exact_types"),
        mutation=mutation,
        limits=limits,
    )


def _stdio(tests: Mapping[str, Any], language: Language, limits: Mapping[str, float]) -> StdioTests:
    checker = None
    if tests.get("checker") is not None:
        source = tests["checker"]
        if not isinstance(source, dict):
            raise TestsError(f"tests.checker is {type(source).__name__}, expected an object")
        checker = Checker(
            language=_language(source, "tests.checker", default="python"),
            code=_text(source, "code", "tests.checker"),
        )
        if checker.language.name == "python":
            _parse(checker.code, "tests.checker.code")
    cases: list[StdioCase] = []
    for number, case in enumerate(_cases(tests, "stdio")):
        where = f"tests.cases[{number}]"
        stdin, stdout = case.get("stdin", ""), case.get("stdout")
        if not isinstance(stdin, str):
            raise TestsError(f"{where}.stdin is {type(stdin).__name__}, expected text")
        if not isinstance(stdout, str) and (checker is None or stdout is not None):
            raise TestsError(f"{where}.stdout is {type(stdout).__name__}, expected text")
        cases.append(
            StdioCase(stdin=_utf8(stdin), stdout=_utf8(stdout) if isinstance(stdout, str) else None)
        )
    return StdioTests(
        language=language,
        cases=tuple(cases),
        compare=_choice(tests, "compare", ("tokens", "lines", "exact")),
        float_tolerance=_tolerance(tests),
        checker=checker,
        limits=limits,
    )


def _function_case(case: Mapping[str, Any], where: str) -> FunctionCase:
    args, kwargs = case.get("args", []), case.get("kwargs") or {}
    if not isinstance(args, list):
        raise TestsError(f"{where}.args is {type(args).__name__}, expected a list")
    if not isinstance(kwargs, dict):
        raise TestsError(f"{where}.kwargs is {type(kwargs).__name__}, expected an object")
    if "expected" not in case:
        raise TestsError(f"{where}.expected is missing")
    try:
        pairs = [part for name, value in kwargs.items() for part in (name, from_json(value))]
        return FunctionCase(
            args=from_json(args), kwargs=["d", *pairs], expected=from_json(case["expected"])
        )
    except (ValueError, UnsupportedValue) as error:
        raise TestsError(f"{where}: {error}") from error


def _cases(tests: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    cases = tests.get("cases")
    if not isinstance(cases, list) or not cases:
        found = "empty" if cases == [] else f"{type(cases).__name__}"
        raise TestsError(f"tests.cases is {found}, expected a list of at least one case")
    for number, case in enumerate(cases):
        if not isinstance(case, dict):
            raise TestsError(
                f"tests.cases[{number}] is {type(case).__name__}, expected an object with "
                f"{', '.join(CASE_KEYS[kind])}"
            )
        _check_keys(case, CASE_KEYS[kind], f"tests.cases[{number}]")
    return cases


def _limits(tests: Mapping[str, Any]) -> dict[str, float]:
    inner = {} if tests.get("limits") is None else tests["limits"]
    if not isinstance(inner, dict):
        raise TestsError(f"tests.limits is {type(inner).__name__}, expected an object")
    _check_keys(inner, LIMITS, "tests.limits")
    limits: dict[str, float] = {}
    for name in LIMITS:
        value = inner.get(name, tests.get(name))
        if value is None:
            continue
        where = f"tests.limits.{name}" if name in inner else f"tests.{name}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TestsError(f"{where} is {type(value).__name__}, expected a number")
        if not math.isfinite(value) or value <= 0:
            raise TestsError(f"{where} is {value}, expected a number above 0")
        limits[name] = value
    return limits


def _language(source: Mapping[str, Any], where: str, *, default: str) -> Language:
    name = source.get("language") or default
    language = find(name) if isinstance(name, str) else None
    if language is None:
        raise TestsError(f"{where}.language is {name!r}; known: {', '.join(LANGUAGES)}")
    return language


def _text(source: Mapping[str, Any], name: str, where: str) -> str:
    value = source.get(name)
    if not isinstance(value, str) or not value.strip():
        found = "missing" if value is None else f"{type(value).__name__} {value!r:.60}"
        raise TestsError(f"{where}.{name} is {found}, expected a non-empty text")
    return value


def _choice(tests: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> Any:
    value = tests.get(name) or choices[0]
    if value not in choices:
        raise TestsError(f"tests.{name} is {value!r}; known: {', '.join(choices)}")
    return value


def _flag(tests: Mapping[str, Any], name: str) -> bool:
    value = tests.get(name) or False
    if not isinstance(value, bool):
        raise TestsError(f"tests.{name} is {value!r}, expected true or false")
    return value


def _tolerance(tests: Mapping[str, Any]) -> float:
    value = tests.get("float_tolerance") or 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise TestsError(f"tests.float_tolerance is {value!r}, expected a number in [0, 1)")
    return float(value)


def _check_keys(source: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in source:
        near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.85)
        if near and key not in known:
            raise TestsError(f"{where} has the key {key!r}; did you mean {near[0]!r}?")


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _parse(code: str, where: str) -> ast.Module:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise TestsError(f"{where} is not valid Python: {type(error).__name__}: {error}") from error


_NAMED = ast.ExceptHandler | ast.MatchAs | ast.MatchStar


def _helpers(code: str, setup: str, prelude: str, entry_point: str) -> tuple[str, ...]:
    """Names that are used, defined nowhere and not built in.

    HumanEval/38 tests `decode_cyclic` with `encode_cyclic`, which the prompt defines; where a data
    set leaves the prompt out, only the candidate has it.
    """
    used: set[str] = set()
    bound = {entry_point, "candidate", *dir(builtins)}
    where = ("the prompt's code", "tests.setup", "tests.code")
    for text, place in zip((prelude, setup, code), where, strict=True):
        for node in ast.walk(_parse(text, place)):
            if isinstance(node, ast.Name):
                (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                bound.add(node.name)
            elif isinstance(node, ast.arg):
                bound.add(node.arg)
            elif isinstance(node, ast.alias):
                bound.add((node.asname or node.name).partition(".")[0])
            elif isinstance(node, _NAMED) and node.name:
                bound.add(node.name)
    return tuple(sorted(used - bound))
