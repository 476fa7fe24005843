"""The sandboxes of the code verifier: one pool for candidates, another for trusted code.

A container that ever ran a candidate never sees a test, and a submission that holds a candidate's
slot while it waits for a judge's cannot deadlock: judges wait for nobody.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sandbox.protocol import Sandbox
from verifiers import code_shims


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """Two sandboxes that share no container."""

    candidates: Sandbox
    """Runs candidates, and compiles them."""
    judges: Sandbox
    """Runs test code and checkers. Started when first needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """What tells one pair of pools from another."""

    num_slots: int | None = None
    runtime: str | None = None
    image: str | None = None
    max_memory_mb: int = 2048
    """The most that a problem's tests may ask for."""


_Key = tuple[asyncio.AbstractEventLoop, PoolSettings]
_open: dict[_Key, tuple[Pools, int]] = {}


def acquire(settings: PoolSettings) -> Pools:
    """The running loop's pools with these settings, started if there are none; `release` them."""
    key = (asyncio.get_running_loop(), settings)
    pools, users = _open[key] if key in _open else (_start(settings), 0)
    _open[key] = (pools, users + 1)
    return pools


async def release(settings: PoolSettings) -> None:
    """Give up one `acquire` of the running loop; the last one closes the pools."""
    key = (asyncio.get_running_loop(), settings)
    pools, users = _open.pop(key)
    if users > 1:
        _open[key] = (pools, users - 1)
        return
    await asyncio.gather(pools.candidates.close(), pools.judges.close())


def _start(settings: PoolSettings) -> Pools:
    from sandbox.docker_backend import DockerSandbox

    def start(name: str) -> Sandbox:
        return DockerSandbox(
            num_slots=settings.num_slots,
            runtime=settings.runtime,
            image=settings.image,
            max_memory_mb=settings.max_memory_mb,
            preload={name: code_shims.source(name)},
        )

    return Pools(candidates=start(code_shims.CANDIDATE), judges=start(code_shims.JUDGE))
