r"""A recursive-descent parser for answers in LaTeX, plain text, or a mixture: text -> `Expr`.

It reads what people write as a final answer and refuses the rest with `ParseError`; it never
guesses. Nothing is evaluated here but number literals, and nothing of the text is ever executed.

Conventions where spelling is ambiguous:

* letters stand side by side for a product (`xy`), words of four letters and more for one symbol;
* `e` and `i` are the constants; `\log` without a base is the decimal logarithm;
* `f`, `g`, `h` before a parenthesis are functions, as is any letter in `P(x) = ...`; other letters
  are factors;
* `2^10` is two to the ten, `\frac12` a half, `\sqrt13` the root of thirteen;
* `3\frac12` and `3 1/2` are mixed numbers if the fraction is proper, else nothing;
* `1,234` is a number outside brackets and two items inside; `1,23` is two items;
* other numbers that stand side by side (`2 3`) are nothing, but powers (`2^4 3^2`) are a product.
"""

from __future__ import annotations

import re
from fractions import Fraction

from verifiers.mathematics.expr import (
    CONSTANTS,
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_EXPONENT,
    MAX_ITEMS,
    MAX_TREE_DEPTH,
    Expr,
    ParseError,
    TooLarge,
    neg,
    num,
    symbols,
)

_NUMBER = re.compile(
    r"(?P<mixed>(?P<whole>[0-9]{1,3}(?:[ ][0-9]{3})+|[0-9]+)[ ]+(?P<top>[0-9]+)/(?P<bottom>[0-9]+)"
    r"(?![0-9/.]))"
    r"|(?P<body>[0-9]{1,3}(?:[ ][0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:[eE](?P<exponent>[+-]?[0-9]+)(?![0-9A-Za-z.]))?"
)
_PLAIN_NUMBER = re.compile(r"-?([0-9]{1,30}(?:\.[0-9]{1,30})?)")
_GROUPED = re.compile(r"[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9]|,[0-9])(?:\.[0-9]+)?")
_REPEATING = re.compile(r"([0-9]*)\.([0-9]*)\\overline\s?\{\s?([0-9]+)\s?\}")
_TOKEN = re.compile(r"\s*(\\[A-Za-z]+|\\.|[A-Za-z]+|[0-9.]|<=|>=|!=|==|\*\*|->|.)?", re.DOTALL)
_TEXT = re.compile(
    r"\\(?:text|mathrm|mbox|textbf|mathbf|textit|textrm|textnormal|operatorname|mathit|mathsf"
    r"|boldsymbol|bold|bm|rm|bf)(?![A-Za-z])\s?(?:\{([^{}]*)\})?"
)
_SUBSCRIPT = re.compile(r"\s?_\s?(?:\{([^{}]{1,20})\}|([0-9A-Za-z]))")
_DEFINES = re.compile(r"\(\s?[A-Za-z]\s?\)\s?=")
_BUILDER = re.compile(
    r"\s?([A-Za-z])\s?(?:\\in\s?\\mathbb\s?\{?\s?R\s?\}?\s?)?(?:\\mid|\\vert|\||:)(?![A-Za-z])"
)
_BEGIN = re.compile(r"\s?\{([a-zA-Z]*matrix|array|aligned)\*?\}(?:\s?\{[lcr| ]*\})?")
_SET_LETTER = re.compile(r"\{\s?([A-Z])\s?\}|([A-Z])")
_CAPITALS = re.compile(r"[A-Z]*")
_END = re.compile(r"\s?\{[a-zA-Z]*\*?\}")

