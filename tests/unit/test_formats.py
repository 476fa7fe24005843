"""`regex`, `tags`, `json_schema`, `language` and the penalties."""

from __future__ import annotations

import json
from typing import Any

import pytest

from verifiers import Problem, Status, Verdict, VerifierLoadError, load
from verifiers.penalties import repeated_share


def judge(name: str, completion: str, *, answer: Any = None, metadata: Any = None, **params: Any):
    problem = Problem(id="p", prompt="?", verifier=name, answer=answer, metadata=metadata or {})
    verdict = load(name, **params).verify(problem, completion)
    assert isinstance(verdict, Verdict)
    return verdict


# --- regex ---


@pytest.mark.parametrize(
    ("completion", "params", "status"),
    [
        ("see [1] and [2]", {"pattern": r"\[\d\]"}, Status.CORRECT),
        ("see", {"pattern": r"\[\d\]"}, Status.INCORRECT),
        (" [1]\n", {"pattern": r"\[\d\]", "match": "full"}, Status.CORRECT),
        ("see [1]", {"pattern": r"\[\d\]", "match": "full"}, Status.INCORRECT),
        ("<think>[1]</think>x", {"pattern": r"\[\d\]", "where": "after_thinking"}, "incorrect"),
        ("<think>[1]", {"pattern": r"\[\d\]", "where": "after_thinking"}, Status.NO_ANSWER),
        ("it is =7=", {"pattern": r"=(?P<answer>\d)="}, Status.CORRECT),
        ("it is =7= or rather =8=", {"pattern": r"=(?P<answer>\d)="}, Status.INCORRECT),
        ("it is 7", {"pattern": r"=(?P<answer>\d)="}, Status.NO_ANSWER),
    ],
)
def test_regex(completion: str, params: Any, status: Status) -> None:
    assert judge("regex", completion, answer="7", **params).status == status


def test_a_pattern_that_explodes_is_a_limit() -> None:
    verdict = judge("regex", "a" * 40 + "b", pattern=r"(a|a)*$", match="full", cpu_s=0.1)
    assert verdict.status is Status.LIMIT
    assert judge("regex", "aaa", pattern=r"(a|a)*$", cpu_s=0.1).status is Status.CORRECT


# --- tags ---


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("<think>a</think><answer>b</answer>", True),
        ("\n<think>\na\n</think>\n<answer>b</answer>\n", True),
        ("<think>a</think>", False),
        ("<answer>b</answer><think>a</think>", False),
        ("<think>a</think><answer>b</answer><answer>b</answer>", False),
        ("<think>a<think></think><answer>b</answer>", False),
        ("<think>a<answer>b</answer></think>", False),
        ("<think></think><answer>b</answer>", False),
        ("<think>a</think><answer> \n</answer>", False),
        ("well <think>a</think><answer>b</answer>", False),
        ("<think>a</think> so <answer>b</answer>", False),
        ("<think>a</think><answer>b</answer> bye", False),
        ("<THINK>a</THINK><answer>b</answer>", False),
        ("a</think><answer>b</answer>", False),
        ("", False),
    ],
)
def test_tags_stand_once_in_order_and_hold_everything(completion: str, right: bool) -> None:
    verdict = judge("tags", completion)
    assert verdict.status is (Status.CORRECT if right else Status.INCORRECT)
    assert right or verdict.detail["reason"]


def test_tags_of_ones_own() -> None:
    assert judge("tags", "a</think><answer>b</answer>", prefilled="<think>").reward == 1.0
    text = "well <a>1</a> so <b>2</b> bye"
    assert judge("tags", text, tags=["a", "b"], allow_outside=True).reward == 1.0
    assert judge("tags", text, tags=["b", "a"], allow_outside=True).reward == 0.0


# --- json_schema ---

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0}, "tags": {"uniqueItems": True}},
    "required": ["n"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("completion", "status"),
    [
        ('{"n": 3}', Status.CORRECT),
        ('Here it is:\n```json\n{"n": 3}\n```\nBye.', Status.CORRECT),
        ('```\n{"n": -1}\n```\nbetter:\n```json\n{"n": 1}\n```', Status.CORRECT),
        ('<think>{"n": -1}</think><answer>{"n": 3}</answer>', Status.CORRECT),
        ('```json\n{"n": 3}', Status.CORRECT),
        ('{"n": -3}', Status.INCORRECT),
        ('{"n": "3"}', Status.INCORRECT),
        ('{"n": 3, "m": 4}', Status.INCORRECT),
        ('{"n": 3, "n": -1}', Status.INCORRECT),
        ('{"n": NaN}', Status.INCORRECT),
        ('{"n": Infinity}', Status.INCORRECT),
        ('{"n": 3} {"n": 3}', Status.INCORRECT),
        ('{"n": ' + "9" * 5000 + "}", Status.INCORRECT),
        ("3", Status.INCORRECT),
        ("not json", Status.INCORRECT),
        ("", Status.NO_ANSWER),
        ("<think>{}", Status.NO_ANSWER),
        ("[" * 100_000 + "]" * 100_000, Status.LIMIT),
        ('{"n": 1, "tags": ' + "[" * 900 + "]" * 900 + "}", Status.CORRECT),
        ("[" + "1," * 600_000 + "1]", Status.LIMIT),
    ],
)
def test_json_schema(completion: str, status: Status) -> None:
    assert judge("json_schema", completion, schema=SCHEMA).status is status


