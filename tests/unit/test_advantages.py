"""Advantages: hand-worked groups, then the properties every estimator must have."""

import math
import statistics
from typing import get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rlvr import advantages
from rlvr.config import AlgorithmConfig
from verifiers.verdict import Status, Verdict

ESTIMATORS = {
    "grpo": advantages.grpo,
    "dr_grpo": advantages.dr_grpo,
    "rloo": advantages.rloo,
    "reinforce_pp": advantages.reinforce_pp,
}
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
reward = st.floats(-10, 10).map(lambda value: round(value, 3))
rewards = st.lists(reward, min_size=2, max_size=12)
masked_rewards = st.lists(st.none() | reward, min_size=0, max_size=12)


def valid(values):
    return [value for value in values if value is not None]


def test_grpo_by_hand():
    # mean 0.25, population std sqrt(0.1875) = 0.433013
    assert advantages.grpo([1.0, 0.0, 0.0, 0.0]) == pytest.approx(
        [1.7320508, -0.5773503, -0.5773503, -0.5773503], rel=1e-5
    )


def test_dr_grpo_by_hand():
    assert advantages.dr_grpo([1.0, 0.0, 0.0, 0.0]) == (0.75, -0.25, -0.25, -0.25)


def test_rloo_by_hand():
    # baselines: 0 for the first; (1 + 0 + 0) / 3 for the others
    assert advantages.rloo([1.0, 0.0, 0.0, 0.0]) == pytest.approx([1.0, -1 / 3, -1 / 3, -1 / 3])


def test_reinforce_pp_by_hand_keeps_the_signal_between_groups():
    # one batch mean (0.5) and std (0.5): the uniform groups are not zero
    assert advantages.compute("reinforce_pp", [[1.0, 1.0], [0.0, 0.0]]) == (
        (pytest.approx(1.0, rel=1e-5),) * 2,
        (pytest.approx(-1.0, rel=1e-5),) * 2,
    )


def test_masked_member_by_hand():
    assert advantages.dr_grpo([1.0, None, 0.0]) == (0.5, None, -0.5)
    assert advantages.rloo([1.0, None, 0.0]) == (1.0, None, -1.0)


@given(rewards)
def test_grpo_agrees_with_the_statistics_module(values):
    assume(not advantages.zero_variance(values))
    std = statistics.pstdev(values)
    expected = [(v - statistics.fmean(values)) / (std + advantages.STD_EPSILON) for v in values]
    assert advantages.grpo(values) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(rewards)
def test_rloo_agrees_with_leaving_one_out_literally(values):
    assume(not advantages.zero_variance(values))
    expected = [
        value - statistics.fmean(values[:i] + values[i + 1 :]) for i, value in enumerate(values)
    ]
    assert advantages.rloo(values) == pytest.approx(expected, abs=1e-9)


@every_estimator
@given(values=masked_rewards)
def test_masked_members_change_nothing_and_stay_masked(estimator, values):
    estimated = estimator(values)
    assert [a is None for a in estimated] == [r is None for r in values]
    assert valid(estimated) == list(estimator(valid(values)))


@every_estimator
@given(values=masked_rewards, shift=reward)
def test_adding_a_constant_to_all_rewards_changes_nothing(estimator, values, shift):
    shifted = estimator([None if v is None else v + shift for v in values])
    assert valid(shifted) == pytest.approx(valid(estimator(values)), rel=1e-5, abs=1e-9)


@every_estimator
@given(values=masked_rewards, data=st.data())
def test_order_of_members_does_not_matter(estimator, values, data):
    order = data.draw(st.permutations(range(len(values))))
    estimated = estimator(values)
    assert estimator([values[i] for i in order]) == tuple(estimated[i] for i in order)


@every_estimator
@given(values=masked_rewards)
def test_advantages_sum_to_zero(estimator, values):
    assert math.fsum(valid(estimator(values))) == pytest.approx(0.0, abs=1e-9)


@every_estimator
@pytest.mark.parametrize(
    "values",
    [[0.1] * 3, [0.1 + 0.2, 0.3, 0.3], [1e6 / 3] * 7, [-1.0] * 2, [0.7], [None, 0.7, None]],
)
def test_no_signal_gives_exact_zeros(estimator, values):
    assert set(valid(estimator(values))) == {0.0}
    assert advantages.zero_variance(values)


@every_estimator
def test_empty_and_wholly_masked_groups_are_fine(estimator):
    assert estimator([]) == ()
    assert estimator([None, None]) == (None, None)


