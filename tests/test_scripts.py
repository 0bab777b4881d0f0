"""The scripts and examples run, and print what they say they print."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS, EXAMPLES = ROOT / "scripts", ROOT / "examples"


def run(script, *options):
    command = [sys.executable, str(SCRIPTS / script), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=True).stdout


def test_minimal_trains():
    lines = run("minimal.py", "--pretrain-steps", "30", "--steps", "2").splitlines()
    assert lines[0].startswith("pretraining step    0  loss 3.")
    assert [line.split()[:2] for line in lines[1:]] == [["step", str(i)] for i in range(3)]


def test_minimal_is_short():
    assert len((SCRIPTS / "minimal.py").read_text().splitlines()) <= 200


def test_rollout_overhead_measures_real_rollouts():
    out = run("bench/rollout_overhead", "--episodes", "8", "--concurrency", "4")
    rates = re.findall(r"^(fenced|hermes) +(\d+) +(\d+)$", out, re.MULTILINE)
    assert [(p, c) for p, c, _ in rates] == [
        ("fenced", "1"),
        ("fenced", "4"),
        ("hermes", "1"),
        ("hermes", "4"),
    ]
    assert all(int(rate) > 0 for *_, rate in rates)


def test_env_steps_measures_steps_in_process_and_served():
    pytest.importorskip("websockets")
    out = run("bench/env_steps", "--rounds", "1", "--seconds", "0.1", "--sessions", "2")
    rates = dict(re.findall(r"^  (.+?) {2,}([\d,]+)  \(", out, re.MULTILINE))
    assert {"palestra echo", "palestra guess", "served by palestra, bare client, 2"} <= set(rates)
    assert all(int(rate.replace(",", "")) > 0 for rate in rates.values())


def test_many_episodes_are_measured_with_both_kinds_of_tools():
    out = run("bench/thousand_episodes", "--episodes", "20", "--tool-s", "0.01", "--rounds", "1")
    assert [line.rsplit(maxsplit=3)[0].strip() for line in out.splitlines()[2:]] == [
        "async def",
        "def",
    ]


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.name)
def test_an_example_prints_what_its_header_says(example):
    printed = run(example).strip()
    assert printed and printed in ast.get_docstring(ast.parse(example.read_text()))
