"""Decide whether two short answers are the same number, exactly and without sympy.

Integers, decimals, scientific notation, fractions (`3/4`, `\\frac{3}{4}`, `1\\frac12`,
`1 1/2`), percentages, currency signs and common units, and tuples, sets and lists of
those. What is not recognised with certainty stays undecided, for a stronger judge.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

MAX_LENGTH = 2000  # characters; longer answers are compared as text only
NEAR = Fraction(1, 100_000)  # relative distance below which rounding may be meant

_TRANSLATE = str.maketrans(
    {"−": "-", "–": "-", "⁄": "/", "∕": "/", "\u00a0": " ", "\u2009": " ", "\u202f": " "}
)
_NOISE = re.compile(r"\\(?:left|right|displaystyle|!|,|;|:| )|~")
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"))

_NUM = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]*)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_ARG = rf"(?:\{{\s*[+-]?\s*{_NUM}\s*\}}|[0-9])"
_TEXT = r"\\(?:text|textrm|textbf|mathrm|mbox)\s*\{\s*[A-Za-z]+(?: [A-Za-z]+){0,3}\.?\s*\}"
# A number without its sign and unit, for patterns in verbose form.
NUMBER = rf"""
    (?:
        (?:(?P<whole>[0-9]+)\s*)?\\frac\s*(?P<top>{_ARG})\s*(?P<bottom>{_ARG})
      | (?:(?P<whole2>[0-9]+)\s+)?(?P<left>{_NUM})\s*/\s*(?P<right>[+-]?{_NUM})
      | (?P<number>{_NUM})
        (?: [eE](?P<exp>[+-]?[0-9]{{1,3}})
          | \s*(?:\\times|\\cdot|×|\*)\s*10\s*(?:\^|\*\*)\s*
            (?: \{{\s*(?P<power>[+-]?[0-9]{{1,3}})\s*\}} | (?P<power2>[+-]?[0-9]{{1,3}}) )
        )?
    )
"""
_SCALAR = re.compile(
    rf"""\s*(?P<sign>[+-]?)\s*(?P<currency>[$€£¥]?)\s*(?P<sign2>[+-]?)\s*
    {NUMBER}
    \s*(?P<unit>%|percent|°|\^\s*\\circ|\^\s*\{{\s*\\circ\s*\}}
        |(?:{_TEXT}|[A-Za-z]+(?:\ [A-Za-z]+){{0,3}})(?:\s*\^\s*(?:[23]|\{{[23]\}}))?)?\s*""",
    re.VERBOSE,
)
# Words that only name a unit. "million", "dozen", "half" or "x" change the value and are
# not here: an answer with such a word stays undecided.
_UNIT_WORDS = """
apples bottles cars cats centimeters centimetres children chickens cm cookies cubic days
degrees dogs dollars eggs euros feet fish flowers gallons games grams hours inches items kg
kilograms kilometers kilometres km kmh liters litres meters metres miles minutes ml mm months
mph ounces pages people per points pounds seconds square students toys units usd votes weeks
yards years
"""
_UNITS = frozenset(_UNIT_WORDS.split())
# These may be variables, so they count as units inside \\text{...} only.
_SHORT_UNITS = frozenset(("m", "g", "s", "h", "l", "ft", "in", "lb", "lbs", "oz", "hr", "min"))
# One name for each measure; two different ones are two different answers.
_MEASURES = {
    "centimeters": "cm centimetres",
    "millimeters": "mm",
    "meters": "m metres",
    "kilometers": "km kilometres",
    "inches": "in",
    "feet": "ft",
    "yards": "",
    "miles": "",
    "grams": "g",
    "kilograms": "kg",
    "ounces": "oz",
    "pounds": "lb lbs",
    "milliliters": "ml",
    "liters": "l litres",
    "gallons": "",
    "seconds": "s",
    "minutes": "min",
    "hours": "h hr",
    **dict.fromkeys(("days", "weeks", "months", "years", "mph", "kmh", "$", "euros"), ""),
}
_CANONICAL = {name: measure for measure, names in _MEASURES.items() for name in names.split()}
_SINGULAR = {"foot": "feet", "inch": "inches", "person": "people", "child": "children"}
_BRACKETS = {"(": ")", "[": "]", "\\{": "\\}", "{": "}"}


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number as written: its exact value, whether in percent, and its unit if any."""

    value: Fraction
    percent: bool = False
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Several:
    """Numbers in brackets; `kind` is the pair of brackets, empty for a bare list."""

    kind: str
    items: tuple[Scalar, ...]


def normalise(text: str) -> str:
    """Strip what never changes the value: math delimiters, spacing macros, a final stop."""
    text = _NOISE.sub("", text.translate(_TRANSLATE))
    # One space for many: the patterns below would take cubic time over a long run of them.
    text = " ".join(text.split())
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = text.replace("\\%", "%").replace("\\$", "$").replace("{,}", ",")
    for _ in range(3):
        text = text.removesuffix(".").strip()
        for start, end in _WRAPPERS:
            inside = len(text) > len(start) + len(end)
            if inside and text.startswith(start) and text.endswith(end):
                text = text[len(start) : -len(end)].strip()
    return text


