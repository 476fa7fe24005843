"""Losses: hand-worked tokens, slow loops from the papers, finite differences, properties."""

import math
from dataclasses import fields, replace
from typing import NamedTuple

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from rlvr import advantages as adv
from rlvr.config import AlgorithmConfig
from rlvr.errors import ConfigError
from rlvr.loss import (
    LOG_RATIO_LIMIT,
    LossSettings,
    aggregation_weights,
    cispo_surrogate,
    clip_surrogate,
    gspo_surrogate,
    importance_weights,
    kl_divergence,
    policy_loss,
    sequence_kl,
)

CLIP = {"clip_low": 0.2, "clip_high": 0.28}
every_loss = pytest.mark.parametrize("loss", ["clip", "gspo", "cispo"])


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def leaf(values):
    return values.detach().clone().requires_grad_()


def log(*ratios):
    return f64(*ratios).log()


class Tokens(NamedTuple):
    """A whole batch, ragged and flat, in float64 so that comparisons can be tight."""

    lengths: list[int]
    logprobs: torch.Tensor
    sampler_logprobs: torch.Tensor
    advantages: torch.Tensor
    weights: torch.Tensor
    sequence_index: torch.Tensor
    old_logprobs: torch.Tensor
    ref_logprobs: torch.Tensor
    entropy: torch.Tensor

    def keywords(self, sequences=None):
        """`policy_loss` arguments of some of the sequences, in the order given."""
        sequences = range(len(self.lengths)) if sequences is None else sequences
        at = torch.cat([torch.nonzero(self.sequence_index == s).flatten() for s in sequences])
        return {name: value[at] for name, value in self._asdict().items() if name != "lengths"}


def make_tokens(seed, num_sequences=5, aggregation="token", spread=0.3):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 7, (num_sequences,), generator=generator).tolist()
    index = torch.repeat_interleave(torch.arange(num_sequences), torch.tensor(lengths))
    total = sum(lengths)

    def noise(n, scale):
        return scale * torch.randn(n, generator=generator, dtype=torch.float64)

    logprobs = -noise(total, 2.0).abs() - 0.1
    per_sequence = aggregation_weights(lengths, aggregation, max_tokens=8)
    return Tokens(
        lengths=lengths,
        logprobs=logprobs,
        sampler_logprobs=logprobs + noise(total, spread),
        advantages=noise(num_sequences, 1.0)[index],
        weights=torch.tensor(per_sequence, dtype=torch.float64)[index],
        sequence_index=index,
        old_logprobs=logprobs + noise(total, spread),
        ref_logprobs=logprobs + noise(total, spread),
        entropy=noise(total, 1.0).abs(),
    )


# --- aggregation ---------------------------------------------------------------------------------


def test_aggregation_weights_by_hand():
    assert aggregation_weights([1, 3], "token", 8) == [1 / 4, 1 / 4]
    assert aggregation_weights([1, 3], "sequence", 8) == [1 / 2, 1 / 6]
    assert aggregation_weights([1, 3], "constant", 8) == [1 / 16, 1 / 16]
    assert aggregation_weights([], "token", 8) == []


@given(st.lists(st.integers(1, 50), min_size=1), st.sampled_from(["token", "sequence"]))
def test_token_and_sequence_weights_make_a_mean(lengths, aggregation):
    weights = aggregation_weights(lengths, aggregation, 50)
    total = math.fsum(w * n for w, n in zip(weights, lengths, strict=True))
    assert total == pytest.approx(1.0)


def test_an_empty_completion_is_named():
    with pytest.raises(ValueError, match="completion 2 of the batch has no tokens"):
        aggregation_weights([4, 1, 0], "sequence", 8)


def test_dr_grpo_has_no_length_bias_and_sequence_means_have():
    """A wrong answer's token gets the same push whether the answer is 2 or 200 tokens long."""
    lengths = [2, 2, 200, 200]
    advantages = adv.dr_grpo([1.0, 0.0, 1.0, 0.0])
    constant = aggregation_weights(lengths, "constant", 256)
    push = [w * a for w, a in zip(constant, advantages, strict=True)]
    assert push[0] == push[2] and push[1] == push[3]
    sequence = aggregation_weights(lengths, "sequence", 256)
    assert sequence[1] == pytest.approx(100 * sequence[3])


