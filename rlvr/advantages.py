"""Advantages: how much better a completion did than it was expected to. Pure functions of rewards.

Conventions shared by every estimator:

- `None` is a masked member (a fault of ours, see `Status.ERROR`). It takes no part in any mean or
  std, and gets `None` back: the result is that of the batch without it.
- Rewards that are all the same carry no signal: every advantage is exactly 0.0, never rounding
  noise divided by an epsilon. Fewer than two valid members are that case too: a lone reward has
  nothing to be compared with, and training on it raw would reward what is merely easy.
- The std is the population's (ddof = 0). The group is all there is to standardise, not a sample
  from which a std is estimated, and the advantages then have mean square 1 whatever the number of
  valid members; with ddof = 1 masking a member would change the step size. (The sample std makes
  advantages smaller by sqrt((n - 1) / n): 6 % at n = 8.)

docs/algorithms.md has the formulas side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Literal

from verifiers.verdict import Status, Verdict

Rewards = Sequence[float | None]
Advantages = tuple[float | None, ...]
Estimator = Literal["grpo", "dr_grpo", "rloo", "reinforce_pp"]
GroupKind = Literal["all_right", "all_wrong", "mixed", "masked"]

STD_EPSILON = 1e-6
"""Added to the std. Small against the std of any real rewards (0.33 for 1 right of 8)."""

SAME_REWARD_TOLERANCE = 1e-9
"""Rewards closer than this, absolutely or relatively, are the same: the gap is float rounding."""


def grpo(rewards: Rewards) -> Advantages:
    """(r - mean) / (std + epsilon) of the group (DeepSeekMath, arXiv:2402.03300, section 4.1.2).

    Args:
        rewards: [G] of one group; `None` for masked members.

    Returns:
        [G] Advantages; `None` where the reward is.
    """
    return _estimate(rewards, _standardized)


def dr_grpo(rewards: Rewards) -> Advantages:
    """r - mean of the group: GRPO without the std (Dr. GRPO, arXiv:2503.20783).

    Dividing by the std up-weights problems that are nearly always or nearly never solved. Pair
    with `aggregation = "constant"` for the paper's other half, no length bias.

    Args:
        rewards: [G] of one group; `None` for masked members.

    Returns:
        [G] Advantages; `None` where the reward is.
    """
    return _estimate(rewards, _centered)


def rloo(rewards: Rewards) -> Advantages:
    """r minus the mean of the *other* members: REINFORCE leave-one-out (arXiv:2402.14740).

    The baseline does not depend on the member itself, so the gradient is unbiased. Equal to
    n / (n - 1) times `dr_grpo`, n being the number of valid members.

    Args:
        rewards: [G] of one group; `None` for masked members.

    Returns:
        [G] Advantages; `None` where the reward is.
    """
    return _estimate(rewards, _leave_one_out)


def reinforce_pp(rewards: Rewards) -> Advantages:
    """(r - mean) / (std + epsilon) over the whole batch (REINFORCE++, arXiv:2501.03262).

    There is no baseline for each problem: a group whose rewards are all the same still has a
    gradient, unless the whole batch is the same.

    Args:
        rewards: [P * G] of all groups of the batch; `None` for masked members.

    Returns:
        [P * G] Advantages; `None` where the reward is.
    """
    return _estimate(rewards, _standardized)


_OVER_GROUP: dict[str, Callable[[Rewards], Advantages]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
}
_OVER_BATCH: dict[str, Callable[[Rewards], Advantages]] = {"reinforce_pp": reinforce_pp}
ESTIMATORS = (*_OVER_GROUP, *_OVER_BATCH)


def compute(kind: Estimator, rewards_P_G: Sequence[Rewards]) -> tuple[Advantages, ...]:
    """Advantages of a batch, by the estimator's name. Groups may differ in size.

    Args:
        kind: one of `ESTIMATORS`.
        rewards_P_G: [P][G] rewards; `None` for masked members.

    Returns:
        [P][G] Advantages; `None` where the reward is.

    Raises:
        ValueError: if there is no estimator of that name.
    """
    if kind in _OVER_GROUP:
        return tuple(_OVER_GROUP[kind](rewards) for rewards in rewards_P_G)
    if kind in _OVER_BATCH:
        flat = iter(_OVER_BATCH[kind](list(chain.from_iterable(rewards_P_G))))
        return tuple(tuple(next(flat) for _ in rewards) for rewards in rewards_P_G)
    raise ValueError(f"no advantage estimator {kind!r}; choose one of {', '.join(ESTIMATORS)}")


def zero_variance(rewards: Rewards) -> bool:
    """Whether a group carries no group-relative signal: fewer than two valid, or all the same.

    This is what dynamic sampling refills. Decided by the rewards given: with penalties included,
    a group that is all right may still have a signal (overlong shaping).
    """
    return _all_same([reward for reward in rewards if reward is not None])


def group_kind(verdicts: Sequence[Verdict | None]) -> GroupKind:
    """Classify a group by what its verifier said, for reports of how hard the problems are.

    Decided by the statuses, not by rewards, whose scale is the verifier's own business:

    - `masked`: fewer than two members were judged (the others are `error`, or not scored);
    - `all_right`: every judged member is `correct`;
    - `all_wrong`: every judged member is `incorrect`, `no_answer` or `limit`;
    - `mixed`: anything else. One `partial` is enough, so graded rewards are mostly here, even in
      the rare group where all grades are equal; `zero_variance` says whether there is a signal.

    Args:
        verdicts: [G] of one group; `None` where not scored.
    """
    statuses = [v.status for v in verdicts if v is not None and v.status is not Status.ERROR]
    if len(statuses) < 2:
        return "masked"
    if all(status is Status.CORRECT for status in statuses):
        return "all_right"
    if all(status not in (Status.CORRECT, Status.PARTIAL) for status in statuses):
        return "all_wrong"
    return "mixed"


def overlong_penalty(length: int, max_tokens: int, buffer_tokens: int, penalty: float) -> float:
    """Soft overlong punishment, added to the reward (DAPO, arXiv:2503.14476, eq. 13).

    0 up to `max_tokens - buffer_tokens`, then linear, down to `-penalty` at `max_tokens` and
    beyond. The paper's penalty is 1.

    Args:
        length: tokens of the completion.
        max_tokens: the limit of completions, in tokens.
        buffer_tokens: tokens over which the penalty grows, >= 1.
        penalty: the largest penalty, >= 0.

    Returns:
        A reward <= 0.
    """
    excess = length - (max_tokens - buffer_tokens)
    if excess <= 0:
        return 0.0
    return -penalty * min(excess / buffer_tokens, 1.0)


def _estimate(rewards: Rewards, estimate: Callable[[list[float]], list[float]]) -> Advantages:
    """Apply an estimator to the valid rewards and put the masked ones back in place."""
    valid = [reward for reward in rewards if reward is not None]
    estimated = iter([0.0] * len(valid) if _all_same(valid) else estimate(valid))
    return tuple(None if reward is None else next(estimated) for reward in rewards)


def _all_same(rewards: list[float]) -> bool:
    if len(rewards) < 2:
        return True
    tolerance = SAME_REWARD_TOLERANCE
    return math.isclose(min(rewards), max(rewards), rel_tol=tolerance, abs_tol=tolerance)


def _centered(rewards: list[float]) -> list[float]:
    # fsum rounds once, so the order of the members cannot change the result.
    mean = math.fsum(rewards) / len(rewards)
    return [reward - mean for reward in rewards]


def _standardized(rewards: list[float]) -> list[float]:
    centered = _centered(rewards)
    std = math.sqrt(math.fsum(c * c for c in centered) / len(centered))
    return [c / (std + STD_EPSILON) for c in centered]


def _leave_one_out(rewards: list[float]) -> list[float]:
    n = len(rewards)
    return [c * n / (n - 1) for c in _centered(rewards)]
