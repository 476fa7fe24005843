r"""Finding the answer that a completion settles on. The order is in docs/math_verifier.md.

*Claims* say outright which answer is final: `\boxed{}`, "final answer is", `####`, `<answer>`. The
last claim in the text counts. Without one, the last "answer is", "Answer:" or "A:" counts, then a
completion that is nothing but an answer, then the last formula of the last paragraph (only for
golds that are no plain number) or the last number (only where the data set allows it).

A claim gives one or more *candidates*, from the whole sentence down to the number in it: the first
one that can be read is the answer. Which one that is never depends on the gold's value, only on
its kind.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from verifiers.mathematics import prose
from verifiers.mathematics.answer import PLAIN_NUMBER, is_opaque, read, words
from verifiers.mathematics.clean import balanced_end, undress
from verifiers.mathematics.expr import MAX_CHARS, TooLarge, symbols, walk
from verifiers.mathematics.parse import FUNCTION_NAMES
from verifiers.mathematics.prose import numbers_in
from verifiers.mathematics.units import find_unit

MAX_TEXT_CHARS = 100_000
"""Longest completion that is searched; of longer ones the end. No model writes
so much after its answer."""
MAX_BOXES = 20
"""More different boxes than this are a spray, wherever they stand."""
MAX_CLAIMS = 40
"""So many claims of a kind are looked at, from the end."""
MAX_JOINED_CHARS = 40
"""Longest text between two boxes that can be a connector: `}$ and $\\boxed{`."""
MAX_BARE_CHARS = 300
"""Longest completion that may be nothing but an answer."""
MAX_BARE_WORDS = 6
"""The same for golds that are words."""
MAX_TAIL_CHARS = 160
"""A formula or number further from the end of the last paragraph is not where the text settles."""


class Kind(NamedTuple):
    """What kind of gold is looked for."""

    number: bool = False
    """One rational number."""
    text: bool = False
    """Words or a multiple-choice letter."""
    several: bool = False
    """A list, set or plus-minus: several boxes may give one element each."""


class Found(NamedTuple):
    rule: str
    candidates: tuple[str, ...]
    """Texts to try, the most complete first; none if the completion contradicts itself."""


_STOP = re.compile(
    r"<\|(?:im_end|im_start|endoftext|eot_id|end_of_text|end|eos|user)\|>|</s>"
    r"|\n[ \t]*(?:Question|Problem|Q|User|Human|Instruction)\s?:"
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s?(?:(\{)|([0-9A-Za-z]))")
_CONNECTOR = re.compile(
    r"(?:\s|[$,;&.*~]|\\[()\[\],;!: ]|\\(?:quad|qquad)|\\text\s?\{\s?(?:and|or)\s?,?\s?\}|and|or"
    r"|(?:\\?text\{)?[a-z]\s?=)*"
)
_JOINS = re.compile(r"[^.\n]*(?:\b(?:and|or)\b|[,;&])[^.\n]*")
_FINAL = re.compile(
    r"(?<![A-Za-z])final\s{1,4}answers?\b[\s*_]{0,9}(?:\([^()\n]{0,60}\)[\s*_]{0,9})?"
    r"(?::|=|is\b|are\b|(?=\n))",
    re.IGNORECASE,
)
_HASHES = re.compile(r"####[ \t]*([^\n#]{1,300})")
_TAG = re.compile(r"<\s?answer\s?>(.*?)(?:<\s?/\s?answer\s?>|\Z)", re.IGNORECASE | re.DOTALL)
_ANSWER = re.compile(
    r"(?<![A-Za-z])answers?\b[\s*_]{0,9}"
    r"(?:(?:\([^()\n]{0,60}\)|(?:to|for|of)\s(?:the|this|your)\s[a-z ]{1,30})[\s*_]{0,9})?"
    r"(?::|=|is\b|are\b|would be\b|will be\b|must be\b|should be\b)"
    r"|(?:(?<=#\s)|(?<=#\sThe\s))answer[ \t]{0,9}\n",
    re.IGNORECASE,
)
_A = re.compile(r"(?:^|\n)[ \t*_]{0,9}A:")
_CORRECTION = re.compile(
    r"(?:\bwait\b|\bhold on\b|\bcorrection\b|\bmade an? (?:\w+ )?(?:mistake|error)\b)",
    re.IGNORECASE,
)
_CORRECTING = ("wait", "hold on", "correction", "mistake", "error")
_OPTION = re.compile(r"\b(?:correct|right|best)\s(?:option|choice)\s(?:is\b|:)", re.IGNORECASE)
_PLAIN_CLAIM = re.compile(
    r"[\s*_:]{0,9}\$?(-?[0-9]{1,30}(?:,[0-9]{3}){0,9}(?:\.[0-9]{1,30})?)(?:\$|\*\*)?"
    r"(?:\.?(?=\n)|\.?\Z|\.(?=\s))"
)
_DENIAL = re.compile(r"(?:not|never|neither|cannot|unknown)\b", re.IGNORECASE)
_FILLER = re.compile(
    r"(?:(?:approximately|about|roughly|simply|just|therefore|thus|then|indeed|equal to|given by"
    r"|that|exactly|clearly|also|option|choice|[:>=]|->|\\approx|≈)\s*)+",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[^\s.])\.(?=\s+[A-Z(\\$*<]|\s*$|\s*\n)|\n|\.?\s*<\||\.\s")
_SPAN = re.compile(
    r"\$\$(?P<a>[^$]{1,2000}?)\$\$|\\\[(?P<b>(?:(?!\\\[).){1,2000}?)\\\]"
    r"|\\\((?P<c>(?:(?!\\\().){1,2000}?)\\\)"
    r"|(?<!\\)\$(?P<d>[^$\n]{1,2000}?)(?<!\\)\$",
    re.DOTALL,
)
_FORMULA_SIGN = re.compile(r"\$|\\[(\[)\]]")
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*")
_MARKUP = re.compile(r"\*\*(?![0-9(])|(?<![0-9A-Za-z)])\*\*|(?<!\S)__|__(?!\S)|`")
_LATEX_WORD = re.compile(
    r"\\(?:text|mathrm|mbox|textbf|operatorname|mathbf)\s?\{[^{}]*\}|\\begin\{[a-z]*\}(?:\{[clr|]*\})?"
    r"|\\end\{[a-z]*\}|\\[A-Za-z]+"
)
_LETTERS = re.compile(r"[A-Za-z]{2,}")
_STOP_WORDS_TEXT = """
a an the is are was be of to in on at by for from with as it he she we they so if not no than
then this that each more less left per all has had his her its out up but
"""
_STOP_WORDS = frozenset(_STOP_WORDS_TEXT.split())
_PLAIN = frozenset(
    (
        "and",
        "or",
        "pi",
        "sqrt",
        "infinity",
        "inf",
        "oo",
        "nan",
        "degrees",
        "degree",
        "percent",
        "percentage",
        "pct",
        "minus",
        "negative",
        "million",
        "billion",
    )
)
_LINE_OR_FORMULA_END = re.compile(r"\n|(?<!\\)\$|\\[)\]]")
_ASIDE = re.compile(r",\s|\s(?:because|since|for|when|if|as|which)\s|\s\(")
_NUMBER_AND_NOUN = re.compile(r"\W*[0-9][0-9.,/]*\s?\\?%?\s?[A-Za-z]+\W*")
_STEP = re.compile(r"[0-9]+[.)]\s")
"""The number of a step."""
_SENTENCE = re.compile(r"(?=.*[a-z]\s[a-z])[A-Za-z0-9\s$.,%\\-]*")
_TEXT_MACRO = re.compile(r"\\(?:text|mathrm|textbf|mbox)\s?\{([^{}]*)\}")


def extract(completion: str, kind: Kind, *, last_number: bool) -> Found | None:
    """Where the completion settles; null if nowhere.

    Args:
        last_number: whether the last number may be taken where nothing else is found.
    """
    text = _settled_part(completion)
    if text is None:
        return None
    folded = text.lower()
    claim = _last_claim(text, folded, kind)
    if claim is not None:
        return claim
    corrected = 0
    if any(word in folded for word in _CORRECTING):  # much faster than the pattern
        corrected = max((match.end() for match in _CORRECTION.finditer(text)), default=0)
    for start in _answer_starts(text, folded):
        candidates = _claimed(text, start, kind) if start > corrected else ()
        if candidates:
            return Found("answer is", candidates)
    bare = undress(text) if len(text) <= 2 * MAX_BARE_CHARS else ""
    one_line = "\n" not in bare or "\\" in bare  # a formula may be set on several
    if bare and one_line and len(bare) <= MAX_BARE_CHARS and _is_answer(bare):
        return Found("bare", (bare,))
    if kind.text and bare and len(bare.split()) <= MAX_BARE_WORDS and "\n" not in bare:
        return Found("bare", (bare, *(span for span in map(_inside, _SPAN.finditer(bare)))))
    formula = _last_formula(text, kind)
    number = prose.last_number(text) if last_number else None
    if formula is not None and (number is None or number.start() < formula[0]):
        return formula[1]
    return None if number is None else Found("last number", (number[0],))


def gold_text(answer: str) -> str:
    r"""The answer in a gold, which may be a whole solution: `... #### 18`, `\boxed{18}`."""
    if "\\boxed" in answer or "\\fbox" in answer or "####" in answer:
        claim = _last_claim(answer, answer.lower(), Kind(several=True))
        if claim is not None and claim.candidates:
            return claim.candidates[0]
    if len(answer) > MAX_BARE_CHARS or _A.search(answer):
        found = extract(answer, Kind(), last_number=False)
        if found is not None:
            return found.candidates[0]
    return answer


def _settled_part(completion: str) -> str | None:
    """What follows the reasoning and precedes whatever a runaway model made up next."""
    text = completion[-MAX_TEXT_CHARS:]
    if "</think>" in text:
        text = text.rpartition("</think>")[2]
    elif "<think>" in text:
        return None
    text = text.strip()
    stop = _STOP.search(text, 1)  # not at the very start
    return text if stop is None else text[: stop.start()]


# Claims


def _last_claim(text: str, folded: str, kind: Kind) -> Found | None:
    """The last outright claim. Without candidates: boxes that contradict each other."""
    claims: list[tuple[int, Found]] = []
    boxed = _boxed(text, kind)
    if boxed is not None:
        claims.append(boxed)
    for start in _last_ends(_FINAL, text, folded, "final"):
        if boxed is not None and start < boxed[0]:
            break  # it comes before the last box
        candidates = _claimed(text, start, kind)
        if candidates:
            claims.append((start, Found("final answer", candidates)))
            break
    for match in _last_few(_HASHES, text) if "####" in text else ():
        content = _MARKUP.sub("", match[1]).strip()
        if _is_answer(content) or (kind.text and len(content.split()) <= 3):
            claims.append((match.start(), Found("hashes", (content,))))
            break
    for match in _last_few(_TAG, text) if "<answer" in folded or "< answer" in folded else ():
        content = match[1].strip()
        if content and "\\boxed" not in content:
            claims.append((match.start(), Found("answer tag", _narrowed(content, kind))))
            break
    return max(claims, key=lambda claim: claim[0])[1] if claims else None


def _boxed(text: str, kind: Kind) -> tuple[int, Found] | None:
    boxes = list(_boxes(text)) if "\\boxed" in text or "\\fbox" in text else []
    if not boxes:
        return None
    run = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        between = text[box[1] : run[0][0]]
        if len(between) > MAX_JOINED_CHARS:
            break
        if not (_CONNECTOR.fullmatch(between) or (kind.several and _JOINS.fullmatch(between))):
            break
        run.insert(0, box)
    contents = [content for _, _, content in run]
    different = {"".join(content.split()) for content in contents}
    position = run[-1][0]
    if len({"".join(box[2].split()) for box in boxes}) > MAX_BOXES:
        return position, Found("boxes contradict", ())
    if len(different) == 1:
        return position, Found("boxed", _narrowed(contents[-1], kind))
    if not kind.several:
        return position, Found("boxes contradict", ())
    return position, Found("boxed list", (", ".join(contents),))


def _narrowed(content: str, kind: Kind) -> tuple[str, ...]:
    """Candidates in a box or tag: the content, or the one number of a sentence in it."""
    if kind.text:
        return (content, *_claimed(content, 0, kind))
    if kind.number and len(content) <= MAX_BARE_CHARS and not _is_answer(content):
        sentence = _TEXT_MACRO.sub(r" \1 ", content)
        numbers = numbers_in(sentence) if _SENTENCE.fullmatch(sentence) else []
        if len(numbers) == 1:
            return (numbers[0][0],)
    return (content,)


def _boxes(text: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and content of each top-level, non-empty box."""
    at = 0
    for match in reversed(_last_few(_BOX, text)):
        if match.start() < at:
            continue
        at = match.end()
        if match[2] is not None:
            yield match.start(), at, match[2]
            continue
        rest = text[at : at + 2 * MAX_CHARS]
        end = balanced_end(rest, 0)
        if end is None:  # unclosed: the rest of the formula, or of the line
            content = _LINE_OR_FORMULA_END.split(rest, maxsplit=1)[0]
            at += len(content)
        else:
            at += end + 1
            content = rest[:end]
        nested = _BOX.search(content)
        if nested is not None and nested[1] and content.endswith("}"):
            content = content[nested.end() : -1]
        if content.strip(" ~\n\t$"):
            yield match.start(), at, content


