"""The stream of scored groups that the loop takes its batches from.

Problems are issued in data order and groups are taken in the order of issue. A group that is slow
holds the loop up but is never dropped, so long completions are not under-represented. Issuing
runs ahead of taking by at most `max_lag` steps' worth of groups, which bounds every token's lag:
a group issued while the policy had version `v` is taken at step `v + max_lag` at the latest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from rlvr.advantages import zero_variance
from rlvr.types import Group, Problem

Sample = Callable[[int, Problem], Awaitable[Group]]
"""Samples and scores the group of one problem."""


class Problems(Protocol):
    """An endless, resumable order of problems (`data.ProblemStream`)."""

    def next(self) -> tuple[int, Problem]: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What one step takes from the stream."""

    groups: list[Group]
    """[P] The groups to train on; fewer when the refill bound was reached."""
    dropped: list[Group]
    """Zero-variance groups that dynamic sampling replaced."""


@dataclass(slots=True)
class _Entry:
    index: int
    problem: Problem
    task: asyncio.Task[Group]

    @property
    def finished(self) -> Group | None:
        done = self.task.done() and not self.task.cancelled() and self.task.exception() is None
        return self.task.result() if done else None


class GroupStream:
    """Keeps groups in flight, hands them out in order, and can be saved and restored exactly."""

    def __init__(
        self,
        problems: Problems,
        sample: Sample,
        *,
        groups_per_step: int,
        max_lag: int = 0,
        dynamic: bool = False,
        max_refill_factor: float = 3.0,
    ) -> None:
        self._problems = problems
        self._sample = sample
        self._groups_per_step = groups_per_step
        self._lookahead = max_lag * groups_per_step
        self._max_sampled = int(max_refill_factor * groups_per_step) if dynamic else groups_per_step
        self._dynamic = dynamic
        self._pending: deque[_Entry] = deque()

    def prefetch(self) -> None:
        """Start what the next `take` will ask for anyway, so that the workers are not idle while
        the loop does something else (an evaluation, a checkpoint) with the current policy."""
        while len(self._pending) < self._groups_per_step + self._lookahead:
            self._start(*self._problems.next())

    async def take(self) -> Taken:
        """The next batch's groups, sampled and scored.

        With dynamic sampling, groups whose rewards are all the same are replaced by further
        problems until the batch is full or `max_refill_factor` is reached; then the step goes on
        with the mixed groups it has, or, when there is none, with uniform ones (which give no
        gradient), so that a run is never aborted by its data.

        Raises:
            RlvrError: whatever sampling or scoring raised; the groups stay in the stream.
        """
        kept: list[Group] = []
        dropped: list[Group] = []
        taken: list[_Entry] = []
        try:
            while len(kept) < self._groups_per_step and len(taken) < self._max_sampled:
                missing = min(self._groups_per_step - len(kept), self._max_sampled - len(taken))
                while len(self._pending) < missing + self._lookahead:
                    self._start(*self._problems.next())
                group = await asyncio.shield(self._pending[0].task)
                taken.append(self._pending.popleft())
                uniform = self._dynamic and zero_variance(group.rewards)
                (dropped if uniform else kept).append(group)
        except BaseException:
            # Cancelled (Ctrl-C) or failed in the middle: nothing taken was trained on, so it all
            # goes back to the front, where a checkpoint will find it.
            self._pending.extendleft(reversed(taken))
            raise
        if not kept:
            kept, dropped = dropped[: self._groups_per_step], dropped[self._groups_per_step :]
        return Taken(groups=kept, dropped=dropped)

    def put_back(self, taken: Taken) -> None:
        """Return the last step's groups, which were not trained on, to be sampled and judged anew
        by whoever goes on from here."""
        later, self._pending = self._pending, deque()
        for group in sorted([*taken.groups, *taken.dropped], key=lambda group: group.index):
            self._start(group.index, group.problem)
        self._pending.extend(later)

    def _start(self, index: int, problem: Problem) -> None:
        task = asyncio.ensure_future(self._sample(index, problem))
        # Failures are raised by `take` when their turn comes; this only keeps asyncio from
        # complaining about those whose turn never comes because the run ended before.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._pending.append(_Entry(index, problem, task))

    def state(self) -> tuple[dict[str, Any], list[Group]]:
        """The cursor with every group in flight (to be sampled again), and those already scored."""
        finished = [group for entry in self._pending if (group := entry.finished)]
        pending = [{"index": entry.index, "problem": entry.problem.to_json()}
                   for entry in self._pending]  # fmt: skip
        return {"problems": self._problems.state(), "pending": pending}, finished

    def restore(self, state: dict[str, Any], finished: Iterable[Group]) -> None:
        """Continue from `state()`: scored groups are used as they are, unfinished ones are sampled
        again with the current policy, and then the cursor goes on."""
        self._problems.restore(state["problems"])
        done = {group.index: group for group in finished}
        for row in state["pending"]:
            if group := done.get(row["index"]):
                task = asyncio.ensure_future(_ready(group))
                self._pending.append(_Entry(group.index, group.problem, task))
            else:
                self._start(row["index"], Problem.from_json(row["problem"]))

    async def close(self) -> None:
        """Abandon the groups in flight."""
        for entry in self._pending:
            entry.task.cancel()
        await asyncio.gather(*(entry.task for entry in self._pending), return_exceptions=True)
        self._pending.clear()


async def _ready(group: Group) -> Group:
    return group
