"""What the host makes of a container's last words: of its frames, and of the daemon's events."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import DockerException

from sandbox import Case, Limits, Outcome, Program, Result, SlotLostError
from sandbox.container import Container

PROGRAM = Program(argv=["true"])
EXITED = {
    "op": "result", "outcome": "exited", "exit_code": 0, "signal": None, "wall_s": 0.01,
    "cpu_s": 0.01, "memory_mb": 1.0, "timed_out_on": None, "files": [],
}  # fmt: skip


class Stream:
    """Says what it is given, then is closed."""

    def __init__(self, frames: list[dict[str, Any]]) -> None:
        self.frames = iter(frames)

    def write(self, data: bytes) -> None:
        pass

    async def next(self, timeout_s: float) -> tuple[dict[str, Any], list[bytes]]:
        for frame in self.frames:
            return frame, [b"", b""] if frame["op"] == "result" else []
        raise SlotLostError("a sandbox container died")


def container(frames: list[dict[str, Any]], events: list[str]) -> Container:
    def tell(**_: Any) -> Iterator[dict[str, str]]:
        if not events:
            raise DockerException("the daemon is gone")
        yield from ({"Action": action} for action in events)

    client = SimpleNamespace(api=SimpleNamespace(events=tell))
    handle = SimpleNamespace(id="0", client=client)
    return Container(handle, Stream(frames), {}, {})  # pyright: ignore[reportArgumentType]


def run(slot: Container, num_cases: int, stop_after: int = 99) -> list[Outcome]:
    found: list[Outcome] = []

    def on_result(result: Result) -> bool:
        found.append(result.outcome)
        return len(found) == stop_after

    asyncio.run(slot.run(PROGRAM, [Case()] * num_cases, Limits(), on_result))
    return found


FULL = ["create", "start", "oom", "die"]


def test_a_program_that_filled_the_container_is_over_its_limit() -> None:
    slot = container([EXITED], FULL)
    assert run(slot, 3) == [Outcome.EXITED, Outcome.MEMORY_LIMIT]  # the third is for another slot
    assert not slot.healthy


@pytest.mark.parametrize("stop_after", [1, 99])
def test_a_container_that_dies_after_its_work_adds_no_result(stop_after: int) -> None:
    num_cases = 1 if stop_after == 99 else 3
    slot = container([EXITED], FULL)
    assert run(slot, num_cases, stop_after) == [Outcome.EXITED]
    assert not slot.healthy


@pytest.mark.parametrize("events", [["create", "start", "die"], []])
def test_any_other_death_is_no_programs_fault(events: list[str]) -> None:
    with pytest.raises(SlotLostError, match="died"):
        run(container([EXITED], events), 2)


@pytest.mark.parametrize("is_fault", [False, True])
def test_a_container_that_gives_up_says_whose_fault_it_is(is_fault: bool) -> None:
    slot = container([EXITED, {"op": "done", "unclean": "why", "is_fault": is_fault}], FULL)
    if is_fault:
        with pytest.raises(SlotLostError, match="gave up: why"):
            run(slot, 2)
    else:
        assert run(slot, 2) == [Outcome.EXITED]
    assert not slot.healthy


@pytest.mark.parametrize(
    ("frames", "outcome"), [([], Outcome.MEMORY_LIMIT), ([EXITED], Outcome.EXITED)]
)
async def test_a_session_keeps_the_result_it_has(
    frames: list[dict[str, Any]], outcome: Outcome
) -> None:
    async with container(frames, FULL).session(PROGRAM, Limits()) as session:
        assert await session.receive() is None
        assert (await session.finish()).outcome is outcome
