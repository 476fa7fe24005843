"""The policy-gradient losses and KL estimators: pure functions of tensors.

Layout: **ragged and flat**. The completion tokens of a micro-batch are concatenated into [T];
there is no padding and no mask. `sequence_index` [T] (int64) says which completion a token belongs
to; its values need neither be contiguous nor sorted. Masked completions are left out altogether.

A token's weight in the loss (`aggregation_weights`) is fixed from the lengths of the *whole* batch
of one optimizer step before it is cut into micro-batches. The loss is then a plain weighted sum
over tokens, so the sum over any partition into micro-batches and ranks is the loss of the whole
batch, and so is its gradient. (FSDP averages gradients over ranks: multiply by their number.) A
completion must not be split, since GSPO's ratio is a property of all its tokens.

Everything is computed in float32 at least, whatever the inputs are. docs/algorithms.md has the
formulas, the defaults and the departures from each paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rlvr.errors import ConfigError

Aggregation = Literal["token", "sequence", "constant"]
KlEstimator = Literal["k1", "k2", "k3"]

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are held below this before `exp`. float32 overflows at 88, and an infinite ratio times
an advantage of 0 is NaN; e^20 = 4.9e8 is already far beyond any ratio worth following, so a token
there has no gradient through its ratio. There is no lower limit: underflow to 0 is harmless."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings:
    """What `policy_loss` needs of the algorithm's configuration; same names, same defaults.

    Raises:
        ConfigError: if settings contradict each other.
    """

    loss: Literal["clip", "gspo", "cispo"] = "clip"
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = None
    old_logprobs: Literal["sampler", "learner"] = "sampler"
    importance: Literal["none", "tis", "mis"] = "none"
    importance_cap: float = 2.0
    kl_coef: float = 0.0
    kl_in: Literal["loss", "reward"] = "loss"
    kl_estimator: KlEstimator = "k3"
    entropy_coef: float = 0.0

    def __post_init__(self) -> None:
        if self.importance != "none" and self.old_logprobs == "sampler":
            raise ConfigError(
                f'importance = "{self.importance}" corrects from the sampler to the learner, but '
                'old_logprobs = "sampler" already has the sampler in the ratio: set '
                'old_logprobs = "learner", or importance = "none"'
            )
        if self.kl_in_loss and self.kl_estimator == "k1":
            raise ConfigError(
                'kl_estimator = "k1" in the loss has an expected gradient of zero and would only '
                'add noise: use "k2" (the exact gradient of the KL) or "k3", or kl_in = "reward"'
            )
        if self.dual_clip is not None and self.loss == "cispo":
            raise ConfigError(
                'dual_clip has no meaning with loss = "cispo", whose weights are clipped for '
                "either sign of the advantage: leave it out"
            )

    @property
    def kl_in_loss(self) -> bool:
        return self.kl_coef > 0 and self.kl_in == "loss"


class Surrogate(NamedTuple):
    """A policy-gradient loss by token, and what the clip did to it."""

    loss: Tensor
    """[T] To be minimised; with gradient."""
    ratio: Tensor
    """[T] Probability ratio before the clip; detached. GSPO: the sequence's, at each token."""
    clipped_low: Tensor
    """[T] bool: the lower bound was in force."""
    clipped_high: Tensor
    """[T] bool: the upper bound (or the dual clip) was in force."""


class LossOutput(NamedTuple):
    """What one micro-batch contributes to the step."""

    loss: Tensor
    """[] Call `.backward()` on it; gradients add up over micro-batches."""
    sums: dict[str, Tensor]
    """[] each, float64, detached. Add them over micro-batches and ranks; all but `loss` and
    `num_tokens` are sums over tokens: divide by `num_tokens` for the mean."""
    maxima: dict[str, Tensor]
    """[] each, detached. Take the maximum over micro-batches and ranks."""


