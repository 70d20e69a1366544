"""What became of a fault, and the reasons."""

import dataclasses
import re

SURVIVED, LOST, WRONG, UNCLEAR = "survived", "lost", "wrong", "unclear"
VERDICTS = (SURVIVED, LOST, WRONG, UNCLEAR)
MISSED = "missed"  # no injection: all that were tried came when the command was done
HUNG = -24  # the status of a command that had to be ended
# Lines of the program that tell of no error: warnings by absl, and bars of progress.
_SPOKEN = re.compile(
    r"(WARNING:absl:|W\d{4} [\d:.]+ +\d+ [\w.]+:\d+\] |error: |SIG[A-Z]+( again)?: |ending, "
    # Without a file left to open: JAX's cache of programs, and a library of XLA's.
    r"|.*UserWarning: Error (read|writ)ing persistent compilation cache|warnings\.warn\("
    r"|Error in cpuinfo: |Failed to initialize cpuinfo )"
)


class Fault(Exception):
    """A fault that did not end as is promised."""

    def __init__(self, verdict, why):
        super().__init__(why)
        self.verdict = verdict


class Missed(Exception):
    """The command was done before the fault came: nothing was injected."""


@dataclasses.dataclass(frozen=True)
class Injection:
    """One fault, and what became of it."""

    kind: str
    number: int
    what: str
    verdict: str
    why: str
    seconds: float


def lines(errors):
    """What a command said on standard error, without bars of progress."""
    said = [line.rpartition("\r")[2].strip() for line in errors.split("\n")]
    return [line for line in said if line and "it/s]" not in line and "?it" not in line]


def check_clear(answer, what):
    """Raises Fault for a hang, a traceback, or a line that is no line of the program."""
    status, out, errors = answer
    if status == HUNG:
        raise Fault(UNCLEAR, f"{what} hangs: {errors[-300:]!r}")
    if "Traceback" in errors + out:
        raise Fault(UNCLEAR, f"{what}, status {status}: a traceback: {errors[-1500:]}")
    if odd := [line for line in lines(errors) if not _SPOKEN.match(line)]:
        raise Fault(UNCLEAR, f"{what}, status {status}: says {odd[:3]}")


def check_refused(answer, statuses, names, what):
    """Raises Fault unless it ended in one line that names one of the things."""
    status, _, errors = answer
    check_clear(answer, what)
    if status not in statuses:
        raise Fault(UNCLEAR, f"{what}: status {status}, expected {statuses}: {errors[-500:]!r}")
    said = [line for line in lines(errors) if line.startswith("error: ")]
    if len(said) != 1:
        raise Fault(UNCLEAR, f"{what}, status {status}: {len(said)} lines of error: {errors!r}")
    if not any(str(name) in said[0] for name in names):
        raise Fault(UNCLEAR, f"{what}: {said[0]!r} names none of {[str(n) for n in names]}")


def check_done(answer, what):
    """Raises Fault unless the command did its work."""
    check_clear(answer, what)
    if answer[0] != 0:
        raise Fault(LOST, f"{what}: status {answer[0]}: {answer[2][-500:]!r}")


def check_same(found, wanted, what):
    """Raises Fault where a job's content is another."""
    differing = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
    if differing:
        few = {key: (found.get(key), wanted.get(key)) for key in differing[:3]}
        raise Fault(WRONG, f"{what}: other than undisturbed: {len(differing)} differ: {few!s:.600}")
