"""The learner on tiny random models: against naive per-sequence passes, and what a step must keep.

Everything is fp32 unless a test is about bf16, so that comparisons are tight.
"""

from __future__ import annotations

import dataclasses
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig

from rlvr.config import LearnerConfig, RunConfig
from rlvr.errors import CheckpointError, LearnerError, ModelError
from rlvr.learner import Learner
from rlvr.optim import learning_rate
from rlvr.types import Batch, Completion, Group, Problem, Rollout, VersionSpan

VOCABULARY = 96
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "max_position_embeddings": 256,
}


def make_model(
    folder: Path, name: str = "Llama", dtype: torch.dtype = torch.float32, **extra: Any
) -> Path:
    config: PretrainedConfig = getattr(transformers, f"{name}Config")(**SHAPE, **extra)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("llama"), tie_word_embeddings=True)


def make_config(model: Path, **overrides: Any) -> RunConfig:
    values: dict[str, Any] = {
        "num_steps": 10,
        "model": {"path": str(model)},
        "rollout": {"dtype": "float32", "max_tokens": 16},
        "learner": {"compute_dtype": "float32", "lr": 1e-3},
    }
    for key, value in overrides.items():
        section, _, name = key.partition("__")
        if name:
            values.setdefault(section, {})[name] = value
        else:
            values[section] = value
    return RunConfig.model_validate(values)


def make_rollout(token_ids: tuple[int, ...], rng: random.Random) -> Rollout:
    return Rollout(
        completion=Completion(
            text="",
            token_ids=token_ids,
            logprobs=tuple(-4.5 + rng.uniform(-0.3, 0.3) for _ in token_ids),
            versions=(VersionSpan(version=0, start=0, end=len(token_ids)),),
            finish_reason="stop",
        )
    )


def make_batch(num_groups: int = 3, group_size: int = 4, seed: int = 0, step: int = 0) -> Batch:
    """Groups whose completions share first tokens; the last two of a group are identical."""
    rng = random.Random(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(low, high)))

    groups = []
    for index in range(num_groups):
        start = tokens(1, 3)
        completions = [start + tokens(1, 6) for _ in range(group_size - 1)]
        groups.append(
            Group(
                index=index,
                problem=Problem(id=str(index), prompt="", verifier="number"),
                prompt_token_ids=tokens(3, 9),
                rollouts=tuple(make_rollout(c, rng) for c in [*completions, completions[-1]]),
            )
        )
    advantages = [tuple(rng.uniform(-1, 1) for _ in range(group_size)) for _ in groups]
    return Batch(step=step, groups=tuple(groups), advantages=tuple(advantages))


def naive_logprobs(model: Any, group: Group, temperature: float = 1.0) -> list[Tensor]:
    """One forward pass a completion, through nothing of ours."""
    found = []
    for rollout in group.rollouts:
        prompt, completion = list(group.prompt_token_ids), list(rollout.completion.token_ids)
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        log_p = (logits.float() / temperature).log_softmax(-1)
        found.append(log_p[torch.arange(len(completion)), torch.tensor(completion)])
    return found


def weights_of(learner: Learner) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in learner.named_weights()}


