r"""Taking the program out of a completion, by an explicit rule.

Text up to the last `</think>` is left out first; an unclosed `<think>` holds no program. Then:

* `block`: the last fenced block. Fences are those of CommonMark: three or more backticks or tildes
  at the start of a line (indented or not, also in quotes and lists), closed by at least as many of
  the same; an unclosed one runs to the end of the text. Blocks tagged with the language come before
  untagged ones; blocks tagged with anything else are not programs.
* `whole`: all of the text.
* `continue`: the text is the rest of the function whose beginning is the prompt (HumanEval).
* `auto` (default): `block` if the text has any fence, else `whole`.

A prompt that ends within a block (an answer begun for the model) lends the completion that fence.
An empty program is none. With `block`, `whole` and `auto`, a text that does not define the entry
point but continues the prompt to something that does is taken as a continuation; that is decided
inside the sandbox, since parsing a hostile text can hang or crash the parser. Without a fence, a
text that is no program of the language at all (prose) is `no_answer`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Rule = Literal["auto", "block", "whole", "continue"]

_FENCE = re.compile(r"^([ \t>]{0,64}(?:[-*+][ \t]+|[0-9]{1,9}[.)][ \t]+)?)(`{3,}|~{3,})[ \t]*(.*)$")
_QUOTE = re.compile(r"^[ \t]{0,3}> ?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted:
    """A program's text, and the rule that found it (`block`, `whole` or `continue`)."""

    text: str
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block: its tag in lower case (empty if it has none) and its lines."""

    tag: str
    text: str
    unclosed: str = ""
    """The fence, if nothing closes it."""


def extract(completion: str, rule: Rule, tags: Collection[str]) -> Extracted | None:
    """The program in a completion; null if there is none.

    Args:
        tags: what fences of the language are tagged with, in lower case.
    """
    text = completion.rpartition("</think>")[2]
    if "<think>" in text:
        return None
    blocks = fenced_blocks(text) if rule in ("auto", "block") else []
    if blocks or rule == "block":
        tagged = [block for block in blocks if block.tag in tags]
        chosen = (tagged or [block for block in blocks if not block.tag])[-1:]
        text, found = (chosen[0].text, "block") if chosen else ("", "block")
    else:
        found = "continue" if rule == "continue" else "whole"
    return Extracted(text=text, rule=found) if text.strip() else None


def fenced_blocks(text: str) -> list[Block]:
    """Every fenced block, in order. Takes linear time."""
    blocks: list[Block] = []
    fence, prefix, tag = "", "", ""
    lines: list[str] = []
    for line in text.split("\n"):
        match = _FENCE.match(line.rstrip("\r"))
        if not fence:
            # A tag with a backtick in it is inline code, not a fence.
            if match and not (match[2][0] == "`" and "`" in match[3]):
                prefix, fence, tag = match[1], match[2], _tag(match[3])
                lines = []
        elif match and match[2].startswith(fence) and not match[3].strip():
            blocks.append(Block(tag=tag, text="\n".join(lines) + "\n" if lines else ""))
            fence = ""
        else:
            lines.append(_unindent(line, prefix))
    if fence:
        blocks.append(Block(tag=tag, text="\n".join(lines), unclosed=fence))
    return blocks


def open_fence(prompt: str) -> str:
    """The line that opens the block which a prompt leaves to the completion; empty if none."""
    blocks = fenced_blocks(prompt)
    return f"{blocks[-1].unclosed}{blocks[-1].tag}\n" if blocks and blocks[-1].unclosed else ""


def _tag(info: str) -> str:
    """The language of an info string: `python title="x"`, `{.python}` and `Python3` are tags."""
    words = info.strip().strip("{}").split()
    return words[0].lstrip(".").rstrip(",:").lower() if words else ""


def _unindent(line: str, prefix: str) -> str:
    """A block's line without what stands before the fence (indentation, quote marks)."""
    indent = len(prefix)
    if ">" in prefix:
        indent = max(0, indent - len(prefix.rstrip(" \t")) - 1)  # one blank belongs to the mark
        for _ in range(prefix.count(">")):
            line = _QUOTE.sub("", line)
    blank = len(line) - len(line.lstrip(" \t"))
    return line[min(indent, blank) :]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodePrompt:
    """The code in a problem's prompt. It is the data set's, so it is trusted."""

    text: str
    """All of it, up to where a completion continues; ends with a newline."""
    prelude: str
    """What stands in it besides the entry point: imports, helper functions."""


def code_prompt(prompt: str, entry_point: str) -> CodePrompt | None:
    """The function head that a prompt asks to complete: the prompt itself, or a block in it.

    Null if no part of the prompt parses as Python that defines the entry point.
    """
    for text in (prompt, *(block.text for block in fenced_blocks(prompt))):
        if entry_point not in text:
            continue
        text = text if text.endswith("\n") else text + "\n"
        # A head whose docstring is missing parses only with a body.
        for body in ("", "    pass\n"):
            try:
                tree = ast.parse(text + body)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue
            functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
            rest = [
                node
                for node in tree.body
                if not (isinstance(node, functions) and node.name == entry_point)
            ]
            if len(rest) < len(tree.body):
                prelude = ast.unparse(ast.Module(body=rest, type_ignores=[]))
                return CodePrompt(text=text, prelude=prelude)
    return None
