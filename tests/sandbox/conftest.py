"""One sandbox for the whole folder, as programs have it."""

import pytest

from palestra.sandbox import Limits, LocalSandbox

QUICK = Limits(wall_s=5.0, cpu_s=5.0)


@pytest.fixture(scope="session")
def sandbox():
    with LocalSandbox(limits=QUICK) as made:
        yield made


@pytest.fixture
def session(sandbox):
    with sandbox.open() as made:
        yield made


@pytest.fixture
def native(sandbox):
    """For tests of what only namespaces and supervised system calls can give."""
    if sandbox.missing.keys() - {"cgroup"}:
        pytest.skip(f"not given by this machine: {sandbox.missing}")
    return sandbox
