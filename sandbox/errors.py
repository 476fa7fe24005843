"""Errors of the sandbox package: faults of ours, never of the program that was run."""

from __future__ import annotations


class SandboxError(RuntimeError):
    """The sandbox could not run a program (no daemon, no image, a container died...). The message
    is the only argument, says what to do, and survives pickling."""
