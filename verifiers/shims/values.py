"""The wire form of values: what a candidate may claim to have returned, and nothing else.

JSON in which `null`, booleans, strings, whole numbers below 2^63 and finite floats stand for
themselves and everything else is a list that begins with a tag:

    i u f c b B   int (hex), str with lone surrogates, nan/inf, complex, bytes, bytearray (hex)
    l t s S d     list, tuple, set, frozenset, dict (key, value, key, value...)
    r I k         range, an iterator (its items), the keys of a dict
    O C q         OrderedDict, Counter, deque
    D F           decimal.Decimal, fractions.Fraction
    X K T E       datetime, date, time (ISO format), timedelta (days, seconds, microseconds)

Types are compared with `is`: a subclass is another type and has no wire form, so nothing with a
method of the candidate's own can be rebuilt on the other side. Some conversions lose the type and
keep the value: a defaultdict is sent as a dict, numpy arrays and scalars as what `tolist` gives, a
generator, map, filter or zip as an iterator over what it yields.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_DEPTH = 200
"""Deeper values are refused: rebuilding them would overflow the stack of the other side."""
_BIG = 1 << 63
_SEQUENCES = {list: "l", tuple: "t", set: "s", frozenset: "S", type({}.keys()): "k"}
_ITERATORS = [map, filter, zip, enumerate, reversed, type(i for i in ()), type(iter([]))]
_SEQUENCES |= dict.fromkeys(_ITERATORS, "I")  # the last is what `decode` makes: it can go back


class UnsupportedValue(TypeError):
    """A value has no wire form. The message names its type."""


def encode(value: "Any", depth: int = MAX_DEPTH) -> "Any":
    """The wire form of a value, ready for `json.dumps`.

    Raises:
        UnsupportedValue: it, or something in it, is of another type, or nested too deep.
    """
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        return value if -_BIG < value < _BIG else ["i", hex(value)]
    if kind is float:
        return value if value - value == 0 else ["f", repr(value)]
    if kind is str:
        return value if _plain(value) else ["u", value.encode("utf-8", "surrogatepass").hex()]
    if depth == 0:
        raise UnsupportedValue(f"a value nested deeper than {MAX_DEPTH}")
    depth -= 1
    if kind in _SEQUENCES:
        return [_SEQUENCES[kind], *[encode(item, depth) for item in value]]
    if kind is dict:
        return ["d", *_flat(value, depth)]
    if kind is complex:
        return ["c", encode(value.real), encode(value.imag)]
    if kind is bytes or kind is bytearray:
        return ["b" if kind is bytes else "B", value.hex()]
    if kind is range:
        return ["r", encode(value.start), encode(value.stop), encode(value.step)]
    return _encode_standard(value, kind, depth)


def _plain(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _flat(mapping, depth):
    return [encode(part, depth) for item in mapping.items() for part in item]


def _encode_standard(value, kind, depth):
    name = f"{kind.__module__}.{kind.__qualname__}"
    if kind.__module__ == "numpy":
        return encode(value.tolist(), depth)
    module = sys.modules.get(kind.__module__)
    if module is None or module.__dict__.get(kind.__qualname__) is not kind:
        raise UnsupportedValue(f"a value of type {name}")
    if name == "collections.defaultdict":
        return ["d", *_flat(value, depth)]
    if name == "collections.OrderedDict":
        return ["O", *_flat(value, depth)]
    if name == "collections.Counter":
        return ["C", *_flat(value, depth)]
    if name == "collections.deque":
        return ["q", *[encode(item, depth) for item in value]]
    if name == "decimal.Decimal":
        return ["D", str(value)]
    if name == "fractions.Fraction":
        return ["F", encode(value.numerator), encode(value.denominator)]
    if name == "datetime.timedelta":
        return ["E", value.days, value.seconds, value.microseconds]
    if name in ("datetime.datetime", "datetime.date", "datetime.time"):
        return [{"datetime": "X", "date": "K", "time": "T"}[kind.__name__], value.isoformat()]
    raise UnsupportedValue(f"a value of type {name}")


def decode(tree: "Any") -> "Any":
    """The value of a wire form.

    Raises:
        Exception: of any kind, if the form is malformed.
    """
    if type(tree) is not list:
        if type(tree) is dict:
            raise ValueError("a wire form holds no objects")
        return tree
    tag, *rest = tree
    if tag == "i":
        return int(rest[0], 16)
    if tag == "f":
        return float(rest[0])
    if tag == "u":
        return bytes.fromhex(rest[0]).decode("utf-8", "surrogatepass")
    if tag == "b":
        return bytes.fromhex(rest[0])
    if tag == "B":
        return bytearray.fromhex(rest[0])
    if tag in ("D", "X", "K", "T"):
        return _decode_text(tag, rest[0])
    items = [decode(item) for item in rest]
    if tag in _BUILDERS:
        return _BUILDERS[tag](items)
    if tag in ("d", "O", "C"):
        pairs = zip(items[::2], items[1::2], strict=True)
        return dict(pairs) if tag == "d" else _mapping(tag, pairs)
    if tag == "k":
        return dict.fromkeys(items).keys()
    if tag == "c":
        return complex(*items)
    if tag == "r":
        return range(*items)
    return _decode_standard(tag, items)


_BUILDERS = {"l": list, "t": tuple, "s": set, "S": frozenset, "I": iter}


def _mapping(tag, pairs):
    import collections

    return collections.OrderedDict(pairs) if tag == "O" else collections.Counter(dict(pairs))


def _decode_text(tag, text):
    if tag == "D":
        import decimal

        return decimal.Decimal(text)
    import datetime

    kind = {"X": datetime.datetime, "K": datetime.date, "T": datetime.time}[tag]
    return kind.fromisoformat(text)


def _decode_standard(tag, items):
    if tag == "q":
        import collections

        return collections.deque(items)
    if tag == "F":
        import fractions

        return fractions.Fraction(*items)
    if tag == "E":
        import datetime

        return datetime.timedelta(*items)
    raise ValueError(f"unknown tag {tag!r}")
