"""Which part of a completion is the program."""

from __future__ import annotations

import pytest

from verifiers.code_extract import code_prompt, extract, fenced_blocks

PYTHON = ("python", "py", "python3")


def found(completion: str, rule: str = "auto") -> str | None:
    extracted = extract(completion, rule, PYTHON)  # type: ignore[arg-type]
    return extracted.text if extracted else None


def test_the_last_block_wins() -> None:
    assert found("```python\nx = 1\n```\nBetter:\n```python\nx = 2\n```\nDone.") == "x = 2\n"


def test_a_block_tagged_with_the_language_comes_before_an_untagged_one() -> None:
    text = "```python\nx = 1\n```\nOutput:\n```\n1\n```"
    assert found(text) == "x = 1\n"


@pytest.mark.parametrize("tag", ["Python", "python3", "{.python}", "py title='a.py'", "  python  "])
def test_tags_of_all_kinds(tag: str) -> None:
    assert found(f"```text\nno\n```\n```{tag}\nx = 1\n```") == "x = 1\n"


def test_an_untagged_block_is_a_program() -> None:
    assert found("So:\n~~~\nx = 1\n~~~\n") == "x = 1\n"


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "   \n\t\n",
        "```python\n```",
        "```python\nx = 1\n```\nOr rather\n```python\n\n```",
        "```text\nx = 1\n```",
        "<think>```python\nx = 1\n```",
        "<think>```python\nx = 1\n```</think>",
        "```python",
    ],
)
def test_no_program(completion: str) -> None:
    assert found(completion) is None


def test_thoughts_are_left_out() -> None:
    text = "<think>\n```python\nx = 1\n```\n</think>\n```python\nx = 2\n```"
    assert found(text) == "x = 2\n"
    assert found("hm ```python\nx = 1\n``` </think> x = 3") == " x = 3"


def test_an_unclosed_fence_runs_to_the_end() -> None:
    assert found("```python\nx = 1\ny = 2") == "x = 1\ny = 2"


def test_only_as_many_of_the_same_characters_close_a_fence() -> None:
    assert found('````python\ns = """\n```\n"""\n````') == 's = """\n```\n"""\n'
    assert found("~~~python\n```\n~~~") == "```\n"
    assert found("```python\nx = '```'\ny = 1 # ```\n```") == "x = '```'\ny = 1 # ```\n"


def test_a_fence_in_the_middle_of_a_line_is_none() -> None:
    assert found('s = "a ```python b"\n') == 's = "a ```python b"\n'
    assert fenced_blocks("```not `a fence` ```\nx") == []


@pytest.mark.parametrize(
    "completion",
    [
        "1. So:\n   ```python\n   def f():\n       return 1\n   ```",
        "- ```python\n  def f():\n      return 1\n  ```",
        "> ```python\n> def f():\n>     return 1\n> ```",
        "\t```python\n\tdef f():\n\t    return 1\n\t```",
        "```python\r\ndef f():\n    return 1\n```\r\n",
    ],
)
def test_fences_in_lists_and_quotes_lose_their_indentation(completion: str) -> None:
    assert found(completion) == "def f():\n    return 1\n"


def test_rules_can_be_chosen() -> None:
    text = "```python\nx = 1\n```"
    assert found(text, "whole") == text
    assert found("x = 1", "block") is None
    extracted = extract("    return 1\n", "continue", PYTHON)
    assert extracted is not None and extracted.rule == "continue"


def test_extraction_takes_linear_time() -> None:
    for text in ("```\n" * 200_000, "`" * 1_000_000, "> " * 300_000 + "```", "<think>" * 100_000):
        extract(text, "auto", PYTHON)


HEAD = 'import math\n\n\ndef helper(x):\n    return x\n\n\ndef f(x):\n    """Doc."""\n'


def test_the_prompts_code_is_found_bare_and_in_a_chat() -> None:
    bare = code_prompt(HEAD, "f")
    chat = code_prompt(f"Complete this function:\n```python\n{HEAD}```\nOnly code.", "f")
    assert bare is not None and bare == chat
    assert bare.text == HEAD
    assert "def helper" in bare.prelude and "import math" in bare.prelude
    assert "def f" not in bare.prelude


def test_a_head_without_docstring_and_a_prompt_without_code() -> None:
    head = code_prompt("def f(x):\n", "f")
    assert head is not None and head.text == "def f(x):\n"
    assert code_prompt("Write a function f that doubles x.", "f") is None
    assert code_prompt("", "f") is None