_RELATIONS = {
    "=": "eq", "==": "eq", "\\equiv": "eq", "<": "lt", "\\lt": "lt", ">": "gt", "\\gt": "gt",
    "<=": "le", "\\le": "le", "\\leq": "le", "\\leqslant": "le", ">=": "ge", "\\ge": "ge",
    "\\geq": "ge", "\\geqslant": "ge", "!=": "ne", "\\ne": "ne", "\\neq": "ne",
    "\\approx": "approx", "\\simeq": "approx", "\\in": "in",
}  # fmt: skip
_SET_OPERATORS = {
    "\\cup": "union", "\\cap": "meet", "\\setminus": "minus", "\\backslash": "minus",
    "\\bigcup": "union",
}  # fmt: skip
_TIMES = frozenset(["*", "\\times", "\\cdot", "\\ast"])
_FUNCTIONS = {
    "sin": "sin", "cos": "cos", "tan": "tan", "cot": "cot", "sec": "sec", "csc": "csc",
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "asin": "asin", "acos": "acos",
    "atan": "atan", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "ln": "ln", "log": "log",
    "lg": "log", "exp": "exp", "sgn": "sgn", "max": "max", "min": "min", "gcd": "gcd", "lcm": "lcm",
    "cis": "cis", "Re": "re", "Im": "im", "arg": "arg",
}  # fmt: skip
FUNCTION_NAMES = frozenset(_FUNCTIONS)
"""Names of the functions that are read, with and without a backslash."""
_INVERSES = {"sin": "asin", "cos": "acos", "tan": "atan"}
_GREEK_TEXT = """
alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi
rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi
Omega ell hbar
"""
_GREEK = frozenset(_GREEK_TEXT.split())
_CONSTANTS = {
    "\\pi": Expr("sym", (), "pi"), "\\infty": Expr("oo"), "\\emptyset": Expr("empty"),
    "\\varnothing": Expr("empty"), "\\imath": Expr("sym", (), "i"), "\\R": Expr("reals"),
    "\\Reals": Expr("reals"), "\\e": Expr("sym", (), "e"), "\\i": Expr("sym", (), "i"),
}  # fmt: skip
_WORDS = {
    "pi": Expr("sym", (), "pi"), "infinity": Expr("oo"), "inf": Expr("oo"), "oo": Expr("oo"),
    "infty": Expr("oo"), "e": Expr("sym", (), "e"), "i": Expr("sym", (), "i"),
}  # fmt: skip
_ACCENTS = frozenset(
    (
        "\\overline",
        "\\vec",
        "\\hat",
        "\\bar",
        "\\tilde",
        "\\overrightarrow",
        "\\widehat",
        "\\underline",
    )
)
_UNKNOWN_FUNCTIONS = frozenset("fgh")
_CLOSERS = frozenset(
    [")", "]", "}", "\\}", "\\rangle", "\\rvert", "\\rfloor", "\\rceil", "&", "\\end", "\\vert"]
)
_ENDS_FACTOR = frozenset(
    [
        *(*_CLOSERS, *_RELATIONS, *_SET_OPERATORS, *_TIMES),
        *("", "+", "-", "\\pm", "\\mp", "/", "\\div", ",", ";", ":", "^", "_", "!", "%", "°", "'"),
        *("\\colon", "**", "->", "\\\\", "\\to", "\\mid", "$", "and", "or", "\\lor", "\\land"),
        *("\\vee", "\\wedge", ".", "\\mod", "\\pmod", "\\bmod", "?", '"', "#", "@"),
    ]
)


def parse(text: str) -> Expr:
    """Read a text that `clean` has returned.

    Raises:
        ParseError: it is not an expression.
        TooLarge: it nests deeper than `MAX_DEPTH`, or has longer literals than `MAX_DIGITS`.
    """
    plain = _PLAIN_NUMBER.fullmatch(text)
    if plain is not None:  # most answers
        literal = _literal(plain[1], None)
        return neg(literal) if text[0] == "-" else literal
    parser = _Parser(text)
    expr = parser.items()
    if parser.peek():
        raise ParseError(f"unexpected {parser.peek()!r} at {parser.at}")
    _check_depth(expr)
    return expr


