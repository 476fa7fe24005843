"""Every sampled completion with its verdict, as Parquet: one file a step.

    RUN/completions/step-000012.parquet     sampled for training
    RUN/completions/eval-000010.parquet     sampled for the evaluation after 10 steps

Each file appears whole, so the folder can be read while the run goes on: with `read_completions`,
with `pandas.read_parquet("RUN/completions")`, with DuckDB (`from 'RUN/completions/*.parquet'`), or
with `datasets.load_dataset("parquet", data_files="RUN/completions/*.parquet")`.
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from rlvr.errors import CheckpointError
from rlvr.types import Group, Rollout

COMPLETIONS = "completions"
Kind = Literal["step", "eval"]

SCHEMA = pa.schema(
    {
        "kind": pa.string(),  # "step" or "eval"
        "step": pa.int32(),  # learner steps done
        "group": pa.int64(),  # Group.index
        "member": pa.int32(),  # place in the group
        "problem_id": pa.string(),
        "prompt": pa.string(),
        "answer": pa.string(),  # the gold answer, or null
        "verifier": pa.string(),
        "completion": pa.string(),
        "status": pa.string(),
        "reward": pa.float64(),  # penalty included; null when masked
        "penalty": pa.float64(),
        "detail": pa.string(),  # the verdict's, as JSON
        "latency_s": pa.float64(),
        "num_tokens": pa.int32(),
        "finish_reason": pa.string(),
        "logprob": pa.float64(),  # the sampler's, summed over the tokens
        "oldest_version": pa.int32(),  # policy versions that sampled it
        "newest_version": pa.int32(),
    }
)
FILE_NAME = re.compile(r"(step|eval)-(\d+)\.parquet")


class CompletionsLog:
    """Writes completions in a background thread.

    A failure there (a full disk) is raised as CheckpointError by the next call.

    Args:
        run_dir: The run directory.
        enabled: With false, nothing is written.
    """

    def __init__(self, run_dir: Path, *, enabled: bool = True) -> None:
        self._folder = run_dir / COMPLETIONS
        self._enabled = enabled
        self._pending: deque[Future[None]] = deque()
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="completions-log")

    def __enter__(self) -> CompletionsLog:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def write(self, step: int, groups: Sequence[Group]) -> None:
        """Hand over the scored groups sampled for training; `step` counts learner steps done."""
        self._submit("step", step, groups)

    def write_evaluation(self, step: int, groups: Sequence[Group]) -> None:
        """Hand over the scored groups of the evaluation after `step` steps."""
        self._submit("eval", step, groups)

    def flush(self) -> None:
        """Wait until all that was handed over is on disk; called when a checkpoint is made."""
        while self._pending:
            self._pending.popleft().result()

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self._writer.shutdown()

    def truncate_after(self, step: int) -> None:
        """Delete the files of later steps: a resumed run makes those steps again."""
        self.flush()
        for _, file_step, path in _files(self._folder):
            if file_step > step:
                path.unlink()

    def _submit(self, kind: Kind, step: int, groups: Sequence[Group]) -> None:
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()
        if self._enabled:
            self._pending.append(self._writer.submit(self._write, kind, step, groups))

    def _write(self, kind: Kind, step: int, groups: Sequence[Group]) -> None:
        path = self._folder / f"{kind}-{step:06d}.parquet"
        partial = path.with_name(f".tmp-{kind}")  # no glob for Parquet files finds it
        rows = [
            {"kind": kind, "step": step, **row} for group in groups for row in _group_rows(group)
        ]
        try:
            self._folder.mkdir(exist_ok=True)
            with partial.open("wb") as file:
                pq.write_table(pa.Table.from_pylist(rows, SCHEMA), file, compression="zstd")
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise CheckpointError(
                f"cannot write {path}: {error}. Free space there, or set "
                "metrics.save_completions=false, and resume the run."
            ) from error


def read_completions(run_dir: Path, kind: Kind = "step") -> pa.Table:
    """All completions of a run in the order of their steps (`SCHEMA`), also while it goes on.

    Raises:
        CheckpointError: the run has no file of that kind.
    """
    paths = [path for file_kind, _, path in _files(run_dir / COMPLETIONS) if file_kind == kind]
    if not paths:
        raise CheckpointError(f"there is no {kind}-*.parquet in {run_dir / COMPLETIONS}")
    return pa.concat_tables(pq.read_table(path) for path in paths)


def _files(folder: Path) -> list[tuple[str, int, Path]]:
    """(kind, step, path) of each complete file, by kind and step."""
    matches = ((FILE_NAME.fullmatch(path.name), path) for path in folder.glob("*.parquet"))
    return sorted((match[1], int(match[2]), path) for match, path in matches if match)


def _group_rows(group: Group) -> Iterator[dict[str, Any]]:
    problem = {
        "group": group.index,
        "problem_id": _utf8(group.problem.id),
        "prompt": _utf8(group.problem.prompt_text),
        "answer": None if group.problem.answer is None else _utf8(group.problem.answer),
        "verifier": group.problem.verifier,
    }
    for member, rollout in enumerate(group.rollouts):
        yield {**problem, "member": member, **_rollout_row(rollout)}


def _rollout_row(rollout: Rollout) -> dict[str, Any]:
    completion, verdict = rollout.completion, rollout.verdict
    row: dict[str, Any] = {
        "completion": _utf8(completion.text),
        "reward": rollout.reward,
        "penalty": rollout.penalty,
        "num_tokens": len(completion.token_ids),
        "finish_reason": completion.finish_reason,
        "logprob": sum(completion.logprobs),
        "oldest_version": min((span.version for span in completion.versions), default=None),
        "newest_version": max((span.version for span in completion.versions), default=None),
    }
    if verdict is not None:
        row["status"] = verdict.status.value
        row["detail"] = json.dumps(verdict.detail)
        row["latency_s"] = verdict.latency_s
    return row


def _utf8(text: str) -> str:
    """Parquet takes UTF-8 only; JSON data sets can hold lone surrogates, shown here escaped."""
    return text.encode(errors="backslashreplace").decode()
