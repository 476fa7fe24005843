r"""Spelling: one form for the many ways of typing the same answer.

`clean` works on text, before any parsing: Unicode to ASCII and LaTeX, spacing and sizing macros
dropped, fraction variants unified, thousands separators that LaTeX marks as such (`1{,}000`,
`1,\!000`) closed up, outer decoration (`$...$`, `\boxed{}`, `**bold**`, a trailing period) removed.
"""

# ruff: noqa: RUF001
# Characters that look like ASCII ones are what models write, and what this file reads.

from __future__ import annotations

import re

from verifiers.mathematics.expr import MAX_CHARS, TooLarge

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_VULGAR = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5),
    "⅗": (3, 5), "⅘": (4, 5), "⅙": (1, 6), "⅚": (5, 6), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8),
    "⅞": (7, 8),
}  # fmt: skip
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "θ": "theta",
    "λ": "lambda", "μ": "mu", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi",
    "ω": "omega", "Δ": "Delta", "Σ": "Sigma", "Ω": "Omega",
}  # fmt: skip
_CHARS: dict[str, str] = {
    **dict.fromkeys("−–—‐‑⁃﹣", "-"),
    **dict.fromkeys("’‘′`", "'"),
    **dict.fromkeys("“”", '"'),
    **dict.fromkeys("\xa0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009", " "),
    **dict.fromkeys("\u200a\u202f\u205f\u3000\t\r\n", " "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
    **{char: f"\\{name} " for char, name in _GREEK.items()},
    **{char: f"\\frac{{{top}}}{{{bottom}}}" for char, (top, bottom) in _VULGAR.items()},
    **{"×": "\\times ", "÷": "\\div ", "·": "\\cdot ", "⋅": "\\cdot ", "∗": "*", "∙": "\\cdot "},
    **{"∞": "\\infty ", "√": "\\sqrt ", "≤": "\\le ", "⩽": "\\le ", "≥": "\\ge ", "⩾": "\\ge "},
    **{"≠": "\\ne ", "≈": "\\approx ", "≅": "\\approx ", "±": "\\pm ", "∓": "\\mp "},
    **{"∪": "\\cup ", "∩": "\\cap ", "∖": "\\setminus ", "∈": "\\in ", "∅": "\\emptyset "},
    **{"ℝ": "\\mathbb{R}", "…": "\\ldots ", "º": "°", "∘": "°", "˚": "°", "⁄": "/", "∕": "/"},
    **{"∣": "|", "⟨": "\\langle ", "⟩": "\\rangle ", "⌊": "\\lfloor ", "⌋": "\\rfloor "},
    **{chr(0xFEE0 + code): chr(code) for code in range(0x21, 0x7F)},  # full-width forms
}
_TABLE = str.maketrans(_CHARS)
_RAISED = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_LOWERED = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")

_THOUSANDS = re.compile(r"(?<=[0-9])\s?(?:\{\s?,\s?\}|,?\\!|\\[,:;])\s?(?=[0-9]{3}(?![0-9]))")
_SPACING = re.compile(
    r"(?<!\\)\\[!,;:> ]|~|\\q?quad|\\(?:displaystyle|textstyle|limits|thinspace|nobreak"
    r"|middle|left|right|[bB]igg?[lrm]?|large|Large|small)(?![A-Za-z])\.?|\\hspace\s?\{[^{}]*\}"
)
_ROW_SPACE = re.compile(r"(?<=\\\\)\s?\[\s?-?[0-9.]+\s?(?:pt|ex|em|mm|cm)\s?\]")
_ESCAPED = re.compile(r"\\\\(?=[A-Za-z{}%$!,;()\[\]])")
_FRAC = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_DEGREE = re.compile(r"\^\s?(?:\{\s?\\circ\s?\}|\\circ(?![A-Za-z])|°)|\\degree(?![A-Za-z])")
_WRAPPERS = (
    ("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("__", "__"),
    ("'''", "'''"), ("'", "'"), ('"', '"'), ("*", "*"), ("\\boxed{", "}"), ("\\fbox{", "}"),
    ("{", "}"),
)  # fmt: skip
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
MAX_LAYERS = 10
"""Nobody dresses an answer more often; the rest is for the parser to count as nesting."""
_WRAPPING_CHARS = frozenset(left[0] for left, _ in _WRAPPERS)
_TRAILING_CHARS = frozenset(".,;:?\\")
_TRAILING = re.compile(r"(?<![.,])(?:[.,;:?]|\\\\)\s?$")


def clean(text: str) -> str:
    """The text in its one spelling.

    Raises:
        TooLarge: it has more than `MAX_CHARS` characters.
    """
    if len(text) > MAX_CHARS:
        raise TooLarge(f"the answer has {len(text)} characters, more than {MAX_CHARS}")
    if not text.isascii():
        text = _RAISED.sub(lambda run: _script("^", run[0], _SUPERSCRIPTS), text)
        text = _LOWERED.sub(lambda run: _script("_", run[0], _SUBSCRIPTS), text)
        text = text.translate(_TABLE)
    text = " ".join(text.replace('\\"', '"').split())
    if "\\\\begin" in text:  # escaped once too often, as in JSON
        text = text.replace("\\\\", "\\")
    elif "\\\\" in text and "\\begin" not in text:  # the same: there are no rows to break
        text = _ESCAPED.sub(r"\\", text)
    if "\\" in text or "{" in text or "~" in text:
        text = _THOUSANDS.sub("", text)
        text = _ROW_SPACE.sub("", text)
        text = _SPACING.sub(" ", text)
        text = _FRAC.sub(r"\\frac", text)
        text = _DEGREE.sub("°", text).replace("\\%", "%")
    return undress(text)


def undress(text: str) -> str:
    """Without outer decoration and the final period, up to `MAX_LAYERS` of it."""
    for _ in range(MAX_LAYERS):
        before = text
        text = text.strip()
        if text[-1:] in _TRAILING_CHARS:
            text = _TRAILING.sub("", text).strip()
        if text[:1] not in _WRAPPING_CHARS:
            if text == before:
                break
            continue
        for left, right in _WRAPPERS:
            if text.startswith(left) and text.endswith(right) and _wraps(text, left, right):
                text = text[len(left) : -len(right)].strip()
        if text == before:
            break
    return text


def balanced_end(text: str, start: int) -> int | None:
    """Position of the `}` that closes the brace opened just before `start`; null if none does."""
    depth = 1
    for match in _BRACE.finditer(text, start):
        depth += (match[0] == "{") - (match[0] == "}")
        if depth == 0:
            return match.start()
    return None


def _wraps(text: str, left: str, right: str) -> bool:
    """Whether the two ends belong together: not `$a$ and $b$`, not `\\boxed{1},{2}`."""
    if len(text) < len(left) + len(right):
        return False
    if right == "}":
        return balanced_end(text, len(left)) == len(text) - 1
    inner = text[len(left) : -len(right)]
    return right not in inner.replace("\\$", "") and not inner.endswith("\\")


def _script(mark: str, run: str, digits: dict[str, str]) -> str:
    return f"{mark}{{{''.join(digits[char] for char in run)}}}"
