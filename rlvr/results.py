"""A results directory: every completion with its verdict, safe to interrupt at any moment.

    OUTPUT/report.html              all benchmarks, readable in any browser
    OUTPUT/<benchmark>/run.json     what is measured: written first, compared when resumed
    OUTPUT/<benchmark>/completions.jsonl   one line a sample, in the order they were judged; by
                                    problem and sample once the benchmark is done
    OUTPUT/<benchmark>/unjudged.jsonl   sampled, verdict still missing; gone once all are judged
    OUTPUT/<benchmark>/results.json figures, configuration, versions, hashes

A sample is written when it is sampled and again when it is judged, so that neither a crash nor a
verifier that is down costs a completion. A last line cut short by a crash is dropped on resume.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

from rlvr.errors import ResultsError
from rlvr.types import Status

FORMAT = 1
"""Raised when the layout changes in a way that older code cannot read."""
RUN = "run.json"
COMPLETIONS = "completions.jsonl"
UNJUDGED = "unjudged.jsonl"
RESULTS = "results.json"
REPORT = "report.html"
SYNC_S = 5.0
"""Seconds of judged samples that a power failure may cost. (A killed process costs none.)"""

Key = tuple[str, int]
"""Problem id and sample number."""


class Row(TypedDict):
    """One line of `completions.jsonl`; without the verdict's fields, one of `unjudged.jsonl`."""

    problem_id: str
    sample: int
    """0 to n - 1."""
    problem: dict[str, Any]
    completion: str
    answer: str | None
    """Normalised, for majority votes; null when there is none."""
    finish_reason: str
    num_tokens: int
    status: str
    reward: float | None
    detail: dict[str, Any]
    latency_s: float


class ResultsFolder:
    """The folder of one benchmark, ours alone while it is open (`open_results`)."""

    def __init__(self, folder: Path, run: dict[str, Any]) -> None:
        self.folder = folder
        self._run = run
        self.judged: dict[Key, Row] = {}
        """Samples with a verdict other than `error`."""
        self.unjudged: dict[Key, Row] = {}
        """Samples without, of earlier sessions; they are judged, not sampled again."""
        self.seconds = 0.0
        """Spent on sampling and judging, earlier sessions included."""
        self._last_sync = time.monotonic()
        self._completions: BinaryIO
        self._waiting: BinaryIO

    @property
    def finished(self) -> dict[str, Any] | None:
        """`results.json`, when there is nothing left to do; else null."""
        path = self.folder / RESULTS
        return _read_json(path) if path.is_file() else None

    def sampled(self, rows: Sequence[Row]) -> None:
        """Keep completions that have yet to be judged."""
        with _writing(self.folder):
            _append(self._waiting, rows)

    def add(self, row: Row) -> None:
        """Keep a judged sample."""
        self.judged[row["problem_id"], row["sample"]] = row
        with _writing(self.folder):
            _append(self._completions, [row])
            if time.monotonic() - self._last_sync > SYNC_S:
                os.fsync(self._completions.fileno())
                self._last_sync = time.monotonic()

    def finish(self, results: dict[str, Any], order: Sequence[Key]) -> None:
        """All samples are there: sort them, and write `results.json`."""
        with _writing(self.folder):
            _replace(self.folder / COMPLETIONS, _lines(self.judged[key] for key in order))
            _write_json(self.folder / RESULTS, results)
            (self.folder / UNJUDGED).unlink(missing_ok=True)

    def _open(self) -> None:
        path = self.folder / RUN
        if path.is_file():
            before = _read_json(path)
            _compare(self.folder, before, self._run)
            self.seconds = before["seconds"]
        elif any((self.folder / name).exists() for name in (COMPLETIONS, RESULTS)):
            raise ResultsError(
                f"{self.folder} holds results but no {RUN} that says of what; choose another "
                f"--output"
            )
        self._write_run()
        waiting = _read_rows(self.folder / UNJUDGED)
        for key, row in _read_rows(self.folder / COMPLETIONS).items():
            (waiting if row["status"] == Status.ERROR else self.judged)[key] = row
        self.unjudged = {key: row for key, row in waiting.items() if key not in self.judged}
        if self.unjudged or self._num_missing():
            (self.folder / RESULTS).unlink(missing_ok=True)  # about to change
        # In this order: a crash between the two leaves a sample in both files, never in neither.
        _replace(self.folder / UNJUDGED, _lines(self.unjudged.values()))
        _replace(self.folder / COMPLETIONS, _lines(self.judged.values()))
        self._waiting = (self.folder / UNJUDGED).open("ab")
        self._completions = (self.folder / COMPLETIONS).open("ab")

    def _num_missing(self) -> int:
        """Samples that `results.json` speaks of and that are gone: somebody cut the file."""
        path = self.folder / RESULTS
        done = _read_json(path) if path.is_file() else {}
        return max(0, done.get("num_problems", 0) * done.get("num_samples", 0) - len(self.judged))

    def _close(self) -> None:
        with _writing(self.folder):
            for file in (self._waiting, self._completions):
                file.close()
            if (self.folder / RESULTS).is_file():  # then nothing waits
                (self.folder / UNJUDGED).unlink(missing_ok=True)
            self._write_run()

    def _write_run(self) -> None:
        _write_json(self.folder / RUN, {**self._run, "seconds": self.seconds})


