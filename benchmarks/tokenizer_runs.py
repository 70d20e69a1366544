"""A tokenizer, its numbers, and a generator on its latents, for benchmarks/tokenizer_study.py.

All in one process. Seeds are arguments of the programs and latents come with mean 0 and deviation 1
from the tokenizer itself, so that a variant's training is compiled once, and a generator's once for
all tokenizers of as many channels.
"""

import copy
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from benchmarks.seeded_runs import run_of, training_batches
from benchmarks.tokenizer_pictures import Pictures
from lightningdit_jax.assembly.loading import Loaded
from lightningdit_jax.assembly.models import generator_config
from lightningdit_jax.assembly.registry import abstract_model
from lightningdit_jax.config import Config
from lightningdit_jax.data.image_batches import ImageBatches
from lightningdit_jax.data.images import ImageSource
from lightningdit_jax.data.pipeline import Batch, BatchSource
from lightningdit_jax.evaluation.frechet import Gaussian, Moments, frechet_distance
from lightningdit_jax.evaluation.reconstruction import psnr
from lightningdit_jax.inference.image_batches import local_rows
from lightningdit_jax.inference.quality.tokenizer_measures import measure
from lightningdit_jax.inference.quality.tokenizer_networks import Judges
from lightningdit_jax.inference.quality.tokenizer_subject import Neighbors
from lightningdit_jax.inference.reconstruct import make_encoder, make_reconstructor
from lightningdit_jax.inference.sampling.options import Sampling, choose_labels
from lightningdit_jax.inference.sampling.sampler import Sampler, Structure
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.training.job import Job, abstract_job, make_job
from lightningdit_jax.training.state import TrainState

MEASURES = ("ifid", "continuity", "noise", "spectrum", "structure", "probe", "evenness")
NEIGHBORS = 10  # of iFID, as its authors draw them
BATCH = 512  # of what is encoded, decoded and drawn

Programs = tuple[Callable[..., TrainState], Callable[..., tuple[TrainState, dict]]]


class StoredLatents:
    """Latents and labels as a generator trains on them, a BatchSource. latents: [N, h, w, d]."""

    draws_crops = False

    def __init__(self, latents: np.ndarray, labels: np.ndarray):
        self._stored, self._labels = latents.transpose(0, 3, 1, 2), labels.astype(np.int32)

    def __len__(self) -> int:
        return len(self._labels)

    def read_batch(
        self, indices: np.ndarray, flip: np.ndarray, crop: np.ndarray | None = None
    ) -> Batch:
        return {"latents": self._stored[indices], "labels": self._labels[indices]}

    def find_unfit(self, indices: np.ndarray, flip: np.ndarray) -> list[str]:
        return []


def run(
    tokenizer_config: Config, generator: Config, pictures: Pictures, seed: int, drawn: Sequence[int]
) -> dict[str, Any]:
    """The numbers of a tokenizer, and the distance of a generator's samples by seed of sampling."""
    began = time.process_time()
    tokenizer, loss = train_tokenizer(tokenizer_config, pictures, seed)
    trained = time.process_time()
    numbers, latents = numbers_of(tokenizer, pictures)
    measured = time.process_time()
    flat = latents.reshape(-1, latents.shape[-1]).astype(np.float64)
    scaling = LatentScaling(tuple(flat.mean(0)), tuple(flat.std(0)))
    unit = dataclasses.replace(tokenizer, params=with_unit_latents(tokenizer.params, scaling))
    stored, labels = encode(unit, pictures.train), _stacked(pictures.train)[1]
    state, loss_of_generator = train_generator(generator, stored, labels, seed)
    fid = {str(s): judge(generator, state, unit, pictures, s) for s in drawn}
    ended = time.process_time()
    return {
        "numbers": numbers,
        "fid": fid,
        "losses": {"tokenizer": loss, "generator": loss_of_generator},
        "cpu_seconds": {
            "tokenizer": round(trained - began, 1),
            "measures": round(measured - trained, 1),
            "generator": round(ended - measured, 1),
        },
    }


def train_tokenizer(config: Config, pictures: Pictures, seed: int) -> tuple[Loaded, float]:
    """A tokenizer, and the mean loss of the last tenth of its steps."""
    loss, stages = config.vae_loss, config.stages
    # One program for all weights.
    values = {"vae_loss.kl_weight": loss.kl_weight, "stages.vf_weight": stages.vf_weight}
    alike = config.changed(vae_loss={"kl_weight": 1.0}, stages={"vf_weight": (1.0,)})
    job, programs = _tokenizer_programs(alike, pictures.train)
    state, end = _train(config, programs, job.source, seed, values)
    meta = {"kind": "vavae", "architecture": job.description["architecture"]}
    return Loaded(job.graphdef(), state.params, meta), end


def numbers_of(tokenizer: Loaded, pictures: Pictures) -> tuple[dict[str, float], np.ndarray]:
    """What is known before there is a generator, of held-out images; and latents of the others.

    Beside the measures: PSNR and Fréchet distance of reconstructions, and how many numbers a latent
    has. Latents are as encoded, [N, h, w, d].
    """
    mesh = _mesh()
    images, labels = _stacked(pictures.test)
    latents = encode(tokenizer, pictures.train)
    reconstruct = _reconstruct(tokenizer.graphdef)
    rebuilt = np.concatenate(
        [
            np.asarray(reconstruct(tokenizer.params, images[rows], np.arange(len(images))[rows])[0])
            for rows in _parts(len(images))
        ]
    )
    pair = (Moments.of(pictures.features(x)).gaussian for x in (images, rebuilt))
    found: dict[str, float] = {
        "latent_numbers": latents[0].size,
        "reconstruction_psnr": float(psnr(images, rebuilt).mean()),
        f"reconstruction_{pictures.prefix}fid": frechet_distance(*(m for g in pair for m in g)),
    }
    networks = Judges(
        features=lambda images, names: pictures.features(local_rows(images, len(names))),
        prefix=pictures.prefix,
    )
    near = Neighbors(NEIGHBORS, lambda rows: latents[rows], len(latents))
    options = {"networks": networks, "neighbors": near, "mesh": mesh, "batch_size": BATCH}
    measured = measure(tokenizer, images, labels, MEASURES, **options)
    return found | measured, latents


