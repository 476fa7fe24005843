"""A pool of slots: who waits, who runs where, what is retried, what is thrown away.

Knows nothing of Docker: a backend says how a slot is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, Self

from sandbox.errors import SandboxError, SandboxUnavailableError, SlotLostError
from sandbox.metrics import SandboxMetrics
from sandbox.protocol import Case, Limits, Program, Result, Session

MAX_ATTEMPTS = 4
"""How many slots may die under one job before it is given up."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0


class Slot(Protocol):
    """What a backend provides. Serial: one job or session at a time."""

    healthy: bool
    """False: never to be used again."""
    num_runs: int
    started_s: float
    """On the monotonic clock."""

    async def run(
        self,
        program: Program,
        cases: Sequence[Case],
        limits: Limits,
        on_result: Callable[[Result], bool],
    ) -> None:
        """Call `on_result` for each case in order, until it returns true or the slot is used up: it
        is not `healthy` then, and the other cases are for another slot.

        Raises:
            SlotLostError: something went wrong; another slot may do.
        """
        ...

    def session(self, program: Program, limits: Limits) -> AbstractAsyncContextManager[Session]: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    num_slots: int
    max_waiting: int = 10_000
    """More callers than that get a `SandboxError` at once."""
    max_runs: int = 5_000
    """A slot is replaced after so many runs..."""
    max_age_s: float = 1_800.0
    """... or when it is so old."""
    patience_s: float = 60.0
    """How long to go on trying when slots cannot be started (the daemon restarts)."""


@dataclass(slots=True, eq=False)
class _Place:
    """Where a slot is, or will be when it is needed."""

    slot: Slot | None = None
    successor: asyncio.Task[Slot] | None = None


