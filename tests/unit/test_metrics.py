import errno
import json
import math
import re
import sys
from pathlib import Path
from unittest import TestCase

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import rlvr
from rlvr.config import MetricsConfig
from rlvr.errors import CheckpointError, ConfigError
from rlvr.evaluate import PassRate
from rlvr.metrics import (
    METRICS,
    MetricsWriter,
    derived_metrics,
    group_metrics,
    read_metrics,
)
from rlvr.types import Completion, FinishReason, Group, Problem, Rollout, Verdict, VersionSpan

PLAIN = MetricsConfig(tensorboard=False)


def rollout(
    verdict: Verdict,
    length: int = 4,
    version: int = 3,
    finish: FinishReason = "stop",
    penalty: float = 0.0,
) -> Rollout:
    completion = Completion(
        text="",
        token_ids=tuple(range(length)),
        logprobs=(-1.0,) * length,
        versions=(VersionSpan(version=version, start=0, end=length),),
        finish_reason=finish,
    )
    return Rollout(completion=completion, verdict=verdict, penalty=penalty)


def group(*rollouts: Rollout, prompt: int = 5) -> Group:
    return Group(
        index=0,
        problem=Problem(id="p", prompt="?", verifier="number"),
        prompt_token_ids=tuple(range(prompt)),
        rollouts=rollouts,
    )


right, wrong, ours = Verdict.correct(), Verdict.incorrect(), Verdict.error()


def test_rewards_of_components_are_averaged_over_the_completions_they_judged():
    def composite(**rewards: float | None) -> Verdict:
        parts = {name: {"status": "correct", "reward": value} for name, value in rewards.items()}
        return Verdict.correct(components=parts)

    foreign = Verdict.correct(components=["not", "ours"])
    groups = [
        group(
            rollout(composite(format=1.0, answer=0.0)),
            rollout(composite(format=0.5)),
            rollout(composite(format=None)),
            rollout(foreign),
        )
    ]
    metrics = group_metrics(groups, version=0)
    assert metrics["reward/component/format"] == 0.75
    assert metrics["reward/component/answer"] == 0.0


