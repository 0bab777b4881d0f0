"""Exact text, regular expressions and JSON schemas, in real worker processes."""

import asyncio
import json

import pytest

from palestra.envs.rewards.verifiable import matches_exactly, matches_regex, matches_schema
from palestra.envs.rewards.verifier import VerifierPool
from palestra.envs.types import Invalid

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "minLength": 1}, "people": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def pool():
    pool = VerifierPool(1, cpu_s=1.0)
    yield pool
    pool.close()


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("Paris", "Paris", True),
        ("  paris.\n", "Paris", True),
        ("ＰＡＲＩＳ", "paris", True),  # full-width letters
        ("New \t York", "new york", True),
        ("Paris, France", "Paris", False),
        ("", "", False),
        (None, "Paris", False),
        (" . ", ".", True),
    ],
)
def test_exact_text(answer, reference, expected):
    assert matches_exactly(answer, reference) is expected


def test_exact_text_as_it_is():
    assert matches_exactly("Paris", "Paris", normalise=False)
    assert not matches_exactly("paris", "Paris", normalise=False)


def regex(pool, answer, pattern, **options):
    return asyncio.run(matches_regex(answer, pattern, pool=pool, **options))


def test_regex_matches_all_of_the_answer_unless_told_otherwise(pool):
    assert regex(pool, "2024-05-01", r"\d{4}-\d\d-\d\d") is True
    assert regex(pool, "on 2024-05-01", r"\d{4}-\d\d-\d\d") is False
    assert regex(pool, "on 2024-05-01", r"\d{4}-\d\d-\d\d", full=False) is True
    assert regex(pool, None, ".*") is False


def test_an_answer_that_makes_the_expression_explode_is_wrong_and_costs_only_the_limit(pool):
    assert regex(pool, "a" * 40 + "!", r"(a+)+") is False
    assert regex(pool, "aaa", r"(a+)+") is True  # the pool goes on


def test_a_bad_expression_is_the_authors_fault(pool):
    with pytest.raises(ValueError, match="no regular expression"):
        regex(pool, "x", "(")


def schema(pool, answer, rule=SCHEMA):
    return asyncio.run(matches_schema(answer, rule, pool=pool))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"city": "Rome"}', True),
        ('```json\n{"city": "Rome", "people": 3}\n```', True),
        ('{"city": ""}', False),
        ('{"city": "Rome", "people": 3.5}', False),
        ('{"city": "Rome", "mayor": 1}', False),
        ('{"city": "Rome"', False),
        ('Here it is: {"city": "Rome"}', False),
        ('{"city": "Rome", "people": NaN}', False),
        ("[" * 5000 + "]" * 5000, False),
        ("", False),
        (None, False),
    ],
)
def test_json_schema(pool, answer, expected):
    assert schema(pool, answer) is expected


def test_a_bad_schema_is_the_authors_fault(pool):
    with pytest.raises(ValueError, match="no JSON schema"):
        schema(pool, "{}", {"type": "nothing"})


def test_references_are_never_fetched_and_a_broken_one_is_invalid_not_zero(pool):
    verdict = schema(pool, "{}", {"$ref": "http://127.0.0.1:9/never.json"})
    assert isinstance(verdict, Invalid) and verdict.kind == "verifier"
    inside = {"$defs": {"n": {"type": "integer"}}, "type": "array", "items": {"$ref": "#/$defs/n"}}
    assert schema(pool, json.dumps([1, 2]), inside) is True
    assert schema(pool, json.dumps([1, "2"]), inside) is False


def test_a_pattern_in_a_schema_cannot_hang_it(pool):
    assert schema(pool, json.dumps("a" * 40 + "!"), {"pattern": "^(a+)+$"}) is False
