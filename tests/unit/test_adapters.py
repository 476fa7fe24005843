"""Reward functions of TRL, verl and OpenRLHF, taken from files as their users write them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from verifiers import Problem, Status, Verdict, VerifierLoadError, load
from verifiers.runner import Runner

TRL = """
import asyncio, math, re

def accuracy_reward(completions, solution, **kwargs):
    contents = [completion[0]["content"] for completion in completions]
    return [1.0 if content.endswith(gold) else 0.0 for content, gold in zip(contents, solution)]

def think_format_reward(completions: list[list[dict[str, str]]], **kwargs) -> list[float]:
    pattern = r"^<think>(?!.*<think>)(.*?)</think>.*$"
    contents = [completion[0]["content"] for completion in completions]
    return [1.0 if re.match(pattern, c, re.DOTALL) else 0.0 for c in contents]

def only_maths(prompts, completions, task, **kwargs):
    assert len(prompts) == len(completions) == len(task)
    return [None if kind != "math" else 0.5 for kind in task]

async def waits(completions, answer, log_extra=None, log_metric=None, **kwargs):
    await asyncio.sleep(0)
    log_extra("length", [len(text) for text in completions])
    log_metric("mean", 0.5)
    return [2.0 if text == gold else -1.0 for text, gold in zip(completions, answer)]

def renamed(completions, gold, **kwargs):
    return [float(c[0]["content"] == g) for c, g in zip(completions, gold)]

def strict(completions): return [float(text) for text in completions]
def everything(prompts, completions, completion_ids, **kwargs): return [0.0]
def nan(completions, **kwargs): return [math.nan] * len(completions)
def too_few(completions, **kwargs): return []
def plain(prompts, completions, **kwargs):
    return [1.0 if isinstance(p, str) and isinstance(c, str) else 0.0
            for p, c in zip(prompts, completions)]
not_a_function = 3
"""

VERL = """
import asyncio

def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    if data_source != "openai/gsm8k": raise NotImplementedError(data_source)
    if extra_info and extra_info.get("hang"):
        while True: pass
    if solution_str.endswith(f"#### {ground_truth}"): return 1.0
    return 0.1 if "####" in solution_str else 0.0

def table(data_source, solution_str, ground_truth, extra_info=None, bonus=0.0):
    right = solution_str == ground_truth
    return {"score": 1.0 + bonus if right else -1.0, "acc": right, "pred": solution_str}

def no_score(data_source, solution_str, ground_truth, extra_info): return {"reward": 1.0}

def pair(data_source, solution_str, ground_truth, extra_info): return (True, {"cases": 3})

async def waits(data_source, solution_str, ground_truth, extra_info):
    await asyncio.sleep(0)
    return float(solution_str == ground_truth)

def many(data_sources, solution_strs, ground_truths, extra_infos, **kwargs):
    return [{"score": float(a == b), "of": len(solution_strs)}
            for a, b in zip(solution_strs, ground_truths)]
"""

OPENRLHF = """
class Tensor:
    # Stands for torch.Tensor: iterates over elements that float() takes.
    def __init__(self, values): self.values = values
    def __iter__(self): return iter([Scalar(v) for v in self.values])

class Scalar:
    def __init__(self, value): self.value = value
    def __float__(self): return float(self.value)
    def __iter__(self): raise TypeError("iteration over a 0-d tensor")

def reward_func(queries, prompts, labels, **kwargs):
    rewards = [float(query[len(prompt):] == label)
               for query, prompt, label in zip(queries, prompts, labels)]
    return {
        "rewards": Tensor([10 * r - 5 for r in rewards]),
        "scores": Tensor(rewards),
        "extra_logs": {"right": Tensor(rewards), "mean": Scalar(0.5)},
    }

