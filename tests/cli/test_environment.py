"""Ids and settings of environments as the command line gives them, and what is refused."""

from __future__ import annotations

import pytest

from palestra.cli.environment import find, make_environment
from palestra.cli.errors import UsageError
from palestra.envs.registration import parameters


def test_an_unknown_id_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean palestra/MathCode-v0"):
        find("palestra/MathCod-v0")


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="has no setting 'protcol'; did you mean 'protocol'"):
        make_environment("palestra/MathCode-v0", {"protcol": "hermes"})


def test_parameters_are_those_of_the_constructor() -> None:
    known = parameters(find("palestra/MathCode-v0"))
    assert known["protocol"] == "fenced"
    assert "self" not in known
    assert "render_mode" not in known
