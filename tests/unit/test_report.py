"""report.html: one file, no network, and nothing a model writes can get out of its text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import ResultsError
from rlvr.report import MAX_TEXT_CHARS, write_report
from tests.unit.results_dir import make_rows, write_results

HOSTILE = (
    "</script><script>alert(1)</script><!-- <script> <img src=x onerror=alert(1)> ]]> "
    "{{js}} \\u003c &lt; \u2028\u2029\x00 \ud83d"
)


class Tags(HTMLParser):
    """The tags of a page, and the text of its script elements, as a browser splits them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data


def page_of(folder: Path) -> tuple[str, dict[str, Any]]:
    write_report(folder, folder / "report.html")
    page = (folder / "report.html").read_text(encoding="utf-8")
    return page, json.loads(Tags(page).scripts[0])


def test_every_problem_and_completion_is_in_the_page(tmp_path: Path) -> None:
    rows = make_rows({"a": "cin", "b": "ccc", "c": "eee"}, {"a": {"level": 2}})
    _, data = page_of(write_results(tmp_path / "run", rows))
    (benchmark,) = data["benchmarks"]
    assert [each["id"] for each in benchmark["problems"]] == ["a", "b", "c"]
    statuses = [each["status"] for each in benchmark["problems"][0]["samples"]]
    assert statuses == ["correct", "incorrect", "no_answer"]
    assert benchmark["results"]["figures"]["num_left_out"] == 1


def test_text_of_a_model_stays_text(tmp_path: Path) -> None:
    rows = make_rows({"a": "ci"}, completion=HOSTILE)
    for row in rows:
        row["answer"] = row["detail"]["why"] = row["problem"]["metadata"]["note"] = HOSTILE
    folder = write_results(tmp_path / "run", rows, model={"name": HOSTILE[:80], "hash": "0"})
    page, data = page_of(folder)
    sample = data["benchmarks"][0]["problems"][0]["samples"][0]
    assert sample["completion"] == sample["answer"] == HOSTILE
    assert [tag for tag, _ in Tags(page).tags if tag in ("script", "img")] == ["script", "script"]
    block = page.split('id="data">', 1)[1].split("</script>", 1)[0]
    assert not set(block) & set("<>&\u2028")


def test_the_page_names_no_address_and_its_policy_allows_none(tmp_path: Path) -> None:
    page, _ = page_of(write_results(tmp_path / "run", make_rows({"a": "c"})))
    addresses = set(re.findall(r"(?:https?:)?//[\w.]+\.\w+[^\s\"']*", page))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    policy = next(
        attributes["content"]
        for tag, attributes in Tags(page).tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy and policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert not [tag for tag, attributes in Tags(page).tags if "src" in attributes]


def test_all_benchmarks_of_a_directory_are_in_one_page(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "run", make_rows({"a": "c"}), benchmark="one")
    write_results(folder, make_rows({"a": "c"}), benchmark="two")
    _, data = page_of(folder)
    assert [each["results"]["benchmark"] for each in data["benchmarks"]] == ["one", "two"]


def test_long_texts_keep_their_beginning_and_end(tmp_path: Path) -> None:
    completion = "begin " + "x" * 3 * MAX_TEXT_CHARS + " end"
    _, data = page_of(write_results(tmp_path / "run", make_rows({"a": "c"}, completion=completion)))
    shown = data["benchmarks"][0]["problems"][0]["samples"][0]["completion"]
    assert shown.startswith("begin ") and shown.endswith(" end")
    assert len(shown) < MAX_TEXT_CHARS + 50 and data["shortened"] == MAX_TEXT_CHARS


def test_chat_prompts_show_who_speaks(tmp_path: Path) -> None:
    rows = make_rows({"a": "c"})
    rows[0]["problem"]["prompt"] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2 + 2?"},
    ]
    _, data = page_of(write_results(tmp_path / "run", rows))
    assert data["benchmarks"][0]["problems"][0]["prompt"] == "[system]\nBe brief.\n\n[user]\n2 + 2?"


def test_numbers_that_json_does_not_know_do_not_break_the_page(tmp_path: Path) -> None:
    rows = make_rows({"a": "c"}, {"a": {"score": float("nan")}})
    _, data = page_of(write_results(tmp_path / "run", rows))
    assert data["benchmarks"][0]["problems"][0]["metadata"] == {"score": "NaN"}


def test_a_report_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "run", make_rows({"a": "c"}))
    (tmp_path / "taken").mkdir()
    with pytest.raises(ResultsError, match="cannot be written"):
        write_report(folder, tmp_path / "taken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "taken"]
