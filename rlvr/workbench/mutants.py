r"""Golds made wrong: what a verifier must not accept.

Each mutation changes the answer's value, never only its spelling; results that may equal the gold
after all (see `sameness`) are left out and counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from rlvr.workbench.sameness import far_apart, may_be_same, values
from verifiers.number import parse_number

_LITERAL = re.compile(r"(?<![\d.,_\[])(?<!_\{)(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\d\]])")
"""A number written in digits; not a subscript (a base, an index) and not the degree of a root."""
_FRACTION = re.compile(
    r"(\\[dt]?frac)\s*\{([^{}]+)\}\s*\{([^{}]+)\}|(?<![\d.])(\d+)/(\d+)(?![\d.])"
)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_CHOICE = re.compile(r"(\\text\{)?(\(?)([A-Ia-i])(\)?)(\})?")
_OPPOSITES = {"yes": "no", "true": "false", "even": "odd", "left": "right"}
_OPPOSITES |= {other: one for one, other in _OPPOSITES.items()}


def mutants(gold: str, others: Sequence[str] = ()) -> tuple[dict[str, str], int]:
    """Wrong answers made from a gold.

    Args:
        gold: the answer, plain or LaTeX.
        others: golds of other problems; the first that is far from it is one mutant.

    Returns:
        Mutation name -> wrong answer, and how many were left out because they may equal the gold.
    """
    found: dict[str, str] = {}
    num_same = 0
    for name, mutate in _MUTATIONS.items():
        mutant = mutate(gold)
        if mutant is None or not mutant.strip() or mutant in found.values():
            continue
        if may_be_same(gold, mutant):
            num_same += 1
        else:
            found[name] = mutant
    for other in others:
        if far_apart(gold, other):
            found["another problem's gold"] = other
            break
    return found, num_same


def last_literal(gold: str) -> re.Match[str] | None:
    """The last number written in digits that a mutation may change."""
    matches = list(_LITERAL.finditer(gold))
    return matches[-1] if matches else None


def _off_by_one(gold: str) -> str | None:
    """One more in the last place of the last number; the next letter of a choice."""
    if choice := _CHOICE.fullmatch(gold.strip()):
        begin, opening, letter, closing, end = (part or "" for part in choice.groups())
        return f"{begin}{opening}{chr(ord(letter) + 1)}{closing}{end}"
    literal = last_literal(gold)
    if literal is None:
        return None
    digits = literal.group().replace(",", "")
    whole, point, decimals = digits.partition(".")
    bumped = str(int(whole + decimals) + 1).rjust(len(whole + decimals), "0")
    if point:
        bumped = f"{bumped[: -len(decimals)]}.{bumped[-len(decimals) :]}"
    elif "," in literal.group():
        bumped = f"{int(bumped):,}"
    return _replaced(gold, literal, bumped)


def _negated(gold: str) -> str | None:
    text = gold.strip()
    if _CHOICE.fullmatch(text):
        return None
    if parse_number(text) is not None:
        return text.replace("-", "", 1) if "-" in text else f"-{text}"
    found = values(text)
    is_scalar = found is not None and len(found) == 1 and not _WORD.search(text)
    return f"-({text.strip('$')})" if is_scalar else None


def _swapped_digits(gold: str) -> str | None:
    literal = last_literal(gold)
    if literal is None:
        return None
    digits = literal.group()
    for place in range(len(digits) - 1, 0, -1):
        one, other = digits[place - 1], digits[place]
        leads_with_zero = place == 1 and other == "0"
        if one.isdigit() and other.isdigit() and one != other and not leads_with_zero:
            swapped = digits[: place - 1] + other + one + digits[place + 1 :]
            return _replaced(gold, literal, swapped)
    return None


def _turned_over(gold: str) -> str | None:
    fraction = _FRACTION.search(gold)
    if fraction is None:
        return None
    command, top, bottom, plain_top, plain_bottom = fraction.groups()
    turned = f"{command}{{{bottom}}}{{{top}}}" if command else f"{plain_bottom}/{plain_top}"
    return _replaced(gold, fraction, turned)


def _truncated(gold: str) -> str | None:
    text = gold.strip()
    if re.fullmatch(r"[A-Za-z ]{4,}", text):
        return text[:-1]
    literal = last_literal(text)
    if parse_number(text) is None or literal is None or len(literal.group()) < 2:
        return None
    return _replaced(text, literal, literal.group()[:-1].rstrip(".,"))


def _ten_times(gold: str) -> str | None:
    return f"{gold.strip()}0" if re.fullmatch(r"-?\d+", gold.strip()) else None


def _item_dropped(gold: str) -> str | None:
    """A list without its last item."""
    if parse_number(gold) is not None or re.search(r"[\[\](){}]", gold):
        return None
    before, comma, _ = gold.rpartition(",")
    return before if comma else None


def _opposite(gold: str) -> str | None:
    found = re.fullmatch(r"(\\text\{)?([A-Za-z]+)(\})?", gold.strip())
    other = _OPPOSITES.get(found[2].lower()) if found else None
    if found is None or other is None:
        return None
    return (
        f"{found[1] or ''}{other.capitalize() if found[2][0].isupper() else other}{found[3] or ''}"
    )


def _replaced(text: str, match: re.Match[str], new: str) -> str:
    return text[: match.start()] + new + text[match.end() :]


_MUTATIONS: dict[str, Callable[[str], str | None]] = {
    "off by one": _off_by_one,
    "sign": _negated,
    "swapped digits": _swapped_digits,
    "fraction turned over": _turned_over,
    "truncated": _truncated,
    "ten times": _ten_times,
    "item dropped": _item_dropped,
    "opposite": _opposite,
}
