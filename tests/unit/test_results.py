"""Results directories survive crashes, and never mix two measurements."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import ResultsError
from rlvr.results import COMPLETIONS, FORMAT, RESULTS, RUN, UNJUDGED, Row, open_results


def run_of(**identity: Any) -> dict[str, Any]:
    return {"format": FORMAT, "identity": {"benchmark": "b", **identity}, "config": {}}


def row(problem: str, sample: int, status: str = "correct", text: str = "4") -> Row:
    return Row(
        problem_id=problem,
        sample=sample,
        problem={"id": problem, "prompt": "?", "verifier": "number"},
        completion=text,
        answer=None,
        finish_reason="stop",
        num_tokens=1,
        status=status,
        reward=None if status == "error" else 1.0,
        detail={},
        latency_s=0.0,
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_was_sampled_and_not_judged_is_kept(tmp_path: Path) -> None:
    with open_results(tmp_path / "b", run_of()) as results:
        results.sampled([row("p", 0, "error"), row("p", 1, "error")])
        results.add(row("p", 1))
    with open_results(tmp_path / "b", run_of()) as results:
        assert set(results.judged) == {("p", 1)}
        assert set(results.unjudged) == {("p", 0)}


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_line_cut_short_is_dropped_and_its_sample_is_missing_again(
    tmp_path: Path, cut: int
) -> None:
    with open_results(tmp_path / "b", run_of()) as results:
        for sample in range(3):
            results.add(row("p", sample))
    path = tmp_path / "b" / COMPLETIONS
    os.truncate(path, path.stat().st_size - cut)
    with open_results(tmp_path / "b", run_of()) as results:
        assert set(results.judged) == {("p", 0), ("p", 1)}
        results.add(row("p", 2))
    assert [each["sample"] for each in lines(path)] == [0, 1, 2]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    with open_results(tmp_path / "b", run_of()) as results:
        for sample in range(3):
            results.add(row("p", sample))
    path = tmp_path / "b" / COMPLETIONS
    content = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(content[0] + b"{}\n" + content[2])
    with (
        pytest.raises(ResultsError, match=r"completions\.jsonl line 2 is damaged"),
        open_results(tmp_path / "b", run_of()),
    ):
        pass
    assert path.read_bytes().splitlines()[1] == b"{}"


def test_errors_wait_to_be_judged_again_and_figures_wait_for_them(tmp_path: Path) -> None:
    order = [("p", 0), ("p", 1)]
    with open_results(tmp_path / "b", run_of()) as results:
        results.add(row("p", 1))
        results.add(row("p", 0, "error", text="kept"))
        results.finish({"format": FORMAT}, order)
    assert [each["sample"] for each in lines(tmp_path / "b" / COMPLETIONS)] == [0, 1]
    with open_results(tmp_path / "b", run_of()) as results:
        assert results.finished is None
        assert results.unjudged["p", 0]["completion"] == "kept"
        assert not (tmp_path / "b" / RESULTS).exists()
        results.add(row("p", 0, text="kept"))
        results.finish({"format": FORMAT}, order)
    with open_results(tmp_path / "b", run_of()) as results:
        assert results.finished == {"format": FORMAT}
    assert not (tmp_path / "b" / UNJUDGED).exists()


def test_samples_that_were_cut_from_a_finished_folder_are_missing_again(tmp_path: Path) -> None:
    order = [("p", 0), ("p", 1)]
    with open_results(tmp_path / "b", run_of()) as results:
        for sample in range(2):
            results.add(row("p", sample))
        results.finish({"format": FORMAT, "num_problems": 1, "num_samples": 2}, order)
    path = tmp_path / "b" / COMPLETIONS
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    with open_results(tmp_path / "b", run_of()) as results:
        assert results.finished is None and set(results.judged) == {("p", 0)}


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": 1, "identity": {}}', "{"])
def test_a_damaged_run_is_refused(tmp_path: Path, content: str) -> None:
    with open_results(tmp_path / "b", run_of()):
        pass
    (tmp_path / "b" / RUN).write_text(content)
    with (
        pytest.raises(ResultsError, match="choose another --output"),
        open_results(tmp_path / "b", run_of()),
    ):
        pass


def test_a_crash_between_the_two_files_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """On opening, errors move from completions to the unjudged; here they are in both."""
    with open_results(tmp_path / "b", run_of()) as results:
        results.add(row("p", 0, "error"))
        results.add(row("p", 1))
    (tmp_path / "b" / UNJUDGED).write_text(json.dumps(row("p", 0, "error")) + "\n")
    with open_results(tmp_path / "b", run_of()) as results:
        assert set(results.unjudged) == {("p", 0)} and set(results.judged) == {("p", 1)}


def test_seconds_add_up_over_sessions(tmp_path: Path) -> None:
    for expected in (2.0, 4.0):
        with open_results(tmp_path / "b", run_of()) as results:
            results.seconds += 2.0
            assert results.seconds == expected


def test_what_differs_is_named(tmp_path: Path) -> None:
    with open_results(tmp_path / "b", run_of(sampling={"n": 4, "seed": 0})):
        pass
    with (
        pytest.raises(ResultsError, match=r"sampling\.n was 4, is 8\. Choose another"),
        open_results(tmp_path / "b", run_of(sampling={"n": 8, "seed": 0})),
    ):
        pass


def test_results_of_another_version_are_left_alone(tmp_path: Path) -> None:
    with open_results(tmp_path / "b", run_of()):
        pass
    path = tmp_path / "b" / RUN
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    before = path.read_bytes()
    with (
        pytest.raises(ResultsError, match="format 99; this version writes 1"),
        open_results(tmp_path / "b", run_of()),
    ):
        pass
    assert path.read_bytes() == before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / COMPLETIONS).write_text("mine\n")
    with pytest.raises(ResultsError, match="no run"), open_results(tmp_path / "b", run_of()):
        pass
    assert (tmp_path / "b" / COMPLETIONS).read_text() == "mine\n"


def test_a_folder_belongs_to_one_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rlvr.results import open_results; "
        "from tests.unit.test_results import run_of\n"
        "with open_results(Path(sys.argv[1]), run_of()): print('open', flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "b")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert other.stdout is not None and other.stdout.readline() == "open\n"
    with (
        pytest.raises(ResultsError, match="another process"),
        open_results(tmp_path / "b", run_of()),
    ):
        pass
    other.kill()
    other.wait()
    with open_results(tmp_path / "b", run_of()):
        pass


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ResultsError, match="cannot be written"),
        open_results(tmp_path / "file" / "b", run_of()),
    ):
        pass
