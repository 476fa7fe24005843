"""Reading: numbers, limits, and texts that must be refused."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verifiers.mathematics.answer import canonical, is_text, read, same_text
from verifiers.mathematics.clean import clean
from verifiers.mathematics.exact import rational
from verifiers.mathematics.expr import Expr, ParseError, TooLarge, Undefined, num
from verifiers.mathematics.parse import parse


def value(text: str) -> Fraction | None:
    return rational(parse(clean(text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\\dfrac12", Fraction(1, 2)),
        ("\\frac{1}2", Fraction(1, 2)),
        ("\\frac 59", Fraction(5, 9)),
        ("3\\frac{1}{2}", Fraction(7, 2)),
        ("-3 1/2", Fraction(-7, 2)),
        ("1,234,567", Fraction(1_234_567)),
        ("1{,}234", Fraction(1_234)),
        ("10,\\!080", Fraction(10_080)),
        ("1 000", Fraction(1_000)),
        ("0.\\overline{3}", Fraction(1, 3)),
        ("1.5\\times 10^{-3}", Fraction(3, 2_000)),
        ("2^{10}", Fraction(1_024)),
        ("2^10", Fraction(1_024)),
        ("\\sqrt{\\frac{4}{9}}", Fraction(2, 3)),
        ("\\sqrt[3]{27}", Fraction(3)),
        ("\\sqrt 2", None),
        ("-2^2", Fraction(-4)),
        ("--5", Fraction(5)),
        ("|{-3}|", Fraction(3)),
        ("4!", Fraction(24)),
        ("\\binom52", Fraction(10)),
        ("\uff11\uff12", Fraction(12)),
        ("\u22127", Fraction(-7)),
    ],
)
def test_numbers(text: str, expected: Fraction | None) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    "text",
    ["1 2", "11 6/6", "2\\frac{3}{2}", "nan", "undefined", "\\input{/etc/passwd}", "1+", "(1", "",
     "\\frac{1}{", "x^", "[1,2", "(1]", "\\text{B) 12}", "@", "1..2", "\\begin{matrix}1"],
)  # fmt: skip
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ParseError):
        parse(text)


@pytest.mark.parametrize(
    "text",
    ["(" * 3_000 + "1" + ")" * 3_000, "{" * 500 + "1" + "}" * 500, "9" * 500, "-" * 1_500 + "1",
     "1e999999999", "5" + "!" * 1_000, "1" + "/1" * 900, "1," * 900 + "1", "\\frac{1}{" * 300,
     "2^" * 900 + "2", "\\sin " * 300 + "1", "1" * 3_000],
)  # fmt: skip
def test_limits(text: str) -> None:
    with pytest.raises(TooLarge):
        parse(clean(text))


@pytest.mark.parametrize("text", ["9^{9^{9}}", "(10^{10})!", "99999^{99999}", "\\binom{9999}{99}"])
def test_large_values_are_not_computed(text: str) -> None:
    with pytest.raises(TooLarge):
        value(text)


@pytest.mark.parametrize("text", ["1/0", "0^0", "0^{-1}", "(-1)!", "\\frac{1}{1-1}"])
def test_undefined_values(text: str) -> None:
    with pytest.raises(Undefined):
        value(text)


def test_commas_are_thousands_outside_brackets_only() -> None:
    assert parse("1,234") == num(1_234)
    assert parse("(1,234)").head == "tuple"
    assert parse("1,23").head == "list"


def test_long_products_are_flat() -> None:
    product = parse("(x+1)" * 200)
    assert product.head == "mul" and len(product.args) == 200


SNIPPETS = st.sampled_from(
    ["1", "23", "x", "\\frac", "{", "}", "(", ")", "[", "]", "\\{", "\\}", ",", "^", "_", "\\sqrt",
     "+", "-", "\\pm", "=", "<", "\\le", "\\cup", "\\text{a}", "\\sin", "|", "!", "%", "°", "/",
     "\\begin{pmatrix}", "\\end{pmatrix}", "&", "\\\\", "$", ".", " ", "and", "\\infty", "cm", "e"]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(SNIPPETS, max_size=25).map("".join) | st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        answer = read(text)
    except TooLarge:
        return
    assert answer.expr is None or isinstance(answer.expr, Expr)


@given(st.fractions(max_denominator=10**6))
def test_fractions_read_back(fraction: Fraction) -> None:
    assert value(f"\\frac{{{fraction.numerator}}}{{{fraction.denominator}}}") == fraction
    assert value(f"{fraction.numerator}/{fraction.denominator}") == fraction


@given(st.integers())
def test_grouping_does_not_change_an_integer(number: int) -> None:
    assert value(f"{number:,}") == number
    assert value(f"{number:,}".replace(",", "{,}")) == number


@pytest.mark.parametrize(
    ("text", "unit", "amount"),
    [
        ("15\\mbox{ cm}^2", Fraction(1, 10_000), 15),
        ("5 km", Fraction(1_000), 5),
        ("\\$36", Fraction(1), 36),
        ("5.4 \\text{ cents}", Fraction(1, 100), Fraction(27, 5)),
        ("60 \\text{ km/h}", Fraction(5, 18), 60),
        ("12 eggs", None, 12),
        ("7", None, 7),
    ],
)
def test_units_are_split_off(text: str, unit: Fraction | None, amount: Fraction | int) -> None:
    answer = read(text)
    assert answer.expr is not None and rational(answer.expr) == amount
    assert (answer.unit.factor if answer.unit else None) == unit


def test_one_letter_is_a_variable_unless_told_otherwise() -> None:
    assert read("3m").unit is None
    unit = read("3m", letter_units=True).unit
    assert unit is not None and unit.dimension == (("length", 1),)


@pytest.mark.parametrize(
    ("gold", "text", "same"),
    [
        ("\\text{(C)}", "C", True),
        ("(C)", "\\textbf{(C)}\\ 12", True),
        ("C", "D", False),
        ("C", "Carla", False),
        ("yes", "Yes, it is.", True),
        ("no", "not yes", False),
        ("Evelyn", "\\text{evelyn}", True),
        ("ellipse", "an ellipse", True),
        ("Evelyn", "Evelyn or Carla", False),
    ],
)
def test_text_answers(gold: str, text: str, same: bool) -> None:
    assert is_text(read(gold))
    assert same_text(read(gold).text, text) is same


@pytest.mark.parametrize("text", ["x", "p - q", "\\cot x", "2k", "\\pi", "5", "(1,2)", "abc"])
def test_formulas_are_no_text(text: str) -> None:
    assert not is_text(read(text))


def test_canonical_spelling() -> None:
    assert canonical("\\sum_{k=1}^{n} k") == canonical("\\sum_{k=1}^n k")


@pytest.mark.parametrize("number", ["72", "1,234.50", "12,34"])
@pytest.mark.parametrize(
    "noun",
    ["", " eggs", " dollars", " miles", " percent", " million", " degrees", " sin", " nan", " and"],
)
@pytest.mark.parametrize("sign", ["", "$"])
def test_the_short_way_for_counts_reads_as_the_long_one(sign: str, number: str, noun: str) -> None:
    for letter_units in (False, True):
        short = read(f"{sign}{number}{noun}", letter_units=letter_units)
        long = read(f" {sign}{number}{noun} ", letter_units=letter_units)
        assert short == long