def aggregation_weights(
    lengths: Sequence[int], aggregation: Aggregation, max_tokens: int
) -> list[float]:
    """The weight of each token of each completion in the loss of one optimizer step.

    With N completions of lengths l:

    - `token`: 1 / sum(l), every token counts the same (DAPO, arXiv:2503.14476);
    - `sequence`: 1 / (N * l), every completion counts the same, so the tokens of long ones count
      less (GRPO, arXiv:2402.03300);
    - `constant`: 1 / (N * max_tokens), no length bias (Dr. GRPO, arXiv:2503.20783).

    Args:
        lengths: [N] tokens of the completions that are trained on, in the whole batch of the
            optimizer step: all micro-batches, all ranks, masked ones left out.
        aggregation: as above.
        max_tokens: the limit of completions, in tokens; used by `constant` only.

    Returns:
        [N] The weight of each of the completion's tokens.

    Raises:
        ValueError: if a completion has no tokens.
    """
    if 0 in lengths:
        raise ValueError(
            f"completion {lengths.index(0)} of the batch has no tokens: leave it out of the lengths"
        )
    num_sequences, num_tokens = len(lengths), sum(lengths)
    if aggregation == "token":
        return [1 / num_tokens for _ in lengths]
    if aggregation == "sequence":
        return [1 / (num_sequences * length) for length in lengths]
    return [1 / (num_sequences * max_tokens) for _ in lengths]


