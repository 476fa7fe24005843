"""How completions are drawn."""

from __future__ import annotations

from dataclasses import dataclass

from rlvr.config import RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling parameters of one request."""

    max_tokens: int
    """Completion length limit in tokens."""
    temperature: float = 1.0
    """0 is greedy: the most likely token, always."""
    top_p: float = 1.0
    """Nucleus; must be 1 in training, where the learner cannot see it."""
    stop: tuple[str, ...] = ()
    """Stop strings. They stay in the completion."""
    logprobs: bool = True
    """Whether each token comes with its log-probability: training needs it, and it takes a tenth of
    the time of a very small model."""

    @classmethod
    def for_training(cls, config: RunConfig) -> Sampling:
        rollout = config.rollout
        return cls(
            max_tokens=rollout.max_tokens, temperature=rollout.temperature, stop=rollout.stop
        )

    @classmethod
    def for_evaluation(cls, config: RunConfig) -> Sampling:
        return cls(
            max_tokens=config.eval.max_tokens or config.rollout.max_tokens,
            temperature=config.eval.temperature,
            top_p=config.eval.top_p,
            stop=config.rollout.stop,
        )
