"""Rows become problems; problems come in a seeded order whose cursor can be saved.

Every error names the file (or data set), the line or row (counted from 1), and the field. Where
rows come from is in `rlvr.sources`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import random
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rlvr.arithmetic import make_problems
from rlvr.config import DataConfig
from rlvr.errors import DataError
from rlvr.sources import Row, rows
from rlvr.types import Message, Problem
from verifiers.reasoning_gym import METADATA_KEY

ROLES = ("system", "user", "assistant")


def load_problems(config: DataConfig, base_dir: Path) -> list[Problem]:
    """All problems of a data set, in file order, `skip` and `limit` applied.

    Args:
        config: source and column mapping.
        base_dir: where a relative `config.path` starts.

    Raises:
        DataError: the data set is missing, empty or malformed.
    """
    problems = (
        _make_arithmetic(config) if config.source == "arithmetic" else _load(config, base_dir)
    )
    if not problems:
        skipped = f" after skipping {config.skip}" if config.skip else ""
        raise DataError(f"data set {config.path or config.source!r} has no problems{skipped}")
    return problems


def _load(config: DataConfig, base_dir: Path) -> list[Problem]:
    _check(config)
    stop = None if config.limit is None else config.skip + config.limit
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    for where, row_id, row in islice(rows(config, base_dir), config.skip, stop):
        problem = _problem(config, where, row_id, row)
        if problem.id in seen:
            raise DataError(
                f"{where}: id {problem.id!r} was already used at {seen[problem.id]}; "
                "ids are unique in a data set"
            )
        seen[problem.id] = where
        problems.append(problem)
    return problems


def _make_arithmetic(config: DataConfig) -> list[Problem]:
    try:
        problems = make_problems(
            verifier=config.verifier, system=config.system_prompt, **config.params
        )
    except (TypeError, ValueError) as error:
        raise DataError(f'data.params of data.source = "arithmetic": {error}') from error
    return problems[config.skip :][: config.limit]


def verifier_of(config: DataConfig) -> str:
    """The verifier of rows that name none.

    For reasoning-gym it is the task's own scorer unless another than the default is asked for. (A
    resolved configuration lists defaults too, so "was it set?" would change its meaning on resume.)
    """
    default = DataConfig.model_fields["verifier"].default
    own_scorer = config.source == "reasoning_gym" and config.verifier == default
    return METADATA_KEY if own_scorer else config.verifier


class ProblemStream:
    """Problems for ever: each epoch is a permutation seeded by (seed, epoch), or the file's order.

    Position i of the stream is a pure function of (problems, seed, shuffle, i), so the cursor is
    one number.
    """

    def __init__(self, problems: Sequence[Problem], *, seed: int, shuffle: bool = True) -> None:
        if not problems:
            raise DataError("a stream needs at least one problem")
        self._problems = problems
        self._seed = seed
        self._shuffle = shuffle
        self._fingerprint = fingerprint(problems)
        self._next = 0
        self._epoch, self._order = -1, list(range(len(problems)))

    @property
    def position(self) -> int:
        """Index that `next` returns next; also the number of problems taken so far."""
        return self._next

    def next(self) -> tuple[int, Problem]:
        """The next index (0, 1, 2, ...) and its problem."""
        index = self._next
        self._next += 1
        return index, self.at(index)

    def at(self, index: int) -> Problem:
        """The problem at any index of the stream, without moving."""
        epoch, offset = divmod(index, len(self._problems))
        if self._shuffle and epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(len(self._problems)))
            random.Random(f"{self._seed}/{epoch}").shuffle(self._order)
        return self._problems[self._order[offset]]

    def state(self) -> dict[str, Any]:
        """The cursor, JSON-able."""
        return {
            "next": self._next,
            "seed": self._seed,
            "shuffle": self._shuffle,
            "num_problems": len(self._problems),
            "fingerprint": self._fingerprint,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken.

        Raises:
            DataError: the state belongs to other problems, another seed or another order.
        """
        for key, value in self.state().items():
            if key != "next" and state[key] != value:
                raise DataError(
                    f"the saved data cursor does not fit this data set: {key} was {state[key]!r} "
                    f"and is now {value!r}; resume with the data the run began with"
                )
        self._next = state["next"]