# --- surrogates ----------------------------------------------------------------------------------


def test_clip_by_hand():
    log_ratio = leaf(log(1.0, 1.5, 0.5, 1.5, 0.5, 1.9))
    advantages = f64(2.0, 2.0, 2.0, -2.0, -2.0, 0.0)
    result = clip_surrogate(log_ratio, advantages, **CLIP)
    assert result.loss.tolist() == pytest.approx([-2.0, -2.56, -1.0, 3.0, 1.6, 0.0])
    assert result.clipped_high.tolist() == [False, True, False, False, False, False]
    assert result.clipped_low.tolist() == [False, False, False, False, True, False]
    assert result.ratio.tolist() == pytest.approx([1.0, 1.5, 0.5, 1.5, 0.5, 1.9])
    result.loss.sum().backward()
    # d loss / d log_ratio = -A r where the clip is not in force, else nothing
    assert log_ratio.grad.tolist() == pytest.approx([-2.0, 0.0, -1.0, 3.0, 0.0, 0.0])


def test_dual_clip_by_hand():
    log_ratio = leaf(log(4.0, 2.0, 4.0))
    result = clip_surrogate(log_ratio, f64(-1.0, -1.0, 1.0), **CLIP, dual_clip=3.0)
    assert result.loss.tolist() == pytest.approx([3.0, 2.0, -1.28])
    assert result.clipped_high.tolist() == [True, False, True]
    result.loss.sum().backward()
    assert log_ratio.grad.tolist() == pytest.approx([0.0, 2.0, 0.0])


@given(
    st.floats(-3, 3), st.floats(-3, 3), st.floats(0.01, 0.99), st.floats(0.01, 2), st.floats(1.1, 5)
)
def test_clip_is_the_papers_min_and_max(log_ratio, advantage, low, high, dual):
    ratio = math.exp(log_ratio)
    surrogate = min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)
    arguments = (f64(log_ratio), f64(advantage))
    plain = clip_surrogate(*arguments, clip_low=low, clip_high=high)
    assert plain.loss.item() == pytest.approx(-surrogate)
    bounded = max(surrogate, dual * advantage) if advantage < 0 else surrogate
    dualled = clip_surrogate(*arguments, clip_low=low, clip_high=high, dual_clip=dual)
    assert dualled.loss.item() == pytest.approx(-bounded)


@given(st.integers(0, 1000))
@settings(max_examples=25)
def test_tokens_count_as_clipped_exactly_when_the_clip_takes_their_gradient(seed):
    tokens = make_tokens(seed)
    log_ratio = leaf(tokens.logprobs - tokens.old_logprobs)
    result = clip_surrogate(log_ratio, tokens.advantages, **CLIP, dual_clip=1.5)
    result.loss.sum().backward()
    assert torch.equal(result.clipped_low | result.clipped_high, log_ratio.grad == 0)


def test_gspo_by_hand():
    # sequence 7: ratio sqrt(1.2 * 0.9) = 1.03923 in range; sequence 3: 0.5 clipped at 0.8
    log_ratio = leaf(log(1.2, 0.5, 0.9))
    index = torch.tensor([7, 3, 7])
    result = gspo_surrogate(log_ratio, f64(1.0, -1.0, 1.0), index, **CLIP)
    assert result.ratio.tolist() == pytest.approx([1.0392305, 0.5, 1.0392305])
    assert result.loss.tolist() == pytest.approx([-1.0392305, 0.8, -1.0392305])
    assert result.clipped_low.tolist() == [False, True, False]
    (result.loss[0] / 2 + result.loss[1] + result.loss[2] / 2).backward()
    # the paper's gradient: s A / length at each token of the sequence
    assert log_ratio.grad.tolist() == pytest.approx([-0.5196152, 0.0, -0.5196152])