def encode(tokenizer: Loaded, source: ImageSource) -> np.ndarray:
    """A posterior sample of each image. [N, h, w, d]."""
    images, _ = _stacked(source)
    program, indices = _encode(tokenizer.graphdef), np.arange(len(images))
    parts = [program(tokenizer.params, images[r], indices[r])[0] for r in _parts(len(images))]
    return np.concatenate(parts)


def with_unit_latents(params: Any, scaling: LatentScaling) -> Any:
    """A VA-VAE's parameters with the scaling of its latents in its own 1x1 convolutions.

    It encodes to latents that are normalized so, and decodes such.
    """
    mean, std = (np.array(v, np.float32) for v in (scaling.mean, scaling.std))
    new, dim = copy.copy(params), len(mean)
    last, first = params["quant_conv"], params["post_quant_conv"]
    kernel, bias = (np.array(last[name]) for name in ("kernel", "bias"))
    kernel[..., :dim] /= std
    bias[:dim] = (bias[:dim] - mean) / std
    bias[dim:] -= 2 * np.log(std)
    new["quant_conv"] = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
    new["post_quant_conv"] = {
        "kernel": first["kernel"] * std[:, None],
        "bias": first["bias"] + mean @ first["kernel"][0, 0],
    }
    return new


def train_generator(
    config: Config, latents: np.ndarray, labels: np.ndarray, seed: int
) -> tuple[TrainState, float]:
    """A generator of these latents, and the mean loss of the last tenth of its steps."""
    return _train(config, _generator_programs(config), StoredLatents(latents, labels), seed, {})


def judge(
    config: Config, state: TrainState, tokenizer: Loaded, pictures: Pictures, seed: int
) -> float:
    """Fréchet distance of evaluate.train_samples images from those trained on.

    Drawn with the generator's average weights, labels in turn.
    """
    architecture, mesh = generator_config(config), _mesh()
    structure = Structure(
        abstract_model("lightningdit", architecture)[0],
        tokenizer.graphdef,
        architecture,
        LatentScaling(),
        decode_batch_size=BATCH,
    )
    weights = structure.weights({"dit": state.ema, "vae": tokenizer.params})
    count = config.evaluate.train_samples
    labels = choose_labels("balanced", count, architecture.num_classes, seed)
    sampler = Sampler(structure, weights, mesh, BATCH)
    drawn = sampler.batches(np.arange(count), labels, Sampling.of(config.sample), seed=seed)
    images = np.concatenate([part for _, part in drawn])
    gaussian = Moments.of(pictures.features(images)).gaussian
    return frechet_distance(*_reference(pictures), *gaussian)


def _train(
    config: Config, programs: Programs, source: BatchSource, seed: int, values: Mapping[str, Any]
) -> tuple[TrainState, float]:
    begin, step = programs
    given = {key: jnp.asarray(value, jnp.float32) for key, value in values.items()}
    given["seed"] = jnp.uint32(seed)
    state, losses = begin(given), []
    for _, batch in zip(range(config.train.num_steps), training_batches(config, source, seed)):
        state, metrics = step(given, state, batch)
        losses.append(metrics["loss"])
    return state, float(np.mean(losses[-(len(losses) // 10) :]))


def _programs(config: Config, job: Job) -> Programs:
    run = run_of(config, job)
    return run.begin, jax.jit(run.step, donate_argnums=1)  # to compile the first takes longer


@functools.cache
def _tokenizer_programs(config: Config, source: ImageSource) -> tuple[Job, Programs]:
    batches = ImageBatches(source, config.tokenizer.resolution, config.data.augment, 1)
    job = make_job(config, _mesh(), batches)
    return job, _programs(config, job)


@functools.cache
def _generator_programs(config: Config) -> Programs:
    return _programs(config, abstract_job(config, _mesh()))


@functools.cache
def _encode(graphdef: nnx.GraphDef) -> Callable:
    return jax.jit(make_encoder(graphdef, seed=0))


@functools.cache
def _reconstruct(graphdef: nnx.GraphDef) -> Callable:
    return jax.jit(make_reconstructor(graphdef, seed=0))


@functools.cache
def _reference(pictures: Pictures) -> Gaussian:
    return Moments.of(pictures.features(_stacked(pictures.train)[0])).gaussian


@functools.cache
def _stacked(source: ImageSource) -> tuple[np.ndarray, np.ndarray]:
    """All images uint8 [N, S, S, 3] and their labels [N]."""
    images = np.stack([np.asarray(source.image(i)) for i in range(len(source))])
    return images, np.array([source.label(i) for i in range(len(source))])


@functools.cache
def _mesh() -> Mesh:
    return make_mesh(devices=jax.devices()[:1])


def _parts(count: int) -> Iterator[slice]:
    return (slice(start, start + BATCH) for start in range(0, count, BATCH))
