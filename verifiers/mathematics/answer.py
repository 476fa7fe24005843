r"""From the text of an answer to an `Answer`: an expression and a unit, or words.

The same reading serves gold and completion. Units and currency signs are split off before parsing,
so that the grammar knows numbers and variables only.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from verifiers.mathematics.clean import clean, undress
from verifiers.mathematics.expr import Expr, ParseError, num
from verifiers.mathematics.parse import parse
from verifiers.mathematics.units import Unit, find_unit, is_symbol, plain_unit

CHOICES = "ABCDEFGHIJ"
"""Letters of multiple-choice options."""


READ_CACHE = 2_048
"""Texts kept parsed: extraction and comparison read the same ones. At most `MAX_CHARS` each."""


class Answer(NamedTuple):
    """An answer that has been read. `expr` is null for text and for what we cannot read."""

    text: str
    """The cleaned text."""
    expr: Expr | None
    unit: Unit | None
    why: str | None
    """Why there is no expression."""


PLAIN_NUMBER = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?")
_CURRENCY = re.compile(
    r"^(-?)\s?(?:\\?\$|€|£|¥|₹|USD\s|US\\?\$|EUR\s|Rs\.?\s?|\\pounds\s|\\euro\s)\s?"
)
_CURRENCY_END = re.compile(r"\s?(?:\\?\$|€|£|¥|₹|¢)$")
_MACRO = (
    r"\\(?:text|mathrm|mbox|textbf|textnormal|textit|textrm|mathit|operatorname|mathbf)(?![A-Za-z])"
)
_POWER = r"(?:\s?\^\s?(?:\{\s?-?[1-4]\s?\}|[1-4]))?"
_UNIT_MACROS = re.compile(
    rf"(?P<body>.*?)\s?(?P<unit>{_MACRO}\s?\{{[^{{}}]*\}}{_POWER}"
    rf"(?:\s?(?:/|\\cdot|\*)?\s?{_MACRO}\s?\{{[^{{}}]*\}}{_POWER}"
    rf"|\s?[ /*]\s?[A-Za-z]+{_POWER})*)\s?[.,]?"
)
_UNIT_WORDS = re.compile(
    r"(?P<body>.*[0-9)}\]°π])(?P<space>\s?)(?P<unit>\(?(?:[A-Za-z]+)(?:\s?\^\s?(?:\{[2-4]\}|[2-4]))?"
    r"(?:(?:\s?/\s?|\s)[A-Za-z'-]+(?:\s?\^\s?(?:\{[2-4]\}|[2-4]))?)*\)?)\.?"
)
_PERCENT = re.compile(
    rf"(?P<body>.*?)\s?(?:{_MACRO}\s?\{{\s?)?\b(?:percent|percentage|pct)\s?\}}?\s?"
)
_DEGREES = re.compile(rf"(?P<body>.*?)\s?(?:{_MACRO}\s?\{{\s?)?\b(?:degrees?|deg)\s?\}}?\s?")
_NOT_UNITS_TEXT = """
and or if where for when with is not mod pi e i x y z sqrt sin cos tan cot sec csc ln log exp
infinity oo inf base only but choose to in k n t a b c r u nan arcsin arccos arctan
"""
_NOT_UNITS = frozenset(_NOT_UNITS_TEXT.split())
_LABEL = re.compile(
    rf"^(?:{_MACRO}\s?\{{[^{{}}=]*\}}|[A-Z]?[A-Za-z][a-z]+(?:\s[A-Za-z]+){{0,6}})"
    r"\s?(?:=|:(?=\s)|\\approx|\bis\b)\s?(?=\S)"
)
_SAYS = re.compile(rf"^{_MACRO}\s?\{{[^{{}}]*(?:\bis|:|=)\s?\}}\s?(?=\S)")
_FOR_ALL = re.compile(
    rf"(?:,?\s?(?:{_MACRO}\s?\{{\s?)?\bfor (?:all|any|every)\b.*"
    r"|,\s?[a-z]\s?\\in\s?\\mathbb\s?\{?R\}?)$"
)
"""What is said to hold everywhere, as in `x^2 \\text{ for all } x`, adds nothing."""
_PER = re.compile(r"(?<=[0-9])\s?/\s?(?:day|hr|[a-z]{4,})\.?$")
"""`18/day`: what it is per is dropped, like other nouns."""
SCALES = r"(?:hundred|thousand|million|billion|trillion)"
_ZEROS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALED = re.compile(
    rf"(?P<number>-?(?:\\?\$)?\s?[0-9][0-9.,]*)\s?(?:{_MACRO}\s?\{{\s?)?(?P<scale>{SCALES})\b\s?\}}?"
)
_NEGATIVE = re.compile(r"^(?:minus|negative)\s(?=[0-9$\\])")
_BASE = re.compile(rf"^([0-9A-F]+)\s(?:{_MACRO}\s?\{{\s?)?(?:in\s)?base\s?\}}?[\s-]([0-9]{{1,2}})$")
_GLUED = re.compile(r"(?<=[0-9)}])(?:or|and)(?=[-0-9(]|[A-Za-z][_(=])")
"""Connectors without spaces: `x=1orx=2`."""
_COUNTED = re.compile(
    r"(?P<dollar>\$)?(?P<number>[0-9]{1,3}(?:,[0-9]{3})*(?:\.[0-9]{1,30})?)"
    r"(?: (?P<noun>[a-z]{3,20}))?"
)
"""`72 eggs`, `$1,234.50`."""
_NO_NOUNS_TEXT = """
percent percentage pct degree degrees deg base null none
"""
_NO_NOUNS = frozenset([*_NOT_UNITS, *_ZEROS, *_NO_NOUNS_TEXT.split()])
_IMPLIES = re.compile(
    r"\\(?:implies|Rightarrow|Longrightarrow|therefore|rightarrow)(?![A-Za-z])|⇒|⟹|∴"
)
_LEADING = re.compile(r"^(?:=|\\approx(?![A-Za-z])|\\sim(?![A-Za-z])|≈|~)\s?")
_DELIMITER = re.compile(r"\\[()\[\]]")
_FIRST = re.compile(r"[^\s^/=]*")
_LONG_WORD = re.compile(r"[A-Za-z]{4}")
_OPTION = re.compile(r"^(?:option|choice|answer)\s+", re.IGNORECASE)
_ARTICLE = re.compile(r"^(?:the|an?) ")
_STYLE = re.compile(r"\\(?:text|mathrm|mathbf|mbox|operatorname)\s?(?=\{)")
_BRACED = re.compile(r"\{(\w)\}")
_WORDS = re.compile(r"[^\W_]+")
_TEXT_MACRO = re.compile(rf"{_MACRO}\s?\{{([^{{}}]*)\}}")
_TEXTUAL = re.compile(r"[A-Za-z][A-Za-z0-9 ,.'&()/-]*")
_REALS = re.compile(
    r"(?:the )?(?:set of )?(?:all )?(?:the )?real numbers?(?: line)?|(?:all )?reals?", re.IGNORECASE
)
_EMPTY = re.compile(r"(?:the )?empty set|no (?:real )?solutions?", re.IGNORECASE)
_OPAQUE = re.compile(
    r"\\(?:sum|prod|int|iint|oint|lim|max|min|sup|inf|partial|[pb]mod|mathbb)(?![A-Za-z])"
    r"|\\begin\s?\{(?:cases|aligned)\}|\\\{.*(?:\\mid|\||:)"
)
_CHOICE = re.compile(rf"\(?([{CHOICES}])\)?")
_CHOICE_FIRST = re.compile(rf"(?:\(([{CHOICES}])\)|([{CHOICES}])(?:[).:]|$))(?:\s|\W|$)")
_BAD = re.compile(r"\b(?:nan|null|none)\b|\\(?:l|c|v|d)?dots|\.\.\.", re.IGNORECASE)


@functools.lru_cache(maxsize=READ_CACHE)
def read(text: str, *, letter_units: bool = False) -> Answer:
    """Read an answer.

    Args:
        letter_units: read `5 m` and `3g` as a number with a unit, not with a variable.

    Raises:
        TooLarge: the text or the expression passes a limit.
    """
    if PLAIN_NUMBER.fullmatch(text) is not None:
        return Answer(text, parse(text), None, None)
    counted = _COUNTED.fullmatch(text)
    if counted is not None and counted["noun"] not in _NO_NOUNS:  # most answers: half the time
        unit = find_unit(counted["noun"] or "") or find_unit(counted["dollar"] or "")
        return Answer(text, parse(counted["number"]), unit, None)
    return _read(text, letter_units)


def _read(text: str, letter_units: bool) -> Answer:
    text = clean(text)
    body = undress(_IMPLIES.split(text)[-1])
    if body.count("$") > 1 and body.count("$") % 2 == 0:  # `$28$ percent`, `$x$ and $y$`
        body = undress(" ".join(body.replace("\\$", "").replace("$", " ").split()))
    body = undress(_DELIMITER.sub(" ", body)) if "\\(" in body or "\\[" in body else body
    body = _FOR_ALL.sub("", _SAYS.sub("", _LEADING.sub("", body)))
    inner = _TEXT_MACRO.fullmatch(body)
    if inner is not None and any(char.isdigit() for char in inner[1]):  # `\\text{12 eggs}`
        body = undress(inner[1])
    body = _NEGATIVE.sub("-", _PER.sub("", body))
    body = _SCALED.sub(
        lambda found: rf"{found['number']}\times10^{{{_ZEROS[found['scale']]}}}", body
    )
    body = _BASE.sub(r"\1_{\2}", _GLUED.sub(r" \g<0> ", body))
    label = _LABEL.match(body)
    if label is not None and not _is_math_word(label[0]):
        body = undress(body[label.end() :])
    plain = plain_unit(body)
    if _REALS.fullmatch(plain):
        return Answer(text, Expr("reals"), None, None)
    if _EMPTY.fullmatch(plain):
        return Answer(text, Expr("empty"), None, None)
    if _BAD.search(body):
        return Answer(text, None, None, "it has no definite value (nan or an ellipsis)")
    try:
        expr, unit = _with_unit(body, letter_units)
    except ParseError as error:
        return Answer(text, None, None, str(error))
    return Answer(text, expr, unit, None)


def _with_unit(body: str, letter_units: bool) -> tuple[Expr, Unit | None]:
    currency = _CURRENCY.match(body)
    if currency is not None:
        sign = find_unit(currency[0].replace("\\", "").replace("US$", "$").strip(" -.") or "$")
        rest = currency[1] + body[currency.end() :]
        if _CURRENCY.match(rest):
            raise ParseError("two currency signs")
        expr, unit = _with_unit(rest, letter_units)
        return expr, unit or sign
    ending = _CURRENCY_END.search(body)
    if ending is not None and ending.start() > 0:
        return parse(undress(body[: ending.start()])), find_unit(ending[0].strip(" \\"))
    for pattern, head in ((_PERCENT, "percent"), (_DEGREES, "deg")):
        match = pattern.fullmatch(body)
        if match is not None and match["body"]:
            return Expr(head, (parse(undress(match["body"])),)), None
    match = _UNIT_MACROS.fullmatch(body)
    if match is not None and match["body"] and _names_unit(match["unit"]):
        return _parse_body(match["body"]), find_unit(match["unit"])
    match = _UNIT_WORDS.fullmatch(body)
    if match is not None and _words_name_unit(match["unit"], bool(match["space"]), letter_units):
        try:
            return _parse_body(match["body"]), find_unit(match["unit"])
        except ParseError:
            pass  # what looked like a body was none: `12 and 13 dollars` reads as a whole or not
    return parse(body), None


def _parse_body(body: str) -> Expr:
    return parse(undress(_CURRENCY_END.sub("", undress(body))))


def _names_unit(text: str) -> bool:
    words = plain_unit(text).lower().split()
    first = words[0].strip(",.").partition("^")[0] if words else ""
    return bool(words) and (first == "in" or first not in _NOT_UNITS)


def _words_name_unit(text: str, spaced: bool, letter_units: bool) -> bool:
    first = _first(text.lstrip("("))
    if first.lower() in _NOT_UNITS or set(text.lower().split()) & {"and", "or", "if"}:
        return False
    if len(first) == 1:
        return letter_units and is_symbol(first)
    return is_symbol(first) or (len(first) > 2 and (spaced or find_unit(first) is not None))


def _first(text: str) -> str:
    match = _FIRST.match(text)
    return match[0] if match else ""


def _is_math_word(label: str) -> bool:
    first = _first(label).lower()
    return first in _NOT_UNITS or (len(first) < 3 and not label.startswith("\\"))


# Text answers


def is_text(answer: Answer) -> bool:
    """Whether a gold is words (a name, yes, a choice) and not an expression."""
    if choice(answer.text) is not None:
        return True
    inner = _TEXT_MACRO.fullmatch(answer.text)
    text = inner[1].strip() if inner else _TEXT_MACRO.sub(r"\1", answer.text)
    if not _TEXTUAL.fullmatch(text):
        return False
    if answer.expr is not None and answer.expr.head not in ("sym", "mul"):
        return False
    if answer.expr is None:
        return "nan" not in words(text).split()
    if inner is not None:
        return len(text) > 1
    return words(text) in ("yes", "no", "true", "false") or bool(_LONG_WORD.search(text))


def words(text: str) -> str:
    """The words of a text, in lower case, without markup and punctuation."""
    text = _TEXT_MACRO.sub(r" \1 ", text)
    return " ".join(_WORDS.findall(text.casefold()))


def choice(text: str) -> str | None:
    """The option's letter if the text is one: `B`, `(B)`, `\\text{(B)}`."""
    text = undress(_TEXT_MACRO.sub(r"\1", text).strip())
    match = _CHOICE.fullmatch(text)
    return match[1] if match else None