def _check_depth(expr: Expr) -> None:
    """Chains such as `a/b/c/...` and `5!!!...` build deep trees without nesting in the text."""
    level, depth = [expr], 0
    while level:
        depth += 1
        if depth > MAX_TREE_DEPTH:
            raise TooLarge(f"the expression is more than {MAX_TREE_DEPTH} levels deep")
        level = [arg for node in level for arg in node.args]


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0
        self.brackets = 0
        self.bars = 0

    # Tokens

    def peek(self) -> str:
        """The next token, white space left out; empty at the end."""
        match = _TOKEN.match(self.text, self.at)
        return match[1] or "" if match else ""

    def take(self) -> str:
        match = _TOKEN.match(self.text, self.at)
        assert match is not None  # the pattern matches the empty string
        self.at = match.end()
        return match[1] or ""

    def expect(self, *tokens: str) -> str:
        found = self.take()
        if found not in tokens:
            raise ParseError(f"expected {' or '.join(tokens)}, found {found!r}")
        return found

    def _space(self) -> None:
        while self.at < len(self.text) and self.text[self.at] == " ":
            self.at += 1

    # Lists and relations

    def items(self) -> Expr:
        """`relation (separator relation)*`, where separators are `,`, `;`, "and", "or"."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooLarge(f"the answer nests deeper than {MAX_DEPTH}")
        found = [self.relation()]
        separators: set[str] = set()
        while (separator := self._separator()) is not None:
            if len(found) == MAX_ITEMS:
                raise TooLarge(f"the answer has more than {MAX_ITEMS} items")
            separators.add(separator)
            found.append(self.relation())
        self.depth -= 1
        if len(found) == 1:
            return found[0]
        if separators <= {"or"} and any(_is_inequality(item) for item in found):
            return Expr("or", tuple(found))
        if separators <= {"and"} and any(_is_inequality(item) for item in found):
            return Expr("and", tuple(found))
        return Expr("list", tuple(found))

    def _separator(self) -> str | None:
        found = None
        while True:
            start = self.at
            token = self.take()
            if token in _SEPARATORS:
                found = _SEPARATORS[token] if found in (None, ",") else found
                continue
            self.at = start
            if token.startswith("\\") and (match := _TEXT.match(self.text, self._after_space())):
                word = (match[1] or "").strip(" ,").lower()
                if word in ("and", "or"):
                    self.at = match.end()
                    found = word
                    continue
            return found

    def _after_space(self) -> int:
        self._space()
        return self.at

    def relation(self) -> Expr:
        members = [self.ratio()]
        operators: list[str] = []
        while (token := self.peek()) in _RELATIONS:
            self.take()
            if token == "=" and self.peek() == "=":
                self.take()
            operators.append(_RELATIONS[token])
            members.append(self.ratio())
        return Expr("rel", tuple(members), tuple(operators)) if operators else members[0]

    def ratio(self) -> Expr:
        found = [self.union()]
        while self.peek() in (":", "\\colon"):
            self.take()
            found.append(self.union())
        return Expr("ratio", tuple(found)) if len(found) > 1 else found[0]

    def union(self) -> Expr:
        left = self.sum()
        while True:
            token = self.peek()
            if token in _SET_OPERATORS:
                self.take()
                left = _chained(_SET_OPERATORS[token], left, self.sum())
            elif token == "U" and left.head in ("tuple", "interval", "set", "union"):
                self.take()
                left = _chained("union", left, self.sum())
            else:
                return left

    # Arithmetic

    def sum(self) -> Expr:
        sign = self.take() if self.peek() in ("+", "-", "\\pm", "\\mp") else "+"
        first = self._signed(sign)
        terms = [first]
        while (token := self.peek()) in ("+", "-", "\\pm", "\\mp"):
            self.take()
            if token in ("+", "-"):
                terms.append(self._signed(token))
            else:
                left = Expr("add", tuple(terms)) if len(terms) > 1 else terms[0]
                terms = [Expr(token[1:], (left, self.term()))]
        return Expr("add", tuple(terms)) if len(terms) > 1 else terms[0]

    def _signed(self, sign: str) -> Expr:
        nested = 0
        while sign in ("+", "-") and self.peek() in ("+", "-"):  # `--5`
            nested += 1
            if nested > MAX_DEPTH:
                raise TooLarge(f"the answer has more than {MAX_DEPTH} signs in a row")
            sign = "+" if self.take() == sign else "-"
        term = self.term()
        if sign == "-":
            return neg(term)
        return term if sign == "+" else Expr(sign[1:], (term,))

    def term(self) -> Expr:
        left = self.factor()
        while True:
            token = self.peek()
            if token in _TIMES:
                self.take()
                left = _times(left, self._operand())
            elif token in ("/", "\\div"):
                self.take()
                left = Expr("div", (left, self._operand()), token)
            elif self._starts_factor(token):
                left = self._side_by_side(left)
            else:
                return left

    def _operand(self) -> Expr:
        """A factor after an explicit operator may have a sign: `3 \\cdot -2`."""
        if self.peek() in ("+", "-"):
            self._enter()
            sign = self.take()
            inner = self._operand()
            self.depth -= 1
            return neg(inner) if sign == "-" else inner
        return self.factor()

    def _enter(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooLarge(f"the answer nests deeper than {MAX_DEPTH}")

    def _starts_factor(self, token: str) -> bool:
        if token == "|":
            return self.bars == 0
        return token not in _ENDS_FACTOR and not self._connects()

    def _connects(self) -> bool:
        """Whether "and" or "or" in `\\text{}` comes next."""
        match = _TEXT.match(self.text, self._after_space())
        return match is not None and (match[1] or "").strip(" ,").lower() in ("and", "or")

    def _side_by_side(self, left: Expr) -> Expr:
        token = self.peek()
        if token.isdigit() or token == ".":
            last = left.args[-1] if left.head == "mul" else left
            right = self.factor() if _is_power(last) else None
            if right is None or not _is_power(right):
                raise ParseError("two numbers side by side")
            return _chained("mul", left, right)
        right = self.factor()
        if _is_integer(left) and token == "\\frac":
            return _mixed(left, right)
        return _chained("mul", left, right)

    def factor(self) -> Expr:
        """An atom with its postfixes; powers associate to the right."""
        base = self._postfix(self.atom())
        if self.peek() in ("^", "**"):
            self.take()
            return self._postfix(Expr("pow", (base, self.exponent())))
        return base

    def exponent(self) -> Expr:
        self._enter()
        token = self.peek()
        if token == "-":
            self.take()
            result = neg(self.exponent())
        elif token in ("\\prime", "\\ast", "'", "*"):
            raise ParseError(f"{token} is no exponent")
        else:
            result = self.atom(bare=True)
            if self.peek() in ("^", "**"):
                self.take()
                result = Expr("pow", (result, self.exponent()))
        self.depth -= 1
        return result

    def _postfix(self, expr: Expr) -> Expr:
        while True:
            token = self.peek()
            if token == "!" and self.text[self.at :].lstrip()[:2] != "!=":
                self.take()
                expr = Expr("fact", (expr,))
            elif token in ("%", "°"):
                self.take()
                expr = Expr("percent" if token == "%" else "deg", (expr,))
            else:
                return expr

    # Atoms

    def atom(self, *, bare: bool = False) -> Expr:
        """One operand. With `bare`, juxtaposed letters are not joined: `x^ab` is `x^a b`."""
        self._space()
        if self.at >= len(self.text):
            raise ParseError("the answer ends where an operand is expected")
        char = self.text[self.at]
        if char.isdigit() or char == ".":
            return self._number()
        if char.isalpha():
            return self._letters()
        if char == "\\":
            return self._command()
        token = self.take()
        if token in ("(", "["):
            return self._bracket(token)
        if token == "{":
            return self._group("}")
        if token == "|":
            self.bars += 1
            inner = self._inside("|")
            self.bars -= 1
            return Expr("abs", (inner,))
        raise ParseError(f"unexpected {token!r}")

    def _number(self) -> Expr:
        repeating = _REPEATING.match(self.text, self.at)
        if repeating is not None:
            self.at = repeating.end()
            return _repeating(*repeating.groups())
        if self.brackets == 0 and (grouped := _GROUPED.match(self.text, self.at)) is not None:
            self.at = grouped.end()
            return _literal(grouped[0].replace(",", ""), None)
        match = _NUMBER.match(self.text, self.at)
        if match is None:
            raise ParseError("a point without digits")
        self.at = match.end()
        if match["mixed"] is not None:
            whole = _literal(match["whole"].replace(" ", ""), None)
            top, bottom = _literal(match["top"], None), _literal(match["bottom"], None)
            return _mixed(whole, Expr("div", (top, bottom), "/"))
        value = _literal(match["body"].replace(" ", ""), match["exponent"])
        subscript = _SUBSCRIPT.match(self.text, self.at)
        if subscript is not None:
            base = subscript[1] or subscript[2]
            if not base.isdigit() or not match["body"].isdigit():
                raise ParseError("a number with a subscript that is no base")
            self.at = subscript.end()
            return Expr("base", (), (match["body"].lstrip("0") or "0", int(base)))
        return value

    def _letters(self) -> Expr:
        word = self.take()
        if word in _WORDS:
            return _WORDS[word]
        if word in _FUNCTIONS:
            return self._function(_FUNCTIONS[word])
        if word in ("sqrt", "cbrt"):
            return _root(self._argument(), num(2 if word == "sqrt" else 3))
        if word == "abs":
            return Expr("abs", (self._argument(),))
        if word.lower() in ("nan", "undefined", "none", "null"):
            raise ParseError(f"{word} is no value")
        if len(word) < 4:
            self.at -= len(word) - 1
            return self._symbol(word[0])
        return self._symbol(word)

    def _symbol(self, name: str) -> Expr:
        """A variable with its subscript and primes, or an unknown function's value."""
        subscript = _SUBSCRIPT.match(self.text, self.at)
        if subscript is not None:
            name += "_" + (subscript[1] or subscript[2]).replace(" ", "")
            self.at = subscript.end()
        while self.at < len(self.text) and self.text[self.at] == "'":
            name += "'"
            self.at += 1
        is_defined = name not in CONSTANTS and _DEFINES.match(self.text, self.at) is not None
        if is_defined or (
            name[0] in _UNKNOWN_FUNCTIONS and self.text[self.at : self.at + 1] == "("
        ):
            self.take()
            inner = self._inside(")")
            args = inner.args if inner.head == "list" else (inner,)
            return Expr("apply", args, name)
        if name in ("e", "i"):
            return _WORDS[name]
        return Expr("sym", (), name)

    def _command(self) -> Expr:
        text = _TEXT.match(self.text, self.at)
        if text is not None:
            return self._named(text)
        command = self.take()
        name = command[1:]
        if command == "\\frac":
            top = self._argument(digit=True)
            return Expr("div", (top, self._argument(digit=True)), "frac")
        if name in ("binom", "dbinom", "tbinom"):
            top = self._argument(digit=True)
            return Expr("binom", (top, self._argument(digit=True)))
        if command == "\\sqrt":
            degree = num(2)
            if self.peek() == "[":
                self.take()
                degree = self._inside("]")
            return _root(self._argument(), degree)
        if name in _FUNCTIONS:
            return self._function(_FUNCTIONS[name])
        if command in _CONSTANTS:
            return _CONSTANTS[command]
        if name in _GREEK:
            return self._symbol(command)
        if command == "\\{":
            return self._set()
        if command in _DELIMITERS:
            head, closer = _DELIMITERS[command]
            return self._delimited(head, closer)
        if command == "\\begin":
            return self._matrix()
        if command == "\\mathbb":
            return self._blackboard()
        if command in _ACCENTS:
            inner = self._argument()
            return Expr("sym", (), f"{command}{_name(inner)}")
        if command in ("\\angle", "\\triangle", "\\measuredangle"):
            return Expr("sym", (), command + self._rest_of_word())
        raise ParseError(f"{command} is not read")

    def _named(self, match: re.Match[str]) -> Expr:
        r"""`\text{...}`, `\mathrm{...}` and their kin as an operand."""
        self.at = match.end()
        if match[1] is None:  # `\rm e`, `\mathbf v`
            return self.atom()
        word = match[1].strip()
        if word in _FUNCTIONS:
            return self._function(_FUNCTIONS[word])
        if word in _WORDS:
            return _WORDS[word]
        if not word or word.lower() in ("nan", "undefined"):
            raise ParseError(f"{word!r} is no value")
        if word.isdigit():
            return _literal(word, None)
        if not word.replace(" ", "").isalnum():
            raise ParseError(f"{word!r} is text")
        return self._symbol(word)

    def _blackboard(self) -> Expr:
        self._space()
        match = _SET_LETTER.match(self.text, self.at)
        if match is None or (match[1] or match[2]) != "R":
            raise ParseError("a number set other than the reals")
        self.at = match.end()
        return Expr("reals")

    def _rest_of_word(self) -> str:
        self._space()
        match = _CAPITALS.match(self.text, self.at)
        assert match is not None
        self.at = match.end()
        return match[0]

    def _argument(self, *, digit: bool = False) -> Expr:
        r"""What follows `\frac` or `\sqrt`: a group, else one atom (with `digit`, one digit)."""
        self._space()
        self._enter()
        start = self.text[self.at : self.at + 1]
        if digit and start.isdigit():
            self.at += 1
            result = num(int(start))
        elif start == "{":
            self.take()
            result = self._group("}")
        elif start.isalpha() and digit:
            self.at += 1
            result = self._symbol(start)
        else:
            result = self.atom()
        self.depth -= 1
        return result

    def _function(self, name: str) -> Expr:
        """A known function with the power, base and argument that follow it."""
        power: Expr | None = None
        base: Expr | None = None
        while (token := self.peek()) in ("^", "_"):
            self.take()
            if token == "^":
                power = self.exponent()
            elif name == "log":
                base = self._argument()
            else:
                raise ParseError(f"{name} with a subscript")
        if power == neg(num(1)) and name in _INVERSES:
            name, power = _INVERSES[name], None
        arg = self._function_argument()
        args = arg.args if arg.head in ("list", "tuple") else (arg,)
        if base is not None:
            args = (*args, base)
        value = Expr("fn", args, name)
        return value if power is None else Expr("pow", (value, power))

    def _function_argument(self) -> Expr:
        self._enter()
        token = self.peek()
        if token in ("(", "[", "{"):
            arg = self.atom()
        elif token == "-":
            self.take()
            arg = neg(self._function_argument())
        else:
            arg = self.factor()
            while self._starts_factor(token := self.peek()) and token not in ("(", "["):
                if token.lstrip("\\") in _FUNCTIONS:
                    break
                arg = self._side_by_side(arg)
            while self.peek() == "/" and arg.head in ("num", "sym", "mul"):  # `sin pi/3`
                self.take()
                arg = Expr("div", (arg, self.factor()), "/")
        self.depth -= 1
        return arg

    # Brackets

    def _inside(self, *closers: str) -> Expr:
        self.brackets += 1
        inner = self.items()
        self.expect(*closers)
        self.brackets -= 1
        return inner

    def _group(self, closer: str) -> Expr:
        inner = self.items()
        self.expect(closer)
        return inner

    def _bracket(self, opener: str) -> Expr:
        if self.peek() == ")":
            raise ParseError("empty parentheses")
        self.brackets += 1
        bars, self.bars = self.bars, 0
        inner = self.items()
        closer = self.expect(")", "]")
        self.bars = bars
        self.brackets -= 1
        if inner.head != "list":
            if (opener == "(") != (closer == ")"):
                raise ParseError(f"{opener} closed by {closer}")
            return inner
        if len(inner.args) == 2 and (opener, closer) != ("(", ")"):
            return Expr("interval", inner.args, (opener == "(", closer == ")"))
        if (opener == "(") != (closer == ")"):
            raise ParseError(f"{opener} closed by {closer}")
        return Expr("tuple", inner.args)

    def _set(self) -> Expr:
        if self.peek() == "\\}":
            self.take()
            return Expr("empty")
        builder = _BUILDER.match(self.text, self.at)
        if builder is not None:
            return self._condition(builder)
        inner = self._inside("\\}")
        return Expr("set", inner.args if inner.head == "list" else (inner,))

    def _condition(self, builder: re.Match[str]) -> Expr:
        """`\\{x \\mid 0 < x, x < 3\\}` is the inequalities after the bar."""
        self.at = builder.end()
        inner = self._inside("\\}")
        conditions = inner.args if inner.head in ("list", "and", "or") else (inner,)
        if not all(_is_inequality(item) and _has(item, builder[1]) for item in conditions):
            raise ParseError("a set described by something other than inequalities")
        return Expr("and", conditions) if inner.head == "list" else inner

    def _delimited(self, head: str, closer: str) -> Expr:
        bars, self.bars = self.bars, 0
        inner = self._inside(closer)
        self.bars = bars
        if head == "tuple":
            if inner.head != "list":
                raise ParseError("angle brackets around one item")
            return Expr("tuple", inner.args)
        return Expr(head, (inner,))

    def _matrix(self) -> Expr:
        opening = _BEGIN.match(self.text, self.at)
        if opening is None or opening[1] == "aligned":
            raise ParseError("an environment that is no matrix")
        if opening[1] == "vmatrix":
            raise ParseError("a determinant")
        self.at = opening.end()
        self.brackets += 1
        rows: list[list[Expr]] = [[]]
        while True:
            if self.peek() == "\\end":
                break
            rows[-1].append(self.relation())
            token = self.take()
            if token == "\\\\":
                rows.append([])
            elif token == "\\end":
                self.at -= len(token)
            elif token != "&":
                raise ParseError(f"{token!r} in a matrix")
        self.take()
        closing = _END.match(self.text, self.at)
        if closing is None:
            raise ParseError("a matrix that is not closed")
        self.at = closing.end()
        self.brackets -= 1
        rows = [row for row in rows if row]
        if not rows or any(len(row) != len(rows[0]) for row in rows):
            raise ParseError("a matrix with rows of different lengths")
        if len(rows) * len(rows[0]) > MAX_ITEMS:
            raise TooLarge(f"the answer has more than {MAX_ITEMS} items")
        cells = tuple(cell for row in rows for cell in row)
        return Expr("matrix", cells, (len(rows), len(rows[0])))


