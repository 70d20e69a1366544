"""What a run trains, made from its config: model, data, train step and description."""

import dataclasses
import functools
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from lightningdit_jax.assembly.images import open_image_batches
from lightningdit_jax.assembly.latents import scaling_of
from lightningdit_jax.assembly.loading import Loaded
from lightningdit_jax.assembly.models import generator_config, tokenizer_config
from lightningdit_jax.assembly.registry import MODELS, compute_options
from lightningdit_jax.config import Config
from lightningdit_jax.data.class_names import class_line
from lightningdit_jax.data.image_batches import ImageBatches
from lightningdit_jax.data.latents import LatentShards
from lightningdit_jax.data.pipeline import BatchSource, LatentBatches
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.float8 import fresh_histories
from lightningdit_jax.models.lightningdit import LightningDiT
from lightningdit_jax.models.rngs import CountedRngs
from lightningdit_jax.models.vae import VAVAE
from lightningdit_jax.parallel.chips import has_float8
from lightningdit_jax.parallel.multihost import print_once
from lightningdit_jax.parallel.sharding import Rules, constrain_tokens
from lightningdit_jax.training.alignment_losses import check_batch
from lightningdit_jax.training.companions import LATENT_NORM, TOKENIZER, tokenizer_companions
from lightningdit_jax.training.dit_held_out import make_dit_held_out
from lightningdit_jax.training.dit_step import make_dit_step
from lightningdit_jax.training.frozen import (
    FOUNDATION,
    abstract_frozen_networks,
    load_frozen_networks,
)
from lightningdit_jax.training.held_out import Losses
from lightningdit_jax.training.repa import (
    PROJECTOR,
    Alignment,
    Teacher,
    abstract_teacher,
    build_projector,
    make_alignment,
    projector_config,
    teacher_of,
)
from lightningdit_jax.training.repa_data import open_shown
from lightningdit_jax.training.repae import (
    build_latent_norm,
    check_classes,
    check_repae,
    check_repae_run,
    described,
    described_tokenizer,
    tokenizer_remat,
)
from lightningdit_jax.training.repae_held_out import make_repae_held_out
from lightningdit_jax.training.repae_step import TEACHER, TokenizerPart, make_repae_step
from lightningdit_jax.training.spikes import fresh_windows, watched_names
from lightningdit_jax.training.state import RECORDS, TrainState, create_state
from lightningdit_jax.training.vae_held_out import make_vae_held_out
from lightningdit_jax.training.vae_step import make_vae_step

StepFn = Callable[..., tuple[TrainState, dict]]
MakeHeldOut = Callable[[nnx.GraphDef, Config], Losses]
Build = Callable[[nnx.Rngs], nnx.Module]


@dataclasses.dataclass(frozen=True)
class Job:
    """A model with its data and its step.

    build(rngs) makes the module, make_step(graphdef, config, optimizer) its step, and
    make_held_out(graphdef, config) its losses on held-out examples; source reads batches, and is
    None where nothing is run; description goes into checkpoints: architecture, names of the classes
    where known, and of a generator latent statistics, and number and fingerprint of the latents.
    companions: networks trained beside the model, by name, each made as the model is. frozen: what
    the step takes after state and batch, fixed arrays on the mesh, or ShapeDtypeStructs of them
    where nothing is run. kept: companions without which the model's weights are of no use;
    described(state): what a checkpoint of that state says besides.
    """

    build: Build
    make_step: Callable[[nnx.GraphDef, Config, optax.GradientTransformation], StepFn]
    make_held_out: MakeHeldOut
    source: BatchSource | None
    description: dict[str, Any]
    companions: Mapping[str, Build] = dataclasses.field(default_factory=dict)
    frozen: tuple[Any, ...] = ()
    kept: tuple[str, ...] = ()
    described: Callable[[TrainState], dict[str, Any]] = lambda state: {}

    def graphdef(self) -> nnx.GraphDef:
        """The module's structure, without making its arrays."""
        return _graphdef(self.build)

    def init_params(self, seed: int) -> Any:
        """Fresh parameters as a nested dict."""
        return nnx.to_pure_dict(nnx.state(self.build(CountedRngs(seed)), nnx.Param))

    def init_companions(self, seed: int) -> dict[str, tuple[Any, Any]]:
        """Fresh parameters and running statistics of each companion, as nested dicts."""
        fresh = {}
        for index, (name, build) in enumerate(sorted(self.companions.items())):
            # Keys apart from the model's own.
            rngs = CountedRngs(jax.random.fold_in(jax.random.key(seed), index))
            _, params, stats = nnx.split(build(rngs), nnx.Param, nnx.BatchStat)
            fresh[name] = (nnx.to_pure_dict(params), nnx.to_pure_dict(stats))
        return fresh


