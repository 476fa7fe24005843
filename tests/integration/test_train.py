"""The loop with a scripted sampler: resume is exact, faults are masked, nothing is lost."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvr.checkpoint import CheckpointStore, load_checkpoint
from rlvr.completions_log import read_completions
from rlvr.errors import CheckpointError, ScoringError
from rlvr.metrics import read_metrics
from rlvr.types import Verdict
from tests.unit import tiny_run


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.make_model(tmp_path_factory.mktemp("model"))


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


async def test_a_run_trains_each_problem_once_and_moves_the_weights(
    tmp_path: Path, model_dir: Path
) -> None:
    before = {
        k: v.clone() for k, v in tiny_run.Learner(tiny_run.make_config(), model_dir).named_weights()
    }
    result, learner = await tiny_run.run(tmp_path, model_dir, tiny_run.make_config())
    assert (result.step, result.interrupted) == (6, False)
    assert [i for step in learner.trained for i in step] == list(range(24))
    assert not same(before, learner.weights())
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert read_completions(tmp_path).num_rows == 6 * 4 * 4
    assert CheckpointStore(tmp_path, 2).steps() == [4, 6]


class StoppingRollouts(tiny_run.ScriptedRollouts):
    """Asks the run to stop once it has been asked for so many groups."""

    def __init__(self, stop: asyncio.Event, after: int) -> None:
        super().__init__()
        self._stop = stop
        self._left = after

    async def generate(self, *args: Any) -> Any:
        self._left -= 1
        if self._left <= 0:
            self._stop.set()
        return await super().generate(*args)


@pytest.mark.parametrize("max_lag", [0, 2])
async def test_stopped_and_resumed_gives_bit_identical_weights(
    tmp_path: Path, model_dir: Path, max_lag: int
) -> None:
    config = tiny_run.make_config([f"max_lag={max_lag}", "num_steps=8"])
    _, straight = await tiny_run.run(tmp_path / "a", model_dir, config)

    trained: list[list[int]] = []
    for attempt in range(20):
        stop = asyncio.Event()
        rollouts = StoppingRollouts(stop, after=3 + 2 * attempt)
        result, learner = await tiny_run.run(
            tmp_path / "b", model_dir, config, stop=stop, rollouts=rollouts
        )
        trained += learner.trained
        if not result.interrupted:
            break
    else:
        pytest.fail("never got to the end")
    assert attempt >= 2, "it was never stopped"
    assert trained == straight.trained, "no problem skipped, repeated or reordered"
    assert same(straight.weights(), learner.weights())
    assert [row["step"] for row in read_metrics(tmp_path / "b")] == list(range(1, 9))


@pytest.mark.slow
async def test_killed_at_random_moments_and_resumed_gives_bit_identical_weights(
    tmp_path: Path, model_dir: Path
) -> None:
    overrides = ["num_steps=60", "checkpoint.every=3", "max_lag=1"]
    await tiny_run.run(tmp_path / "a", model_dir, tiny_run.make_config(overrides))
    rng = random.Random(1)
    command = [sys.executable, "-m", "tests.unit.tiny_run", str(tmp_path / "b"), str(model_dir)]
    kills = 0
    for _ in range(40):
        process = subprocess.Popen(command + overrides, cwd=Path(__file__).parents[2])
        metrics = tmp_path / "b" / "metrics.jsonl"
        size = metrics.stat().st_size if metrics.exists() else 0
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size != size):
            time.sleep(0.01)  # until it is training
        try:
            process.wait(rng.random() * 1.5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        else:
            assert process.returncode == 0
            break
    assert kills >= 2, "the machine was too fast for this test to mean anything"
    latest = CheckpointStore(tmp_path / "b", 2).latest()
    assert latest is not None and latest.step == 60
    ours = torch.load(latest.path / "learner" / "rank-0.pt", weights_only=True)
    theirs = torch.load(
        CheckpointStore(tmp_path / "a", 2).path(60) / "learner" / "rank-0.pt", weights_only=True
    )
    assert equal(ours, theirs), "weights and optimizer state, to the bit"
    rows = [row["step"] for row in read_metrics(tmp_path / "b")]
    assert rows == list(range(1, 61))
    table = read_completions(tmp_path / "b")
    problems = table.column("group").to_pylist()[::4]
    assert problems == list(range(240)), "every group is logged once, in order"


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


class FaultyScorer:
    """Every `period`-th completion cannot be judged."""

    def __init__(self, inner: Any, period: int) -> None:
        self._inner = inner
        self._period = period
        self.check = inner.check
        self.verdict = inner.verdict

    async def score(self, group: Any) -> Any:
        scored = await self._inner.score(group)
        verdicts = [
            Verdict.error(reason="judge down") if k % self._period == 0 else each.verdict
            for k, each in enumerate(scored.rollouts)
        ]
        return scored.with_verdicts(verdicts)


async def test_faults_of_the_verifier_are_masked_not_scored_zero(
    tmp_path: Path, model_dir: Path
) -> None:
    config = tiny_run.make_config(["num_steps=2"])
    async with tiny_run.Scorer(config.scoring) as inner:
        _, learner = await tiny_run.run(
            tmp_path, model_dir, config, scorer=FaultyScorer(inner, period=3)
        )
    for batch in learner.batches:
        for row, group in zip(batch.advantages, batch.groups, strict=True):
            assert [a is None for a in row] == [r is None for r in group.rewards]
            judged = [a for a in row if a is not None]
            assert abs(sum(judged)) < 1e-6, "mean and std are those of the judged members"
    assert read_metrics(tmp_path)[0]["verdicts/error"] == 8


async def test_a_broken_verifier_stops_the_run_with_its_reason(
    tmp_path: Path, model_dir: Path
) -> None:
    config = tiny_run.make_config()
    async with tiny_run.Scorer(config.scoring) as inner:
        with pytest.raises(ScoringError, match="judge down"):
            await tiny_run.run(tmp_path, model_dir, config, scorer=FaultyScorer(inner, period=1))


class BreakingScorer(FaultyScorer):
    """Judges well until it was asked for so many groups, then not at all."""

    def __init__(self, inner: tiny_run.Scorer, after: int) -> None:
        super().__init__(inner, period=1)
        self._left = after

    async def score(self, group: Any) -> Any:
        self._left -= 1
        return await (super() if self._left < 0 else self._inner).score(group)


async def test_when_judging_breaks_no_step_is_lost_and_a_resume_judges_its_groups_again(
    tmp_path: Path, model_dir: Path
) -> None:
    config = tiny_run.make_config(["checkpoint.every=0"])
    _, straight = await tiny_run.run(tmp_path / "a", model_dir, config)
    async with tiny_run.Scorer(config.scoring) as inner:
        with pytest.raises(ScoringError, match="judge down"):
            await tiny_run.run(
                tmp_path / "b", model_dir, config, scorer=BreakingScorer(inner, after=3 * 4)
            )
    assert CheckpointStore(tmp_path / "b", 2).steps() == [3]
    result, resumed = await tiny_run.run(tmp_path / "b", model_dir, config)
    assert result.step == 6
    assert resumed.trained == straight.trained[3:]
    assert same(straight.weights(), resumed.weights())


async def test_what_a_run_without_a_checkpoint_left_behind_is_made_again(
    tmp_path: Path, model_dir: Path
) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 5}\n{"step": 99, "loss": 5}\n')
    await tiny_run.run(tmp_path, model_dir, tiny_run.make_config(["num_steps=2"]))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


async def test_a_run_that_is_resumed_at_its_end_is_not_evaluated_again(
    tmp_path: Path, model_dir: Path
) -> None:
    config = tiny_run.make_config(["num_steps=2", "eval.every=2"])
    await tiny_run.run(tmp_path, model_dir, config)
    before = (tmp_path / "metrics.jsonl").read_text()
    await tiny_run.run(tmp_path, model_dir, config)
    assert (tmp_path / "metrics.jsonl").read_text() == before


async def test_evaluation_runs_before_after_and_in_between(tmp_path: Path, model_dir: Path) -> None:
    config = tiny_run.make_config(["eval.every=4"])
    result, _ = await tiny_run.run(tmp_path, model_dir, config)
    assert sorted(result.evaluations) == [0, 4, 6]
    assert all(each.num_problems == 4 for each in result.evaluations.values())


class BestAfterTwoSteps:
    """Judges everything right that version 2 of the policy says, and nothing else."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.check = inner.check
        self.verdict = inner.verdict

    async def score(self, group: Any) -> Any:
        right = group.oldest_version == 2
        return group.with_verdicts(
            [Verdict.correct() if right else Verdict.incorrect() for _ in group.rollouts]
        )


