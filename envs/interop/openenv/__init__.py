"""OpenEnv, both ways: Palestra environments served to its clients, its servers played here.

`serving` and `serve` put an environment on the network, `write_package` makes an OpenEnv
package of one, and `OpenEnvChat` is `palestra/OpenEnv-v0`. The protocol is OpenEnv 0.10's:
JSON over a WebSocket for each episode, and a few HTTP endpoints beside it.
"""

from .client import OpenEnvChat
from .package import write_package
from .server import serve, serving
from .sessions import ServeLimits

__all__ = ["OpenEnvChat", "ServeLimits", "serve", "serving", "write_package"]
