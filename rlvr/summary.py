"""What a finished run tells its user, read back from the run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlvr.completions_log import read_completions
from rlvr.metrics import read_metrics

NUM_EXAMPLES = 3
"""Held-out problems shown with what the model says before and after."""
WIDTH = 60
"""Characters of a completion that are shown."""


def summary(run_dir: Path, checkpoint: Path, recipe: str, *, interrupted: bool) -> list[str]:
    """Lines: what was learned, where it is, and what to do next."""
    rows = read_metrics(run_dir)
    evaluations = [row for row in rows if row.get("eval/pass_at_1") is not None]
    trained = [row for row in rows if "pass_rate" in row]
    lines = [""]
    if interrupted:
        lines.append(f"Stopped after step {rows[-1]['step'] if rows else 0}; everything is saved.")
    elif len(evaluations) >= 2:
        lines += ["What it learned"]
        lines += [f"  held-out pass@1 {_figure(row)}" for row in (evaluations[0], evaluations[-1])]
        lines += _examples(run_dir, evaluations[0]["step"], evaluations[-1]["step"])
    elif trained:
        first, last = trained[0], trained[-1]
        lines.append(
            f"Training pass rate {first['pass_rate']:.3f} at step {first['step']}, "
            f"{last['pass_rate']:.3f} at step {last['step']} (nothing was held out)"
        )
    lines += ["", "Where it is", f"  model       {_short(checkpoint / 'model')}"]
    lines += [f"  everything  {_short(run_dir)}  (metrics.jsonl, completions/, tensorboard/)"]
    lines += ["", "Next"]
    run = _short(run_dir)
    if interrupted:
        lines.append(f"  rlvr train --resume {run}")
    lines += [
        f"  rlvr eval {run} {recipe} n=4",
        f"  tensorboard --logdir {run}/tensorboard",
        "  rlvr train gsm8k --dry-run data.path=YOUR_PROBLEMS.jsonl",
    ]
    return lines


def _figure(row: dict[str, Any]) -> str:
    return (
        f"{row['eval/pass_at_1']:.3f}  [{row['eval/low']:.3f}, {row['eval/high']:.3f}]  "
        f"after step {row['step']}  ({row['eval/n']} problems x {row['eval/samples']})"
    )


def _examples(run_dir: Path, first: int, last: int) -> list[str]:
    """A few problems that the model gets right now and did not before."""
    table = [
        row
        for row in read_completions(run_dir, "eval").to_pylist()
        if row["step"] in (first, last) and row["member"] == 0
    ]
    before = {row["problem_id"]: row for row in table if row["step"] == first}
    lines = []
    for row in table:
        old = before[row["problem_id"]]
        if row["step"] == last and row["status"] == "correct" and old["status"] != "correct":
            question = row["prompt"].strip().splitlines()[-1]
            lines.append(f"  {_cut(question, 76)}")
            lines.append(f"    before: {_cut(old['completion'])}")
            lines.append(f"    after:  {_cut(row['completion'])}")
        if len(lines) == 3 * NUM_EXAMPLES:
            break
    return lines


def _cut(text: str, width: int = WIDTH) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= width else f"{flat[: width - 3]}..."


def _short(path: Path) -> str:
    """Relative to the current folder where that is shorter to type."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
