"""An MCP server made with the mcp package itself, for test_mcp.py. Arguments: [PORT]."""

import os
import sys
import time

from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("tests", log_level="CRITICAL")
count = 0


@server.tool()
def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def counter() -> str:
    """Count the calls of this session's server."""
    global count
    count += 1
    return f"call {count}"


@server.tool()
def fail(why: str) -> str:
    """Fail with a reason."""
    raise ToolError(why)


@server.tool()
def crash() -> str:
    """End the server."""
    os._exit(3)


@server.tool()
def slow(seconds: float) -> str:
    """Wait."""
    time.sleep(seconds)
    return "done"


@server.tool()
def picture() -> Image:
    """A picture of one pixel."""
    return Image(data=b"GIF89a", format="gif")


@server.tool()
def variable(name: str) -> str:
    """An environment variable of the server."""
    return os.environ.get(name, "unset")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run("stdio")
