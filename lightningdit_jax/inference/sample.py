"""--mode=sample: N samples from a config, as samples.npz, a grid and a description."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from lightningdit_jax.config import Config
from lightningdit_jax.inference.generate import choose_labels, make_sampler, sample_batches
from lightningdit_jax.inference.load import load_functional
from lightningdit_jax.inference.pictures import image_grid, save_png
from lightningdit_jax.inference.progress import Progress
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.parallel.multihost import is_main_process


def sample(config: Config, workdir: str) -> epath.Path:
    """Generates config.sample.num_samples images and returns the path of samples.npz.

    arr_0: uint8 [N, H, W, 3], what the ADM evaluator reads; arr_1: labels [N]. samples.png shows
    the first of them, samples.json states everything that moves FID.
    """
    options = config.sample
    if not options.tokenizer:
        raise ValueError("config.sample.tokenizer is empty; set it to the tokenizer's checkpoint")
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    dtype = jnp.dtype(config.compute.dtype)
    dit = load_functional(
        options.checkpoint or workdir,
        mesh,
        dtype=dtype,
        use_ema=options.use_ema,
        expect="lightningdit",
    )
    vae = load_functional(options.tokenizer, mesh, dtype=dtype, expect="vavae")
    architecture = dit.meta["architecture"]
    if architecture["in_channels"] != vae.meta["architecture"]["embed_dim"]:
        raise ValueError(
            f"the generator makes latents of {architecture['in_channels']} channels, the tokenizer "
            f"{options.tokenizer} decodes {vae.meta['architecture']['embed_dim']}"
        )
    scaling = dit.scaling()
    if scaling is None:
        raise ValueError(
            f"{options.checkpoint or workdir} does not say how its latents were normalised; "
            "convert it again with --latent-stats FILE (or none, for a generator of raw latents)"
        )
    num_classes = architecture["num_classes"]
    labels = choose_labels(options.labels, options.num_samples, num_classes, config.seed)
    sampler = make_sampler(
        dit.graphdef,
        vae.graphdef,
        latent_shape=(architecture["input_size"],) * 2 + (architecture["in_channels"],),
        null_label=num_classes,
        scaling=scaling,
        seed=config.seed,
        num_steps=options.num_steps,
        solver=options.solver,
        cfg_scale=options.cfg_scale,
        cfg_channels=options.cfg_channels,
        cfg_interval_start=options.cfg_interval_start,
        timestep_shift=options.timestep_shift,
        mesh=mesh,
    )
    progress, parts = Progress("sampled", len(labels), quiet=not is_main_process()), []
    for first, images in sample_batches(
        sampler, dit.params, vae.params, labels, mesh=mesh, batch_size=options.batch_size
    ):
        parts.append(images)
        progress.update(first + len(images))
    description = {
        **dataclasses.asdict(options),
        "evaluations": options.num_steps - 1,
        "seed": config.seed,
        "dtype": config.compute.dtype,
        "checkpoint_step": dit.meta["step"],
        "latents": dit.meta.get("latents"),
        "device": jax.devices()[0].device_kind,
    }
    path = epath.Path(workdir) / "samples.npz"
    if is_main_process():
        _write(path, np.concatenate(parts), labels, num_classes, description)
    return path


def _write(
    path: epath.Path, images: np.ndarray, labels: np.ndarray, num_classes: int, description: dict
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        np.savez(file, images, labels)
    temporary.replace(path)
    columns = num_classes if num_classes <= 10 else 8
    save_png(path.with_name("samples.png"), image_grid(images[: columns * 8], columns))
    text = path.with_name("samples.json.tmp")
    text.write_text(json.dumps(description, indent=1) + "\n")
    text.replace(path.with_name("samples.json"))
    print(f"samples in {path}, a grid in {path.with_name('samples.png')}")
