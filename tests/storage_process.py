"""Every writer of the program, each under limits that it meets: FOLDER -> JSON of what they say."""

import json
import pathlib
import resource
import sys

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from lightningdit_jax.atomic_file import replacing, write_json
from lightningdit_jax.background_noise import silence_background
from lightningdit_jax.checkpoint import TrainingCheckpoints, save_checkpoint
from lightningdit_jax.data.latents import write_shard
from lightningdit_jax.data.npz_images import write_npz_images
from lightningdit_jax.inference.pictures import save_png
from lightningdit_jax.inference.sampling.store import SampleStore
from lightningdit_jax.storage_errors import StorageError
from lightningdit_jax.training.writer import MetricWriter

NOISE = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
LATENTS = np.random.default_rng(0).normal(size=(2, 9, 32, 32, 4)).astype(np.float32)
LIMITS = {"RLIMIT_FSIZE": 20_000, "RLIMIT_NOFILE": 3}  # bytes of a file; no file beside the three


def metrics(folder):
    writer = MetricWriter(str(folder), start_step=0, writers=("tensorboard",))
    for step in range(1, 2000):
        writer.write(step, {"loss": 1.0})


def asynchronous(folder):
    with TrainingCheckpoints(str(folder), keep=2) as checkpoints:
        checkpoints.save(1, {"params": {"w": jnp.asarray(LATENTS)}}, {"meta": {}})
        checkpoints.wait()
        raise AssertionError("it was written")


def part(folder):
    SampleStore(folder, {}, 8).write(0, NOISE)


WRITERS = {
    "a record": metrics,
    "a checkpoint in the background": asynchronous,
    "a converted checkpoint": lambda f: save_checkpoint(str(f / "c"), {"params": LATENTS}, {}),
    "a shard": lambda folder: write_shard(folder, 0, 0, *LATENTS, np.zeros(9, np.int64)),
    "a picture": lambda folder: save_png(folder / "x.png", NOISE.reshape(512, 64, 3)),
    "samples": lambda folder: write_npz_images(folder / "x.npz", [NOISE], NOISE.shape, {}),
    "a part": part,
    "JSON": lambda folder: write_json(folder / "x.json", list(range(20_000))),
    "safetensors": lambda folder: save_tensors(folder / "x.safetensors"),
}


def save_tensors(path):
    with replacing(path) as temporary:
        safetensors.numpy.save_file({"x": LATENTS}, temporary)


def refusal(write, folder, limit):
    """What a writer says that meets a limit."""
    number = getattr(resource, limit)
    former = resource.getrlimit(number)
    resource.setrlimit(number, (LIMITS[limit], former[1]))
    try:
        write(folder)
    except StorageError as error:
        return str(error)
    finally:
        resource.setrlimit(number, former)
    return "nothing"


def main(folder):
    jax.devices()  # needs files of its own
    silence_background()
    said = {}
    for limit in LIMITS:
        said[limit] = {}
        for name, write in WRITERS.items():
            path = pathlib.Path(folder) / limit / name
            path.mkdir(parents=True)
            said[limit][name] = refusal(write, path, limit)
    print(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1])
