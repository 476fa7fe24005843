"""Verifiers of form: a `regex`, and `tags` in order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from verifiers.answer_text import MAX_SHOWN_CHARS, after_thinking
from verifiers.cpu_limit import CpuLimitError, cpu_limit
from verifiers.errors import VerifierLoadError
from verifiers.problem import Problem
from verifiers.verdict import Verdict


class RegexVerifier:
    """Correct if the pattern matches; with a group called `answer`, if that equals the gold.

    Of several matches the last counts. A pattern that takes too long on a completion is a `limit`.

    Args:
        pattern: Python regular expression. Flags go inside: `(?i)`, `(?s)`, `(?m)`.
        match: `search` anywhere, or `full` for the whole text, white space around it apart.
        where: `all` of the completion, or only what is `after_thinking`.
        cpu_s: CPU time for one completion, in seconds.
    """

    name = "regex"

    def __init__(
        self,
        *,
        pattern: str,
        match: Literal["search", "full"] = "search",
        where: Literal["all", "after_thinking"] = "all",
        cpu_s: float = 1.0,
    ) -> None:
        for key, value, known in (
            ("match", match, ("search", "full")),
            ("where", where, ("all", "after_thinking")),
        ):
            if value not in known:
                raise VerifierLoadError(f"regex: {key} is {value!r}, expected {' or '.join(known)}")
        try:
            self._pattern = re.compile(pattern)
        except re.error as error:
            raise VerifierLoadError(f"regex: pattern {pattern!r} is malformed: {error}") from error
        self._full = match == "full"
        self._all = where == "all"
        self._cpu_s = cpu_s

    def verify(self, problem: Problem, completion: str) -> Verdict:
        compares = "answer" in self._pattern.groupindex
        if compares and problem.answer is None:
            return Verdict.error(
                reason=f"the pattern has a group 'answer' but problem {problem.id!r} has no answer",
                permanent=True,
            )
        text = completion if self._all else after_thinking(completion)
        if text is None:
            return Verdict.no_answer()
        try:
            with cpu_limit(self._cpu_s):
                found = self._last(text)
        except CpuLimitError as error:
            return Verdict.limit(reason=f"matching took {error}")
        if found is None:
            return Verdict.no_answer() if compares else Verdict.incorrect()
        if not compares:
            return Verdict.correct()
        answer = (found["answer"] or "").strip()
        same = answer == (problem.answer or "").strip()
        return (Verdict.correct if same else Verdict.incorrect)(extracted=answer[:MAX_SHOWN_CHARS])

    def _last(self, text: str) -> re.Match[str] | None:
        if self._full:
            return self._pattern.fullmatch(text.strip())
        found = None
        for match in self._pattern.finditer(text):
            found = match
        return found


class TagsVerifier:
    """Correct if the completion is `<think>...</think><answer>...</answer>`: each tag once, in
    order, none empty, and nothing but white space outside them.

    Args:
        tags: names, in order.
        prefilled: what the chat template has already written of it (`"<think>"` for templates that
            open the thinking themselves): put before the completion.
        allow_outside: text outside the tags is fine.
    """

    name = "tags"
    in_process = True  # searches for fixed strings: linear time

    def __init__(
        self,
        *,
        tags: Sequence[str] = ("think", "answer"),
        prefilled: str = "",
        allow_outside: bool = False,
    ) -> None:
        if isinstance(tags, str) or not tags or len(set(tags)) != len(tags):
            raise VerifierLoadError(f"tags: expected a list of different names, got {tags!r}")
        self._tags = tuple(tags)
        self._prefilled = prefilled
        self._allow_outside = allow_outside

    def verify(self, problem: Problem, completion: str) -> Verdict:
        wrong = self._wrong(self._prefilled + completion)
        return Verdict.correct() if wrong is None else Verdict.incorrect(reason=wrong)

    def _wrong(self, text: str) -> str | None:
        end = 0
        for tag in self._tags:
            for mark in (f"<{tag}>", f"</{tag}>"):
                if text.count(mark) != 1:
                    return f"{mark} stands there {text.count(mark)} times, expected once"
            opening, closing = text.find(f"<{tag}>"), text.find(f"</{tag}>")
            if not end <= opening < closing:
                return f"<{tag}>...</{tag}> is out of order"
            if text[end:opening].strip() and not self._allow_outside:
                return f"there is text before <{tag}>"
            if not text[opening + len(tag) + 2 : closing].strip():
                return f"<{tag}> is empty"
            end = closing + len(tag) + 3
        if text[end:].strip() and not self._allow_outside:
            return f"there is text after </{self._tags[-1]}>"
        return None
