"""Files that are changed, cut, removed, or joined by others; then the same command again."""

import json
import shutil

from tests.faults.lab import content, run
from tests.faults.verdict import (
    LOST,
    UNCLEAR,
    WRONG,
    Fault,
    check_done,
    check_refused,
    lines,
)

REFUSED = 2
HARMS = ("flip", "cut", "remove", "foreign")
FOREIGN = (".DS_Store", "notes.txt", "x.tmp", "core.4711", ".nfs0000001", "latents (copy)")


def copied(trial, name, to=None):
    """A copy of what a job made undisturbed, in the trial's folder."""
    source = trial.lab.base / name
    target = trial.folder / (to or name)
    (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    return target


def files_in(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


def harm(trial, path, how):
    """Does it to a file; returns it, or what was put beside it."""
    rng = trial.rng
    if how == "foreign":
        path = path.parent / rng.choice(FOREIGN)
        path.write_bytes(rng.randbytes(rng.choice([0, 1, 5000])))
    elif how == "remove":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        place = rng.randrange(len(data))
        if how == "cut":
            data = data[:place]
        else:
            data[place] ^= rng.randrange(1, 256)
        path.write_bytes(data)
    trial.what += f"{how} {path.relative_to(trial.folder)}; "
    return path


def one_file(trial, folder):
    """A file of a checkpoint: of a random item, so that small ones come as often as large ones."""
    items = sorted({p.relative_to(folder).parts[0] for p in files_in(folder)})
    item = folder / trial.rng.choice(items)
    return item if item.is_file() else trial.rng.choice(files_in(item))


def of_training(how):
    """The newest checkpoint of a run that goes on, or its records or config."""

    def strike(trial):
        workdir, rng = half_trained(trial), trial.rng
        target = rng.choice(["checkpoints/6"] * 8 + ["metrics.jsonl", "config.json"])
        path = workdir / target
        harm(trial, path if path.is_file() else one_file(trial, path), how)
        job = trial.jobs["train"]
        answer = run(job)
        check_done(answer, "training goes on")
        damaged = (workdir / "checkpoints" / "6.damaged").exists()
        if damaged and not any("DAMAGED" in line and "6" in line for line in lines(answer[2])):
            raise Fault(UNCLEAR, f"6.damaged without a line: {answer[2]!r}")
        wanted = dict(trial.lab.wanted[job.name])
        if "metrics.jsonl is not there: records begin with step 7" in answer[2]:
            wanted["records"] = [record for record in wanted["records"] if record["step"] > 6]
        elif target == "metrics.jsonl":
            # Lines that are none are left out, with a line; a changed digit is not noticed. The
            # others are what they were.
            told = "damaged lines are left out" in answer[2]
            found = content(job.output)["records"]
            changed = sum(record not in wanted["records"] for record in found)
            fewer = len(wanted["records"]) - len(found)
            if (changed, fewer > 0) in ((0, told), (int(how == "flip"), False)):
                wanted["records"] = found
        trial.same(job, wanted)

    return strike


def half_trained(trial):
    """A workdir whose training was ended after step 6 of 8."""
    workdir = copied(trial, "generator")
    shutil.rmtree(workdir / "checkpoints" / "8")
    return workdir


def of_all_checkpoints(trial):
    """All are damaged: nothing is begun anew; with one copied again the run goes on."""
    workdir, job = half_trained(trial), trial.jobs["train"]
    for step in ("4", "6"):
        folder = workdir / "checkpoints" / step
        if trial.rng.random() < 0.5:
            harm(trial, folder / trial.rng.choice(["meta", "loop"]) / "metadata", "cut")
        else:
            for path in (folder / "params").rglob("d/*"):
                harm(trial, path, "flip")
    answer = run(job)
    check_refused(answer, [REFUSED], [workdir / "checkpoints"], "training")
    shutil.rmtree(workdir / "checkpoints")
    shutil.copytree(trial.lab.base / "generator" / "checkpoints", workdir / "checkpoints")
    shutil.rmtree(workdir / "checkpoints" / "8")
    trial.finished(job)


def older(trial, name, source, keep, **changes):
    """What a job makes of an older checkpoint."""

    def make(folder):
        job = type(trial)(trial.lab, None, folder).jobs[name]
        checkpoints = folder / "older" / "checkpoints"
        shutil.copytree(trial.lab.base / source / "checkpoints" / keep, checkpoints / keep)
        job = with_checkpoint(job, source, folder / "older")
        check_done(run(job), f"{name} of step {keep}")
        (folder / "content").write_text(json.dumps(content(job.output)))

    folder = trial.lab.once(f"{name} of {source} {keep}", make)
    return json.loads((folder / "content").read_text())


def with_checkpoint(job, source, path):
    """A job that reads its weights at another place."""
    key = "sample.checkpoint" if source == "generator" else "extract.checkpoint"
    arguments = [a for a in job.arguments if not a.startswith(f"--config.{key}=")]
    if job.program == "main.py":
        arguments.append(f"--config.{key}={path}")
    else:
        arguments[arguments.index("--src") + 1] = str(path)
    return type(job)(job.name, tuple(arguments), job.output, job.program)


READERS = {
    "sample": ("generator", "8", "6"),
    "extract": ("tokenizer", "4", "2"),
    "evaluate": ("tokenizer", "4", "2"),
    "convert back": ("generator", "8", "6"),
}


def of_what_is_read(how):
    """The newest checkpoint of a run, or one that is named, is read by another job."""

    def strike(trial):
        name = trial.rng.choice(list(READERS))
        source, newest, before = READERS[name]
        workdir = copied(trial, source, to="read")
        folder = workdir / "checkpoints" / newest
        named = trial.rng.random() < 0.4
        trial.what = f"{name} of {'step ' + newest if named else 'the run'}: "
        harm(trial, one_file(trial, folder), how)
        job = with_checkpoint(trial.jobs[name], source, folder if named else workdir)
        answer = run(job)
        if answer[0] == REFUSED and (named or name == "convert back"):
            check_refused(answer, [REFUSED], [folder], name)
            if job.output.exists() and any(job.output.iterdir()):
                raise Fault(LOST, f"{job.output} was begun")
            return
        check_done(answer, name)
        if any("passed over as damaged" in line for line in lines(answer[2])) and not named:
            trial.same(job, older(trial, name, source, before))
        else:
            trial.same(job)

    return strike


def of_latents(how):
    """Shards, statistics, records and digests: training may refuse, an extraction mends."""

    def strike(trial):
        folder, rng = copied(trial, "latents"), trial.rng
        groups = ["latents_rank*", "latents_stats*", "extraction.json", "extraction.rank*"]
        path = rng.choice(sorted(folder.glob(rng.choice(groups))))
        harmed = harm(trial, path, how)
        extract = trial.jobs["extract"]
        train = trial.jobs["train"].changed(data__path=folder)
        refused = trains = False
        if rng.random() < 0.4:
            answer, trains = run(train), True
            refused = answer[0] == REFUSED
            if refused:
                check_refused(answer, [REFUSED], [path, path.name], "training")
            else:
                check_done(answer, "training")
        unlike = trains and not refused and content(train.output) != trial.lab.wanted["train"]
        if unlike:
            check_told(folder, path)
        answer = run(extract)
        if answer[0] == REFUSED:  # of the record nobody knows what it was
            check_refused(answer, [REFUSED], [folder], "extraction")
            if not path.name.startswith("extraction"):
                raise Fault(LOST, f"the extraction does not mend it: {answer[2]!r}")
            shutil.copy(trial.lab.base / "latents" / path.name, path)
        else:
            check_done(answer, "extraction, again")
        if how == "foreign" and harmed.suffix == ".safetensors":
            harmed.unlink()
        trial.finished(extract)

    return strike


def check_told(folder, path):
    """What training need not notice, --mode=verify names."""
    from tests.faults.jobs import Job

    answer = run(Job("verify", ("--mode=verify", f"--config.data.path={folder}"), folder))
    if answer[0] != 1 or path.name not in answer[1]:
        raise Fault(WRONG, f"trained on other latents, verified: {answer[0]} {answer[1][-500:]!r}")


def half_sampled(trial):
    """A workdir with two of three parts of its samples."""

    def make(folder):
        job = type(trial)(trial.lab, None, folder).jobs["sample"]
        sign = f"{folder}/samples/samples.parts/00000008*.npy"
        run(job, when=[[sign, "SIGKILL"]])

    folder = trial.lab.once("half of the samples", make)
    shutil.copytree(folder / "samples", trial.folder / "samples")
    return trial.folder / "samples"


def of_samples(how):
    """Parts, their settings, and what is made of them."""

    def strike(trial):
        job = trial.jobs["sample"]
        if trial.rng.random() < 0.6:
            folder = half_sampled(trial) / "samples.parts"
        else:
            folder = copied(trial, "samples")
        names = [p for p in files_in(folder) if p.suffix in (".npy", ".json", ".npz")]
        path = harm(trial, trial.rng.choice(names), how)
        answer = run(job)
        if answer[0] == REFUSED:
            check_refused(answer, [REFUSED], [path, path.parent], "sampling")
            if path.suffix != ".json":
                raise Fault(LOST, f"the sampling does not mend it: {answer[2]!r}")
            shutil.rmtree(folder)
            answer = run(job)
        check_done(answer, "sampling, again")
        trial.same(job)

    return strike


def of_reports(how):
    """sweep.json, evaluation.json and samples.npz, where they are read."""

    def strike(trial):
        name = trial.rng.choice(["sweep", "evaluate", "evaluate samples", "convert"])
        job = trial.jobs[name]
        if name == "evaluate samples":
            target = copied(trial, "samples") / trial.rng.choice(["samples.npz", "samples.json"])
            job = job.changed(evaluate__samples=target.with_suffix(".npz"))
        elif name == "convert":
            target = one_file(trial, copied(trial, "converted"))
            job = type(job)(name, (*job.arguments, "--overwrite"), job.output, job.program)
        elif name == "sweep":
            target = copied(trial, "sweep") / "sweep.json"
        else:
            target = copied(trial, "evaluation") / "evaluation.json"
        trial.what = f"{name}: "
        path = harm(trial, target, how)
        answer = run(job)
        if answer[0] == REFUSED:
            check_refused(answer, [REFUSED], [path, job.output, target], name)
            if name == "evaluate samples":
                shutil.copy(trial.lab.base / "samples" / target.name, target)
            elif job.output.is_dir():
                shutil.rmtree(job.output)
            answer = run(job)
        check_done(answer, f"{name}, again")
        if name == "sweep" and how == "flip" and content(job.output) != trial.lab.wanted[name]:
            # A changed digit in JSON that people may edit is not noticed, as is documented.
            rows = content(job.output)["rows"]
            wanted = trial.lab.wanted[name]["rows"]
            changed = [a != b for a, b in zip(rows, wanted)]
            if len(rows) <= len(wanted) and sum(changed) <= 1:
                return
        trial.same(job)

    return strike


def every(strike, name, count):
    return {f"{how} in {name}": (count, strike(how)) for how in HARMS}


KINDS = {
    **every(of_training, "a run that goes on", 10),
    "all checkpoints damaged": (4, of_all_checkpoints),
    **every(of_what_is_read, "a checkpoint that is read", 10),
    **every(of_latents, "latents", 9),
    **every(of_samples, "samples", 6),
    **every(of_reports, "reports, converted", 8),
}
