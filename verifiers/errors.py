"""Errors of the verifiers package. A failed verdict is data (`Verdict.error`), not one of these."""

from __future__ import annotations


class VerifierLoadError(ValueError):
    """A verifier cannot be found, imported or called. The message is the only argument."""
