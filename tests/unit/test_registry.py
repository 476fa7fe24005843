from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

from verifiers import Problem, Verdict, VerifierLoadError, load
from verifiers.number import NumberVerifier
from verifiers.protocol import MAX_DETAIL_CHARS, to_verdict
from verifiers.registry import registered
from verifiers.verdict import Status

SOURCE = """
from verifiers import Verdict

def plain(problem, completion): return completion == problem.answer
def with_params(problem, completion, *, scale, offset=0.0): return len(completion) * scale + offset
async def waits(problem, completion): return True
def make(word="yes", other=None): return lambda problem, completion: completion == word
def make_bad(): return 3
def broken_factory(): raise RuntimeError("no licence")
def too_few(problem): return True
def for_trl(completions, solution, **kwargs): return [1.0]
def for_verl(data_source, solution_str, ground_truth, extra_info=None): return 1.0
def for_openrlhf(queries, prompts, labels): return [1.0]

class Sync:
    name = "sync-name"
    def __init__(self, *, threshold: float = 0.5): self.threshold = threshold
    def verify(self, problem, completion): return len(completion) > self.threshold

class Async:
    name = "async-name"
    in_process = True
    async def verify(self, problem, completion): return True

class Callable:
    async def __call__(self, problem, completion): return True

class WrongSignature:
    def verify(self, completion): return True

class NoVerify: pass

ready = Sync(threshold=3)
number = 3
"""

PROBLEM = Problem(id="p", prompt="?", verifier="v", answer="yes")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return path


def test_a_built_in_is_found_by_name() -> None:
    verifier = load("number", strict=True)
    assert isinstance(verifier.verify.__self__, NumberVerifier)  # type: ignore[attr-defined]
    assert verifier.verify.__self__.strict  # type: ignore[attr-defined]
    assert (verifier.name, verifier.in_process, verifier.is_async) == ("number", True, False)
    assert {"number", "reasoning_gym"} <= registered().keys()


def test_an_installed_package_registers_names(file: Path) -> None:
    sys.path.append(str(file.parent))
    (file.parent / "chess_rules.py").write_text(SOURCE)
    info = file.parent / "chess_rules-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: chess-rules\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[rlvr.verifiers]\nchess = chess_rules:Sync\nnumber = chess_rules:plain\n"
    )
    assert load("chess", threshold=1).verify(PROBLEM, "e4") is True
    assert registered()["chess"] == "chess_rules:Sync"
    assert load("number").name == "number"  # a built-in cannot be taken over
    with pytest.raises(VerifierLoadError, match="did you mean 'chess'"):
        load("ches")


