from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifiers import Problem, Status, VerifierLoadError, load
from verifiers.answer_text import find_answer


def judge(name: str, gold: str | None, completion: str, *, metadata: Any = None, **params: Any):
    problem = Problem(id="p", prompt="?", verifier=name, answer=gold, metadata=metadata or {})
    return load(name, **params).verify(problem, completion)


@pytest.mark.parametrize(
    ("completion", "found"),
    [
        ("<answer>Paris</answer>", ("tags", "Paris")),
        ("<answer>Rome</answer> no, <answer> Paris\n</answer>.", ("tags", "Paris")),
        ("\\boxed{\\text{a {b}}} then \\boxed{c}", ("boxed", "c")),
        ("\\boxed{\\text{a {b}}}", ("boxed", "\\text{a {b}}")),
        ("so\n#### Paris\n", ("hashes", "Paris")),
        ("The answer is Paris\nthank you", ("answer is", "Paris")),
        ("**Answer:** Paris", ("answer is", "Paris")),
        ("Answer: Rome. Answer:\nParis", ("answer is", "Paris")),
        ("thinking aloud\nParis\n\n", ("last line", "Paris")),
        ("<think>Rome</think>Paris", ("last line", "Paris")),
        ("<think>Paris", None),
        ("", None),
        (" \n ", None),
        ("<answer></answer>Paris", None),
        ("</answer>Paris", ("last line", "</answer>Paris")),
        ("\\boxed{A} \\boxed{B}", None),
        ("$\\boxed{A}$ or\n$\\boxed{B}$", None),
        ("\\boxed{B}, that is \\boxed{B}", ("boxed", "B")),
        ("\\boxed{A}. No, it is \\boxed{B}", ("boxed", "B")),
        ("<answer>A</answer><answer>B</answer>", None),
        ("<answer>A</answer> no: <answer>B</answer>", ("tags", "B")),
        ("\\boxed{Paris", ("last line", "\\boxed{Paris")),
    ],
)
def test_where_the_answer_stands(completion: str, found: tuple[str, str] | None) -> None:
    assert find_answer(completion) == found


@given(st.text(alphabet="<>/answer think\\boxed{}#:=\n*", max_size=60))
def test_looking_for_an_answer_never_fails_and_never_finds_nothing(text: str) -> None:
    found = find_answer(text)
    assert found is None or found[1].strip()


@pytest.mark.parametrize(
    ("gold", "completion", "params", "status"),
    [
        ("Paris", "Paris", {}, Status.CORRECT),
        ("Paris", "The answer is **Paris**.", {}, Status.CORRECT),
        ("Paris.", '"Paris"', {}, Status.CORRECT),
        ("New York", "<answer>New \n York</answer>", {}, Status.CORRECT),
        ("1/2", "\uff11/\uff12", {}, Status.CORRECT),
        ("Paris", "paris", {}, Status.INCORRECT),
        ("Paris", "paris", {"ignore_case": True}, Status.CORRECT),
        ("it's", "its", {"ignore_punctuation": True}, Status.CORRECT),
        ("Paris", "Paris or Rome", {}, Status.INCORRECT),
        ("Paris", "", {}, Status.NO_ANSWER),
        ("Paris", "<answer>.</answer>", {}, Status.NO_ANSWER),
        ("Paris", "I say Paris", {"where": "whole"}, Status.INCORRECT),
        ("I say\nParis", "I say\nParis", {"where": "whole"}, Status.CORRECT),
        ("", "", {}, Status.ERROR),
        (None, "x", {}, Status.ERROR),
    ],
)
def test_exact(gold: str | None, completion: str, params: Any, status: Status) -> None:
    assert judge("exact", gold, completion, **params).status is status


def test_exact_accepts_further_answers_from_a_field() -> None:
    metadata = {"also": ["NYC", "the Big Apple"]}
    for text, status in [("NYC", Status.CORRECT), ("LA", Status.INCORRECT)]:
        verdict = judge("exact", "New York", text, metadata=metadata, accept_field="also")
        assert verdict.status is status


CITIES = {"choices": ["Rome", "Paris", "Vitamin C", "A good one"]}