class Pool:
    """A `sandbox.protocol.Sandbox` over slots that `start_slot` starts."""

    def __init__(self, start_slot: Callable[[], Awaitable[Slot]], options: PoolOptions) -> None:
        self.metrics = SandboxMetrics()
        self._start_slot, self._options = start_slot, options
        self._places = [_Place() for _ in range(options.num_slots)]
        self._idle = list(self._places)
        self._waiting: deque[asyncio.Future[_Place]] = deque()
        self._chores: set[asyncio.Task[None]] = set()
        self._closed = False

    def check_limits(self, limits: Limits) -> None:
        """A backend may refuse here what its slots cannot give.

        Raises:
            ValueError: naming the limit and the most it can be.
        """

    @property
    def num_slots(self) -> int:
        return self._options.num_slots

    async def run(
        self,
        program: Program,
        cases: Sequence[Case],
        limits: Limits,
        *,
        stop: Callable[[int, Result], bool] | None = None,
        deadline_s: float | None = None,
    ) -> list[Result]:
        """See `sandbox.protocol.Sandbox.run`."""
        self.check_limits(limits)
        results: list[Result] = []
        stopped = False

        def on_result(result: Result) -> bool:
            nonlocal stopped
            self.metrics.count(result)
            results.append(result)
            stopped = stop is not None and stop(len(results) - 1, result)
            return stopped

        def is_done() -> bool:
            return stopped or len(results) == len(cases)

        with self._submission():
            num_lost = 0
            while not is_done():
                try:
                    async with self._slot(deadline_s) as slot:
                        await slot.run(program, cases[len(results) :], limits, on_result)
                except SlotLostError as error:
                    self.metrics.slots_lost += 1
                    num_lost += 1
                    if num_lost == MAX_ATTEMPTS and not is_done():
                        raise SandboxError(f"{error} ({num_lost} slots were tried)") from error
            return results

    @contextlib.asynccontextmanager
    async def session(
        self, program: Program, limits: Limits, *, deadline_s: float | None = None
    ) -> AsyncIterator[Session]:
        """See `sandbox.protocol.Sandbox.session`."""
        self.check_limits(limits)
        with self._submission():
            async with self._slot(deadline_s) as slot, slot.session(program, limits) as session:
                yield session
                self.metrics.count(await session.finish())

    async def close(self) -> None:
        self._closed = True
        for place in self._places:
            if place.successor is not None:
                self._close_successor_later(place.successor)
            if place.slot is not None:
                self._close_later(place.slot)
                place.slot = None
        while self._chores:
            await asyncio.gather(*self._chores)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    # --- slots -----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _slot(self, deadline_s: float | None) -> AsyncIterator[Slot]:
        place = await self._wait_for_place(deadline_s)
        try:
            yield await self._ready(place)
        finally:
            self._after_use(place)
            self._give_back(place)

    async def _wait_for_place(self, deadline_s: float | None) -> _Place:
        if self._closed:
            raise SandboxError("the sandbox pool is closed")
        if len(self._waiting) >= self._options.max_waiting:
            raise SandboxError(
                f"{len(self._waiting)} programs already wait for a sandbox slot; raise "
                "max_waiting or submit fewer at once"
            )
        begin_s = time.monotonic()
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._hand_out()
        try:
            async with asyncio.timeout(deadline_s):
                place = await future
        except BaseException as error:
            if future.done() and not future.cancelled():  # it came at the same moment
                self._give_back(future.result())
            else:
                with contextlib.suppress(ValueError):  # it may have been passed over already
                    self._waiting.remove(future)
            if isinstance(error, TimeoutError):
                raise SandboxError(f"no sandbox slot was free for {deadline_s:g} s") from None
            raise
        self.metrics.queue_wait_s.append(time.monotonic() - begin_s)
        return place

    def _give_back(self, place: _Place) -> None:
        self._idle.append(place)
        self._hand_out()

    def _hand_out(self) -> None:
        """First come, first served; the place used last first, which is the warmest."""
        while self._idle and self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(self._idle.pop())

    async def _ready(self, place: _Place) -> Slot:
        successor = place.successor
        if successor is not None and (successor.done() or place.slot is None):
            place.successor = None
            with contextlib.suppress(SandboxError):
                fresh = await successor
                if place.slot is not None:
                    self._recycle(place)
                place.slot = fresh
        if place.slot is None:
            place.slot = await self._start()
        return place.slot

    def _after_use(self, place: _Place) -> None:
        slot, options = place.slot, self._options
        if slot is None:
            return
        if not slot.healthy or self._closed:
            self._recycle(place)
        elif place.successor is None and (
            slot.num_runs >= options.max_runs
            or time.monotonic() - slot.started_s >= options.max_age_s
        ):
            place.successor = asyncio.create_task(self._start())  # meanwhile this one serves on

    def _recycle(self, place: _Place) -> None:
        assert place.slot is not None
        self.metrics.slots_recycled += 1
        self._close_later(place.slot)
        place.slot = None

    def _close_later(self, slot: Slot) -> None:
        self._do_later(slot.close())

    def _close_successor_later(self, successor: asyncio.Task[Slot]) -> None:
        async def close() -> None:
            successor.cancel()
            with contextlib.suppress(asyncio.CancelledError, SandboxError):
                await (await successor).close()

        self._do_later(close())

    def _do_later(self, action: Coroutine[Any, Any, None]) -> None:
        chore = asyncio.create_task(action)
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)

    async def _start(self) -> Slot:
        """Start a slot, trying again for a while: containers and daemons come back."""
        give_up_s = time.monotonic() + self._options.patience_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                slot = await self._start_slot()
            except SandboxUnavailableError:
                raise
            except SandboxError as error:
                self.metrics.slots_lost += 1
                if self._closed or time.monotonic() + pause_s > give_up_s:
                    raise SandboxError(f"no sandbox slot could be started: {error}") from error
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            self.metrics.slots_started += 1
            return slot

    @contextlib.contextmanager
    def _submission(self) -> Iterator[None]:
        self.metrics.submissions += 1
        try:
            yield
        except SandboxError:
            self.metrics.infrastructure_errors += 1
            raise
