from __future__ import annotations

import fcntl
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rlvr.config import ScoringConfig
from rlvr.errors import ScoringError
from rlvr.score_file import run, score_file

CONFIG = ScoringConfig(timeout_s=20, max_retries=0, num_workers=2, max_concurrency=4)
ROOT = Path(__file__).resolve().parents[2]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def lines(num: int) -> list[dict[str, Any]]:
    return [
        {"id": f"line-{i}", "problem": {"answer": str(i % 3)}, "completion": f"It is {i % 2}."}
        for i in range(num)
    ]


def without_latency(path: Path) -> list[dict[str, Any]]:
    return [{**row, "latency_s": None} for row in rows_of(path)]


def test_every_line_is_judged_in_input_order(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", lines(60))
    summary = score_file("number", source, tmp_path / "deep" / "out.jsonl", CONFIG)
    rows = rows_of(tmp_path / "deep" / "out.jsonl")
    assert [row["id"] for row in rows] == [f"line-{i}" for i in range(60)]
    expected = ["correct" if i % 3 == i % 2 else "incorrect" for i in range(60)]
    assert [row["status"] for row in rows] == expected
    assert all(row.keys() == {"id", "status", "reward", "detail", "latency_s"} for row in rows)
    assert (summary.num_lines, summary.num_resumed) == (60, 0)
    assert summary.counts["correct"] == expected.count("correct")
    assert summary.mean_reward == expected.count("correct") / 60


def test_order_is_kept_when_later_lines_finish_first(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import asyncio\n"
        "async def slow(problem, completion):\n"
        "    await asyncio.sleep(float(completion))\n"
        "    return True\n"
    )
    source = write(
        tmp_path / "in.jsonl",
        [{"id": i, "problem": {}, "completion": str(0.05 - i / 500)} for i in range(20)],
    )
    score_file(f"{tmp_path}/slow.py:slow", source, tmp_path / "out.jsonl", CONFIG)
    assert [row["id"] for row in rows_of(tmp_path / "out.jsonl")] == list(range(20))


@pytest.mark.parametrize("cut", [0, 1, 100, 101, 5000])
def test_a_cut_output_is_resumed_to_the_same_end(tmp_path: Path, cut: int) -> None:
    source = write(tmp_path / "in.jsonl", lines(60))
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    score_file("number", source, whole, CONFIG)
    output.write_bytes(whole.read_bytes()[:cut])
    summary = score_file("number", source, output, CONFIG)
    assert without_latency(output) == without_latency(whole)
    assert summary.num_resumed == whole.read_bytes()[:cut].count(b"\n")
    assert summary.num_lines == 60


def test_kept_lines_are_not_judged_again_unless_overwritten(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", lines(3))
    output = tmp_path / "out.jsonl"
    score_file("number", source, output, CONFIG)
    before = output.read_bytes()
    assert score_file("number", source, output, CONFIG).num_resumed == 3
    assert output.read_bytes() == before
    strict = score_file("number", source, output, CONFIG, params={"strict": True}, overwrite=True)
    assert (strict.num_resumed, strict.counts["no_answer"]) == (0, 3)


def test_a_killed_run_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "v.py").write_text(
        "import time\n"
        "def v(problem, completion):\n"
        "    time.sleep(0.01)\n"
        "    return completion.endswith('0.')\n"
    )
    source, output = write(tmp_path / "in.jsonl", lines(300)), tmp_path / "out.jsonl"
    code = (
        "import sys; from pathlib import Path; from rlvr.config import ScoringConfig\n"
        "from rlvr.score_file import score_file\n"
        "score_file(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), ScoringConfig())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, f"{tmp_path}/v.py:v", source, output], cwd=ROOT
    )
    deadline = time.monotonic() + 60
    while not output.is_file() or output.read_bytes().count(b"\n") < 10:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    survived = [line for line in output.read_bytes().splitlines(True) if line.endswith(b"\n")]
    assert len(survived) < 300
    summary = score_file(f"{tmp_path}/v.py:v", source, output, CONFIG)
    assert (summary.num_lines, summary.num_resumed) == (300, len(survived))
    assert output.read_bytes().startswith(b"".join(survived))
    assert [row["reward"] for row in rows_of(output)] == [float(i % 2 == 0) for i in range(300)]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "a JSON list"),
        ('{"problem": {}, "completion": ""}', "'id' is missing"),
        ('{"id": "a", "completion": ""}', "'problem' is missing"),
        ('{"id": "a", "problem": {}}', "'completion' is missing"),
        ('{"id": true, "problem": {}, "completion": ""}', "'id' is bool"),
        ('{"id": "a", "problem": "p", "completion": ""}', "'problem' is str, expected dict"),
        ('{"id": "a", "problem": {}, "completion": null}', "'completion' is NoneType"),
        ('{"id": "a", "problem": {"anwser": "3"}, "completion": ""}', "unknown problem field"),
        ('{"id": "a", "problem": {"answer": 3}, "completion": ""}', "'answer' is int"),
    ],
)
def test_malformed_input_names_the_line_and_judges_nothing(
    tmp_path: Path, bad: str, message: str
) -> None:
    source = write(tmp_path / "in.jsonl", lines(2))
    source.write_text(source.read_text() + "\n" + bad + "\n")
    with pytest.raises(ScoringError, match=rf"in\.jsonl line 4: .*{re.escape(message)}"):
        score_file("number", source, tmp_path / "out.jsonl", CONFIG)
    assert not (tmp_path / "out.jsonl").exists()


