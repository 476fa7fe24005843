"""The things that flow through the loop: problem -> rollouts -> group -> batch.

Axes in names and docs: `P` problems of a step, `G` completions of a group, `T` tokens of one
completion. Example of one group of two completions::

    Group(
        index=17,
        problem=Problem(id="add-3", prompt="What is 1 + 2?", verifier="number", answer="3"),
        prompt_token_ids=(1, 42, 7),
        rollouts=(
            Rollout(
                completion=Completion(
                    text="3",
                    token_ids=(35, 2),
                    logprobs=(-0.4, -0.1),
                    versions=(VersionSpan(version=5, start=0, end=2),),
                    finish_reason="stop",
                ),
                verdict=Verdict.correct(),
            ),
            ...
        ),
    )
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from verifiers.problem import Message, Problem
from verifiers.verdict import Status, Verdict

__all__ = [
    "Batch",
    "Completion",
    "FinishReason",
    "Group",
    "Message",
    "Problem",
    "Rollout",
    "Status",
    "Verdict",
    "VersionSpan",
]

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSpan:
    """Tokens [start, end) of a completion were sampled with policy `version`."""

    version: int
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sampled continuation of a prompt."""

    text: str
    """What the verifier sees: decoded, without special tokens."""
    token_ids: tuple[int, ...]
    """[T] Exactly as sampled (never re-tokenised), the end-of-sequence token included."""
    logprobs: tuple[float, ...]
    """[T] The sampler's log-probability of each token, under the distribution sampled from; empty
    where it was not asked for (`Sampling.logprobs`)."""
    versions: tuple[VersionSpan, ...]
    """Which policy version sampled which tokens; the spans tile [0, T)."""
    finish_reason: FinishReason
    """`stop` (end of sequence or stop string), `length` (max_tokens reached), `abort`."""

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"

    @property
    def oldest_version(self) -> int:
        return min(span.version for span in self.versions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A completion and, once scored, its verdict."""

    completion: Completion
    verdict: Verdict | None = None
    """Null until scored."""
    penalty: float = 0.0
    """Added to the verdict's reward by the trainer (overlong shaping, KL in the reward). Usually
    <= 0, but a single completion's KL estimate may be negative."""

    @property
    def reward(self) -> float | None:
        """The reward the advantages see; null when not scored, or when judging failed."""
        if self.verdict is None or self.verdict.reward is None:
            return None
        return self.verdict.reward + self.penalty


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All completions of one problem: the unit of sampling, of advantages and of packing."""

    index: int
    """Position in the run's stream of groups: 0, 1, 2, ... Unique; survives a resume."""
    problem: Problem
    prompt_token_ids: tuple[int, ...]
    """[prompt length] What the model was fed, chat template applied."""
    rollouts: tuple[Rollout, ...]
    """[G]"""

    @property
    def rewards(self) -> list[float | None]:
        """[G] Rewards; null for members that are masked."""
        return [rollout.reward for rollout in self.rollouts]

    @property
    def oldest_version(self) -> int:
        return min(rollout.completion.oldest_version for rollout in self.rollouts)

    def with_verdicts(self, verdicts: list[Verdict]) -> Group:
        rollouts = tuple(
            replace(rollout, verdict=verdict)
            for rollout, verdict in zip(self.rollouts, verdicts, strict=True)
        )
        return replace(self, rollouts=rollouts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one learner step consumes."""

    step: int
    """The step this batch drives; the policy becomes version `step + 1`."""
    groups: tuple[Group, ...]
    """[P]"""
    advantages: tuple[tuple[float | None, ...], ...]
    """[P][G] One advantage a completion; null for masked members, which get no gradient."""
