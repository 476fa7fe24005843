"""Every reasoning-gym task, scored by its own scorer (https://github.com/open-thought/reasoning-gym).

`rlvr.data` puts what the scorer needs into the problem's metadata, under `reasoning_gym`::

    {"task": "word_ladder", "params": {...the task's own parameters...}, "entry": encode(entry)}

The answer is what stands in the last `<answer>...</answer>` (after the last `</think>`), else the
last non-empty line; answers of several lines therefore need the tags.
"""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

from verifiers.cpu_limit import CpuLimitError, cpu_limit
from verifiers.errors import VerifierLoadError
from verifiers.problem import Problem
from verifiers.verdict import Verdict

METADATA_KEY = "reasoning_gym"

SCORER_CPU_S = 3.0
"""CPU time for one answer; some scorers compute what the answer says (`9**9**9`)."""
MAX_ANSWER_CHARS = 20_000
"""Longer answers are wrong: some scorers take quadratic time."""

_COMPARED_AS_TEXT = frozenset({"game_of_life_halting"})
"""Tasks whose scorer (0.1.25) gives any answer full marks: it compares `bool(text)`."""

_EVALUATES = re.compile(r"\b(?:eval|exec|parse_expr|sympify)\(")
_ATTRIBUTE = re.compile(r"\.\s*[^\W\d]")
_FUNCTIONS = frozenset(
    re.findall(r"\w+", "exp log ln sqrt Abs sin cos tan cot sec csc asin acos atan sinh cosh tanh")
)


class ReasoningGymVerifier:
    """`correct` at score 1, `incorrect` below `threshold`, `partial` between.

    Many scorers give crumbs: 0.01 for anything that parses, or the share of the answer that the
    gold makes up. A policy can farm them, so by default only full marks count.

    Args:
        threshold: least score that counts; the task's own graded scores are kept from there on.
        require_tags: without `<answer>` tags the verdict is `no_answer`.

    Raises:
        VerifierLoadError: reasoning-gym is not installed.
    """

    name = "reasoning_gym"

    def __init__(self, *, threshold: float = 1.0, require_tags: bool = False) -> None:
        try:
            from reasoning_gym.factory import create_dataset
        except ModuleNotFoundError as error:
            raise VerifierLoadError(
                f"the reasoning_gym verifier needs the package reasoning-gym ({error}); "
                "install it: pip install 'rlvr[reasoning-gym]'"
            ) from error
        self._create_dataset = create_dataset
        self._tasks: dict[str, Any] = {}
        self.threshold = threshold
        self.require_tags = require_tags

    def verify(self, problem: Problem, completion: str) -> Verdict:
        source = problem.metadata.get(METADATA_KEY)
        if source is None:
            return Verdict.error(
                reason=f"problem {problem.id!r} has no reasoning-gym entry in its metadata; load "
                'it with data.source = "reasoning_gym"',
                permanent=True,
            )
        answer = extract_answer(completion, require_tags=self.require_tags)
        if not answer:
            return Verdict.no_answer()
        task = self._task(source["task"], source["params"])
        entry = decode(source["entry"])
        detail: dict[str, Any] = {"extracted": answer[:500], "task": source["task"]}
        if len(answer) > MAX_ANSWER_CHARS:
            return Verdict.incorrect(**detail, reason=f"longer than {MAX_ANSWER_CHARS} characters")
        if source["task"] in _COMPARED_AS_TEXT:
            return Verdict.graded(answer.casefold() == str(entry["answer"]).casefold(), **detail)
        if _evaluates(task) and not harmless(answer):
            return Verdict.incorrect(**detail, reason="it would run code")
        try:
            with cpu_limit(SCORER_CPU_S):
                score = float(task.score_answer(answer, entry))
        except (CpuLimitError, MemoryError) as error:
            return Verdict.limit(**detail, reason=f"{type(error).__name__}: {error}")
        except Exception as error:
            # Some scorers raise on malformed answers (prime_factorization on "2 x"). That is the
            # answer's fault if the scorer can judge its own gold, and ours if it cannot.
            task.score_answer(entry["answer"], entry)
            return Verdict.incorrect(**detail, scorer_raised=f"{type(error).__name__}: {error}")
        if score < self.threshold:
            return Verdict.incorrect(**detail, score=score)
        return Verdict.graded(score, **detail)

    def _task(self, name: str, params: dict[str, Any]) -> Any:
        """The task's data set object, whose parameters some scorers read."""
        key = json.dumps([name, params], sort_keys=True)
        if key not in self._tasks:
            self._tasks[key] = self._create_dataset(name, **decode(params))
        return self._tasks[key]


def _evaluates(task: Any) -> bool:
    """Whether the task's scorer passes the answer to Python's `eval` or to sympy's, which uses it
    (ten tasks of 0.1.25 do: countdown, puzzle24, n_queens, ...)."""
    return _EVALUATES.search(inspect.getsource(type(task).score_answer)) is not None


def harmless(answer: str) -> bool:
    """Whether evaluating the text can do nothing but compute: it calls nothing but mathematical
    functions, looks up no attribute, and has no double underscore. How long it computes is another
    matter, for the deadline."""
    if _ATTRIBUTE.search(answer) or any(text in answer for text in ("__", "lambda", "#", "\\")):
        return False
    compact = "".join(answer.split())
    for position, char in enumerate(compact):
        if char != "(" or position == 0:
            continue
        before = compact[max(0, position - 16) : position]
        name = re.split(r"\W", before)[-1]
        if name and not name.isdigit() and name not in _FUNCTIONS:
            return False
        if before[-1] in ")]}\"'":  # a call of what an expression yields
            return False
    return True


def extract_answer(completion: str, *, require_tags: bool = False) -> str | None:
    """What the completion offers as its answer; null if there is nothing (see the module)."""
    text = completion.rpartition("</think>")[2]
    if "<think>" in text:
        return None
    before, closing, _ = text.rpartition("</answer>")
    _, opening, inner = before.rpartition("<answer>")
    if closing and opening:
        return inner.strip()
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines and not require_tags else None


def encode(value: Any) -> Any:
    """A JSON-able form of an entry that keeps tuples and non-text keys, which scorers compare."""
    if isinstance(value, tuple):
        return {"__tuple__": [encode(item) for item in value]}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: encode(item) for key, item in value.items()}
        return {"__dict__": [[encode(key), encode(item)] for key, item in value.items()]}
    return value


def decode(value: Any) -> Any:
    """The inverse of `encode`."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"__tuple__"}:
            return tuple(decode(item) for item in value["__tuple__"])
        if value.keys() == {"__dict__"}:
            return {decode(key): decode(item) for key, item in value["__dict__"]}
        return {key: decode(item) for key, item in value.items()}
    return value
