"""Several sandboxes behind one fair queue: `Pool`, and a client's view of it."""

from ..local.gate import QueueFull
from .client import PoolClient
from .pool import Pool
from .stats import MemberStats, PoolStats

__all__ = ["MemberStats", "Pool", "PoolClient", "PoolStats", "QueueFull"]
