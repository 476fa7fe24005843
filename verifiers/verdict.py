"""The verdict: what a verifier says of one completion."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How a completion was judged. Only `ERROR` has no reward: it is our fault, not the model's."""

    CORRECT = "correct"
    """Verified."""
    PARTIAL = "partial"
    """A graded score strictly between wrong and right."""
    INCORRECT = "incorrect"
    """An answer was found and it is wrong."""
    NO_ANSWER = "no_answer"
    """Nothing could be extracted from the completion."""
    LIMIT = "limit"
    """The completion's own program or expression ran out of time, memory, output or processes."""
    ERROR = "error"
    """Our fault (sandbox down, judge unreachable, gold unparseable, verifier crashed): retried,
    then masked out of the group's statistics. Never scored 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One verifier's judgement of one completion.

    Raises:
        ValueError: if `reward` is not a finite number, or is present with `ERROR`, or is
            missing without it.
    """

    status: Status
    reward: float | None
    """Finite; null if and only if `status` is `ERROR`. Not necessarily binary, or in [0, 1]."""
    detail: dict[str, Any] = field(default_factory=dict)
    """Small and JSON-able: what a person needs to see why."""
    latency_s: float = 0.0
    """Seconds spent judging, retries included."""

    def __post_init__(self) -> None:
        if self.status is Status.ERROR:
            if self.reward is not None:
                raise ValueError(f"a verdict with status error has no reward, got {self.reward!r}")
        elif self.reward is None or not math.isfinite(self.reward):
            raise ValueError(
                f"a verdict with status {self.status} needs a finite reward, got {self.reward!r}"
            )

    @classmethod
    def correct(cls, reward: float = 1.0, **detail: Any) -> Verdict:
        return cls(status=Status.CORRECT, reward=reward, detail=detail)

    @classmethod
    def incorrect(cls, reward: float = 0.0, **detail: Any) -> Verdict:
        return cls(status=Status.INCORRECT, reward=reward, detail=detail)

    @classmethod
    def no_answer(cls, reward: float = 0.0, **detail: Any) -> Verdict:
        return cls(status=Status.NO_ANSWER, reward=reward, detail=detail)

    @classmethod
    def limit(cls, reward: float = 0.0, **detail: Any) -> Verdict:
        return cls(status=Status.LIMIT, reward=reward, detail=detail)

    @classmethod
    def error(cls, **detail: Any) -> Verdict:
        """Say why in `reason`; `permanent=True` where trying again cannot help."""
        return cls(status=Status.ERROR, reward=None, detail=detail)

    @classmethod
    def graded(cls, score: float, **detail: Any) -> Verdict:
        """A verdict from a score in [0, 1]: 1 is correct, 0 incorrect, between is partial."""
        if not 0.0 <= score <= 1.0:
            raise ValueError(f"a graded score lies in [0, 1], got {score!r}")
        status = (
            Status.CORRECT if score == 1.0 else Status.INCORRECT if score == 0.0 else Status.PARTIAL
        )
        return cls(status=status, reward=float(score), detail=detail)

    def to_json(self) -> dict[str, Any]:
        """The fields of a score file's line, without the id."""
        return {
            "status": self.status.value,
            "reward": self.reward,
            "detail": self.detail,
            "latency_s": round(self.latency_s, 6),
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Verdict:
        return cls(
            status=Status(row["status"]),
            reward=row["reward"],
            detail=row.get("detail") or {},
            latency_s=row.get("latency_s", 0.0),
        )