def open_source(config: Config, scaling: LatentScaling | None = None) -> BatchSource:
    """The data of a config, opened and checked. Raises what bad data or values raise.

    scaling: of a generator's latents; None is that of config.data.
    """
    if config.is_joint:
        check_repae_run(config)
    elif config.kind == "lightningdit":
        return _open_latents(config, scaling)
    resolution = tokenizer_config(config).resolution
    images = open_image_batches(config, config.data.split, resolution, config.data.augment)
    if config.is_joint:
        check_classes(config, images.source)
    return images


def make_job(config: Config, mesh: Mesh, source: BatchSource | None = None) -> Job:
    """The job of a config. source: None opens its data. Raises what bad data or values raise."""
    source = open_source(config) if source is None else source
    if config.is_joint:
        return _joint_job(config, mesh, typing.cast(ImageBatches, source))
    if config.kind == "lightningdit":
        return _generator_job(config, mesh, typing.cast(LatentBatches, source))
    return _tokenizer_job(config, mesh, typing.cast(ImageBatches, source))


def abstract_job(config: Config, mesh: Mesh) -> Job:
    """A job without data or weights: enough to compile its step.

    Raises what abstract_generator_job and abstract_tokenizer_job raise.
    """
    if config.is_joint:
        return abstract_joint_job(config, mesh)
    make = abstract_generator_job if config.kind == "lightningdit" else abstract_tokenizer_job
    return make(config, mesh)


def fresh_state(job: Job, config: Config, optimizer: optax.GradientTransformation) -> TrainState:
    """The state that a run begins with where nothing is taken from a checkpoint."""
    params, companions = job.init_params(config.seed), job.init_companions(config.seed)
    return state_of(params, companions, config, optimizer)


def state_of(
    params: Any,
    companions: Mapping[str, tuple[Any, Any]],
    config: Config,
    optimizer: optax.GradientTransformation,
) -> TrainState:
    """A config's state at step 0 of these weights; companions as init_companions gives them."""
    return create_state(
        params,
        optimizer,
        ema=config.train.ema_decay > 0,
        ema_decays=config.train.ema_decays,
        ema_sigmas=config.train.ema_sigmas,
        companions=companions,
        float8=_fresh_histories(config) if config.kind == "lightningdit" else {},
        spikes=fresh_windows(watched_names(config, companions), config.train.spike_window),
    )


def _fresh_histories(config: Config) -> dict[str, Any]:
    architecture, products = generator_config(config), config.compute.products

    def build() -> LightningDiT:
        return LightningDiT(architecture, attention="xla", products=products, rngs=CountedRngs(0))

    return fresh_histories(nnx.eval_shape(build))


def state_rules(kind: str) -> Rules:
    """Of a run's state: companions, 11 M parameters at most, and records are replicated."""
    return ((rf"^({'|'.join(('companions', *RECORDS))})/", PartitionSpec()), *MODELS[kind].rules)


def abstract_generator_job(config: Config, mesh: Mesh) -> Job:
    """A generator's job without data or weights: enough to compile its step.

    Raises ValueError as compute_options and abstract_teacher, and for float8 products that do not
    fit compute.dtype.
    """
    return _generator_step_job(config, abstract_teacher(config, mesh), mesh, LatentScaling())


