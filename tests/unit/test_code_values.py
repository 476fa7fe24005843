"""The wire form of values: what survives it, what does not, and what equals what."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifiers.code_values import check, equal, from_json, parse, show
from verifiers.shims.values import MAX_DEPTH, UnsupportedValue, decode, encode

HASHABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters())
    | st.binary()
    | st.fractions(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.sets(HASHABLE, max_size=4)
        | st.dictionaries(HASHABLE, inner, max_size=4)
    ),
    max_leaves=10,
)


def through_the_wire(value: Any) -> Any:
    tree = parse(json.dumps(encode(value)).encode())
    check(tree)
    return decode(tree)


def same(first: Any, second: Any) -> bool:
    """Python's equality, but with exact types and NaN equal to itself."""
    return type(first) is type(second) and repr(first) == repr(second)


@given(VALUES)
def test_every_value_of_the_exact_types_survives(value: Any) -> None:
    back = through_the_wire(value)
    assert type(back) is type(value)
    assert equal(encode(back), encode(value), exact_types=True)
    if not isinstance(value, set | frozenset | dict):
        assert type(back) is type(value)


@given(VALUES, VALUES)
def test_trees_are_equal_when_the_values_are(first: Any, second: Any) -> None:
    def has_nan_or_bool(value: Any) -> bool:  # where our equality departs from Python's on purpose
        text = repr(value)
        return any(word in text for word in ("nan", "True", "False", "Fraction"))

    if has_nan_or_bool(first) or has_nan_or_bool(second):
        return
    if first == second:
        assert equal(encode(first), encode(second))
    elif type(first) is type(second) and not isinstance(first, list | tuple | dict):
        assert not equal(encode(first), encode(second))


