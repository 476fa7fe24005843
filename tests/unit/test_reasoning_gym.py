"""What keeps a policy from farming, breaking or taking over reasoning-gym's scorers."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlvr.config import DataConfig
from rlvr.data import load_problems
from verifiers import Problem, Status
from verifiers.reasoning_gym import ReasoningGymVerifier, extract_answer, harmless

pytest.importorskip("reasoning_gym")


def problem(task: str) -> Problem:
    config = DataConfig(source="reasoning_gym", path=task, params={"size": 1})
    return load_problems(config, Path())[0]


@pytest.mark.parametrize(
    "answer",
    ["1 + 2*(3 - 4)", "x**2 + sin(x) + C", "[[0, 1], [1, 0]]", "['A', 'B']", "(x + 1)*(x - 1)",
     "Q _ _ Q", "2.5", "1/2", "exp(-x)/3", "4 * (5 + 6)", ""],
)  # fmt: skip
def test_answers_that_only_compute_are_harmless(answer: str) -> None:
    assert harmless(answer)


@pytest.mark.parametrize(
    "answer",
    ["__import__('os').system('true')", "open('x', 'w')", "open ('x')", "[open][0]('x')",
     "(lambda: 1)()", "().__class__", "x.real", "x . real", "f'{exit()}'", "'{0.a}'.format(1)",
     "{1: print}[1](2)", "exec('1')", "\uff4f\uff50\uff45\uff4e('x')", "(print)(1)", "print\n(1)",
     "[print #\n(1)]", "print\\\n(1)", "a" * 20 + "(1)", "[print # exp\n(1)]"],
)  # fmt: skip
def test_answers_that_would_run_code_are_not(answer: str) -> None:
    assert not harmless(answer)


@pytest.mark.parametrize("task", ["countdown", "n_queens", "binary_matrix", "simple_integration"])
def test_no_answer_reaches_eval_that_could_run_code(task: str, tmp_path: Path) -> None:
    target = tmp_path / "owned"
    verifier = ReasoningGymVerifier()
    for answer in (f"open('{target}', 'w')", f"__import__('pathlib').Path('{target}').touch()"):
        verdict = verifier.verify(problem(task), f"<answer>{answer}</answer>")
        assert verdict.status is Status.INCORRECT
    assert not target.exists()


@pytest.mark.parametrize(
    ("task", "answer"),
    [("countdown", "0"), ("rectangle_count", "1"), ("time_intervals", "1"),
     ("sentence_reordering", "x"), ("game_of_life_halting", "whatever")],
)  # fmt: skip
def test_crumbs_do_not_count(task: str, answer: str) -> None:
    verdict = ReasoningGymVerifier().verify(problem(task), f"<answer>{answer}</answer>")
    assert (verdict.status, verdict.reward) == (Status.INCORRECT, 0.0)


def test_the_gold_of_a_task_compared_as_text() -> None:
    one = problem("game_of_life_halting")
    assert ReasoningGymVerifier().verify(one, f"<answer>{one.answer}</answer>").reward == 1.0


def test_a_very_long_answer_is_wrong() -> None:
    verdict = ReasoningGymVerifier().verify(problem("chain_sum"), f"<answer>{'1' * 10**6}</answer>")
    assert verdict.status is Status.INCORRECT


@pytest.mark.slow
def test_every_task_accepts_its_gold_and_gives_nothing_for_nonsense() -> None:
    from reasoning_gym.factory import DATASETS

    verifier = ReasoningGymVerifier()
    for task in sorted(DATASETS.keys() - {"composite"}):
        one = problem(task)
        if one.answer and extract_answer(f"<answer>{one.answer}</answer>") == one.answer:
            verdict = verifier.verify(one, f"<answer>{one.answer}</answer>")
            assert verdict.status is Status.CORRECT, (task, verdict)
        for nonsense in ("I do not know.", "{}", "-"):
            verdict = verifier.verify(one, f"<answer>{nonsense}</answer>")
            assert verdict.reward == 0.0, (task, nonsense, verdict)
