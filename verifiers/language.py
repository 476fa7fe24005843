"""`language`: whether a completion is written in the language it should be.

Reasoning that drifts between languages is a known effect of training on outcomes alone; the share
of text in the right language is the reward DeepSeek-R1 used against it (arXiv:2501.12948, section
2.3.2). Code, formulas and LaTeX commands are left out. What remains is cut at line ends and where
the script changes; each piece is identified by py3langid (https://github.com/adbar/py3langid).
Pieces too short to identify count as right unless their script occurs in no right piece.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator
from typing import Literal

import py3langid

from verifiers.answer_text import after_thinking
from verifiers.errors import VerifierLoadError
from verifiers.problem import Problem
from verifiers.verdict import Verdict

MIN_LETTERS = {"LATIN": 40, "CYRILLIC": 30}
"""Shorter pieces are often misjudged."""
MIN_LETTERS_OTHER = 8
"""Of scripts that few languages share."""
MAX_CHARS = 100_000
"""Of a longer text only the beginning is looked at."""

_NOT_PROSE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$[^$]*\$\$|\$[^$\n]*\$|\\\[.*?(?:\\\]|\Z)|\\\(.*?(?:\\\)|\Z)"
    r"|\\[A-Za-z]+|</?[A-Za-z]+>|https?://\S+",
    re.S,
)
_ONE_SCRIPT: dict[str, str] = dict.fromkeys(("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"), "CJK")


class LanguageVerifier:
    """Correct if at least `threshold` of the letters are in the language, else incorrect with the
    share as `detail["share"]`. A text too short to tell is correct: it is not in another language.

    Args:
        language: ISO 639-1 code (`en`, `de`, `zh`).
        language_field: metadata field with the problem's own code; used where it is there.
        part: `all`, the `thinking` up to `</think>`, or the `answer` after it.
        threshold: least share of letters in the right language.

    Raises:
        VerifierLoadError: the language is unknown.
    """

    name = "language"

    def __init__(
        self,
        *,
        language: str = "en",
        language_field: str = "language",
        part: Literal["all", "thinking", "answer"] = "all",
        threshold: float = 0.9,
    ) -> None:
        if not _known(language):
            raise VerifierLoadError(f"language: {language!r} is no ISO 639-1 code py3langid knows")
        if part not in ("all", "thinking", "answer"):
            raise VerifierLoadError(f"language: part is {part!r}, expected all, thinking or answer")
        self._language = language
        self._language_field = language_field
        self._part = part
        self._threshold = threshold

    def verify(self, problem: Problem, completion: str) -> Verdict:
        language = problem.metadata.get(self._language_field, self._language)
        if not _known(language):
            return Verdict.error(
                reason=f"problem {problem.id!r} wants the unknown language {language!r}",
                permanent=True,
            )
        text = completion
        if self._part == "answer":
            text = after_thinking(completion) or ""
        elif self._part == "thinking":
            text = completion.rpartition("</think>")[0] or completion
        share = language_share(text, language)
        if share is None:
            return Verdict.correct(share=None)
        verdict = Verdict.correct if share >= self._threshold else Verdict.incorrect
        return verdict(share=round(share, 4))


def language_share(text: str, language: str) -> float | None:
    """The share of the letters of `text` in `language`, in [0, 1]; null if nothing can be told."""
    right = wrong = 0
    unsure: dict[str, int] = {}
    scripts: set[str] = set()
    for script, piece, letters in _pieces(_NOT_PROSE.sub(" ", text[:MAX_CHARS])):
        if letters < MIN_LETTERS.get(script, MIN_LETTERS_OTHER):
            unsure[script] = unsure.get(script, 0) + letters
        elif py3langid.classify(piece)[0] == language:
            right += letters
            scripts.add(script)
        else:
            wrong += letters
    if not right and not wrong:
        return None
    for script, letters in unsure.items():
        if script in scripts:
            right += letters
        elif scripts:
            wrong += letters
    return right / (right + wrong)


def _pieces(text: str) -> Iterator[tuple[str, str, int]]:
    """Runs of one script within a line: (script, text, number of letters)."""
    for line in text.splitlines():
        script, start, letters = "", 0, 0
        for position, char in enumerate(line):
            if not char.isalpha():
                continue
            own = _script(char)
            if own != script and letters:
                yield script, line[start:position], letters
                start, letters = position, 0
            script = own
            letters += 1
        if letters:
            yield script, line[start:], letters


def _script(char: str) -> str:
    if char.isascii():
        return "LATIN"
    script = unicodedata.name(char, "UNKNOWN").partition(" ")[0]
    return _ONE_SCRIPT.get(script, script)


@functools.cache
def _known(language: object) -> bool:
    return language in {label for label, _ in py3langid.rank("a")}
