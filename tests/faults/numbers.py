"""NaN and infinities in data, statistics, weights and gradients; labels out of range."""

import numpy as np
import safetensors.numpy

from tests.faults.damage import copied
from tests.faults.jobs import Job
from tests.faults.lab import content, run
from tests.faults.verdict import (
    LOST,
    UNCLEAR,
    Fault,
    Missed,
    check_clear,
    check_done,
    check_refused,
)

REFUSED = 2
BAD = {"NaN": np.nan, "Inf": np.inf, "-Inf": -np.inf, "1e30": 1e30}


def rewrite(path, change):
    """A shard or statistics with other numbers, and digests that are right for them."""
    from lightningdit_jax.data.latents import STATS_NAME, _write_parts

    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    assert path.name == STATS_NAME or path.suffix == ".safetensors"
    _write_parts(_epath(path), 0, [safetensors.numpy.save(tensors)])


def _epath(path):
    from etils import epath

    return epath.Path(path)


def policy_of(trial):
    return trial.rng.choice(["stop", "skip", "rollback"])


def bad_data(trial):
    """One record of the latents is not finite."""
    folder, rng, policy = copied(trial, "latents"), trial.rng, policy_of(trial)
    path = rng.choice(sorted(folder.glob("latents_rank*")))
    name, value = rng.choice(list(BAD.items()))

    def change(tensors):
        rows = tensors["latents"].shape[0]
        for row in range(0, rows, 5):  # some are among the first batches
            tensors["latents"][row].flat[rng.randrange(tensors["latents"][row].size)] = value

    rewrite(path, change)
    trial.what = f"{name} in {path.name}, {policy}"
    trains(trial, {"data__path": folder}, policy, str(path))


def trains(trial, changes, policy, cause):
    """A training that meets what is not finite, does what the policy says."""
    job = trial.jobs["train"].changed(train__nonfinite=policy, train__max_nonfinite=50, **changes)
    answer = run(job)
    check_clear(answer, "training")
    out = answer[1]
    if policy == "stop":
        check_refused(answer, [REFUSED], [cause], "training")
        if "is kept" not in answer[2]:
            raise Fault(UNCLEAR, f"says {answer[2]!r}")
        return
    if answer[0] != 0:
        raise Fault(LOST, f"status {answer[0]}: {answer[2][-500:]!r}")
    said = [line for line in out.splitlines() if "not finite" in line]
    if not said:  # none of these records was among the first batches
        if not content(job.output)["finite"]:
            raise Fault(LOST, "the last state is not finite, without a word")
        raise Missed
    if not all(cause in line and f". {policy}; " in line for line in said):
        raise Fault(UNCLEAR, f"says {said}")
    made = content(job.output)
    if not made["finite"] or made["step"] != "8":
        raise Fault(LOST, f"ends at step {made['step']}, finite: {made['finite']}")
    count = max(record.get("nonfinite_steps", 0) for record in made["records"])
    if count != len(said):
        raise Fault(UNCLEAR, f"{count} counted, {len(said)} said")


def bad_statistics(trial):
    folder, rng = copied(trial, "latents"), trial.rng
    name, value = rng.choice([("NaN", np.nan), ("Inf", np.inf), ("0", 0.0), ("-1", -1.0)])
    which = "std" if value in (0.0, -1.0) else rng.choice(["mean", "std"])
    path = folder / "latents_stats.safetensors"

    def change(tensors):
        tensors[which].flat[rng.randrange(tensors[which].size)] = value

    rewrite(path, change)
    trial.what = f"{which} {name}"
    train = trial.jobs["train"].changed(data__path=folder)
    check_refused(run(train), [REFUSED], [path], "training")
    trial.finished(trial.jobs["extract"])  # computes them again


def bad_labels(trial):
    folder, rng = copied(trial, "latents"), trial.rng
    path = rng.choice(sorted(folder.glob("latents_rank*")))
    label = rng.choice([-1, 10, 11, 1000, -(2**40), 2**40])

    def change(tensors):
        tensors["labels"][rng.randrange(len(tensors["labels"]))] = label

    rewrite(path, change)
    trial.what = f"label {label}"
    train = trial.jobs["train"].changed(data__path=folder)
    check_refused(run(train), [REFUSED], [folder], "training")


def bad_weights(trial):
    """A checkpoint that was saved with NaN in it, and digests that are right."""
    rng = trial.rng
    of = rng.choice(["train", "sample", "extract", "convert back"])
    source = "tokenizer" if of == "extract" else "generator"
    target = trial.folder / source
    name = rng.choice(["NaN", "Inf"])
    trial.what = f"{name} in the weights, {of}"
    script = {"program": "tests/faults/bad_weights.py"}
    arguments = (str(trial.lab.base / source), str(target), str(BAD[name]))
    check_done(run(Job("bad weights", arguments, target, **script)), "bad weights")
    from tests.faults.damage import with_checkpoint

    if of == "train":
        policy = policy_of(trial)
        trial.what += f", {policy}"
        job = trial.jobs["train"].changed(
            train__nonfinite=policy, train__max_nonfinite=2, train__num_steps=12
        )
        answer = run(job)
        check_refused(answer, [REFUSED], ["it is the model"], "training")
        return
    job = with_checkpoint(trial.jobs[of], source, target)
    answer = run(job)
    if of == "extract" and answer[0] == 0:  # a decoder's weight, which is not asked for
        record = {"record": content(job.output)["record"]}  # which names the weights
        trial.same(job, trial.lab.wanted[job.name] | record)
        return
    check_refused(answer, [REFUSED], ["the weights of", str(target)], of)
    if "finite" not in answer[2]:
        raise Fault(UNCLEAR, f"says {answer[2]!r}")


def bad_gradients(trial):
    """A learning rate beyond all reason."""
    policy = policy_of(trial)
    rate = trial.rng.choice(["1e10", "1e20", "1e35"])
    trial.what = f"learning rate {rate}, {policy}"
    changes = {
        "optimizer__learning_rate": rate,
        "optimizer__warmup_steps": 0,
        "optimizer__max_grad_norm": 0.0,
        "train__max_nonfinite": 3,
        "train__nonfinite": policy,
    }
    job = trial.jobs["train"].changed(**changes)
    answer = run(job)
    check_clear(answer, "training")
    if answer[0] == 0:
        if not content(job.output)["finite"]:
            raise Fault(LOST, "the last state is not finite, without a word")
        return
    check_refused(answer, [REFUSED], ["it is the model"], "training")
    checkpoints = job.output / "checkpoints"
    if any(p.name.isdigit() for p in checkpoints.iterdir()) and not content(job.output)["finite"]:
        raise Fault(LOST, "the checkpoint that is kept is not finite")


KINDS = {
    "NaN, Inf in data": (10, bad_data),
    "NaN, Inf in statistics": (6, bad_statistics),
    "NaN, Inf in weights": (8, bad_weights),
    "NaN, Inf in gradients": (8, bad_gradients),
    "label out of range": (6, bad_labels),
}
