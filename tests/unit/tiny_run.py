"""A whole training run without Ray or vLLM: the real loop, learner, scorer, checkpoints and files,
with a deterministic stand-in for the rollout workers. Also run as a program, to be killed:

    python tiny_run.py RUN_DIR MODEL_DIR [KEY=VALUE]...
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlvr.checkpoint import CONFIG, CheckpointStore
from rlvr.completions_log import CompletionsLog
from rlvr.config import RunConfig
from rlvr.data import ProblemStream
from rlvr.display import Display
from rlvr.learner import Learner
from rlvr.load_config import resolve
from rlvr.metrics import MetricsWriter
from rlvr.sampling import Sampling
from rlvr.scoring import Scorer
from rlvr.train import Result, Trainer
from rlvr.types import Batch, Completion, Group, Problem, Rollout, VersionSpan

VOCABULARY = 32
END = 31
"""Token ids 0 to 9 are digits, this one ends a completion."""


def make_model(folder: Path) -> Path:
    """A random two-layer Llama over a toy vocabulary."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        eos_token_id=END,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_problems(count: int = 40) -> list[Problem]:
    return [
        Problem(id=f"p{i}", prompt=f"digit {i % 10}", verifier="number", answer=str(i % 10))
        for i in range(count)
    ]


class ScriptedRollouts:
    """Samples by a random generator seeded with (group, member): the same group always gets the
    same completions, whenever and however often it is sampled."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.version = 0
        self._delay_s = delay_s

    async def generate(self, index: int, problem: Problem, num: int, sampling: Sampling) -> Group:
        version = self.version
        await asyncio.sleep(self._delay_s)
        rollouts = tuple(
            Rollout(completion=self._completion(random.Random(f"{index}/{member}"), version))
            for member in range(num)
        )
        prompt = tuple(10 + ord(c) % 20 for c in problem.prompt_text)
        return Group(index=index, problem=problem, prompt_token_ids=prompt, rollouts=rollouts)

    def _completion(self, rng: random.Random, version: int) -> Completion:
        digits = [rng.randrange(10) for _ in range(rng.randint(1, 2))]
        length = len(digits) + 1
        return Completion(
            text="".join(map(str, digits)),
            token_ids=(*digits, END),
            logprobs=tuple(-3.4 + rng.random() * 0.01 for _ in range(length)),
            versions=(VersionSpan(version=version, start=0, end=length),),
            finish_reason="stop",
        )

    def take_stats(self) -> dict[str, float]:
        return {}


class LocalLearner:
    """The real learner in this process; keeps a list of all groups it was trained on."""

    def __init__(self, config: RunConfig, model_dir: Path, rollouts: ScriptedRollouts) -> None:
        self._learner = Learner(config, model_dir)
        self._rollouts = rollouts
        self.version = 0
        self.trained: list[list[int]] = []
        self.batches: list[Batch] = []

    async def step(self, batch: Batch) -> dict[str, float]:
        await asyncio.sleep(0)
        self.batches.append(batch)
        self.trained.append([group.index for group in batch.groups])
        self.version = batch.step + 1
        return self._learner.step(batch)

    async def publish(self) -> dict[str, float]:
        self._rollouts.version = self.version
        return {}

    async def kl_penalties(self, groups: Sequence[Group]) -> list[list[float]]:
        return self._learner.kl_penalties(groups)

    async def save(self, folder: Path) -> None:
        self._learner.save_state(folder / "learner")

    async def load(self, folder: Path, version: int) -> None:
        self._learner.load_state(folder / "learner")
        self.version = version

    def weights(self) -> dict[str, Any]:
        return {name: tensor.clone() for name, tensor in self._learner.named_weights()}


def make_config(overrides: Sequence[str] = ()) -> RunConfig:
    values: dict[str, Any] = {
        "num_steps": 6,
        "groups_per_step": 4,
        "rollout": {"group_size": 4, "max_tokens": 4, "dtype": "float32"},
        "learner": {
            "lr": 1e-2,
            "warmup_steps": 2,
            "schedule": "cosine",
            "compute_dtype": "float32",
            "num_threads": 1,
        },
        "checkpoint": {"every": 2},
        "metrics": {"tensorboard": False},
    }
    return resolve(values, list(overrides), origin="test")


async def run(
    run_dir: Path, model_dir: Path, config: RunConfig, **replaced: Any
) -> tuple[Result, LocalLearner]:
    """One run, resumed when `run_dir` has a checkpoint; `replaced` parts stand in for the usual."""
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / CONFIG).write_text(config.model_dump_json())
    rollouts = replaced.pop("rollouts", None) or ScriptedRollouts()
    learner = replaced.pop("learner", None) or LocalLearner(config, model_dir, rollouts)
    store = CheckpointStore(run_dir, config.checkpoint.keep_last)
    stop = replaced.pop("stop", None) or asyncio.Event()
    with (
        MetricsWriter(run_dir, config.metrics, {}) as metrics,
        CompletionsLog(run_dir) as completions,
        Display(config) as display,
    ):
        async with Scorer(config.scoring) as scorer:
            trainer = Trainer(
                config=config,
                problems=ProblemStream(make_problems(), seed=config.seed),
                eval_problems=make_problems(4) if config.eval.every else [],
                rollouts=rollouts,
                learner=learner,
                scorer=replaced.pop("scorer", None) or scorer,
                checkpoints=store,
                metrics=metrics,
                completions=completions,
                display=display,
                stop=stop,
            )
            return await trainer.run(store.latest()), learner


if __name__ == "__main__":
    asyncio.run(
        run(
            Path(sys.argv[1]),
            Path(sys.argv[2]),
            make_config(sys.argv[3:]),
            rollouts=ScriptedRollouts(delay_s=0.03),  # slow enough to be killed in the middle
        )
    )
