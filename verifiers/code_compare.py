"""Comparing a program's output with the expected one, on the host."""

from __future__ import annotations

import math
import re
from typing import Literal

MAX_NUMBER_CHARS = 400
"""Longer tokens are not compared as numbers: reading them takes more than linear time."""
_NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")


def same_output(
    actual: bytes,
    expected: bytes,
    *,
    compare: Literal["tokens", "lines", "exact"] = "tokens",
    tolerance: float = 0.0,
) -> bool:
    """Whether an output is the expected one.

    Args:
        compare: `tokens` splits at ASCII white space; `lines` ignores white space at the ends of
            lines and empty lines at the end; `exact` wants the same bytes.
        tolerance: with `tokens`, numbers may differ by so much, relative or absolute.
    """
    if compare == "exact":
        return actual == expected
    if compare == "lines":
        return _lines(actual) == _lines(expected)
    found, wanted = actual.split(), expected.split()
    if len(found) != len(wanted):
        return False
    pairs = zip(found, wanted, strict=True)
    return all(a == b or (tolerance > 0 and _near(a, b, tolerance)) for a, b in pairs)


def _lines(text: bytes) -> list[bytes]:
    lines = [line.rstrip() for line in text.split(b"\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _near(actual: bytes, expected: bytes, tolerance: float) -> bool:
    """Numbers only, as they are printed: `float` would also take `1_0`, `nan` and `infinity`."""
    for token in (actual, expected):
        if len(token) > MAX_NUMBER_CHARS or not _NUMBER.fullmatch(token):
            return False
    a, b = float(actual), float(expected)
    return math.isfinite(a) and math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
