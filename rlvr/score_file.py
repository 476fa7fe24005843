"""`rlvr score`: judge a file of completions, in order, and resume where it was interrupted."""

from __future__ import annotations

import asyncio
import fcntl
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.progress import Progress

from rlvr.config import ScoringConfig
from rlvr.errors import ScoringError
from rlvr.load_config import resolve
from rlvr.scoring import load_verifier, make_runner
from rlvr.types import Problem, Status, Verdict
from verifiers.registry import LoadedVerifier

LineId = str | int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSummary:
    """What a score file holds once every line is judged."""

    num_lines: int
    num_resumed: int
    """Lines that were already in the output."""
    counts: dict[str, int]
    """Lines by status, every status present."""
    mean_reward: float | None
    """Over lines that have a reward; null if none has."""

    def __str__(self) -> str:
        parts = [f"{count} {status}" for status, count in self.counts.items() if count]
        text = f"{self.num_lines} lines judged: {', '.join(parts) or 'the input is empty'}"
        if self.num_resumed:
            text += f" ({self.num_resumed} were already there)"
        return text if self.mean_reward is None else f"{text}; mean reward {self.mean_reward:.4f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    number: int
    id: LineId
    problem: Problem
    completion: str


def run(verifier: str, input_path: Path, output_path: Path, overrides: list[str]) -> ScoreSummary:
    """`score_file` for the command line, with a progress bar on a terminal.

    Args:
        overrides: `key=value` of the scoring settings (`timeout_s=5`), and `params.key=value` for
            the verifier's own parameters.

    Raises:
        ConfigError: an override is wrong.
        ScoringError: as `score_file`.
    """
    prefixed = [
        f"data.verifier_{text}" if text.startswith("params.") else f"scoring.{text}"
        for text in overrides
    ]
    config = resolve({}, prefixed, origin="--set")
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("judging", total=None)
        return score_file(
            verifier,
            input_path,
            output_path,
            config.scoring,
            params=config.data.verifier_params,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def score_file(
    verifier: str,
    input_path: Path,
    output_path: Path,
    config: ScoringConfig,
    *,
    params: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> ScoreSummary:
    """Judge every line `{"id", "problem", "completion"}` of `input_path`.

    Writes one line `{"id", "status", "reward", "detail", "latency_s"}` for each, in input order,
    each as soon as it and all before it are judged. If the output exists, its complete lines are
    kept and judging goes on after them. The whole input is checked before anything is judged.

    Args:
        verifier: what `verifiers.load` accepts; it judges every line, whatever `problem.verifier`.
        config: deadlines, retries, processes, concurrency.
        params: keyword arguments of the verifier's factory.
        overwrite: start anew even if the output exists.
        on_progress: called with (lines done, lines in all) after each line.

    Raises:
        ScoringError: the verifier cannot be loaded; an input line is malformed; the output belongs
            to another input, cannot be written, or is being written by another process.
    """
    loaded = load_verifier(verifier, params or {})
    total = sum(1 for _ in _read(input_path))
    with _opened(output_path, input_path) as output:
        if overwrite:
            output.truncate(0)
        done = _resume(output, output_path, input_path)
        progress = on_progress or (lambda done, total: None)
        progress(done, total)
        asyncio.run(_judge(loaded, config, input_path, output, done, total, progress))
        return _summary(output, done)


async def _judge(
    verifier: LoadedVerifier,
    config: ScoringConfig,
    input_path: Path,
    output: BinaryIO,
    done: int,
    total: int,
    progress: Callable[[int, int], None],
) -> None:
    """Keep a bounded window of lines in flight; write from its front."""
    window = 2 * max(config.max_concurrency, config.num_workers)
    tasks: deque[tuple[LineId, asyncio.Task[Verdict]]] = deque()

    async def write_first() -> None:
        nonlocal done
        line_id, task = tasks[0]
        verdict = await task
        tasks.popleft()
        output.write(json.dumps({"id": line_id, **verdict.to_json()}).encode() + b"\n")
        output.flush()
        done += 1
        progress(done, total)

    async with make_runner(config) as runner:
        try:
            for position, line in enumerate(_read(input_path)):
                if position < done + len(tasks):
                    continue
                task = asyncio.create_task(runner.judge(verifier, line.problem, line.completion))
                tasks.append((line.id, task))
                while len(tasks) >= window or (tasks and tasks[0][1].done()):
                    await write_first()
            while tasks:
                await write_first()
        finally:
            for _, task in tasks:
                task.cancel()
            await asyncio.gather(*(task for _, task in tasks), return_exceptions=True)


@contextmanager
def _opened(path: Path, input_path: Path) -> Iterator[BinaryIO]:
    """The output, open for appending, ours alone."""
    if path.exists() and path.samefile(input_path):
        raise ScoringError(f"the output {path} is the input itself; choose another file")
    if path.exists() and not path.is_file():
        raise ScoringError(
            f"the output {path} is not a file; what cannot be read cannot be resumed"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError as error:
        raise ScoringError(f"{path} cannot be opened for writing: {error}") from error
    try:
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ScoringError(f"{path} is being written by another process") from error
            yield file
    except OSError as error:  # here, since closing the file tries once more to write
        raise ScoringError(
            f"{path} cannot be written: {error}. What is in it is kept: make room and run the "
            "same command again"
        ) from error


def _resume(output: BinaryIO, output_path: Path, input_path: Path) -> int:
    """Count the lines that are done, check that they belong to this input, drop a partial one."""
    lines = _read(input_path)
    done = whole = 0
    output.seek(0)
    for text in output:
        if not text.endswith(b"\n"):
            break
        done += 1
        whole += len(text)
        line = next(lines, None)
        if line is None:
            raise ScoringError(
                f"{output_path} has more lines than {input_path}: it belongs to another input; "
                "remove it or choose another output"
            )
        if _scored(text, f"{output_path} line {done}")[0] != line.id:
            raise ScoringError(
                f"{output_path} line {done} is not about {line.id!r}, which is on line "
                f"{line.number} of {input_path}: it belongs to another input; remove it or choose "
                "another output"
            )
    output.truncate(whole)
    return done


def _summary(output: BinaryIO, num_resumed: int) -> ScoreSummary:
    counts: Counter[str] = Counter({status.value: 0 for status in Status})
    rewards: list[float] = []
    output.seek(0)
    for number, text in enumerate(output, start=1):
        verdict = _scored(text, f"line {number}")[1]
        counts[verdict.status.value] += 1
        if verdict.reward is not None:
            rewards.append(verdict.reward)
    return ScoreSummary(
        num_lines=counts.total(),
        num_resumed=num_resumed,
        counts=dict(counts),
        mean_reward=sum(rewards) / len(rewards) if rewards else None,
    )


def _scored(text: bytes, where: str) -> tuple[LineId, Verdict]:
    try:
        row = json.loads(text)
        return row["id"], Verdict.from_json(row)
    except (ValueError, KeyError, TypeError) as error:
        raise ScoringError(
            f"{where} is no line of a score file ({type(error).__name__}: {error}); remove the "
            "file or choose another output"
        ) from error


def _read(path: Path) -> Iterator[_Line]:
    """The input's lines, checked; blank ones are left out."""
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, start=1):
                if text.strip():
                    yield _line(text, number, path)
    except OSError as error:
        raise ScoringError(f"the input {path} cannot be read: {error}") from error


def _line(text: bytes, number: int, path: Path) -> _Line:
    where = f"{path} line {number}"
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ScoringError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise ScoringError(f"{where}: a JSON {type(row).__name__}, expected an object")
    line_id = _field(row, "id", (str, int), where)
    completion = _field(row, "completion", (str,), where)
    # A file made for scoring need not repeat what judging does not use.
    problem = {"id": str(line_id), "prompt": "", **_field(row, "problem", (dict,), where)}
    try:
        return _Line(
            number=number, id=line_id, problem=Problem.from_json(problem), completion=completion
        )
    except ValueError as error:
        raise ScoringError(f"{where}: {error}") from error


def _field(row: dict[str, Any], name: str, kinds: tuple[type, ...], where: str) -> Any:
    if name not in row:
        raise ScoringError(f"{where}: field {name!r} is missing")
    if not isinstance(row[name], kinds) or isinstance(row[name], bool):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise ScoringError(
            f"{where}: field {name!r} is {type(row[name]).__name__}, expected {expected}"
        )
    return row[name]
