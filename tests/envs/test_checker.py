"""Every check passes what is sound and catches the faults that were planted for it."""

import faulty
import pytest

import palestra
from palestra.cli.environment import required
from palestra.envs.checker import CHECKS, Status, Subject, audit
from palestra.envs.checker.policies import FLOORS
from palestra.envs.registration import list_environments
from palestra.envs.types import Message


def findings(cls, only=()):
    return list(audit(Subject(cls, tasks=10, episodes=20), only))


def test_a_sound_environment_passes_every_check():
    found = findings(faulty.Sound)
    assert {f.check: f.detail for f in found if f.status is Status.FAIL} == {}
    assert [f.check for f in found if f.status is Status.SKIP] == ["timeout"]
    assert [f.check for f in found] == list(CHECKS)


def test_a_fault_is_planted_for_every_check():
    assert faulty.FAULTS.keys() == CHECKS.keys()


@pytest.mark.parametrize(
    ("check", "cls"),
    [(check, cls) for check, classes in faulty.FAULTS.items() for cls in classes],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_planted_faults_are_caught(check, cls):
    (finding,) = findings(cls, [check])
    assert finding.status is Status.FAIL, finding
    assert len(finding.detail) > 20 and finding.about


def test_a_warning_of_gymnasium_is_told_without_its_colours():
    (finding,) = findings(faulty.AlwaysTheSameSeed, ["gymnasium"])
    assert finding.detail.startswith("The default seed argument in reset should be `None`")
    assert "\x1b" not in finding.detail


def test_an_answer_that_is_told_when_all_is_over_is_no_leak():
    (finding,) = findings(faulty.TellsInTheEnd, ["leak"])
    assert finding.status is Status.PASS, finding


def test_an_expression_is_found_in_its_question():
    def found(question):
        return FLOORS["expression in box"]([Message("system", "1 + 1"), Message("user", question)])

    assert found("What is 17 * (25 - 3)? Not 1 + 1.") == "\\boxed{17 * (25 - 3)}"
    assert found("Calculate -3+4/2.5.") == "\\boxed{-3+4/2.5}"
    assert found("Who wrote it in 1999?") == "\\boxed{Who wrote it in 1999?}"


BUILT_IN = [s for s in list_environments() if s.id.startswith("palestra/")]


@pytest.mark.parametrize("id", [spec.id for spec in BUILT_IN if not required(spec)])
def test_built_in_environments_pass(id):
    made = palestra.make(id)
    made.close()
    subject = Subject(lambda **changes: palestra.make(id, **changes).unwrapped, 8, 30)
    assert {f.check: f.detail for f in audit(subject) if f.status is Status.FAIL} == {}


def test_an_unknown_check_is_named():
    with pytest.raises(ValueError, match="no checks"):
        findings(faulty.Sound, ["flor"])
