"""Settings for all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# Two cores are shared by everything: torch and BLAS must not each take all of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A busy machine is no failure, and the same examples every time make a failure repeatable.
settings.register_profile("rlvr", deadline=None, derandomize=True)
settings.load_profile("rlvr")