def parse_value(text: str) -> Scalar | Several | None:
    """Read normalised `text` as a number or as several; None when it is neither."""
    if len(text) > MAX_LENGTH:
        return None
    scalar = _scalar(text)
    if scalar is not None:
        return scalar
    for start, end in _BRACKETS.items():
        if text.startswith(start) and (closing := _closing(text, start, end)):
            inner = text[len(start) : -len(closing)]
            single = _scalar(inner) if start in "({" and closing == end else None
            return single or _several(start + closing, inner)
    return _several("", text) if "," in text else None


def _closing(text: str, start: str, end: str) -> str:
    """The bracket that ends `text`, if it fits `start` (half-open intervals mix two)."""
    if text.endswith(end):
        return end
    mixed = {"(": "]", "[": ")"}.get(start, "")
    return mixed if mixed and text.endswith(mixed) else ""


def _several(kind: str, inner: str) -> Several | None:
    # "(1,234)" may be a pair or a number with a separator: leave it undecided.
    if re.search(r"[0-9],[0-9]{3}(?![0-9])", inner):
        return None
    items = [_scalar(part) for part in inner.split(",")]
    if any(item is None for item in items):
        return None
    return Several(kind, tuple(item for item in items if item is not None))


def _scalar(text: str) -> Scalar | None:
    match = _SCALAR.fullmatch(text)
    if match is None or (match["sign"] and match["sign2"]):
        return None
    unit = _unit(match["unit"] or "", match["currency"])
    value = _magnitude(match)
    if unit is None or value is None:
        return None
    negative = "-" in (match["sign"], match["sign2"])
    return Scalar(-value if negative else value, unit == "%", "" if unit == "%" else unit)


def _magnitude(match: re.Match[str]) -> Fraction | None:
    if match["number"] is not None:
        exponent = match["exp"] or match["power"] or match["power2"] or "0"
        return _decimal(match["number"]) * Fraction(10) ** int(exponent)
    top, bottom = match["top"] or match["left"], match["bottom"] or match["right"]
    whole = match["whole"] or match["whole2"]
    upper, lower = _decimal(top), _decimal(bottom)
    if lower == 0 or (whole and (upper < 0 or lower < 0)):
        return None
    return upper / lower + (int(whole) if whole else 0)


def _decimal(text: str) -> Fraction:
    """`text` as matched by _NUM or _ARG, exactly."""
    digits = re.sub(r"[{}\s,]", "", text)
    whole, _, decimals = digits.partition(".")
    return Fraction(int((whole + decimals) or "0"), 10 ** len(decimals))


def _unit(text: str, currency: str) -> str | None:
    """A canonical unit, "" for none, "%" for per cent, None when it may not be a unit."""
    if currency:
        return currency if not text or (currency == "$" and text in ("dollars", "USD")) else None
    if text in ("%", "percent"):
        return "%"
    if text == "°" or "\\circ" in text:
        return "degrees"
    in_text = text.startswith("\\")
    words = re.findall(r"[A-Za-z]+|[23]", text.partition("{")[2] if in_text else text)
    names = []
    for word in words:
        name = _SINGULAR.get(word.lower(), word.lower())
        name = name + "s" if name + "s" in _UNITS else name
        short = in_text and name in _SHORT_UNITS
        if name not in _UNITS and not short and name not in ("2", "3"):
            return None
        names.append({"dollars": "$", "usd": "$"}.get(name, _CANONICAL.get(name, name)))
    power = {"square": "2", "cubic": "3"}.get(names[0] if len(names) == 2 else "")
    return f"{names[1]} {power}" if power else " ".join(names)


def same(left: Scalar, right: Scalar) -> bool | None:
    """Whether two numbers are equal; None when convention, not arithmetic, decides.

    50% is both 50 and 0.5. Left to convention: per cent against any other number, two
    different things that are counted, and values so close that one may be a rounding of the
    other (unless both are integers). Different measures, as feet and inches, are not equal.
    """
    a, b = left.value, right.value
    if left.percent != right.percent:
        share, plain = (a, b) if left.percent else (b, a)
        return True if plain in (share, share / 100) else None
    if left.unit and right.unit and left.unit != right.unit:
        measures = {*left.unit.split(), *right.unit.split()} <= {*_MEASURES, "2", "3"}
        return False if measures else None
    if a == b:
        return True
    if a.denominator == b.denominator == 1:
        return False
    return None if abs(a - b) <= NEAR * max(abs(a), abs(b)) else False


def same_value(left: Scalar | Several, right: Scalar | Several) -> bool | None:
    """`same`, extended to several numbers. Order counts in tuples, not in sets."""
    if isinstance(left, Scalar) and isinstance(right, Scalar):
        return same(left, right)
    if isinstance(left, Scalar) or isinstance(right, Scalar) or left.kind != right.kind:
        return None
    if left.kind.startswith(("\\{", "{")):
        a, b = ({item.value for item in side.items} for side in (left, right))
        plain = not any(item.percent or item.unit for item in (*left.items, *right.items))
        return True if plain and a == b else None
    if len(left.items) != len(right.items):
        return None if left.kind == "" else False
    verdicts = [same(a, b) for a, b in zip(left.items, right.items, strict=True)]
    if None in verdicts:
        return None
    if left.kind == "" and False in verdicts and Counter(left.items) == Counter(right.items):
        return None  # the same numbers in another order: the stronger judge decides
    return False not in verdicts