def fingerprint(problems: Iterable[Problem]) -> str:
    """A hash of what makes the data set: ids, prompts and gold answers, in order."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps([problem.id, problem.prompt, problem.answer]).encode())
    return digest.hexdigest()[:16]


def _check(config: DataConfig) -> None:
    """What can be wrong with the mapping itself, whatever the rows."""
    if config.path is None:
        raise DataError("data.path is missing: a file, a folder, a data set id, or a task's name")
    if config.answer_regex is not None:
        try:
            pattern = re.compile(config.answer_regex)
        except re.error as error:
            raise DataError(f"data.answer_regex is not a regular expression: {error}") from error
        if pattern.groups < 1:
            raise DataError("data.answer_regex needs a group: (...) around the answer")
    template = config.prompt_template
    if template is not None and not any(match[1] for match in _PLACEHOLDER.finditer(template)):
        raise DataError(
            "data.prompt_template has no {prompt} and no other column's name in braces, so all "
            "prompts would be the same"
        )
    if config.system_prompt is not None and not config.chat:
        raise DataError("data.system_prompt needs data.chat = true: raw prompts have no messages")


def _problem(config: DataConfig, where: str, row_id: str, row: Row) -> Problem:
    if config.id_field:
        value = _column(row, config.id_field, where)
        if not isinstance(value, str | int) or value == "":
            raise _wrong(where, config.id_field, value, "a text or a whole number")
        row_id = str(value)
    verifier = verifier_of(config)
    if config.verifier_field:
        verifier = _column(row, config.verifier_field, where)
        if not isinstance(verifier, str) or not verifier:
            raise _wrong(where, config.verifier_field, verifier, "a verifier's name")
    metadata = {name: _column(row, name, where) for name in config.metadata_fields}
    if METADATA_KEY in row and config.source == "reasoning_gym":
        metadata[METADATA_KEY] = row[METADATA_KEY]
    tests = _tests(config.tests_field, where, row) if config.tests_field else None
    try:
        json.dumps([metadata, tests], allow_nan=False)  # as checkpoints hold it
    except (TypeError, ValueError) as error:
        fields = ", ".join(filter(None, [*config.metadata_fields, config.tests_field]))
        raise DataError(f"{where}: field {fields} is not JSON-able: {error}") from error
    return Problem(
        id=row_id,
        prompt=_prompt(config, where, row),
        verifier=verifier,
        answer=_answer(config, where, row),
        tests=tests,
        metadata=metadata,
    )


def _prompt(config: DataConfig, where: str, row: Row) -> str | tuple[Message, ...]:
    field = config.prompt_field
    value = _column(row, field, where)
    system: tuple[Message, ...] = ()
    if config.system_prompt is not None:
        system = ({"role": "system", "content": config.system_prompt},)
    if isinstance(value, list):
        if config.prompt_template is not None:
            raise DataError(f"{where}: data.prompt_template needs a text, {field!r} holds messages")
        return system + _messages(value, field, where)
    if not isinstance(value, str) or not value.strip():
        raise _wrong(where, field, value, "a non-empty text or chat messages")
    if config.prompt_template is not None:
        value = _fill(config, row, where)
    return (*system, {"role": "user", "content": value}) if config.chat else value


def _messages(value: list[Any], field: str, where: str) -> tuple[Message, ...]:
    messages: list[Message] = []
    for message in value:
        if isinstance(message, dict):
            # Parquet gives every message the union of all keys, absent ones as null.
            message = {key: text for key, text in message.items() if text is not None}
        is_message = isinstance(message, dict) and message.keys() == {"role", "content"}
        if not is_message or not isinstance(message["content"], str):
            raise _wrong(where, field, message, "messages with just a role and a text content")
        if message["role"] not in ROLES:
            raise _wrong(where, field, message["role"], f"a role ({', '.join(ROLES)})")
        messages.append(message)
    if not messages:
        raise _wrong(where, field, value, "at least one message")
    return tuple(messages)


_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{(\w+)\}")


def _fill(config: DataConfig, row: Row, where: str) -> str:
    r"""The template with its placeholders filled in.

    Only `{name}` is a placeholder: `\boxed{}` may stand in a template as it is; `{{` and `}}` are
    literal braces.
    """
    assert config.prompt_template is not None

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return match[0][0]
        if name == config.answer_field:
            raise DataError(f"data.prompt_template would show the gold answer: {{{name}}}")
        value = _column(row, config.prompt_field if name == "prompt" else name, where)
        return value if isinstance(value, str) else json.dumps(value, default=str)

    return _PLACEHOLDER.sub(fill, config.prompt_template)


def _answer(config: DataConfig, where: str, row: Row) -> str | None:
    field = config.answer_field
    if not field:
        return None
    value = _column(row, field, where)
    if config.source == "reasoning_gym" and value is None:
        return None  # several tasks have no single gold, only a scorer
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _wrong(where, field, value, "a text or a number")
    text = str(value)
    if config.answer_regex is not None:
        found = list(re.finditer(config.answer_regex, text))
        if not found or found[-1][1] is None:
            raise DataError(
                f"{where}: field {field!r} does not match data.answer_regex "
                f"{config.answer_regex!r}: {_short(text)}"
            )
        text = found[-1][1].strip()
    if not text.strip():
        raise _wrong(where, field, value, "a non-empty answer")
    return text


def _tests(field: str, where: str, row: Row) -> dict[str, Any]:
    """Code tests: the contract's object (or its JSON), or assert code (HumanEval, MBPP)."""
    value = _column(row, field, where)
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: field {field!r} is not valid JSON: {error}") from error
    if isinstance(value, dict):
        if not isinstance(value.get("kind"), str):
            raise _wrong(where, field, value, 'tests with a "kind"')
        return value
    if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        value = "\n".join(value)
    if not isinstance(value, str) or not value.strip():
        raise _wrong(where, field, value, "tests")
    entry_point = _column(row, "entry_point", where)
    return {"language": "python", "kind": "assert", "entry_point": entry_point, "code": value}


def _column(row: Row, name: str, where: str) -> Any:
    if name not in row:
        near = difflib.get_close_matches(name, row, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise DataError(f"{where}: no column {name!r}{hint} Columns: {', '.join(row) or 'none'}")
    return row[name]


def _wrong(where: str, field: str, value: object, expected: str) -> DataError:
    found = f"{type(value).__name__} {_short(json.dumps(value, default=str))}"
    return DataError(f"{where}: field {field!r} is {found}; expected {expected}")


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}..."
