"""Training from a config: checks everything, then hands over to the loop."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import jax
from clu import parameter_overview
from etils import epath
from jax.sharding import Mesh, PartitionSpec

from lightningdit_jax import checkpoint
from lightningdit_jax.assembly.registry import MODELS, architecture
from lightningdit_jax.assembly.workdir import write_config
from lightningdit_jax.checkpoint import TrainingCheckpoints
from lightningdit_jax.config import Config
from lightningdit_jax.config_jobs import MEANING
from lightningdit_jax.data.pipeline import make_pipeline
from lightningdit_jax.errors import difference
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.parallel.ending import preemption_notice
from lightningdit_jax.parallel.mesh import batch_sharding, check_batch_size, make_mesh, replicated
from lightningdit_jax.parallel.multihost import global_batch, is_main_process, print_once
from lightningdit_jax.parallel.sharding import Rules, abstract_on_mesh
from lightningdit_jax.parallel.topology import compiler_options
from lightningdit_jax.training.best_checkpoint import BestCheckpoint
from lightningdit_jax.training.job import Job, make_job
from lightningdit_jax.training.loop import Loop
from lightningdit_jax.training.optimizer import make_optimizer
from lightningdit_jax.training.restore import check_optimizer
from lightningdit_jax.training.run_record import Evaluator, Feed, Run
from lightningdit_jax.training.state import TrainState, create_state


def train(config: Config, workdir: str, evaluator: Evaluator | None = None) -> TrainState:
    """Trains what the config says into WORKDIR, resuming from its newest checkpoint.

    WORKDIR/config.json holds the config from before the first step.

    evaluator: what train.evaluate_every_steps calls, see Loop; it changes no bit of the run.
    Raises ValueError or FileNotFoundError for data, sizes or a workdir that do not fit the config,
    before anything is computed or written. SIGTERM to any process saves and raises Preempted in
    all.
    """
    if config.train.evaluate_every_steps and evaluator is None:
        raise ValueError(
            f"config.train.evaluate_every_steps is {config.train.evaluate_every_steps}, but there "
            f"is nothing that evaluates a {config.kind} in training; set it to 0"
        )
    with preemption_notice() as preempted:
        return _train(config, workdir, evaluator, preempted)


def _train(
    config: Config,
    workdir: str,
    evaluator: Evaluator | None,
    preempted: Callable[[int], bool],
) -> TrainState:
    mesh = make_mesh(**dataclasses.asdict(config.mesh))
    check_batch_size(
        config.train.batch_size, mesh, jax.process_count(), config.train.accumulate_steps
    )
    optimizer = make_optimizer(config.optimizer, config.train.num_steps)
    job = make_job(config, mesh)
    init_state, step_fn, abstract_state = compile_ready(job, config, mesh, optimizer)
    pipeline = make_pipeline(
        job.source,
        global_batch_size=config.train.batch_size,
        seed=config.seed,
        flip=config.data.flip,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_threads=config.data.num_threads,
        prefetch_batches=config.data.prefetch_batches,
        num_workers=config.data.num_workers,
    )
    meta = run_meta(config, job)
    if newest := checkpoint.newest_of_run(workdir):
        _check_same_run(newest, meta)
        check_optimizer(newest, abstract_state.opt_state)  # before its config is written over
    checkpoints = TrainingCheckpoints(
        workdir, keep=config.train.keep_checkpoints, keep_every=config.train.keep_every_steps
    )
    if is_main_process():
        write_config(config, workdir)
    metric = config.train.best_metric
    best = BestCheckpoint(workdir, metric) if metric else None
    num_params = parameter_overview.count_parameters(abstract_state.params)
    print_once(
        f"{config.kind}: {num_params:,} parameters, {len(job.source):,} examples, "
        f"mesh {dict(mesh.shape)}, {jax.devices()[0].device_kind}"
    )
    run = Run(
        config=config.train,
        workdir=workdir,
        meta=meta,
        step_fn=lambda state, batch: step_fn(state, batch, *job.frozen),
        init_state=init_state,
        abstract_state=abstract_state,
        feed=Feed(iter(pipeline), lambda batch: global_batch(batch, mesh), pipeline.find_unfit),
        checkpoints=checkpoints,
        best=best,
        evaluator=evaluator,
        preempted=preempted,
    )
    try:
        return Loop(run).run()
    finally:
        checkpoints.close()
        if best:
            best.close()


def run_meta(config: Config, job: Job) -> dict[str, Any]:
    """What the checkpoints of a run say of it, as it is read back."""
    meta = {
        "format_version": checkpoint.FORMAT_VERSION,
        "kind": config.kind,
        "examples": {"count": len(job.source)},
        **job.description,
        "seed": config.seed,
        "batch_size": config.train.batch_size,
        "config": config.to_dict(),
    }
    return json.loads(json.dumps(meta))  # tuples are lists then


def compile_ready(job: Job, config: Config, mesh: Mesh, optimizer: Any) -> tuple:
    """(init_state, step_fn, abstract_state): jitted with shardings, state donated.

    step_fn takes state, batch and job.frozen. Raises ValueError where the batch cannot be cut.
    """
    if config.kind == "vavae" and config.train.accumulate_steps > 1:
        raise ValueError(
            f"config.train.accumulate_steps is {config.train.accumulate_steps}, but a tokenizer's "
            "loss is of the whole batch (the discriminator's BatchNorm, the adaptive weights) and "
            "cannot be accumulated; set it to 1 and use more devices or --config.compute.remat"
        )

    def create() -> TrainState:
        return create_state(
            job.init_params(config.seed),
            optimizer,
            ema=config.train.ema_decay > 0,
            ema_decays=config.train.ema_decays,
            companions=job.init_companions(config.seed),
        )

    abstract = abstract_on_mesh(jax.eval_shape(create), mesh, _state_rules(config.kind))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    step_fn = jax.jit(
        job.make_step(job.graphdef(), config, optimizer),
        in_shardings=(
            shardings,
            batch_sharding(mesh),
            *jax.tree.map(lambda array: array.sharding, job.frozen),
        ),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
        compiler_options=compiler_options(mesh),
    )
    return jax.jit(create, out_shardings=shardings), step_fn, abstract


def _state_rules(kind: str) -> Rules:
    """Of a run's state: companions, 2.8 M parameters at most, are replicated."""
    return ((r"^companions/", PartitionSpec()), *MODELS[kind].rules)


def _check_same_run(newest: epath.Path, meta: dict) -> None:
    found, step = checkpoint.read_meta(newest), int(newest.name)
    if found["kind"] == meta["kind"]:  # fields that are younger than the run have their defaults
        there = architecture(found["kind"], checkpoint.architecture_fields(found))
        found["architecture"] = json.loads(json.dumps(dataclasses.asdict(there)))
    if "flow" in meta:
        found["flow"] = dataclasses.asdict(Flow.from_meta(found))
    unsaid = [key for key in MEANING if key in meta and key not in found]
    if unsaid:
        print_once(f"not compared with step {step:,}, which does not say them: {', '.join(unsaid)}")
    for key in MEANING:
        if key in found and found[key] != meta[key]:
            there, wanted = found[key], meta[key]
            if key == "examples" and meta["kind"] == "vavae":
                # An image that cannot be decoded may be taken away, as its error advises.
                print_once(f"other images than at step {step:,}: {difference(there, wanted)}")
                continue
            raise ValueError(
                f"{newest.parent} holds a run with another {key}: found "
                f"{difference(there, wanted)}; choose another --workdir, or go on with the config "
                "it was started with"
            )