def clip_surrogate(
    log_ratio: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Surrogate:
    """PPO's clipped surrogate with separate bounds, and optionally a dual clip.

    loss = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), which is -A times r held below
    1 + clip_high where A >= 0 and above 1 - clip_low where A < 0. The dual clip also holds r below
    `dual_clip` where A < 0. Sources: PPO arXiv:1707.06347 eq. 7; asymmetric bounds: DAPO
    arXiv:2503.14476 eq. 10; dual clip: arXiv:1912.09729.

    Args:
        log_ratio: [T] log pi - log pi_old, with gradient.
        advantages: [T]
        clip_low: > 0.
        clip_high: > 0.
        dual_clip: > 1, or `None` for none.
    """
    ratio = _bounded_exp(log_ratio)
    negative = advantages < 0
    upper_if_negative = torch.inf if dual_clip is None else dual_clip
    bounded = torch.where(
        negative,
        ratio.clamp(min=1 - clip_low, max=upper_if_negative),
        ratio.clamp(max=1 + clip_high),
    )
    ratio = ratio.detach()
    return Surrogate(
        loss=-advantages * bounded,
        ratio=ratio,
        clipped_low=negative & (ratio < 1 - clip_low),
        clipped_high=torch.where(
            negative, ratio > upper_if_negative, (advantages > 0) & (ratio > 1 + clip_high)
        ),
    )


def gspo_surrogate(
    log_ratio: Tensor,
    advantages: Tensor,
    sequence_index: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Surrogate:
    """The clipped surrogate of the length-normalised sequence ratio (GSPO, arXiv:2507.18071).

    s = exp(mean over the completion's tokens of log_ratio) replaces the token's ratio. The
    gradient flows through all tokens of the completion: with weight w at each token it is
    -w s A times the sum of their score functions, the paper's with `sequence` aggregation.

    Args:
        log_ratio: [T] log pi - log pi_old by token, with gradient; whole completions.
        advantages: [T] constant over a completion.
        sequence_index: [T] int64, which completion the token belongs to.
        clip_low, clip_high, dual_clip: as for `clip_surrogate`. The paper's clips are far
            narrower: 3e-4 and 4e-4.
    """
    _, sequence, lengths = torch.unique(sequence_index, return_inverse=True, return_counts=True)
    log_ratio_sums = log_ratio.new_zeros(len(lengths)).index_add(0, sequence, log_ratio)
    return clip_surrogate(
        (log_ratio_sums / lengths)[sequence],
        advantages,
        clip_low=clip_low,
        clip_high=clip_high,
        dual_clip=dual_clip,
    )


def cispo_surrogate(
    logprobs: Tensor,
    log_ratio: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> Surrogate:
    """Clip the importance weight, not the update (CISPO, MiniMax-M1, arXiv:2506.13585, eq. 4-5).

    loss = -sg(clip(r, 1 - clip_low, 1 + clip_high)) A log pi: every token keeps a gradient. The
    paper trains without the lower bound: `clip_low = 1`.

    Args:
        logprobs: [T] log pi, with gradient.
        log_ratio: [T] log pi - log pi_old; detached here.
        advantages: [T]
        clip_low: > 0.
        clip_high: > 0.
    """
    ratio = _bounded_exp(log_ratio.detach())
    low, high = 1 - clip_low, 1 + clip_high
    return Surrogate(
        loss=-ratio.clamp(min=low, max=high) * advantages * logprobs,
        ratio=ratio,
        clipped_low=(advantages != 0) & (ratio < low),
        clipped_high=(advantages != 0) & (ratio > high),
    )


def kl_divergence(logprobs: Tensor, ref_logprobs: Tensor, estimator: KlEstimator) -> Tensor:
    """Schulman's estimators of KL(pi || ref) by token, for tokens sampled from pi.

    With d = log ref - log pi: k1 = -d, k2 = d^2 / 2, k3 = exp(d) - 1 - d
    (http://joschu.net/blog/kl-approx.html). As *values* k1 and k3 are unbiased. As *losses* what
    counts is the expected gradient (arXiv:2510.01555, arXiv:2512.21852), on-policy:

    - k1 has none (E[grad log pi] = 0); `LossSettings` refuses it. In the reward it is exact.
    - k2 has that of KL(pi || ref): the exact one. In the reward it is biased.
    - k3 has that of KL(ref || pi), which agrees to first order near the reference. It is GRPO's.
      In the reward it is biased.

    Args:
        logprobs: [T] log pi, with or without gradient.
        ref_logprobs: [T] log ref.
        estimator: as above.

    Returns:
        [T]
    """
    delta = ref_logprobs - logprobs
    if estimator == "k1":
        return -delta
    if estimator == "k2":
        return delta.square() / 2
    delta = delta.clamp(max=LOG_RATIO_LIMIT)
    return torch.expm1(delta) - delta


def sequence_kl(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    sequence_index: Tensor,
    num_sequences: int,
    estimator: KlEstimator,
) -> Tensor:
    """The KL to the reference summed over each completion, for the KL in the reward.

    The completion's reward becomes r - kl_coef * this. Single estimates may be negative with k1.

    Args:
        logprobs: [T] log pi of the policy that sampled; detached here.
        ref_logprobs: [T] log ref.
        sequence_index: [T] int64, in [0, num_sequences).
        num_sequences: S.
        estimator: see `kl_divergence`; k1 gives the exact gradient.

    Returns:
        [S] Detached; nats.
    """
    kl = kl_divergence(_float(logprobs.detach()), _float(ref_logprobs), estimator)
    return kl.new_zeros(num_sequences).index_add(0, sequence_index, kl)


def importance_weights(
    old_logprobs: Tensor, sampler_logprobs: Tensor, kind: Literal["tis", "mis"], cap: float
) -> tuple[Tensor, Tensor]:
    """Token weights that correct for having sampled with the engine and not with the learner.

    With w = pi_learner / pi_sampler of the token:

    - `tis`, truncated: min(w, cap). Bounded variance, every token keeps a gradient (Yao et al.,
      "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025,
      https://fengyao.notion.site/off-policy-rl).
    - `mis`, masked: w where 1 / cap <= w <= cap, else 0. A token on which the two disagree that
      much is more likely a numerical fault than a sample. Two-sided and by token as IcePop
      (arXiv:2510.18855); masking rather than truncating is argued for in Liu et al., "When Speed
      Kills Stability", 2025, https://richardli.xyz/rl-collapse.

    Args:
        old_logprobs: [T] the learner's, at the start of the step.
        sampler_logprobs: [T] the engine's.
        kind: as above.
        cap: >= 1.

    Returns:
        The weights [T], detached, and where they were truncated or masked [T] bool.
    """
    weight = _bounded_exp((old_logprobs - sampler_logprobs).detach())
    if kind == "tis":
        return weight.clamp(max=cap), weight > cap
    outside = (weight > cap) | (weight < 1 / cap)
    return weight.masked_fill(outside, 0.0), outside


def policy_loss(
    settings: LossSettings,
    *,
    logprobs: Tensor,
    sampler_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    sequence_index: Tensor,
    old_logprobs: Tensor | None = None,
    ref_logprobs: Tensor | None = None,
    entropy: Tensor | None = None,
) -> LossOutput:
    """The loss of one micro-batch: sum of weights * (importance * surrogate + KL - entropy).

    Args:
        settings: which surrogate, and its corrections.
        logprobs: [T] log pi of the tokens, T >= 1, with gradient.
        sampler_logprobs: [T] what the engine sampled with.
        advantages: [T] each completion's advantage at its tokens.
        weights: [T] from `aggregation_weights`, at each token.
        sequence_index: [T] int64, which completion a token belongs to.
        old_logprobs: [T] the learner's at the start of the step; `None` when no optimizer step was
            taken since, so that they are `logprobs` themselves.
        ref_logprobs: [T] the reference model's; needed for a KL in the loss.
        entropy: [T] of the distribution each token was drawn from, nats, with gradient; needed for
            an entropy bonus.

    Returns:
        The loss and its metrics. Sums: `loss`, `num_tokens`, `ratio`, `clipped_low`,
        `clipped_high`, `sampler_ratio` (learner / sampler), `sampler_kl_k1` and `sampler_kl_k3`
        (KL(sampler || learner)), `importance_weight`, `importance_capped`, and when given
        `entropy` and `ref_kl`. Maxima: `ratio`, `sampler_ratio`.

    Raises:
        ValueError: if the settings need `ref_logprobs` or `entropy` and they are missing.
    """
    logprobs, sampler_logprobs = _float(logprobs), _float(sampler_logprobs)
    start = logprobs.detach() if old_logprobs is None else _float(old_logprobs)
    denominator = sampler_logprobs if settings.old_logprobs == "sampler" else start
    surrogate = _surrogate(
        settings, logprobs, logprobs - denominator, _float(advantages), sequence_index
    )

    if settings.importance == "none":
        importance, capped = torch.ones_like(start), torch.zeros_like(start, dtype=torch.bool)
    else:
        importance, capped = importance_weights(
            start, sampler_logprobs, settings.importance, settings.importance_cap
        )
    token_loss = importance * surrogate.loss

    sampler_ratio = _bounded_exp(start - sampler_logprobs)
    per_token = {
        "ratio": surrogate.ratio,
        "clipped_low": surrogate.clipped_low,
        "clipped_high": surrogate.clipped_high,
        "sampler_ratio": sampler_ratio,
        "sampler_kl_k1": kl_divergence(sampler_logprobs, start, "k1"),
        "sampler_kl_k3": kl_divergence(sampler_logprobs, start, "k3"),
        "importance_weight": importance,
        "importance_capped": capped,
    }
    if ref_logprobs is not None:
        ref_kl = kl_divergence(logprobs, _float(ref_logprobs), settings.kl_estimator)
        per_token["ref_kl"] = ref_kl
        if settings.kl_in_loss:
            token_loss = token_loss + settings.kl_coef * ref_kl
    elif settings.kl_in_loss:
        raise ValueError("a KL in the loss needs the reference model's logprobs: pass ref_logprobs")
    if entropy is not None:
        per_token["entropy"] = entropy
        if settings.entropy_coef > 0:
            token_loss = token_loss - settings.entropy_coef * _float(entropy)
    elif settings.entropy_coef > 0:
        raise ValueError("an entropy bonus needs the entropy of each token: pass entropy")

    loss = (weights * token_loss).sum()
    sums = {name: value.detach().sum(dtype=torch.float64) for name, value in per_token.items()}
    sums["loss"] = loss.detach().double()
    sums["num_tokens"] = torch.tensor(len(logprobs), dtype=torch.float64, device=loss.device)
    maxima = {"ratio": surrogate.ratio.amax(), "sampler_ratio": sampler_ratio.amax()}
    return LossOutput(loss, sums, maxima)


def _surrogate(
    settings: LossSettings,
    logprobs: Tensor,
    log_ratio: Tensor,
    advantages: Tensor,
    sequence_index: Tensor,
) -> Surrogate:
    low, high, dual = settings.clip_low, settings.clip_high, settings.dual_clip
    if settings.loss == "clip":
        return clip_surrogate(log_ratio, advantages, clip_low=low, clip_high=high, dual_clip=dual)
    if settings.loss == "gspo":
        return gspo_surrogate(
            log_ratio, advantages, sequence_index, clip_low=low, clip_high=high, dual_clip=dual
        )
    return cispo_surrogate(logprobs, log_ratio, advantages, clip_low=low, clip_high=high)


def _bounded_exp(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(max=LOG_RATIO_LIMIT).exp()


def _float(values: Tensor) -> Tensor:
    """At least float32: bfloat16 logprobs would turn into ratios of 1 +- 0.8 %."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
