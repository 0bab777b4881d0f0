"""Plug-ins are found by their entry points; one that cannot be had is named and skipped."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import pytest

from palestra.envs.registration import _descriptions, description, load_plugins

GOOD = """
from palestra.envs.registration import register
register("sound_plugin/Sound-v0", "palestra.envs.kuhn_poker:KuhnPoker", description="Sound")
"""


def install(folder: Path, name: str, code: str | None) -> None:
    """A package as an installer leaves it; without code its folder is empty."""
    (folder / name).mkdir()
    if code is not None:
        (folder / name / "__init__.py").write_text(code)
    facts = folder / f"{name}-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[palestra.envs]\n{name} = {name}\n")


def test_a_broken_or_hidden_plug_in_is_named_and_the_others_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "broken_plugin", "raise RuntimeError('no license')")
    install(tmp_path, "hidden_plugin", None)
    install(tmp_path, "sound_plugin", GOOD)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning) as told:
        loaded = load_plugins.__wrapped__()
    said = " ".join(str(warning.message) for warning in told)
    assert "'broken_plugin'" in said and "no license" in said
    assert f"{tmp_path / 'hidden_plugin'} hides it" in said
    assert "sound_plugin" in loaded and not {"broken_plugin", "hidden_plugin"} & set(loaded)
    assert description("sound_plugin/Sound-v0") == "Sound"
    for registry in (gymnasium.registry, _descriptions()):  # as if it had never been there
        del registry["sound_plugin/Sound-v0"]
