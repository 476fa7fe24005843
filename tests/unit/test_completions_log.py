import json
import threading
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from rlvr import completions_log
from rlvr.completions_log import SCHEMA, CompletionsLog, read_completions
from rlvr.errors import CheckpointError
from rlvr.types import Completion, Group, Problem, Rollout, Verdict, VersionSpan


def make_group(index: int = 0, text: str = "3") -> Group:
    completion = Completion(
        text=text,
        token_ids=(35, 2),
        logprobs=(-0.25, -0.5),
        versions=(
            VersionSpan(version=5, start=0, end=1),
            VersionSpan(version=6, start=1, end=2),
        ),
        finish_reason="stop",
    )
    return Group(
        index=index,
        problem=Problem(
            id=f"p{index}",
            prompt=({"role": "user", "content": "1 + 2?"},),
            verifier="number",
            answer="3",
        ),
        prompt_token_ids=(1, 2),
        rollouts=(
            Rollout(completion=completion, verdict=Verdict.correct(rule="last"), penalty=-0.25),
            Rollout(completion=completion, verdict=Verdict.error(reason="sandbox down")),
        ),
    )


def test_every_completion_is_there_with_its_verdict(tmp_path: Path):
    with CompletionsLog(tmp_path) as log:
        log.write(1, [make_group(0), make_group(1)])
        log.write(2, [make_group(2)])
    table = read_completions(tmp_path)
    assert table.schema == SCHEMA
    rows = table.to_pylist()
    assert [(row["step"], row["group"], row["member"]) for row in rows] == [
        (1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1), (2, 2, 0), (2, 2, 1),
    ]  # fmt: skip
    first, second = rows[:2]
    assert (first["prompt"], first["answer"], first["completion"]) == ("1 + 2?", "3", "3")
    assert (first["status"], first["reward"], first["penalty"]) == ("correct", 0.75, -0.25)
    assert json.loads(first["detail"]) == {"rule": "last"}
    assert (first["num_tokens"], first["logprob"]) == (2, -0.75)
    assert (first["oldest_version"], first["newest_version"]) == (5, 6)
    assert (second["status"], second["reward"]) == ("error", None)


def test_pandas_reads_the_folder_while_the_run_goes_on(tmp_path: Path):
    with CompletionsLog(tmp_path) as log:
        log.write(1, [make_group(0)])
        log.flush()
        frame = pd.read_parquet(tmp_path / "completions")
        assert frame["status"].tolist() == ["correct", "error"]


def test_evaluations_are_kept_apart(tmp_path: Path):
    with CompletionsLog(tmp_path) as log:
        log.write_evaluation(0, [make_group(0), make_group(1)])
        log.write(1, [make_group(0)])
    assert len(read_completions(tmp_path)) == 2
    assert len(read_completions(tmp_path, "eval")) == 4


def test_after_a_resume_later_steps_are_gone(tmp_path: Path):
    with CompletionsLog(tmp_path) as log:
        log.write_evaluation(0, [make_group()])
        for step in range(1, 6):
            log.write(step, [make_group(step)])
        log.write_evaluation(5, [make_group()])
    with CompletionsLog(tmp_path) as log:
        log.truncate_after(3)
        log.write(4, [make_group(40)])
    assert read_completions(tmp_path)["group"].to_pylist()[::2] == [1, 2, 3, 40]
    assert read_completions(tmp_path, "eval")["step"].to_pylist() == [0, 0]


def test_nothing_is_written_when_it_is_off(tmp_path: Path):
    with CompletionsLog(tmp_path, enabled=False) as log:
        log.write(1, [make_group()])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CheckpointError, match="no step-"):
        read_completions(tmp_path)


def test_text_that_is_not_utf8_does_not_stop_a_run(tmp_path: Path):
    with CompletionsLog(tmp_path) as log:
        log.write(1, [make_group(text="a\ud800b")])
    assert read_completions(tmp_path)["completion"].to_pylist()[0] == "a\\ud800b"


def test_unscored_completions_are_logged_without_a_verdict(tmp_path: Path):
    group = make_group()
    bare = tuple(replace(rollout, verdict=None) for rollout in group.rollouts)
    with CompletionsLog(tmp_path) as log:
        log.write(1, [replace(group, rollouts=bare)])
    assert read_completions(tmp_path)["status"].to_pylist() == [None, None]


def test_writing_does_not_block_and_a_file_appears_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    writing, go_on = threading.Event(), threading.Event()
    write_table = completions_log.pq.write_table

    def slow(*args, **kwargs):
        writing.set()
        assert go_on.wait(30)
        write_table(*args, **kwargs)

    monkeypatch.setattr(completions_log.pq, "write_table", slow)
    with CompletionsLog(tmp_path) as log:
        log.write(1, [make_group()])  # would hang here if it waited for the writer
        assert writing.wait(30)
        assert not list((tmp_path / "completions").glob("*.parquet"))
        go_on.set()
    assert len(read_completions(tmp_path)) == 2


def test_a_full_disk_is_told_by_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(completions_log.pq, "write_table", full)
    log = CompletionsLog(tmp_path)
    log.write(1, [make_group()])
    with pytest.raises(CheckpointError, match=r"step-000001.*No space left.*save_completions"):
        log.flush()
    assert list((tmp_path / "completions").iterdir()) == []
    log.close()
