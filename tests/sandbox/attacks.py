"""The hostile programs that every back end is held to, in the order of the abuse list.

The list has 78 numbers; what goes beyond it is numbered from 79, by theme. What takes more
than a program (a copy, files from outside, an input) is in `SCENES`.
"""

from hostile import branches, duration, host, kernel, neighbours, runner, space, turns
from hostile.attack import ATTACK_LIMITS, Attack, Outcome, problems, unsettled, worked
from hostile.scenes import SCENES, Scene

ATTACKS = sorted(
    (one for theme in (space, duration, host, kernel, runner, turns) for one in theme.ATTACKS),
    key=lambda attack: attack.number,
)
assert branches and neighbours  # their import adds to the scenes

__all__ = [
    "ATTACKS",
    "ATTACK_LIMITS",
    "SCENES",
    "Attack",
    "Outcome",
    "Scene",
    "problems",
    "unsettled",
    "worked",
]
