"""The table of attacks on several systems: ours keeps what a bare subprocess does not."""

import json
import subprocess
import sys

import backends
import pytest

BENCH = backends.REPOSITORY / "scripts" / "bench" / "sandbox_attacks"


def bench(*words):
    return subprocess.run(
        [sys.executable, str(BENCH), *words], capture_output=True, text=True, timeout=110
    )


def test_it_explains_itself():
    text = bench("--help").stdout
    assert "safe" in text and "--docker" in text and "sandbox_attacks --only" in text


@pytest.mark.slow
def test_a_subprocess_gives_away_what_we_keep(tmp_path):
    only = ("08-environment", "16-signal-the-parent", "18-kill-the-parent", "27-daemon")
    found = tmp_path / "attacks.json"
    words = ("--each", "--systems", "palestra", "subprocess", "--json", str(found), "--only", *only)
    table = bench(*words).stdout
    outcomes = {
        system: {attack: entry["outcome"] for attack, entry in entries.items()}
        for system, entries in json.loads(found.read_text()).items()
    }
    if set(outcomes["subprocess"].values()) == {"lost"}:
        pytest.skip("no namespaces here to play attacks in")
    assert set(outcomes["palestra"].values()) == {"safe"}
    assert outcomes["subprocess"]["08-environment"] == "worked"
    assert outcomes["subprocess"]["16-signal-the-parent"] == "worked"
    assert outcomes["subprocess"]["18-kill-the-parent"] == "lost"
    assert outcomes["subprocess"]["27-daemon"] == "worked"
    assert "| 27-daemon | safe | **worked** |" in table
    # What is there is not played again.
    assert bench(*words).stdout == table


def test_what_is_not_there_is_skipped_aloud():
    done = bench("--systems", "gem", "--only", "08-environment", "--peers", sys.executable)
    if done.returncode == 0 and "gem: skipped" not in done.stderr:
        pytest.skip("GEM is installed here")
    assert "gem: skipped, ModuleNotFoundError" in done.stderr
