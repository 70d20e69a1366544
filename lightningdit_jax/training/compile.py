"""--mode=compile: the train step of a config compiled for TPUs that are not there."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh

from lightningdit_jax.assembly.kernel_schedule import kernel_cycles
from lightningdit_jax.assembly.models import generator_config, tokenizer_config
from lightningdit_jax.config import Config
from lightningdit_jax.parallel.ahead_of_time import compile_on, write_report
from lightningdit_jax.parallel.mesh import batch_sharding, make_mesh
from lightningdit_jax.parallel.topology import open_slice
from lightningdit_jax.planning.hardware import Hardware
from lightningdit_jax.planning.plan import line
from lightningdit_jax.training.job import (
    Job,
    abstract_generator_job,
    abstract_joint_job,
    abstract_tokenizer_job,
)
from lightningdit_jax.training.optimizer import make_optimizer
from lightningdit_jax.training.plan import training_plans
from lightningdit_jax.training.repa import SHOWN, abstract_teacher, shown_example
from lightningdit_jax.training.run import compile_ready
from lightningdit_jax.training.step_flops import step_flops
from lightningdit_jax.training.vae_step import COMPONENTS


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is compiled: a job without data, its batch, its FLOPs per image, its name, its parts.

    components: scopes of the step that its cycles are told apart by.
    """

    job: Job
    batch: dict[str, jax.ShapeDtypeStruct]
    flops_per_image: float
    variant: str
    components: tuple[str, ...] = ()


def compile_train_step(config: Config, workdir: str, topology: str) -> dict[str, Any]:
    """Compiles the config's train step for a slice and writes WORKDIR/compile_SLICE.json.

    A tokenizer's step has every loss of the config; frozen networks whose path is empty are the
    published ones, without their weights. Returns what compile_report does, and raises as it.
    """
    report = compile_report(config, topology)
    write_report(report, epath.Path(workdir) / f"compile_{topology.replace(':', '_')}.json")
    return report


def compile_report(config: Config, topology: str) -> dict[str, Any]:
    """Memory, arithmetic and collectives of the config's train step on a slice, as compile_on.

    model_flops are those that the loss asks for (step_flops), matmul_flops those
    in the program. Raises ValueError for a slice that does not exist, sizes that do not divide, and
    a step that needs more memory than the chip has.
    """
    optimizer = make_optimizer(config.optimizer, config.train.num_steps)
    where = open_slice(topology)
    # All devices read their parts of a batch here, whatever hosts there would be.
    hardware = dataclasses.replace(Hardware.of(where.devices), num_processes=1)
    fitting, shapes = training_plans(config, hardware)
    plan, batch_size = fitting[0], config.train.batch_size
    print(line(plan, hardware, fitting))
    config = plan.applied(config)
    mesh = make_mesh(**dataclasses.asdict(config.mesh), devices=where.devices)
    subject = _subject(config, mesh)
    _, step_fn, state = compile_ready(subject.job, config, mesh, optimizer, shapes)
    print(f"compiling for {where}, mesh {dict(mesh.shape)}")
    cycles = {}
    if config.kind == "lightningdit":
        cycles = kernel_cycles(config.compute, generator_config(config), mesh, topology)
    lowered = step_fn.lower(state, subject.batch, *subject.job.frozen)
    return {
        "target": "train",
        "variant": subject.variant,
        "mesh": dict(mesh.shape),
        "batch_size": batch_size,
        "accumulate_steps": plan.accumulate_steps,
        "remat": plan.remat,
        "predicted_peak_bytes": plan.peak_bytes,
        "predicted_step_seconds": plan.seconds,
        "compile_effort": config.compute.compile_effort,
        **compile_on(
            where,
            mesh,
            lowered,
            subject.flops_per_image * batch_size,
            subject.components,
            cycles,
        ),
    }


def _subject(config: Config, mesh: Mesh) -> Subject:
    if config.is_joint:
        job, images = abstract_joint_job(config, mesh), _images(config, mesh)
        labels = _labels(config, mesh)
        return Subject(job, images | labels, step_flops(config, mesh), config.model.variant)
    return (_generator if config.kind == "lightningdit" else _tokenizer)(config, mesh)


def _generator(config: Config, mesh: Mesh) -> Subject:
    architecture = generator_config(config)
    batch, split = config.train.batch_size, batch_sharding(mesh)
    side, channels = architecture.input_size, architecture.in_channels
    inputs = {
        "latents": jax.ShapeDtypeStruct((batch, channels, side, side), jnp.float32, sharding=split),
    } | _labels(config, mesh)
    if (teacher := abstract_teacher(config, mesh)) is not None:
        shown = shown_example(config, teacher)
        shape = (batch, *shown.shape)
        inputs[SHOWN] = jax.ShapeDtypeStruct(shape, shown.dtype, sharding=split)
    flops = step_flops(config, mesh)
    return Subject(abstract_generator_job(config, mesh), inputs, flops, config.model.variant)


def _tokenizer(config: Config, mesh: Mesh) -> Subject:
    tokenizer, inputs = tokenizer_config(config), _images(config, mesh)
    flops = step_flops(config, mesh)
    variant = f"f{tokenizer.downsample_factor}d{tokenizer.embed_dim}"
    return Subject(abstract_tokenizer_job(config, mesh), inputs, flops, variant, COMPONENTS)


def _images(config: Config, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    tokenizer, split = tokenizer_config(config), batch_sharding(mesh)
    shape = (config.train.batch_size, *[tokenizer.resolution] * 2, tokenizer.in_channels)
    return {"images": jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=split)}


def _labels(config: Config, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    split = batch_sharding(mesh)
    return {"labels": jax.ShapeDtypeStruct((config.train.batch_size,), jnp.int32, sharding=split)}
