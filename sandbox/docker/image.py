"""The image: this package's own sources on a base that the user names; nothing is fetched."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from pathlib import Path
from typing import Any

from ..types import SandboxError

DEFAULT = "palestra-sandbox"
LABEL = "palestra.sandbox.sources"
_HERE = Path(__file__).parent
_BUILD = "python -m palestra.sandbox.docker build --base IMAGE"
_building = threading.Lock()


def sources() -> dict[str, bytes]:
    """What goes into the image, by its path there; the Dockerfile too."""
    sandbox = _HERE.parent
    own = [sandbox / f"{name}.py" for name in ("arguments", "base", "paths", "types")]
    own += sorted(sandbox.glob("local/*.py"))
    own += [_HERE / f"{name}.py" for name in ("frames", "gateway")]
    files = {f"palestra/sandbox/{p.relative_to(sandbox).as_posix()}": p.read_bytes() for p in own}
    dockerfile = (_HERE / "data" / "Dockerfile").read_bytes()
    # Inside there is nothing of the host's side, so its packages' own __init__ do not fit.
    empty = {f"palestra/{folder}__init__.py": b"" for folder in ("", "sandbox/", "sandbox/docker/")}
    return {"Dockerfile": dockerfile} | empty | files


def digest(files: dict[str, bytes]) -> str:
    """One word for these sources: an image made from others does not fit."""
    whole = hashlib.sha256()
    for path, data in sorted(files.items()):
        whole.update(f"{path}\0{len(data)}\0".encode() + data)
    return whole.hexdigest()[:16]


def ensure(client: Any, name: str) -> str:
    """The id of an image with these sources: `name` itself, or one built on top of it.

    Raises:
        SandboxError: there is no such image, or it cannot be built on.
    """
    import docker.errors

    files = sources()
    wanted = digest(files)
    with _building:
        try:
            image = client.images.get(name)
        except docker.errors.ImageNotFound as error:
            raise SandboxError(
                f"the Docker daemon has no image {name!r}: make one with `{_BUILD}`, IMAGE being "
                "one with Python 3.11 or newer and the packages that programs shall have"
            ) from error
        if (image.labels or {}).get(LABEL) == wanted:
            return str(image.id)
        base = str(image.id).removeprefix("sha256:")
        tag = f"{DEFAULT}:{wanted}-{base[:16]}"
        try:
            return str(client.images.get(tag).id)
        except docker.errors.ImageNotFound:
            return _build(client, base, tag, files)


def build(client: Any, base: str, tag: str = DEFAULT) -> str:
    """Put these sources on top of the local image `base`; the id of the result, tagged `tag`.

    Raises:
        SandboxError: the daemon does not have the base, or does not build.
    """
    return _build(client, base, tag, sources())


def _build(client: Any, base: str, tag: str, files: dict[str, bytes]) -> str:
    import docker.errors

    try:
        image, _ = client.images.build(
            fileobj=_context(files),
            custom_context=True,
            buildargs={"BASE": base},
            labels={LABEL: digest(files)},
            tag=tag,
            network_mode="none",
            pull=False,
            rm=True,
        )
    except (docker.errors.BuildError, docker.errors.APIError) as error:
        raise SandboxError(f"the image {tag!r} could not be built on {base!r}: {error}") from error
    return str(image.id)


def _context(files: dict[str, bytes]) -> io.BytesIO:
    """The tar archive that the daemon builds from; the same bytes for the same sources."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path, data in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    packed.seek(0)
    return packed
