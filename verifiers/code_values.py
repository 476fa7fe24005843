"""Expected values and candidates' values, compared on the host without rebuilding anything.

A candidate's value is a tree in the wire form of `verifiers.shims.values`. It is compared as that
tree, node by node: no object of it is built, nothing of it is hashed (a set of colliding integers
costs no more than another) and no method of the candidate's exists here.

Plain JSON in a data set stands for itself. What JSON cannot say is written as an object with one
key: `{"__tuple__": [...]}`, `__set__`, `__frozenset__`, `{"__dict__": [[key, value], ...]}`,
`{"__bytes__": "hex"}`, `{"__complex__": [re, im]}`, `{"__float__": "nan" | "inf" | "-inf"}`,
`{"__int__": "0x..."}`.

Equality:

* numbers by value, as `==` has it: 2 equals 2.0. Booleans are not numbers: `True` does not equal 1.
* with a tolerance, floats (and an int against a float) within it, relative or absolute.
* NaN equals NaN: whoever writes it as an expected value wants it.
* since JSON has neither tuples nor keys that are not text, a plain array equals a tuple too, and a
  plain object equals a dict whose keys are those texts or, all of them, whole numbers written so.
* with `exact_types`, none of these: the type must be the same, and `__tuple__` must be written.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any

from verifiers.shims.values import MAX_DEPTH, encode

MAX_NODES = 1_000_000
"""Larger trees are refused before they are compared."""

Tree = Any
"""A wire form: JSON scalars, and lists that begin with a tag."""

_FLOATS = {"nan", "inf", "-inf"}
_NUM_ITEMS = {"i": 1, "u": 1, "f": 1, "c": 2, "b": 1, "B": 1, "r": 3}
_NUM_ITEMS |= {"D": 1, "F": 2, "X": 1, "K": 1, "T": 1, "E": 3}
_TEXT_TAGS = "iufbBDXKT"
_CONTAINERS = "ltsSdOCqIk"
_MAPPINGS = "dOC"
_LIKE = {"O": "d", "C": "d", "S": "s"}
"""Tags of types whose values Python finds equal."""


def from_json(value: Any) -> Tree:
    """The wire form of a value written in a data set.

    Raises:
        ValueError: an object with one `__...__` key that is unknown or malformed; nested too deep.
    """
    return _from_json(value, MAX_DEPTH)


def _from_json(value: Any, depth: int) -> Tree:
    if not isinstance(value, list | dict):
        return encode(value)
    if depth == 0:
        raise ValueError(f"a value is nested deeper than {MAX_DEPTH}")
    if isinstance(value, list):
        return ["l", *[_from_json(item, depth - 1) for item in value]]
    [*keys] = value
    if len(keys) == 1 and keys[0].startswith("__") and keys[0].endswith("__"):
        return _tagged(keys[0], value[keys[0]], depth - 1)
    return ["d", *[_from_json(part, depth - 1) for item in value.items() for part in item]]


def _tagged(key: str, value: Any, depth: int) -> Tree:
    try:
        if key == "__bytes__":
            return encode(bytes.fromhex(value))
        if key == "__complex__":
            return encode(complex(*value))
        if key == "__int__":
            return encode(int(value, 0))
        if key == "__float__" and value in _FLOATS:
            return encode(float(value))
        tags = {"__tuple__": "t", "__set__": "s", "__frozenset__": "S"}
        if key in tags and isinstance(value, list):
            return [tags[key], *[_from_json(item, depth) for item in value]]
        if key == "__dict__":
            pairs = [(first, second) for first, second in value]
            return ["d", *[_from_json(part, depth) for pair in pairs for part in pair]]
    except (TypeError, ValueError) as error:
        raise ValueError(f"the value of {key!r} is malformed: {error}") from error
    raise ValueError(f"{key!r} is no known way to write a value, or what it holds is malformed")


def parse(data: bytes) -> Any:
    """JSON from a candidate: no NaN, no numbers or nesting that cost more than linear time.

    Raises:
        ValueError: it is not.
    """
    try:
        return json.loads(data, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def check(tree: Tree) -> None:
    """Refuse a tree that is no wire form.

    Raises:
        ValueError: saying so.
    """
    stack = [(tree, MAX_DEPTH)]
    for _ in range(MAX_NODES):
        if not stack:
            return
        node, depth = stack.pop()
        if isinstance(node, dict):
            raise ValueError("a value holds a JSON object")
        if not isinstance(node, list):
            continue
        tag, *items = node or [None]
        if not isinstance(tag, str) or len(tag) != 1 or depth == 0:
            raise ValueError("a value has no known tag, or is nested too deep")
        if tag in _NUM_ITEMS:
            if len(items) != _NUM_ITEMS[tag]:
                raise ValueError(f"a value of tag {tag!r} has {len(items)} parts")
            if tag in _TEXT_TAGS and not isinstance(items[0], str):
                raise ValueError(f"a value of tag {tag!r} holds no text")
            if tag == "i":
                int(items[0], 16)
        elif tag not in _CONTAINERS or (tag in _MAPPINGS and len(items) % 2):
            raise ValueError(f"a value of tag {tag!r} is malformed")
        stack.extend((item, depth - 1) for item in items if type(item) in (list, dict))
    raise ValueError(f"a value has more than {MAX_NODES} parts")


def equal(
    actual: Tree, expected: Tree, *, tolerance: float = 0.0, exact_types: bool = False
) -> bool:
    """Whether a candidate's value (see `check`) equals the expected one; rules in the module."""
    number, wanted_number = _number(actual), _number(expected)
    if number is not None and wanted_number is not None:
        return _close(number, wanted_number, tolerance, exact_types)
    if not (isinstance(actual, list) and isinstance(expected, list)):
        return type(actual) is type(expected) and actual == expected
    tag: str = actual[0]
    wanted: str = expected[0]
    if not exact_types:
        tag, wanted = _LIKE.get(tag, tag), _LIKE.get(wanted, wanted)
        tag = "l" if tag == "t" and wanted == "l" else tag
    if tag != wanted or len(actual) != len(expected):
        return False
    if wanted in "sS":
        return _keys(actual[1:]) == _keys(expected[1:])
    if wanted in _MAPPINGS:
        return _equal_dicts(actual, expected, tolerance, exact_types)
    if wanted in "ltqcIk":
        pairs = zip(actual[1:], expected[1:], strict=True)
        return all(equal(a, b, tolerance=tolerance, exact_types=exact_types) for a, b in pairs)
    return actual == expected


