"""Every program of `attacks` is contained by every back end, which goes on as if nothing were.

Each back end plays all attacks that were selected in one process of its own, several at once;
the tests look at what became of each.
"""

import platform

import backends
import pytest
from attacks import ATTACKS, SCENES, Attack, problems, unsettled

pytestmark = pytest.mark.timeout(backends.WITHIN_S + 60)


@pytest.fixture(scope="module", params=backends.BACKENDS)
def played(request):
    selected = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    wanted = {params["attack"].id for params in selected if "attack" in params}
    return backends.play(request.param, wanted)


def test_the_list_is_whole():
    numbers = {attack.number for attack in (*ATTACKS, *SCENES)}
    assert set(range(1, 79)) <= numbers
    ids = [attack.id for attack in (*ATTACKS, *SCENES)]
    assert len(ids) == len(set(ids))


LIST = [
    pytest.param(one, id=one.id, marks=[pytest.mark.slow] if getattr(one, "slow", False) else [])
    for one in (*ATTACKS, *SCENES)
]


@pytest.mark.parametrize("attack", LIST)
def test_contained(played, attack):
    if isinstance(attack, Attack) and attack.native_code and platform.machine() != "x86_64":
        pytest.skip("written with the call numbers of x86-64")
    missing = [wall for wall in attack.walls if wall in played.missing]
    if missing and not isinstance(attack, Attack):
        pytest.skip(f"the {played.tier} tier does not promise this: no {missing}")
    outcome = played.outcomes.get(attack.id)
    assert outcome is not None, f"the back end was lost before it: {played.end}"
    promised = not missing and attack.id not in backends.GRANTED.get(played.name, ())
    if promised and isinstance(attack, Attack):
        assert problems(attack, outcome) == []
    else:  # the program may get what it wants, but the back end must not suffer
        assert unsettled(outcome) == []


def test_it_ends_well(played):
    assert played.end.startswith("exit code 0"), played.end
