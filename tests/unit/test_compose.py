from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from verifiers import Problem, Status, Verdict, VerifierLoadError, load
from verifiers.protocol import MAX_DETAIL_CHARS
from verifiers.runner import Runner

PROBLEM = Problem(id="p", prompt="?", verifier="v", answer="42")

SOURCE = """
import asyncio, os
from verifiers import Verdict

CALLS = []

def _say(word):
    match word:
        case "yes": return True
        case "no": return False
        case "half": return 0.5
        case "none": return Verdict.no_answer()
        case "limit": return Verdict.limit()
        case "minus": return Verdict.incorrect(reward=-1.0)
        case "raise": raise KeyError("the_key")
        case "die": os._exit(3)
        case "na": return Verdict.error(reason="not for this", not_applicable=True, permanent=True)
        case "big": return Verdict.correct(output="x" * 60_000)

class Says:
    in_process = True
    def __init__(self, word): self.word, self.name = word, word
    def verify(self, problem, completion):
        CALLS.append(self.word)
        return _say(self.word)

class SaysElsewhere:
    def __init__(self, word): self.word = word
    def verify(self, problem, completion): return _say(self.word)

class SaysLater:
    name = "later"
    closed = 0
    def __init__(self, word): self.word = word
    async def verify(self, problem, completion):
        await asyncio.sleep(0)
        return _say(self.word)
    async def close(self): SaysLater.closed += 1

class Penalty:
    shapes_only = in_process = True
    name = "penalty"
    def verify(self, problem, completion):
        return Verdict.incorrect(reward=-0.25)

class MyOwn:
    name = "my-own"
    def __init__(self, parts):
        from verifiers import load
        self.parts = [load(part) for part in parts]
    async def compose(self, problem, completion, judge):
        verdicts = [await judge(part) for part in self.parts]
        if completion == "raise": raise KeyError("in compose")
        return max(verdict.reward for verdict in verdicts)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "parts.py"
    path.write_text(SOURCE)
    return path


def part(path: Path, word: str, *, form: str = "Says", **keys: Any) -> dict[str, Any]:
    return {"verifier": f"{path}:{form}", "params": {"word": word}, **keys}


async def judge(name: str, components: list[Any], **params: Any) -> Verdict:
    verifier = load(name, components=components, **params)
    async with Runner(timeout_s=20, max_retries=0, num_workers=1) as runner:
        return await runner.judge(verifier, PROBLEM, "42")


@pytest.mark.parametrize(
    ("words", "status", "reward"),
    [
        (["yes", "yes"], Status.CORRECT, 1.0),
        (["no", "no"], Status.INCORRECT, 0.0),
        (["yes", "no"], Status.PARTIAL, 0.75),
        (["no", "yes"], Status.PARTIAL, 0.25),
        (["half", "no"], Status.PARTIAL, 0.375),
        (["none", "none"], Status.NO_ANSWER, 0.0),
        (["limit", "no"], Status.LIMIT, 0.0),
        (["none", "limit"], Status.NO_ANSWER, 0.0),
        (["raise", "yes"], Status.ERROR, None),
        (["yes", "raise"], Status.ERROR, None),
        (["yes", "na"], Status.CORRECT, 0.75),
        (["na", "no"], Status.INCORRECT, 0.0),
        (["na", "na"], Status.ERROR, None),
        (["na", "raise"], Status.ERROR, None),
    ],
)
async def test_weighted(path: Path, words: list[str], status: Status, reward: float | None) -> None:
    components = [
        part(path, word, weight=weight, name=f"c{k}")
        for k, (word, weight) in enumerate(zip(words, (0.75, 0.25), strict=True))
    ]
    verdict = await judge("weighted", components)
    assert (verdict.status, verdict.reward) == (status, reward)
    assert list(verdict.detail["components"]) == ["c0", "c1"]


async def test_components_are_shown_with_their_own_rewards(path: Path) -> None:
    verdict = await judge(
        "weighted", [part(path, "half", weight=2.0), part(path, "minus", weight=0.5)]
    )
    assert verdict.reward == 0.5
    assert verdict.detail["components"] == {
        "half": {"status": "partial", "reward": 0.5},
        "minus": {"status": "incorrect", "reward": -1.0},
    }


async def test_penalties_shape_the_reward_and_not_the_status(path: Path) -> None:
    penalty = {"verifier": f"{path}:Penalty", "weight": 2.0}
    verdict = await judge("weighted", [part(path, "yes"), penalty])
    assert (verdict.status, verdict.reward) == (Status.CORRECT, 0.5)
    verdict = await judge("weighted", [part(path, "yes"), part(path, "no", shapes_only=True)])
    assert (verdict.status, verdict.reward) == (Status.CORRECT, 1.0)


@pytest.mark.parametrize(
    ("words", "status", "reward", "stopped_at"),
    [
        (["yes", "yes", "half"], Status.PARTIAL, 0.5, None),
        (["yes", "yes", "none"], Status.NO_ANSWER, 0.0, None),
        (["no", "yes", "yes"], Status.INCORRECT, -0.5, "no"),
        (["yes", "half", "raise"], Status.INCORRECT, -0.5, "half"),
        (["none", "raise", "raise"], Status.NO_ANSWER, -0.5, "none"),
        (["raise", "yes", "yes"], Status.ERROR, None, None),
        (["yes", "yes", "raise"], Status.ERROR, None, None),
    ],
)
async def test_gate(
    path: Path, words: list[str], status: Status, reward: float | None, stopped_at: str | None
) -> None:
    verdict = await judge("gate", [part(path, word) for word in words], otherwise=-0.5)
    assert (verdict.status, verdict.reward) == (status, reward)
    assert verdict.detail.get("stopped_at") == stopped_at


async def test_what_a_gate_stops_is_not_judged(path: Path) -> None:
    verdict = await judge("gate", [part(path, "no"), part(path, "die", form="SaysElsewhere")])
    assert verdict.status is Status.INCORRECT
    assert list(verdict.detail["components"]) == ["no"]


@pytest.mark.parametrize(
    ("words", "status", "reward"),
    [
        (["yes", "half", "no"], Status.PARTIAL, 0.5),
        (["yes", "minus", "raise"], Status.INCORRECT, -1.0),
        (["yes", "yes", "yes"], Status.CORRECT, 1.0),
        (["yes", "raise", "no"], Status.ERROR, None),
    ],
)
async def test_first_failure(
    path: Path, words: list[str], status: Status, reward: float | None
) -> None:
    verdict = await judge("first_failure", [part(path, word) for word in words])
    assert (verdict.status, verdict.reward) == (status, reward)


@pytest.mark.parametrize(
    ("words", "status", "reward"),
    [
        (["no", "half", "none"], Status.PARTIAL, 0.5),
        (["none", "no"], Status.NO_ANSWER, 0.0),
        (["minus", "no"], Status.INCORRECT, 0.0),
        (["yes", "raise"], Status.ERROR, None),
    ],
)
async def test_maximum(path: Path, words: list[str], status: Status, reward: float | None) -> None:
    verdict = await judge("maximum", [part(path, word) for word in words])
    assert (verdict.status, verdict.reward) == (status, reward)


async def test_components_keep_their_own_guarantees(path: Path) -> None:
    """In this process, in a worker that dies, and async: each as if it stood alone."""
    components = [
        part(path, "yes"),
        part(path, "half", form="SaysElsewhere", name="elsewhere"),
        part(path, "yes", form="SaysLater"),
    ]
    verdict = await judge("weighted", components)
    assert verdict.reward == 2.5
    components[1] = part(path, "die", form="SaysElsewhere", name="elsewhere")
    verdict = await judge("weighted", components)
    assert verdict.status is Status.ERROR
    assert "component 'elsewhere'" in verdict.detail["reason"]
    assert "exit code 3" in verdict.detail["reason"]
    assert verdict.detail["components"]["later"]["reward"] == 1.0


async def test_one_slot_is_enough_for_nested_composites(path: Path) -> None:
    inner = {
        "verifier": "maximum",
        "params": {"components": [part(path, "half", form="SaysLater"), part(path, "no")]},
    }
    verifier = load("weighted", components=[inner, part(path, "yes", form="SaysLater")])
    async with Runner(timeout_s=20, max_concurrency=1, num_workers=1) as runner:
        verdict = await runner.judge(verifier, PROBLEM, "42")
    assert verdict.reward == 1.5
    assert verdict.detail["components"]["maximum"]["detail"]["chosen"] == "later"


async def test_components_are_closed_with_the_runner(path: Path) -> None:
    verifier = load("weighted", components=[part(path, "yes", form="SaysLater")])
    async with Runner() as runner:
        await runner.judge(verifier, PROBLEM, "42")
    component = verifier.compose.__self__._components[0].verifier  # type: ignore[union-attr]
    assert type(component.verify.__self__).closed == 1


async def test_a_talkative_component_does_not_hide_the_others(path: Path) -> None:
    verdict = await judge("weighted", [part(path, "big"), part(path, "big"), part(path, "half")])
    assert len(json.dumps(verdict.detail)) < MAX_DETAIL_CHARS
    assert verdict.detail["components"]["big_2"]["reward"] == 1.0
    assert verdict.detail["components"]["half"]["reward"] == 0.5


async def test_a_composite_of_ones_own(path: Path) -> None:
    verifier = load(f"{path}:MyOwn", parts=["number", "exact"])
    async with Runner() as runner:
        assert (await runner.judge(verifier, PROBLEM, "42")).reward == 1.0
        verdict = await runner.judge(verifier, PROBLEM, "raise")
    assert verdict.status is Status.ERROR
    assert "in compose" in verdict.detail["reason"]


async def test_components_by_name_alone() -> None:
    verdict = await judge("weighted", ["number", "exact", "number"])
    assert verdict.reward == 3.0
    assert list(verdict.detail["components"]) == ["number", "exact", "number_2"]


@pytest.mark.parametrize(
    ("name", "components", "words"),
    [
        ("weighted", [], "at least one component"),
        ("weighted", "number", "needs a list"),
        ("weighted", ["nubmer"], "did you mean 'number'"),
        ("weighted", [{"params": {}}], "key verifier"),
        ("weighted", [3], "key verifier"),
        ("weighted", [{"verifier": "number", "wieght": 1}], "unknown key 'wieght'"),
        ("weighted", [{"verifier": "number", "weight": float("nan")}], "finite number"),
        ("weighted", [{"verifier": "number", "weight": "1"}], "finite number"),
        ("weighted", [{"verifier": "number", "params": {"stric": True}}], "stric"),
        ("weighted", [{"verifier": "number", "name": "a"}] * 2, "two components are called 'a'"),
        ("weighted", [{"verifier": "number", "shapes_only": True}], "only penalties"),
        ("gate", ["number"], "two components or more"),
    ],
)
def test_what_cannot_be_composed_says_why(name: str, components: Any, words: str) -> None:
    with pytest.raises(VerifierLoadError, match=words):
        load(name, components=components)


def test_a_composite_is_not_called_directly() -> None:
    with pytest.raises(TypeError, match="Runner"):
        load("weighted", components=["number"]).verify(PROBLEM, "42")