def _equal_dicts(actual: Tree, expected: Tree, tolerance: float, exact_types: bool) -> bool:
    wanted = {_key(key): value for key, value in _pairs(expected)}
    found = {_key(key): value for key, value in _pairs(actual)}
    if not exact_types and found.keys() != wanted.keys():
        numeric = all(type(key) is int for key in actual[1::2])
        found = {json.dumps(str(key)): value for key, value in _pairs(actual)} if numeric else {}
    return (
        len(found) == len(wanted)
        and found.keys() == wanted.keys()
        and all(
            equal(found[key], wanted[key], tolerance=tolerance, exact_types=exact_types)
            for key in wanted
        )
    )


def _pairs(tree: Tree) -> list[tuple[Tree, Tree]]:
    return list(zip(tree[1::2], tree[2::2], strict=True))


def _number(node: Tree) -> int | float | None:
    if type(node) is int or type(node) is float:
        return node
    if isinstance(node, list) and node[0] == "i":
        return int(node[1], 16)
    if isinstance(node, list) and node[0] == "f" and node[1] in _FLOATS:
        return float(node[1])
    return None


def _close(actual: float, expected: float, tolerance: float, exact_types: bool) -> bool:
    if exact_types and type(actual) is not type(expected):
        return False
    if actual == expected or (actual != actual and expected != expected):
        return True
    if not tolerance or (type(actual) is int and type(expected) is int):
        return False
    try:
        return math.isclose(actual, expected, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:  # an int beyond the floats
        return False


def _keys(nodes: list[Tree]) -> list[str]:
    return sorted(_key(node) for node in nodes)


def _key(node: Tree) -> str:
    """A text that two nodes share if and only if Python would have them equal as set members."""
    number = _number(node)
    if number is not None:
        if isinstance(number, float) and number.is_integer():
            number = int(number)
        return hex(number) if isinstance(number, int) else repr(number)
    if not isinstance(node, list):
        return json.dumps(node)
    tag: str = _LIKE.get(node[0]) or node[0]
    keys = _keys(node[1:]) if tag == "s" else [_key(item) for item in node[1:]]
    # A digest, so that nesting costs nothing; quotes within quotes would double at each level.
    return tag + hashlib.sha256(",".join(keys).encode()).hexdigest()


def show(tree: Tree, limit: int = 300) -> str:
    """A value for people, like its `repr`, cut at `limit` characters."""
    text = ""
    for piece in _pieces(tree, limit):
        text += piece
        if len(text) > limit:
            return f"{text[:limit]}..."
    return text


def _pieces(tree: Tree, limit: int) -> Iterator[str]:
    """The parts of a value's text, so that whoever joins them can stop in time."""
    if not isinstance(tree, list):
        yield repr(tree[:limit] if isinstance(tree, str) else tree)
        return
    tag, items = tree[0], tree[1:]
    if tag in _TEXT_TAGS:
        yield items[0][: limit + 1]
        return
    opening, closing = _BRACKETS.get(tag, (f"<{tag} ", ">"))
    yield opening
    for index, item in enumerate(items):
        if index:
            yield ": " if tag in _MAPPINGS and index % 2 else ", "
        yield from _pieces(item, limit)
    yield f",{closing}" if tag == "t" and len(items) == 1 else closing


_BRACKETS = {"l": "[]", "t": "()", "s": "{}", "d": "{}"}
