"""Penalties on the form of a completion, to be added to a verdict of its content (`weighted`).

Their reward lies in [-penalty, 0] and says nothing of the answer, so they have no say in a
composite's status (`shapes_only`). Length in tokens is the trainer's: `algorithm.overlong`.
"""

from __future__ import annotations

import re
from typing import Literal

from verifiers.errors import VerifierLoadError
from verifiers.problem import Problem
from verifiers.verdict import Status, Verdict

MAX_WORD_CHARS = 16
"""Longer runs of letters count as several words, so that `aaaa...` is repetition too."""

_NO_SPACES = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # scripts written without spaces
_WORD = re.compile(
    rf"[{_NO_SPACES}]|[^\W{_NO_SPACES}]{{1,{MAX_WORD_CHARS}}}|[^\w\s]{{1,{MAX_WORD_CHARS}}}"
)


class LengthPenalty:
    """0 up to `soft`, then falling in a straight line to -`penalty` at `hard` and beyond.

    The form of DAPO's soft overlong punishment (arXiv:2503.14476, equation 13), in words or
    characters.

    Args:
        soft: longest length without a penalty.
        hard: shortest length with the full penalty.
        unit: `words` (separated by white space) or `chars`.
        penalty: the full penalty, positive.
    """

    name = "length_penalty"
    in_process = True
    shapes_only = True

    def __init__(
        self,
        *,
        soft: int,
        hard: int,
        unit: Literal["words", "chars"] = "words",
        penalty: float = 1.0,
    ) -> None:
        if not 0 <= soft < hard:
            raise VerifierLoadError(f"length_penalty: needs 0 <= soft < hard, got {soft}, {hard}")
        if unit not in ("words", "chars"):
            raise VerifierLoadError(f"length_penalty: unit is {unit!r}, expected words or chars")
        self._soft, self._hard = soft, hard
        self._words = unit == "words"
        self._penalty = _positive("length_penalty", penalty)

    def verify(self, problem: Problem, completion: str) -> Verdict:
        length = len(completion.split()) if self._words else len(completion)
        share = min(max((length - self._soft) / (self._hard - self._soft), 0.0), 1.0)
        return _penalized(share, self._penalty, length=length)


class RepetitionPenalty:
    """Falls with the share of n-grams that have occurred before: 0 up to `free`, -`penalty` when
    all have.

    The n-gram penalty of arXiv:2502.03373 (appendix C), as a share of the text. A word is a run of
    up to 16 letters or signs, or one character of a script without spaces; case does not count.

    Args:
        ngram: n, in words.
        free: share of repeated n-grams without a penalty; ordinary prose has about 0.05 at n = 4,
            worked solutions more.
        penalty: the full penalty, positive.
    """

    name = "repetition_penalty"
    shapes_only = True

    def __init__(self, *, ngram: int = 4, free: float = 0.2, penalty: float = 1.0) -> None:
        if ngram < 1 or not 0.0 <= free < 1.0:
            raise VerifierLoadError(
                f"repetition_penalty: needs ngram >= 1 and 0 <= free < 1, got {ngram} and {free}"
            )
        self._ngram, self._free = ngram, free
        self._penalty = _positive("repetition_penalty", penalty)

    def verify(self, problem: Problem, completion: str) -> Verdict:
        share = repeated_share(completion, self._ngram)
        beyond = max(share - self._free, 0.0) / (1.0 - self._free)
        return _penalized(beyond, self._penalty, repeated=round(share, 4))


def repeated_share(text: str, ngram: int) -> float:
    """The share of the n-grams of words that are not the first of their kind, in [0, 1)."""
    words = _WORD.findall(text.lower())
    total = len(words) - ngram + 1
    if total < 1:
        return 0.0
    return 1.0 - len({tuple(words[k : k + ngram]) for k in range(total)}) / total


def _penalized(share: float, penalty: float, **detail: float) -> Verdict:
    status = Status.CORRECT if share == 0 else Status.INCORRECT if share == 1 else Status.PARTIAL
    return Verdict(status=status, reward=0.0 if share == 0 else -penalty * share, detail=detail)


def _positive(name: str, penalty: float) -> float:
    if not 0.0 < penalty < float("inf"):
        raise VerifierLoadError(f"{name}: penalty is {penalty!r}, expected a positive number")
    return float(penalty)
