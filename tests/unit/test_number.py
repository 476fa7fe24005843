from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifiers.number import MAX_NUMBER_CHARS, NumberVerifier, extract, parse_number
from verifiers.problem import Problem
from verifiers.verdict import Status


def judge(gold: str | None, completion: str, *, strict: bool = False) -> Status:
    problem = Problem(id="p", prompt="?", verifier="number", answer=gold)
    return NumberVerifier(strict=strict).verify(problem, completion).status


@pytest.mark.parametrize(
    ("completion", "rule", "text"),
    [
        (r"It is 4. #### 5 \boxed{6}, so the answer is 7", "boxed", "6"),
        (r"\boxed{1} no, \boxed{2}", "boxed", "2"),
        (r"\boxed{\frac{1}{2}}", "boxed", "1/2"),
        (r"\boxed{18 \text{ dollars}}", "boxed", "18"),
        ("#### 5\nThe answer is 7", "hashes", "5"),
        ("#### $1,234 dollars", "hashes", "$1,234"),
        ("#### 1. First step\nThe answer is 7.", "answer is", "7"),
        ("#### Step 2: add\nThe answer is 7.", "answer is", "7"),
        ("**Answer:** 18 apples and 2 pears", "answer is", "18"),
        ("The answer is 3 + 4 = 7.\nI used 2 steps.", "answer is", "7"),
        ("The answer is x = -3", "answer is", "-3"),
        ("The answer is clear.\n2 and 3", "last number", "3"),
        ("First 10, then 10-3", "last number", "3"),
        ("it costs -$5.", "last number", "-$5"),
        ("<think>\\boxed{9}</think>It is 4", "last number", "4"),
        ("prefilled thinking 9</think>It is 4", "last number", "4"),
        (r"\boxed{4", "last number", "4"),
    ],
)
def test_extraction_order(completion: str, rule: str, text: str) -> None:
    assert extract(completion) == (rule, text)


@pytest.mark.parametrize("completion", ["", "no digits here", "<think> it is 5", r"\boxed{}", "x5"])
def test_nothing_to_extract(completion: str) -> None:
    assert judge("5", completion) is Status.NO_ANSWER


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3.0", 3), ("007", 7), ("+5", 5), ("-5", -5), ("\N{MINUS SIGN}5", -5),
        ("\N{EN DASH}5", -5), ("1,234", 1234), ("1,234,567.5", "1234567.5"), (r"10,\!000", 10000),
        ("1{,}234", 1234), ("$5", 5), ("-$5", -5), ("$-5", -5), ("5 €", 5), (r"\$5", 5),
        ("50%", 50), (r"50\%", 50), ("1e3", 1000), ("2.5E-1", "1/4"), (".5", "1/2"), ("1/2", "1/2"),
        (r"-\dfrac{3}{4}", "-3/4"), ("18.", 18), ("-0", 0),
    ],
)  # fmt: skip
def test_numbers(text: str, value: int | str) -> None:
    assert parse_number(text) == Fraction(value)


@pytest.mark.parametrize(
    "text",
    ["1,23", "12,34,567", "0,123", "1,2345", ",5", "1 234", "1.2.3", "1/0", "1/2/3", "--5", "-$-5",
     "5 apples", "2x", "3+4", "1, 2", "", "e5", "nan", "inf", "0x10", "1_000", "٣",
     "\N{FULLWIDTH DIGIT ONE}", "1e1001", "1e-999999999", "9" * (MAX_NUMBER_CHARS + 1), r"2\pi"],
)  # fmt: skip
def test_not_numbers(text: str) -> None:
    assert parse_number(text) is None


@pytest.mark.parametrize(
    ("gold", "completion", "status"),
    [
        ("1234", "1,234", Status.CORRECT),
        ("1,234", "1234.00", Status.CORRECT),
        ("0.5", r"\boxed{\frac{2}{4}}", Status.CORRECT),
        ("50", "50%", Status.CORRECT),
        ("0.5", "50%", Status.INCORRECT),
        ("123", "1,23", Status.INCORRECT),
        ("2", r"\boxed{2\pi}", Status.INCORRECT),
        ("2", r"\boxed{1, 2}", Status.INCORRECT),
        ("2", "1 2 3", Status.INCORRECT),
        ("9007199254740993", "9007199254740992", Status.INCORRECT),  # equal as floats
        ("0.1", "0.1000000000000000055511151231257827", Status.INCORRECT),
        ("1/3", "0.3333333333333333", Status.INCORRECT),
        ("5", "9" * 100_000, Status.INCORRECT),
        ("5", "1e999999999", Status.INCORRECT),
    ],
)
def test_verdicts(gold: str, completion: str, status: Status) -> None:
    assert judge(gold, completion) is status


@pytest.mark.parametrize("gold", [None, "", "five", "x = 5", "1,23", "reasoning\n#### 5"])
def test_an_unparseable_gold_is_our_fault(gold: str | None) -> None:
    assert judge(gold, "5") is Status.ERROR


@pytest.mark.parametrize(
    ("completion", "status"),
    [
        (" 5\n", Status.CORRECT),
        ("5.0", Status.CORRECT),
        ("6", Status.INCORRECT),
        ("The answer is 5", Status.NO_ANSWER),
        ("5 5", Status.NO_ANSWER),
        ("", Status.NO_ANSWER),
    ],
)
def test_strict_wants_the_number_only(completion: str, status: Status) -> None:
    assert judge("5", completion, strict=True) is status


@given(st.integers(-(10**30), 10**30))
def test_every_spelling_of_an_integer_is_equal(number: int) -> None:
    for spelling in (str(number), f"{number:,}", f"{number}.00", f"{number:,}.0", f"{number}%"):
        assert judge(str(number), f"So the answer is {spelling}.") is Status.CORRECT
        assert judge(spelling, rf"\boxed{{{number}}}") is Status.CORRECT
        assert judge(str(number + 1), spelling) is Status.INCORRECT


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-1e9, max_value=1e9))
def test_values_agree_with_decimal(number: Decimal) -> None:
    assert parse_number(f"{number:f}") == Fraction(number)
    assert parse_number(f"{number:,f}") == Fraction(number)


@given(st.text(alphabet="0123456789.,-+/$%eE{}\\# \nboxedanswr is<>", max_size=200))
def test_any_text_gets_a_verdict_that_is_no_error(completion: str) -> None:
    assert judge("5", completion) is not Status.ERROR


@pytest.mark.parametrize(
    "piece", ["\\boxed{", "1,", "1", "answer is ", "####", "-", "\\frac{", "1.", "1/", "$", " "]
)
def test_hostile_text_costs_linear_time(piece: str) -> None:
    # A quadratic pattern would need minutes for these, and the suite's timeout would say so.
    completion = piece * (200_000 // len(piece))
    judge("5", completion)
    judge("5", completion + "x", strict=True)
    judge("5", "\\boxed{" + completion + "}")
