"""One picklable error hierarchy, one type for each boundary.

Each type also inherits the standard type that fits, so callers need not know ours. The message is
the only argument, so instances cross process boundaries unchanged.
"""

from __future__ import annotations


class RlvrError(Exception):
    """Base of every error that `rlvr` raises on purpose. The CLI prints it as one paragraph."""


class ConfigError(RlvrError, ValueError):
    """The configuration is wrong: unknown key, wrong type, values that contradict each other."""


class DataError(RlvrError, ValueError):
    """A data set is missing, empty or malformed."""


class ModelError(RlvrError, ValueError):
    """A model cannot be found, fetched or loaded."""


class ResultsError(RlvrError, ValueError):
    """Saved results are missing, malformed, of another version, or cannot be compared."""


class ScoringError(RlvrError, RuntimeError):
    """A verifier cannot be used at all (a single failed verdict is data, not an error)."""


class RolloutError(RlvrError, RuntimeError):
    """Sampling failed and could not be recovered."""


class WeightTransferError(RlvrError, RuntimeError):
    """Weights did not arrive whole, in time, or with the right version."""


class LearnerError(RlvrError, RuntimeError):
    """A training step failed: non-finite loss, lost rank, out of memory."""


class CheckpointError(RlvrError, OSError):
    """A checkpoint cannot be written or read."""


class ClusterError(RlvrError, RuntimeError):
    """Ray cannot give what was asked for, or an actor died for good."""
