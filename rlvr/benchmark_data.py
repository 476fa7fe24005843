"""The problems of a benchmark, fetched at their pinned revision, worked examples before them."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rlvr.benchmark_config import BenchmarkConfig, Shot
from rlvr.config import DataConfig
from rlvr.data import load_problems
from rlvr.errors import DataError
from rlvr.types import Message, Problem


def benchmark_problems(config: BenchmarkConfig) -> list[Problem]:
    """All problems, ready to be sampled.

    Raises:
        DataError: the data is missing, empty or malformed.
    """
    problems = load_problems(_pinned(config), Path.cwd())
    if config.adapter == "mbpp":
        problems = [_mbpp(problem) for problem in problems]
    shots = config.few_shot[: config.num_few_shot]
    if not shots:
        return problems
    shown = [(_asked(config, shot), shot.completion) for shot in shots]
    return [replace(problem, prompt=_with_shots(problem, shown)) for problem in problems]


def _pinned(config: BenchmarkConfig) -> DataConfig:
    """The data's settings, a hub id replaced by the folder of the revision asked for."""
    data = config.data
    if config.data_revision is None or data.path is None or not _is_hub_id(data):
        return data
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(data.path, repo_type="dataset", revision=config.data_revision)
    except Exception as error:  # the boundary to hub and network
        raise DataError(
            f"data set {data.path!r} (revision {config.data_revision}) could not be had from the "
            f"Hugging Face hub: {type(error).__name__}: {_first_line(error)}; with a copy on this "
            f"machine, say where: data.path=FILE"
        ) from error
    return data.model_copy(update={"path": folder, "source": "hf"})


def _is_hub_id(data: DataConfig) -> bool:
    assert data.path is not None
    return (
        data.source in ("auto", "hf")
        and data.path.count("/") == 1
        and not data.path.startswith((".", "~", "/"))
        and not Path(data.path).suffix
        and not Path(data.path).exists()
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no further reason"


def _with_shots(problem: Problem, shown: Sequence[tuple[str, str]]) -> str | tuple[Message, ...]:
    """Worked examples (asked, answered) as earlier turns of the chat, after any system message;
    before a raw prompt, as text."""
    if isinstance(problem.prompt, str):
        return "\n\n".join([*(f"{asked}\n{answer}" for asked, answer in shown), problem.prompt])
    system = tuple(message for message in problem.prompt[:1] if message["role"] == "system")
    turns = tuple(
        message
        for asked, answer in shown
        for message in (
            {"role": "user", "content": asked},
            {"role": "assistant", "content": answer},
        )
    )
    return (*system, *turns, *problem.prompt[len(system) :])


_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{(\w+)\}")


def _asked(config: BenchmarkConfig, shot: Shot) -> str:
    """A worked example's question in the problems' own template."""

    def fill(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        if match[1] not in ("prompt", config.data.prompt_field):
            raise DataError(
                f"data.prompt_template has {{{match[1]}}}, which worked examples do not: they have "
                f"a prompt and a completion; set num_few_shot = 0"
            )
        return shot.prompt

    template = config.data.prompt_template
    asked = shot.prompt if template is None else _PLACEHOLDER.sub(fill, template)
    return asked + _shown_tests(shot.tests) if shot.tests else asked


def _mbpp(problem: Problem) -> Problem:
    """MBPP's columns as code tests in the contract's form, its tests shown after the prompt.

    The entry point is the function that the gold code defines and the tests call.
    """
    code, tests = problem.metadata["code"], problem.metadata["test_list"]
    setup = problem.metadata.get("test_setup_code") or problem.metadata.get("test_imports") or []
    lines = [setup] if isinstance(setup, str) else list(setup)
    shown = _shown_tests(tests)
    if isinstance(problem.prompt, str):
        prompt = problem.prompt + shown
    else:
        last = problem.prompt[-1]
        prompt = (*problem.prompt[:-1], {**last, "content": last["content"] + shown})
    entry_point = _entry_point(problem.id, code, tests)
    return replace(
        problem,
        prompt=prompt,
        tests={
            "language": "python",
            "kind": "assert",
            "entry_point": entry_point,
            "code": "\n".join([*lines, *tests]),
        },
        metadata={"entry_point": entry_point, "canonical_solution": code},
    )


def _shown_tests(tests: Sequence[str]) -> str:
    return "\n\n```python\n" + "\n".join(tests) + "\n```"


def _entry_point(problem_id: str, code: str, tests: Sequence[str]) -> str:
    try:
        defined = {node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}
        called = [
            node.func.id
            for node in ast.walk(ast.parse("\n".join(tests)))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        ]
    except SyntaxError as error:
        raise DataError(
            f"problem {problem_id!r}: its code or tests are no Python: {error}"
        ) from error
    for name in called:
        if name in defined:
            return name
    raise DataError(
        f"problem {problem_id!r}: its tests call none of the functions that its code defines "
        f"({', '.join(sorted(defined)) or 'none'})"
    )