def same_text(gold: str, text: str) -> bool:
    """Whether a text answer says what the gold says.

    Options compare by letter, and what follows the letter is not looked at (`(B) 12`). Yes, no,
    true and false compare by the first word. Everything else must have the same words.
    """
    letter = choice(gold)
    if letter is not None:
        plain = undress(_TEXT_MACRO.sub(r"\1", text).strip())
        plain = _OPTION.sub("", plain)
        match = _CHOICE.fullmatch(plain.upper()) or _CHOICE_FIRST.match(plain)
        return match is not None and letter in match.groups()
    gold_words, text_words = words(gold), words(text)
    if gold_words in ("yes", "no", "true", "false"):
        return text_words.split(" ")[0] == gold_words
    return bool(gold_words) and _ARTICLE.sub("", gold_words) == _ARTICLE.sub("", text_words)


def same_word(gold: str, text: str) -> bool:
    """Whether both are one word that could be a product of variables: `odd` and `\\text{odd}`."""
    return gold.isalpha() and len(gold) > 1 and _TEXT_MACRO.sub(r"\1", text).strip() == gold


def canonical(text: str) -> str:
    """A spelling in which equal strings mean equal answers, for what the parser does not read."""
    return "".join(_BRACED.sub(r"\1", _STYLE.sub("", text)).split())


def is_opaque(answer: Answer) -> bool:
    """Whether it uses operators the parser does not read: sums, integrals, limits, set-builder."""
    return answer.expr is None and bool(_OPAQUE.search(answer.text))


def scaled(expr: Expr, unit: Unit, to: Unit) -> Expr:
    """The same quantity in another unit of the same dimension."""
    ratio = unit.factor / to.factor
    if expr.head == "num":
        value, ulp = expr.data
        return num(value * ratio, None if ulp is None else ulp * ratio)
    return Expr("mul", (num(ratio), expr))
