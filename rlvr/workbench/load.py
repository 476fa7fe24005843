"""The data set an audit runs on: columns recognised, every problem with its line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rlvr.config import DataConfig, RunConfig
from rlvr.data import load_problems
from rlvr.errors import DataError
from rlvr.load_config import load_config, resolve, shipped_recipes
from rlvr.sources import rows
from rlvr.types import Problem
from rlvr.workbench.code_probes import SOLUTION_KEY

PROMPT_COLUMNS = ("prompt", "question", "problem", "query", "instruction", "input", "text")
ANSWER_COLUMNS = (
    *("answer", "final_answer", "gold", "ground_truth", "target", "expected_answer", "label"),
    *("solution", "output", "response"),
)
AFTER_HASHES = r"(?s)\A(?:.*####)?\s*(.+?)\s*\Z"
"""What follows the last `####`; a row without one keeps its whole text, and the audit lists it."""
_IN_BOX = r"(?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})*\})"
LAST_BOX = rf"\\boxed\{{({_IN_BOX}+)\}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """Problems and where each came from."""

    name: str
    mapping: str
    """How columns were read, for people."""
    problems: tuple[Problem, ...]
    lines: Mapping[str, str]
    """Problem id -> its line in the file (its id where there is no file)."""


def settings(verifier: str, data: str | None, overrides: Sequence[str]) -> RunConfig:
    """The configuration behind an audit: a recipe's, or one that only names the data.

    Args:
        overrides: `key=value` of the scoring settings, `params.key=value` of the verifier's
            parameters, `data.key=value` of the column mapping.

    Raises:
        ConfigError: an override or the recipe is wrong.
    """
    words = [_full_key(word) for word in overrides]
    if data is not None and (data in shipped_recipes() or data.endswith(".toml")):
        config = load_config(data, words)
        mine = config.data.verifier == verifier
        params = {} if not mine and not _sets_params(words) else config.data.verifier_params
        changed = config.data.model_copy(update={"verifier": verifier, "verifier_params": params})
        return config.model_copy(update={"data": changed})
    values: dict[str, Any] = {
        "data": {"verifier": verifier},
        "scoring": {"max_retries": 0},  # errors are findings
    }
    if data is None:
        values["data"] |= {"source": "arithmetic", "params": {"size": 300}}
    else:
        values["data"] |= {"path": data}
        if verifier == "reasoning_gym" and not Path(data).exists():
            values["data"] |= {"source": "reasoning_gym", "params": {"size": 100}}
    return resolve(values, words, origin="--set")


def load(config: DataConfig, overrides: Sequence[str], limit: int | None) -> DataSet:
    """All problems, the columns of a plain file recognised unless `overrides` map them.

    Raises:
        DataError: the data set is missing, empty or malformed, or its columns are not known.
    """
    if limit is not None:
        config = config.model_copy(update={"limit": limit})
    mapping = "as configured"
    is_file = config.path is not None and config.source not in ("reasoning_gym", "arithmetic")
    given = {word.partition("=")[0].removeprefix("data.") for word in overrides}
    if is_file and not _maps_columns(config, given):
        config, mapping = _recognised(config, given)
    problems = tuple(load_problems(config, Path.cwd()))
    lines = {problem.id: problem.id for problem in problems}
    if is_file:
        stop = config.skip + len(problems)
        located = islice(rows(config, Path.cwd()), config.skip, stop)
        # Where every finding is about the same file, its name need not be said each time.
        lines = {
            problem.id: where.removeprefix(f"{config.path} ")
            for problem, (where, _, _) in zip(problems, located, strict=True)
        }
    name = str(config.path or config.source)
    return DataSet(name=name, mapping=mapping, problems=problems, lines=lines)


def _recognised(config: DataConfig, given: set[str]) -> tuple[DataConfig, str]:
    first = next(rows(config, Path.cwd()), None)
    if first is None:
        raise DataError(f"data set {config.path!r} has no rows")
    where, _, row = first
    found: dict[str, Any] = {"prompt_field": _first(row, PROMPT_COLUMNS)}
    if found["prompt_field"] is None and "prompt_field" not in given:
        raise DataError(
            f"{where}: which column is the prompt? Columns: {', '.join(row)}. Say it with "
            "--set data.prompt_field=NAME (and data.answer_field, data.tests_field)"
        )
    if isinstance(row.get("test"), str) and {"entry_point", SOLUTION_KEY} <= row.keys():
        found |= {
            "answer_field": None,
            "tests_field": "test",
            "metadata_fields": ("entry_point", SOLUTION_KEY),
        }
    else:
        answer = config.answer_field if "answer_field" in given else _first(row, ANSWER_COLUMNS)
        found["answer_field"] = answer
        text = str(row.get(answer, "")) if answer else ""
        if "####" in text:
            found["answer_regex"] = AFTER_HASHES
        elif answer == "solution" and "\\boxed" in text:
            found["answer_regex"] = LAST_BOX
        if isinstance(row.get("tests"), dict | str):
            found["tests_field"] = "tests"
        if SOLUTION_KEY in row:
            found["metadata_fields"] = (SOLUTION_KEY,)
    found = {name: value for name, value in found.items() if name not in given}
    return config.model_copy(update=found), _described(config.model_copy(update=found))


def _described(config: DataConfig) -> str:
    parts = [f"prompt from {config.prompt_field!r}"]
    if config.answer_field:
        how = {AFTER_HASHES: " after ####", LAST_BOX: " in its last box"}
        regex = config.answer_regex
        parts.append(
            f"gold from {config.answer_field!r}{how.get(regex, ' by regex') if regex else ''}"
        )
    if config.tests_field:
        parts.append(f"tests from {config.tests_field!r}")
    if SOLUTION_KEY in config.metadata_fields:
        parts.append(f"reference solution from {SOLUTION_KEY!r}")
    return ", ".join(parts)


def _maps_columns(config: DataConfig, given: set[str]) -> bool:
    """Whether a recipe has said how columns are read (then nothing is guessed)."""
    names = {"prompt_field", "answer_field", "answer_regex", "tests_field"} - given
    return config.model_dump(include=names) != DataConfig().model_dump(include=names)


def _first(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if row.get(name) not in (None, "")), None)


def _full_key(word: str) -> str:
    if word.startswith("params."):
        return f"data.verifier_{word}"
    return word if word.startswith("data.") else f"scoring.{word}"


def _sets_params(words: Sequence[str]) -> bool:
    return any(word.startswith("data.verifier_params.") for word in words)
