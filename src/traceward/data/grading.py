"""Extract an answer from a text, compare two answers, and find the numbers a text states.

What counts as the same answer
* Numbers are compared exactly, as fractions: 18 = 18.00 = $18 = "18 dollars"; 1,000 = 1000 = 1e3; 3/4 = 0.75 =
  \\frac{3}{4}; 1 1/2 = 3/2; U+2212 is a minus; "2 million" is 2000000.
* A unit counts only where both sides name one: 18 = 18 cents, 18 dollars ≠ 18 cents, 10 apples ≠ 10 dozen. Two units
  agree when they share a word (dollars per week, dollars), except that "dozen" must be on both sides or on neither.
* A percent sign is such a unit: 50% = 50 % = 50 percent = 50 (GSM8K's references drop it), and 50% ≠ 0.5.
* A letter option is its letter: (B) = B. = "option b" = "(B) the text of the option".
* Everything else is text: case, white space, TeX and markdown wrappers and final punctuation do not count.

Because a bare number agrees with every unit, equality is not transitive; votes are therefore grouped by
`canonical_answer`, which drops the unit.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction


class Grade(StrEnum):
    """What comparing an answer with the reference says."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_VERDICT = "no-verdict"  # one of the two is missing


# --- extraction -------------------------------------------------------------------------------------------------------

_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_LABEL = re.compile(r"^[ \t*_]*(?:final[ \t]+)?answer[ \t*_]*:[ \t*_]*(\S.*?)[ \t]*$", re.MULTILINE | re.IGNORECASE)
_SPOKEN = re.compile(
    r"\banswer[ \t]+(?:is|=)(?:[ \t]+(?:therefore|thus|then|simply))?[ \t]*:?[ \t]*"
    r"(\S[^\n]*?)[ \t]*(?=[.!?](?:\s|$)|\n|$)",
    re.IGNORECASE,
)
_ANSWER_LINE = re.compile(
    r"[\s*_]*(?:(?:####|(?:final\s+)?answer[\s*_]*:)[\s*_]*(?P<any>[^\s*_].*?)|A:\s*(?P<number>\S.*?))[\s*_]*",
    re.IGNORECASE,
)


