"""Every command of a tiny tokenizer and generator of digits, and what it reads and writes."""

import dataclasses
import pathlib

from tests import tiny
from tests.forked_commands import ROOT

SAMPLER = ("sample.tokenizer", "sample.checkpoint", "sample.num_steps", "sample.batch_size")
# A key that a mode does not read is refused.
READ_BY = {
    "train": lambda key: not key.startswith(("extract", "sample", "sweep", "evaluate")),
    "extract": lambda key: key.startswith("extract") or key == "data.split",
    "sample": lambda key: key.startswith("sample"),
    "sweep": lambda key: key.startswith("sweep") or key in SAMPLER,
    "evaluate": lambda key: key.startswith("evaluate") or key == "extract.checkpoint",
    "evaluate samples": lambda key: key.startswith("evaluate"),
}
EVERY_STEP = {
    "train.log_every_steps": 1,
    "train.checkpoint_every_steps": 2,
    "train.keep_checkpoints": 3,
}
STEPS = 8
SOURCE = ROOT / "tests" / "testdata" / "golden" / "checkpoints" / "release_full.pt"


@dataclasses.dataclass(frozen=True)
class Job:
    """A command. output: what it writes, in the folder that it is given."""

    name: str
    arguments: tuple[str, ...]
    output: pathlib.Path
    program: str = "main.py"

    def command(self, **more):
        """As tests.forked_commands runs it."""
        return {"arguments": list(self.arguments), "program": self.program, **more}

    def changed(self, **changes):
        """With other values of config keys, __ for a dot."""
        flags = [f"--config.{key.replace('__', '.')}={value}" for key, value in changes.items()]
        names = [flag.partition("=")[0] + "=" for flag in flags]
        kept = [a for a in self.arguments if not a.startswith(tuple(names))]
        return dataclasses.replace(self, arguments=(*kept, *flags))


def jobs(base, folder):
    """Each job by name; it reads what the jobs before it made in `base` and writes into `folder`.

    With folder == base they are one after another what a user does.
    """
    output = {
        "train a tokenizer": folder / "tokenizer",
        "extract": folder / "latents",
        "train": folder / "generator",
        "sample": folder / "samples",
        "sweep": folder / "sweep",
        "evaluate": folder / "evaluation",
        "evaluate samples": folder / "numbers",
        "convert": folder / "converted",
        "convert back": folder / "back.safetensors",
        "convert to a workdir": folder / "workdir",
    }
    vae = {
        **tiny.TOKENIZER,
        **EVERY_STEP,
        "train.num_steps": 4,
        "extract.path": output["extract"],
        "extract.checkpoint": base / "tokenizer",
    }
    dit = {
        **tiny.GENERATOR,
        **EVERY_STEP,
        "train.num_steps": STEPS,
        "data.path": base / "latents",
        "model.input_size": 8,
        "sample.checkpoint": base / "generator",
        "sample.tokenizer": base / "tokenizer",
        "sample.num_samples": 24,
        "sample.num_steps": 3,
        "sample.batch_size": 8,
        "sample.output": "both",
        "sweep.num_samples": 16,
        "sweep.cfg_scale": "(1.0,2.0)",
        "evaluate.samples": base / "samples" / "samples.npz",
    }
    of = {name: ("digits_dit", dit, name) for name in ("train", "sample", "sweep")}
    of |= {name: ("digits_vavae", vae, name) for name in ("extract", "evaluate")}
    of["train a tokenizer"] = ("digits_vavae", vae, "train")
    of["evaluate samples"] = ("digits_dit", dit, "evaluate samples")

    def job(name):
        config, flags, mode = of[name]
        workdir = base / "tokenizer" if name == "extract" else output[name]
        given = [f"--config.{key}={flags[key]}" for key in flags if READ_BY[mode](key)]
        head = [f"--config=configs/{config}.py", f"--workdir={workdir}"]
        return Job(name, (*head, f"--mode={mode.split()[0]}", *given), output[name])

    def conversion(name, *arguments):
        arguments = map(str, (*arguments, "--dst", output[name]))
        return Job(name, tuple(arguments), output[name], "convert_torch_weights.py")

    every = [job(name) for name in output if name in of]
    every += [
        conversion("convert", "--src", SOURCE),
        conversion("convert back", "--to-torch", "--src", base / "generator"),
        conversion("convert to a workdir", "--to-workdir", "--src", SOURCE),
    ]
    return {job.name: job for job in every}
