"""SIGKILL, SIGTERM and SIGINT at random moments of every job."""

from tests.faults.lab import run
from tests.faults.verdict import UNCLEAR, Fault, Missed, check_clear, check_refused, lines

# How often each job is struck.
WEIGHTS = {
    "train": 10,
    "train a tokenizer": 1,
    "extract": 4,
    "sample": 5,
    "sweep": 1,
    "evaluate": 1,
    "evaluate samples": 1,
    "convert": 8,
    "convert back": 6,
    "convert to a workdir": 8,
}
ENDING = "{}: ending when this step is done and saved; a second one ends at once"


def moment(trial, job, action):
    """More for a command: a signal at a change of its files, or some time after its start."""
    lab, rng = trial.lab, trial.rng
    if rng.random() < 0.6:
        number = rng.randint(1, lab.changes[job.name])
        trial.what = f"{action} of {job.name} at change {number}"
        return {"prepare": at_change(trial, number, "kill", action)}
    seconds = round(rng.uniform(0, lab.seconds[job.name]), 2)
    trial.what = f"{action} of {job.name} after {seconds} s"
    return {"when": [["listening", lambda pid: None], [seconds, action]]}


def at_change(trial, number, action, value):
    arguments = {"under": f"{trial.folder}/", "number": number, "action": action, "value": value}
    return ["tests.faults.moments", "at_change", arguments]


def chosen(trial, weights=WEIGHTS):
    names = [name for name in weights if name in trial.lab.wanted]
    name = trial.rng.choices(names, [weights[name] for name in names])[0]
    return trial.jobs[name]


def killed(trial):
    job = chosen(trial)
    answer = run(job, **moment(trial, job, "SIGKILL"))
    if answer[0] == 0:
        raise Missed
    if answer[0] != -9:
        raise Fault(UNCLEAR, f"status {answer[0]}: {answer[2][-500:]!r}")
    goes_on(trial, job)


def asked(number):
    def ask(trial):
        job = chosen(trial)
        answer = run(job, **moment(trial, job, number))
        if answer[0] == 0:
            raise Missed
        check_asked(answer, number)
        goes_on(trial, job)

    return ask


def check_asked(answer, number):
    """It ended with status 75, one line, and how to go on."""
    status, out, errors = answer
    check_clear(answer, "the command")
    said = [line for line in lines(errors) if line.startswith(number)]
    ending = ENDING.format(number)
    if status == 75 and said == [ending]:
        clear = f"as {number} asks; restart to go on" in out
    else:  # at once, or as soon as the last step, which was being saved, is saved
        ended = [line for line in said if line != ending]
        start = f"{number}: ended; "
        clear = status == 75 and len(ended) == 1 and ended[0].startswith(start)
        clear = clear and said[-1] == ended[0] and "the same command" in ended[0]
    if not clear:
        raise Fault(UNCLEAR, f"says {errors!r} and {out[-300:]!r}")


def goes_on(trial, job):
    """The same command ends with what it makes undisturbed."""
    if job.name in ("convert", "convert to a workdir") and job.output.exists():
        answer = run(job)
        if answer[0] == 0 and job.name == "convert to a workdir":  # it was not complete
            trial.same(job)
            return
        check_refused(answer, [2], [job.output], f"{job.name}, again")
        trial.same(job, what="what is said to be complete")
        return
    trial.finished(job)


KINDS = {
    "SIGKILL": (110, killed),
    "SIGTERM": (55, asked("SIGTERM")),
    "SIGINT": (55, asked("SIGINT")),
}
