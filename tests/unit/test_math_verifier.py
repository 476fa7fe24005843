"""The verifier's statuses, details and policies, where no worker process is needed."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from verifiers import Problem, Status
from verifiers.mathematics import MathVerifier


def problem(gold: str | None) -> Problem:
    return Problem(id="p", prompt="", verifier="math", answer=gold)


@pytest.mark.parametrize(
    ("gold", "completion", "status"),
    [
        ("42", "\\boxed{42}", Status.CORRECT),
        ("42", "\\boxed{41}", Status.INCORRECT),
        ("42", "I do not know.", Status.NO_ANSWER),
        ("42", "", Status.NO_ANSWER),
        ("42", "\\boxed{1}\\boxed{2}\\boxed{42}", Status.NO_ANSWER),
        ("42", "\\boxed{9^{9^{9}}}", Status.LIMIT),
        ("42", "\\boxed{" + "(" * 3_000 + "}", Status.LIMIT),
        ("", "\\boxed{42}", Status.ERROR),
        (None, "\\boxed{42}", Status.ERROR),
        ("nan", "nan", Status.ERROR),
        ("\\frac{1}{", "\\boxed{\\frac{1}{}", Status.ERROR),
        ("9" * 3_000, "\\boxed{1}", Status.ERROR),
        ("Tom had 3.\n#### 18", "#### 18", Status.CORRECT),
        ("$\\boxed{\\frac12}$", "0.5", Status.CORRECT),
    ],
)
def test_statuses_that_need_no_worker(gold: str | None, completion: str, status: Status) -> None:
    verifier = MathVerifier()
    verdict = verifier.judge(problem(gold), completion)
    assert verdict.status is status
    assert (verdict.reward is None) is (status is Status.ERROR)
    assert not verifier.pids()


def test_detail_says_what_was_extracted_and_by_which_rule() -> None:
    detail = MathVerifier().judge(problem("42"), "So \\boxed{41}.").detail
    assert detail == {"extracted": "41", "rule": "boxed", "settled": "exact"}


def test_a_gold_that_cannot_be_used_is_named() -> None:
    reason = MathVerifier().judge(problem("\\frac{1}{"), "1").detail["reason"]
    assert "'p'" in reason and "\\frac{1}{" in reason


def test_policies() -> None:
    assert MathVerifier().judge(problem("42"), "\\boxed{6\\times 7}").status is Status.INCORRECT
    lenient = MathVerifier(allow_unevaluated=True)
    assert lenient.judge(problem("42"), "\\boxed{6\\times 7}").status is Status.CORRECT
    text = "That makes 42 eggs."
    assert MathVerifier().judge(problem("42"), text).status is Status.CORRECT
    strict = MathVerifier(last_number=False)
    assert strict.judge(problem("42"), text).status is Status.NO_ANSWER
    with pytest.raises(ValueError, match="timeout_s"):
        MathVerifier(timeout_s=0)


def test_the_registry_takes_it_for_an_async_verifier() -> None:
    assert inspect.iscoroutinefunction(MathVerifier.verify)


def test_loading_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, verifiers.mathematics as m; from verifiers import Problem; "
        "p = Problem(id='p', prompt='', verifier='math', answer='0.5'); "
        "assert m.MathVerifier().judge(p, r'\\boxed{\\frac12}').reward == 1; "
        "print(sorted({'sympy', 'mpmath', 'math_verify'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
