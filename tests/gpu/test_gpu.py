"""What only a GPU can show. These tests have not been run on one yet."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlvr.learner import Learner
from rlvr.metrics import read_metrics
from tests.integration.test_learner import make_batch, make_config, make_model
from tests.integration.test_train_e2e import finish, start, write_recipe

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(autouse=True)
def num_gpus() -> int:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.cuda.device_count()


@pytest.mark.parametrize("packing", ["tree", "padded"])
def test_a_step_is_the_same_as_on_the_cpu(packing: str, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    batch = make_batch()
    figures, weights = [], []
    for device in ("cpu", "cuda"):
        config = make_config(model, learner__device=device, learner__packing=packing)
        learner = Learner(config, model)
        figures.append(learner.step(batch))
        weights.append({name: weight.cpu() for name, weight in learner.named_weights()})
    for name in ("loss", "grad_norm", "policy/entropy", "tokens/trained"):
        assert figures[0][name] == pytest.approx(figures[1][name], rel=1e-3, abs=1e-5), name
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=0, atol=1e-4, msg=name)


@pytest.mark.parametrize("backend", ["nccl", "ray"])
def test_reward_rises_and_sampler_and_learner_agree(
    backend: str, num_gpus: int, tmp_path: Path
) -> None:
    if num_gpus < 2:
        pytest.skip("one GPU for the rollout worker and one for the learner are needed")
    run_dir = tmp_path / "run"
    finish(start(str(write_recipe(tmp_path)), f"run_dir={run_dir}", f"weights.backend={backend}"))
    rows = read_metrics(run_dir)
    first, last = (sum(row["reward/mean"] for row in part) / 3 for part in (rows[:3], rows[-3:]))
    assert last > first + 0.2, f"reward went from {first:.3f} to {last:.3f}"
    assert sum(row["mismatch/kl_k3"] for row in rows) / len(rows) < 0.01
