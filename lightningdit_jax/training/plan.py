"""The plan of a training run: what its kind's step takes, and the ways to run it that fit."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from lightningdit_jax.assembly.models import generator_config, tokenizer_config
from lightningdit_jax.config import Config
from lightningdit_jax.models.lightningdit import REMAT
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.parallel.multihost import gather_numpy
from lightningdit_jax.parallel.out_of_memory import is_alike_everywhere
from lightningdit_jax.parallel.sharding import Rules
from lightningdit_jax.planning.generator import GeneratorStep
from lightningdit_jax.planning.hardware import Hardware
from lightningdit_jax.planning.joint import JointStep
from lightningdit_jax.planning.plan import Plan, Step, plans, smaller
from lightningdit_jax.planning.tokenizer import TokenizerStep
from lightningdit_jax.training.companions import TOKENIZER
from lightningdit_jax.training.job import Job, abstract_job, fresh_state, state_rules
from lightningdit_jax.training.muon import update_flops
from lightningdit_jax.training.optimizer import check_named, make_optimizer
from lightningdit_jax.training.repa import PROJECTOR
from lightningdit_jax.training.repae import tokenizer_remat
from lightningdit_jax.training.state import TrainState

WHOLE: Rules = ((r"", PartitionSpec()),)  # on every device


def training_hardware() -> Hardware:
    """Of the devices that are there; the same in every process, each of which must call it."""
    hardware = Hardware.of(jax.devices())
    least = gather_numpy(np.array(hardware.memory_bytes)).min()
    return dataclasses.replace(hardware, memory_bytes=int(least))


def training_plans(config: Config, hardware: Hardware) -> tuple[list[Plan], TrainState]:
    """The ways to run a config's train step that fit, the fastest first, and its state's shapes.

    See planning.plan.plans. Raises ValueError as that, for a tokenizer's batch in parts, and as the
    job of the config.
    """
    parts, trains_tokenizer = config.train.accumulate_steps, config.kind == "vavae"
    if (trains_tokenizer or config.is_joint) and parts != "auto" and parts > 1:
        raise ValueError(
            f"config.train.accumulate_steps is {parts}, but a tokenizer's "
            "loss is of the whole batch (the discriminator's BatchNorm, the adaptive weights) and "
            "cannot be accumulated; set it to 1 and use more devices or --config.compute.remat"
        )
    step, state = train_step(config, hardware)
    return plans(config, hardware, step), state


def train_step(config: Config, hardware: Hardware) -> tuple[Step, TrainState]:
    """What the step of a config takes, and the shapes of its state.

    Raises as the job and, for patterns of the optimizer's that match nothing, as check_named.
    """
    remat = config.compute.remat
    open_remat = config.changed(compute={"remat": "none" if remat == "auto" else remat})
    job = abstract_job(open_remat, make_mesh(devices=hardware.devices[:1]))
    optimizer = make_optimizer(config.optimizer, config.train.num_steps)
    state = jax.eval_shape(functools.partial(fresh_state, job, config, optimizer))
    check_named(config.optimizer, state)
    common: dict[str, Any] = {
        "state": state,
        "rules": state_rules(config.kind),
        "batch_size": config.train.batch_size,
        "dtype": config.compute.dtype,
        "hardware": hardware,
    }
    if config.kind == "lightningdit":
        projector = state.companions[PROJECTOR].params if PROJECTOR in state.companions else {}
        flops = sum(
            update_flops(config.optimizer.name, params, len(hardware.devices))
            for params in (state.params, projector)
        )
        # What a projector has of a token is what its layers put out, twice: a gradient too.
        kernels = [leaf.shape[-1] for leaf in jax.tree.leaves(projector) if leaf.ndim > 1]
        step = GeneratorStep(
            architecture=generator_config(config),
            update_flops=flops,
            aligned=2 * sum(kernels),
            **common,
        )
        return (_joint(config, step, job, state) if config.is_joint else step), state
    tokenizer = tokenizer_config(config)
    return TokenizerStep(architecture=tokenizer, frozen=job.frozen, **common), state


def _joint(config: Config, generator: GeneratorStep, job: Job, state: TrainState) -> JointStep:
    tokenizer = TokenizerStep(
        architecture=tokenizer_config(config),
        state=dataclasses.replace(
            state, params=state.companions[TOKENIZER].params, averages={}, opt_state=()
        ),
        rules=WHOLE,
        batch_size=generator.batch_size,
        frozen=job.frozen,
        dtype=generator.dtype,
        hardware=generator.hardware,
    )
    remat = {policy: tokenizer_remat(policy) for policy in REMAT}
    return JointStep(generator, tokenizer, remat, config.repa.depth)


def next_plans(on_oom: str, plan: Plan, others: Sequence[Plan], reason: str) -> list[Plan]:
    """What is left where a plan ran out of memory. on_oom, reason: as the config and JAX say.

    Raises ValueError where that is nothing, and where no next one may be tried: with "stop", and
    where one of several processes alone may know of it. It has the next plan's keys.
    """
    left = smaller(others, plan)
    if not left:
        raise ValueError(
            f"out of memory, and no smaller plan is left: {reason}; take more devices, a smaller "
            "config.train.batch_size or a smaller model"
        )
    if on_oom == "stop" or (jax.process_count() > 1 and not is_alike_everywhere(reason)):
        raise ValueError(f"out of memory: {reason}; what may fit is {left[0].flags()}")
    return left
