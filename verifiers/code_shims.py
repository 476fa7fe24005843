"""The programs that run inside the sandboxes on behalf of this package."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Literal

from sandbox.protocol import Program
from verifiers.code_extract import CodePrompt, Extracted
from verifiers.code_tests import AssertTests

_FOLDER = Path(__file__).parent / "shims"
CANDIDATE, JUDGE = "candidate.py", "judge.py"


@functools.cache
def source(name: str) -> bytes:
    """`values.py` and the named file as one, which is faster to start than two."""
    return b"\n".join((_FOLDER / file).read_bytes() for file in ("values.py", name))


def candidate(
    extracted: Extracted,
    prompt: CodePrompt | None,
    entry_point: str,
    start: Literal["fork", "exec"],
    *,
    helpers: tuple[str, ...] = (),
) -> Program:
    """The candidate's program, answering calls. Knows nothing of tests or expected values."""
    task = {
        "text": extracted.text,
        "prompt": prompt.text if prompt else "",
        "prelude": prompt.prelude if prompt else "",
        "entry_point": entry_point,
        "helpers": helpers,
        "continues": extracted.rule == "continue",
    }
    files = {CANDIDATE: source(CANDIDATE), "solution.json": json.dumps(task).encode()}
    return Program(files=files, python=CANDIDATE, start=start)


def judge(tests: AssertTests, prompt: CodePrompt | None, helpers: tuple[str, ...]) -> Program:
    """The trusted test code, for a sandbox in which no candidate runs."""
    task = {
        "tests": tests.code,
        "setup": tests.setup,
        "prelude": prompt.prelude if prompt else "",
        "entry_point": tests.entry_point,
        "helpers": helpers,
        "unknown": [name for name in tests.helpers if name not in helpers],
    }
    files = {JUDGE: source(JUDGE), "tests.json": json.dumps(task).encode()}
    return Program(files=files, python=JUDGE, start="fork")
