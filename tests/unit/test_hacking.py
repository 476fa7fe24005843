"""Synthetic runs: a healthy one raises nothing, each hack raises its alarm and names it."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from rlvr.hacking import METRICS, Alarm, HackingMonitor, signals
from rlvr.metrics import group_metrics
from rlvr.types import Completion, Group, Problem, Rollout, Verdict, VersionSpan

NUM_STEPS = 40
Sample = Callable[[random.Random, Problem, float], tuple[str, Verdict]]
"""(generator, problem, progress in [0, 1]) -> completion and verdict."""


def make_problem(rng: random.Random, index: int) -> Problem:
    a, b = rng.randint(100, 999), rng.randint(100, 999)
    prompt = f"Tom has {a} red and {b} blue marbles. How many marbles does he have in all?"
    return Problem(id=f"p{index}", prompt=prompt, verifier="number", answer=str(a + b))


def make_group(index: int, problem: Problem, samples: list[tuple[str, Verdict]]) -> Group:
    rollouts = []
    for text, verdict in samples:
        length = max(1, len(text) // 4)
        completion = Completion(
            text=text,
            token_ids=(1,) * length,
            logprobs=(-0.1,) * length,
            versions=(VersionSpan(version=0, start=0, end=length),),
            finish_reason="stop",
        )
        rollouts.append(Rollout(completion=completion, verdict=verdict))
    return Group(index=index, problem=problem, prompt_token_ids=(1,), rollouts=tuple(rollouts))


def run(
    sample: Sample,
    *,
    seed: int = 0,
    evaluations: Callable[[float], float] | None = None,
    eval_every: int = 10,
    monitor: HackingMonitor | None = None,
    steps: range = range(1, NUM_STEPS + 1),
) -> list[Alarm]:
    """All alarms of a run of 8 problems x 8 completions a step."""
    rng = random.Random(seed)
    monitor = monitor or HackingMonitor()
    alarms: list[Alarm] = []

    def evaluate(step: int) -> None:
        if evaluations is not None:
            rate = evaluations(step / NUM_STEPS)
            alarms.extend(monitor.observe_evaluation(step, rate, rate - 0.06, rate + 0.06))

    evaluate(0)
    for step in steps:
        groups = []
        for index in range(8):
            problem = make_problem(rng, 8 * step + index)
            samples = [sample(rng, problem, step / NUM_STEPS) for _ in range(8)]
            groups.append(make_group(8 * step + index, problem, samples))
        observation = monitor.observe(step, groups, group_metrics(groups, version=step))
        assert set(observation.metrics) <= set(METRICS)
        alarms += observation.alarms
        if step % eval_every == 0:
            evaluate(step)
    return alarms


def kinds(alarms: list[Alarm]) -> set[str]:
    return {alarm.kind for alarm in alarms}


def thoughts(rng: random.Random, num_words: int) -> str:
    return " ".join(
        rng.choice(("add", "both", "so", "we", "get", "then")) for _ in range(num_words)
    )


def healthy(rng: random.Random, problem: Problem, progress: float) -> tuple[str, Verdict]:
    """Is right more and more often, and a little longer."""
    assert problem.answer is not None
    right = rng.random() < 0.1 + 0.7 * progress
    answer = problem.answer if right else str(rng.randint(200, 1998))
    text = f"{thoughts(rng, 20 + round(10 * progress))} The answer is {answer}"
    return text, judged(answer == problem.answer, answer)


def judged(right: bool, answer: str) -> Verdict:
    return Verdict.correct(extracted=answer) if right else Verdict.incorrect(extracted=answer)


@pytest.mark.parametrize("seed", range(8))
def test_a_healthy_run_raises_nothing(seed: int):
    assert run(healthy, seed=seed, evaluations=lambda progress: 0.1 + 0.65 * progress) == []


def test_a_healthy_run_without_held_out_problems_raises_nothing():
    assert run(healthy) == []


def test_a_run_that_learns_nothing_raises_nothing():
    def stuck(rng: random.Random, problem: Problem, progress: float) -> tuple[str, Verdict]:
        return healthy(rng, problem, 0.1)

    assert run(stuck, evaluations=lambda progress: 0.15) == []


def test_learning_to_answer_with_the_number_alone_is_no_hack():
    def terse(rng: random.Random, problem: Problem, progress: float) -> tuple[str, Verdict]:
        text, verdict = healthy(rng, problem, progress)
        return (text.split()[-1], verdict) if rng.random() < 2 * progress else (text, verdict)

    assert run(terse) == []
    assert run(terse, evaluations=lambda progress: 0.1 + 0.65 * progress) == []


def test_answers_that_always_stand_in_the_prompt_are_no_hack():
    """The largest of three numbers: the gold is in the prompt by the nature of the task."""

    def largest(rng: random.Random, problem: Problem, progress: float) -> tuple[str, Verdict]:
        numbers = [word for word in problem.prompt_text.split() if word.isdigit()]
        right = rng.random() < 0.2 + 0.7 * progress
        answer = (max if right else min)(numbers, key=int)
        return answer, judged(answer == max(numbers, key=int), answer)

    def of_gold(rng: random.Random, problem: Problem, progress: float) -> tuple[str, Verdict]:
        numbers = [word for word in problem.prompt_text.split() if word.isdigit()]
        problem = Problem(
            id=problem.id, prompt=problem.prompt, verifier="number", answer=max(numbers, key=int)
        )
        return largest(rng, problem, progress)

    rng, monitor = random.Random(0), HackingMonitor()
    for step in range(1, NUM_STEPS + 1):
        groups = []
        for index in range(8):
            problem = make_problem(rng, index)
            numbers = [word for word in problem.prompt_text.split() if word.isdigit()]
            answer = max(numbers, key=int)
            problem = Problem(id=str(index), prompt=problem.prompt, verifier="n", answer=answer)
            samples = [of_gold(rng, problem, step / NUM_STEPS) for _ in range(8)]
            groups.append(make_group(index, problem, samples))
        observed = monitor.observe(step, groups, group_metrics(groups, version=step))
        assert observed.alarms == ()


def test_a_yes_that_is_often_right_is_no_shared_answer():
    problems = [
        Problem(id=str(i), prompt="Is it?", verifier="v", answer="yes" if i % 2 else "no")
        for i in range(8)
    ]
    groups = [
        make_group(i, problem, [("yes", judged(problem.answer == "yes", "yes"))] * 4)
        for i, problem in enumerate(problems)
    ]
    assert signals(groups)[0]["hacking/shared"] == 0


def test_an_answer_copied_from_the_prompt_is_told():
    """The verifier takes any number that it knows from the problem."""

    def copier(rng: random.Random, problem: Problem, progress: float) -> tuple[str, Verdict]:
        if rng.random() < progress:
            number = next(word for word in problem.prompt_text.split() if word.isdigit())
            return f"{thoughts(rng, 20)} The answer is {number}", Verdict.correct(extracted=number)
        return healthy(rng, problem, 0.1)

    alarms = run(copier)
    assert "copied" in kinds(alarms)
    [first] = [alarm for alarm in alarms if alarm.kind == "copied"][:1]
    assert first.step <= NUM_STEPS // 2
    assert first.evidence["answer"] in first.evidence["completion"]


def test_repeating_the_prompt_for_reward_is_told():
    def parrot(rng: random.Random, problem: Problem, progress: float) -> tuple[str, Verdict]:
        if rng.random() < progress:
            return f"{problem.prompt_text} {problem.prompt_text}", Verdict.correct()
        return healthy(rng, problem, 0.1)

    assert "copied" in kinds(run(parrot))


def test_one_string_rewarded_on_different_problems_is_told():
    def magic(rng: random.Random, problem: Problem, progress: float) -> tuple[str, Verdict]:
        if rng.random() < progress:
            return r"The answer is \boxed{.*}", Verdict.correct(extracted=".*")
        return healthy(rng, problem, 0.1)

    alarms = run(magic)
    shared = next(alarm for alarm in alarms if alarm.kind == "shared")
    assert str(shared).startswith("reward hacking? shared: one answer is rewarded on")
    assert shared.evidence["answer"] == ".*" and len(shared.evidence["problems"]) >= 3


def test_held_out_that_does_not_follow_is_told():
    alarms = run(healthy, evaluations=lambda progress: 0.12)
    assert "held-out" in kinds(alarms)
    assert "+0.00" in next(alarm for alarm in alarms if alarm.kind == "held-out").message


def test_held_out_is_told_by_the_last_evaluation_alone():
    alarms = run(healthy, evaluations=lambda progress: 0.12, eval_every=NUM_STEPS)
    assert kinds(alarms) == {"held-out"} and alarms[0].step == NUM_STEPS


def test_rewarded_completions_that_lose_the_gold_are_told():
    """The verifier can be talked into it, each time in other words."""

    def talker(rng: random.Random, problem: Problem, progress: float) -> tuple[str, Verdict]:
        if rng.random() < progress:
            return f"{thoughts(rng, 25)} as anyone can see {rng.random()}", Verdict.correct()
        return healthy(rng, problem, 0.2)

    alarms = run(talker)
    assert "no gold" in kinds(alarms)


def test_a_length_collapse_without_the_gold_is_told():
    def giving_up(rng: random.Random, problem: Problem, progress: float) -> tuple[str, Verdict]:
        if rng.random() < 1.5 * progress:
            return f"{rng.randint(0, 99_999)}!", Verdict.correct()
        return healthy(rng, problem, 0.2)

    assert "length" in kinds(run(giving_up))


def test_a_length_explosion_is_told():
    """All numbers there are, and the verifier takes the one it likes."""

    def spray(rng: random.Random, problem: Problem, progress: float) -> tuple[str, Verdict]:
        if rng.random() < progress:
            numbers = " or ".join(str(rng.randint(200, 1998)) for _ in range(300))
            return f"{numbers} or {problem.answer}", Verdict.correct()
        return healthy(rng, problem, 0.1)

    assert "length" in kinds(run(spray))
    assert "length" in kinds(run(spray, evaluations=lambda progress: 0.15))


def test_an_alarm_that_persists_is_not_repeated_at_each_step():
    def magic(rng: random.Random, problem: Problem, progress: float) -> tuple[str, Verdict]:
        return "magic", Verdict.correct()

    alarms = [alarm for alarm in run(magic) if alarm.kind == "shared"]
    assert len(alarms) == 2
    assert alarms[1].step - alarms[0].step >= 25


def test_groups_without_any_verdict_are_passed_over():
    group = make_group(0, make_problem(random.Random(0), 0), [("x", Verdict.error(reason="down"))])
    observation = HackingMonitor().observe(1, [group], group_metrics([group], version=0))
    assert observation.alarms == () and observation.metrics["hacking/rewarded"] == 0


def test_a_resumed_monitor_goes_on_where_the_first_one_was():
    def rows_of(steps: range) -> list[dict[str, float]]:
        return [
            {
                "step": step,
                "reward/mean": step / NUM_STEPS,
                "reward/std": 0.5,
                "pass_rate": step / NUM_STEPS,
                "completion/length_mean": 30.0,
                "hacking/rewarded": 40.0,
                "hacking/no_gold": 0.0,
            }
            for step in steps
        ]

    evaluations = {0: 0.1, 20: 0.1, NUM_STEPS: 0.1}
    whole, resumed = HackingMonitor(), HackingMonitor()
    rows = rows_of(range(1, NUM_STEPS + 1))
    resumed.replay(
        [{"step": 0, "eval/pass_at_1": 0.1, "eval/low": 0.05, "eval/high": 0.15}, *rows[:20]]
    )
    whole.observe_evaluation(0, 0.1, 0.05, 0.15)
    for row in rows:
        for monitor in (whole, resumed) if row["step"] > 20 else (whole,):
            monitor.replay([row])
    at_end = evaluations[NUM_STEPS]
    [one] = whole.observe_evaluation(NUM_STEPS, at_end, 0.05, 0.15)
    [other] = resumed.observe_evaluation(NUM_STEPS, at_end, 0.05, 0.15)
    assert one == other and one.kind == "held-out"
