r"""Units and currencies: recognised at the end of an answer, compared by conversion.

A unit text (`cm^2`, `miles per hour`, `km/h`, `\text{ degrees}`) becomes a factor to base units and
a dimension. Words we do not know ("apples", "ways") have none, and are dropped.
"""

from __future__ import annotations

import functools
import re
from fractions import Fraction
from typing import NamedTuple

MAX_UNIT_CHARS = 60


class Unit(NamedTuple):
    """A known unit: how many base units it is, and the exponents of its dimensions, sorted."""

    factor: Fraction
    dimension: tuple[tuple[str, int], ...]


_F = Fraction
_TABLE: dict[str, tuple[Fraction, str, tuple[str, ...]]] = {
    "m": (_F(1), "length", ("meter", "metre")),
    "cm": (_F(1, 100), "length", ("centimeter", "centimetre")),
    "mm": (_F(1, 1000), "length", ("millimeter", "millimetre")),
    "km": (_F(1000), "length", ("kilometer", "kilometre")),
    "in": (_F(254, 10_000), "length", ("inch",)),
    "ft": (_F(3048, 10_000), "length", ("foot", "feet")),
    "yd": (_F(9144, 10_000), "length", ("yard",)),
    "mi": (_F(1_609_344, 1000), "length", ("mile",)),
    "kg": (_F(1), "mass", ("kilogram", "kilo")),
    "g": (_F(1, 1000), "mass", ("gram", "gramme")),
    "mg": (_F(1, 1_000_000), "mass", ("milligram",)),
    "lb": (_F(45_359_237, 100_000_000), "mass", ("pound", "lbs")),
    "oz": (_F(45_359_237, 1_600_000_000), "mass", ("ounce",)),
    "ton": (_F(1000), "mass", ("tonne",)),
    "s": (_F(1), "time", ("second", "sec")),
    "min": (_F(60), "time", ("minute",)),
    "h": (_F(3600), "time", ("hour", "hr")),
    "day": (_F(86_400), "time", ()),
    "week": (_F(604_800), "time", ()),
    "L": (_F(1, 1000), "volume", ("liter", "litre", "l")),
    "mL": (_F(1, 1_000_000), "volume", ("milliliter", "millilitre", "ml")),
    "month": (_F(1), "months", ()),
    "year": (_F(12), "months", ("yr",)),
    "K": (_F(1), "temperature", ("kelvin",)),
    "N": (_F(1), "force", ("newton",)),
    "J": (_F(1), "energy", ("joule",)),
    "W": (_F(1), "power", ("watt",)),
    "$": (_F(1), "dollar", ("dollar", "usd", "buck")),
    "cent": (_F(1, 100), "dollar", ("¢",)),
    "€": (_F(1), "euro", ("euro", "eur")),
    "£": (_F(1), "sterling", ("gbp",)),
    "¥": (_F(1), "yen", ("yen", "jpy")),
    "₹": (_F(1), "rupee", ("rupee", "rs", "inr")),
}
_NAMES = {
    name: (factor, dimension)
    for symbol, (factor, dimension, words) in _TABLE.items()
    for name in (symbol, *words)
}
_SYMBOLS_TEXT = """
m cm mm km in ft yd mi kg g mg lb lbs oz s sec min h hr hrs L l mL ml mph kph m/s km/h
"""
_SYMBOLS = frozenset(_SYMBOLS_TEXT.split())
_PLURAL = re.compile(r"(?<=[a-z]{2})(?:es|s)$")
_PART = re.compile(
    r"(square|sq|cubic|cu)?\.?\s?([A-Za-z$€£¥₹¢°]+)\s?(?:\^\s?\{?\s?(-?[1-4])\s?\}?)?"
)
_WRAPPER = re.compile(
    r"\\(?:text|mathrm|mbox|textbf|textnormal|textit|textrm|mathit|operatorname|rm|bf)"
    r"(?![A-Za-z])\s?"
)
_BRACED_POWER = re.compile(r"\^\s?\{\s?(-?[0-9])\s?\}")
_PER = re.compile(r"\s?/\s?|\s+per\s+|\s+an?\s+")
_DIMENSIONS = {"volume": (("length", 3),)}


def plain_unit(text: str) -> str:
    r"""The words of a unit without `\text{}`: `\text{ cm}^2` -> `cm^2`."""
    text = _WRAPPER.sub("", text).replace("\\cdot", "*").replace("\\ ", " ")
    text = _BRACED_POWER.sub(r"^\1", text)
    return " ".join(text.replace("{", " ").replace("}", " ").split()).strip(" .,()")


def find_unit(text: str) -> Unit | None:
    """The unit a text names; null for words we do not know."""
    return _find_unit(text) if len(text) <= 2 * MAX_UNIT_CHARS else None


@functools.lru_cache(maxsize=4_096)
def _find_unit(text: str) -> Unit | None:
    text = plain_unit(text)
    if not text or len(text) > MAX_UNIT_CHARS:
        return None
    text = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h"}.get(text.lower(), text)
    upper, *lower = _PER.split(text)
    if len(lower) > 1:
        return None
    factor, powers = Fraction(1), dict[str, int]()
    for part, sign in [(upper, 1), *((part, -1) for part in lower)]:
        for piece in part.split("*"):
            found = _single(piece.strip())
            if found is None:
                return None
            factor *= found.factor**sign
            for dimension, power in found.dimension:
                powers[dimension] = powers.get(dimension, 0) + sign * power
    return Unit(factor, tuple(sorted((d, p) for d, p in powers.items() if p)))


def is_symbol(text: str) -> bool:
    """Whether a text is a unit's symbol, which may stand right after a number: `5cm`, `3m^2`."""
    return plain_unit(text).partition("^")[0] in _SYMBOLS


def _single(text: str) -> Unit | None:
    match = _PART.fullmatch(text)
    if match is None:
        return None
    known = _lookup(match[2])
    if known is None:
        return None
    factor, dimension = known
    power = int(match[3] or 1)
    if match[1] is not None:
        power *= 2 if match[1].startswith("sq") else 3
    base = _DIMENSIONS.get(dimension, ((dimension, 1),))
    return Unit(factor**power, tuple((name, exponent * power) for name, exponent in base))


def _lookup(word: str) -> tuple[Fraction, str] | None:
    for name in (word, word.lower(), _PLURAL.sub("", word.lower()), word.lower().removesuffix("s")):
        if name in _NAMES:
            return _NAMES[name]
    return None
