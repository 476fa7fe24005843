"""The problem: what a verifier judges against, and what a rollout worker is prompted with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Message = dict[str, str]
"""One chat message: `{"role": "user" | "system" | "assistant", "content": ...}`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem of a data set."""

    id: str
    """Unique within its data set."""
    prompt: str | tuple[Message, ...]
    """A string, or chat messages (which go through the model's chat template)."""
    verifier: str
    """The verifier's name, as the registry knows it."""
    answer: str | None = None
    """The gold answer, where there is one."""
    tests: dict[str, Any] | None = None
    """Code tests (`{"language": ..., "kind": "stdio" | "function" | "assert", ...}`), or null."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Anything else the verifier or a breakdown needs. JSON-able."""

    @property
    def prompt_text(self) -> str:
        """The prompt as one string, for people and for probes (not what the model is fed)."""
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n".join(message["content"] for message in self.prompt)

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "prompt": self.prompt if isinstance(self.prompt, str) else list(self.prompt),
            "verifier": self.verifier,
            "answer": self.answer,
            "tests": self.tests,
            "metadata": self.metadata,
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Problem:
        """Rebuild what `to_json` wrote.

        Raises:
            ValueError: naming the field that is missing, unknown or of the wrong type.
        """
        unknown = sorted(set(row) - set(_FIELDS))
        if unknown:
            raise ValueError(f"unknown problem field {unknown[0]!r}; known: {', '.join(_FIELDS)}")
        for name, (kinds, required) in _FIELDS.items():
            value = row.get(name)
            if value is None:
                if required:
                    raise ValueError(f"problem field {name!r} is missing")
            elif not isinstance(value, kinds):
                raise ValueError(
                    f"problem field {name!r} is {type(value).__name__}, "
                    f"expected {' or '.join(kind.__name__ for kind in kinds)}"
                )
        prompt = row["prompt"]
        if not isinstance(prompt, str):
            for message in prompt:
                if not isinstance(message, dict) or not {"role", "content"} <= set(message):
                    raise ValueError(
                        "problem field 'prompt' holds chat messages, each needs role and content"
                    )
            prompt = tuple(prompt)
        return cls(
            id=row["id"],
            prompt=prompt,
            verifier=row.get("verifier") or "",
            answer=row.get("answer"),
            tests=row.get("tests"),
            metadata=row.get("metadata") or {},
        )


_FIELDS: dict[str, tuple[tuple[type, ...], bool]] = {
    "id": ((str,), True),
    "prompt": ((str, list, tuple), True),
    "verifier": ((str,), False),
    "answer": ((str,), False),
    "tests": ((dict,), False),
    "metadata": ((dict,), False),
}