def test_an_output_of_another_input_is_refused_and_left_alone(tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.jsonl", lines(5)), tmp_path / "out.jsonl"
    score_file("number", source, output, CONFIG)
    before = output.read_bytes()
    other = write(tmp_path / "other.jsonl", [{**row, "id": "x"} for row in lines(5)])
    with pytest.raises(ScoringError, match=r"line 1 is not about 'x'"):
        score_file("number", other, output, CONFIG)
    shorter = write(tmp_path / "shorter.jsonl", lines(3))
    with pytest.raises(ScoringError, match="more lines than"):
        score_file("number", shorter, output, CONFIG)
    write(tmp_path / "notes.jsonl", [{"hello": 1}])
    with pytest.raises(ScoringError, match="no line of a score file"):
        score_file("number", source, tmp_path / "notes.jsonl", CONFIG)
    assert output.read_bytes() == before


def test_paths_that_cannot_be_used(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", lines(2))
    with pytest.raises(ScoringError, match="cannot be read"):
        score_file("number", tmp_path / "missing.jsonl", tmp_path / "out.jsonl", CONFIG)
    with pytest.raises(ScoringError, match="the input itself"):
        score_file("number", source, source, CONFIG)
    with pytest.raises(ScoringError, match="is not a file"):
        score_file("number", source, tmp_path, CONFIG)
    with pytest.raises(ScoringError, match="cannot be opened for writing"):
        score_file("number", source, source / "out.jsonl", CONFIG)
    assert source.read_text().count("\n") == 2


def test_two_writers_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", lines(2))
    with (tmp_path / "out.jsonl").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ScoringError, match="another process"):
            score_file("number", source, tmp_path / "out.jsonl", CONFIG)


def test_a_full_disk_is_an_error_of_ours_and_can_be_resumed(tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.jsonl", lines(60)), tmp_path / "out.jsonl"
    code = (
        "import resource, sys; from pathlib import Path; from rlvr.config import ScoringConfig\n"
        "from rlvr.errors import ScoringError; from rlvr.score_file import score_file\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: score_file('number', Path(sys.argv[1]), Path(sys.argv[2]), ScoringConfig())\n"
        "except ScoringError as error: print(error)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, source, output], cwd=ROOT, capture_output=True, text=True
    )
    assert "cannot be written" in result.stdout, result.stderr
    assert 0 < output.stat().st_size <= 1000
    summary = score_file("number", source, output, CONFIG)
    assert summary.num_lines == 60
    assert summary.num_resumed > 0
    assert [row["id"] for row in rows_of(output)] == [f"line-{i}" for i in range(60)]


def test_an_empty_input_gives_an_empty_output(tmp_path: Path) -> None:
    summary = score_file("number", write(tmp_path / "in.jsonl", []), tmp_path / "out.jsonl", CONFIG)
    assert (summary.num_lines, summary.mean_reward) == (0, None)
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_an_unknown_verifier_touches_nothing(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="unknown verifier"):
        score_file("nubmer", write(tmp_path / "in.jsonl", lines(1)), tmp_path / "o", CONFIG)
    assert not (tmp_path / "o").exists()


def test_the_command_line_passes_settings_and_verifier_parameters(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", lines(3))
    summary = run("number", source, tmp_path / "o", ["timeout_s=5", "params.strict=true"])
    assert str(summary) == "3 lines judged: 3 no_answer; mean reward 0.0000"


def test_the_ten_line_example_of_the_docs_works(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "verifiers.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(# exact\.py\n.*?)```", page, re.DOTALL)
    assert example is not None
    code = [line for line in example[1].splitlines() if line]
    assert len(code) <= 10 + 1  # and the comment with its name
    (tmp_path / "exact.py").write_text(example[1])
    source = write(
        tmp_path / "in.jsonl",
        [
            {"id": "right", "problem": {"answer": "Paris"}, "completion": "Hm.\nParis"},
            {"id": "case", "problem": {"answer": "Paris"}, "completion": "paris"},
            {"id": "wrong", "problem": {"answer": "Paris"}, "completion": "Rome"},
            {"id": "none", "problem": {"answer": "Paris"}, "completion": " "},
            {"id": "fault", "problem": {"answer": None}, "completion": "Rome"},
        ],
    )
    spec = f"{tmp_path}/exact.py:exact"
    score_file(spec, source, tmp_path / "a", CONFIG, params={"ignore_case": True})
    score_file(spec, source, tmp_path / "b", CONFIG)
    assert [row["status"] for row in rows_of(tmp_path / "a")] == [
        "correct", "correct", "incorrect", "no_answer", "error",
    ]  # fmt: skip
    assert rows_of(tmp_path / "b")[1]["status"] == "incorrect"


def test_the_score_file_example_of_the_docs_is_what_comes_out(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "verifiers.md").read_text(encoding="utf-8")
    given, expected = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", page, re.S))
    score_file("number", write(tmp_path / "in.jsonl", [given]), tmp_path / "out", CONFIG)
    assert rows_of(tmp_path / "out") == [{**expected, "latency_s": pytest.approx(0, abs=1)}]