def tensor(queries, prompts, labels): return Tensor([0.25] * len(queries))
def listed(queries, prompts, labels): return [1.0] * len(queries)
def scalar(queries, prompts, labels): return Scalar(1.0)
"""

CHAT = ({"role": "user", "content": "1 + 2?"},)


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, source in [("trl_r.py", TRL), ("verl_r.py", VERL), ("orlhf_r.py", OPENRLHF)]:
        (tmp_path / name).write_text(source)
    monkeypatch.chdir(tmp_path)


def problem(answer: str | None = "3", *, prompt: Any = CHAT, **metadata: Any) -> Problem:
    return Problem(id="p", prompt=prompt, verifier="v", answer=answer, metadata=metadata)


def batch(spec: str, problems: list[Problem], texts: list[str], **params: Any) -> list[Verdict]:
    verify_batch = load(spec, **params).verify_batch
    assert verify_batch is not None
    return verify_batch(problems, texts)


def seen(verdicts: list[Verdict]) -> list[tuple[str, float | None]]:
    return [(verdict.status.value, verdict.reward) for verdict in verdicts]


# --- TRL ---


def test_trl_columns_are_metadata_and_the_gold() -> None:
    problems = [problem(), problem("4")]
    found = batch("trl:trl_r.py:accuracy_reward", problems, ["It is 3", "3"])
    assert seen(found) == [("correct", 1.0), ("incorrect", 0.0)]
    found = batch("trl:trl_r.py:renamed", problems, ["3", "3"], answer_column="gold")
    assert seen(found) == [("correct", 1.0), ("incorrect", 0.0)]
    problems = [problem(None, solution="3"), problem(None, solution="4")]
    assert seen(batch("trl:trl_r.py:accuracy_reward", problems, ["It is 3", "3"])) == seen(found)


def test_trl_completions_are_messages_where_the_prompt_is() -> None:
    texts = ["<think>a</think>b", "b"]
    found = batch("trl:trl_r.py:think_format_reward", [problem()] * 2, texts)
    assert seen(found) == [("correct", 1.0), ("incorrect", 0.0)]
    plain = [problem(prompt="1 + 2?")]
    assert seen(batch("trl:trl_r.py:plain", plain, ["x"])) == [("correct", 1.0)]
    assert seen(batch("trl:trl_r.py:plain", plain, ["x"], conversational=True)) == [
        ("incorrect", 0.0)
    ]


def test_trl_none_is_not_applicable() -> None:
    problems = [problem(task="math"), problem(task="code"), problem()]
    found = batch("trl:trl_r.py:only_maths", problems, ["x"] * 3)
    assert seen(found) == [("partial", 0.5), ("error", None), ("error", None)]
    assert found[1].detail["not_applicable"] is True


async def test_trl_functions_with_none_add_up_as_in_trl() -> None:
    verifier = load("weighted", components=["trl:trl_r.py:only_maths", "trl:trl_r.py:plain"])
    async with Runner(timeout_s=20, num_workers=1) as runner:
        for task, reward in [("math", 1.5), ("code", 1.0)]:
            verdict = await runner.judge(verifier, problem(prompt="?", task=task), "x")
            assert verdict.reward == reward
    assert list(verdict.detail["components"]) == ["trl:only_maths", "trl:plain"]


def test_trl_async_functions_and_the_keywords_trl_adds() -> None:
    plain = [problem(prompt="?"), problem("4", prompt="?")]
    found = batch("trl:trl_r.py:waits", plain, ["3", "33"], correct_at=2.0)
    assert seen(found) == [("correct", 2.0), ("incorrect", -1.0)]
    assert [verdict.detail for verdict in found] == [{"length": 1}, {"length": 2}]


def test_trl_functions_without_keywords_get_what_they_name() -> None:
    found = batch("trl:trl_r.py:strict", [problem(prompt="?", x=1)] * 2, ["1", "0.5"])
    assert seen(found) == [("correct", 1.0), ("partial", 0.5)]


def test_trl_faults() -> None:
    found = batch("trl:trl_r.py:only_maths", [problem()], ["3"])
    assert found[0].status is Status.ERROR
    assert "needs 'task'" in found[0].detail["reason"]
    assert found[0].detail["permanent"] is True
    with pytest.raises(TypeError, match="strings, see the parameter conversational"):
        batch("trl:trl_r.py:think_format_reward", [problem(prompt="?")], ["3"])
    found = batch("trl:trl_r.py:nan", [problem()], ["3"])
    assert "returned nan" in found[0].detail["reason"]
    with pytest.raises(ValueError, match="0 rewards for 1 completions"):
        batch("trl:trl_r.py:too_few", [problem()], ["3"])


async def test_adapted_functions_run_in_batches_in_workers() -> None:
    verifier = load("trl:trl_r.py:accuracy_reward")
    assert not verifier.is_async
    assert not verifier.in_process
    async with Runner(timeout_s=20, max_retries=0, num_workers=1) as runner:
        verdicts = await asyncio.gather(
            *(runner.judge(verifier, problem(str(k % 2)), "1") for k in range(40))
        )
        assert [verdict.reward for verdict in verdicts] == [float(k % 2) for k in range(40)]
        verdict = await runner.judge(load("trl:trl_r.py:too_few"), problem(), "1")
        assert "0 rewards for 1 completions" in verdict.detail["reason"]


# --- verl ---


def judge(spec: str, one: Problem, text: str, **params: Any) -> Verdict:
    return load(spec, **params).verify(one, text)


def test_verl_compute_score() -> None:
    one = problem(data_source="openai/gsm8k")
    spec = "verl:verl_r.py:compute_score"
    assert seen([judge(spec, one, text) for text in ("#### 3", "#### 4", "3")]) == [
        ("correct", 1.0),
        ("partial", 0.1),
        ("incorrect", 0.0),
    ]
    theirs = problem(
        "not this", data_source="openai/gsm8k", reward_model={"ground_truth": "3", "style": "rule"}
    )
    assert judge(spec, theirs, "#### 3").reward == 1.0


def test_verl_tables_and_pairs() -> None:
    verdict = judge("verl:verl_r.py:table", problem(), "3", arguments={"bonus": 0.5})
    assert (verdict.status, verdict.reward) == (Status.CORRECT, 1.5)
    assert verdict.detail == {"score": 1.5, "acc": True, "pred": "3"}
    assert judge("verl:verl_r.py:table", problem(), "4").reward == -1.0
    assert judge("verl:verl_r.py:pair", problem(), "4").status is Status.CORRECT
    assert judge("verl:verl_r.py:no_score", problem(), "4").status is Status.ERROR


def test_verl_async_and_batched_functions() -> None:
    assert judge("verl:verl_r.py:waits", problem(), "3").reward == 1.0
    found = batch("verl:verl_r.py:many", [problem(), problem("4")], ["3", "3"])
    assert seen(found) == [("correct", 1.0), ("incorrect", 0.0)]
    assert found[0].detail["of"] == 2


async def test_a_verl_function_that_hangs_is_killed() -> None:
    verifier = load("verl:verl_r.py:compute_score")
    hangs = problem(data_source="openai/gsm8k", extra_info={"hang": True})
    async with Runner(timeout_s=1.0, max_retries=0, num_workers=1) as runner:
        verdict = await runner.judge(verifier, hangs, "#### 3")
        assert "deadline" in verdict.detail["reason"]
        verdict = await runner.judge(verifier, problem(), "#### 3")
        assert "NotImplementedError" in verdict.detail["reason"]


# --- OpenRLHF ---


def test_openrlhf_rewards_scores_and_logs() -> None:
    problems = [problem(), problem("4", label="3")]
    found = batch("openrlhf:orlhf_r.py:reward_func", problems, ["3", "3"])
    assert seen(found) == [("correct", 5.0), ("incorrect", -5.0)]
    assert found[0].detail == {"right": 1.0}
    found = batch("openrlhf:orlhf_r.py:reward_func", problems, ["3", "3"], label_field="label")
    assert seen(found) == [("incorrect", -5.0), ("correct", 5.0)]


@pytest.mark.parametrize(
    ("name", "status"), [("tensor", "partial"), ("listed", "correct"), ("scalar", "correct")]
)
def test_openrlhf_forms_of_rewards(name: str, status: str) -> None:
    assert batch(f"openrlhf:orlhf_r.py:{name}", [problem()], ["3"])[0].status == status


# --- loading ---


@pytest.mark.parametrize(
    ("spec", "params", "words"),
    [
        ("trl", {}, "function"),
        ("trl", {"function": "trl_r.py:acuracy_reward"}, "did you mean 'accuracy_reward'"),
        ("trl:missing.py:f", {}, "there is no file"),
        ("trl:trl_r.py:not_a_function", {}, "is not a function"),
        ("trl:trl_r.py:everything", {}, "needs completion_ids"),
        ("verl:verl_r.py:table", {"answer_colum": "x"}, "answer_colum"),
    ],
)
def test_what_cannot_be_adapted_says_why(spec: str, params: Any, words: str) -> None:
    with pytest.raises(VerifierLoadError, match=words):
        load(spec, **params)
