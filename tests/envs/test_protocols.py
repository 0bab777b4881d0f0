"""Tool calls in text: what is read as a call, what is not, and where generation stops."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palestra.envs.protocols import MalformedCall, get_protocol
from palestra.envs.types import Message, ToolCall

FENCED, HERMES = get_protocol("fenced"), get_protocol("hermes")


def read(protocol, text):
    calls = protocol.calls(Message("assistant", text))
    return [
        c.reason if isinstance(c, MalformedCall) else (c.name, json.loads(c.arguments))
        for c in calls
    ]


def code(text):
    return ("python", {"code": text})


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("```python\nprint(1)\n```", [code("print(1)")]),
        ("So:\n```py\nx = 1\nx\n```\n\n", [code("x = 1\nx")]),
        ("```python\n```", [code("")]),
        ("```python\n```\ntext\n```", []),
        ("```py\nx\n```py\ny\n```", []),
        ("```python\nx ```py\ny\n```", [code("x ```py\ny")]),
        ("```python\na\n```\ntext\n```python\nb\n```", [code("b")]),
        ("```python\nprint(1)\n```\nso the answer is 1", []),
        ("```python\nprint('```')\n```", [code("print('```')")]),
        ("```python3\nprint(1)\n```", [code("print(1)")]),
        ("```pycon\n>>> 1\n```\n```python\nx\n```", [code("x")]),
        ("```python\nprint(1)```", []),
        ("```python\nprint(1)", []),
        ("```\nprint(1)\n```", []),
        ("```python\nprint(1)\n```\n```output\n1\n```", []),
        ("", []),
    ],
)
def test_fenced_calls(text, calls):
    assert read(FENCED, text) == calls


def test_fenced_stops_follow_the_text():
    assert FENCED.stops("Let me see. ", may_call=True) == ("```python", "```py\n")
    assert FENCED.stops("Let me see. ```python", may_call=True) == ("\n```",)
    assert FENCED.stops("```python\nx\n```\nnow ", may_call=True) == ("```python", "```py\n")
    assert FENCED.stops("anything ```python", may_call=False) == ()
    for text in ("a ```python", "a ```python\nx", "```python\nprint('```')", "```python\n1```"):
        assert FENCED.turn_is_open(text)
    for text in ("", "```python\nx\n```", "```pycon\n>>> 1\n", "```\nx\n```"):
        assert not FENCED.turn_is_open(text)


def test_fenced_output_and_hallucinations():
    assert FENCED.show("4\n", "```python\n2+2\n```") == "\n```output\n4\n```\n"
    assert FENCED.show("4", "```python\n2+2\n```\n") == "```output\n4\n```\n"
    assert FENCED.hallucinated("```output\n5\n```\n\n```output\n6\n```") == 2
    assert HERMES.hallucinated("```output\n5\n```") == 0


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>', [("f", {"x": 1})]),
        ('<tool_call>{"name": "f"}</tool_call>', [("f", {})]),
        ('<tool_call>{"name": "f", "arguments": "{\\"x\\": 2}"}</tool_call>', [("f", {"x": 2})]),
        (
            '<tool_call>{"name": "f", "arguments": {"s": "a\nb"}}</tool_call>',
            [("f", {"s": "a\nb"})],
        ),
        (
            '<tool_call>{"name": "a"}</tool_call> then <tool_call>{"name": "b"}</tool_call>',
            [("a", {}), ("b", {})],
        ),
        (
            "<tool_call>\n<function=f>\n<parameter=code>\nx = 1\ny\n</parameter>\n"
            "<parameter=n>3</parameter></function>\n</tool_call>",
            [("f", {"code": "x = 1\ny", "n": "3"})],
        ),
        (
            "<tool_call><function=f><parameter=a>\n\n1\n\n</parameter>< /parameter>"
            "<parameter=b><parameter=c>2</parameter><parameter=d>3",
            [("f", {"a": "\n1\n", "b": "<parameter=c>2"})],
        ),
        ("<python>\nprint(1)\n</python>", [code("print(1)")]),
        ('<tool_call>{"name": "f", "arguments": {}}', [("f", {})]),
        ("no call at all", []),
    ],
)
def test_hermes_calls(text, calls):
    assert read(HERMES, text) == calls


def test_malformed_calls_are_told_apart():
    assert "not valid JSON" in read(HERMES, "<tool_call>{oops}</tool_call>")[0]
    assert '"name"' in read(HERMES, "<tool_call>[1]</tool_call>")[0]
    good, bad = read(HERMES, '<tool_call>{"name": "a"}</tool_call><tool_call>x</tool_call>')
    assert good == ("a", {}) and "not valid JSON" in bad


def test_native_calls_win_over_text():
    call = ToolCall("f", '{"x": 1}', "id-7")
    message = Message("assistant", "```python\n1\n```", (call,))
    assert FENCED.calls(message) == [call] and HERMES.calls(message) == [call]


def test_a_model_that_repeats_itself_is_read_in_linear_time():
    """A megabyte each: a pattern that looks for its end from every beginning takes hours."""
    times = 1 << 17
    for piece in ("```py\nx ```", "```py\nx", "```python", "```py \n```x"):
        assert FENCED.calls(Message("assistant", piece * times)) == []
        FENCED.turn_is_open(piece * times)
        FENCED.hallucinated(piece * times)
    for piece in ("<parameter=a>", "<parameter=", "<function=a>", "<function=", "<python>"):
        text = f"<tool_call><function=f>{piece * times}"
        assert len(HERMES.calls(Message("assistant", text))) == 1
        HERMES.calls(Message("assistant", piece * times))
        HERMES.calls(Message("assistant", f"<tool_call>{piece}</tool_call>" * (times // 8)))


@given(st.text())
def test_no_text_breaks_a_protocol(text):
    for protocol in (FENCED, HERMES):
        for candidate in (text, f"<tool_call>{text}</tool_call>", f"```python\n{text}\n```"):
            protocol.calls(Message("assistant", candidate))
            protocol.stops(candidate, may_call=True)
            protocol.hallucinated(candidate)


def test_an_unknown_protocol_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'hermes'"):
        get_protocol("hermes2")
