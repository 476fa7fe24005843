"""Figures of a benchmark: errors kept apart, left-out problems counted, repeatable, covering."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from rich.console import Console

from rlvr.figures import figures, figures_table, shown_ks
from rlvr.intervals import wilson_interval
from tests.unit.results_dir import make_rows


def test_errors_are_in_no_figure_and_problems_without_a_verdict_are_counted() -> None:
    found = figures(make_rows({"a": "ce", "b": "ii", "c": "ee"}), 2)
    assert found["avg"]["value"] == 0.5  # a: 1 of 1, b: 0 of 2
    assert (found["num_problems"], found["num_left_out"]) == (2, 1)
    assert found["statuses"] == {"correct": 1, "incorrect": 2, "error": 3}


def test_a_problem_counts_once_however_many_of_its_samples_were_judged() -> None:
    assert figures(make_rows({"a": "ccc", "b": "iee"}), 3)["avg"]["value"] == 0.5


def test_each_k_uses_the_problems_with_enough_judged_samples() -> None:
    found = figures(make_rows({"a": "cie", "b": "cic", "c": "eec"}), 3)
    counts = {k: each["num_problems"] for k, each in found["pass_at_k"].items()}
    assert counts == {"1": 3, "2": 2, "3": 1}
    assert found["pass_at_k"]["2"]["value"] == 1.0
    assert found["pass_hat_k"]["2"]["value"] == pytest.approx((0 + 1 / 3) / 2)


def test_avg_and_the_figures_for_k_1_are_one_figure_with_one_interval() -> None:
    found = figures(make_rows({"a": "ccin", "b": "iiic", "c": "cccc"}), 4)
    for name in ("pass_at_k", "pass_hat_k", "maj_at_k"):
        assert found[name]["1"] == found["avg"]


def test_one_sample_a_problem_has_wilsons_interval() -> None:
    found = figures(make_rows({str(index): "c" if index < 7 else "i" for index in range(20)}), 1)
    assert (found["avg"]["low"], found["avg"]["high"]) == wilson_interval(7, 20)


def test_no_interval_is_empty_where_all_problems_agree() -> None:
    found = figures(make_rows({str(index): "cccc" for index in range(20)}), 4)
    for k in ("1", "2", "4"):
        assert found["pass_at_k"][k]["value"] == 1.0
        assert 0.7 < found["pass_at_k"][k]["low"] < 0.95


def test_partial_credit_is_not_correct_and_shows_in_the_reward() -> None:
    found = figures(make_rows({"a": "pp", "b": "ci"}), 2)
    assert found["avg"]["value"] == 0.25
    assert found["reward"]["value"] == 0.5


def test_truncation_counts_all_completions() -> None:
    assert figures(make_rows({"a": "nc", "b": "cc", "c": "ee"}), 2)["truncated"]["value"] == (
        pytest.approx(1 / 6)
    )


def test_benchmarks_without_answers_have_no_majority() -> None:
    rows = [{**row, "answer": None} for row in make_rows({"a": "ci", "b": "cc"})]
    assert figures(rows, 2)["maj_at_k"] == {}


def test_nothing_judged_gives_no_figure_and_no_crash() -> None:
    found = figures(make_rows({"a": "e", "b": "e"}), 1)
    assert found["avg"] == {
        "value": None,
        "low": None,
        "high": None,
        "se": None,
        "num_problems": 0,
    }
    assert found["pass_at_k"] == {} and found["num_left_out"] == 2
    printed(found)


def test_the_same_rows_and_seed_give_the_same_figures_in_any_order() -> None:
    rows = make_rows({"a": "ccin", "b": "iiic", "c": "cncc", "d": "iccp", "e": "icnn"})
    shuffled = random.Random(0).sample(rows, len(rows))
    assert figures(shuffled, 4, seed=3) == figures(rows, 4, seed=3)
    assert figures(rows, 4, seed=3) != figures(rows, 4, seed=4)


def test_figures_survive_json() -> None:
    found = figures(make_rows({"a": "ccin", "b": "iiie"}, {"a": {"level": 1}}), 4)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_too_many_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="'a' has 3 samples, but 2"):
        figures(make_rows({"a": "cci"}), 2)


def columns(**values: list[Any]) -> dict[str, dict[str, Any]]:
    """Metadata of problems "0", "1", ... from columns."""
    names = range(len(next(iter(values.values()))))
    return {str(i): {name: each[i] for name, each in values.items()} for i in names}


VERDICTS = {str(index): "cc" if index % 2 else "ii" for index in range(6)}


def test_breakdown_groups_by_the_values_of_a_column_in_order() -> None:
    metadata = columns(level=[10, 9, 10, 9, None, None], name=list("abcdef"), tags=[["x"]] * 6)
    found = figures(make_rows(VERDICTS, metadata), 2)["breakdown"]
    assert list(found) == ["level"]  # names are identifiers, tags are no scalars
    assert list(found["level"]) == ["9", "10", "(none)"]
    assert [each["value"] for each in found["level"].values()] == [1.0, 0.0, 0.5]
    assert {each["num_problems"] for each in found["level"].values()} == {2}


def test_values_that_print_alike_are_one_group() -> None:
    found = figures(make_rows(VERDICTS, columns(level=[1, "1", 2, "2", 1, 2])), 2)["breakdown"]
    assert {label: each["num_problems"] for label, each in found["level"].items()} == {
        "1": 3,
        "2": 3,
    }


def test_breakdown_by_a_named_column() -> None:
    rows = make_rows(VERDICTS, columns(name=list("abcdef")))
    assert len(figures(rows, 2, columns=["name"])["breakdown"]["name"]) == 6
    with pytest.raises(ValueError, match=r"no problem has a metadata column 'nmae'.*name"):
        figures(rows, 2, columns=["nmae"])


def test_shown_ks_are_powers_of_two_and_n() -> None:
    assert shown_ks(1) == [1]
    assert shown_ks(8) == [1, 2, 4, 8]
    assert shown_ks(10) == [1, 2, 4, 8, 10]


def printed(found: dict[str, Any]) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(figures_table("sums", found))
    return capture.get()


def test_the_table_names_n_k_interval_and_what_was_left_out() -> None:
    rows = make_rows({"a": "cine", "b": "cccc", "c": "eeee"}, {"a": {"level": "[x]"}})
    text = printed(figures(rows, 4))
    assert "2 problems x 4" in text and "left out: 1 problem without" in text
    by_k = [line.split() for line in text.splitlines() if line.strip()[:2] in ("1 ", "2 ", "4 ")]
    assert "pass^k" in text
    assert [(row[0], row[-1]) for row in by_k] == [("1", "2"), ("2", "2"), ("4", "1")]
