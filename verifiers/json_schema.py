"""`json_schema`: whether the completion is JSON that fits a schema (https://json-schema.org).

The JSON is what stands in the last `<answer>...</answer>`, else in the last fenced block, else the
whole text after `</think>`. It must be strict: no NaN or Infinity, no key twice in one object.
Schemas are not fetched: a `$ref` to another document is an `error`.
"""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import referencing
from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from referencing.exceptions import Unresolvable

from verifiers.answer_text import after_thinking, find_answer
from verifiers.cpu_limit import CpuLimitError, cpu_limit
from verifiers.errors import VerifierLoadError
from verifiers.problem import Problem
from verifiers.verdict import Verdict

MAX_JSON_CHARS = 1_000_000
"""Longer answers are a `limit`: checking `uniqueItems` takes quadratic time."""
MAX_MESSAGE_CHARS = 500
"""jsonschema quotes the offending value in its messages, however large."""

_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[^\n]*\n(.*?)(?:^[ \t]*(?:```|~~~)|\Z)", re.M | re.S)


class JsonSchemaVerifier:
    """Correct if the completion's JSON is valid, incorrect if not, `no_answer` if it is empty.

    Args:
        schema: the schema; null if each problem brings its own.
        schema_field: metadata field with the problem's own schema; used where it is there.
        cpu_s: CPU time for one completion, in seconds; beyond it the verdict is `limit`.

    Raises:
        VerifierLoadError: the schema is not a valid schema.
    """

    name = "json_schema"

    def __init__(
        self,
        *,
        schema: dict[str, Any] | None = None,
        schema_field: str = "schema",
        cpu_s: float = 1.0,
    ) -> None:
        self._schema_field = schema_field
        self._cpu_s = cpu_s
        try:
            self._validator = None if schema is None else _validator(schema)
        except SchemaError as error:
            raise VerifierLoadError(
                f"json_schema: the schema is malformed: {error.message[:MAX_MESSAGE_CHARS]}"
            ) from error

    def verify(self, problem: Problem, completion: str) -> Verdict:
        own = problem.metadata.get(self._schema_field)
        try:
            validator = self._validator if own is None else _validator(own)
        except SchemaError as error:
            return _malformed(problem, error.message)
        if validator is None:
            return _malformed(problem, "there is none")
        text = _json_text(completion)
        if not text:
            return Verdict.no_answer()
        if len(text) > MAX_JSON_CHARS:
            return Verdict.limit(reason=f"more than {MAX_JSON_CHARS} characters")
        try:
            with cpu_limit(self._cpu_s):
                value = json.loads(
                    text, parse_constant=_no_constant, object_pairs_hook=_unique_keys
                )
                error = next(iter(validator.iter_errors(value)), None)
        except CpuLimitError as error:
            return Verdict.limit(reason=f"checking took {error}")
        except RecursionError:
            return Verdict.limit(reason="nested too deeply")
        except Unresolvable as error:
            return _malformed(problem, f"{type(error).__name__}: {error}")
        except ValueError as error:  # json's own error is one; so is an integer of 5,000 digits
            return Verdict.incorrect(reason=f"not JSON: {error}"[:MAX_MESSAGE_CHARS])
        if error is None:
            return Verdict.correct()
        return Verdict.incorrect(
            reason=error.message[:MAX_MESSAGE_CHARS], at=error.json_path[:MAX_MESSAGE_CHARS]
        )


def _validator(schema: Any) -> Any:
    kind = validator_for(schema, default=jsonschema.Draft202012Validator)
    kind.check_schema(schema)
    # An empty registry: the default one would fetch a remote $ref over the network.
    return kind(schema, registry=referencing.Registry(), format_checker=kind.FORMAT_CHECKER)


def _json_text(completion: str) -> str:
    text = after_thinking(completion)
    if text is None:
        return ""
    tagged = find_answer(text, ("tags",))
    if tagged is not None:
        text = tagged[1]
    fenced = _FENCE.findall(text)
    return (fenced[-1] if fenced else text).strip()


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has the same key twice")
    return value


def _malformed(problem: Problem, why: str) -> Verdict:
    return Verdict.error(
        reason=f"the schema of problem {problem.id!r} cannot be used: {why[:MAX_MESSAGE_CHARS]}",
        permanent=True,
    )
