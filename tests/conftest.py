"""Settings for all tests."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import settings

# Two cores are shared by everything: torch and BLAS must not each take all of them. No test asks
# the hub (whose client reads its setting when it is imported).
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A busy machine is no failure, and the same examples every time make a failure repeatable.
settings.register_profile("rlvr", deadline=None, derandomize=True)
settings.register_profile("fast", settings.get_profile("rlvr"), max_examples=20)
settings.load_profile("rlvr")


@pytest.fixture(autouse=True)
def import_path_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a verifier from a file makes its neighbours importable, for the rest of a process."""
    monkeypatch.setattr(sys, "path", [*sys.path])
