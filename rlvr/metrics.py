"""What is measured, and where the figures go.

`METRICS` names every metric of the project with its unit and meaning; writing a name that is not in
it is an error, so docs/metrics.md (generated from it) is always the whole truth.

`MetricsWriter` appends one JSON line a step to `metrics.jsonl` in the run directory and hands the
same figures to TensorBoard, wandb and Trackio when the configuration asks for them. A metric that
has nothing to measure in a step (the pass rate when no completion could be judged) is left out.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, get_args

from rlvr import hacking
from rlvr.advantages import GroupKind, group_kind, zero_variance
from rlvr.config import MetricsConfig
from rlvr.errors import CheckpointError
from rlvr.evaluate import PassRate
from rlvr.trackers import open_trackers
from rlvr.types import Group, Status, Verdict
from rlvr.workbench import live

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
ALARMS_FILE = "alarms.jsonl"

PHASES = {
    "rollout": "Waiting for sampled and judged groups.",
    "advantages": "Turning rewards into advantages.",
    "learner": "The learner's step; pack, forward, backward and optimizer are its parts.",
    "pack": "Packing groups into micro-batches.",
    "forward": "The learner's forward passes.",
    "backward": "The learner's backward passes.",
    "optimizer": "Gradient clipping and the optimizer.",
    "publish": "Moving weights to the rollout workers, as the loop sees it.",
    "eval": "Held-out evaluation.",
    "checkpoint": "Saving a checkpoint.",
    "step": "The whole step, evaluation and checkpoint left out.",
}
"""Phases of a step; each has a metric `time/<phase>_s`."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the metric table."""

    unit: str
    """`1` for plain numbers; `fraction` lies in [0, 1]."""
    meaning: str


