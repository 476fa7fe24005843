"""Settings for all tests."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# Two cores are shared by everything: torch and BLAS must not each take all of them. No test asks
# the hub (whose client reads its setting when it is imported).
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A busy machine is no failure, and the same examples every time make a failure repeatable.
settings.register_profile("rlvr", deadline=None, derandomize=True)
settings.register_profile("fast", settings.get_profile("rlvr"), max_examples=20)
settings.load_profile("rlvr")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest comes first, for when several processes share the work."""
    items.sort(key=lambda item: "test_train_e2e" not in item.nodeid)


class _ByFile(LoadScopeScheduling):
    """`--dist loadfile`, but all Docker tests in one process: one of them restarts the daemon."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return "docker" if "/docker/" in path else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    return _ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(autouse=True)
def import_path_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a verifier from a file makes its neighbours importable, for the rest of a process."""
    monkeypatch.setattr(sys, "path", [*sys.path])
