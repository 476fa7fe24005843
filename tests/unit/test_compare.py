"""`rlvr compare`: pairing, verdicts in words, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlvr import compare
from rlvr.errors import ResultsError
from rlvr.read_results import read_results
from tests.unit.results_dir import make_rows, write_results

SAME = {str(index): "ci" for index in range(20)}
BETTER = {str(index): "cc" if index < 12 else "ci" for index in range(20)}
A_LITTLE = {str(index): "cc" if index < 2 else "ci" for index in range(20)}


def compared(*folders: Path, k: int = 1) -> list[compare.Comparison]:
    runs = {letter: read_results(each) for letter, each in zip("ABCD", folders, strict=False)}
    return compare.compare(runs, k)


@pytest.fixture
def same(tmp_path: Path) -> Path:
    return write_results(tmp_path / "same", make_rows(SAME))


@pytest.fixture
def better(tmp_path: Path) -> Path:
    return write_results(tmp_path / "better", make_rows(BETTER))


def test_a_real_difference_is_seen_and_counted(same: Path, better: Path) -> None:
    (found,) = compared(same, better)
    assert (found.wins, found.losses, found.ties) == (12, 0, 8)
    assert found.difference == pytest.approx(0.3) and found.low < 0.3 < found.high
    assert found.p_value == pytest.approx(2 / 2**12)  # sign test: 12 of 12
    assert found.better == "B"
    assert [change.problem_id for change in found.changed] == [str(index) for index in range(12)]
    assert found.changed[0].a_correct == 1 and found.changed[0].b_correct == 2


def test_the_order_of_the_two_only_turns_the_sign(same: Path, better: Path) -> None:
    (forth,), (back,) = compared(same, better), compared(better, same)
    assert back.difference == pytest.approx(-forth.difference)
    assert back.p_value == forth.p_value and back.better == "A"


def test_no_evidence_is_said_plainly_with_the_problems_it_would_take(
    same: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    little = write_results(tmp_path / "little", make_rows(A_LITTLE))
    assert compare.run([same, little], force=False, as_json=False) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "No evidence of a difference between A and B." in text
    assert "+0.050" in text and "p = 0.5 (exact" in text
    (found,) = compared(same, little)
    assert f"about {found.problems_needed} problems like these would show it (80 % power)" in text
    assert "only 2 of these 20 problems came out differently, too few for a verdict" in text
    assert "B higher on 2, lower on 0, the same on 18 (of 20)" in text


def test_equal_figures_are_told_what_difference_would_have_shown(
    same: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verdicts = {str(index): ("cc", "ii", "ci")[min(index // 4, 2)] for index in range(20)}
    other = write_results(tmp_path / "other", make_rows(verdicts))
    compare.run([same, other], force=False, as_json=False)
    text = " ".join(capsys.readouterr().out.split())
    assert "these 20 problems show a true difference of 0.203 or more (80 % power)" in text


def test_problems_without_a_verdict_in_both_are_left_out(same: Path, tmp_path: Path) -> None:
    verdicts = {**BETTER, "0": "ee", "19": "ec"}
    other = write_results(tmp_path / "other", make_rows(verdicts))
    (found,) = compared(same, other)
    assert (found.num_problems, found.num_unpaired) == (19, 1)
    assert found.changed[-1].b_judged == 2 or any(
        change.problem_id == "19" and change.b_judged == 1 for change in found.changed
    )


def test_pass_at_k_can_be_compared(same: Path, better: Path) -> None:
    (found,) = compared(same, better, k=2)
    assert (found.a_value, found.b_value, found.ties) == (1.0, 1.0, 20)
    assert found.better is None


def test_k_beyond_n_is_refused(same: Path, better: Path) -> None:
    with pytest.raises(ResultsError, match=r"pass@3 needs 3 samples a problem; .* has 2"):
        compared(same, better, k=3)


def test_three_runs_are_compared_pairwise_with_holms_correction(
    same: Path, better: Path, tmp_path: Path
) -> None:
    third = write_results(tmp_path / "third", make_rows(A_LITTLE))
    found = {(each.a, each.b): each for each in compared(same, better, third)}
    assert list(found) == [("A", "B"), ("A", "C"), ("B", "C")]
    smallest = found["A", "B"]
    assert smallest.p_holm == pytest.approx(3 * smallest.p_value)
    assert all(each.p_holm >= each.p_value for each in found.values())


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("data_hash", "data-2", "the problems"),
        ("prompt_hash", "prompt-2", "the prompts"),
        ("verifier", {"name": "number", "version": "v2", "params": {}}, "verifier"),
        ("verifier", {"name": "number", "version": "v1", "params": {"strict": True}}, "verifier"),
    ],
)
def test_results_made_differently_are_refused_unless_forced(
    same: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    field: str,
    value: Any,
    words: str,
) -> None:
    other = write_results(tmp_path / "other", make_rows(BETTER), **{field: value})
    with pytest.raises(ResultsError, match=f"must not be compared: sums.*{words}.*--force"):
        compare.run([same, other], force=False, as_json=False)
    assert compare.run([same, other], force=True, as_json=False) == 0
    assert "Note: sums: A and B differ in" in capsys.readouterr().out


def test_other_sampling_is_noted_not_refused(
    same: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sampling = {"temperature": 0.0, "max_tokens": 16}
    other = write_results(tmp_path / "other", make_rows(BETTER), sampling=sampling)
    compare.run([same, other], force=False, as_json=False)
    text = " ".join(capsys.readouterr().out.split())
    assert "Note: sums: A and B differ in sampling (temperature 1.0 and 0.0)." in text


def test_every_shared_benchmark_is_compared(same: Path, better: Path) -> None:
    write_results(same, make_rows(SAME), benchmark="products")
    write_results(better, make_rows(SAME), benchmark="products")
    write_results(better, make_rows(SAME), benchmark="alone")
    assert [each.benchmark for each in compared(same, better)] == ["products", "sums"]
    runs = {"A": read_results(same), "B": read_results(better)}
    assert compare.check(runs) == ["alone is in one of the results only and is not compared"]


def test_the_folder_of_one_benchmark_will_do(same: Path, better: Path) -> None:
    assert len(compared(same / "sums", better)) == 1


def test_json_output_is_complete(
    same: Path, better: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare.run([same, better], force=False, as_json=True)
    found = json.loads(capsys.readouterr().out)
    (comparison,) = found["comparisons"]
    assert comparison["verdict"] == "B is better"
    assert comparison["changed"][0]["problem_id"] == "0"
    assert found["runs"]["A"]["sums"]["model"]["name"] == "tiny"
    assert found["notes"] == []


def test_bad_directories_are_refused_in_one_sentence(same: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, words in ((tmp_path / "nowhere", "no results directory"), (empty, "holds no")):
        with pytest.raises(ResultsError, match=words):
            compare.run([same, path], force=False, as_json=False)
    with pytest.raises(ResultsError, match="at least two"):
        compare.run([same], force=False, as_json=False)


def test_results_of_another_format_are_refused(same: Path, tmp_path: Path) -> None:
    other = write_results(tmp_path / "other", make_rows(SAME), format=99)
    with pytest.raises(ResultsError, match="format 99, this rlvr reads format 1"):
        compare.run([same, other], force=False, as_json=False)


def test_an_unfinished_evaluation_says_how_to_finish_it(same: Path, tmp_path: Path) -> None:
    other = write_results(tmp_path / "other", make_rows(SAME))
    (other / "sums" / "results.json").rename(other / "sums" / "run.json")
    with pytest.raises(ResultsError, match=r"unfinished.*same --output"):
        compare.run([same, other], force=False, as_json=False)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"problem_id": "0"', "line 41 is not JSON"),
        ('{"problem_id": "0"}', "line 41 has no sample"),
        ("[]", "line 41 is no sample"),
    ],
)
def test_damaged_completions_name_the_line(same: Path, better: Path, line: str, words: str) -> None:
    with (better / "sums" / "completions.jsonl").open("a", encoding="utf-8") as file:
        file.write(line)
    with pytest.raises(ResultsError, match=words):
        compare.run([same, better], force=False, as_json=False)


def test_a_sample_that_is_there_twice_is_refused(same: Path, better: Path) -> None:
    path = better / "sums" / "completions.jsonl"
    lines = path.read_text(encoding="utf-8")
    path.write_text(lines + lines.splitlines()[0] + "\n", encoding="utf-8")
    with pytest.raises(ResultsError, match="sample 0 of problem '0' is there twice"):
        compare.run([same, better], force=False, as_json=False)


def change_row(folder: Path, number: int, **changes: object) -> None:
    path = folder / "sums" / "completions.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[number - 1] = json.dumps({**json.loads(lines[number - 1]), **changes})
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"problem_id": ["x"]}, "line 3 is damaged: problem_id"),
        ({"sample": "0"}, "line 3 is damaged: sample"),
        ({"reward": None}, "line 3 has the status correct and the reward None"),
        ({"problem": {"id": "1", "metadata": "x"}}, "line 3 is damaged: problem field 'prompt'"),
        ({"status": "incorrect"}, "one of the two was edited"),
    ],
)
def test_edited_completions_are_refused(
    same: Path, better: Path, changes: dict[str, object], words: str
) -> None:
    change_row(better, 3, **changes)
    with pytest.raises(ResultsError, match=words):
        compare.run([same, better], force=False, as_json=False)


def test_completions_that_were_cut_are_refused(same: Path, better: Path) -> None:
    path = better / "sums" / "completions.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:30]), encoding="utf-8")
    with pytest.raises(ResultsError, match=r"holds 30 samples, results\.json beside it says 40"):
        compare.run([same, better], force=False, as_json=False)


@pytest.mark.parametrize(
    "changes", [{"model": "tiny"}, {"model": {}}, {"figures": {}}, {"num_samples": "2"}]
)
def test_edited_results_are_refused(same: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    other = write_results(tmp_path / "other", make_rows(BETTER), **changes)
    with pytest.raises(ResultsError, match=f"damaged: {next(iter(changes))}"):
        compare.run([same, other], force=False, as_json=False)


def test_lines_on_power_ask_for_what_holms_correction_asks(same: Path, tmp_path: Path) -> None:
    """5 problems of 20 alone would be just enough for one comparison, not for three."""
    verdicts = {str(index): "cc" if index < 6 else "ci" for index in range(20)}
    other = write_results(tmp_path / "other", make_rows(verdicts))
    alone, among_three = compared(same, other)[0], compared(same, other, same)[0]
    assert alone.better == "B" and among_three.better is None
    assert among_three.problems_needed is not None and alone.problems_needed is not None
    assert among_three.problems_needed > max(20, alone.problems_needed)


def test_other_packages_and_errors_are_noted(same: Path, tmp_path: Path) -> None:
    write_results(tmp_path / "old", make_rows(SAME), versions={"versions": {"sympy": "1.13"}})
    with_errors = make_rows({**SAME, "0": "ce"})
    write_results(tmp_path / "new", with_errors, versions={"versions": {"sympy": "1.14"}})
    runs = {"A": read_results(tmp_path / "old"), "B": read_results(tmp_path / "new")}
    packages, errors = compare.check(runs)
    assert packages == "sums: A and B differ in package versions (sympy 1.13 and 1.14)"
    assert errors.startswith("sums: 1 completion of B could not be judged")


def test_missing_completions_are_refused(same: Path, better: Path) -> None:
    (better / "sums" / "completions.jsonl").unlink()
    with pytest.raises(ResultsError, match=r"completions\.jsonl cannot be read"):
        compare.run([same, better], force=False, as_json=False)


def test_results_without_a_common_benchmark_or_problem_are_refused(
    same: Path, tmp_path: Path
) -> None:
    other = write_results(tmp_path / "other", make_rows(SAME), benchmark="products")
    with pytest.raises(ResultsError, match=r"no benchmark.*A: sums; B: products"):
        compare.run([same, other], force=False, as_json=False)
    strangers = write_results(tmp_path / "strangers", make_rows({"x": "ci"}), data_hash="other")
    with pytest.raises(ResultsError, match="share no judged problem"):
        compare.run([same, strangers], force=True, as_json=False)