METRICS: dict[str, Metric] = {
    "reward/mean": Metric("1", "Mean reward, penalties included; masked completions left out."),
    "reward/std": Metric("1", "Standard deviation of the same rewards over the whole batch."),
    "reward/penalty": Metric("1", "Mean penalty (overlong, KL in the reward)."),
    "reward/component/<name>": Metric(
        "1", "Mean reward of a composite verifier's component, as it came, where it was judged."
    ),
    "pass_rate": Metric(
        "fraction", "`correct` among judged completions; `error` left out of both."
    ),
    **{
        f"verdicts/{status.value}": Metric("completions", f"Verdicts with status `{status.value}`.")
        for status in Status
    },
    "verdicts/latency_mean_s": Metric("s", "Mean time to judge one completion, retries included."),
    "verdicts/latency_max_s": Metric("s", "Slowest verdict."),
    "groups/all_right": Metric("fraction", "Groups in which every judged completion is right."),
    "groups/all_wrong": Metric(
        "fraction", "Groups in which no judged completion is right, even in part."
    ),
    "groups/mixed": Metric("fraction", "Groups of right and wrong, or with graded completions."),
    "groups/masked": Metric("fraction", "Groups with fewer than two judged completions."),
    "groups/zero_variance": Metric("fraction", "Groups whose rewards are all the same: no signal."),
    "groups/sampled": Metric("groups", "Groups sampled for this step: trained and refilled ones."),
    "groups/trained": Metric("groups", "Groups in the batch."),
    "groups/refilled": Metric("groups", "Groups that dynamic sampling dropped and replaced."),
    "completion/length_mean": Metric("tokens", "Mean completion length."),
    "completion/length_min": Metric("tokens", "Shortest completion."),
    "completion/length_max": Metric("tokens", "Longest completion."),
    "completion/truncated": Metric("fraction", "Completions that ran into `rollout.max_tokens`."),
    "completion/aborted": Metric("fraction", "Completions that the engine gave up."),
    "prompt/length_mean": Metric("tokens", "Mean prompt length."),
    "policy/entropy": Metric("nats/token", "Mean entropy of the learner's distribution."),
    "mismatch/kl_k1": Metric(
        "nats/token",
        "KL from sampler to learner, k1 estimate: mean of log p_sampler - log p_learner.",
    ),
    "mismatch/kl_k3": Metric("nats/token", "The same KL, k3 estimate (never negative)."),
    "mismatch/ratio_mean": Metric("1", "Mean of p_learner / p_sampler over trained tokens."),
    "mismatch/ratio_max": Metric("1", "Largest p_learner / p_sampler."),
    "ratio/mean": Metric("1", "Mean of the ratio that is clipped, p_learner / p_old."),
    "ratio/max": Metric("1", "Largest ratio."),
    "clip/low": Metric("fraction", "Trained tokens held at 1 - `clip_low`."),
    "clip/high": Metric("fraction", "Trained tokens held at 1 + `clip_high`."),
    "importance/mean": Metric("1", "Mean importance weight from sampler to learner (TIS, MIS)."),
    "importance/capped": Metric("fraction", "Trained tokens truncated (TIS) or masked (MIS)."),
    "kl/reference": Metric("nats/token", "KL from the policy to the reference model."),
    "loss": Metric("1", "The loss that was minimised."),
    "grad_norm": Metric("1", "Global gradient norm before clipping."),
    "lr": Metric("1", "Learning rate of this step."),
    "tokens/rollout": Metric("tokens", "Completion tokens that came in during this step."),
    "tokens/trained": Metric("tokens", "Completion tokens that the loss was taken over."),
    "tokens_per_s/rollout": Metric("tokens/s", "`tokens/rollout` / `time/rollout_busy_s`."),
    "tokens_per_s/learner": Metric("tokens/s", "`tokens/trained` / `time/learner_s`."),
    "packing/nodes": Metric("tokens", "Tokens the learner computed, shared prefixes counted once."),
    "packing/sharing": Metric("1", "Tokens of padded rows / tokens computed: work saved."),
    "packing/microbatches": Metric("1", "Forward and backward passes of the step, per rank."),
    "lag/mean": Metric("versions", "Mean age of trained tokens: policy version now - then."),
    "lag/max": Metric("versions", "Age of the oldest token in the batch."),
    "weights/version": Metric("1", "Policy version that all rollout workers confirmed."),
    "weights/publish_s": Metric("s", "Publish: from the learner's weights to the last worker."),
    "weights/bytes": Metric("bytes", "Bytes of one copy of the published weights."),
    "workers/restarts": Metric("1", "Rollout workers restarted so far."),
    **{f"time/{phase}_s": Metric("s", what) for phase, what in PHASES.items()},
    "time/rollout_busy_s": Metric("s", "At least one completion was being sampled."),
    "idle/rollout_s": Metric("s", "`time/step_s` without any completion being sampled."),
    "idle/learner_s": Metric("s", "`time/step_s` in which the learner had nothing to do."),
    "eval/pass_at_1": Metric("fraction", "Held-out pass@1."),
    "eval/low": Metric("fraction", "Lower end of the 95 % interval of `eval/pass_at_1`."),
    "eval/high": Metric("fraction", "Upper end of the 95 % interval."),
    "eval/n": Metric("problems", "Held-out problems in the figure."),
    "eval/left_out": Metric("problems", "Held-out problems of which nothing could be judged."),
    "eval/samples": Metric("completions", "Completions a held-out problem."),
    "eval/correct": Metric("completions", "Correct ones, over all problems."),
    "eval/errors": Metric("completions", "Completions that could not be judged: left out."),
    "eval/length_mean": Metric("tokens", "Mean completion length in evaluation."),
    "eval/truncated": Metric("fraction", "Completions that ran into the length limit."),
    "metrics/non_finite": Metric("1", "Values in this line that were NaN or infinite: now null."),
    **{name: Metric(*row) for name, row in (hacking.METRICS | live.METRICS).items()},
}
"""Every metric there is. Names are `<subject>/<figure>`; seconds end in `_s`."""

COMPONENT = "reward/component/"
"""Followed by the name that the recipe gives a component."""


def check_names(names: Iterable[str]) -> None:
    """Raise ValueError if a name is not in `METRICS`."""
    for name in names:
        if name not in METRICS and not name.startswith(COMPONENT):
            raise ValueError(f"unknown metric {name!r}: add it to METRICS in rlvr/metrics.py")


