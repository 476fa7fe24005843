"""docs/verifiers.md: what it shows is run, what it names exists."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rlvr.config import ScoringConfig
from rlvr.score_file import score_file
from verifiers import Problem, Status, Verdict, load
from verifiers.registry import BUILT_IN, locate, registered
from verifiers.runner import Runner

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "verifiers.md").read_text(encoding="utf-8")
PROBLEM = Problem(id="p", prompt="40 + 2?", verifier="v", answer="42")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_ten_line_example_is_the_file_and_judges_a_file(tmp_path: Path) -> None:
    code = blocks("python")[0].removeprefix("# exact.py\n")
    assert code == (ROOT / "examples" / "exact.py").read_text(encoding="utf-8")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    rows = [("42", "So:\n42"), ("42", "43"), ("42", ""), ("Yes", "yes")]
    (tmp_path / "in.jsonl").write_text(
        "".join(
            json.dumps({"id": k, "problem": {"answer": gold}, "completion": text}) + "\n"
            for k, (gold, text) in enumerate(rows)
        )
    )
    summary = score_file(
        f"{ROOT}/examples/exact.py:exact",
        tmp_path / "in.jsonl",
        tmp_path / "out.jsonl",
        ScoringConfig(num_workers=1),
        params={"ignore_case": True},
    )
    assert summary.counts["correct"] == 2
    statuses = [
        json.loads(line)["status"] for line in (tmp_path / "out.jsonl").read_text().splitlines()
    ]
    assert statuses == ["correct", "incorrect", "no_answer", "correct"]


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_is_described_and_can_be_imported(name: str) -> None:
    assert f"`{name}`" in PAGE.split("## Built in")[1]
    target, source = locate(name)
    assert callable(target)
    assert registered()[name] == source


@pytest.mark.parametrize("toml", [t for t in blocks("toml") if "verifier =" in t])
def test_every_recipe_on_the_page_can_be_loaded(
    toml: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUDGE_TOKEN", "x")
    (tmp_path / "exact.py").write_text((ROOT / "examples" / "exact.py").read_text())
    (tmp_path / "rewards.py").write_text("def right(completions, **_): ...\nform = right\n")
    data = tomllib.loads(toml)["data"]
    assert load(data["verifier"], **data.get("verifier_params", {})).name


async def test_the_weighted_recipe_rewards_as_it_says() -> None:
    toml = next(t for t in blocks("toml") if "shapes_only" in t)
    data = tomllib.loads(toml)["data"]
    verifier = load(data["verifier"], **data["verifier_params"])
    tagged = "<think>40 + 2</think><answer>42</answer>"
    async with Runner() as runner:
        for text, status, reward in [
            (tagged, Status.CORRECT, 1.1),
            ("42", Status.CORRECT, 1.0),
            ("word " * 450 + "42", Status.CORRECT, 1.0 - 0.2 * 151 / 300),
            (tagged.replace("42", "43"), Status.INCORRECT, 0.1),
        ]:
            verdict = await runner.judge(verifier, PROBLEM, text)
            assert verdict.status is status
            assert verdict.reward == pytest.approx(reward)


@pytest.mark.parametrize("adapter", ["trl", "verl", "openrlhf"])
def test_the_three_line_reward_functions_work(adapter: str, tmp_path: Path) -> None:
    row = re.search(rf"\| \[.*?\) \| (.*?) \| `{adapter}:rewards.py:(\w+)` \|", PAGE)
    assert row
    lines = re.findall(r"`([^`]*)`", row[1])
    assert len(lines) == 3
    (tmp_path / "rewards.py").write_text("\n".join(lines))
    verifier = load(f"{adapter}:{tmp_path}/rewards.py:{row[2]}", **(
        {"conversational": True} if adapter == "trl" else {}
    ))  # fmt: skip
    for text, status in [("it is 42", Status.CORRECT), ("it is 43", Status.INCORRECT)]:
        verdict = verifier.verify(PROBLEM, text)
        assert isinstance(verdict, Verdict)
        assert verdict.status is status


async def test_the_example_service_answers_the_http_verifier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    code = (
        "import sys, runpy; from http.server import ThreadingHTTPServer; "
        "space = runpy.run_path(sys.argv[1]); "
        "server = ThreadingHTTPServer(('127.0.0.1', 0), space['Judge']); "
        "print(server.server_address[1], flush=True); server.serve_forever()"
    )
    service = subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT / "examples" / "http_service.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert service.stdout is not None
        url = f"http://127.0.0.1:{int(service.stdout.readline())}"
        async with Runner(timeout_s=20) as runner:
            verifier = load("http", url=url)
            for text, reward in [("It is 42", 1.0), ("It is 43", 0.0)]:
                verdict = await runner.judge(verifier, PROBLEM, text)
                assert verdict.reward == reward, verdict.detail
    finally:
        service.kill()
        service.wait()
