"""Ids and settings of environments as the command line gives them, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from palestra.cli.environment import find, make_environment
from palestra.cli.errors import UsageError
from palestra.envs.core import ToolEnv
from palestra.envs.registration import parameters, register
from palestra.envs.types import Message, Task


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


class Base(ToolEnv):
    def __init__(self, *, level: int, digits: int = 2, **kwargs: Any) -> None:
        task = Task(f"level-{level}", (Message("user", "?"),))
        super().__init__(tasks=[task] * digits, **kwargs)


class Child(Base):
    def __init__(self, *, digits: int = 3, **kwargs: Any) -> None:
        super().__init__(level=1, digits=digits, **kwargs)


def test_settings_that_kwargs_pass_on_are_taken() -> None:
    register("kwargs/Child-v0", Child)
    known = parameters(find("kwargs/Child-v0"))
    assert (known["digits"], known["protocol"]) == (3, "hermes")
    assert not {"level", "tasks", "kwargs"} & set(known)  # the subclass gives what is required
    made = make_environment("kwargs/Child-v0", {"protocol": "fenced", "digits": 4}).unwrapped
    assert len(made.tasks) == 4  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="did you mean 'protocol'"):
        make_environment("kwargs/Child-v0", {"protcol": "fenced"})


def test_a_function_with_kwargs_takes_what_it_takes() -> None:
    register("kwargs/Function-v0", lambda **kwargs: Child(**kwargs))
    made = make_environment("kwargs/Function-v0", {"digits": 5}).unwrapped
    assert len(made.tasks) == 5  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="digitz"):
        make_environment("kwargs/Function-v0", {"digitz": 5})