_SEPARATORS = {
    ",": ",", ";": ",", "and": "and", "or": "or", "\\lor": "or", "\\vee": "or", "\\land": "and",
    "\\wedge": "and",
}  # fmt: skip
_DELIMITERS = {
    "\\lvert": ("abs", "\\rvert"), "\\lfloor": ("floor", "\\rfloor"),
    "\\lceil": ("ceil", "\\rceil"), "\\langle": ("tuple", "\\rangle"),
    "\\vert": ("abs", "\\vert"),
}  # fmt: skip


def _literal(digits: str, exponent: str | None) -> Expr:
    if len(digits) > MAX_DIGITS:
        raise TooLarge(f"a number has more than {MAX_DIGITS} digits")
    power = int(exponent) if exponent is not None and len(exponent) < 8 else 0
    if exponent is not None and (len(exponent) >= 8 or abs(power) > MAX_EXPONENT):
        raise TooLarge(f"a number has an exponent over {MAX_EXPONENT}")
    if exponent is None and digits.isdigit():
        return Expr("num", (), (Fraction(int(digits)), None))
    scale = Fraction(10) ** power
    whole, point, places = digits.partition(".")
    value = Fraction(int((whole + places) or "0"), 10 ** len(places))
    ulp = scale / 10 ** len(places) if point or power < 0 else None
    return num(value * scale, ulp)