def test_a_hostile_json_is_a_limit() -> None:
    squares = json.dumps([{"a": k} for k in range(20_000)])
    schema = {"uniqueItems": True}
    assert judge("json_schema", squares, schema=schema, cpu_s=0.2).status is Status.LIMIT
    pattern = {"type": "string", "pattern": "^(a|a)*$"}
    text = json.dumps("a" * 40 + "b")
    assert judge("json_schema", text, schema=pattern, cpu_s=0.2).status is Status.LIMIT


def test_a_problems_own_schema_and_schemas_that_cannot_be_used() -> None:
    own = {"schema": {"type": "integer"}}
    assert judge("json_schema", "3", schema=SCHEMA, metadata=own).status is Status.CORRECT
    assert judge("json_schema", '{"n": 1}', metadata=own).status is Status.INCORRECT
    for schema in ({"type": "integr"}, {"$ref": "http://127.0.0.1:9/x.json"}, None):
        metadata = {} if schema is None else {"schema": schema}
        verdict = judge("json_schema", "3", metadata=metadata)
        assert verdict.status is Status.ERROR
        assert verdict.detail["permanent"] is True
    with pytest.raises(VerifierLoadError, match=r"schema is malformed.*integr"):
        load("json_schema", schema={"type": "integr"})


# --- language ---

ENGLISH = "We first add the two numbers and then divide the result by the number of apples."
GERMAN = "Zuerst addieren wir die beiden Zahlen und teilen danach durch die Anzahl der Äpfel."
CHINESE = "首先我们把两个数字相加然后除以苹果的数量得到最后的答案。"


@pytest.mark.parametrize(
    ("text", "language", "status"),
    [
        (ENGLISH, "en", Status.CORRECT),
        (GERMAN, "en", Status.INCORRECT),
        (GERMAN, "de", Status.CORRECT),
        (CHINESE, "en", Status.INCORRECT),
        (CHINESE, "zh", Status.CORRECT),
        (f"{ENGLISH}\n{ENGLISH}\n{CHINESE}", "en", Status.INCORRECT),
        (f"{ENGLISH} 首先我们把两个数字相加 {ENGLISH}", "en", Status.CORRECT),
        (f"{ENGLISH}\n```python\nfür_alle = 1\n```\n$x = \\frac{{1}}{{2}}$", "en", Status.CORRECT),
        ("42", "de", Status.CORRECT),
        ("", "de", Status.CORRECT),
        ("$" * 5000 + "`" * 5000, "de", Status.CORRECT),
    ],
)
def test_language(text: str, language: str, status: Status) -> None:
    assert judge("language", text, language=language).status is status


def test_language_of_a_part_and_of_a_problem() -> None:
    text = f"<think>{CHINESE}</think>{ENGLISH}"
    assert judge("language", text, part="answer").status is Status.CORRECT
    assert judge("language", text, part="thinking").status is Status.INCORRECT
    assert judge("language", GERMAN, metadata={"language": "de"}).status is Status.CORRECT
    assert judge("language", GERMAN, metadata={"language": "xx"}).status is Status.ERROR


# --- penalties ---


@pytest.mark.parametrize(
    ("num_words", "reward"),
    [(0, 0.0), (100, 0.0), (150, -0.25), (200, -0.5), (5000, -0.5)],
)
def test_length_penalty(num_words: int, reward: float) -> None:
    verdict = judge("length_penalty", "a " * num_words, soft=100, hard=200, penalty=0.5)
    assert verdict.reward == reward
    assert verdict.detail == {"length": num_words}


def test_repeated_share_of_hand_worked_texts() -> None:
    assert repeated_share("a b c d e f g h", 4) == 0.0
    assert repeated_share("a b a b a b", 2) == pytest.approx(3 / 5)  # ab ba [ab ba ab]
    assert repeated_share("too short", 4) == 0.0
    assert repeated_share("", 1) == 0.0
    assert repeated_share("a" * 16_000, 4) > 0.9
    assert repeated_share("好" * 1000, 4) > 0.9
    assert repeated_share("!" * 16_000, 4) > 0.9


def test_repetition_penalty() -> None:
    assert judge("repetition_penalty", f"{ENGLISH} {GERMAN}").reward == 0.0
    loop = judge("repetition_penalty", "I am sure. " * 1000, penalty=2.0)
    assert loop.reward == pytest.approx(-2.0, abs=0.1)
    assert loop.detail["repeated"] > 0.99


@pytest.mark.parametrize(
    ("name", "params", "words"),
    [
        ("regex", {"pattern": "("}, "malformed"),
        ("regex", {"pattern": "a", "match": "some"}, "expected search or full"),
        ("regex", {}, "pattern"),
        ("tags", {"tags": "think"}, "list of different names"),
        ("tags", {"tags": ["a", "a"]}, "list of different names"),
        ("language", {"language": "english"}, "ISO 639-1"),
        ("language", {"part": "some"}, "expected all, thinking or answer"),
        ("length_penalty", {"soft": 5, "hard": 5}, "soft < hard"),
        ("length_penalty", {"soft": 5, "hard": 9, "unit": "tokens"}, "words or chars"),
        ("length_penalty", {"soft": 5, "hard": 9, "penalty": -1.0}, "positive"),
        ("repetition_penalty", {"ngram": 0}, "ngram >= 1"),
    ],
)
def test_wrong_parameters_say_why(name: str, params: Any, words: str) -> None:
    with pytest.raises(VerifierLoadError, match=words):
        load(name, **params)
