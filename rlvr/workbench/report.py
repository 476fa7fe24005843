"""The audit for people at a terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlvr.workbench.findings import TITLES, Audit, Check, Finding
from rlvr.workbench.labels import Labelled, LabelReport
from verifiers.verdict import Verdict

NUM_SHOWN = 8
"""Findings of a check, bad golds and disagreements shown at a terminal; the others are counted, and
stand in the HTML and the JSON."""
PERCENTILES = (50, 90, 99, 100)


def percentile(sorted_values: Sequence[float], percent: int) -> float:
    """Nearest-rank percentile of sorted values (100 is the largest)."""
    rank = -(-percent * len(sorted_values) // 100)
    return sorted_values[max(0, rank - 1)]


def shown(text: str, width: int = 100) -> str:
    """One printable line of at most `width` characters; the end of a long text is what counts."""
    flat = " ".join(text.split()).encode("utf-8", "backslashreplace").decode()
    flat = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in flat)
    return flat if len(flat) <= width else f"...{flat[-(width - 3) :]}"


def seconds(value: float) -> str:
    """A duration with a unit that fits."""
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if value * scale >= 1:
            return f"{value * scale:.3g} {unit}"
    return f"{value * 1e6:.3g} us"


def speed(audit: Audit) -> str:
    """Latency percentiles and throughput in one line."""
    parts = []
    if audit.latencies_s:
        figures = [
            f"{'max' if percent == 100 else f'p{percent}'} "
            f"{seconds(percentile(audit.latencies_s, percent))}"
            for percent in PERCENTILES
        ]
        parts.append(f"latency {', '.join(figures)} (n={len(audit.latencies_s)}, one at a time)")
    if audit.throughput:
        parts.append(f"{audit.throughput:,.0f} verdicts a second")
    return "; ".join(parts)


def print_audit(audit: Audit, console: Console) -> None:
    """The report: one row a check, then what is wrong."""
    console.print(
        Text.assemble(("rlvr check ", "bold"), (audit.verifier, "bold cyan"), f" on {audit.data}"),
        soft_wrap=True,
    )
    console.print(
        Text(f"{audit.num_problems} problems; {audit.mapping}", style="dim"), soft_wrap=True
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("check", overflow="fold")
    table.add_column("as it must be", justify="right", no_wrap=True)
    table.add_column("verdicts", overflow="fold", style="dim")
    for check in audit.checks:
        counts = ", ".join(f"{num:,} {status}" for status, num in sorted(check.statuses.items()))
        table.add_row(_mark(check), TITLES[check.name], _share(check), counts)
    console.print(table)
    for check in audit.checks:
        _print_check(check, len(audit.bad_golds), console)
    if audit.bad_golds:
        console.print(Text("\nGolds that do not verify", style="bold"))
        _print_findings(audit.bad_golds, console, with_gold=True)
    if line := speed(audit):
        console.print(Text(f"\n{line}"), soft_wrap=True)
    console.print(
        Text(f"{audit.num_verdicts:,} verdicts in {audit.seconds:.1f} s", style="dim"),
        soft_wrap=True,
    )


def print_labels(report: LabelReport, shortfalls: Sequence[str], console: Console) -> None:
    """Precision, recall, the confusion matrix and the disagreements."""
    console.print(Text(f"\nLabels: {report.file}", style="bold"), soft_wrap=True)
    console.print(Text(f"precision {report.precision}"), soft_wrap=True)
    console.print(Text(f"recall    {report.recall}"), soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("label", "accepted", "rejected"):
        table.add_column(heading, justify="left" if heading == "label" else "right")
    for label, name in ((True, "right"), (False, "wrong")):
        cells = [f"{report.count(label, accepted=accepted):,}" for accepted in (True, False)]
        table.add_row(name, *cells)
    console.print(table)
    for title, pairs in (
        ("Disagreements", report.disagreements),
        ("Could not be judged", report.errors),
    ):
        if pairs:
            console.print(Text(f"{title} ({len(pairs)})", style="bold"))
        for case, verdict in pairs[:NUM_SHOWN]:
            console.print(Text(f"  {disagreement(case, verdict)}"), soft_wrap=True)
        if len(pairs) > NUM_SHOWN:
            console.print(Text(f"  and {len(pairs) - NUM_SHOWN} more", style="dim"))
    for shortfall in shortfalls:
        console.print(Text(f"FAIL {shortfall}", style="red"), soft_wrap=True)


def disagreement(case: Labelled, verdict: Verdict) -> str:
    gold = "" if case.problem.answer is None else f" gold {shown(case.problem.answer, 40)!r},"
    found = verdict.detail.get("extracted", verdict.detail.get("reason"))
    extracted = "" if found is None else f" ({shown(str(found), 60)!r})"
    label = "right" if case.label else "wrong"
    return (
        f"line {case.line}: labelled {label}, judged {verdict.status}{extracted};{gold} "
        f"ends {shown(case.completion, 70)!r}"
    )


def to_json(
    audit: Audit | None, labels: LabelReport | None, shortfalls: Sequence[str]
) -> dict[str, Any]:
    """Everything, JSON-able; completions are cut at 2,000 characters."""
    passed = (audit is None or audit.passed) and not shortfalls
    report: dict[str, Any] = {"passed": passed}
    if audit:
        report |= {
            "verifier": audit.verifier,
            "data": audit.data,
            "mapping": audit.mapping,
            "num_problems": audit.num_problems,
            "num_verdicts": audit.num_verdicts,
            "seconds": round(audit.seconds, 3),
            "throughput_per_s": audit.throughput and round(audit.throughput, 1),
            "latency_s": {
                f"p{percent}": percentile(audit.latencies_s, percent)
                for percent in PERCENTILES
                if audit.latencies_s
            },
            "checks": [_check_json(check) for check in audit.checks],
            "bad_golds": [_finding_json(finding) for finding in audit.bad_golds],
        }
    if labels:
        report["labels"] = {
            "file": labels.file,
            "precision": labels.precision.value,
            "precision_interval": labels.precision.interval,
            "recall": labels.recall.value,
            "recall_interval": labels.recall.interval,
            "true_positives": labels.count(True, accepted=True),
            "false_positives": labels.count(False, accepted=True),
            "false_negatives": labels.count(True, accepted=False),
            "true_negatives": labels.count(False, accepted=False),
            "errors": len(labels.errors),
            "shortfalls": list(shortfalls),
            "disagreements": [
                {"line": case.line, "id": case.id, "label": case.label, **verdict.to_json()}
                for case, verdict in [*labels.disagreements, *labels.errors]
            ],
        }
    return report


def _check_json(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "passed": not check.failed,
        "num": check.num,
        "num_right": check.num_right,
        "kinds": {kind: {"right": right, "num": num} for kind, (right, num) in check.kinds.items()},
        "statuses": check.statuses,
        "notes": list(check.notes),
        "findings": [_finding_json(finding) for finding in check.findings],
    }


def _finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "line": finding.line,
        "problem": finding.problem,
        "kind": finding.kind,
        "gold": finding.gold,
        "completion": finding.completion[:2_000],
        "reason": finding.reason,
        "detail": finding.detail,
    }


def _mark(check: Check) -> Text:
    if check.name == "tests" or not check.kinds:
        return Text("info", style="cyan")
    if check.failed:
        return Text("FAIL", style="bold red")
    return Text("note", style="yellow") if check.findings else Text("ok", style="green")


def _share(check: Check) -> str:
    return f"{check.num_right:,} of {check.num:,}"


def _print_check(check: Check, num_bad_golds: int, console: Console) -> None:
    if not (check.notes or check.failed):
        return
    console.print(Text(f"\n{TITLES[check.name]}", style="bold red" if check.failed else "bold"))
    for note in check.notes:
        console.print(Text(f"  {note}"), soft_wrap=True)
    expected = num_bad_golds if check.name == "golds" else 0  # these have a list of their own
    short = {kind: of for kind, of in check.kinds.items() if of[1] - of[0] > expected}
    for kind, (right, num) in list(short.items())[:NUM_SHOWN]:
        console.print(Text(f"  {kind}: {right:,} of {num:,}"), soft_wrap=True)
    if len(short) > NUM_SHOWN:
        console.print(Text(f"  and {len(short) - NUM_SHOWN} more kinds", style="dim"))
    _print_findings(_varied(check.findings), console, with_gold=check.name != "hostile")


def _varied(findings: Sequence[Finding]) -> list[Finding]:
    """One of each kind first: many of one kind must not hide the others."""
    first = {finding.kind: finding for finding in reversed(findings)}
    heads = [finding for finding in findings if first[finding.kind] is finding]
    return [*heads, *(finding for finding in findings if first[finding.kind] is not finding)]


def _print_findings(findings: Sequence[Finding], console: Console, *, with_gold: bool) -> None:
    for finding in findings[:NUM_SHOWN]:
        gold = f" gold {shown(finding.gold, 50)!r}" if with_gold and finding.gold else ""
        console.print(
            Text(f"  {finding.line}: {finding.kind}:{gold} got {shown(finding.reason, 160)}"),
            soft_wrap=True,
        )
        extracted = finding.detail.get("extracted")
        heard = "" if extracted is None else f"  (extracted {shown(str(extracted), 60)!r})"
        console.print(
            Text(f"    {shown(finding.completion, 90)!r}{heard}", style="dim"), soft_wrap=True
        )
    if len(findings) > NUM_SHOWN:
        rest = len(findings) - NUM_SHOWN
        console.print(Text(f"  and {rest:,} more (--html FILE or --json has all)", style="dim"))
