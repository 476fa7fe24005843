"""Identities by sampling: near-identities, cancellation, domains, known functions."""

from __future__ import annotations

import pytest

from verifiers.mathematics.answer import read
from verifiers.mathematics.compare import same_answer
from verifiers.mathematics.expr import TooLarge
from verifiers.mathematics.numeric import NumericOracle


def same(gold: str, answer: str) -> bool:
    return same_answer(read(gold), read(answer), NumericOracle(), allow_calculation=True)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("\\sqrt{5+2\\sqrt{6}}", "\\sqrt{2}+\\sqrt{3}"),
        ("\\sin 2x", "2\\sin x\\cos x"),
        ("\\ln(ab)", "\\ln a+\\ln b"),
        ("|x|", "\\sqrt{x^2}"),
        ("\\frac{x^9-1}{x-1}", "x^8+x^7+x^6+x^5+x^4+x^3+x^2+x+1"),
        ("e^{i\\pi/3}", "\\frac12+\\frac{\\sqrt3}{2}i"),
        ("0", "\\sqrt{8}-2\\sqrt{2}"),
        ("2x+4y-3=0", "y=-\\frac12x+\\frac34"),
        ("y>2x+1", "-y<-2x-1"),
        ("f(x+1)", "f(1+x)"),
        ("4.123105625617661", "\\sqrt{17}"),
        ("\\frac{\\pi}{4}", "\\arctan 1"),
        ("1+\\pi", "10^{200}+\\pi-10^{200}+1"),
    ],
)
def test_equal_both_ways(gold: str, answer: str) -> None:
    assert same(gold, answer) and same(answer, gold)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("640320^3+744", "e^{\\pi\\sqrt{163}}"),
        ("1+\\pi", "1+\\pi+10^{-50}"),
        ("0", "\\pi\\cdot 10^{-80}"),
        ("\\sqrt{2}", "10^{200}+\\sqrt2-10^{200}+10^{-90}"),
        ("x", "\\sqrt{x^2}"),
        ("f(x)+f(1)", "f(x+1)"),
        ("x+y", "x+z"),
        ("y>2x+1", "y<2x+1"),
        ("x^2+y^2=4", "x^2+y^2=2"),
        ("2\\sin b\\cos a", "2\\sin a\\cos b"),
        ("\\ln x", "\\log x"),
        ("\\frac{1}{x}-\\frac{1}{x}", "\\frac{1}{0}"),
        ("\\frac{1}{2004!}", "\\frac{1}{2006!}"),
        ("(-2,2)", "x^2\\le 4"),
    ],
)
def test_different_both_ways(gold: str, answer: str) -> None:
    assert not same(gold, answer) and not same(answer, gold)


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("x^2<4", "(-2,2)"),
        ("|x-1|\\ge 3", "(-\\infty,-2]\\cup[4,\\infty)"),
        ("x^2 < 3", "(-\\sqrt{3}, \\sqrt{3})"),
        ("\\frac{1}{x} > 0", "(0,\\infty)"),
    ],
)
def test_inequalities_that_are_not_linear(text: str, interval: str) -> None:
    assert same(text, interval) and same(interval, text)


@pytest.mark.parametrize("text", ["\\pi^{10^{10}}", "\\sin(10^{999})", "e^{e^{e^{e^{e}}}}"])
def test_values_that_are_too_large(text: str) -> None:
    with pytest.raises(TooLarge):
        same("\\pi", text)