@pytest.mark.parametrize(
    ("completion", "label"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("b", "B"),
        ("The answer is B.", "B"),
        ("The answer is (B) Paris", "B"),
        ("Answer: B) Paris", "B"),
        ("**Answer: B**", "B"),
        ("\\boxed{\\text{(B)}}", "B"),
        ("\\boxed{B}", "B"),
        ("<answer>option B</answer>", "B"),
        ("Answer: Paris", "B"),
        ("Answer: paris.", "B"),
        ("C. Vitamin C", "C"),
        ("Answer: D) A good one", "D"),
        ("Answer: A good one", "D"),
        ("Answer: B. It has a C in it", "B"),
        ("A or B", None),
        ("B or C", None),
        ("(A) (B) (C) (D)", None),
        ("Answer: B) Paris or A) Rome", None),
        ("Answer: A, B", None),
        ("Answer: E", None),
        ("Answer: a nice city", None),
        ("", None),
        ("I cannot tell", None),
        ("\\boxed{AB}", None),
    ],
)
def test_choice_reads_one_label_or_none(completion: str, label: str | None) -> None:
    for gold in "ABCD":
        verdict = judge("choice", gold, completion, metadata=CITIES)
        if label is None:
            assert verdict.status is Status.NO_ANSWER
        else:
            assert verdict.detail["label"] == label
            assert (verdict.status is Status.CORRECT) == (gold == label)


def test_choice_golds_and_labels_of_ones_own() -> None:
    assert judge("choice", "Paris", "B", metadata=CITIES).status is Status.CORRECT
    assert judge("choice", "(b)", "B").status is Status.CORRECT
    assert judge("choice", "Lyon", "B", metadata=CITIES).status is Status.ERROR
    own = {"choices": {"X": "yes", "Y": "no"}}
    assert judge("choice", "Y", "Answer: no", metadata=own).status is Status.CORRECT


@pytest.mark.parametrize(
    ("gold", "completion", "params", "status"),
    [
        ("3.14159", "3.14159", {}, Status.CORRECT),
        ("3.14159", "about 3.1416", {}, Status.INCORRECT),
        ("3.14159", "about 3.1416", {"rel_tol": 1e-4}, Status.CORRECT),
        ("100", "101", {"rel_tol": 0.01}, Status.CORRECT),
        ("100", "101.01", {"rel_tol": 0.01}, Status.INCORRECT),
        ("0", "0.001", {"rel_tol": 0.5}, Status.INCORRECT),
        ("0", "0.001", {"abs_tol": 0.001}, Status.CORRECT),
        ("-2", "2", {"rel_tol": 0.5}, Status.INCORRECT),
        ("1/3", "0.33333333", {}, Status.CORRECT),
        ("6.02e23", "The answer is $6.02 \\times 10^{23}$", {}, Status.CORRECT),
        ("6.02e-23", "6.02 \u00d7 10⁻²³", {}, Status.CORRECT),
        ("6.02 * 10^23", "6.02E23", {}, Status.CORRECT),
        ("30", "3 x 10 = 30", {}, Status.CORRECT),
        ("5", "nan", {"abs_tol": 1e9}, Status.NO_ANSWER),
        ("5", "1e999999999", {}, Status.INCORRECT),
        ("five", "5", {}, Status.ERROR),
    ],
)
def test_numeric(gold: str, completion: str, params: Any, status: Status) -> None:
    assert judge("numeric", gold, completion, **params).status is status


@pytest.mark.parametrize(
    ("name", "params", "words"),
    [
        ("numeric", {"rel_tol": -1.0}, "rel_tol is -1.0"),
        ("numeric", {"abs_tol": float("nan")}, "abs_tol is nan"),
        ("exact", {"where": "there"}, "expected answer or whole"),
    ],
)
def test_wrong_parameters_say_why(name: str, params: Any, words: str) -> None:
    with pytest.raises(VerifierLoadError, match=words):
        load(name, **params)


@pytest.mark.parametrize("name", ["exact", "choice", "numeric"])
def test_missing_golds_are_not_retried(name: str) -> None:
    verdict = judge(name, None, "5")
    assert verdict.status is Status.ERROR
    assert verdict.detail["permanent"] is True


@pytest.mark.parametrize("name", ["exact", "choice", "numeric"])
@pytest.mark.parametrize(
    "text",
    ["(" * 50_000, "A " * 50_000, "answer is " * 20_000, "\\boxed{" * 20_000, "$" * 100_000,
     "1" * 100_000, "x10^" * 30_000, "\\text{" * 20_000],
)  # fmt: skip
def test_hostile_texts_take_linear_time(name: str, text: str) -> None:
    assert judge(name, "5" if name == "numeric" else "A", text).status is not Status.ERROR
