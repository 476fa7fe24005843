"""The audit as one self-contained page: inline style and SVG, nothing fetched, all escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from rlvr.workbench.findings import TITLES, Audit, Check, Finding
from rlvr.workbench.labels import LabelReport, Proportion
from rlvr.workbench.report import disagreement, seconds, shown, speed

NUM_ROWS = 200
"""Findings of one table on the page; the JSON has all."""
LABEL_WIDTH, BAR_WIDTH, ROW_HEIGHT = 210, 380, 22
_BARS_WIDTH = LABEL_WIDTH + BAR_WIDTH + 130

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #667085; --line: #e3e7ee; --page: #fff;
  --good: #2f855a; --bad: #c53030; --bar: #3b6ea8; --track: #edf0f5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #323a48;
  --page: #14181f; --good: #5fbf8f; --bad: #f27878; --bar: #79a8e0; --track: #262d38; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.soft { color: var(--soft); } .good { color: var(--good); } .bad { color: var(--bad); }
.verdict { font-weight: 600; font-size: 1.1rem; }
table { border-collapse: collapse; width: 100%; margin: .6rem 0; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; }
th { font-weight: 600; } .scroll { overflow-x: auto; }
.findings td:nth-child(-n+2) { white-space: nowrap; }
code { font: 13px/1.45 ui-monospace, monospace; } svg { max-width: 100%; height: auto; }
svg text { font: 13px system-ui, sans-serif; fill: var(--ink); } svg .soft { fill: var(--soft); }
summary { cursor: pointer; }
"""


def page(audit: Audit | None, labels: LabelReport | None, shortfalls: Sequence[str] = ()) -> str:
    """The whole page. Lone surrogates of completions are escaped, so it encodes as UTF-8."""
    passed = (audit is None or audit.passed) and not shortfalls
    title = f"rlvr check {audit.verifier}" if audit else "rlvr check"
    parts = [f"<h1>{_text(title)}</h1>"]
    if audit:
        parts.append(
            f'<p class="soft">{_text(audit.data)}: {audit.num_problems:,} problems; '
            f"{_text(audit.mapping)}</p>"
        )
    mark = ("good", "audit passed") if passed else ("bad", "audit failed")
    parts.append(f'<p class="verdict {mark[0]}">{mark[1]}</p>')
    if audit:
        parts += _audit(audit)
    if labels:
        parts += _labels(labels, shortfalls)
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n"
        "</body></html>\n"
    )


def _audit(audit: Audit) -> Iterable[str]:
    rows = [
        [
            _mark(check),
            f'<a href="#{check.name}">{_text(TITLES[check.name])}</a>',
            f"{check.num_right:,} of {check.num:,}",
            _text(", ".join(f"{n:,} {status}" for status, n in sorted(check.statuses.items()))),
        ]
        for check in audit.checks
    ]
    yield _table(["", "check", "as it must be", "verdicts"], rows)
    yield f'<p class="soft">{audit.num_verdicts:,} verdicts in {audit.seconds:.1f} s</p>'
    for check in audit.checks:
        yield from _check(check, audit.timeout_s)
    if audit.bad_golds:
        yield '<h2 id="bad-golds">Golds that do not verify</h2>'
        yield _findings(audit.bad_golds)
    if audit.latencies_s:
        yield "<h2>Latency</h2>"
        yield f"<p>{_text(speed(audit))}</p>"
        yield histogram(audit.latencies_s)


def _check(check: Check, timeout_s: float) -> Iterable[str]:
    yield f'<h2 id="{check.name}">{_mark(check)} {_text(TITLES[check.name])}</h2>'
    for note in check.notes:
        yield f"<p>{_text(note)}</p>"
    if check.name == "hostile":
        yield durations(check, timeout_s)
    else:
        yield bars(check.kinds)
    if check.findings:
        yield _findings(check.findings)


def bars(kinds: dict[str, tuple[int, int]]) -> str:
    """One bar a kind: the share that is as it must be; what is missing is red."""
    drawn = [
        _bar(row, kind, right / num if num else 0.0, f"{right:,} of {num:,}", right == num)
        for row, (kind, (right, num)) in enumerate(kinds.items())
    ]
    return _svg(_BARS_WIDTH, ROW_HEIGHT * len(kinds) + 4, drawn, "share that is as it must be")


def durations(check: Check, timeout_s: float) -> str:
    """One bar a kind: its slowest verdict as a share of the deadline; red on what is wrong."""
    drawn = []
    for row, (kind, duration_s) in enumerate(check.slowest_s.items()):
        right, num = check.kinds[kind]
        good = right == num and duration_s < timeout_s
        drawn.append(_bar(row, kind, min(1, duration_s / timeout_s), seconds(duration_s), good))
    height = ROW_HEIGHT * len(drawn) + 4
    return _svg(_BARS_WIDTH, height, drawn, "time as a share of the deadline")


def _bar(row: int, name: str, share: float, figure: str, good: bool) -> str:
    top = row * ROW_HEIGHT
    return (
        f'<text x="{LABEL_WIDTH - 10}" y="{top + 16}" text-anchor="end">{_text(name)}</text>'
        f'<rect x="{LABEL_WIDTH}" y="{top + 5}" width="{BAR_WIDTH}" height="13" '
        f'fill="{"var(--track)" if good else "var(--bad)"}"/>'
        f'<rect x="{LABEL_WIDTH}" y="{top + 5}" width="{BAR_WIDTH * share:.1f}" height="13" '
        'fill="var(--bar)"/>'
        f'<text class="soft" x="{LABEL_WIDTH + BAR_WIDTH + 10}" y="{top + 16}">'
        f"{_text(figure)}</text>"
    )


