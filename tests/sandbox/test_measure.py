"""Measuring: every job gives times, and nothing wrong is measured."""

from __future__ import annotations

import math

import pytest

from palestra.sandbox import LocalSandbox, SandboxError
from palestra.sandbox.measure import (
    JOBS,
    SYMPY,
    bare_fork,
    latency,
    quantile,
    throughput,
)


@pytest.mark.parametrize("job", JOBS)
def test_every_job_takes_some_time_each_time(job, native):
    times = latency(job, 6, native)
    assert len(times) == 6
    assert min(times) > 0


def test_few_seconds_mean_few_runs(sandbox):
    assert len(latency("call", 10_000, sandbox, seconds=0.01)) < 10_000
    assert len(latency("print", 1000, sandbox, seconds=1e-9)) == 5


def test_a_wrong_answer_is_no_measurement():
    with LocalSandbox(("math",)) as bare:  # no sympy in it
        with pytest.raises(SandboxError, match="shall print 42, and ended error"):
            latency("sympy", 1, bare)
        with pytest.raises(SandboxError, match="shall print 42"):
            throughput(bare, SYMPY, clients=2, seconds=0.1)
        with pytest.raises(ValueError, match="unknown job 'prnt'; jobs are print"):
            latency("prnt", 1, bare)


def test_throughput_counts_what_was_finished(sandbox):
    found = throughput(sandbox, clients=4, seconds=0.3)
    assert found.runs == len(found.latencies) >= 4
    assert found.per_second == found.runs / found.seconds


def test_the_floor_is_a_fork_of_a_process_with_the_packages_loaded():
    assert len(bare_fork(5)) == 5


def test_quantiles():
    values = [5.0, 1.0, 3.0, 2.0, 4.0]
    assert [quantile(values, share) for share in (0.0, 0.2, 0.5, 0.99, 1.0)] == [1, 1, 3, 5, 5]
    assert math.isnan(quantile([], 0.5))
