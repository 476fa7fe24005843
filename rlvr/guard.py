"""Refuse to run against PyPI's unrelated `verifiers` package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from rlvr.errors import ConfigError

_MARK = 'DISTRIBUTION = "rlvr"'


def ensure_our_verifiers() -> None:
    """Check that `import verifiers` finds the package that belongs to rlvr.

    Called when the CLI and when each Ray worker starts. It reads the package's `__init__.py`
    without running it: another project's code has no business here. Reading also catches the case
    where both were installed into one folder and the other overwrote ours.

    Raises:
        ConfigError: naming the package found instead.
    """
    spec = importlib.util.find_spec("verifiers")
    if spec is None or spec.origin is None:
        raise ConfigError("the package `verifiers` that belongs to rlvr is missing; reinstall rlvr")
    if _MARK not in Path(spec.origin).read_text(encoding="utf-8"):
        raise ConfigError(
            f"`verifiers` at {Path(spec.origin).parent} is another project's package, not the one "
            "that belongs to rlvr; run: pip uninstall verifiers, then reinstall rlvr"
        )
