"""Wrong answers made from golds, and the recognition of those that are not wrong after all."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.types import Problem
from rlvr.workbench.mutants import mutants
from rlvr.workbench.probes import DRESSINGS, dressed, gives_away
from rlvr.workbench.sameness import far_apart, may_be_same, values


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("18", "18.0"),
        ("1,234", "1234"),
        ("1/2", r"\frac{1}{2}"),
        (r"\frac12", "0.5"),
        (r"\dfrac{3}{3}", "1"),
        (r"11\sqrt2", r"\sqrt{242}"),
        ("x+1", "1+x"),
        ("(1,2)", "(2,1)"),
        ("x=5", "5"),
        (r"5 \text{ cm}", "5"),
        ("10 units", "10"),
        (r"90^\circ", "90"),
        ("\N{MINUS SIGN}3", "-3"),
        (r"2\cos(0)", "2"),
        (r"\sqrt[3]{8}", "2"),
        (r"\text{Evelyn}", "Evelyn"),
        ("0", "-0"),
    ],
)
def test_what_may_be_the_same_is_said_to_be(one: str, other: str):
    assert may_be_same(one, other) and may_be_same(other, one)
    assert not far_apart(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("18", "19"),
        ("1000000007", "1000000008"),
        ("100000000000000000000", "100000000000000000001"),
        (r"\frac{1}{2}", r"\frac{2}{1}"),
        ("x+1", "x-1"),
        (r"\sqrt{2}", r"\sqrt{3}"),
        ("y=2x+3", "y=2x+4"),
        ("(1,2)", "(1,3)"),
        ("(B)", "(C)"),
        ("52_8", "53_8"),
        (r"1 \pm \sqrt{19}", r"1 \pm \sqrt{91}"),
        ("Evelyn", "Carla"),
    ],
)
def test_what_is_different_is_said_to_be(one: str, other: str):
    assert not may_be_same(one, other) and not may_be_same(other, one)


def test_a_rounding_or_a_percent_sign_is_not_far_apart():
    assert not may_be_same("3.14", r"\pi") and not far_apart("3.14", r"\pi")
    assert not far_apart("50%", "0.5")
    assert far_apart("18", "190")


def test_what_cannot_be_read_has_no_values():
    for text in ("", r"1 \pm 2", "(" * 300, "3 +", r"\frac{1}{0}", "9^{9^{9^{9}}}", "5!"):
        assert values(text) is None


@given(st.integers(-10_000, 10_000), st.integers(1, 999))
def test_a_fraction_has_its_value(top: int, bottom: int):
    found = values(rf"\frac{{{top}}}{{{bottom}}}")
    assert found is not None
    assert all(math.isclose(value.real, top / bottom) for value in found[0])


@given(st.integers(-(10**12), 10**12))
def test_every_mutant_of_a_number_has_another_value(number: int):
    found, _ = mutants(str(number), [str(number), "7", "8"])
    assert found["off by one"] and "another problem's gold" in found
    assert all(int(mutant) != number for mutant in found.values() if mutant.lstrip("-").isdigit())


def test_mutants_of_a_number():
    found, num_same = mutants("1,234", ["1234", "18"])
    assert found == {
        "off by one": "1,235",
        "sign": "-1,234",
        "swapped digits": "1,243",
        "truncated": "1,23",
        "another problem's gold": "18",
    }
    assert num_same == 0


def test_mutations_that_change_nothing_are_left_out_and_counted():
    found, num_same = mutants(r"\frac{3}{3}")
    assert "fraction turned over" not in found and num_same >= 1
    assert mutants("0")[0].keys() == {"off by one"}


def test_mutants_of_other_answers():
    assert mutants(r"\frac{14}{3}")[0]["fraction turned over"] == r"\frac{3}{14}"
    assert mutants(r"\frac{14}{3}")[0]["sign"] == r"-\frac{14}{3}"
    assert mutants("(B)")[0] == {"off by one": "(C)"}
    assert mutants("3, 5, 7")[0]["item dropped"] == "3, 5"
    assert mutants(r"\text{Even}")[0]["opposite"] == r"\text{Odd}"
    assert mutants("Evelyn")[0] == {"truncated": "Evely"}
    assert mutants("2.50")[0]["off by one"] == "2.51"
    assert mutants("x^2+1")[0]["sign"] == "-(x^2+1)"
    assert mutants(r"11\sqrt{2}")[0]["sign"] == r"-(11\sqrt{2})"


def test_a_base_and_the_degree_of_a_root_are_left_alone():
    assert mutants("52_8")[0]["off by one"] == "53_8"
    assert mutants("4210_{5}")[0]["off by one"] == "4211_{5}"
    assert mutants(r"\sqrt[3]{x}")[0].keys() == {"sign"}


def test_dressings_hold_the_answer_and_only_latex_gets_dollars():
    for name in DRESSINGS:
        assert "17" in dressed("17", name)
    assert "$" not in dressed("17", "sentence")
    assert r"$\frac{1}{2}$" in dressed(r"\frac{1}{2}", "sentence")


def test_a_completion_gives_the_gold_away_by_spelling_or_by_value():
    def given_away(gold: str, text: str) -> bool:
        return gives_away(text, Problem(id="p", prompt="", verifier="v", answer=gold))

    assert given_away("1000", "they sold 1,000 cups")
    assert given_away("0.15", r"write \frac{3}{20} as a decimal")
    assert given_away("5", "5 apples") and not given_away("5", "55 apples, 15 pears, 0.5 l")
    assert given_away("(B)", "is it (B)?") and not given_away("north", "northern")
    assert not gives_away("anything", Problem(id="p", prompt="", verifier="v"))