def assert_same_weights(one: Learner, other: Learner, tolerance: float) -> None:
    others = weights_of(other)
    for name, weight in weights_of(one).items():
        torch.testing.assert_close(weight, others[name], rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("packing", ["tree", "padded"])
@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
def test_logprobs_are_those_of_plain_forward_passes(
    tmp_path: Path, packing: str, family: str
) -> None:
    model_dir = make_model(tmp_path, family)
    learner = Learner(
        make_config(model_dir, learner__packing=packing, rollout__temperature=0.7), model_dir
    )
    batch = make_batch()
    plain = AutoModelForCausalLM.from_pretrained(model_dir)
    for group, found in zip(batch.groups, learner.logprobs(batch.groups), strict=True):
        for values, expected in zip(found, naive_logprobs(plain, group, 0.7), strict=True):
            torch.testing.assert_close(torch.tensor(values), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("packing", ["tree", "padded"])
def test_a_step_has_the_gradient_of_the_naive_loss(llama: Path, packing: str) -> None:
    batch = make_batch()
    learner = Learner(
        make_config(
            llama,
            learner__packing=packing,
            algorithm__loss="cispo",
            algorithm__clip_low=1,
            algorithm__clip_high=1e6,
        ),
        llama,
    )
    metrics = learner.step(batch)
    plain = AutoModelForCausalLM.from_pretrained(llama)
    losses = []
    for group, advantages in zip(batch.groups, batch.advantages, strict=True):
        naive = naive_logprobs(plain, group)
        for logprobs, rollout, advantage in zip(naive, group.rollouts, advantages, strict=True):
            assert advantage is not None
            ratio = (logprobs.detach() - torch.tensor(rollout.completion.logprobs)).exp()
            losses.append(-advantage * ratio * logprobs)
    loss = torch.cat(losses).mean()
    loss.backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in plain.parameters()))
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
    first_update = {n: p.grad.sign() for n, p in plain.named_parameters() if p.grad is not None}
    before = dict(plain.named_parameters())
    for name, weight in weights_of(learner).items():  # Adam's first step is lr x sign(gradient)
        moved = weight - before[name].detach()
        large = before[name].grad.abs() > 1e-4
        torch.testing.assert_close(
            moved[large], -1e-3 * first_update[name][large], rtol=0.02, atol=1e-6
        )


