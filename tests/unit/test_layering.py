"""Import directions: sandbox <- verifiers <- rlvr, and heavy libraries only where they belong."""

from __future__ import annotations

import ast
import fnmatch
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("rlvr", "verifiers", "sandbox")

ALLOWED = {
    "ray": ("rlvr/cluster.py", "rlvr/weights*.py"),
    "vllm": ("rlvr/rollout*.py", "rlvr/weights*.py"),
    "docker": ("sandbox/*",),
    "torch": ("rlvr/*",),
    "rlvr": ("rlvr/*",),
    "verifiers": ("rlvr/*", "verifiers/*"),
    "sandbox": ("rlvr/*", "verifiers/*", "sandbox/*"),
}


def imported(path: Path) -> set[str]:
    """Top-level names of every import in a file, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").partition(".")[0])
    return names


SOURCES = sorted(path for package in OURS for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_the_allowed_way(path: Path) -> None:
    where = path.relative_to(ROOT).as_posix()
    for name in imported(path) & ALLOWED.keys():
        assert any(fnmatch.fnmatch(where, pattern) for pattern in ALLOWED[name]), (
            f"{where} imports {name}, which only {', '.join(ALLOWED[name])} may"
        )


def test_the_check_sees_imports_inside_functions(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("def f():\n    import ray.actor\n    from vllm.config import x\n")
    assert imported(file) == {"ray", "vllm"}


@pytest.mark.parametrize("module", ["verifiers", "verifiers.worker", "rlvr.data", "rlvr.cli"])
def test_start_is_light(module: str) -> None:
    if not (ROOT / f"{module.replace('.', '/')}.py").is_file() and module != "verifiers":
        pytest.skip(f"{module} does not exist")
    code = (
        f"import sys, {module}; "
        "print(*sorted({'torch', 'vllm', 'ray', 'transformers', 'datasets'} & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == ""
