"""What a hostile program is, and how what became of it is judged.

A program that meets a refusal prints SAFE; one that got what it wanted prints WORKED. That is
the word of a program of ours; besides it count how the call ended, as the back end says, and
what the `Witness` saw happen to the host.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from palestra.sandbox import Limits, Status

OK, ERROR, MEMORY, CRASHED = Status.OK, Status.ERROR, Status.MEMORY, Status.CRASHED
TIMEOUT, OUTPUT = Status.TIMEOUT, Status.OUTPUT
FAILED = (ERROR, MEMORY, CRASHED, TIMEOUT, OUTPUT)
ANY = (OK, *FAILED)

ATTACK_LIMITS = Limits(
    cpu_s=5.0,
    memory_bytes=128 << 20,
    tasks=16,
    output_kill_bytes=1 << 20,
    file_bytes=4 << 20,
    tmp_bytes=8 << 20,
    tmp_inodes=256,
    descriptors=64,
)


@dataclass(frozen=True)
class Attack:
    """One hostile program.

    Attributes:
        number: in the abuse list of 78 cases; those beyond it go on from 79, by theme.
        code: the program; names between at signs are replaced by what the `Witness` guards.
        ends: the verdicts that count as contained.
        walls: layers that it is stopped by; where one is missing nothing is promised.
        then: a later call in the same session (elsewhere a second program), which must find
            nothing amiss and print SAFE.
        later: the same, in another session.
        own: whether it is about this sandbox's insides, or about calls that a program without
            a sandbox may well make; such are not run against others.
        spoils: whether its own session is of no use after it, and nobody else's.
    """

    number: int
    name: str
    code: str
    ends: tuple[Status, ...] = (OK,)
    walls: tuple[str, ...] = ()
    then: str = ""
    later: str = ""
    own: bool = False
    spoils: bool = False

    @property
    def id(self) -> str:
        return f"{self.number:02}-{self.name}"

    @property
    def endless(self) -> bool:
        """Whether it may go on until it is stopped."""
        return TIMEOUT in self.ends

    @property
    def native_code(self) -> bool:
        """Whether it is written with the call numbers of x86-64."""
        return "syscall(" in self.code or "machine code" in self.code


def attack(number: int, name: str, code: str, *ends: Status, **more: object) -> Attack:
    """An `Attack` from an indented text."""
    fields = {"ends": ends or (OK,), **more}
    if isinstance(fields.get("then"), str):
        fields["then"] = textwrap.dedent(str(fields["then"])).strip()
    return Attack(number, name, textwrap.dedent(code).strip(), **fields)  # type: ignore[arg-type]


def refused(
    number: int, name: str, statement: str, *, word: str = "WORKED", **more: object
) -> Attack:
    """A statement that must raise; `word` is what it prints if it does not.

    Another word than WORKED is for what is abuse only if the host suffers: the `Witness` knows.
    """
    code = (
        "import os, sys, ctypes, signal\n"
        f"try:\n    {statement}\n    print('{word}')\n"
        "except (OSError, ImportError, ValueError) as error: print('SAFE', error)"
    )
    return attack(number, name, code, **more)


def call(number: int, name: str, code: int, *arguments: int | str, **more: object) -> Attack:
    """A system call (x86-64 number) that must be refused, as forbidden or as unknown.

    `setup` makes what the call needs, so that it would succeed where it is let through;
    arguments that are text are expressions over it. What the kernel itself finds fault with
    was let through: that is FAILED, no abuse, but not what a filter promises either.
    """
    setup, word = more.pop("setup", ""), more.pop("word", "WORKED")
    words = ", ".join(f"ctypes.c_long({word})" for word in (code, *arguments))
    source = (
        f"import ctypes, os\n{setup}\n"
        f"r = ctypes.CDLL(None, use_errno=True).syscall({words})\n"
        "e = ctypes.get_errno()\n"
        f"print('{word}' if r >= 0 else 'SAFE' if e in (1, 38) else f'FAILED with {{e}}')"
    )
    return attack(number, name, source, **more)


@dataclass
class Outcome:
    """What became of one attack, in plain values.

    Attributes:
        ended: a `Status`; or "refused" by a back end that runs such code not at all.
        same, fresh: what was wrong with the next call in the same and in a new session.
        harm: what the `Witness` saw.
        lost: the back end or its host died, hung or raised what it should not.
    """

    ended: str = ""
    stdout: str = ""
    stderr: str = ""
    then: str = ""
    later: str = ""
    same: str = ""
    fresh: str = ""
    harm: tuple[str, ...] = ()
    lost: str = ""
    seconds: float = 0.0


def worked(attack: Attack, outcome: Outcome) -> str:
    """In what way an attack got what it wanted; empty if it did not. For any back end."""
    if outcome.harm:
        return "; ".join(outcome.harm)
    if "WORKED" in outcome.stdout + outcome.then + outcome.later:
        return "it did what it must not"
    if outcome.ended == OK and OK not in attack.ends:
        return "it counts as a program that ran well"
    return ""


def unsettled(outcome: Outcome) -> list[str]:
    """What is wrong with the back end, whatever the program itself achieved."""
    found = [outcome.lost, *outcome.harm, outcome.same, outcome.fresh]
    return [problem for problem in found if problem]


def problems(attack: Attack, outcome: Outcome) -> list[str]:
    """What is wrong, for a back end of ours: held to more than that nothing `worked`."""
    found = unsettled(outcome)
    if outcome.lost:
        return found
    found.append(worked(attack, outcome))
    if outcome.ended not in attack.ends:
        found.append(f"ended as {outcome.ended}, expected one of {[str(s) for s in attack.ends]}")
    if attack.ends == (OK,) and "SAFE" not in outcome.stdout:
        found.append(f"did not say SAFE: {outcome.stdout[-300:]!r} {outcome.stderr[-500:]!r}")
    if attack.then and "SAFE" not in outcome.then:
        found.append(f"the call after it did not say SAFE: {outcome.then[-800:]!r}")
    if attack.later and "SAFE" not in outcome.later:
        found.append(f"a later session did not say SAFE: {outcome.later[-800:]!r}")
    return [problem for problem in found if problem]