def test_hand_worked_step():
    groups = [
        group(rollout(right, 2), rollout(wrong, 6, finish="length"), rollout(ours, 4), prompt=3),
        group(rollout(right), rollout(right), rollout(right, penalty=-0.5), prompt=7),
    ]
    metrics = group_metrics(groups, version=5)
    # Judged: 1 + 3 right of 2 + 3. Rewards: 1, 0, 1, 1, 0.5.
    expected = {
        "pass_rate": 4 / 5,
        "reward/mean": 0.7,
        "reward/std": math.sqrt((3 * 0.09 + 0.49 + 0.04) / 5),
        "reward/penalty": -0.5 / 6,
        "verdicts/correct": 4,
        "verdicts/incorrect": 1,
        "verdicts/error": 1,
        "verdicts/limit": 0,
        "groups/mixed": 0.5,
        "groups/all_right": 0.5,
        "groups/all_wrong": 0,
        "groups/masked": 0,
        "groups/zero_variance": 0,
        "groups/sampled": 2,
        "completion/length_mean": 4,
        "completion/length_min": 2,
        "completion/length_max": 6,
        "completion/truncated": 1 / 6,
        "prompt/length_mean": 5,
        "lag/mean": 2,
        "lag/max": 2,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert set(metrics) <= set(METRICS)


def test_a_fault_of_ours_moves_neither_pass_rate_nor_reward():
    judged = [group(rollout(right), rollout(wrong))]
    with_faults = [group(rollout(right), rollout(wrong), rollout(ours), rollout(ours))]
    for name in ("pass_rate", "reward/mean", "reward/std", "groups/mixed"):
        assert group_metrics(judged, version=3)[name] == group_metrics(with_faults, version=3)[name]


def test_what_cannot_be_told_is_left_out():
    metrics = group_metrics([group(rollout(ours), rollout(ours))], version=3)
    assert not {"pass_rate", "reward/mean", "reward/std"} & set(metrics)
    assert metrics["groups/masked"] == 1


def test_lag_is_counted_by_token():
    completion = Completion(
        text="",
        token_ids=(1, 2, 3, 4),
        logprobs=(-1.0,) * 4,
        versions=(
            VersionSpan(version=1, start=0, end=1),
            VersionSpan(version=3, start=1, end=4),
        ),
        finish_reason="stop",
    )
    metrics = group_metrics([group(Rollout(completion=completion, verdict=right))], version=3)
    assert metrics["lag/mean"] == 2 * 1 / 4
    assert metrics["lag/max"] == 2


def test_rates_and_idle_times():
    row = {"tokens/rollout": 100.0, "time/rollout_busy_s": 4.0, "tokens/trained": 60.0}
    row |= {"time/learner_s": 6.0, "time/step_s": 10.0}
    assert derived_metrics(row) == {
        "tokens_per_s/rollout": 25,
        "tokens_per_s/learner": 10,
        "idle/rollout_s": 6,
        "idle/learner_s": 4,
    }
    assert derived_metrics({}) == {}


def test_lines_are_read_back_while_the_run_goes_on(tmp_path: Path):
    with MetricsWriter(tmp_path, PLAIN, {}) as writer:
        writer.write(1, {"loss": 0.5, "reward/mean": 1})
        writer.write(2, {"loss": 0.25})
        writer.write(2, {"eval/pass_at_1": 0.75})
        rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["loss"] == 0.5
    assert (rows[1]["loss"], rows[1]["eval/pass_at_1"]) == (0.25, 0.75)


def test_a_name_that_is_not_in_the_table_is_an_error(tmp_path: Path):
    refused = pytest.raises(ValueError, match="unknown metric 'reward/maen'")
    with MetricsWriter(tmp_path, PLAIN, {}) as writer, refused:
        writer.write(1, {"reward/maen": 1.0})
    assert read_metrics(tmp_path) == []


def test_steps_do_not_go_back(tmp_path: Path):
    refused = pytest.raises(ValueError, match="step 1 come after those of step 2")
    with refused, MetricsWriter(tmp_path, PLAIN, {}) as writer:
        writer.write(2, {"loss": 1.0})
        writer.write(1, {"loss": 1.0})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_becomes_null_and_is_counted(tmp_path: Path, value: float):
    warned = TestCase().assertLogs(level="WARNING")
    with warned as logged, MetricsWriter(tmp_path, PLAIN, {}) as writer:
        writer.write(1, {"loss": value, "lr": 0.1, "grad_norm": value})

    def refuse(token: str) -> None:
        raise AssertionError(f"not JSON: {token}")

    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert (row["loss"], row["grad_norm"], row["lr"]) == (None, None, 0.1)
    assert row["metrics/non_finite"] == 2
    assert "loss, grad_norm" in logged.output[0]


def test_an_evaluation_has_its_interval_and_counts(tmp_path: Path):
    result = PassRate(
        pass_at_1=0.5,
        low=0.4,
        high=0.6,
        num_problems=50,
        num_samples=2,
        num_left_out=1,
        statuses={"correct": 50, "incorrect": 50, "error": 3},
        mean_length=7.5,
        truncated=0.25,
    )
    with MetricsWriter(tmp_path, PLAIN, {}) as writer:
        writer.write_evaluation(4, result, seconds=2.0)
    row = read_metrics(tmp_path)[0]
    assert (row["eval/low"], row["eval/pass_at_1"], row["eval/high"]) == (0.4, 0.5, 0.6)
    assert (row["eval/n"], row["eval/correct"], row["eval/errors"]) == (50, 50, 3)


def test_after_a_resume_no_step_is_there_twice(tmp_path: Path):
    with MetricsWriter(tmp_path, PLAIN, {}) as writer:
        for step in range(1, 6):
            writer.write(step, {"loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # killed in the middle of a line
    with MetricsWriter(tmp_path, PLAIN, {}) as writer:
        writer.truncate_after(3)
        for step in range(4, 7):
            writer.write(step, {"loss": 10.0 * step})
    rows = read_metrics(tmp_path)
    assert [(row["step"], row["loss"]) for row in rows] == [
        (1, 1), (2, 2), (3, 3), (4, 40), (5, 50), (6, 60),
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_full_disk_says_where(tmp_path: Path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    full = pytest.raises(CheckpointError, match=r"metrics.jsonl.*No space left.*resume")
    with full as caught, MetricsWriter(tmp_path, PLAIN, {}) as writer:
        writer.write(1, {"loss": 1.0})
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC


def test_tensorboard_shows_the_same_figures_and_forgets_what_is_run_again(tmp_path: Path):
    config = MetricsConfig(tensorboard=True)
    with MetricsWriter(tmp_path, config, {}) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"loss": float(step)})
    with MetricsWriter(tmp_path, config, {}) as writer:
        writer.truncate_after(1)
        writer.write(2, {"loss": 20.0})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1), (2, 20)]


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_a_config_error(
    tmp_path: Path, tracker: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, tracker, None)
    config = MetricsConfig.model_validate({"tensorboard": False, tracker: True})
    with pytest.raises(ConfigError, match=rf"pip install {tracker}.*metrics.{tracker}=false"):
        MetricsWriter(tmp_path, config, {})


def test_every_metric_name_in_the_source_is_in_the_table():
    package = Path(rlvr.__file__).parent
    subjects = {name.split("/")[0] for name in METRICS}
    literal = re.compile(r'"(([a-z_]+)/[a-z_0-9]+)"')
    used = {
        match[1]
        for path in package.glob("*.py")
        if path.name != "metrics.py"
        for match in literal.finditer(path.read_text(encoding="utf-8"))
        if match[2] in subjects
    }
    assert used <= set(METRICS)