@pytest.mark.parametrize(
    "value",
    [
        0,
        -0.0,
        10**40,
        -(2**63),
        2**63,
        "\ud800 lone",
        "\ud83d\ude00",
        math.inf,
        -math.inf,
        bytearray(b"\0\xff"),
        range(1, 10, 3),
        collections.OrderedDict(b=1, a=2),
        collections.Counter("banana"),
        collections.deque([1, [2]]),
        decimal.Decimal("1.50"),
        fractions.Fraction(-3, 7),
        datetime.datetime(2024, 2, 29, 1, 2, 3, 4),
        datetime.date(2024, 2, 29),
        datetime.time(1, 2),
        datetime.timedelta(days=-1, microseconds=5),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_odd_values_survive(value: Any) -> None:
    assert same(through_the_wire(value), value)
    assert through_the_wire(value) == value


def test_integers_have_no_longest() -> None:
    assert through_the_wire(7**20_000) == 7**20_000


def test_a_defaultdict_is_sent_as_a_dict() -> None:
    value = collections.defaultdict(int, a=1)
    assert same(through_the_wire(value), {"a": 1})


class Always(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


class Color(enum.IntEnum):
    RED = 1


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    "value",
    [
        *(
            object(),
            Always(1),
            type("str", (str,), {})("x"),
            Color.RED,
            Point(1, 2),
            True.__class__,
        ),
        *(lambda: 1, iter(()), [Always(1)], {"a": {Always(2)}}, {Always(1): 1}, iter),
        type("Counter", (dict,), {"__module__": "collections"})(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_everything_else_is_refused(value: Any) -> None:
    with pytest.raises(UnsupportedValue):
        encode(value)


def test_cycles_and_deep_nesting_are_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    deep: Any = 0
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    for value in (cycle, deep):
        with pytest.raises(UnsupportedValue, match="nested deeper"):
            encode(value)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"nonsense", b"NaN", b"[Infinity]", b"[" * 100_000, b"1" * 5_000, b"\xff"),
        *(b'{"a": 1}', b"[]", b"[1]", b'["l", {}]', b'["zz"]', b'["i"]', b'["i", 5]', b'["d", 1]'),
        *(b'["i", "x"]', b'["c", 1]', b'[["l"]]', b'["E", 1]', b'["l", ' * 300 + b"]" * 300),
    ],
    ids=lambda data: data[:20].decode(errors="replace"),
)
def test_what_is_no_wire_form_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        check(parse(data))


EQUAL: list[tuple[Any, Any]] = [
    (2.0, 2),
    (2, 2.0),
    ((1, 2), [1, 2]),
    ([(1, 2)], [[1, 2]]),
    ({1: "a", 2: "b"}, {"1": "a", "2": "b"}),
    ({"a": (1,)}, {"a": [1]}),
    (10**30, {"__int__": str(10**30)}),
    ({1, 2}, {"__set__": [2, 1]}),
    (frozenset([1]), {"__set__": [1]}),
    ({1: (2,)}, {"__dict__": [[1, {"__tuple__": [2]}]]}),
    (math.nan, {"__float__": "nan"}),
    (b"\x00", {"__bytes__": "00"}),
    (collections.Counter("aa"), {"a": 2}),
]


@pytest.mark.parametrize(("actual", "expected"), EQUAL, ids=repr)
def test_equal_to_what_a_data_set_says(actual: Any, expected: Any) -> None:
    assert equal(encode(actual), from_json(expected))


UNEQUAL: list[tuple[Any, Any]] = [
    *((1, True), (True, 1), (0, False), (0, None), ("1", 1), (1, "1"), ("a", ["a"]), ([], {})),
    *(([1, 2], [2, 1]), ([1], [1, 1]), ({1, 2}, [1, 2]), ([1], {"__tuple__": [1]})),
    *(({"a": 1}, {"a": 2}), ({"a": 1}, {"b": 1}), ({"a": 1}, {"a": 1, "b": 1}), (2.0000001, 2)),
    *(({True: 1}, {"True": 1}), ({1: 1, "2": 2}, {"1": 1, "2": 2}), (math.nan, 1), (None, 0)),
    *(({1: 0, 2: 0}, {"1": 0, "3": 0}), ("", None), (math.inf, {"__float__": "-inf"})),
]


@pytest.mark.parametrize(("actual", "expected"), UNEQUAL, ids=repr)
def test_not_equal(actual: Any, expected: Any) -> None:
    assert not equal(encode(actual), from_json(expected))


def test_exact_types_accept_nothing_but_the_type() -> None:
    for actual, expected in EQUAL[:6]:
        assert not equal(encode(actual), from_json(expected), exact_types=True)
    assert equal(encode((1, 2.5)), from_json({"__tuple__": [1, 2.5]}), exact_types=True)


def test_tolerance_reaches_into_containers_but_not_to_ints() -> None:
    assert equal(encode([1.0, {"a": 0.1 + 0.2}]), from_json([1, {"a": 0.3}]), tolerance=1e-9)
    assert not equal(encode([1.1]), from_json([1]), tolerance=1e-2)
    assert not equal(encode(1000), from_json(1001), tolerance=0.5)
    assert not equal(encode(math.nan), from_json(1.0), tolerance=0.5)
    assert not equal(encode(10**400), from_json(1.5), tolerance=0.5)


def test_a_claimed_dict_cannot_repeat_keys_to_look_larger() -> None:
    assert not equal(["d", "a", 1, "a", 1], from_json({"a": 1, "b": 1}))
    assert not equal(["s", 1, 1], from_json({"__set__": [1, 2]}))


def test_the_deepest_values_are_compared_and_shown() -> None:
    nested: Any = 1
    frozen: Any = 1
    for _ in range(MAX_DEPTH - 1):
        nested, frozen = (nested,), frozenset([frozen])
    for value in (nested, frozen):
        tree = encode(value)
        check(tree)
        assert equal(tree, tree)
        assert show(tree)


def test_colliding_integers_cost_no_more_than_others() -> None:
    # As a Python set these take time in the square of their number: all have the same hash.
    items = [hex(number * (2**61 - 1)) for number in range(1, 20_000)]
    tree = ["s", *[["i", item] for item in items]]
    check(tree)
    assert equal(tree, tree)


@pytest.mark.parametrize("value", [{"__what__": 1}, {"__tuple__": 3}, {"__float__": "x"}], ids=repr)
def test_an_unknown_way_to_write_a_value_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="__"):
        from_json(value)


def test_shown_values_look_like_python_and_are_short() -> None:
    assert show(encode([1, (2,), {"a": None}])) == "[1, (2,), {'a': None}]"
    assert len(show(encode(["x" * 10**6] * 10**3))) < 400
    assert len(show(encode(10**100_000))) < 400


@pytest.mark.parametrize(
    "tree",
    [
        *(["i", "0x1"], ["u", "eda080"], ["f", "nan"], ["c", 1, 2], ["b", "00"], ["B", "00"]),
        *(["l", 1], ["t", 1], ["s", 1], ["S", 1], ["d", 1, 2], ["O", 1, 2], ["C", 1, 2]),
        *(["q", 1], ["r", 1, 2, 3], ["I", 1], ["k", 1], ["D", "sNaN"], ["F", 1, 2]),
        *(["X", "2024-01-01T00:00:00+00:00"], ["K", "2024-01-01"], ["T", "01:00"], ["E", 1, 2, 3]),
    ],
    ids=lambda tree: tree[0],
)
def test_whatever_a_reply_makes_can_be_handed_back(tree: list[Any]) -> None:
    """Else `candidate(candidate(x))` would be the tests' fault for some replies."""
    check(tree)
    again = encode(decode(tree))
    assert tree[0] == "i" or again[0] == tree[0]  # a small whole number stands for itself
