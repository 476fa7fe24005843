"""Weights from a learner into a real vLLM engine, through Ray's object store."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlvr.config import RunConfig
from rlvr.errors import WeightTransferError
from rlvr.types import Group, Problem
from tests.integration.tiny_model import make_tiny_model

pytestmark = pytest.mark.slow

CONFIG = RunConfig.model_validate(
    {
        "rollout": {
            "dtype": "float32",
            "max_tokens": 64,
            "max_model_len": 256,
            "kv_cache_gb": 0.1,
            "num_threads": 1,
            "enforce_eager": True,
        }
    }
)
PROBLEM = Problem(
    id="p", prompt=({"role": "user", "content": "Say something."},), verifier="number"
)
TIMEOUT_S = 120.0


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import ray

    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=200 * 2**20)
    yield
    ray.shutdown()


class Worker:
    """A rollout actor; `tamper` may change the bytes of tensors on their way."""

    def __init__(self, model_dir: Path) -> None:
        import ray

        from rlvr.rollout import RolloutEngine

        self.name = "rollout-0"
        self.tamper: Callable[[dict[str, Any]], None] | None = None
        options = {"num_cpus": 0, "max_concurrency": 100}
        self.actor = ray.remote(RolloutEngine).options(**options).remote(CONFIG, str(model_dir), 0)
        ray.get(self.actor.start.remote())

    def call(self, method: str, *args: Any) -> Any:
        import ray

        if method == "update_weights" and self.tamper is not None:
            info, ref = args
            arrays = {
                name: array.copy()
                for (name, *_), array in zip(info["tensors"], ray.get(ref), strict=True)
            }
            self.tamper(arrays)
            args = (info, ray.put(list(arrays.values())))
        return getattr(self.actor, method).remote(*args).future()

    def get(self, method: str, *args: Any) -> Any:
        return self.call(method, *args).result(timeout=TIMEOUT_S)

    def sample(self, num: int, max_tokens: int, temperature: float = 1.0) -> Any:
        from rlvr.rollout import Sampling

        sampling = Sampling(max_tokens=max_tokens, temperature=temperature)
        return self.call("generate", 0, PROBLEM, num, sampling)


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def perturb(model: Any, seed: int) -> None:
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def publisher(model: Any, worker: Worker, timeout_s: float = TIMEOUT_S) -> Any:
    from rlvr.weights import WeightPublisher

    weights = list(model.named_parameters())
    return WeightPublisher("ray", weights, [worker], timeout_s=timeout_s, dtype="float32")


def largest_difference(model: Any, group: Group) -> float:
    """Between the sampler's log-probabilities and the model's own."""
    import torch

    worst = 0.0
    for rollout in group.rollouts:
        tokens = rollout.completion.token_ids
        ids = torch.tensor([[*group.prompt_token_ids, *tokens]])
        with torch.no_grad():
            logits = model(ids).logits[0, len(group.prompt_token_ids) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]
        got = torch.tensor(rollout.completion.logprobs)
        worst = max(worst, (expected - got).abs().max().item())
    return worst


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def worker(tiny: Path) -> Iterator[Worker]:
    worker = Worker(tiny)
    yield worker
    worker.get("close")


def next_version(worker: Worker) -> int:
    return int(worker.get("stats")["version"]) + 1


async def test_published_weights_are_what_samples(tiny: Path, worker: Worker) -> None:
    model = load(tiny)
    before = worker.sample(4, 24).result(timeout=TIMEOUT_S)
    assert largest_difference(model, before) < 1e-4
    perturb(model, seed=1)
    publish = publisher(model, worker).publish
    report = await asyncio.to_thread(publish, next_version(worker))
    assert report.bytes == sum(4 * p.numel() for p in model.parameters())
    after = worker.sample(4, 24).result(timeout=TIMEOUT_S)
    assert largest_difference(model, after) < 1e-4
    assert largest_difference(model, before) > 0.01


def test_requests_in_flight_go_on_and_show_both_versions(tiny: Path, worker: Worker) -> None:
    model = load(tiny)
    publish = publisher(model, worker).publish
    version = next_version(worker)
    pending = worker.sample(8, 200)
    time.sleep(0.5)
    publish(version)
    group: Group = pending.result(timeout=TIMEOUT_S)
    spans = [rollout.completion.versions for rollout in group.rollouts]
    longest = max(spans, key=lambda item: item[-1].end)
    assert {span.version for span in longest} == {version - 1, version}
    for rollout, item in zip(group.rollouts, spans, strict=True):
        assert item[0].start == 0
        assert item[-1].end == len(rollout.completion.token_ids)
        assert all(a.end == b.start for a, b in itertools.pairwise(item))


def flip_one_bit(arrays: dict[str, Any]) -> None:
    arrays["model.layers.1.mlp.down_proj.weight"][-7] ^= 1


def swap_two_tensors(arrays: dict[str, Any]) -> None:
    a, b = (f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1))
    arrays[a], arrays[b] = arrays[b], arrays[a]


@pytest.mark.parametrize("tamper", [flip_one_bit, swap_two_tensors])
def test_corrupted_tensor_stops_the_publish_and_names_the_worker(
    tiny: Path, worker: Worker, tamper: Any
) -> None:
    model = load(tiny)
    weights = publisher(model, worker)
    worker.tamper = tamper
    with pytest.raises(WeightTransferError, match=r"rollout-0: .*down_proj.*corrupted"):
        weights.publish(next_version(worker))
    worker.tamper = None
    perturb(model, seed=2)
    weights.publish(next_version(worker))  # the same weights sent whole are welcome
    assert largest_difference(model, worker.sample(2, 16).result(timeout=TIMEOUT_S)) < 1e-4


def test_tensors_that_never_arrive_are_noticed(tiny: Path, worker: Worker) -> None:
    weights = publisher(load(tiny), worker)
    complete = worker.call

    def lossy(method: str, *args: Any) -> Any:
        if method == "update_weights":
            import ray

            info, ref = args
            args = (info | {"tensors": info["tensors"][:-1]}, ray.put(ray.get(ref)[:-1]))
        return complete(method, *args)

    worker.call = lossy  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with pytest.raises(WeightTransferError, match=r"rollout-0: .*did not arrive"):
            weights.publish(next_version(worker))
    finally:
        worker.call = complete  # pyright: ignore[reportAttributeAccessIssue]
    weights.publish(next_version(worker))


def test_stale_version_is_refused(tiny: Path, worker: Worker) -> None:
    weights = publisher(load(tiny), worker)
    with pytest.raises(WeightTransferError, match=r"rollout-0: .*refused the stale v0"):
        weights.publish(0)


@pytest.mark.parametrize("name", ["qwen3", "qwen2", "mistral"])
def test_other_architectures(name: str, tiny: Path, tmp_path: Path) -> None:
    """qwen3: untied, normalised queries and keys. qwen2: biases. mistral: vLLM's general way."""
    import shutil

    import torch
    from transformers import (
        MistralConfig,
        MistralForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    kinds: Any = {
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "mistral": (MistralConfig, MistralForCausalLM),
    }
    config_class, model_class = kinds[name]
    like = load(tiny).config
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "eos_token_id")
    keys += ("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings")
    torch.manual_seed(0)
    model = model_class(
        config_class(
            **{key: getattr(like, key) for key in keys}, tie_word_embeddings=name == "qwen2"
        )
    )
    folder = tmp_path / name
    shutil.copytree(tiny, folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)
    other = Worker(folder)
    try:
        for version in (1, 2):
            perturb(model, seed=version)
            publisher(model, other).publish(version)
            group = other.sample(4, 16).result(timeout=TIMEOUT_S)
            assert largest_difference(model, group) < 1e-4
    finally:
        other.get("close")
