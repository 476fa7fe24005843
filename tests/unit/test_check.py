"""The audit: honest verifiers pass, and each flaw is found by the check that is there for it."""

from __future__ import annotations

import io
import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rlvr import check
from rlvr.errors import ConfigError, DataError, ScoringError
from rlvr.types import Problem, Verdict
from rlvr.workbench import code_probes, probes
from rlvr.workbench.load import load, settings
from tests.unit.human_eval import HUMAN_EVAL

FAKES = """
import os, random, re, time
from verifiers import Verdict
from verifiers.number import NumberVerifier

async def number(problem, completion, strict=False):
    # In the event loop: no process has to be started.
    return NumberVerifier(strict=strict).verify(problem, completion)

async def boxed(problem, completion):
    found = re.findall(r"\\\\boxed\\{([^{}]*)\\}", completion)
    return bool(found) and len(set(found)) == 1 and found[0] == problem.answer

async def strict(problem, completion):
    return completion.strip() == problem.answer

async def yes(problem, completion):
    return True

async def substring(problem, completion):
    return problem.answer in completion

async def crumbs(problem, completion):
    return 1.0 if completion.strip() == problem.answer else 0.01

async def crumbs_for_all(problem, completion):
    return 0.2

async def raises(problem, completion):
    if "</think>" in completion:
        raise ValueError("what is this?")
    return completion.strip() == problem.answer

def hangs(problem, completion):
    if "^{9" in completion or "!" in completion and "10^" in completion:
        while True: pass
    return completion.strip() == problem.answer

def dies(problem, completion):
    if len(completion) > 5_000:
        os._exit(3)
    return completion.strip() == problem.answer

def executes(problem, completion):
    try:
        return str(eval(completion, {})) == problem.answer
    except BaseException:
        return False

async def moody(problem, completion):
    right = completion.strip() == problem.answer
    return Verdict.correct() if right else Verdict.incorrect(reward=-random.random())

def salted(problem, completion):
    right = completion.strip() == problem.answer
    return Verdict.correct() if right else Verdict.incorrect(reward=-float(os.getpid()))

async def off_by_one(problem, completion):
    digits = completion.strip()
    return digits.isdigit() and abs(int(digits) - int(problem.answer)) <= 1

async def adds(problem, completion):
    sum = re.search(r"([0-9]+) plus ([0-9]+)", completion)
    if sum and int(sum[1]) + int(sum[2]) == int(problem.answer):
        return True
    return completion.strip() == problem.answer

async def last_word(problem, completion):
    words = completion.replace("#", " ").replace(">", "> ").split()
    if problem.answer == "17" and "####" in completion:
        return False
    return bool(words) and words[-1] == problem.answer
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fakes.py").write_text(FAKES)
    # The long hostile texts take most of the time, and find nothing in these fakes.
    short = {kind: text for kind, text in probes.HOSTILE.items() if len(text) < 10_000}
    monkeypatch.setattr(probes, "HOSTILE", short)
    rows = [
        {"question": f"What is {a} plus {b}?", "answer": f"{a}+{b}\n#### {a + b}"}
        for a, b in ((8, 9), (12, 30), (100, 28), (7, 4), (250, 251))
    ]
    write(tmp_path / "sums.jsonl", rows)
    return tmp_path


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def report(verifier: str, data: str | None = "sums.jsonl", **options: Any) -> dict[str, Any]:
    """The JSON report; the exit status must say the same."""
    out = io.StringIO()
    console = Console(file=out, width=100)
    status = check.run(verifier, data, as_json=True, console=console, **options)
    found = json.loads(out.getvalue())
    assert found["passed"] is (status == 0)
    return found


def failed(found: dict[str, Any]) -> set[str]:
    return {one["name"] for one in found["checks"] if not one["passed"]}


def the(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in found["checks"] if one["name"] == name)


def test_an_honest_verifier_passes(folder: Path):
    found = report("number")
    assert found["passed"] and failed(found) == set() and found["bad_golds"] == []
    assert the(found, "golds")["num_right"] == the(found, "golds")["num"] == 9 * 5
    assert {one["name"] for one in found["checks"]} == {
        *("golds", "mutants", "empty", "copies", "sprays", "injections", "hostile"),
        "determinism",
    }
    assert found["throughput_per_s"] > 0 and found["latency_s"]["p50"] > 0


def test_generated_problems_stand_in_for_data(folder: Path):
    found = report("fakes.py:number", None, limit=20)
    assert found["passed"] and found["num_problems"] == 20


def test_a_verifier_that_reads_one_dressing_passes_unless_more_are_asked_for(folder: Path):
    found = report("fakes.py:boxed")
    assert found["passed"]
    assert set(the(found, "golds")["kinds"]) >= {"boxed", "boxed in text"}
    assert "plain" not in the(found, "golds")["kinds"]
    assert any("not read" in note and "plain" in note for note in the(found, "golds")["notes"])
    found = report("fakes.py:boxed", dressings=["boxed", "plain"])
    assert failed(found) == {"golds"}
    with pytest.raises(ConfigError, match="unknown dressing 'boxes'"):
        report("fakes.py:boxed", dressings=["boxes"])


def test_a_verifier_that_accepts_everything_fails_wherever_it_can(folder: Path):
    assert failed(report("fakes.py:yes")) == {
        *("mutants", "empty", "copies", "sprays", "injections", "hostile"),
    }


def test_accepting_whatever_contains_the_gold_is_found(folder: Path):
    assert failed(report("fakes.py:substring")) >= {"sprays", "mutants"}


def test_accepting_what_is_nearly_right_is_found(folder: Path):
    found = report("fakes.py:off_by_one")
    assert failed(found) == {"mutants"}
    assert {finding["kind"] for finding in the(found, "mutants")["findings"]} == {"off by one"}


def test_part_of_the_reward_for_nothing_is_found(folder: Path):
    found = report("fakes.py:crumbs")
    assert failed(found) == {"empty", "copies", "sprays", "injections"}
    assert any("part of the reward" in note for note in the(found, "mutants")["notes"])


def test_prompts_that_answer_themselves_are_noted_when_they_are_few(folder: Path):
    assert failed(report("fakes.py:adds")) == {"copies"}
    rows = [{"prompt": f"Twice {number}?", "answer": f"{2 * number}"} for number in range(40, 52)]
    write(folder / "twice.jsonl", [*rows, {"prompt": "What is 8 plus 9?", "answer": "17"}])
    found = report("fakes.py:adds", "twice.jsonl")
    assert found["passed"]
    assert [finding["line"] for finding in the(found, "copies")["findings"]] == ["line 13"]


def test_a_hang_is_found_and_ended_at_the_deadline(folder: Path):
    found = report("fakes.py:hangs", overrides=["timeout_s=0.3"])
    assert failed(found) == {"hostile"}
    reasons = [finding["reason"] for finding in the(found, "hostile")["findings"]]
    assert reasons and all("deadline of 0.3 s" in reason for reason in reasons)


def test_a_crash_is_found(folder: Path):
    found = report("fakes.py:dies")
    assert failed(found) == {"hostile"}
    assert "exit code 3" in the(found, "hostile")["findings"][0]["reason"]


def test_executing_what_a_completion_says_is_found(folder: Path):
    found = report("fakes.py:executes")
    assert "injections" in failed(found)
    assert any("EXECUTED" in note for note in the(found, "injections")["notes"])


def test_verdicts_that_change_are_found(folder: Path):
    assert failed(report("fakes.py:moody")) == {"determinism"}
    found = report("fakes.py:salted", overrides=["num_workers=1"])
    assert failed(found) == {"determinism"}
    assert {f["kind"] for f in the(found, "determinism")["findings"]} == {"in fresh processes"}


def test_a_dressing_that_breaks_the_verifier_is_not_one_it_does_not_read(folder: Path):
    found = report("fakes.py:raises")
    assert failed(found) >= {"golds"}
    findings = the(found, "golds")["findings"]
    assert {finding["kind"] for finding in findings} == {"boxed, after thinking"}
    assert "ValueError" in findings[0]["reason"] and found["bad_golds"] == []


def test_a_gold_that_verifies_in_one_dressing_only_is_found(folder: Path):
    found = report("fakes.py:last_word")
    assert failed(found) >= {"golds"}
    [finding] = the(found, "golds")["findings"]
    assert (finding["line"], finding["kind"], finding["gold"]) == ("line 1", "hashes", "17")


def test_golds_that_cannot_be_parsed_are_listed_by_line(folder: Path):
    rows = [
        {"problem": f"Problem {number}", "answer": gold}
        for number, gold in enumerate(["18", "about five", "3/4", r"\sqrt{2}"])
    ]
    write(folder / "mixed.jsonl", rows)
    found = report("fakes.py:number", "mixed.jsonl")
    assert failed(found) == {"golds"}
    assert [bad["line"] for bad in found["bad_golds"]] == ["line 2", "line 4"]
    assert all("not a number" in bad["reason"] for bad in found["bad_golds"])
    assert report("fakes.py:number", "mixed.jsonl", bad_golds=2)["passed"]


def test_a_few_golds_that_verify_decide_what_is_read(folder: Path):
    rows = [{"prompt": f"p{number}", "answer": "x"} for number in range(40)]
    write(folder / "mostly.jsonl", [*rows, {"prompt": "p", "answer": "17"}])
    found = report("fakes.py:number", "mostly.jsonl")
    assert len(found["bad_golds"]) == 40 and len(the(found, "golds")["kinds"]) == 9


def test_data_without_golds_is_said_and_the_rest_is_checked(folder: Path):
    write(folder / "open.jsonl", [{"prompt": "Tell me something."}])
    found = report("fakes.py:crumbs_for_all", "open.jsonl")
    assert any("no problem has a gold" in note for note in the(found, "golds")["notes"])
    assert failed(found) == {"empty", "copies", "injections"}


def test_parameters_of_the_verifier_are_passed_on(folder: Path):
    found = report("fakes.py:number", overrides=["params.strict=true"])
    assert found["passed"] and set(the(found, "golds")["kinds"]) == {"plain"}


def test_a_verifier_or_data_that_cannot_be_used_is_an_error(folder: Path):
    with pytest.raises(ScoringError, match="unknown verifier 'numbr'"):
        report("numbr")
    with pytest.raises(DataError, match="no file"):
        report("number", "missing.jsonl")
    write(folder / "odd.jsonl", [{"x": 1}])
    with pytest.raises(DataError, match="which column is the prompt"):
        report("number", "odd.jsonl")


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"question": "q", "answer": "1 + 1 = 2\n#### 2"}, "2"),
        ({"problem": "q", "solution": r"so \boxed{\frac{1}{2}}", "answer": "0.5"}, "0.5"),
        ({"problem": "q", "solution": r"\boxed{1} so \boxed{\frac{1}{2}}"}, r"\frac{1}{2}"),
        ({"prompt": [{"role": "user", "content": "q"}], "ground_truth": 5}, "5"),
    ],
)
def test_common_columns_are_recognised(folder: Path, row: dict[str, Any], answer: str):
    write(folder / "rows.jsonl", [row])
    [problem] = load(settings("number", "rows.jsonl", []).data, [], None).problems
    assert (problem.prompt_text, problem.answer) == ("q", answer)


def test_a_recipes_mapping_is_taken_as_it_is(folder: Path):
    write(folder / "rows.jsonl", [{"question": "no", "text": "yes", "answer": "1", "key": "2"}])
    recipe = 'data = { path = "rows.jsonl", prompt_field = "text", answer_field = "key" }'
    (folder / "recipe.toml").write_text(recipe)
    [problem] = load(settings("number", "recipe.toml", []).data, [], None).problems
    assert (problem.prompt_text, problem.answer) == ("yes", "2")


def test_a_mapping_that_is_given_wins(folder: Path):
    write(folder / "rows.jsonl", [{"prompt": "no", "text": "yes", "answer": "1", "key": "2"}])
    words = ["data.answer_field=key"]
    [problem] = load(settings("number", "rows.jsonl", words).data, words, None).problems
    assert (problem.prompt_text, problem.answer) == ("no", "2")
    words.append("data.prompt_field=text")
    [problem] = load(settings("number", "rows.jsonl", words).data, words, None).problems
    assert (problem.prompt_text, problem.answer) == ("yes", "2")


def programs(folder: Path) -> tuple[Problem, ...]:
    write(folder / "programs.jsonl", HUMAN_EVAL)
    return load(settings("code", "programs.jsonl", []).data, [], None).problems


def passes(problem: Problem, completion: str) -> bool:
    """Run a fenced program and the problem's tests, here: for harmless programs only."""
    assert problem.tests is not None
    names: dict[str, Any] = {}
    try:
        exec(completion.split("```python\n")[-1].split("```")[0], names)
        exec(problem.tests["code"], names)
        names["check"](names[problem.tests["entry_point"]])
    except Exception:
        return False
    return True