def _repeating(whole: str, fixed: str, cycle: str) -> Expr:
    if len(whole) + len(fixed) + len(cycle) > MAX_DIGITS:
        raise TooLarge(f"a number has more than {MAX_DIGITS} digits")
    value = Fraction(int(whole or "0")) + Fraction(int(fixed or "0"), 10 ** len(fixed))
    return num(value + Fraction(int(cycle), (10 ** len(cycle) - 1) * 10 ** len(fixed)))


def _is_power(expr: Expr) -> bool:
    return expr.head == "pow" and expr.args[0].head == "num" and expr.data is None


def _is_integer(expr: Expr) -> bool:
    return expr.head == "num" and expr.data[0].denominator == 1 and expr.data[1] is None


def _mixed(whole: Expr, fraction: Expr) -> Expr:
    """Whole part and proper fraction as one number; anything else is refused."""
    if fraction.head != "div" or not all(_is_integer(arg) for arg in fraction.args):
        return Expr("mul", (whole, fraction))
    top, bottom = (arg.data[0] for arg in fraction.args)
    if top >= bottom:
        raise ParseError("a mixed number whose fraction is not proper")
    return num(whole.data[0] + top / bottom)


def _chained(head: str, left: Expr, right: Expr) -> Expr:
    """`left head right` as one flat node, so that long products stay shallow."""
    if left.head == head and head != "minus":
        return Expr(head, (*left.args, right))
    return Expr(head, (left, right))


