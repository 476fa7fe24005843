"""What a pool counts."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from sandbox.protocol import Result

_WINDOW = 4096


@dataclass(slots=True)
class SandboxMetrics:
    """Counts since the pool began; times over the last 4,096 submissions or runs."""

    submissions: int = 0
    """Jobs and sessions asked for."""
    infrastructure_errors: int = 0
    """Submissions that ended in a `SandboxError`."""
    slots_started: int = 0
    slots_lost: int = 0
    """Slots that died under a job, or did not come up."""
    slots_recycled: int = 0
    """Slots replaced for their age or number of runs, or for anything odd."""
    outcomes: Counter[str] = field(default_factory=Counter)
    queue_wait_s: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    run_s: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    """Wall time of single cases, as the supervisor measured it."""

    def count(self, result: Result) -> None:
        self.outcomes[result.outcome.value] += 1
        self.run_s.append(result.wall_s)

    def snapshot(self) -> dict[str, float]:
        """All of it as plain numbers."""
        return {
            "submissions": self.submissions,
            "infrastructure_errors": self.infrastructure_errors,
            "infrastructure_error_rate": self.infrastructure_errors / max(1, self.submissions),
            "slots_started": self.slots_started,
            "slots_lost": self.slots_lost,
            "slots_recycled": self.slots_recycled,
            **{f"outcome_{name}": count for name, count in sorted(self.outcomes.items())},
            "queue_wait_p50_s": quantile(self.queue_wait_s, 0.5),
            "queue_wait_p99_s": quantile(self.queue_wait_s, 0.99),
            "run_p50_s": quantile(self.run_s, 0.5),
            "run_p99_s": quantile(self.run_s, 0.99),
        }


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least a share `q` of them does not exceed; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0
