"""What the embedded reward model sees of a reply: a few plain measures and hashed n-grams.

No model and no randomness: n-grams go to buckets by CRC-32, which no process salts.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BUCKETS = 1024
MAX_CHARS = 20_000  # of a reply that are looked at
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_COMMON_WORDS = (
    "a about after all an and any are as at be been before being best but by can could did do "
    "does for from get getting give good had has have how i if in into is it its keep make me "
    "more my no not of on one or our out over should simple so some such than that the their "
    "them then there they this to up was way we what when where which while who why will with "
    "without would you your"
)
_COMMON = frozenset(_COMMON_WORDS.split())


def words(text: str) -> list[str]:
    """The words of a text, in lower case, of at most `MAX_CHARS` characters."""
    return _WORD.findall(text[:MAX_CHARS].lower())


def stem(word: str) -> str:
    """The first five letters: enough to bring "water", "waters" and "watering" together."""
    return word[:5] if len(word) > 5 else word.rstrip("s")


def topic(text: str) -> set[str]:
    """The stems of a text's words but for the commonest."""
    return {stem(w) for w in words(text) if w not in _COMMON and len(w) > 2}


def distinct_share(found: Sequence[str]) -> float:
    """Different words per word; 0 for none."""
    return len(set(found)) / len(found) if found else 0.0


def overlap(prompt: str, answer: str) -> float:
    """The share of the prompt's topic words that the answer takes up; 0 without any."""
    asked = topic(prompt)
    return len(asked & topic(answer)) / len(asked) if asked else 0.0


def features(prompt: str, answer: str) -> Floats:
    """[D] of one reply: plain measures first, then n-gram shares."""
    answer = answer[:MAX_CHARS].strip()
    return np.concatenate([measures(prompt, answer), _ngrams(words(answer))])


def measures(prompt: str, answer: str) -> Floats:
    """Length, form, repetition, and what an answer shares with the prompt, each of order 1."""
    found, asked = words(answer), topic(prompt)
    own = topic(answer)
    shared = len(asked & own)
    trigrams = list(zip(found, found[1:], found[2:], strict=False))
    return np.array(
        [
            min(len(found), 30) / 30,
            max(len(found) - 70, 0) / 70,
            float(answer.endswith((".", "!", "?", '."', '?"'))),
            float(answer[:1].isupper()),
            distinct_share(found),
            1 - distinct_share([" ".join(t) for t in trigrams]) if trigrams else 0.0,
            min(shared, 1),
            min(shared, 3) / 3,
            shared / max(len(asked), 1),
            len(own - asked) / max(len(own), 1),  # what it adds to the question
            min(len(own - asked), 15) / 15,
            answer.count("?") / (1 + answer.count(".")),
            _copied(words(prompt), trigrams),
        ]
    )


def _copied(asked: Sequence[str], trigrams: Sequence[tuple[str, str, str]]) -> float:
    """The share of the prompt's word triples that stand in the answer as they are."""
    own = set(zip(asked, asked[1:], asked[2:], strict=False))
    return len(own & set(trigrams)) / len(own) if own else 0.0


def _ngrams(found: Sequence[str]) -> Floats:
    """[BUCKETS] signed shares of words and word pairs, of Euclidean length 1."""
    vector = np.zeros(BUCKETS)
    grams = Counter(found) + Counter(f"{a} {b}" for a, b in pairwise(found))
    for gram, count in grams.items():
        code = zlib.crc32(gram.encode("utf-8", "surrogatepass"))
        vector[code % BUCKETS] += count * (1 if code & 0x8000_0000 else -1)
    size = float(np.linalg.norm(vector))
    return vector / size if size else vector