def _claimed(text: str, start: int, kind: Kind) -> tuple[str, ...]:
    """Candidates in the sentence that begins at `start`; none if it states no answer."""
    plain = _PLAIN_CLAIM.match(text, start)
    if plain is not None:  # most claims
        return (plain[1],)
    rest = text[start : start + 4 * MAX_CHARS].lstrip()
    rest = _FILLER.sub("", rest, count=1) if _FILLER.match(rest) else rest
    rest = rest.lstrip(" \t\n*_:")
    if _DENIAL.match(rest):
        return ()
    candidates: list[str] = []
    span = _SPAN.match(rest)
    if span is not None and _is_prose(_inside(span)):
        span = None  # two prices: `$18 (9 eggs at $2)`
    end = _sentence_end(rest, span.end() if span else 0)
    sentence = _MARKUP.sub("", rest[:end]).strip().rstrip("!")
    if _is_answer(sentence):
        candidates.append(sentence)
    elif span is not None:
        inner = _inside(span)
        after = rest[span.end() : end].strip().split(" ")[0]
        if find_unit(after.strip(".,")) is not None or after.strip(".,") in ("percent", "%"):
            candidates.append(f"{inner} {after}")
        candidates.append(inner)
    if kind.text:
        bold = _BOLD.match(rest)
        candidates.extend([*([bold[1]] if bold else []), sentence, sentence.split(",")[0]])
        return tuple(candidate for candidate in candidates if candidate)
    if not candidates and text[start - 1 : start] == ":" and _is_worked_out(sentence, rest[end:]):
        return ()
    if kind.number and not candidates:
        number = prose.claimed_number(sentence)
        if number is not None:
            candidates.append(number)
    if not candidates:
        spans = list(_SPAN.finditer(rest[:end]))
        if spans and _is_answer(_inside(spans[-1])):
            candidates.append(_inside(spans[-1]))
        elif (head := _ASIDE.split(sentence, maxsplit=1)[0]) and (_is_answer(head)):
            candidates.append(head)
    if not candidates and sentence and not rest[end:].strip(" .$*\n") and not numbers_in(sentence):
        candidates.append(sentence)  # it is what the text ends in, and it is no such answer
    return tuple(candidates)