@pytest.mark.parametrize(
    "other",
    [
        {"learner__packing": "padded"},
        {"learner__max_tokens_per_microbatch": 12},
        {"learner__gradient_checkpointing": True},
        {"learner__logits_chunk_tokens": 3},
        {"learner__attn_implementation": "eager"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_how_a_step_is_computed_does_not_change_it(llama: Path, other: dict[str, Any]) -> None:
    batch = make_batch()
    algorithm = {"algorithm__loss": "gspo", "algorithm__entropy_coef": 0.01}
    one = Learner(make_config(llama, **algorithm), llama)
    two = Learner(make_config(llama, **algorithm, **other), llama)
    first, second = one.step(batch), two.step(batch)
    for name in ("loss", "grad_norm", "policy/entropy", "mismatch/kl_k3", "ratio/max"):
        assert first[name] == pytest.approx(second[name], rel=1e-4), name
    assert_same_weights(one, two, 2e-5)


def test_shared_prefixes_are_computed_once(llama: Path) -> None:
    batch = make_batch()
    nodes = Learner(make_config(llama), llama).step(batch)
    prefixes = {
        (group.index, tokens[:end])
        for group in batch.groups
        for rollout in group.rollouts
        for tokens in [group.prompt_token_ids + rollout.completion.token_ids[:-1]]
        for end in range(1, len(tokens) + 1)
    }
    assert nodes["packing/nodes"] == len(prefixes)
    assert nodes["packing/sharing"] > 2


def test_training_raises_the_probability_of_what_was_rewarded(llama: Path) -> None:
    learner = Learner(make_config(llama), llama)
    before = learner.logprobs(make_batch().groups)
    for step in range(5):
        learner.step(make_batch(step=step))
    after, advantages = learner.logprobs(make_batch().groups), make_batch().advantages
    gain = sum(
        float(advantage or 0) * (sum(new) - sum(old))
        for group in zip(before, after, advantages, strict=True)
        for old, new, advantage in zip(*group, strict=True)
    )
    assert gain > 0


def test_masked_members_leave_no_trace(llama: Path) -> None:
    batch = make_batch()
    masked = dataclasses.replace(
        batch, advantages=tuple((None, *row[1:]) for row in batch.advantages)
    )
    absent = dataclasses.replace(
        masked,
        groups=tuple(dataclasses.replace(g, rollouts=g.rollouts[1:]) for g in batch.groups),
        advantages=tuple(row[1:] for row in batch.advantages),
    )
    one, two = Learner(make_config(llama), llama), Learner(make_config(llama), llama)
    assert one.step(masked)["loss"] == pytest.approx(two.step(absent)["loss"], rel=1e-6)
    assert_same_weights(one, two, 1e-6)


def test_groups_without_advantage_are_skipped_but_count_in_the_mean(llama: Path) -> None:
    batch = make_batch(num_groups=2)
    flat = dataclasses.replace(batch, advantages=(batch.advantages[0], (0.0,) * 4))
    alone = dataclasses.replace(batch, groups=batch.groups[:1], advantages=batch.advantages[:1])
    lengths = [sum(len(r.completion.token_ids) for r in g.rollouts) for g in batch.groups]
    skipped = Learner(make_config(llama), llama).step(flat)
    expected = Learner(make_config(llama), llama).step(alone)
    share = lengths[0] / sum(lengths)
    assert skipped["packing/nodes"] == expected["packing/nodes"]
    assert skipped["loss"] == pytest.approx(expected["loss"] * share, rel=1e-5)
    assert skipped["grad_norm"] == pytest.approx(expected["grad_norm"] * share, rel=1e-5)
    with_entropy = Learner(make_config(llama, algorithm__entropy_coef=1e-4), llama).step(flat)
    assert with_entropy["packing/nodes"] > skipped["packing/nodes"]


def test_a_batch_that_teaches_nothing_is_a_step_all_the_same(llama: Path) -> None:
    batch = make_batch(num_groups=1)
    learner = Learner(make_config(llama), llama)
    before = weights_of(learner)
    metrics = learner.step(dataclasses.replace(batch, advantages=((0.0, None, 0.0, 0.0),)))
    assert metrics["loss"] == metrics["grad_norm"] == metrics["tokens/trained"] == 0
    assert all(torch.equal(weight, before[name]) for name, weight in learner.named_weights())


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(llama: Path) -> None:
    learner = Learner(make_config(llama), llama)
    before = weights_of(learner)
    batch = make_batch(step=7)
    broken = dataclasses.replace(batch, advantages=((math.nan,) * 4, *batch.advantages[1:]))
    with pytest.raises(LearnerError, match="step 7: the loss is nan"):
        learner.step(broken)
    assert all(torch.equal(weight, before[name]) for name, weight in learner.named_weights())


def test_gradients_are_clipped_to_the_global_norm(llama: Path) -> None:
    config = make_config(llama, learner__max_grad_norm=1e-12, learner__eps=1.0)
    learner = Learner(config, llama)
    before = weights_of(learner)
    assert learner.step(make_batch())["grad_norm"] > 1e-3, "reported before clipping"
    for name, weight in learner.named_weights():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=1e-9)


def test_minibatches_are_optimizer_steps_with_ratios_from_before_the_first(llama: Path) -> None:
    one = Learner(make_config(llama, algorithm__old_logprobs="learner"), llama)
    assert one.step(make_batch())["ratio/max"] == 1.0
    three = Learner(
        make_config(
            llama, groups_per_step=3, algorithm__old_logprobs="learner", learner__num_minibatches=3
        ),
        llama,
    )
    metrics = three.step(make_batch())
    assert metrics["ratio/max"] != 1.0 and metrics["packing/microbatches"] == 3
    steps = {int(state["step"]) for state in three._optimizer.state_dict().values()}
    assert steps == {3}


@pytest.mark.parametrize("lora", [None, {"rank": 4}], ids=["full", "lora"])
def test_a_resumed_learner_continues_bit_for_bit(
    llama: Path, tmp_path: Path, lora: dict[str, Any] | None
) -> None:
    config = make_config(llama, model__lora=lora, learner__compute_dtype="bfloat16")
    one = Learner(config, llama)
    one.step(make_batch(seed=1))
    one.save_state(tmp_path / "state")
    expected = one.step(make_batch(seed=2, step=1))
    two = Learner(config, llama)
    two.load_state(tmp_path / "state")
    found = two.step(make_batch(seed=2, step=1))
    assert {k: v for k, v in found.items() if not k.startswith("time/")} == {
        k: v for k, v in expected.items() if not k.startswith("time/")
    }
    state = two._optimizer.state_dict()
    for name, values in one._optimizer.state_dict().items():
        assert all(torch.equal(value, state[name][key]) for key, value in values.items()), name
    assert_same_weights(one, two, 0.0)


def test_states_that_do_not_fit_are_refused(llama: Path, tmp_path: Path) -> None:
    learner = Learner(make_config(llama), llama)
    with pytest.raises(CheckpointError, match="cannot read"):
        learner.load_state(tmp_path)
    learner.save_state(tmp_path)
    (tmp_path / "rank-0.pt").write_bytes((tmp_path / "rank-0.pt").read_bytes()[:-500])
    with pytest.raises(CheckpointError, match="cannot read"):
        learner.load_state(tmp_path)
    other = Learner(make_config(llama, model__lora={"rank": 2}), llama)
    other.save_state(tmp_path)
    with pytest.raises(CheckpointError, match="cannot read"):
        learner.load_state(tmp_path)


@pytest.mark.parametrize("lora", [None, {"rank": 4}], ids=["full", "lora"])
def test_a_saved_model_is_an_ordinary_one(tmp_path: Path, lora: dict[str, Any] | None) -> None:
    source = make_model(tmp_path / "source", dtype=torch.bfloat16, tie_word_embeddings=True)
    (source / "tokenizer.json").write_text("{}")
    learner = Learner(make_config(source, model__lora=lora, learner__lr=1e-2), source)
    for step in range(3):
        learner.step(make_batch(step=step))
    learner.save_hf(tmp_path / "saved")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype="auto")
    assert plain.dtype == torch.bfloat16
    assert (tmp_path / "saved" / "tokenizer.json").exists()
    for name, weight in learner.named_weights():
        assert torch.equal(plain.get_parameter(name).detach(), weight.bfloat16()), name
    group = make_batch().groups[0]
    for values, expected in zip(
        learner.logprobs([group])[0], naive_logprobs(plain, group), strict=True
    ):
        torch.testing.assert_close(torch.tensor(values), expected, rtol=0, atol=0.3)
    if lora:
        base = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        adapted = PeftModel.from_pretrained(base, str(tmp_path / "saved" / "adapter"))
        for values, expected in zip(
            learner.logprobs([group])[0], naive_logprobs(adapted, group), strict=True
        ):
            torch.testing.assert_close(torch.tensor(values), expected, rtol=0, atol=1e-4)


def test_merged_lora_weights_compute_what_the_adapted_model_does(llama: Path) -> None:
    learner = Learner(make_config(llama, model__lora={"rank": 4}, learner__lr=1e-2), llama)
    for step in range(3):
        learner.step(make_batch(step=step))
    merged = AutoModelForCausalLM.from_pretrained(llama)
    names = set(dict(merged.named_parameters()))
    weights = weights_of(learner)
    assert set(weights) == names
    merged.load_state_dict(weights, strict=False)
    group = make_batch().groups[0]
    for values, expected in zip(
        learner.logprobs([group])[0], naive_logprobs(merged, group), strict=True
    ):
        torch.testing.assert_close(torch.tensor(values), expected, rtol=0, atol=2e-5)


def test_tied_weights_are_exported_once(llama: Path) -> None:
    names = [name for name, _ in Learner(make_config(llama), llama).named_weights()]
    assert "lm_head.weight" not in names and len(set(names)) == len(names)


def test_small_updates_accumulate_below_the_precision_of_bfloat16(llama: Path) -> None:
    learner = Learner(
        make_config(llama, learner__compute_dtype="bfloat16", learner__lr=1e-6), llama
    )
    before = weights_of(learner)
    for step in range(3):
        learner.step(make_batch(step=step))
    name = "model.layers.0.mlp.up_proj.weight"
    moved = (weights_of(learner)[name] - before[name]).abs()
    assert 2e-6 < float(moved.median()) < 4e-6


@pytest.mark.parametrize("lora", [None, {"rank": 4}], ids=["full", "lora"])
def test_kl_to_the_reference_starts_at_zero_and_grows(
    llama: Path, lora: dict[str, Any] | None
) -> None:
    learner = Learner(
        make_config(llama, algorithm__kl_coef=0.1, model__lora=lora, learner__lr=1e-2), llama
    )
    batch = make_batch()
    reference = learner.logprobs(batch.groups, reference=True)
    assert sum(map(sum, learner.kl_penalties(batch.groups))) == pytest.approx(0, abs=1e-6)
    assert learner.step(batch)["kl/reference"] == pytest.approx(0, abs=1e-6)
    learner.step(dataclasses.replace(batch, step=1))
    assert min(map(min, learner.kl_penalties(batch.groups))) > 0
    assert learner.logprobs(batch.groups, reference=True) == reference


def test_a_reference_model_is_loaded_only_when_needed(llama: Path) -> None:
    assert Learner(make_config(llama), llama)._reference is None
    with_lora = make_config(llama, algorithm__kl_coef=0.1, model__lora={})
    assert Learner(with_lora, llama)._reference is None


def test_sliding_windows_are_refused_by_trees_with_a_way_out(tmp_path: Path) -> None:
    make_model(tmp_path, "Mistral", sliding_window=8)
    learner = Learner(make_config(tmp_path), tmp_path)
    with pytest.raises(LearnerError, match=r"sliding window of 8.*packing=padded"):
        learner.step(make_batch())
    padded = Learner(make_config(tmp_path, learner__packing="padded"), tmp_path)
    group = make_batch().groups[0]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    for values, expected in zip(
        padded.logprobs([group])[0], naive_logprobs(plain, group), strict=True
    ):
        torch.testing.assert_close(torch.tensor(values), expected, rtol=0, atol=2e-5)


def test_recurrent_models_are_refused_by_trees_with_a_way_out(tmp_path: Path) -> None:
    config = transformers.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="packing=padded"):
        Learner(make_config(tmp_path), tmp_path)