@given(rewards, st.floats(0.5, 4))
def test_grpo_does_not_depend_on_the_scale_of_rewards(values, scale):
    scaled = advantages.grpo([scale * value for value in values])
    # epsilon / std, with rewards at least 1e-3 apart
    assert scaled == pytest.approx(advantages.grpo(values), rel=2e-2)


@pytest.mark.parametrize("masked", range(7))
def test_grpo_advantages_have_mean_square_one_however_many_are_masked(masked):
    values = [1.0, 0.0, *([0.0] * (6 - masked)), *([None] * masked)]
    squares = [a * a for a in valid(advantages.grpo(values))]
    assert statistics.fmean(squares) == pytest.approx(1.0, rel=1e-4)


def test_dr_grpo_keeps_the_scale_that_grpo_normalises_away():
    easy, medium = [1.0] * 7 + [0.0], [1.0] * 4 + [0.0] * 4
    assert abs(advantages.grpo(easy)[-1]) > abs(advantages.grpo(medium)[-1])
    assert sum(map(abs, advantages.dr_grpo(easy))) < sum(map(abs, advantages.dr_grpo(medium)))


@given(st.lists(masked_rewards, max_size=5))
def test_compute_applies_group_estimators_to_each_group(groups):
    for kind in ("grpo", "dr_grpo", "rloo"):
        expected = tuple(ESTIMATORS[kind](group) for group in groups)
        assert advantages.compute(kind, groups) == expected


@given(st.lists(masked_rewards, max_size=5))
def test_compute_applies_batch_estimators_to_the_whole_batch(groups):
    estimated = advantages.compute("reinforce_pp", groups)
    assert [len(group) for group in estimated] == [len(group) for group in groups]
    flat = [r for group in groups for r in group]
    assert [a for group in estimated for a in group] == list(advantages.reinforce_pp(flat))


def test_compute_refuses_an_unknown_name():
    with pytest.raises(ValueError, match="no advantage estimator 'ppo'; choose one of grpo"):
        advantages.compute("ppo", [[1.0, 0.0]])  # pyright: ignore[reportArgumentType]


def test_every_configurable_estimator_exists():
    names = get_args(AlgorithmConfig.model_fields["advantage"].annotation)
    assert set(advantages.ESTIMATORS) == set(names) == set(ESTIMATORS)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, 0.0], False), ([1.0, 1.0, None], True), ([1.0, None, 0.5], False), ([], True)],
)
def test_zero_variance(values, expected):
    assert advantages.zero_variance(values) is expected


RIGHT, WRONG, FAULT = Verdict.correct(), Verdict.incorrect(), Verdict.error()
GRADED = Verdict.graded(0.5)


@pytest.mark.parametrize(
    ("verdicts", "kind"),
    [
        ([RIGHT, RIGHT], "all_right"),
        ([RIGHT, RIGHT, FAULT], "all_right"),
        ([RIGHT, Verdict.correct(reward=0.9)], "all_right"),
        ([WRONG, Verdict.no_answer(), Verdict.limit()], "all_wrong"),
        ([WRONG, Verdict.incorrect(reward=-1.0)], "all_wrong"),
        ([RIGHT, WRONG], "mixed"),
        ([GRADED, GRADED], "mixed"),
        ([WRONG, GRADED], "mixed"),
        ([FAULT, FAULT], "masked"),
        ([RIGHT, FAULT, None], "masked"),
        ([], "masked"),
    ],
)
def test_group_kind(verdicts, kind):
    assert advantages.group_kind(verdicts) == kind


def test_every_status_has_a_group_kind():
    for status in Status:
        verdict = Verdict(status=status, reward=None if status is Status.ERROR else 0.0)
        assert advantages.group_kind([verdict] * 2) in get_args(advantages.GroupKind)


@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (99, -0.95), (100, -1.0), (120, -1.0)],
)
def test_overlong_penalty_by_hand(length, expected):
    penalty = advantages.overlong_penalty(length, max_tokens=100, buffer_tokens=20, penalty=1.0)
    assert penalty == pytest.approx(expected)


@given(st.integers(0, 200), st.integers(1, 100), st.integers(1, 100), st.floats(0, 5))
def test_overlong_penalty_is_bounded_and_never_rewards_length(length, limit, buffer, penalty):
    here = advantages.overlong_penalty(length, limit, buffer, penalty)
    longer = advantages.overlong_penalty(length + 1, limit, buffer, penalty)
    assert -penalty <= longer <= here <= 0