def test_gspo_of_single_tokens_is_the_token_clip():
    tokens = make_tokens(3)
    log_ratio = tokens.logprobs - tokens.old_logprobs
    alone = torch.arange(len(log_ratio))
    assert torch.allclose(
        gspo_surrogate(log_ratio, tokens.advantages, alone, **CLIP).loss,
        clip_surrogate(log_ratio, tokens.advantages, **CLIP).loss,
    )


def test_cispo_by_hand():
    logprobs = leaf(f64(-1.0, -2.0, -3.0, -4.0))
    log_ratio = log(1.5, 0.5, 1.1, 1.5)
    result = cispo_surrogate(logprobs, log_ratio, f64(1.0, 1.0, -2.0, -1.0), **CLIP)
    assert result.clipped_high.tolist() == [True, False, False, True]
    assert result.clipped_low.tolist() == [False, True, False, False]
    assert result.loss.tolist() == pytest.approx([1.28, 1.6, -6.6, -5.12])
    result.loss.sum().backward()
    # every token keeps a gradient: -weight * A
    assert logprobs.grad.tolist() == pytest.approx([-1.28, -0.8, 2.2, 1.28])


def test_cispo_without_a_lower_bound():
    result = cispo_surrogate(f64(-1.0), log(0.1), f64(1.0), clip_low=1.0, clip_high=4.0)
    assert result.loss.item() == pytest.approx(0.1)
    assert not result.clipped_low.item()


@pytest.mark.parametrize("dual_clip", [None, 3.0])
def test_surrogate_gradients_against_finite_differences(dual_clip):
    advantages = f64(1.0, -1.5, 0.7, -0.3, 2.0, 0.0)
    log_ratio = leaf(log(1.1, 0.9, 1.9, 0.4, 0.5, 5.0))  # no ratio sits at a kink
    index = torch.tensor([0, 1, 0, 1, 2, 3])
    assert gradcheck(
        lambda x: clip_surrogate(x, advantages, **CLIP, dual_clip=dual_clip).loss, log_ratio
    )
    assert gradcheck(
        lambda x: gspo_surrogate(x, advantages, index, **CLIP, dual_clip=dual_clip).loss, log_ratio
    )


# --- KL ------------------------------------------------------------------------------------------


def test_kl_estimators_by_hand():
    logprobs, ref = f64(math.log(0.5)), f64(math.log(0.25))  # d = log ref - log pi = -log 2
    assert kl_divergence(logprobs, ref, "k1").item() == pytest.approx(0.6931472)
    assert kl_divergence(logprobs, ref, "k2").item() == pytest.approx(0.2402265)
    assert kl_divergence(logprobs, ref, "k3").item() == pytest.approx(0.1931472)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_gradients_against_finite_differences(estimator):
    ref = f64(-1.0, -2.0, -0.3)
    assert gradcheck(lambda x: kl_divergence(x, ref, estimator), leaf(f64(-1.5, -0.5, -0.31)))


def categorical_kl(logits, ref_logits, estimator):
    """The exact expected value, gradient as a loss, and gradient in the reward, by enumeration."""
    logits = leaf(logits)
    logprobs, ref = logits.log_softmax(0), ref_logits.log_softmax(0)
    probs = logprobs.exp().detach()
    kl = kl_divergence(logprobs, ref, estimator)
    (as_loss,) = torch.autograd.grad((probs * kl).sum(), logits, retain_graph=True)
    (in_reward,) = torch.autograd.grad((probs * kl.detach() * logprobs).sum(), logits)
    return (probs * kl).sum().item(), as_loss, in_reward


def exact_kl_and_gradient(logits, ref_logits, *, reverse):
    logits = leaf(logits)
    p, q = logits.log_softmax(0), ref_logits.log_softmax(0)
    kl = (p.exp() * (p - q)).sum() if reverse else (q.exp() * (q - p)).sum()
    return kl.item(), torch.autograd.grad(kl, logits)[0]