def _generator_step_job(
    config: Config, teacher: Teacher | None, mesh: Mesh, scaling: LatentScaling
) -> Job:
    """For latents scaled so."""
    architecture, compute = generator_config(config), config.compute
    options = compute_options("lightningdit", architecture, compute, mesh)
    if compute.products == "float8" and compute.dtype != "bfloat16":
        raise ValueError(
            f"config.compute.products is 'float8' and config.compute.dtype '{compute.dtype}'; "
            "float8 products give bfloat16: set compute.dtype to 'bfloat16', or products to 'dtype'"
        )

    def build(rngs: nnx.Rngs, products: str = "dtype") -> LightningDiT:
        return LightningDiT(
            architecture,
            remat=compute.remat,
            constrain=constrain_tokens(mesh),
            products=products,
            rngs=rngs,
            **options,
        )

    def make_step(graphdef: nnx.GraphDef, config: Config, *more: Any) -> StepFn:
        # Whoever else uses the model, as on held-out examples, multiplies in its dtype.
        if config.compute.products == "float8":
            graphdef = _graphdef(functools.partial(build, products="float8"))
        return make_dit_step(graphdef, config, *more, scaling=scaling, alignment=alignment)

    companions: dict[str, Build] = {}
    described: dict[str, Any] = {}
    alignment: Alignment | None = None
    frozen: tuple[Any, ...] = ()
    if teacher is not None:
        projector, alignment = projector_config(config, teacher), make_alignment(config, teacher)
        companions[PROJECTOR] = functools.partial(build_projector, config, projector)
        described[PROJECTOR] = dataclasses.asdict(projector) | {"teacher": teacher.identity}
        if teacher.network is not None:
            frozen = (teacher.network.params,)
    description = {
        "architecture": dataclasses.asdict(architecture),
        "flow": {"path": config.flow.path, "prediction": config.flow.prediction},
        "companions": described,
    }
    make_held_out = functools.partial(make_dit_held_out, scaling=scaling, alignment=alignment)
    return Job(build, make_step, make_held_out, None, description, companions, frozen)


def abstract_tokenizer_job(config: Config, mesh: Mesh) -> Job:
    """A tokenizer's job without data or weights: enough to compile its step with every loss.

    Raises what abstract_frozen_networks raises.
    """
    return _tokenizer_step_job(config, abstract_frozen_networks(config, mesh), mesh)


def abstract_joint_job(config: Config, mesh: Mesh) -> Job:
    """Of a generator and its tokenizer, without data or weights: enough to compile its step.

    Raises ValueError as check_repae, and as the jobs of both.
    """
    check_repae(config)
    frozen = abstract_frozen_networks(config, mesh)
    return _joint_step_job(config, abstract_teacher(config, mesh), frozen, mesh)


def _joint_step_job(
    config: Config, teacher: Teacher | None, frozen: Mapping[str, Loaded], mesh: Mesh
) -> Job:
    assert teacher is not None and teacher.network is not None  # as check_repae has it
    generator = _generator_step_job(config, teacher, mesh, LatentScaling())
    remat = {"remat": tokenizer_remat(config.compute.remat)}
    tokenizer = _tokenizer_step_job(config.changed(compute=remat), frozen, mesh)
    norm, networks = functools.partial(build_latent_norm, config), _networks(tokenizer, frozen)
    part = TokenizerPart(tokenizer.graphdef(), _graphdef(norm), networks)
    alignment = make_alignment(config, teacher)
    beside = generator.description["companions"] | tokenizer.description["companions"]
    weights = {name: network.params for name, network in frozen.items()}
    return dataclasses.replace(
        generator,
        make_step=functools.partial(make_repae_step, alignment=alignment, tokenizer=part),
        make_held_out=functools.partial(make_repae_held_out, alignment=alignment, tokenizer=part),
        description=generator.description | {"companions": beside | described_tokenizer(config)},
        companions={
            **generator.companions,
            **tokenizer.companions,
            TOKENIZER: tokenizer.build,
            LATENT_NORM: norm,
        },
        frozen=({TEACHER: teacher.network.params, **weights},),
        kept=(TOKENIZER,),
        described=described,
    )