@contextmanager
def open_results(folder: Path, run: dict[str, Any]) -> Iterator[ResultsFolder]:
    """Open or create a benchmark's folder.

    Args:
        folder: `OUTPUT/<benchmark>`.
        run: What is measured: JSON-able, `identity` among its keys. A folder whose identity is
            another is refused.

    Raises:
        ResultsError: it belongs to another measurement, to another process, or cannot be written.
    """
    results = ResultsFolder(folder, run)
    with _locked(folder):
        with _writing(folder):
            results._open()
        try:
            yield results
        finally:
            results._close()


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResultsError(
            f"{folder} cannot be written: {error}. What is in it is kept: mend that and run the "
            f"same command again"
        ) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ResultsError(f"{folder} is being written by another process") from error
        yield


def _compare(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to mix two measurements, naming what differs."""
    if before.get("format") != FORMAT:
        raise ResultsError(
            f"{folder} has results of format {before.get('format')}; this version writes "
            f"{FORMAT}: choose another --output"
        )
    if not {"identity", "seconds"} <= before.keys():
        raise ResultsError(
            f"{folder / RUN} is damaged: identity or seconds missing; choose another --output"
        )
    old, new = _flat(before["identity"]), _flat(now["identity"])
    differing = [
        f"{key} was {_shown(old.get(key))}, is {_shown(new.get(key))}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if differing:
        raise ResultsError(
            f"{folder} holds another measurement, which this command would mix with its own: "
            f"{'; '.join(differing)}. Choose another --output"
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read_rows(path: Path) -> dict[Key, Row]:
    """The rows of a file by key, a last line that was cut short left out."""
    rows: dict[Key, Row] = {}
    if not path.is_file():
        return rows
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                missing = Row.__required_keys__ - row.keys()
                if missing:
                    raise ValueError(f"{', '.join(sorted(missing))} missing")
                rows[row["problem_id"], row["sample"]] = row
            except (ValueError, TypeError, AttributeError) as error:
                raise ResultsError(
                    f"{path} line {number} is damaged ({type(error).__name__}: {error}); remove "
                    f"the line and run the same command again"
                ) from error
    return rows


def _lines(rows: Iterable[Row]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _append(file: BinaryIO, rows: Sequence[Row]) -> None:
    file.write(_lines(rows))
    file.flush()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResultsError(f"{path} is damaged: {error}; choose another --output") from error
    if not isinstance(value, dict):
        raise ResultsError(f"{path} is damaged: it holds no JSON object; choose another --output")
    return value


def _write_json(path: Path, value: dict[str, Any]) -> None:
    _replace(path, json.dumps(value, indent=1, allow_nan=False).encode() + b"\n")


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
