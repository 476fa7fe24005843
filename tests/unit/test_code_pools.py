"""Verifiers of one event loop share their sandboxes; the last one closes them."""

from __future__ import annotations

import pytest

from tests.unit.code_sandbox import PlainSandbox
from verifiers import code_pools
from verifiers.code_pools import Pools, PoolSettings


class Counted(PlainSandbox):
    """Knows how often it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.num_closed = 0

    async def close(self) -> None:
        self.num_closed += 1


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Counted, Counted]]:
    pairs: list[tuple[Counted, Counted]] = []

    def start(settings: PoolSettings) -> Pools:
        pairs.append((Counted(), Counted()))
        return Pools(candidates=pairs[-1][0], judges=pairs[-1][1])

    monkeypatch.setattr(code_pools, "_start", start)
    return pairs


async def test_equal_settings_share_and_the_last_release_closes(
    started: list[tuple[Counted, Counted]],
) -> None:
    settings = PoolSettings(num_slots=1)
    assert code_pools.acquire(settings) is code_pools.acquire(PoolSettings(num_slots=1))
    await code_pools.release(settings)
    assert [box.num_closed for box in started[0]] == [0, 0]
    await code_pools.release(settings)
    assert [box.num_closed for box in started[0]] == [1, 1]
    code_pools.acquire(settings)
    assert len(started) == 2, "closed sandboxes are not handed out again"
    await code_pools.release(settings)


async def test_other_settings_get_sandboxes_of_their_own(
    started: list[tuple[Counted, Counted]],
) -> None:
    first, second = PoolSettings(num_slots=1), PoolSettings(num_slots=1, runtime="runsc")
    assert code_pools.acquire(first) is not code_pools.acquire(second)
    await code_pools.release(first)
    assert [box.num_closed for box in (*started[0], *started[1])] == [1, 1, 0, 0]
    await code_pools.release(second)


def test_judges_and_candidates_never_share_a_sandbox() -> None:
    # Built without Docker: containers start on first use.
    pools = code_pools._start(PoolSettings(num_slots=1))
    assert pools.candidates is not pools.judges
