"""Docker tests need a daemon and the sandbox image; without them they are skipped, saying why."""

from __future__ import annotations

import pytest

from sandbox import SandboxError


@pytest.fixture(scope="session", autouse=True)
def sandbox_image() -> str:
    """The image's tag; built once if it is not there."""
    from sandbox.commands import build

    try:
        return build()
    except SandboxError as error:
        pytest.skip(f"no Docker sandbox: {error}")