def test_reference_solutions_pass_and_wrong_programs_fail(folder: Path):
    one, other = programs(folder)
    for problem, neighbour in ((one, other), (other, one)):
        golds = {probe.kind: probe.completion for probe in code_probes.solution_probes(problem)}
        assert passes(problem, golds["fenced"]) and passes(problem, golds["fenced in text"])
        assert problem.prompt_text + golds["body only"] == golds["unfenced"]
        wrong_ones = list(code_probes.wrong_probes(problem, neighbour))
        wrong = {probe.kind: probe for probe in wrong_ones if probe.family == "mutants"}
        assert set(wrong) == {
            *("empty body", "raises", "result off by one", "result in a list"),
            "another problem's solution",
        }
        assert not any(passes(problem, probe.completion) for probe in wrong.values())


def test_changed_programs_are_surveyed_and_some_fail(folder: Path):
    one, _ = programs(folder)
    changed = [probe for probe in code_probes.wrong_probes(one, None) if probe.family == "tests"]
    assert changed and not all(passes(one, probe.completion) for probe in changed)
    assert all(probe.failure(Verdict.correct()) is None for probe in changed)


def test_programs_that_read_stdin_have_wrong_versions_too():
    problem = Problem(
        id="p",
        prompt="Echo.",
        verifier="code",
        tests={"kind": "stdio", "language": "cpp", "cases": [{"stdin": "1", "stdout": "1"}]},
        metadata={code_probes.SOLUTION_KEY: "int main() { return 0; }"},
    )
    wrong = list(code_probes.wrong_probes(problem, None))
    assert [probe.kind for probe in wrong] == ["empty program", "one line more"]
    assert all(probe.completion.startswith("```cpp\n") for probe in wrong)
    assert code_probes.program(problem) == "int main() { return 0; }"