def histogram(latencies_s: Sequence[float]) -> str:
    """Latencies on a logarithmic axis, ten bars to a factor of ten (fewer where the range is wide).

    Args:
        latencies_s: sorted, in seconds.
    """
    low = math.floor(math.log10(max(latencies_s[0], 1e-7)))
    high = max(low + 1, math.ceil(math.log10(max(latencies_s[-1], 1e-7))))
    num_bins = 10 * (high - low) if high - low <= 4 else 40
    counts = [0] * num_bins
    for latency_s in latencies_s:
        place = (math.log10(max(latency_s, 1e-7)) - low) / (high - low) * num_bins
        counts[min(num_bins - 1, max(0, int(place)))] += 1
    width, height, base = 720, 190, 150
    drawn = []
    for place, count in enumerate(counts):
        tall = 130 * count / max(counts)
        left = 20 + 680 * place / num_bins
        drawn.append(
            f'<rect x="{left:.1f}" y="{base - tall:.1f}" width="{680 / num_bins - 1:.1f}" '
            f'height="{tall:.1f}" fill="var(--bar)"><title>{count}</title></rect>'
        )
    drawn.append(
        f'<line x1="20" x2="700" y1="{base}" y2="{base}" stroke="var(--line)" stroke-width="1"/>'
    )
    for power in range(low, high + 1):
        x = 20 + 680 * (power - low) / (high - low)
        drawn.append(
            f'<text class="soft" x="{x:.1f}" y="{base + 20}" text-anchor="middle">'
            f"{_text(seconds(10.0**power))}</text>"
        )
    return _svg(width, height, drawn, "latencies of single verdicts")


def _labels(labels: LabelReport, shortfalls: Sequence[str]) -> Iterable[str]:
    yield '<h2 id="labels">Labels</h2>'
    yield f'<p class="soft">{_text(labels.file)}: {len(labels.judged):,} completions</p>'
    for shortfall in shortfalls:
        yield f'<p class="bad">{_text(shortfall)}</p>'
    yield _intervals({"precision": labels.precision, "recall": labels.recall})
    rows = [
        [name, *(f"{labels.count(label, accepted=accepted):,}" for accepted in (True, False))]
        for label, name in ((True, "labelled right"), (False, "labelled wrong"))
    ]
    yield _table(["", "accepted", "rejected"], rows)
    for title, pairs in (
        ("Disagreements", labels.disagreements),
        ("Could not be judged", labels.errors),
    ):
        if pairs:
            items = "".join(
                f"<li>{_text(disagreement(case, verdict))}</li>"
                for case, verdict in pairs[:NUM_ROWS]
            )
            yield f"<h3>{title} ({len(pairs):,})</h3><ul>{items}</ul>"


def _intervals(shares: dict[str, Proportion]) -> str:
    """Each share as a dot with its 95 % interval, on an axis from 0 to 1."""
    drawn = []
    for row, (name, share) in enumerate(shares.items()):
        y = row * 34 + 14
        drawn.append(
            f'<text x="{LABEL_WIDTH - 110}" y="{y + 5}" text-anchor="end">{name}</text>'
            f'<rect x="{LABEL_WIDTH - 100}" y="{y - 1}" width="{BAR_WIDTH}" height="3" '
            'fill="var(--track)"/>'
            f'<text class="soft" x="{LABEL_WIDTH - 85 + BAR_WIDTH}" y="{y + 5}">{share}</text>'
        )
        if share.value is not None and share.interval is not None:
            low, high = (LABEL_WIDTH - 100 + BAR_WIDTH * end for end in share.interval)
            x = LABEL_WIDTH - 100 + BAR_WIDTH * share.value
            drawn.append(
                f'<rect x="{low:.1f}" y="{y - 3}" width="{high - low:.1f}" height="7" '
                f'fill="var(--bar)" opacity=".45"/>'
                f'<circle cx="{x:.1f}" cy="{y + 0.5}" r="5" fill="var(--bar)"/>'
            )
    return _svg(800, 34 * len(shares) + 4, drawn, "precision and recall with 95 % intervals")


def _findings(findings: Sequence[Finding]) -> str:
    rows = [
        [
            _text(finding.line),
            _text(finding.kind),
            _code(finding.gold or "", 80),
            _text(shown(finding.reason, 300)),
            f"<details><summary>{_code(finding.completion, 60)}</summary>"
            f"{_code(finding.completion, 2_000)}</details>",
        ]
        for finding in findings[:NUM_ROWS]
    ]
    more = len(findings) - NUM_ROWS
    rest = f'<p class="soft">and {more:,} more (--json has all)</p>' if more > 0 else ""
    table = _table(["line", "kind", "gold", "got", "completion"], rows)
    return f'<div class="findings">{table}</div>{rest}'


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _svg(width: int, height: int, drawn: Iterable[str], label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{label}">{"".join(drawn)}</svg>'
    )


def _mark(check: Check) -> str:
    if check.name == "tests" or not check.kinds:
        return '<span class="soft">info</span>'
    kind, word = ("soft", "note") if check.findings else ("good", "ok")
    if check.failed:
        kind, word = "bad", "FAIL"
    return f'<span class="{kind}">{word}</span>'


def _code(text: str, width: int) -> str:
    return f"<code>{_text(shown(text, width))}</code>"


def _text(text: str) -> str:
    return escape(text.encode("utf-8", "backslashreplace").decode())
