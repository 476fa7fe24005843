"""Errors of the sandbox package: faults of ours, never of the program that was run."""

from __future__ import annotations


class SandboxError(RuntimeError):
    """The sandbox could not run a program (no daemon, no image, a container died...). The message
    is the only argument, says what to do, and survives pickling."""


class SandboxUnavailableError(SandboxError):
    """Nothing can run at all, and trying again will not help: no daemon, no image, no rights."""


class SlotLostError(SandboxError):
    """A slot died under a job; another slot may do."""