def _answer_starts(text: str, folded: str) -> list[int]:
    """Where what "answer is" and the like announce begins, last first."""
    starts = _last_ends(_ANSWER, text, folded, "answer")
    if "a:" in folded:
        starts.extend(match.end() for match in _last_few(_A, text))
    if "option" in folded or "choice" in folded:
        starts.extend(match.end() for match in _last_few(_OPTION, text))
    return sorted(starts, reverse=True)[:MAX_CLAIMS]


def _last_ends(pattern: re.Pattern[str], text: str, folded: str, word: str) -> list[int]:
    """Ends of the last `MAX_CLAIMS` matches, last first. All of them begin with `word`, which is
    found much faster than the pattern."""
    ends: list[int] = []
    at = folded.rfind(word)
    for _ in range(10 * MAX_CLAIMS):
        if at < 0 or len(ends) == MAX_CLAIMS:
            break
        match = pattern.match(text, at)
        if match is not None:
            ends.append(match.end())
        at = folded.rfind(word, 0, at)
    return ends


def _last_few(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """The last `MAX_CLAIMS` matches, last first."""
    return list(reversed(deque(pattern.finditer(text), MAX_CLAIMS)))


def _sentence_end(text: str, start: int) -> int:
    """Where the sentence ends; formulas are not cut."""
    at = start
    spans = [span.span() for span in _SPAN.finditer(text)] if _FORMULA_SIGN.search(text) else []
    while (match := _SENTENCE_END.search(text, at)) is not None:
        inside = [end for begin, end in spans if begin < match.start() < end]
        if not inside:
            return match.start()
        at = inside[0]
    return len(text)


# Without a claim


def _last_formula(text: str, kind: Kind) -> tuple[int, Found] | None:
    """The last formula with its end, if it stands near the end of the text."""
    if not _FORMULA_SIGN.search(text, max(0, len(text) - MAX_TAIL_CHARS - 2)):
        return None  # none ends there
    spans = _last_few(_SPAN, text)
    if not spans or len(text) - spans[0].end() > MAX_TAIL_CHARS:
        return None
    inner = _inside(spans[0])
    if kind.several:
        run = [inner]
        for later, earlier in pairwise(spans):
            between = text[earlier.end() : later.start()]
            if len(between) > MAX_JOINED_CHARS or _CONNECTOR.fullmatch(between) is None:
                break
            run.insert(0, _inside(earlier))
        inner = ", ".join(run)
    if kind.text or (_is_answer(inner) and not (kind.number and _is_open(inner))):
        return spans[0].end(), Found("last formula", (inner,))
    return None


def _is_worked_out(sentence: str, rest: str) -> bool:
    """Whether "Answer:" is the heading of a solution that begins with this sentence, and no claim:
    the sentence does not begin with its number, and more numbers follow."""
    starts_with_number = sentence.lstrip(" $*_\\(-")[:1].isdigit()
    return not (starts_with_number and _STEP.match(sentence) is None) and bool(numbers_in(rest))


def _inside(span: re.Match[str]) -> str:
    return next(group for group in span.groups() if group is not None)


def _is_answer(text: str) -> bool:
    """Whether a text reads as an expression with at most a unit, and not as prose."""
    if PLAIN_NUMBER.fullmatch(text) is not None:
        return True
    if not text or len(text) > MAX_CHARS or _is_prose(text):
        return False
    try:
        expr = read(text, letter_units=True).expr
    except TooLarge:
        return True  # it is one; that it cannot be judged is for the verdict to say
    if expr is None:
        return is_opaque(read(text, letter_units=True))
    return not any(
        node.head == "sym" and len(words(node.data)) > 3 and node.data[0] != "\\"
        for node in walk(expr)
    )


def _is_open(text: str) -> bool:
    """Whether a formula has variables and gives them no value: `x^2`, not `x = 4`."""
    try:
        expr = read(text, letter_units=True).expr
    except TooLarge:
        return False
    return expr is not None and expr.head != "rel" and bool(symbols(expr))


def _is_prose(text: str) -> bool:
    """Whether words other than functions, units and connectors stand in it."""
    plain = _LATEX_WORD.sub(" ", text)
    found = [
        word
        for word in _LETTERS.findall(plain)
        if word.lower() not in _PLAIN
        and word not in FUNCTION_NAMES
        and find_unit(word) is None
        and word.lower() not in ("per", "square", "sq", "cubic")
    ]
    if len(found) > 1 or any(word.lower() in _STOP_WORDS for word in found):
        return True
    return any(len(word) > 3 for word in found) and not _ends_in_noun(plain)


def _ends_in_noun(text: str) -> bool:
    """A number and one word: `12 eggs`."""
    return _NUMBER_AND_NOUN.fullmatch(text) is not None