def test_which_kl_estimator_is_right_where():
    """The claims of the docstring, exactly: expectations over a whole vocabulary."""
    torch.manual_seed(0)
    logits, ref = torch.randn(2, 9, dtype=torch.float64)
    value, gradient = exact_kl_and_gradient(logits, ref, reverse=True)
    _, forward_gradient = exact_kl_and_gradient(logits, ref, reverse=False)
    k1, k2, k3 = (categorical_kl(logits, ref, name) for name in ("k1", "k2", "k3"))

    assert k1[0] == pytest.approx(value) and k3[0] == pytest.approx(value)
    assert torch.allclose(k1[1], torch.zeros(9, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(k2[1], gradient)
    assert torch.allclose(k3[1], forward_gradient)
    assert torch.allclose(k1[2], gradient)
    assert not torch.allclose(k2[2], gradient, atol=1e-2)
    assert not torch.allclose(k3[2], gradient, atol=1e-2)


def test_sequence_kl_sums_each_completion_and_is_detached():
    logprobs, ref = leaf(f64(-1.0, -2.0, -3.0)), f64(-1.5, -2.0, -4.0)
    sums = sequence_kl(logprobs, ref, torch.tensor([2, 0, 2]), 3, "k1")
    assert sums.tolist() == pytest.approx([0.0, 0.0, 1.5])
    assert not sums.requires_grad


# --- importance weights --------------------------------------------------------------------------


def test_importance_weights_by_hand():
    old, sampler = log(3.0, 1.5, 1.0, 0.5, 0.4), log(1.0, 1.0, 1.0, 1.0, 1.0)
    weights, truncated = importance_weights(leaf(old), sampler, "tis", 2.0)
    assert weights.tolist() == pytest.approx([2.0, 1.5, 1.0, 0.5, 0.4])
    assert truncated.tolist() == [True, False, False, False, False]
    assert not weights.requires_grad
    weights, masked = importance_weights(old, sampler, "mis", 2.0)
    assert weights.tolist() == pytest.approx([0.0, 1.5, 1.0, 0.5, 0.0])
    assert masked.tolist() == [True, False, False, False, True]


# --- policy_loss ---------------------------------------------------------------------------------

some_settings = st.builds(
    LossSettings,
    loss=st.sampled_from(["clip", "gspo", "cispo"]),
    clip_low=st.floats(0.05, 1.0),
    clip_high=st.floats(0.05, 3.0),
    importance_cap=st.floats(1.05, 3.0),
    kl_coef=st.sampled_from([0.0, 0.1]),
    kl_in=st.sampled_from(["loss", "reward"]),
    kl_estimator=st.sampled_from(["k2", "k3"]),
    entropy_coef=st.sampled_from([0.0, 0.01]),
).flatmap(
    lambda config: st.sampled_from(
        [
            replace(config, old_logprobs="sampler"),
            replace(config, old_logprobs="learner"),
            replace(config, old_logprobs="learner", importance="tis"),
            replace(config, old_logprobs="learner", importance="mis"),
        ]
    )
)


def slow_policy_loss(config, tokens):
    """The same number from loops over Python floats, written from the papers' formulas."""
    total, start = 0.0, 0
    denominator = (
        tokens.sampler_logprobs if config.old_logprobs == "sampler" else tokens.old_logprobs
    )
    for length in tokens.lengths:
        steps = range(start, start + length)
        start += length
        mean = sum(float(tokens.logprobs[t] - denominator[t]) for t in steps) / length
        for t in steps:
            logprob, advantage = float(tokens.logprobs[t]), float(tokens.advantages[t])
            ratio = math.exp(logprob - float(denominator[t]))
            if config.loss == "gspo":
                ratio = math.exp(mean)
            clipped = min(max(ratio, 1 - config.clip_low), 1 + config.clip_high)
            if config.loss == "cispo":
                value = -clipped * advantage * logprob
            else:
                value = -min(ratio * advantage, clipped * advantage)
            mismatch = math.exp(float(tokens.old_logprobs[t] - tokens.sampler_logprobs[t]))
            cap = config.importance_cap
            if config.importance == "tis":
                value *= min(mismatch, cap)
            elif config.importance == "mis" and not 1 / cap <= mismatch <= cap:
                value = 0.0
            elif config.importance == "mis":
                value *= mismatch
            d = float(tokens.ref_logprobs[t]) - logprob
            if config.kl_in == "loss":
                kl = d * d / 2 if config.kl_estimator == "k2" else math.exp(d) - 1 - d
                value += config.kl_coef * kl
            value -= config.entropy_coef * float(tokens.entropy[t])
            total += float(tokens.weights[t]) * value
    return total


@given(some_settings, st.integers(0, 1000), st.sampled_from(["token", "sequence", "constant"]))
def test_policy_loss_agrees_with_slow_loops(config, seed, aggregation):
    tokens = make_tokens(seed, aggregation=aggregation)
    output = policy_loss(config, **tokens.keywords())
    assert output.loss.item() == pytest.approx(slow_policy_loss(config, tokens))
    assert output.sums["loss"].item() == output.loss.item()


@given(some_settings, st.integers(0, 1000), st.integers(1, 4), st.randoms())
def test_any_partition_into_micro_batches_gives_the_same_loss_and_gradient(
    config, seed, num_parts, random
):
    tokens = make_tokens(seed)
    parts = [[] for _ in range(num_parts)]
    for sequence in random.sample(range(5), 5):
        random.choice(parts).append(sequence)

    def run(groups):
        logprobs = leaf(tokens.logprobs)
        batch = tokens._replace(logprobs=logprobs)
        outputs = [policy_loss(config, **batch.keywords(group)) for group in groups]
        for output in outputs:
            output.loss.backward()
        return logprobs.grad, outputs

    whole_gradient, (whole,) = run([range(5)])
    gradient, outputs = run([part for part in parts if part])
    assert torch.allclose(gradient, whole_gradient)
    for name, value in whole.sums.items():
        assert sum(o.sums[name].item() for o in outputs) == pytest.approx(value.item())
    for name, value in whole.maxima.items():
        assert max(o.maxima[name].item() for o in outputs) == value.item()


@given(some_settings, st.integers(0, 1000), st.permutations(range(5)))
@settings(max_examples=50)
def test_order_of_completions_and_their_labels_do_not_matter(config, seed, order):
    tokens = make_tokens(seed)
    keywords = tokens.keywords(order)
    keywords["sequence_index"] = 100 - 7 * keywords["sequence_index"]
    expected = policy_loss(config, **tokens.keywords()).loss.item()
    assert policy_loss(config, **keywords).loss.item() == pytest.approx(expected)


@every_loss
@pytest.mark.parametrize("old_logprobs", ["sampler", "learner"])
def test_on_policy_the_gradient_is_reinforce(loss, old_logprobs):
    """At ratio 1 every surrogate has the gradient -w A (of log pi), nothing clipped."""
    tokens = make_tokens(1, aggregation="sequence")
    logprobs = leaf(tokens.logprobs)
    output = policy_loss(
        LossSettings(loss=loss, old_logprobs=old_logprobs),
        logprobs=logprobs,
        sampler_logprobs=tokens.logprobs,
        advantages=tokens.advantages,
        weights=tokens.weights,
        sequence_index=tokens.sequence_index,
    )
    output.loss.backward()
    assert torch.allclose(logprobs.grad, -tokens.weights * tokens.advantages)
    assert output.sums["clipped_low"] == output.sums["clipped_high"] == 0
    assert output.sums["ratio"] == output.sums["num_tokens"] == sum(tokens.lengths)
    assert output.sums["sampler_kl_k3"] == 0


@given(some_settings, st.integers(0, 1000))
@settings(max_examples=25)
def test_policy_loss_gradient_against_finite_differences(config, seed):
    if config.loss == "cispo":  # its gradient is by design not that of its value
        config = replace(config, loss="clip")
    tokens = make_tokens(seed, num_sequences=3)
    keywords = tokens.keywords()
    keywords.pop("logprobs")
    denominator = keywords[f"{'sampler' if config.old_logprobs == 'sampler' else 'old'}_logprobs"]
    log_ratio = tokens.logprobs - denominator
    sequence_log_ratio = torch.stack(
        [log_ratio[tokens.sequence_index == s].mean() for s in (0, 1, 2)]
    )
    ratios = torch.cat([log_ratio, sequence_log_ratio]).exp()
    kinks = f64(1 - config.clip_low, 1 + config.clip_high)
    assume((ratios[:, None] - kinks).abs().min() > 1e-4)
    assert gradcheck(
        lambda x: policy_loss(config, logprobs=x, **keywords).loss, leaf(tokens.logprobs)
    )


@every_loss
@pytest.mark.parametrize("advantage", adv.ESTIMATORS)
def test_a_toy_policy_learns(loss, advantage):
    """Two tokens over four letters, rewarded for a then b, two optimizer steps a batch."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.zeros(2, 4, requires_grad=True)
    optimizer = torch.optim.SGD([logits], lr=1.0)
    index = torch.arange(16).repeat_interleave(2)
    weights = torch.tensor(aggregation_weights([2] * 16, "token", 2))[index]

    def logprobs_of(letters):
        return logits.log_softmax(-1).expand(16, 2, 4).gather(2, letters[..., None]).flatten()

    for _ in range(30):
        probs = logits.detach().softmax(-1)
        letters = torch.multinomial(probs, 16, replacement=True, generator=generator).T
        rewards = ((letters[:, 0] == 0).float() + (letters[:, 1] == 1).float()).tolist()
        groups = adv.compute(advantage, [rewards[:8], rewards[8:]])
        sampled = logprobs_of(letters).detach()
        for _ in range(2):
            optimizer.zero_grad()
            policy_loss(
                LossSettings(loss=loss),
                logprobs=logprobs_of(letters),
                sampler_logprobs=sampled,
                advantages=torch.tensor([a for group in groups for a in group])[index],
                weights=weights,
                sequence_index=index,
            ).loss.backward()
            optimizer.step()
    probs = logits.detach().softmax(-1)
    assert probs[0, 0] + probs[1, 1] > 1.4  # 0.5 at the start


def test_metrics_by_hand():
    # learner at the step's start / sampler: 2 and 1; now / start: 1.5 and 1
    config = LossSettings(old_logprobs="learner", importance="tis", importance_cap=1.6)
    sampler = f64(-2.0, -1.0)
    start = sampler + log(2.0, 1.0)
    output = policy_loss(
        config,
        logprobs=leaf(start + log(1.5, 1.0)),
        sampler_logprobs=sampler,
        advantages=f64(1.0, 1.0),
        weights=f64(0.5, 0.5),
        sequence_index=torch.tensor([0, 1]),
        old_logprobs=start,
        entropy=leaf(f64(0.25, 0.5)),
    )
    assert {name: value.item() for name, value in output.sums.items()} == pytest.approx(
        {
            "num_tokens": 2,
            "loss": -(0.5 * 1.6 * 1.28 + 0.5),
            "ratio": 2.5,
            "clipped_low": 0,
            "clipped_high": 1,
            "sampler_ratio": 3.0,
            "sampler_kl_k1": -math.log(2),
            "sampler_kl_k3": 2 - 1 - math.log(2),
            "importance_weight": 2.6,
            "importance_capped": 1,
            "entropy": 0.75,
        }
    )
    maxima = {name: value.item() for name, value in output.maxima.items()}
    assert maxima == pytest.approx({"ratio": 1.5, "sampler_ratio": 2.0})
    everything = (*output.sums.values(), *output.maxima.values())
    assert not any(value.requires_grad for value in everything)


def test_kl_in_the_reward_is_reported_but_not_in_the_loss():
    tokens = make_tokens(2)
    without = policy_loss(LossSettings(), **tokens.keywords()).loss
    output = policy_loss(
        LossSettings(kl_coef=0.5, kl_in="reward", kl_estimator="k1"), **tokens.keywords()
    )
    assert output.loss == without
    expected = (tokens.logprobs - tokens.ref_logprobs).sum().item()
    assert output.sums["ref_kl"].item() == pytest.approx(expected)


@every_loss
def test_masked_members_change_nothing(loss):
    """The step on a group with faults is the step on the group without those members."""
    rewards, lengths = [1.0, None, 0.0, None, 0.0], [2, 6, 3, 1, 4]

    def gradient(kept_rewards, kept_lengths):
        estimated = adv.grpo(kept_rewards)
        trained = [i for i, a in enumerate(estimated) if a is not None]
        trained_lengths = [kept_lengths[i] for i in trained]
        weights = aggregation_weights(trained_lengths, "sequence", 8)
        repeats = torch.tensor(trained_lengths)
        logprobs = torch.linspace(-3, -1, int(repeats.sum()), dtype=torch.float64).requires_grad_()
        policy_loss(
            LossSettings(loss=loss),
            logprobs=logprobs,
            sampler_logprobs=logprobs.detach() + 0.1,
            advantages=f64(*[estimated[i] for i in trained]).repeat_interleave(repeats),
            weights=f64(*weights).repeat_interleave(repeats),
            sequence_index=torch.arange(len(trained)).repeat_interleave(repeats),
        ).loss.backward()
        return logprobs.grad

    assert torch.equal(gradient(rewards, lengths), gradient([1.0, 0.0, 0.0], [2, 3, 4]))


@every_loss
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("log_ratio", [-1e4, -100.0, 100.0, 1e4])
def test_extreme_mismatch_stays_finite(loss, advantage, log_ratio):
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    sampler = logprobs.detach() - log_ratio
    config = LossSettings(loss=loss, kl_coef=0.1, kl_estimator="k3")
    output = policy_loss(
        config,
        logprobs=logprobs,
        sampler_logprobs=sampler,
        advantages=torch.full((2,), advantage),
        weights=torch.full((2,), 0.5),
        sequence_index=torch.tensor([0, 1]),
        ref_logprobs=sampler,
    )
    output.loss.backward()
    assert torch.isfinite(logprobs.grad).all() and torch.isfinite(output.loss)
    assert all(torch.isfinite(value) for value in output.sums.values())
    assert output.maxima["ratio"] <= math.exp(LOG_RATIO_LIMIT) * 1.001


def test_far_from_the_reference_k3_still_pulls_back():
    """Only the side that overflows is bounded: a collapsed policy keeps its restoring force."""
    logprobs = leaf(f64(-0.001))
    kl_divergence(logprobs, f64(-60.0), "k3").backward()
    assert logprobs.grad.item() == pytest.approx(1.0)


def test_bfloat16_inputs_are_computed_in_float32():
    tokens = make_tokens(5, spread=0.01)
    rounded = {
        name: value.to(torch.bfloat16) if value.is_floating_point() else value
        for name, value in tokens.keywords().items()
    }
    weights = torch.ones(len(tokens.logprobs))
    output = policy_loss(LossSettings(), **{**rounded, "weights": weights})
    wide = {
        name: value.float() if value.is_floating_point() else value
        for name, value in rounded.items()
    }
    assert output.loss.dtype == torch.float32
    assert output.loss == policy_loss(LossSettings(), **{**wide, "weights": weights}).loss


def test_what_the_settings_need_must_be_there():
    keywords = make_tokens(6).keywords()
    del keywords["ref_logprobs"], keywords["entropy"]
    with pytest.raises(ValueError, match="pass ref_logprobs"):
        policy_loss(LossSettings(kl_coef=0.1), **keywords)
    with pytest.raises(ValueError, match="pass entropy"):
        policy_loss(LossSettings(entropy_coef=0.1), **keywords)


@pytest.mark.parametrize(
    ("contradiction", "message"),
    [
        ({"importance": "tis"}, 'set old_logprobs = "learner"'),
        ({"kl_coef": 0.1, "kl_estimator": "k1"}, "expected gradient of zero"),
        ({"loss": "cispo", "dual_clip": 3.0}, "dual_clip has no meaning"),
    ],
)
def test_contradicting_settings_are_refused(contradiction, message):
    with pytest.raises(ConfigError, match=message):
        LossSettings(**contradiction)


def test_settings_have_the_names_and_defaults_of_the_config():
    config = AlgorithmConfig().model_dump()
    assert {f.name: f.default for f in fields(LossSettings)} == {
        f.name: config[f.name] for f in fields(LossSettings)
    }
