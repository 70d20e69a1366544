"""JSON of workdirs and of folders of weights, logs, and configs that a workdir remembers."""

import json
import pathlib
import random
from collections.abc import Iterator
from typing import Any

from etils import epath

from lightningdit_jax.assembly.verify import verify
from lightningdit_jax.assembly.workdir import CONFIG_FILE, read_config
from lightningdit_jax.commands.config_argument import defaults
from lightningdit_jax.config import from_dict
from lightningdit_jax.configs import base
from lightningdit_jax.convert.diffusers_config import read_diffusers_config
from lightningdit_jax.convert.source import read_source
from lightningdit_jax.inference.quality.evaluated_file import samples_identity
from lightningdit_jax.inference.quality.sweep import read_rows
from lightningdit_jax.training.writer import MetricWriter
from tests.fuzz import mutations, npz_kinds, safetensors_kinds
from tests.fuzz.config_oracle import unlike_documented
from tests.fuzz.harness import Input, Kind

ROWS = [{"settings": {"seed": 0}, "numbers": {"fid": 1.5}, "seconds": 2.0}]
SAMPLES = {"seed": 0, "weights": {"step": 3}, "runtime": {"seconds": 1.0, "arr_0_crc32": 0}}
EVALUATION = {"fid": 2.5, "made_with": {"seed": 0}}
LINES = [{"step": step, "loss": 0.5, "eval/fid": 2.0} for step in (1, 2, 3)]


def _prepare(folder: pathlib.Path) -> None:
    npz_kinds._write_samples(folder)
    samples = json.loads(json.dumps(SAMPLES))
    samples["runtime"]["arr_0_crc32"] = npz_kinds.NpzImages(folder / "samples.npz").checksum()
    files = {"sweep.json": ROWS, "samples.json": samples, "evaluation.json": EVALUATION}
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))


def _inputs(seed: int, count: int) -> Iterator[Input]:
    values = {"sweep.json": ROWS, "samples.json": SAMPLES, "evaluation.json": EVALUATION}
    for number in range(count):
        rng = random.Random(f"json {seed} {number}")
        name = rng.choice((*values, "metrics.jsonl"))
        if name == "metrics.jsonl":
            lines = [mutations.json_text(line, rng) for line in LINES]
            content = rng.choice((b"\n", b"\r\n", b"\n\n", b"")).join(lines)
        else:
            content = mutations.json_text(values[name], rng)
        yield Input({name: content}, name)


def _read(folder: pathlib.Path, given: Input) -> Any:
    """As the job that reads it does; --mode=verify says a line on each, whatever it holds."""
    verify(from_dict(base.get_config()), str(folder), say=_one_line)
    if given.given in (None, "metrics.jsonl"):
        writer = MetricWriter(str(folder), start_step=2)
        writer.has(2, "eval/")
        writer.close()
        return (folder / "metrics.jsonl").read_text()
    if given.given == "sweep.json":
        return read_rows(epath.Path(folder) / "sweep.json")
    if given.given == "samples.json":
        return samples_identity(npz_kinds.NpzImages(folder / "samples.npz"))["made_with"]
    return None


def _one_line(line: str) -> None:
    assert "\n" not in line, line


def _right(folder: pathlib.Path, given: Input, read: Any) -> str:
    """Python's own reader; of a log every line that is left is a record of a step up to 2."""
    if given.given == "metrics.jsonl":
        lines = [json.loads(line) for line in read.splitlines()]
        return "" if all(int(line["step"]) <= 2 for line in lines) else "a record of a later step"
    if given.given in ("sweep.json", "samples.json"):
        wanted = json.loads((folder / given.given).read_text())
        return "" if json.dumps(wanted) == json.dumps(read) else "another value"
    return ""


def _write_config(folder: pathlib.Path) -> None:
    values = base.get_config().to_dict()
    (folder / CONFIG_FILE).write_text(json.dumps(from_dict(values).to_dict()))


def _config_inputs(seed: int, count: int) -> Iterator[Input]:
    values = json.loads(json.dumps(from_dict(base.get_config()).to_dict()))
    for number in range(count):
        yield Input(
            {CONFIG_FILE: mutations.json_text(values, random.Random(f"cj {seed} {number}"))}
        )


def _read_config(folder: pathlib.Path, given: Input) -> Any:
    return read_config(str(folder), defaults())


def _documented(folder: pathlib.Path, given: Input, read: Any) -> str:
    return unlike_documented(read)


SHARDS = {"metadata": {"total_size": 0}, "weight_map": {name: "a.safetensors" for name in "wbse"}}
DIFFUSERS = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [32, 32],
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "sample_size": 32,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
}


def _write_folder(folder: pathlib.Path) -> None:
    (folder / "a.safetensors").write_bytes(safetensors_kinds.weights())
    (folder / "model.safetensors.index.json").write_text(json.dumps(_sized(SHARDS)))
    (folder / "config.json").write_text(json.dumps(DIFFUSERS))


def _sized(shards: dict) -> dict:
    total = sum(array.nbytes for array in safetensors_kinds.ARRAYS.values())
    return {**shards, "metadata": {"total_size": total}}


def _folder_inputs(seed: int, count: int) -> Iterator[Input]:
    for number in range(count):
        rng = random.Random(f"folder {seed} {number}")
        if rng.random() < 0.5:
            yield Input({"model.safetensors.index.json": mutations.json_text(_sized(SHARDS), rng)})
        else:
            yield Input({"config.json": mutations.json_text(DIFFUSERS, rng)})


def _read_folder(folder: pathlib.Path, given: Input) -> Any:
    read_source(folder / "model.safetensors.index.json")
    return read_diffusers_config(epath.Path(folder))


KINDS = (
    Kind("JSON and logs of a workdir", _prepare, _inputs, _read, _right, runs_python=True),
    Kind("config.json", _write_config, _config_inputs, _read_config, _documented),
    Kind("indices of shards, diffusers' config.json", _write_folder, _folder_inputs, _read_folder),
)