def _times(left: Expr, right: Expr) -> Expr:
    """A product; `a \\times 10^{k}` with a number `a` is a number in scientific notation."""
    if left.head == "num" and right.head == "pow" and right.args[0] == num(10):
        power, sign = right.args[1], 1
        if power.head == "neg":
            power, sign = power.args[0], -1
        if _is_integer(power):
            if power.data[0] > MAX_EXPONENT:
                raise TooLarge(f"a number has an exponent over {MAX_EXPONENT}")
            scale = Fraction(10) ** (sign * int(power.data[0]))
            value, ulp = left.data
            return num(value * scale, None if ulp is None else ulp * scale)
    return _chained("mul", left, right)


def _root(arg: Expr, degree: Expr) -> Expr:
    return Expr("pow", (arg, Expr("div", (num(1), degree), "root")))


def _is_inequality(expr: Expr) -> bool:
    return expr.head == "rel" and bool({"lt", "le", "gt", "ge", "ne"} & set(expr.data))


def _has(expr: Expr, name: str) -> bool:
    return symbols(expr) == {name}


def _name(expr: Expr) -> str:
    """A label for what stands under an accent: `\\overline{AB}`."""
    if expr.head == "sym":
        return str(expr.data)
    if expr.head == "mul":
        return "".join(_name(arg) for arg in expr.args)
    raise ParseError("an accent over an expression")