def _boxed(text: str) -> str | None:
    """The content of the last \\boxed{…}, nested braces and all; None where there is none or it never closes."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for position in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : position]
    return None


def extract_answer(text: str) -> str | None:
    """The answer a text states, None where it states none.

    Looked for in this order, the last occurrence of each: <answer> tags, "#### x", a line "Answer: x", \\boxed{x},
    "the answer is x".
    """
    for pattern in (_TAG, _HASHES, _LABEL):
        if found := pattern.findall(text):
            return found[-1].strip() or None
    if boxed := _boxed(text):
        return boxed.strip() or None
    if found := _SPOKEN.findall(text):
        return found[-1].strip(" *_") or None
    return None


def is_number(text: str) -> bool:
    """Whether an answer is one number, with or without a unit."""
    return _read(text).number is not None


def answer_line(line: str) -> str | None:
    """The answer where the whole line is nothing else: "#### 18", "Answer: 18", or "A: 18" with a number."""
    match = _ANSWER_LINE.fullmatch(line)
    if match is None:
        return None
    if match["any"]:
        return match["any"]
    return match["number"] if is_number(match["number"]) else None


# --- numbers in text --------------------------------------------------------------------------------------------------

DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?"
_STATED = re.compile(rf"(?<![\w.,:]){DIGITS}(?!\w|[.,:]\d)")
_LIST_MARK = re.compile(r"\s*(?:step\s*)?[0-9]+\s*[.:)](?=\s)", re.IGNORECASE)  # "3. ", "Step 2: " state nothing
_LONGEST_NUMBER = 15  # characters; longer ones are codes, not quantities


@dataclass(frozen=True, slots=True)
class Number:
    """A number where it stands in a text: characters start to end, as written; the sign is not part of it."""

    start: int
    end: int
    text: str

    @property
    def value(self) -> Fraction:
        """The exact value."""
        return number_value(self.text)


def number_value(text: str) -> Fraction:
    """The value of digits with thousands separators and decimals."""
    return Fraction(text.replace(",", ""))


def numbers_in(text: str) -> list[Number]:
    """The numbers a text states: no list marks, no parts of names, no codes with a leading zero."""
    mark = _LIST_MARK.match(text)
    return [
        Number(match.start(), match.end(), match[0])
        for match in _STATED.finditer(text, mark.end() if mark else 0)
        if not re.match(r"0[0-9]", match[0]) and len(match[0]) <= _LONGEST_NUMBER
    ]


# --- reading ----------------------------------------------------------------------------------------------------------

_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}  # powers of ten
_SYMBOLS = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "%": "percent", "°": "degree"}
_SYNONYMS = dict(
    pair.split("=")
    for pair in re.findall(
        r"\S+",
        "usd=dollar buck=dollar percentage=percent pct=percent lb=pound g=gram kg=kilogram c=celsius hr=hour h=hour "
        "min=minute s=second sec=second m=meter metre=meter km=kilometer kilometre=kilometer cm=centimeter ft=foot "
        "feet=foot in=inch inche=inch",
    )
)
_SHORT = frozenset(re.findall(r"\w+", "h s m g c hr km cm mm kg mg ml ft in oz lb mi hz pa kj kw of an a to by or"))
# Words that make a number part of an expression: "3 sqrt 2" is not a quantity of something.
_MATHS = frozenset(re.findall(r"\w+", "sqrt pi log sin cos tan exp frac times over mod plus minus and infty pmod"))
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+"
_VALUE = re.compile(
    rf"(?P<sign>[-+]?)\s*(?P<money>us\$|[$€£¥]|usd\b)?\s*(?P<sign2>[-+]?)\s*(?:"
    rf"(?:(?P<whole>\d+)\s+)?(?P<top>{_NUMBER})\s*/\s*(?P<bottom>{_NUMBER})"
    rf"|(?P<base>{_NUMBER})(?:e(?P<exponent>[-+]?\d{{1,3}})|\s*[x×*]\s*10\s*\^\s*\(?(?P<power>[-+]?\d{{1,3}})\)?)?"
    rf")(?P<unit>.*)"
)
_WRAPPERS = (
    re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}"),
    re.compile(r"\$([^$]*)\$"),
    re.compile(r"\\\((.*?)\\\)"),
    re.compile(r"\\\[(.*?)\\\]"),
    re.compile(r"\*\*(.+?)\*\*"),
)
_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{([^{}]+)\}\s*\{([^{}]+)\}|(\d)\s*(\d))")
_OPTION = re.compile(r"\(?(?:(?:option|choice)[ _]*)?(?:\(([a-z])\)(?:[.:]?\s.*)?|([a-z])[.):]?|([a-z])[):]\s.*)\)?")
_LONGEST = 200  # characters; a longer answer is text, never a number


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str  # the canonical text
    number: Fraction | None = None
    unit: frozenset[str] = frozenset()


def _clean(text: str) -> str:
    """Case, white space, wrappers and final punctuation taken away; "" only where nothing was there."""
    text = re.sub("[²³]", lambda m: "^2" if m[0] == "²" else "^3", text)
    text = unicodedata.normalize("NFKC", _boxed(text) or text).casefold().replace("−", "-").replace("–", "-")
    text = re.sub(r"\\(?:left|right|!|,|;|quad)", "", text.replace("{,}", ","))
    text = re.sub(r"\\(?:times|cdot)\b", "×", text).replace("\\%", "%").replace("\\$", "$ ").replace("^\\circ", "°")
    text = _FRACTION.sub(lambda m: f" {m[1] or m[3]}/{m[2] or m[4]}", text)
    for pattern in (*_WRAPPERS, *_WRAPPERS):  # "$\\text{B}$" has two
        text = pattern.sub(r"\1", text)
    text = re.sub(r"\^\{([^{}]*)\}", r"^(\1)", text)
    text = " ".join(text.split())
    text = re.sub(r"^(?:(?:so )?the (?:final )?answer is:? ?|[a-z] ?= ?)(?=.)", "", text)
    return text.strip(" *_\"'`").rstrip(".,;!:").rstrip() or text.strip()


def _unit(text: str) -> frozenset[str] | None:
    """The words of a unit; None where the text after the number is something else (digits, algebra, a sentence)."""
    if not text.strip(" .-"):
        return frozenset()
    glued = text[0].isalpha()
    for symbol, word in _SYMBOLS.items():
        text = text.replace(symbol, f" {word} ")
    text = re.sub(r"(?<=[a-z])\^\(?[23]\)?", "", text)
    if not re.fullmatch(r"[a-z\s/.'-]*", text):
        return None
    words = [word.strip(".'") for word in re.split(r"[\s/-]+", text) if word.strip(".'")]
    if len(words) > 6 or _MATHS & set(words) or any(len(word) < 3 and word not in _SHORT for word in words):
        return None
    # "5km" is a length; "2x" and "5m" may be algebra.
    if glued and len(words[0]) < 2:
        return None
    singular = (word[:-1] if len(word) > 2 and word.endswith("s") else word for word in words)
    return frozenset(_SYNONYMS.get(word, word) for word in singular)


def _as_fraction(text: str) -> Fraction:
    return Fraction(text.replace(",", "").rstrip("."))


def _number(text: str) -> tuple[Fraction, frozenset[str]] | None:
    """Value and unit of a cleaned text that is one number."""
    match = _VALUE.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None or (match["sign"] and match["sign2"]):
        return None
    tail = match["unit"]
    scale = 0
    while found := re.match(r"[\s-]*(hundred|thousand|million|billion|trillion)s?\b", tail):
        scale += _SCALES[found[1]]
        tail = tail[found.end() :]
    unit = _unit(tail)
    if unit is None:
        return None
    if match["top"]:
        bottom = _as_fraction(match["bottom"])
        if bottom == 0:
            return None
        value = int(match["whole"] or 0) + _as_fraction(match["top"]) / bottom
    else:
        value = _as_fraction(match["base"]) * Fraction(10) ** int(match["exponent"] or match["power"] or 0)
    if "-" in (match["sign"], match["sign2"]):
        value = -value
    if money := match["money"]:
        unit |= {_SYMBOLS.get(money[-1], "dollar")}
    return value * 10**scale, unit


def _read(text: str) -> _Answer:
    cleaned = _clean(text)
    if option := _OPTION.fullmatch(cleaned):
        return _Answer(option[1] or option[2] or option[3])
    found = _number(cleaned)
    return _Answer(str(found[0]), *found) if found else _Answer(cleaned)


def _same_unit(left: frozenset[str], right: frozenset[str]) -> bool:
    if not left or not right:
        return True
    return bool(left & right) and ("dozen" in left) == ("dozen" in right)


def answers_equal(left: str, right: str) -> bool:
    """Whether two answers say the same; see the module's rules. Symmetric, not transitive over units."""
    one, two = _read(left), _read(right)
    return one.text == two.text and _same_unit(one.unit, two.unit)


def canonical_answer(text: str) -> str:
    """The key under which votes are grouped: equal answers have equal keys ("$1,000.00" -> "1000", "(B)" -> "b")."""
    return _read(text).text


def grade(given: str | None, reference: str | None) -> Grade:
    """Compare an answer with the reference; a missing or blank one gives no verdict."""
    if given is None or reference is None or not given.strip() or not reference.strip():
        return Grade.NO_VERDICT
    return Grade.CORRECT if answers_equal(given, reference) else Grade.WRONG
