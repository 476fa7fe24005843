"""Run untrusted programs, hundreds a second, without being fooled by them. See docs/sandbox.md.

`DockerSandbox` is the backend, `sandbox.protocol` what it takes and gives back. Importing this
package imports no Docker SDK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sandbox.errors import SandboxError, SandboxUnavailableError, SlotLostError
from sandbox.protocol import Case, Limits, Outcome, Program, Result, Sandbox, Session

if TYPE_CHECKING:
    from sandbox.docker_backend import DockerSandbox

__all__ = [
    "Case",
    "DockerSandbox",
    "Limits",
    "Outcome",
    "Program",
    "Result",
    "Sandbox",
    "SandboxError",
    "SandboxUnavailableError",
    "Session",
    "SlotLostError",
]


def __getattr__(name: str) -> Any:
    if name == "DockerSandbox":
        from sandbox.docker_backend import DockerSandbox

        return DockerSandbox
    raise AttributeError(f"module 'sandbox' has no attribute {name!r}")
