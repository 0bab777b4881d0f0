"""Names of files in a session's working folder, as the host may say them."""

from __future__ import annotations

MAX_DEPTH = 64
MAX_PATH_BYTES, MAX_NAME_BYTES = 4095, 255  # the kernel's own limits


def plain_path(path: str) -> list[str]:
    """The parts of a plain relative path. Bytes that are no UTF-8 stand as `os.fsdecode` has them.

    Raises:
        ValueError: it is absolute, empty, too long or too deep, or has a '.', a '..', an empty
            part, a NUL, or a surrogate that stands for no byte.
    """
    parts = path.split("/")
    why = ""
    if path.startswith("/"):
        why = "it is absolute"
    elif "\0" in path:
        why = "it has a NUL"
    elif any(part in ("", ".", "..") for part in parts):
        why = "it is empty or has an empty part, a '.' or a '..'"
    elif len(parts) > MAX_DEPTH:
        why = f"it has more than {MAX_DEPTH} parts"
    else:
        try:
            sizes = [len(part.encode("utf-8", "surrogateescape")) for part in parts]
        except UnicodeEncodeError:
            why = "it has a surrogate that stands for no byte"
        else:
            if sum(sizes) + len(parts) > MAX_PATH_BYTES or max(sizes) > MAX_NAME_BYTES:
                why = "it is too long"
    if why:
        raise ValueError(f"expected a plain relative path such as 'a/b.txt', got {path!r}: {why}")
    return parts