def _open_latents(config: Config, scaling: LatentScaling | None) -> LatentBatches:
    architecture, data = generator_config(config), config.data
    if data.source != "latents":
        raise ValueError(
            f"config.data.source is '{data.source}', but a generator trains on 'latents'; "
            "make them from images with the tokenizer's config and --mode=extract"
        )
    if not data.path:
        raise ValueError("config.data.path is empty; set it to a folder of latent shards")
    if data.resident and data.num_workers:
        raise ValueError(
            f"config.data.resident is set and config.data.num_workers is {data.num_workers}: every "
            "worker would keep all latents in memory; set it to 0, threads share them"
        )
    shards = LatentShards(data.path, data.resident)
    shards.check(
        in_channels=architecture.in_channels,
        input_size=architecture.input_size,
        num_classes=architecture.num_classes,
    )
    print_once(*shards.notes)
    if names := shards.class_names:
        print_once(class_line(names, np.bincount(shards.labels, minlength=len(names)).tolist()))
    scaling = scaling_of(data) if scaling is None else scaling
    scaling.check_channels(architecture.in_channels, data.path)
    return open_shown(config, LatentBatches(shards, scaling))


def _generator_job(config: Config, mesh: Mesh, source: LatentBatches) -> Job:
    shards, scaling = source.shards, source.scaling
    job = _generator_step_job(config, teacher_of(config, mesh), mesh, scaling)
    device = mesh.devices.flat[0]
    if config.compute.products == "float8" and not has_float8(device):
        print_once(f"float8 products are emulated on {device.device_kind}, slower than bfloat16")
    return dataclasses.replace(
        job,
        source=source,
        description=job.description
        | {
            "latents": scaling.to_meta(),
            "class_names": list(shards.class_names),
            "examples": {"count": len(shards), "fingerprint": shards.fingerprint()},
            "tokenizer": shards.tokenizer,
        },
    )


def _joint_job(config: Config, mesh: Mesh, source: ImageBatches) -> Job:
    check_repae(config)
    frozen = load_frozen_networks(config, mesh)
    job = _joint_step_job(config, teacher_of(config, mesh), frozen, mesh)
    names = {"class_names": list(source.source.class_names)}
    return dataclasses.replace(job, source=source, description=job.description | names)


def _tokenizer_job(config: Config, mesh: Mesh, source: ImageBatches) -> Job:
    job = _tokenizer_step_job(config, load_frozen_networks(config, mesh), mesh)
    names = {"class_names": list(source.source.class_names)}
    return dataclasses.replace(job, source=source, description=job.description | names)


def _tokenizer_step_job(config: Config, frozen: Mapping[str, Loaded], mesh: Mesh) -> Job:
    architecture, compute = tokenizer_config(config), config.compute
    options = compute_options("vavae", architecture, compute, mesh)

    def build(rngs: nnx.Rngs) -> VAVAE:
        return VAVAE(architecture, remat=compute.remat, rngs=rngs, **options)

    width = None
    if FOUNDATION in frozen:
        check_batch(config)
        width = frozen[FOUNDATION].config.hidden_size
    companions = tokenizer_companions(config, width)
    job = Job(
        build,
        make_vae_step,
        make_vae_held_out,
        None,
        {
            "architecture": dataclasses.asdict(architecture),
            "companions": {n: dataclasses.asdict(c.config) for n, c in companions.items()},
        },
        {name: companion.build for name, companion in companions.items()},
        ({name: network.params for name, network in frozen.items()},) if frozen else (),
    )
    networks = _networks(job, frozen)
    return dataclasses.replace(
        job,
        make_step=functools.partial(make_vae_step, networks=networks),
        make_held_out=functools.partial(make_vae_held_out, networks=networks),
    )


def _networks(tokenizer: Job, frozen: Mapping[str, Loaded]) -> dict[str, nnx.GraphDef]:
    """Structures of what the loss of a tokenizer needs, by name."""
    networks = {name: network.graphdef for name, network in frozen.items()}
    return networks | {name: _graphdef(build) for name, build in tokenizer.companions.items()}


def _graphdef(build: Build) -> nnx.GraphDef:
    return nnx.graphdef(nnx.eval_shape(lambda: build(CountedRngs(0))))
