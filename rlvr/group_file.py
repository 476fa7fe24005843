"""Groups on disk: one JSON object a line, zstd-compressed. What is read equals what was written.

Floats are written with as many digits as it takes to read the same double back; lone surrogates in
a text are escaped.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import zstandard

from rlvr.types import Completion, Group, Problem, Rollout, Verdict, VersionSpan


def write_groups(path: Path, groups: Iterable[Group]) -> None:
    """Write groups; raises OSError if the disk is full."""
    with path.open("wb") as raw, zstandard.ZstdCompressor().stream_writer(raw) as compressed:
        for group in groups:
            compressed.write(json.dumps(group_to_json(group)).encode() + b"\n")


def read_groups(path: Path) -> Iterator[Group]:
    """Groups in the order written."""
    with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as compressed:
        for line in io.TextIOWrapper(compressed, encoding="utf-8"):
            yield group_from_json(json.loads(line))


def group_to_json(group: Group) -> dict[str, Any]:
    return {
        "index": group.index,
        "problem": group.problem.to_json(),
        "prompt_token_ids": group.prompt_token_ids,
        "rollouts": [
            {
                "text": rollout.completion.text,
                "token_ids": rollout.completion.token_ids,
                "logprobs": rollout.completion.logprobs,
                "versions": [(s.version, s.start, s.end) for s in rollout.completion.versions],
                "finish_reason": rollout.completion.finish_reason,
                "verdict": None if rollout.verdict is None else _verdict_to_json(rollout.verdict),
                "penalty": rollout.penalty,
            }
            for rollout in group.rollouts
        ],
    }


def group_from_json(row: dict[str, Any]) -> Group:
    return Group(
        index=row["index"],
        problem=Problem.from_json(row["problem"]),
        prompt_token_ids=tuple(row["prompt_token_ids"]),
        rollouts=tuple(_rollout_from_json(rollout) for rollout in row["rollouts"]),
    )


def _rollout_from_json(row: dict[str, Any]) -> Rollout:
    return Rollout(
        completion=Completion(
            text=row["text"],
            token_ids=tuple(row["token_ids"]),
            logprobs=tuple(row["logprobs"]),
            versions=tuple(
                VersionSpan(version=version, start=start, end=end)
                for version, start, end in row["versions"]
            ),
            finish_reason=row["finish_reason"],
        ),
        verdict=None if row["verdict"] is None else Verdict.from_json(row["verdict"]),
        penalty=row["penalty"],
    )


def _verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    return verdict.to_json() | {"latency_s": verdict.latency_s}  # to_json rounds it, for people
