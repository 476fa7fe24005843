"""The number that a sentence, or a whole text, states in prose."""

# ruff: noqa: RUF001
# Characters that look like ASCII ones are what models write.

from __future__ import annotations

import re

from verifiers.mathematics.answer import SCALES
from verifiers.mathematics.units import find_unit, is_symbol

MAX_NUMBER_SEARCH_CHARS = 20_000
"""The last number is looked for in so many characters at the end."""
MAX_RESULT_CHARS = 160
"""A result further before the last number belongs to something else."""
_DENIED = re.compile(r"\b(?:not|never|minus|negative)\s[$\\(]{0,3}$", re.IGNORECASE)
_UNDECIDED = re.compile(r"(?:[0-9]\s?(?:or|/)|\bbetween\s\S{1,20}\sand)\s\$?\Z", re.IGNORECASE)
"""Before a number: it is one of two."""
_FRACTION = r"\\[dt]?frac\s?\{\s?[0-9]+\s?\}\s?\{\s?[0-9]+\s?\}"
_NUMBER = re.compile(
    r"(?=[-−–+\\$€£¥.0-9])"  # most positions are out at once
    r"(?:(?<![0-9A-Za-z)\]}%$])[-−–+]\s?)?(?:\\?[$€£¥]\s?)?(?:(?<![0-9A-Za-z)\]}])-)?"
    r"(?<![0-9A-Za-z_^\\.])(?<![0-9]\.)(?<![0-9],)(?<!\^\{)(?<!_\{)"
    rf"(?:{_FRACTION}"
    r"|(?:[0-9]{1,3}(?:(?:,|\{,\}|,?\\!)\s?[0-9]{3})+(?![0-9])|(?<=\$)[0-9]{1,3}(?:\s[0-9]{3})+(?![0-9])|[0-9]{1,3}(?:,[0-9]{3})+"
    r"|[0-9]+,[0-9]{1,2}(?![0-9,])|[0-9]+[¼½¾⅓⅔⅛]?)?(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"
    rf"(?:[ ][0-9]+/[0-9]+(?![0-9/])|\s?/\s?[0-9]+(?![0-9/])|\s?{_FRACTION})?)"
    rf"(?:\s?\\?%|\s{SCALES}\b)?"
)
_CIRCUMSTANCES_TEXT = """
after at before by each every for from in of on over per than to with
"""
_CIRCUMSTANCES = frozenset(_CIRCUMSTANCES_TEXT.split())
_CONNECTORS_TEXT = """
and are because but giving is if leaving or since so then when which while
"""
_CONNECTORS = frozenset(_CONNECTORS_TEXT.split())
_ARITHMETIC = ("+", "-", "*", "/", "=", "×", "÷", "−", "times", "cdot", "div", "approx")
_OPERAND_LAST = re.compile(r"[0-9)]\s?(?:[-+*×÷]|x(?=\s))\s?\$?[0-9.,]+\Z")
_ANNOTATED_END = re.compile(r"(?:[.!?)]|>>[$0-9.,]+)\Z")
"""How a text with calculator annotations (`<<48/2=24>>24`, as in GSM8K) ends if it is finished."""
_WORD = re.compile(r"[A-Za-z]+")
_CLOCK = re.compile(r"[0-9]:\Z")
_QUANTITY = re.compile(r"[0-9]\s([A-Za-z]+),?\s(?:and\s)?\Z")
_ORDINAL = re.compile(r"(?:st|nd|rd|th)\b")


def claimed_number(sentence: str) -> str | None:
    """The number in a sentence that states one: the one it begins with, the one after its last
    equals sign, else its last one."""
    numbers = numbers_in(sentence)
    if not numbers or not _settles(sentence, numbers[-1]):
        return None
    before, after = sentence[: numbers[0].start()], sentence[numbers[0].end() :].lstrip(" $)}\\")
    if before.strip(" $*_\\(") == "" and not after.startswith(_ARITHMETIC):
        return numbers[0][0]
    _, equals, right = sentence.rpartition("=")
    after = numbers_in(right) if equals else []
    return after[0][0] if after else numbers[-1][0]


def last_number(text: str) -> re.Match[str] | None:
    """The last number of a text. A text that breaks off within a calculation has none."""
    end = text[-60:]
    if _OPERAND_LAST.search(end) or ("<<" in text and not _ANNOTATED_END.search(end)):
        return None
    last_digit = max(map(text.rfind, "0123456789"))
    for num_chars in (30, MAX_NUMBER_SEARCH_CHARS) if last_digit >= 0 else ():
        numbers = numbers_in(text, max(0, last_digit - num_chars))
        if numbers and not _settles(text, numbers[-1]):
            return None
        if numbers:
            return _result_before(text, numbers[-1]) or numbers[-1]
    return None


def numbers_in(text: str, start: int = 0) -> list[re.Match[str]]:
    """The numbers from `start` on that stand for themselves: not exponents, `2x`, `1st`, `x_2`."""
    found: list[re.Match[str]] = []
    for match in _NUMBER.finditer(text, start):
        if not any(char.isdigit() for char in match[0]):
            continue
        if _DENIED.search(text[max(0, match.start() - 12) : match.start()]):
            continue
        rest = text[match.end() : match.end() + 12]
        if rest.lstrip()[:1] == "^" or rest[:1] == "_" or _ORDINAL.match(rest):
            continue
        letters = _WORD.match(rest)
        if letters and not is_symbol(letters[0]) and len(letters[0]) < 3:
            continue
        found.append(match)
    return found


def _settles(text: str, last: re.Match[str]) -> bool:
    """Whether a number stands for itself: it is not one of two (`42 or 43`), and no part of a time
    (`2:30`, `5 hours and 30 minutes`)."""
    before_it = text[max(0, last.start() - 40) : last.start()]
    if _UNDECIDED.search(before_it) or _CLOCK.search(before_it):
        return False
    before = _QUANTITY.search(text, max(0, last.start() - 40), last.start())
    after = _WORD.match(text, last.end() + 1)
    if before is None or after is None:
        return True
    larger, smaller = find_unit(before[1]), find_unit(after[0])
    return (
        larger is None
        or smaller is None
        or larger.dimension != smaller.dimension
        or larger.factor <= smaller.factor
    )


def _result_before(text: str, last: re.Match[str]) -> re.Match[str] | None:
    """The number that a calculation ends in, if the last one only says where it holds:
    `4 + 5 = 9 points in 40 minutes`."""
    earliest = max(0, last.start() - MAX_RESULT_CHARS)
    at = max(text.rfind(sign, earliest, last.start()) for sign in "=>") + 1
    number = _NUMBER.match(text, at + (text[at] == " ")) if at else None
    if number is None or not any(map(str.isdigit, number[0])):
        return None
    between = text[number.end() : last.start()]
    if "\n" in between or between[:1] != " ":
        return None
    words_between = between.lower().split()
    is_circumstance = (
        not _CIRCUMSTANCES.isdisjoint(words_between)
        and _CONNECTORS.isdisjoint(words_between)
        and all(map(str.isalpha, words_between))
    )
    return number if is_circumstance else None