def test_changed_programs_differ_in_one_place():
    source = "def f(x):\n    return x * 2 if x < 3 else x + 1"
    found = list(code_probes.changed(source))
    assert len(found) == len(set(found)) == 6
    assert "def f(x):\n    return x * 2 if x <= 3 else x + 1" in found
    assert list(code_probes.changed("int main() { return 0; }")) == []


def test_the_terminal_report_fits_and_says_what_is_wrong(folder: Path):
    out = io.StringIO()
    console = Console(file=out, width=80, color_system=None)
    assert check.run("fakes.py:off_by_one", "sums.jsonl", console=console) == 1
    text = textwrap.dedent(out.getvalue())
    assert "FAIL  wrong answers score 0" in text and "audit failed" in text
    assert "off by one: 0 of 5" in text and "line 1: off by one: gold '17'" in text


def test_the_page_is_self_contained_and_escapes_completions(folder: Path):
    write(
        folder / "hostile.jsonl",
        [
            {"question": "<script>alert(1)</script>", "answer": "<b>bold</b>"},
            {"question": "What?", "answer": "4"},
        ],
    )
    page = folder / "report.html"
    assert check.run("fakes.py:yes", "hostile.jsonl", html=page, console=quiet()) == 1
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text and "<b>bold" not in text and "&lt;b&gt;bold" in text
    assert "<svg" in text and "src=" not in text and "http" not in text


def quiet() -> Console:
    return Console(file=io.StringIO())
