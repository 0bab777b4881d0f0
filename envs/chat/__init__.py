"""Open chat judged by a reward model: `palestra/Chat-v0`."""

from .embedded import EmbeddedReward
from .environment import Chat
from .users import ScriptedUser
from .warm_start import write_warm_start

__all__ = ["Chat", "EmbeddedReward", "ScriptedUser", "write_warm_start"]
