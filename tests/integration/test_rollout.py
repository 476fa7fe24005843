"""What a rollout engine does without a model (test_rollout_vllm.py has the rest)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from rlvr.config import RunConfig
from rlvr.errors import WeightTransferError
from rlvr.rollout import RolloutEngine, Sampling, SharedMemory


def test_training_samples_from_the_plain_distribution() -> None:
    config = RunConfig.model_validate(
        {
            "rollout": {"max_tokens": 7, "temperature": 0.8, "stop": ["END"]},
            "eval": {"temperature": 0.0, "top_p": 0.9},
        }
    )
    assert Sampling.for_training(config) == Sampling(
        max_tokens=7, temperature=0.8, top_p=1.0, stop=("END",)
    )


@pytest.mark.parametrize(("own", "expected"), [(None, 7), (11, 11)])
def test_evaluation_has_its_own_temperature_and_may_have_its_own_length(
    own: int | None, expected: int
) -> None:
    config = RunConfig.model_validate(
        {
            "rollout": {"max_tokens": 7, "stop": ["END"]},
            "eval": {"temperature": 0.0, "top_p": 0.9, "max_tokens": own},
        }
    )
    assert Sampling.for_evaluation(config) == Sampling(
        max_tokens=expected, temperature=0.0, top_p=0.9, stop=("END",)
    )


def test_shared_memory_is_read_by_path_and_grows() -> None:
    memory = SharedMemory()
    first = memory.write([np.full(3, 1, np.uint8), np.full(2, 2, np.uint8)], [0, 64], 66)
    data = Path(first).read_bytes()
    assert (data[:3], data[64:66], len(data)) == (b"\x01\x01\x01", b"\x02\x02", 66)
    second = memory.write([np.full(200, 3, np.uint8)], [10], 210)
    assert second == first
    assert Path(second).read_bytes()[10:] == b"\x03" * 200


def test_shared_memory_leaves_no_file(tmp_path: Path) -> None:
    before = set(os.listdir("/dev/shm"))
    SharedMemory().write([np.zeros(8, np.uint8)], [0], 8)
    assert set(os.listdir("/dev/shm")) <= before


async def test_stale_weights_are_refused_before_anything_is_paused() -> None:
    engine = RolloutEngine(RunConfig(), "nowhere", 3)
    engine.version = 5
    for version in (4, 5):
        with pytest.raises(WeightTransferError, match=rf"v5 already, refused the stale v{version}"):
            await engine.start_weight_update(version)
