from __future__ import annotations

from pathlib import Path

import pytest

import rlvr.guard
from rlvr.config import DataConfig, ScoringConfig
from rlvr.errors import ConfigError, ScoringError
from rlvr.guard import ensure_our_verifiers
from rlvr.scoring import Scorer, verifier_params
from rlvr.types import Completion, Group, Problem, Rollout, VersionSpan

CONFIG = ScoringConfig(timeout_s=20, max_retries=0, max_error_fraction=0.5)


def group(texts: list[str], *, verifier: str = "number", answer: str = "3") -> Group:
    rollouts = tuple(
        Rollout(
            completion=Completion(
                text=text,
                token_ids=(1,),
                logprobs=(-0.1,),
                versions=(VersionSpan(version=0, start=0, end=1),),
                finish_reason="stop",
            )
        )
        for text in texts
    )
    problem = Problem(id="p", prompt="1 + 2?", verifier=verifier, answer=answer)
    return Group(index=0, problem=problem, prompt_token_ids=(1,), rollouts=rollouts)


async def test_every_rollout_gets_its_own_verdict_in_order() -> None:
    async with Scorer(CONFIG) as scorer:
        scored = await scorer.score(group(["3", "4", "no idea", "It is 3."]))
    assert scored.rewards == [1.0, 0.0, 0.0, 1.0]
    assert all(rollout.verdict and rollout.verdict.latency_s > 0 for rollout in scored.rollouts)
    statuses = [rollout.verdict.status for rollout in scored.rollouts if rollout.verdict]
    assert statuses == ["correct", "incorrect", "no_answer", "correct"]


async def test_params_belong_to_one_verifier_which_is_loaded_once(tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text("def yes(problem, completion): return True")
    async with Scorer(CONFIG, {"number": {"strict": True}}) as scorer:
        assert (await scorer.score(group(["It is 3."]))).rewards == [0.0]
        assert (await scorer.score(group([""], verifier=f"{other}:yes"))).rewards == [1.0]
        assert scorer.load("number") is scorer.load("number")


async def test_faults_are_masked_and_not_scored_zero() -> None:
    async with Scorer(CONFIG) as scorer:
        scored = await scorer.score(group(["3", "4"], answer="three"))
    assert scored.rewards == [None, None]


async def test_a_verifier_that_cannot_be_loaded_stops_the_run() -> None:
    async with Scorer(CONFIG) as scorer:
        with pytest.raises(ScoringError, match="did you mean 'number'"):
            await scorer.score(group(["3"], verifier="nubmer"))


async def test_too_many_errors_stop_the_run_with_the_commonest_reason() -> None:
    async with Scorer(CONFIG) as scorer:
        good = await scorer.score(group(["3", "4"]))
        bad = await scorer.score(group(["3", "4"], answer="three"))
        scorer.check([good])
        scorer.check([good, bad])  # half is allowed
        with pytest.raises(ScoringError, match=r"4 of 6 .*max_error_fraction = 0.5.*not a number"):
            scorer.check([good, bad, bad])
        scorer.check([])


def test_params_of_two_data_sets_must_agree() -> None:
    strict = DataConfig(path="a.jsonl", verifier_params={"strict": True})
    gym = DataConfig(source="reasoning_gym", path="chain_sum", verifier_params={"threshold": 1.0})
    assert verifier_params(strict, gym, None) == {
        "number": {"strict": True},
        "reasoning_gym": {"threshold": 1.0},
    }
    with pytest.raises(ScoringError, match="different verifier_params"):
        verifier_params(strict, DataConfig(path="b.jsonl"))


def test_the_guard_knows_our_package() -> None:
    ensure_our_verifiers()


def test_the_guard_refuses_another_projects_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "verifiers"
    package.mkdir()
    (package / "__init__.py").write_text('raise SystemExit("foreign code ran")')
    spec = rlvr.guard.importlib.util.spec_from_file_location("verifiers", package / "__init__.py")
    monkeypatch.setattr(rlvr.guard.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ConfigError, match=r"another project's package.*pip uninstall verifiers"):
        ensure_our_verifiers()


def test_the_guard_says_when_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rlvr.guard.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="missing"):
        ensure_our_verifiers()
