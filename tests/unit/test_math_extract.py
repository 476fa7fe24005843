"""Where a completion settles: each rule, their order, and text that is no claim."""

from __future__ import annotations

import time

import pytest

from verifiers.mathematics.extract import MAX_BOXES, Kind, extract, gold_text

NUMBER = Kind(number=True)


def found(text: str, kind: Kind = NUMBER, *, last_number: bool = True) -> tuple[str, str] | None:
    result = extract(text, kind, last_number=last_number)
    if result is None:
        return None
    return result.rule, result.candidates[0] if result.candidates else ""


@pytest.mark.parametrize(
    ("text", "rule", "answer"),
    [
        ("so \\boxed{42}", "boxed", "42"),
        ("so \\boxed{\\frac{1}{\\sqrt{2}}}.", "boxed", "\\frac{1}{\\sqrt{2}}"),
        ("\\boxed{41}, no, \\boxed{42}", "boxed", "42"),
        ("so $\\boxed{42$ it is", "boxed", "42"),
        ("The final answer is 42.", "final answer", "42"),
        ("**Final Answer**\n\n42 eggs", "final answer", "42 eggs"),
        ("work\n#### 42", "hashes", "42"),
        ("work <answer>42</answer>", "answer tag", "42"),
        ("The answer is **42**.", "answer is", "42"),
        ("**Answer:** 42", "answer is", "42"),
        ("A: 42", "answer is", "42"),
        ("# Answer\n\n42", "answer is", "42"),
        ("42", "bare", "42"),
        ("It leaves her with 42 eggs.", "last number", "42"),
        ("Hence $x = 42$.", "last formula", "x = 42"),
    ],
)
def test_each_rule(text: str, rule: str, answer: str) -> None:
    assert found(text) == (rule, answer)


def test_the_last_claim_counts_whatever_its_form() -> None:
    assert found("\\boxed{200} so far. Final Answer: The final answer is $455$. Done.") == (
        "final answer",
        "455",
    )
    assert found("Final answer: 3? No: \\boxed{4}") == ("boxed", "4")


def test_a_claim_beats_an_answer_named_on_the_way() -> None:
    assert found("The answer is 41. Hm. So \\boxed{42}, as the answer is even.") == ("boxed", "42")


def test_headings_and_prose_are_no_claims() -> None:
    assert found("#### Step 1: count\nThe answer is correct. She has 5") == ("last number", "5")
    assert found("To find the final answer, add. We get 7 eggs.") == ("last number", "7")


def test_a_correction_takes_back_what_was_said_before_it() -> None:
    assert found("The answer is 41. Wait, 6 * 7 = 42. So 42 it is.") == ("last number", "42")
    assert found("The answer is 41. Hold on: the answer is 42.") == ("answer is", "42")


def test_a_text_that_breaks_off_in_a_calculation_has_no_last_number() -> None:
    annotated = "She has 4*8=<<4*8=32>>32 eggs"
    assert found(f"{annotated}.") == ("last number", "32")
    assert found(f"{annotated}\nSo she") is None
    assert found("She has 4*8=<<4*8=3") is None
    assert found("Each box weighs 12 * 3") is None


def test_answer_may_be_the_heading_of_a_solution() -> None:
    worked = "Answer: Tom has 16 eggs. He sells 9 for $2 each. So he makes 9 * 2 = $18."
    assert found(worked) == ("last number", "$18")
    assert found("Answer: Tom makes $18 a day.") == ("answer is", "$18")
    assert found("Answer: 18. Tom sells 9 eggs for $2.") == ("answer is", "18")


def test_a_result_counts_before_its_circumstances() -> None:
    assert found("He scored 4+5=9 points in the 40 minutes.") == ("last number", "9")
    assert found("He had 4+5=9 points and gave away 3.") == ("last number", "3")
    assert found("He had 4+5=9 points, then 3 for each.") == ("last number", "3")


def test_one_of_two_numbers_is_no_answer() -> None:
    assert found("She has 42 or 43 eggs.") is None
    assert found("It lies between 42 and 43.") is None
    assert found("She starts at 2:30.") is None


def test_a_box_with_a_sentence_gives_its_one_number() -> None:
    assert found("\\boxed{\\text{Tom has } \\$42 \\text{ left}}") == ("boxed", "\\$42")
    assert found("\\boxed{open('42').read()}") == ("boxed", "open('42').read()")


def test_a_spray_of_boxes_is_no_answer() -> None:
    assert found("\\boxed{1} \\boxed{2} \\boxed{3}") == ("boxes contradict", "")
    spray = " and it might be ".join(f"\\boxed{{{k}}}" for k in range(MAX_BOXES + 5))
    assert found(spray) == ("boxes contradict", "")


def test_boxes_joined_by_a_connector_are_a_list_where_the_gold_is_one() -> None:
    text = "The roots are $\\boxed{1}$ and $\\boxed{-2}$."
    assert found(text, Kind(several=True)) == ("boxed list", "1, -2")
    assert found(text) == ("boxes contradict", "")


def test_formulas_joined_by_a_connector_are_a_list_where_the_gold_is_one() -> None:
    text = "As $a = 3$ fails, the solutions are $x = 1$ and $x = 2$."
    assert found(text, Kind(several=True)) == ("last formula", "x = 1, x = 2")
    assert found(text) == ("last formula", "x = 2")


def test_reasoning_and_what_a_runaway_model_adds_are_left_out() -> None:
    assert found("<think>\\boxed{41}</think> The answer is 42.") == ("answer is", "42")
    assert found("<think>It must be 42") is None
    assert found("The answer is 42.\n\nQuestion: 2 + 2?\nAnswer: 4") == ("answer is", "42")
    assert found("The answer is 42<|im_end|>\n<|im_start|>user 7") == ("answer is", "42")


@pytest.mark.parametrize(
    ("sentence", "number"),
    [
        ("The answer is $18 per day, for 7 days.", "$18 "),
        ("The answer is 6 * 7 = 42 eggs.", "42"),
        ("The answer is that Tom has 12 eggs left.", "12"),
        ("The answer is 1,450,000 people in all 3 towns", "1,450,000"),
        ("The answer is -5 degrees below the usual", "-5"),
    ],
)
def test_the_number_of_a_sentence(sentence: str, number: str) -> None:
    result = found(sentence)
    assert result is not None and result[1].strip() == number.strip()


def test_exponents_ordinals_and_coefficients_are_no_last_numbers() -> None:
    assert found("so 7 is left, as $x^5$ and the 3rd and 2x are gone") == ("last number", "7")
    assert found("so it is AZ42K") is None


def test_the_last_number_only_where_it_is_allowed() -> None:
    assert found("It leaves her with 42 eggs.", last_number=False) is None


def test_golds_may_be_whole_solutions() -> None:
    assert gold_text("He sold 48/2 = 24.\n#### 72") == "72"
    assert gold_text("He sold 48/2 = 24.\nA: 72") == "72"
    assert gold_text("Thus $x \\in \\boxed{[-2,7]}$.") == "[-2,7]"
    assert gold_text("\\frac{1}{2}") == "\\frac{1}{2}"


@pytest.mark.parametrize(
    "unit",
    ["\\boxed{", "<answer>", "answer is ", "$", "\\[", "\n", "final answer*", "#### ", "1,", "("],
)
def test_long_hostile_texts_take_linear_time(unit: str) -> None:
    start = time.process_time()
    extract(unit * (100_000 // len(unit)), NUMBER, last_number=True)
    assert time.process_time() - start < 10  # quadratic time would be minutes