def test_a_module_attribute(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    file.rename(file.with_name("importable_verifiers.py"))
    monkeypatch.syspath_prepend(str(file.parent))
    assert load("importable_verifiers:plain").verify(PROBLEM, "yes") is True


@pytest.mark.parametrize("spec", ["mine.py:plain", "./mine.py:plain"])
def test_a_relative_file_becomes_absolute_for_other_processes(file: Path, spec: str) -> None:
    assert load(spec).spec == f"{file}:plain"


def test_a_file_may_import_what_lies_beside_it(file: Path) -> None:
    (file.parent / "beside_it.py").write_text("GOLD = 'yes'")
    (file.parent / "uses.py").write_text(
        "from beside_it import GOLD\ndef f(problem, completion): return completion == GOLD"
    )
    assert load("uses.py:f").verify(PROBLEM, "yes") is True


def test_params_go_to_the_function_the_class_or_the_factory(file: Path) -> None:
    assert load("mine.py:with_params", scale=0.25).verify(PROBLEM, "ab") == 0.5
    assert load("mine.py:Sync", threshold=1).verify(PROBLEM, "ab") is True
    assert load("mine.py:Sync", threshold=2).verify(PROBLEM, "ab") is False
    assert load("mine.py:make", word="no").verify(PROBLEM, "no") is True


def test_forms_are_told_apart(file: Path) -> None:
    forms = {name: load(f"mine.py:{name}") for name in ("plain", "waits", "Sync", "Async", "make",
                                                         "Callable", "ready")}  # fmt: skip
    assert [name for name, verifier in forms.items() if verifier.is_async] == [
        "waits",
        "Async",
        "Callable",
    ]
    assert not any(verifier.in_process for verifier in forms.values())  # async never is
    assert forms["Sync"].name == "sync-name"
    assert forms["plain"].name == "mine.py:plain"


@pytest.mark.parametrize(
    ("spec", "params", "words"),
    [
        ("nubmer", {}, ["unknown verifier 'nubmer'", "did you mean 'number'", "reasoning_gym"]),
        ("mine.py:pain", {}, ["no 'pain'", "did you mean 'plain'"]),
        ("missing.py:f", {}, ["there is no file", "missing.py"]),
        ("no_such_module:f", {}, ["cannot be imported", "No module named 'no_such_module'"]),
        ("mine:plain", {}, ["No module named 'mine'", "write mine.py:"]),
        ("mine.py:", {}, ["not a name, module:attr, or path/to/file.py:attr"]),
        (":f", {}, ["not a name"]),
        ("builtins:str", {}, ["no Python code"]),
        ("mine.py:too_few", {}, ["too_few", "problem"]),
        ("mine.py:for_trl", {}, ["reward function for trl", "trl:mine.py:for_trl"]),
        ("mine.py:for_verl", {}, ["reward function for verl", "verl:mine.py:for_verl"]),
        ("mine.py:for_openrlhf", {}, ["openrlhf:mine.py:for_openrlhf"]),
        ("mine.py:WrongSignature", {}, ["cannot be called with (problem, completion)"]),
        ("mine.py:NoVerify", {}, ["cannot be called with (problem, completion)"]),
        ("mine.py:make_bad", {}, ["cannot be called with (problem, completion)"]),
        ("mine.py:number", {}, ["is int", "expected a class"]),
        ("mine.py:broken_factory", {}, ["cannot be built", "no licence"]),
        ("mine.py:Sync", {"treshold": 1}, ["treshold", "threshold: float = 0.5"]),
        ("mine.py:with_params", {}, ["scale"]),
        ("mine.py:ready", {"threshold": 1}, ["takes no parameters"]),
        ("raises.py:f", {}, ["cannot be imported", "ZeroDivisionError: division by zero"]),
        ("syntax.py:f", {}, ["cannot be imported", "SyntaxError"]),
        ("exits.py:f", {}, ["cannot be imported", "SystemExit: 3"]),
    ],
)
def test_what_cannot_be_loaded_says_why(
    file: Path, spec: str, params: dict[str, object], words: list[str]
) -> None:
    (file.parent / "raises.py").write_text("1 / 0")
    (file.parent / "syntax.py").write_text("def f(:")
    (file.parent / "exits.py").write_text("raise SystemExit(3)")
    with pytest.raises(VerifierLoadError) as caught:
        load(spec, **params)
    for word in words:
        assert word in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("result", "status", "reward"),
    [
        (True, Status.CORRECT, 1.0),
        (False, Status.INCORRECT, 0.0),
        (1, Status.CORRECT, 1.0),
        (0.25, Status.PARTIAL, 0.25),
        (Verdict.correct(reward=-3.5), Status.CORRECT, -3.5),
        (1.5, Status.ERROR, None),
        (-0.1, Status.ERROR, None),
        (float("nan"), Status.ERROR, None),
        (float("inf"), Status.ERROR, None),
        (None, Status.ERROR, None),
        ("1.0", Status.ERROR, None),
        (Verdict.correct(thing=object()), Status.ERROR, None),
        (Verdict.correct(value=float("nan")), Status.ERROR, None),
    ],
)
def test_results_become_verdicts(result: object, status: Status, reward: float | None) -> None:
    verdict = to_verdict(result)
    assert (verdict.status, verdict.reward) == (status, reward)


def test_a_huge_detail_is_cut_and_the_reward_kept() -> None:
    verdict = to_verdict(Verdict.correct(output="x" * 10 * MAX_DETAIL_CHARS))
    assert verdict.reward == 1.0
    assert len(str(verdict.detail)) < 2 * MAX_DETAIL_CHARS
