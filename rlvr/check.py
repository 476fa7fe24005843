"""`rlvr check`: audit a verifier before anyone trains on it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from rlvr.errors import ConfigError
from rlvr.scoring import load_verifier
from rlvr.workbench.audit import Options, audit
from rlvr.workbench.code_probes import CODE_DRESSINGS
from rlvr.workbench.findings import Audit
from rlvr.workbench.labels import LabelReport, measure
from rlvr.workbench.load import load, settings
from rlvr.workbench.probes import DRESSINGS
from rlvr.workbench.report import print_audit, print_labels, to_json


def run(
    verifier: str,
    data: str | None = None,
    *,
    labels: Path | None = None,
    html: Path | None = None,
    limit: int | None = None,
    as_json: bool = False,
    dressings: Sequence[str] = (),
    bad_golds: int = 0,
    min_precision: float = 0.99,
    min_recall: float = 0.95,
    overrides: Sequence[str] = (),
    console: Console | None = None,
) -> int:
    """Audit `verifier`, print the report, and say by the exit status whether it passed.

    Args:
        data: a data file, a recipe, or (for `reasoning_gym`) a task; without it and without
            labels, generated arithmetic problems.
        labels: a file of labelled completions; alone, only they are judged.
        html: where the page goes.
        limit: use only so many problems.
        dressings: ways to give an answer that must be read (see docs/workbench.md).
        bad_golds: golds that may fail to verify before the audit fails.
        min_precision, min_recall: what the labels must reach.
        overrides: `key=value`: scoring settings, `params.*` of the verifier, `data.*` columns.

    Returns:
        0 if the audit passed, 1 if not.

    Raises:
        RlvrError: the verifier, the data, the labels or an override cannot be used.
    """
    known = {**DRESSINGS, **CODE_DRESSINGS, "body only": ""}
    for dressing in dressings:
        if dressing not in known:
            raise ConfigError(f"unknown dressing {dressing!r}; known: {', '.join(known)}")
    if html and not html.parent.is_dir():
        raise ConfigError(f"there is no folder {html.parent} for the report {html.name}")
    config = settings(verifier, data, overrides)
    result: Audit | None = None
    report: LabelReport | None = None
    options = Options(dressings=tuple(dressings), bad_golds=bad_golds)
    console = console or Console()
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading", total=None)

        def progress(phase: str, done: int, total: int) -> None:
            bar.update(task, description=phase, completed=done, total=total)

        loaded = load_verifier(verifier, config.data.verifier_params)
        if data is not None or labels is None:
            problems = load(config.data, overrides, limit)
            result = asyncio.run(audit(loaded, problems, config.scoring, options, progress))
        if labels is not None:
            loaded = load_verifier(verifier, config.data.verifier_params)
            report = asyncio.run(
                measure(loaded, labels, config.scoring, lambda *done: progress("labels", *done))
            )
    shortfalls = report.shortfalls(min_precision, min_recall) if report else []
    passed = (result is None or result.passed) and not shortfalls
    if html:
        from rlvr.workbench.html import page

        html.write_text(page(result, report, shortfalls), encoding="utf-8")
    if as_json:
        console.file.write(json.dumps(to_json(result, report, shortfalls)) + "\n")
    else:
        if result:
            print_audit(result, console)
        if report:
            print_labels(report, shortfalls, console)
        verdict = "[bold green]audit passed" if passed else "[bold red]audit failed"
        console.print(f"\n{verdict}")
        if html:
            console.print(f"report: {html}", markup=False, soft_wrap=True)
    return 0 if passed else 1