def test_models_that_cap_their_logits_are_refused(tmp_path: Path) -> None:
    make_model(tmp_path, "Gemma2", final_logit_softcapping=0.1, head_dim=16)
    with pytest.raises(ModelError, match="cannot be trained"):
        Learner(make_config(tmp_path, learner__packing="padded"), tmp_path)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        Learner(make_config(tmp_path), tmp_path / "nowhere")


def test_learning_rate_schedules() -> None:
    def rates(**values: Any) -> list[float]:
        config = LearnerConfig(lr=1.0, warmup_steps=2, min_lr_ratio=0.1, **values)
        return [learning_rate(step, 7, config) for step in range(7)]

    assert rates(schedule="constant") == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1, 1])
    assert rates(schedule="linear") == pytest.approx([1 / 3, 2 / 3, 1, 0.775, 0.55, 0.325, 0.1])
    cosine = rates(schedule="cosine")
    assert cosine[2:] == pytest.approx([1, 0.868198, 0.55, 0.231802, 0.1])


def test_the_learning_rate_follows_the_step_of_the_batch(llama: Path) -> None:
    learner = Learner(make_config(llama, learner__schedule="linear"), llama)
    assert learner.step(make_batch(step=9))["lr"] == pytest.approx(0)


@pytest.mark.parametrize("packing", ["tree", "padded"])
def test_dropout_in_attention_is_off_too(tmp_path: Path, packing: str) -> None:
    model = make_model(tmp_path, attention_dropout=0.5)
    learner = Learner(make_config(model, learner__packing=packing), model)
    groups = make_batch().groups
    assert learner.logprobs(groups) == learner.logprobs(groups)


def test_adapters_that_fit_no_layer_are_refused(llama: Path) -> None:
    config = make_config(llama, model__lora={"target_modules": ["nope"]})
    with pytest.raises(ModelError, match=r"model\.lora does not fit LlamaForCausalLM.*nope"):
        Learner(config, llama)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_sequence_beyond_the_sliding_window_is_refused_in_a_tree(
    tmp_path: Path, attention: str
) -> None:
    model = make_model(tmp_path, "Mistral", sliding_window=8)
    learner = Learner(make_config(model, learner__attn_implementation=attention), model)
    with pytest.raises(LearnerError, match=r"sliding window of 8.*learner\.packing=padded"):
        learner.logprobs([make_long_group()])


def make_long_group() -> Group:
    rollout = make_rollout(tuple(range(1, 11)), random.Random(0))
    return dataclasses.replace(make_batch().groups[0], rollouts=(rollout,))
