"""Where rows come from: JSONL, Parquet, Hugging Face `datasets`, reasoning-gym.

Files may be `.jsonl`, `.ndjson`, `.json` (one object a line), each also as `.gz`, or `.parquet`. A
folder is what `datasets` saved, or files that it can load.
"""

from __future__ import annotations

import difflib
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlvr.config import DataConfig
from rlvr.errors import DataError
from verifiers.reasoning_gym import METADATA_KEY, encode

JSONL_SUFFIXES = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz")

Row = dict[str, Any]
Located = tuple[str, str, Row]
"""Where a row stands (for errors), the id it gets when it has none, and its columns."""


def rows(config: DataConfig, base_dir: Path) -> Iterator[Located]:
    """Read the data set's rows, lazily and in order.

    Raises:
        DataError: it is missing, of an unknown kind, or cannot be read; naming file and line.
    """
    assert config.path is not None
    if config.source == "reasoning_gym":
        return _read_reasoning_gym(config.path, config.params)
    path = base_dir / Path(config.path).expanduser()
    source = config.source if config.source != "auto" else _guess(config.path, path)
    if source == "hf":
        return _read_hf(config, path)
    if not path.is_file():
        raise DataError(f"data.path: there is no file {path}")
    return _read_jsonl(path) if source == "jsonl" else _read_parquet(path)


def _guess(name: str, path: Path) -> str:
    lower = name.lower()
    if lower.endswith(JSONL_SUFFIXES):
        return "jsonl"
    if lower.endswith(".parquet"):
        return "parquet"
    if path.is_file():
        raise DataError(
            f"{path}: cannot tell the format from the name; set data.source to jsonl or parquet"
        )
    if not path.exists() and (name.startswith((".", "~", "/")) or name.count("/") > 1):
        raise DataError(f"data.path: there is no file or folder {path}")
    return "hf"


def _read_jsonl(path: Path) -> Iterator[Located]:
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield (
                        f"{path} line {number}",
                        f"{_stem(path)}-{number}",
                        _parse(line, path, number),
                    )
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read after line {number}: {error}") from error


def _parse(line: bytes, path: Path, number: int) -> Row:
    try:
        row = json.loads(line.decode("utf-8-sig"), parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} line {number}: not valid JSON: {error.msg} at column {error.colno}"
        ) from error
    except (ValueError, RecursionError) as error:  # not UTF-8; NaN; a number or depth too large
        raise DataError(f"{path} line {number}: not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(
            f"{path} line {number}: a JSON {type(row).__name__}, expected one object a line"
        )
    return row


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _stem(path: Path) -> str:
    return path.name.partition(".")[0]


def _read_parquet(path: Path) -> Iterator[Located]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path} row {number}", f"{_stem(path)}-{number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from error


def _read_hf(config: DataConfig, path: Path) -> Iterator[Located]:
    import datasets

    assert config.path is not None
    name = str(path) if path.is_dir() else config.path
    saved = path.is_dir() and any(
        (path / marker).is_file() for marker in ("state.json", "dataset_dict.json")
    )
    try:
        if saved:
            data: Any = datasets.load_from_disk(name)
        else:
            data = datasets.load_dataset(name, config.name, split=config.split)
    except Exception as error:  # the boundary to `datasets`, which raises its backends' own errors
        raise DataError(
            f"data set {name!r} (name {config.name!r}, split {config.split!r}) is neither a local "
            f"file or folder nor could it be loaded by `datasets`: {type(error).__name__}: {error}"
        ) from error
    if isinstance(data, datasets.DatasetDict):
        if config.split not in data:
            splits = ", ".join(str(split) for split in data)
            raise DataError(f"{name}: no split {config.split!r}; splits: {splits}")
        data = data[config.split]
    for number, row in enumerate(data, start=1):
        yield f"{name} [{config.split}] row {number}", f"{config.split}-{number}", row


def _read_reasoning_gym(task: str, params: dict[str, Any]) -> Iterator[Located]:
    try:
        from reasoning_gym.composite import DatasetSpec
        from reasoning_gym.factory import DATASETS, create_dataset
    except ModuleNotFoundError as error:
        raise DataError(
            f'data.source = "reasoning_gym" needs the package reasoning-gym ({error}); '
            "install it: pip install 'rlvr[reasoning-gym]'"
        ) from error

    specs = [_gym_spec(spec) for spec in params.get("datasets", [])]
    for name in (task, *(spec["name"] for spec in specs)):
        if name not in DATASETS:
            near = difflib.get_close_matches(name, DATASETS, n=3, cutoff=0.4)
            raise DataError(
                f"reasoning-gym has no task {name!r}; nearest: {', '.join(near) or 'none'} "
                f"({len(DATASETS)} tasks)"
            )
    # reasoning-gym draws a random seed when none is given; a run must be repeatable.
    arguments = {"seed": 0, **params}
    try:
        if task == "composite":
            arguments["datasets"] = [DatasetSpec(**spec) for spec in specs]
        data = create_dataset(task, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        known = ", ".join(DATASETS[task][1].__dataclass_fields__)
        raise DataError(
            f"reasoning-gym task {task!r} refuses data.params: {error}; its parameters: {known}"
        ) from error
    task_params = {spec["name"]: spec["config"] for spec in specs} or {task: arguments}
    for index in range(len(data)):
        entry = data[index]
        name = entry["metadata"]["source_dataset"] if specs else task
        row = {
            "prompt": entry["question"],
            "question": entry["question"],
            "answer": entry["answer"],
            METADATA_KEY: {
                "task": name,
                "params": encode(task_params[name]),
                "entry": encode(entry),
            },
        }
        yield f"reasoning-gym {task} entry {index + 1}", f"{task}-{index + 1}", row


def _gym_spec(spec: Any) -> dict[str, Any]:
    """One member of a composite: a task's name, or `{"name", "weight", "config"}`."""
    if isinstance(spec, str):
        spec = {"name": spec}
    if not isinstance(spec, dict) or "name" not in spec:
        raise DataError(f"data.params.datasets holds names or tables with a name, got {spec!r}")
    return {"weight": 1.0, "config": {}, **spec}