class Copier:
    """Rewards one and the same answer, whatever the problem: what a hacked verifier looks like."""

    def __init__(self, inner: Any) -> None:
        self.check, self.verdict = inner.check, inner.verdict

    async def score(self, group: Any) -> Any:
        verdicts = [Verdict.correct(extracted="42") for _ in group.rollouts]
        return group.with_verdicts(verdicts)


async def test_reward_hacking_raises_an_alarm_that_is_filed_once_even_after_a_resume(
    tmp_path: Path, model_dir: Path
) -> None:
    for steps in (8, 10):
        config = tiny_run.make_config([f"num_steps={steps}", "checkpoint.every=4"])
        async with tiny_run.Scorer(config.scoring) as inner:
            await tiny_run.run(tmp_path, model_dir, config, scorer=Copier(inner))
    alarms = [json.loads(line) for line in (tmp_path / "alarms.jsonl").read_text().splitlines()]
    assert "shared" in [alarm["kind"] for alarm in alarms]
    assert len({alarm["kind"] for alarm in alarms}) == len(alarms)
    assert sum(row["hacking/alarms"] for row in read_metrics(tmp_path)) == len(alarms)


async def test_the_best_checkpoint_is_kept_and_patience_ends_the_run_even_when_resumed(
    tmp_path: Path, model_dir: Path
) -> None:
    settings = ["num_steps=20", "eval.every=2", "eval.patience=2", "checkpoint.keep_last=1"]
    config = tiny_run.make_config([*settings, "checkpoint.every=0"])
    async with tiny_run.Scorer(config.scoring) as inner:
        result, _ = await tiny_run.run(tmp_path, model_dir, config, scorer=BestAfterTwoSteps(inner))
        assert result.step == 6 and not result.interrupted
        store = CheckpointStore(tmp_path, 1)
        assert store.best_step() == 2
        assert store.steps() == [2, 6]
        again, _ = await tiny_run.run(tmp_path, model_dir, config, scorer=BestAfterTwoSteps(inner))
    assert again.step == 6 and not again.interrupted


async def test_a_full_disk_at_checkpoint_time_keeps_the_old_checkpoint(
    tmp_path: Path, model_dir: Path
) -> None:
    config = tiny_run.make_config()
    rollouts = tiny_run.ScriptedRollouts()
    learner = tiny_run.LocalLearner(config, model_dir, rollouts)
    save = learner.save

    async def full_after_step_2(folder: Path) -> None:
        await save(folder)
        if learner.version > 2:
            raise OSError(28, "No space left on device")

    learner.save = full_after_step_2  # type: ignore[method-assign]
    with pytest.raises(CheckpointError, match=r"step 4.*No space left.*step 2 is intact"):
        await tiny_run.run(tmp_path, model_dir, config, rollouts=rollouts, learner=learner)
    store = CheckpointStore(tmp_path, 2)
    assert store.steps() == [2]
    assert load_checkpoint(store.path(2)).step == 2
