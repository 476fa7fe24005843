"""The command line as a person meets it: help, dry runs, and one clear paragraph for a mistake."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlvr import launch
from rlvr.cli import main
from rlvr.load_config import load_config
from tests.integration.tiny_model import make_tiny_model

ROOT = Path(__file__).parents[2]


def rlvr(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "100", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "rlvr.cli", *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe that is right, over two problems."""
    (tmp_path / "data.jsonl").write_text(
        '{"prompt": "1 + 1?", "answer": "2"}\n{"prompt": "2 + 2?", "answer": "4"}\n'
    )
    make_tiny_model(tmp_path / "model")
    path = tmp_path / "mine.toml"
    path.write_text('[model]\npath = "./model"\n[data]\npath = "data.jsonl"\n')
    return path


def test_help_names_every_command() -> None:
    done = rlvr("--help")
    assert done.returncode == 0
    for command in ("train", "eval", "score", "doctor"):
        assert command in done.stdout


def test_dry_run_prints_the_resolved_config_and_starts_nothing(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent)
    with pytest.raises(SystemExit) as ended:
        main(["train", str(recipe), "seed=5", "--dry-run"])
    assert ended.value.code == 0
    printed = capsys.readouterr()
    config = json.loads(printed.out)
    assert config["seed"] == 5
    assert config["data"]["path"] == str(recipe.parent / "data.jsonl")
    assert "2 problems" in printed.err
    assert not (recipe.parent / "runs").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["learner.lrr=1"], "did you mean `learner.lr`"),
        (["learner.lr=fast"], "`learner.lr` = 'fast'"),
        (["model.path=./nowhere"], "nowhere does not exist"),
        (["model.path=no/such-model"], "'no/such-model'"),
        (["data.path=nowhere.jsonl"], "nowhere.jsonl"),
        (["data.path=empty.jsonl"], "no problems"),
        (["data.path=broken.jsonl"], "line 2"),
        (["data.path=field.jsonl"], "'answer'"),
        (["data.verifier=numbr"], "number"),
        (["data.verifier=no.such.module:judge"], "no.such.module"),
        (["data.verifier=bad.py:judge"], "division by zero"),
        (["data.verifier=bad.py"], "bad.py"),
        (["learner.device=cuda", "rollout.num_workers=64"], "needs 65 GPUs"),
        (["rollout.top_p=0.9"], "biases the importance ratio"),
        (["eval.every=5"], "set eval.data"),
        (["weights.backend=nccl"], "needs GPUs"),
        (["model.chat_template={{ broken"], "the chat template does not take its messages"),
        (["model.path=./base"], "has no chat template: set data.chat=false"),
        (["model.path=./mute"], "cannot load the tokenizer"),
    ],
)
def test_bad_input_is_one_clear_paragraph(
    recipe: Path,
    words: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = recipe.parent
    monkeypatch.chdir(folder)
    (folder / "empty.jsonl").write_text("")
    (folder / "broken.jsonl").write_text('{"prompt": "a", "answer": "1"}\n{"prompt": "b", \n')
    (folder / "field.jsonl").write_text('{"prompt": "a"}\n')
    (folder / "bad.py").write_text("judge = 1 / 0\n")
    for name, left_out in (("base", "chat_template*"), ("mute", "*token*")):
        shutil.copytree(folder / "model", folder / name, ignore=shutil.ignore_patterns(left_out))
    with pytest.raises(SystemExit) as ended:
        main(["train", str(recipe), *words, "--dry-run"])
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert told in error
    assert error.startswith("rlvr: ")
    assert "Traceback" not in error
    assert error.count("\n") == 1


def test_held_out_problems_that_are_trained_on_are_told(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent)
    with pytest.raises(SystemExit):
        main(["train", str(recipe), "eval.data.path=data.jsonl", "--dry-run"])
    assert "2 of 2 held-out problems are in the training data too" in capsys.readouterr().err


def test_debug_shows_where_it_went_wrong(recipe: Path) -> None:
    done = rlvr("train", str(recipe), "learner.lrr=1", "--dry-run", "--debug", cwd=recipe.parent)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "did you mean `learner.lr`" in done.stderr


def test_resume_of_a_directory_that_is_no_run(tmp_path: Path) -> None:
    done = rlvr("train", "--resume", str(tmp_path))
    assert done.returncode == 1
    assert "not a run directory" in done.stderr and "Traceback" not in done.stderr


def test_resume_of_a_run_whose_configuration_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text('{"num_steps": ')
    with pytest.raises(SystemExit):
        main(["train", "--resume", str(tmp_path)])
    assert "config.json is damaged" in capsys.readouterr().err


def test_what_is_changed_on_resume_is_kept(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_training(*args: object, **settings: object) -> None:
        """In place of the loop."""

    monkeypatch.chdir(recipe.parent)
    monkeypatch.setattr(launch, "_train", no_training)
    config = load_config(str(recipe), [f"run_dir={recipe.parent / 'run'}"])
    run_dir = launch.make_run_dir(config, "mine")
    plan = launch.plan(launch.reopen_run_dir(run_dir, ["num_steps=7"]))
    launch.train(plan, run_dir, "mine", resume=True)
    assert launch.reopen_run_dir(run_dir, []).num_steps == 7


def test_a_run_directory_is_never_overwritten(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent)
    (recipe.parent / "taken").mkdir()
    (recipe.parent / "taken" / "config.json").write_text("{}")
    with pytest.raises(SystemExit) as ended:
        main(["train", str(recipe), "run_dir=taken"])
    assert ended.value.code == 1
    assert "holds a run already" in capsys.readouterr().err


def test_score_judges_every_line(tmp_path: Path) -> None:
    lines = [
        {"id": "a", "problem": {"answer": "4"}, "completion": "It is 4."},
        {"id": "b", "problem": {"answer": "4"}, "completion": "It is 5."},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = rlvr("score", "number", "in.jsonl", "--output", "out.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["id"], row["status"], row["reward"]) for row in rows] == [
        ("a", "correct", 1.0),
        ("b", "incorrect", 0.0),
    ]


def test_starting_is_fast_because_nothing_heavy_is_imported() -> None:
    code = "import sys, rlvr.cli; print([m for m in ('torch', 'vllm', 'ray') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