def group_metrics(groups: Sequence[Group], *, version: int) -> dict[str, float]:
    """Everything that can be told from scored groups alone.

    Args:
        groups: [P] The groups sampled for the step, verdicts attached.
        version: Policy version that the learner is about to train, which token lag is counted from.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    completions = [rollout.completion for rollout in rollouts]
    lengths = [len(completion.token_ids) for completion in completions]
    rewards = [rollout.reward for rollout in rollouts if rollout.reward is not None]
    verdicts = [rollout.verdict for rollout in rollouts if rollout.verdict is not None]
    statuses = Counter(verdict.status for verdict in verdicts)
    num_judged = len(verdicts) - statuses[Status.ERROR]
    kinds = Counter(group_kind([rollout.verdict for rollout in g.rollouts]) for g in groups)

    metrics: dict[str, float] = {
        "groups/sampled": len(groups),
        **{f"groups/{kind}": kinds[kind] / len(groups) for kind in get_args(GroupKind)},
        "groups/zero_variance": fmean(zero_variance(group.rewards) for group in groups),
        **{f"verdicts/{status.value}": statuses[status] for status in Status},
        "reward/penalty": fmean(rollout.penalty for rollout in rollouts),
        "completion/length_mean": fmean(lengths),
        "completion/length_min": min(lengths),
        "completion/length_max": max(lengths),
        "completion/truncated": fmean(c.finish_reason == "length" for c in completions),
        "completion/aborted": fmean(c.finish_reason == "abort" for c in completions),
        "prompt/length_mean": fmean(len(group.prompt_token_ids) for group in groups),
    }
    if rewards:
        metrics |= {"reward/mean": fmean(rewards), "reward/std": pstdev(rewards)}
    if num_judged:
        metrics["pass_rate"] = statuses[Status.CORRECT] / num_judged
    if verdicts:
        latencies = [verdict.latency_s for verdict in verdicts]
        metrics |= {
            "verdicts/latency_mean_s": fmean(latencies),
            "verdicts/latency_max_s": max(latencies),
        }
    return metrics | _components(verdicts) | _lag(groups, version)


def _components(verdicts: Iterable[Verdict]) -> dict[str, float]:
    """Mean reward by component, of composites' verdicts. Anybody's verifier may write "components"
    into its detail; what has not the form that `verifiers.compose` documents is passed over."""
    rewards: defaultdict[str, list[float]] = defaultdict(list)
    for verdict in verdicts:
        components = verdict.detail.get("components")
        for name, part in components.items() if isinstance(components, dict) else ():
            reward = part.get("reward") if isinstance(part, dict) else None
            if isinstance(reward, int | float):
                rewards[name].append(reward)
    return {f"{COMPONENT}{name}": fmean(values) for name, values in rewards.items()}


def derived_metrics(row: Mapping[str, float]) -> dict[str, float]:
    """Rates and idle times that follow from a whole step's figures; those of a part that `row` does
    not have are left out."""
    metrics: dict[str, float] = {}
    if row.get("time/rollout_busy_s"):
        metrics["tokens_per_s/rollout"] = row["tokens/rollout"] / row["time/rollout_busy_s"]
    if row.get("time/learner_s") and "tokens/trained" in row:
        metrics["tokens_per_s/learner"] = row["tokens/trained"] / row["time/learner_s"]
    for who, busy in (("learner", "time/learner_s"), ("rollout", "time/rollout_busy_s")):
        if busy in row and "time/step_s" in row:
            metrics[f"idle/{who}_s"] = max(0.0, row["time/step_s"] - row[busy])
    return metrics


def _lag(groups: Sequence[Group], version: int) -> dict[str, float]:
    spans = [
        (version - span.version, span.end - span.start)
        for group in groups
        for rollout in group.rollouts
        for span in rollout.completion.versions
    ]
    num_tokens = sum(length for _, length in spans)
    if num_tokens == 0:
        return {}
    return {
        "lag/mean": sum(lag * length for lag, length in spans) / num_tokens,
        "lag/max": max(lag for lag, length in spans if length),
    }


class MetricsWriter:
    """Writes the figures of each step; `metrics.jsonl` always, trackers when asked for.

    Each line is `{"step": ..., "time": <seconds since 1970>, <name>: <value>, ...}` and is readable
    as soon as `write` returns. Values that are not finite become null, and are counted in
    `metrics/non_finite`.

    Args:
        run_dir: The run directory; must exist.
        config: Which trackers to use.
        run_config: The resolved configuration, for the trackers that show it.

    Raises:
        ConfigError: a tracker is asked for and not installed, or does not start.
        CheckpointError: the run directory cannot be written.
    """

    def __init__(
        self,
        run_dir: Path,
        config: MetricsConfig,
        run_config: dict[str, Any],
    ) -> None:
        self._path = run_dir / METRICS_FILE
        self._last_step = -1
        self._trackers = open_trackers(run_dir, config, run_config)
        # Unbuffered: a line is on its way to disk when `write` returns, and after a failure nothing
        # is left for `close` to fail with again.
        self._file = self._path.open("ab", buffering=0)

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line.

        Args:
            step: Learner steps done; may not go back. A second line of the same step (say, its
                evaluation) is merged with the first by `read_metrics`.
            metrics: Values by name.

        Raises:
            ValueError: a name is not in `METRICS`, or the step goes back.
            CheckpointError: the line cannot be written (disk full).
        """
        check_names(metrics)
        if step < self._last_step:
            raise ValueError(f"metrics of step {step} come after those of step {self._last_step}")
        self._last_step = step
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        row: dict[str, float | None] = {name: finite.get(name) for name in metrics}
        if len(finite) < len(metrics):
            row["metrics/non_finite"] = finite["metrics/non_finite"] = len(metrics) - len(finite)
            names = ", ".join(name for name in metrics if name not in finite)
            logger.warning("step %d: not finite, written as null: %s", step, names)
        line = json.dumps({"step": step, "time": round(time.time(), 3), **row}, allow_nan=False)
        try:
            self._append(line.encode() + b"\n")
        except OSError as error:
            raise CheckpointError(
                f"cannot write {self._path}: {error}. Free space there, then resume the run."
            ) from error
        for tracker in self._trackers:
            tracker.log(step, finite)

    def _append(self, line: bytes) -> None:
        if self._file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write_evaluation(self, step: int, result: PassRate, seconds: float) -> None:
        """Append the line of an evaluation after `step` steps that took `seconds`."""
        figures = {
            "eval/pass_at_1": result.pass_at_1,
            "eval/low": result.low,
            "eval/high": result.high,
            "eval/n": result.num_problems,
            "eval/left_out": result.num_left_out,
            "eval/samples": result.num_samples,
            "eval/correct": result.statuses.get(Status.CORRECT, 0),
            "eval/errors": result.statuses.get(Status.ERROR, 0),
            "eval/length_mean": result.mean_length,
            "eval/truncated": result.truncated,
            "time/eval_s": seconds,
        }
        self.write(step, {name: value for name, value in figures.items() if value is not None})

    def rows(self) -> list[dict[str, Any]]:
        """Everything written so far, one row a step (see `read_metrics`)."""
        return read_metrics(self._path.parent)

    def alarms(self) -> list[dict[str, Any]]:
        """The alarms raised so far, in order."""
        path = self._path.with_name(ALARMS_FILE)
        return [row for _, row in _lines(path)] if path.exists() else []

    def write_alarm(self, alarm: Mapping[str, Any]) -> None:
        """Append a reward-hacking alarm, with its evidence, to `alarms.jsonl`."""
        with (self._path.parent / ALARMS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(alarm) + "\n")

    def sync(self) -> None:
        """Force all lines to disk; called when a checkpoint is made."""
        os.fsync(self._file.fileno())

    def truncate_after(self, step: int) -> None:
        """Remove what was written of later steps, and a last line cut short by a crash.

        Called on resume, so that no step appears twice.
        """
        self._file.close()
        for path in (self._path, self._path.with_name(ALARMS_FILE)):
            if path.exists():
                _cut(path, step)
        self._file = self._path.open("ab", buffering=0)
        self._last_step = step
        for tracker in self._trackers:
            tracker.rewind(step)

    def close(self) -> None:
        self._file.close()
        for tracker in self._trackers:
            tracker.close()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Rows of a run's metrics file, one a step, in order; also while the run goes on."""
    rows: dict[int, dict[str, Any]] = {}
    for _, row in _lines(run_dir / METRICS_FILE):
        rows.setdefault(row["step"], {}).update(row)
    return list(rows.values())


def _cut(path: Path, step: int) -> None:
    """Keep the lines up to `step`; the file is replaced atomically."""
    partial = path.with_name(f".tmp-{path.name}")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(line for line, row in _lines(path) if row["step"] <= step)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Lines with their parsed rows, up to one without an end: it is still being written."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            yield line, json.loads(line)
