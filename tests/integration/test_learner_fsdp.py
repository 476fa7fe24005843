"""Two learner ranks over gloo against one: the same loss, gradient norm and weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from rlvr.learner import Learner
from tests.integration.test_learner import make_batch, make_config, make_model

NUM_STEPS = 3
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "untied, several micro-batches": {"learner__max_tokens_per_microbatch": 24},
    "kl and minibatches": {
        "algorithm__kl_coef": 0.1,
        "algorithm__old_logprobs": "learner",
        "learner__num_minibatches": 2,
        "groups_per_step": 6,
    },
    "lora": {"model__lora": {"rank": 4}},
    "checkpointing": {"learner__gradient_checkpointing": True},
}


def run_all(folder: Path, rank: int, world_size: int) -> None:
    """What every process does: all cases, one after the other."""
    torch.set_num_threads(1)
    for case in CASES:
        run(folder / case, case, rank, world_size)
        if world_size > 1:
            dist.destroy_process_group()


def run(folder: Path, case: str, rank: int, world_size: int) -> None:
    """One case; rank 0 writes what it found."""
    config = make_config(folder / "model", **CASES[case])
    learner = Learner(config, folder / "model", rank, world_size, f"file://{folder}/rendezvous")
    batches = [make_batch(num_groups=6, seed=step, step=step) for step in range(NUM_STEPS)]
    metrics = [learner.step(batch) for batch in batches[:-1]]
    learner.save_state(folder / f"state-{world_size}")
    metrics.append(learner.step(batches[-1]))
    after = {name: weight.clone() for name, weight in learner.named_weights()}
    learner.load_state(folder / f"state-{world_size}")
    again = learner.step(batches[-1])
    assert again["grad_norm"] == metrics[-1]["grad_norm"]
    for name, weight in learner.named_weights():
        assert torch.equal(weight, after[name]), f"{name} is not bit-identical after a resume"
    logprobs = learner.logprobs(batches[0].groups)
    penalties = learner.kl_penalties(batches[0].groups) if config.algorithm.kl_coef else []
    learner.save_hf(folder / f"hf-{world_size}")
    if rank == 0:
        save_file(after, folder / f"weights-{world_size}.safetensors")
        (folder / f"found-{world_size}.json").write_text(
            json.dumps({"metrics": metrics, "logprobs": logprobs, "penalties": penalties})
        )


CODE = """
import sys
from pathlib import Path
from tests.integration.test_learner_fsdp import run_all
run_all(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each case, with what one rank and two ranks made of it."""
    folder = tmp_path_factory.mktemp("fsdp")
    for case in CASES:
        (folder / case).mkdir()
        make_model(folder / case / "model", tie_word_embeddings=not case.startswith("untied"))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, str(folder), str(rank), str(world_size)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, world_size in ((0, 1), (0, 2), (1, 2))
    ]
    for process in processes:
        output, _ = process.communicate(timeout=500)
        assert process.returncode == 0, output
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_train_like_one(found: Path, case: str) -> None:
    folder = found / case
    one, two = (json.loads((folder / f"found-{n}.json").read_text()) for n in (1, 2))
    for first, second in zip(one["metrics"], two["metrics"], strict=True):
        for name in ("loss", "grad_norm", "tokens/trained", "policy/entropy", "packing/nodes"):
            assert first[name] == pytest.approx(second[name], rel=1e-4, abs=1e-6), name
    assert flat(one["logprobs"]) == pytest.approx(flat(two["logprobs"]), abs=1e-4)
    assert flat(one["penalties"]) == pytest.approx(flat(two["penalties"]), rel=1e-4, abs=1e-4)
    weights = load_file(folder / "weights-1.safetensors")
    other = load_file(folder / "weights-2.safetensors")
    assert set(weights) == set(other)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, other[name], rtol=0, atol=1e-5, msg=name)
    saved = [load_file(folder / f"hf-{n}" / "model.safetensors") for n in (1, 2)]
    assert set(saved[0]) == set(saved[1])


def flat(values: Any) -> list[float]:
    return [x for value in values for x in flat(value)] if isinstance(values, list) else [values]
