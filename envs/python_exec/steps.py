"""The words of the program generator: typed steps, their Python, and how they are told.

A program is a chain of steps from the type of its argument to the type of its result. In a
template `{v}` is the value so far and `{k}` a constant drawn from the step's choices.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Step:
    """One operation. `tier` is the lowest level at which it is used."""

    tier: int
    source: str
    result: str
    phrase: str
    template: str
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on a value, for branches."""

    source: str
    phrase: str
    template: str
    choices: tuple[Any, ...] = ()


_SMALL, _FEW, _MANY = tuple(range(2, 10)), (2, 3, 4), tuple(range(2, 51))
_LETTERS, _ALPHABET = tuple("aeiorst"), tuple("abcdefghijklmnopqrstuvwxyz")

STEPS = (
    Step(1, "int", "int", "add {k}", "{v} + {k}", _MANY),
    Step(1, "int", "int", "subtract {k}", "{v} - {k}", _MANY),
    Step(1, "int", "int", "multiply it by {k}", "{v} * {k}", _MANY),
    Step(1, "int", "int", "square it", "{v} * {v}"),
    Step(2, "int", "int", "take its absolute value", "abs({v})"),
    Step(2, "int", "int", "take the remainder of its division by {k}", "{v} % {k}", _SMALL),
    Step(2, "int", "int", "divide it by {k}, rounding down", "{v} // {k}", _SMALL),
    Step(2, "int", "int", "replace it by {k} if it is greater", "min({v}, {k})", _SMALL),
    Step(2, "int", "text", "write it as a string", "str({v})"),
    Step(3, "int", "int", "add up its decimal digits, without the sign",
         "sum(int(c) for c in str(abs({v})))"),
    Step(3, "int", "ints", "list its decimal digits, without the sign",
         "[int(c) for c in str(abs({v}))]"),
    Step(4, "int", "int", "count the ones in its binary form, without the sign",
         "bin({v}).count('1')"),
    Step(1, "ints", "int", "add up the numbers", "sum({v})"),
    Step(1, "ints", "int", "count the numbers", "len({v})"),
    Step(1, "ints", "ints", "reverse the list", "{v}[::-1]"),
    Step(1, "ints", "ints", "sort the list from low to high", "sorted({v})"),
    Step(1, "ints", "ints", "append the number {k}", "{v} + [{k}]", _MANY),
    Step(1, "ints", "int", "count how often {k} occurs", "{v}.count({k})", _SMALL),
    Step(2, "ints", "int", "take the greatest number, or 0 if there is none",
         "max({v}, default=0)"),
    Step(2, "ints", "int", "take the least number, or 0 if there is none", "min({v}, default=0)"),
    Step(2, "ints", "ints", "add {k} to each number", "[x + {k} for x in {v}]", _SMALL),
    Step(2, "ints", "ints", "multiply each number by {k}", "[x * {k} for x in {v}]", _SMALL),
    Step(2, "ints", "ints", "keep the even numbers", "[x for x in {v} if x % 2 == 0]"),
    Step(2, "ints", "ints", "keep the odd numbers", "[x for x in {v} if x % 2 == 1]"),
    Step(2, "ints", "ints", "keep the numbers greater than {k}", "[x for x in {v} if x > {k}]",
         _SMALL),
    Step(2, "ints", "ints", "keep the first {k} numbers", "{v}[:{k}]", _FEW),
    Step(2, "ints", "ints", "leave out the first {k} numbers", "{v}[{k}:]", _FEW),
    Step(3, "ints", "ints", "sort the list from high to low", "sorted({v}, reverse=True)"),
    Step(3, "ints", "ints", "drop repeated numbers, keeping the first of each",
         "list(dict.fromkeys({v}))"),
    Step(3, "ints", "ints", "square each number", "[x * x for x in {v}]"),
    Step(3, "ints", "ints", "keep the numbers divisible by {k}",
         "[x for x in {v} if x % {k} == 0]", (3, 4, 5)),
    Step(3, "ints", "int", "count the distinct numbers", "len(set({v}))"),
    Step(3, "ints", "words", "write each number as a string", "[str(x) for x in {v}]"),
    Step(4, "ints", "ints", "replace negative numbers by 0", "[max(x, 0) for x in {v}]"),
    Step(4, "ints", "ints", "multiply each number by its index, counted from 0",
         "[i * x for i, x in enumerate({v})]"),
    Step(5, "ints", "ints", "list the running sums, from the first number on",
         "[sum({v}[:i + 1]) for i in range(len({v}))]"),
    Step(5, "ints", "ints", "list the differences of neighbours, each less the one before it",
         "[b - a for a, b in zip({v}, {v}[1:])]"),
    Step(1, "text", "text", "make all letters upper case", "{v}.upper()"),
    Step(1, "text", "text", "make all letters lower case", "{v}.lower()"),
    Step(1, "text", "text", "reverse the string", "{v}[::-1]"),
    Step(1, "text", "int", "count the characters", "len({v})"),
    Step(1, "text", "text", "repeat the string {k} times", "{v} * {k}", (2, 3, 4)),
    Step(1, "text", "text", "append the letter {k!r}", "{v} + {k!r}", _ALPHABET),
    Step(1, "text", "text", "put the letter {k!r} in front", "{k!r} + {v}", _ALPHABET),
    Step(1, "text", "int", "count the letter {k!r}", "{v}.count({k!r})", _LETTERS),
    Step(2, "text", "text", "keep the first {k} characters", "{v}[:{k}]", (2, 3, 4, 5)),
    Step(2, "text", "text", "leave out the first {k} characters", "{v}[{k}:]", _FEW),
    Step(2, "text", "text", "remove the spaces", "{v}.replace(' ', '')"),
    Step(2, "text", "words", "split it into words at the spaces", "{v}.split()"),
    Step(3, "text", "text", "remove the vowels a, e, i, o and u in either case",
         "''.join(c for c in {v} if c not in 'aeiouAEIOU')"),
    Step(3, "text", "text", "write each character twice", "''.join(c * 2 for c in {v})"),
    Step(3, "text", "text", "replace each letter {k!r} by a star", "{v}.replace({k!r}, '*')",
         _LETTERS),
    Step(3, "text", "text", "sort the characters by code point", "''.join(sorted({v}))"),
    Step(4, "text", "int", "count the distinct characters", "len(set({v}))"),
    Step(4, "text", "counts", "map each character to how often it occurs",
         "{{c: {v}.count(c) for c in {v}}}"),
    Step(5, "text", "text", "shift each lower-case letter {k} places on in the alphabet, z to a",
         "''.join(chr((ord(c) - 97 + {k}) % 26 + 97) if 'a' <= c <= 'z' else c for c in {v})",
         _FEW),
    Step(1, "words", "int", "count the strings", "len({v})"),
    Step(2, "words", "words", "reverse the order of the list", "{v}[::-1]"),
    Step(2, "words", "words", "sort the list by code point", "sorted({v})"),
    Step(2, "words", "text", "join the strings with {k!r} between them", "{k!r}.join({v})",
         ("-", ",", "")),
    Step(2, "words", "ints", "list the length of each string", "[len(w) for w in {v}]"),
    Step(2, "words", "words", "make each string upper case", "[w.upper() for w in {v}]"),
    Step(3, "words", "words", "reverse each string", "[w[::-1] for w in {v}]"),
    Step(3, "words", "words", "keep the strings longer than {k} characters",
         "[w for w in {v} if len(w) > {k}]", (2, 3, 4)),
    Step(3, "words", "text", "take the longest string, the first of equals, or '' if none",
         "max({v}, key=len, default='')"),
    Step(3, "words", "words", "drop repeated strings, keeping the first of each",
         "list(dict.fromkeys({v}))"),
    Step(4, "words", "words", "sort the list by length, equals in their order",
         "sorted({v}, key=len)"),
    Step(4, "words", "counts", "map each string to its length", "{{w: len(w) for w in {v}}}"),
    Step(4, "words", "counts", "map each string to how often it occurs",
         "{{w: {v}.count(w) for w in {v}}}"),
    Step(3, "counts", "int", "add up the values", "sum({v}.values())"),
    Step(3, "counts", "words", "list the keys, sorted by code point", "sorted({v})"),
    Step(3, "counts", "ints", "list the values, from low to high", "sorted({v}.values())"),
    Step(4, "counts", "counts", "keep the entries whose value is greater than {k}",
         "{{key: n for key, n in {v}.items() if n > {k}}}", (1, 2)),
    Step(5, "counts", "counts", "add {k} to each value",
         "{{key: n + {k} for key, n in {v}.items()}}", _SMALL),
    Step(5, "counts", "words", "list the keys by value from high to low, equals by code point",
         "sorted({v}, key=lambda key: (-{v}[key], key))"),
)  # fmt: skip

