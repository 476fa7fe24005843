"""Precision and recall against labels, by hand."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rlvr import check
from rlvr.errors import DataError

CASES = [
    ("17", "The answer is 17.", True),
    ("17", "The answer is 18.", False),
    ("17", "The answer is 17.", False),  # labelled by someone in a hurry
    ("17", "It is seventeen.", True),
    ("17", r"\boxed{17}", True),
    ("about 17", "17", True),
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows() -> list[dict[str, Any]]:
    return [
        {"id": f"c{place}", "problem": {"answer": gold}, "completion": text, "label": label}
        for place, (gold, text, label) in enumerate(CASES)
    ]


def run(path: Path, **options: Any) -> tuple[int, str]:
    out = io.StringIO()
    console = Console(file=out, width=80, color_system=None)
    return check.run("number", labels=path, console=console, **options), out.getvalue()


def test_the_confusion_matrix_by_hand(tmp_path: Path):
    status, text = run(write(tmp_path / "labels.jsonl", rows()), as_json=True)
    found = json.loads(text)["labels"]
    assert status == 1
    assert (found["true_positives"], found["false_positives"]) == (2, 1)
    assert (found["false_negatives"], found["true_negatives"]) == (1, 1)
    assert found["errors"] == 1
    assert found["precision"] == found["recall"] == pytest.approx(2 / 3)
    low, high = found["precision_interval"]
    assert (low, high) == (pytest.approx(0.2077, abs=1e-4), pytest.approx(0.9385, abs=1e-4))
    lines = [case["line"] for case in found["disagreements"]]
    assert lines == [3, 4, 6], "wrongly accepted, then wrongly rejected, then not judged"


def test_disagreements_and_shortfalls_are_printed(tmp_path: Path):
    status, text = run(write(tmp_path / "labels.jsonl", rows()))
    assert status == 1
    assert "precision 0.6667 [0.2077, 0.9385] (2 of 3)" in text
    assert "line 3: labelled wrong, judged correct ('17')" in text
    assert "precision 0.6667 is below 0.99" in text and "1 completions could not be" in text


def test_labels_that_agree_pass(tmp_path: Path):
    good = [row for place, row in enumerate(rows()) if place in (0, 1, 4)]
    assert run(write(tmp_path / "labels.jsonl", good))[0] == 0


def test_what_must_be_reached_can_be_set(tmp_path: Path):
    path = write(tmp_path / "labels.jsonl", rows()[:5])
    assert run(path)[0] == 1
    assert run(path, min_precision=0.6, min_recall=0.6)[0] == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not valid JSON"),
        ("[]", "a JSON list, expected an object"),
        ('{"problem": {"answer": "1"}, "completion": "1"}', "'label' is missing"),
        ('{"problem": {"answer": "1"}, "completion": "1", "label": "yes"}', "'label' is str"),
        ('{"problem": {"answer": "1"}, "completion": "1", "label": 2}', "expected true or false"),
        ('{"problem": {"answer": 1}, "completion": "1", "label": true}', "'answer' is int"),
        ('{"problem": {"gold": "1"}, "completion": "1", "label": true}', "unknown problem field"),
        ('{"problem": {"answer": "1"}, "label": true}', "'completion' is missing"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, message: str):
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps(rows()[0]) + f"\n{line}\n")
    with pytest.raises(DataError, match=r"labels.jsonl line 2: ") as error:
        run(path)
    assert message in str(error.value)


def test_a_missing_or_empty_file_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="cannot be read"):
        run(tmp_path / "missing.jsonl")
    with pytest.raises(DataError, match="has no lines"):
        run(write(tmp_path / "empty.jsonl", []))
