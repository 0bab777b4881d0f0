"""What to do about a guarantee that does not hold here, in words."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

NAMESPACES = ("user", "pid", "net-ns", "mount", "ipc", "uts", "root", "fork", "disk", "tasks")
PLAIN = {
    "uid": "let every user read the interpreter (chmod a+rX on its folders), or do not run as root",
    "fs": "without namespaces this takes Landlock (Linux 5.13 or later); see the row landlock",
    "seccomp": "run on x86-64 or aarch64 with a kernel that has seccomp filters, or in gVisor",
    "landlock": (
        "run Linux 5.13 or later with landlock in its list of security modules: the file "
        "/sys/kernel/security/lsm has it, the boot parameter lsm= sets it. Needed only where "
        "there are no namespaces"
    ),
    "cgroup": (
        "run as root, or have a delegated group (systemd-run --user --scope -p Delegate=yes). "
        "Without it memory is limited for each process, not for a session's files as well"
    ),
    "docker": (
        "needed for DockerSandbox only: install and start Docker, and be in its group, or set "
        "DOCKER_HOST"
    ),
    "runsc": (
        "needed for gVisor only: install runsc and name it as a runtime in the daemon's "
        "/etc/docker/daemon.json (sudo runsc install)"
    ),
    "bwrap": "not needed; the package is called bubblewrap",
}
_SWITCHES = (
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "AppArmor keeps ordinary users from making namespaces (Ubuntu 23.10 and later): sudo "
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with "
        "the rule 'userns,' for this Python",
    ),
    (
        "kernel/unprivileged_userns_clone",
        "0",
        "ordinary users may not make namespaces: sudo sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    (
        "user/max_user_namespaces",
        "0",
        "the number of user namespaces is zero: sudo sysctl -w user.max_user_namespaces=15000",
    ),
)
_CONTAINER = (
    "this is a container, whose profile refuses namespaces: start it with --security-opt "
    "seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined "
    "(Kubernetes: seccompProfile and appArmorProfile Unconfined, procMount Unmasked), or use "
    "DockerSandbox from outside it"
)
_OTHERWISE = (
    "let this user make namespaces: `unshare --user --pid --fork --mount-proc true` shows why"
)


def what_to_do(key: str) -> str:
    """What would make the guarantee `key` hold, on this machine."""
    return namespaces() if key in NAMESPACES else PLAIN.get(key, "")


def namespaces(proc: Path = Path("/proc/sys")) -> str:
    """Why no namespace can be made here, and what switch changes that."""
    if in_container():
        return _CONTAINER
    if os.geteuid():
        for name, value, words in _SWITCHES:
            if _read(proc / name) == value:
                return words
    elif _read(proc / "user/max_user_namespaces") == "0":
        return _SWITCHES[2][2]
    return _OTHERWISE


def in_container(root: Path = Path("/")) -> bool:
    """Whether this process runs in a container, as far as containers tell."""
    marks = (".dockerenv", "run/.containerenv")
    return any((root / mark).exists() for mark in marks) or "KUBERNETES_SERVICE_HOST" in os.environ


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text().strip()
    return ""