CONDITIONS = (
    Condition("int", "it is even", "{v} % 2 == 0"),
    Condition("int", "it is negative", "{v} < 0"),
    Condition("int", "it is greater than {k}", "{v} > {k}", _SMALL),
    Condition("ints", "there are more than {k} numbers", "len({v}) > {k}", _FEW),
    Condition("ints", "the sum of the numbers is even", "sum({v}) % 2 == 0"),
    Condition("text", "it has more than {k} characters", "len({v}) > {k}", _SMALL),
    Condition("text", "it contains the letter {k!r}", "{k!r} in {v}", _LETTERS),
    Condition("words", "there are more than {k} strings", "len({v}) > {k}", _FEW),
)

VARIABLES = {"int": "n", "ints": "xs", "text": "s", "words": "ws", "counts": "d"}
TYPES = {
    "int": "an integer",
    "ints": "a list of integers",
    "text": "a string",
    "words": "a list of strings",
    "counts": "a dictionary from strings to integers",
}

_WORDS = (
    *("a", "an", "so", "tree", "rest", "oar", "stone", "iris", "test", "noise", "Tea", "Otter"),
    *("roses", "7", "42", "arena", "sit", "toast", "or", "east"),
)


def _word(rng: random.Random) -> str:
    return _WORDS[rng.randrange(len(_WORDS))]


def _ints(rng: random.Random) -> list[int]:
    return [rng.randrange(-9, 16) for _ in range(rng.randrange(0, 8))]


def _text(rng: random.Random) -> str:
    return " ".join(_word(rng) for _ in range(rng.randrange(0, 4)))


def _words(rng: random.Random) -> list[str]:
    return [_word(rng) for _ in range(rng.randrange(0, 7))]


def _counts(rng: random.Random) -> dict[str, int]:
    return {word: rng.randrange(0, 6) for word in _words(rng)}


INPUTS: dict[str, Callable[[random.Random], Any]] = {
    "int": lambda rng: rng.randrange(-30, 100),
    "ints": _ints,
    "text": _text,
    "words": _words,
    "counts": _counts,
}
