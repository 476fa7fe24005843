"""Verifiers: what judges a completion and returns a typed verdict.

This package belongs to the distribution `rlvr`; PyPI's `verifiers` is another project
(`rlvr.guard` tells them apart by the line below).
"""

from verifiers.errors import VerifierLoadError
from verifiers.problem import Message, Problem
from verifiers.protocol import Verifier
from verifiers.registry import load
from verifiers.verdict import Status, Verdict

DISTRIBUTION = "rlvr"

__all__ = ["Message", "Problem", "Status", "Verdict", "Verifier", "VerifierLoadError", "load"]
