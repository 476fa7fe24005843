"""One self-contained HTML file of an evaluation: figures, charts, every problem and completion."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from rlvr.errors import ResultsError
from rlvr.figures import ProblemSamples, column_label
from rlvr.read_results import BenchmarkResults, read_results

MAX_TEXT_CHARS = 20_000
"""Of a prompt or a completion: what a person reads. completions.jsonl has the whole text."""
MAX_DETAIL_CHARS = 2_000
MAX_REPORT_CHARS = 40_000_000
"""Of all texts together: browsers stay quick, phones included. Beyond it, each text gets less."""


def write_report(results_dir: Path, path: Path) -> None:
    """Write report.html of all the benchmarks in a results directory.

    The page needs no network and allows none: its content policy admits its own script and style
    (by hash) and nothing else, so that text of a model could not run or load anything even if it
    were not escaped.

    Args:
        results_dir: A results directory, or the folder of one benchmark.
        path: The file to write, atomically.

    Raises:
        ResultsError: the results cannot be read, or the file cannot be written.
    """
    page = render(read_results(results_dir))
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ResultsError(f"the report {path} cannot be written: {error}") from error


def render(benchmarks: Mapping[str, BenchmarkResults]) -> str:
    """The page as text."""
    gathered = {name: each.problems() for name, each in benchmarks.items()}
    num_texts = sum(1 + len(each.rows) for problems in gathered.values() for each in problems)
    limit = max(200, min(MAX_TEXT_CHARS, MAX_REPORT_CHARS // max(1, num_texts)))
    shortener = _Shortener(limit)
    data = {
        "version": version("rlvr"),
        "benchmarks": [
            {
                "results": each.results,
                "problems": [
                    _problem(problem, each.results["figures"]["breakdown"], shortener)
                    for problem in gathered[name]
                ],
            }
            for name, each in benchmarks.items()
        ],
    }
    data["shortened"] = limit if shortener.used else None
    models = dict.fromkeys(each.model for each in benchmarks.values())
    return _fill_template(f"{', '.join(models)}: {', '.join(benchmarks)}", data)


class _Shortener:
    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = False

    def __call__(self, text: str) -> str:
        """Beginning and end of a long text: an answer usually stands at the end."""
        if len(text) <= self.limit:
            return text
        self.used = True
        half = self.limit // 2
        return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters ...]\n{text[-half:]}"


def _problem(
    problem: ProblemSamples, breakdown: Mapping[str, Any], shorten: _Shortener
) -> dict[str, Any]:
    asked = problem.rows[0]["problem"]
    metadata = asked.get("metadata") or {}
    prompt = asked["prompt"]
    if not isinstance(prompt, str) and [message["role"] for message in prompt] == ["user"]:
        prompt = prompt[0]["content"]
    elif not isinstance(prompt, str):
        prompt = "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in prompt)
    return {
        "id": problem.id,
        "prompt": shorten(prompt),
        "answer": None if asked.get("answer") is None else shorten(asked["answer"]),
        "metadata": {name: shorten(_plain(value)) for name, value in metadata.items()},
        "groups": {name: column_label(metadata.get(name)) for name in breakdown},
        "samples": [
            {
                "sample": row["sample"],
                "completion": shorten(row["completion"]),
                "answer": row["answer"],
                "finish": row["finish_reason"],
                "tokens": row["num_tokens"],
                "status": row["status"],
                "reward": row["reward"],
                "detail": _detail(row.get("detail")),
            }
            for row in sorted(problem.rows, key=lambda row: row["sample"])
        ],
    }


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _detail(detail: Mapping[str, Any] | None) -> str:
    if not detail:
        return ""
    text = " · ".join(f"{name}: {_plain(value)}" for name, value in detail.items())
    return text if len(text) <= MAX_DETAIL_CHARS else f"{text[:MAX_DETAIL_CHARS]} ..."


def _fill_template(title: str, data: Mapping[str, Any]) -> str:
    folder = files("rlvr") / "templates"
    css = (folder / "report.css").read_text(encoding="utf-8")
    js = "".join((folder / name).read_text(encoding="utf-8") for name in ("charts.js", "report.js"))
    parts = {
        "title": html.escape(title),
        "policy": (
            f"default-src 'none'; script-src '{_hash(js)}'; style-src '{_hash(css)}'; "
            "img-src data:; base-uri 'none'; form-action 'none'"
        ),
        "css": css,
        "js": js,
        "data": _embed(data),
    }
    template = (folder / "report.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _embed(data: Mapping[str, Any]) -> str:
    """JSON that cannot end the script element it stands in, whatever its strings hold."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
