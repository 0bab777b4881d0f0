"""Settings from KEY=VALUE texts, and the errors that `--set` gives."""

from __future__ import annotations

import pytest

from palestra.cli.environment import find, make_environment, parameters, settings
from palestra.cli.errors import UsageError


def test_settings_are_toml_or_plain_text() -> None:
    pairs = ["turns=3", "protocol=hermes", 'name="a b"', "deep.er=[1, 2]", "deep.way=x", "p=a=b"]
    assert settings(pairs) == {
        "turns": 3,
        "protocol": "hermes",
        "name": "a b",
        "deep": {"er": [1, 2], "way": "x"},
        "p": "a=b",
    }


def test_settings_without_equals_are_refused() -> None:
    with pytest.raises(UsageError, match="KEY=VALUE, got 'turns'"):
        settings(["turns"])


def test_an_unknown_id_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean palestra/MathCode-v0"):
        find("palestra/MathCod-v0")


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="has no setting 'protcol'; did you mean 'protocol'"):
        make_environment("palestra/MathCode-v0", ["protcol=hermes"])


def test_parameters_are_those_of_the_constructor() -> None:
    known = parameters(find("palestra/MathCode-v0"))
    assert known["protocol"] == "fenced"
    assert "self" not in known
    assert "render_mode" not in known
