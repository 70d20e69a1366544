"""Training from a config: checks everything, then hands over to the loop."""

import contextlib
import dataclasses
import functools
import gc
import json
from collections.abc import Callable
from typing import Any

import jax
from clu import parameter_overview
from etils import epath
from jax.sharding import Mesh

from lightningdit_jax import checkpoint
from lightningdit_jax.assembly.registry import architecture
from lightningdit_jax.assembly.workdir import write_config
from lightningdit_jax.checkpoint import TrainingCheckpoints
from lightningdit_jax.checkpoint_reading import DamagedCheckpointError
from lightningdit_jax.config import HELD_OUT, Config
from lightningdit_jax.config_jobs import MEANING
from lightningdit_jax.data.pipeline import BatchSource, make_pipeline
from lightningdit_jax.errors import counted, difference, unknown_name
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.parallel.ending import preemption_notice
from lightningdit_jax.parallel.mesh import batch_sharding, make_mesh, replicated
from lightningdit_jax.parallel.multihost import global_batch, is_main_process, print_once
from lightningdit_jax.parallel.out_of_memory import first_line, is_out_of_memory
from lightningdit_jax.parallel.sharding import abstract_on_mesh
from lightningdit_jax.parallel.topology import compiler_options
from lightningdit_jax.planning.plan import check_divides, line
from lightningdit_jax.training.best_checkpoint import BestCheckpoint
from lightningdit_jax.training.environment import record_start
from lightningdit_jax.training.going_on import inherited
from lightningdit_jax.training.held_out import HeldOut
from lightningdit_jax.training.held_out_data import open_held_out
from lightningdit_jax.training.init.opening import compare_data, open_init
from lightningdit_jax.training.init.start import begin
from lightningdit_jax.training.init.takeover import Takeover, plan_takeover
from lightningdit_jax.training.init.tokenizer import (
    begin_with_tokenizer,
    open_tokenizer,
    plan_tokenizer,
)
from lightningdit_jax.training.job import Job, fresh_state, make_job, open_source, state_rules
from lightningdit_jax.training.loop import Loop
from lightningdit_jax.training.optimizer import make_optimizer, on_mesh
from lightningdit_jax.training.plan import next_plans, training_hardware, training_plans
from lightningdit_jax.training.restore import check_optimizer
from lightningdit_jax.training.run_record import Evaluator, Feed, Picture, Run
from lightningdit_jax.training.snapshots import Snapshots, snapshots_line
from lightningdit_jax.training.state import TrainState
from lightningdit_jax.training.step_flops import peak_rate
from lightningdit_jax.training.writers import check_writers


def train(
    config: Config,
    workdir: str,
    make_evaluator: Callable[
        [Config, LatentScaling | None], Evaluator | None
    ] = lambda config, scaling: None,
    make_picture: Callable[
        [Config, LatentScaling | None, BatchSource], Picture | None
    ] = lambda config, scaling, source: None,
) -> TrainState:
    """Trains what the config says into WORKDIR, resuming from its newest checkpoint.

    Where that is damaged, from the one before, with a line; the damaged one is renamed. A run
    without one starts from fresh weights, or from those of config.train.init
    (training.init), about which a table is printed before anything is computed.

    What the config leaves "auto" is planned for the devices that are there (training.plan). A plan
    that runs out of memory is followed by the next one, from the newest checkpoint again, unless
    compute.on_oom is "stop". WORKDIR/config.json holds the config, as it was given, from before the
    first step.

    make_evaluator: what train.evaluate_every_steps calls, see Loop, for a config whose plan is
    made, and for the scaling of a generator's latents; it changes no bit of the run. make_picture:
    the same for train.picture_every_steps; it is given the held-out data or, without any, the data.
    Raises ValueError or FileNotFoundError for data, sizes, a source of weights or a workdir that do
    not fit the config, before anything is computed or written. SIGTERM or SIGINT to any process
    saves and raises Preempted in all (parallel.ending).
    """
    optimizer = make_optimizer(config.optimizer, config.train.num_steps)
    check_writers(config.train.writers)
    hardware = training_hardware()
    check_divides(config, hardware)
    init, scaling = open_init(config, workdir)
    tokenizer = open_tokenizer(config, workdir)
    source = open_source(config, scaling)
    valid = open_held_out(config, source)
    if init is not None:
        print_once(*compare_data(config, init, source))
    fitting, shapes = training_plans(config, hardware)
    takeover = None if init is None else plan_takeover(config, init, shapes)
    if takeover is not None:
        print_once(*takeover.table())
    of_tokenizer = None if tokenizer is None else plan_tokenizer(config, tokenizer, shapes)
    if of_tokenizer is not None:
        print_once(*of_tokenizer.table())
    candidates, on_oom = fitting, config.compute.on_oom
    is_saved = functools.partial(checkpoint.is_saved, workdir)
    with preemption_notice(is_saved) as preempted:
        while True:
            plan = candidates[0]
            print_once(line(plan, hardware, fitting))
            planned = plan.applied(config)
            try:
                evaluator = make_evaluator(planned, scaling)
                picture = make_picture(planned, scaling, source if valid is None else valid)
                given = Given(
                    config, source, valid, optimizer, shapes, workdir, takeover, of_tokenizer
                )
                return _train(planned, given, evaluator, picture, preempted)
            except jax.errors.JaxRuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                reason, damaged = first_line(error), None
            except DamagedCheckpointError as error:
                damaged = DamagedCheckpointError(error.checkpoint, error.reason)
            # Outside of the handler, whose error holds the arrays of what has failed.
            if damaged is not None:
                checkpoint.set_aside(workdir, damaged)
                continue
            candidates = next_plans(on_oom, plan, candidates, reason)
            print_once(f"out of memory: {reason}; going on with the next plan")
            gc.collect()


@dataclasses.dataclass(frozen=True)
class Given:
    """What all plans of a run share: the config as it was given, which checkpoints say too.

    valid: held-out examples, None without any. shapes: of the state. takeover: of the weights of a
    new run, None where it makes its own; tokenizer: of that of repae.init likewise.
    """

    config: Config
    source: BatchSource
    valid: BatchSource | None
    optimizer: Any
    shapes: TrainState
    workdir: str
    takeover: Takeover | None
    tokenizer: Takeover | None


def _train(
    config: Config,
    given: Given,
    evaluator: Evaluator | None,
    picture: Picture | None,
    preempted: Callable[[int], bool],
) -> TrainState:
    """Trains by a planned config."""
    workdir = given.workdir
    if config.train.evaluate_every_steps and evaluator is None:
        raise ValueError(
            f"config.train.evaluate_every_steps is {config.train.evaluate_every_steps}, but there "
            f"is nothing that evaluates a {config.kind} in training; set it to 0"
        )
    if config.train.picture_every_steps and picture is None:
        raise ValueError(
            f"config.train.picture_every_steps is {config.train.picture_every_steps}, but train() "
            "was given nothing that draws (make_picture); set it to 0"
        )
    mesh, optimizer = make_mesh(**dataclasses.asdict(config.mesh)), given.optimizer
    job = make_job(config, mesh, given.source)
    init_state, step_fn, abstract_state = compile_ready(job, config, mesh, optimizer, given.shapes)
    held_out = _held_out(job, config, given.valid, mesh, abstract_state)
    meta = run_meta(given.config, job)
    if newest := checkpoint.newest_of_run(workdir):
        _check_same_run(newest, meta)
        check_optimizer(newest, abstract_state.opt_state)  # before its config is written over
        meta |= inherited(newest, meta)
    elif given.takeover is not None:
        init_state, origin = begin(given.takeover, job, config, optimizer, abstract_state, mesh)
        meta["init"] = json.loads(json.dumps(origin))
    if given.tokenizer is not None:
        init_state, origin = begin_with_tokenizer(given.tokenizer, init_state, abstract_state, mesh)
        meta["tokenizer_init"] = json.loads(json.dumps(origin))
    pipeline = make_pipeline(
        job.source,
        global_batch_size=config.train.batch_size,
        shift=meta.get("data_shift", 0),
        seed=config.seed,
        flip=config.data.flip,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_threads=config.data.num_threads,
        prefetch_batches=config.data.prefetch_batches,
        num_workers=config.data.num_workers,
    )
    checkpoints = TrainingCheckpoints(
        workdir, keep=config.train.keep_checkpoints, keep_every=config.train.keep_every_steps
    )
    if is_main_process():
        write_config(given.config, workdir)
        record_start(workdir, int(newest.name) if newest else 0, mesh)
    metric = config.train.best_metric
    best = BestCheckpoint(workdir, metric) if metric else None
    every = config.train.snapshot_every_steps
    snapshots = Snapshots(workdir) if every else None
    num_params = parameter_overview.count_parameters(abstract_state.params)
    print_once(
        f"{config.kind}: {num_params:,} parameters, {counted(len(job.source), 'example')}, "
        f"mesh {dict(mesh.shape)}, {jax.devices()[0].device_kind}"
    )
    if every:
        sigmas = len(config.train.ema_sigmas)
        print_once(snapshots_line(num_params, sigmas, every, config.train.num_steps))
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
        snapshots=snapshots,
        evaluator=evaluator,
        held_out=held_out,
        picture=picture,
        kept=job.kept,
        described=job.described,
        peak_rate=peak_rate(config, mesh),
        preempted=preempted,
    )
    nothing = contextlib.nullcontext()
    with best or nothing, snapshots or nothing, checkpoints:
        return Loop(run).run()


def _held_out(
    job: Job, config: Config, valid: BatchSource | None, mesh: Mesh, abstract_state: TrainState
) -> HeldOut | None:
    """What the loop asks for the loss on held-out examples, None where there are none.

    Raises ValueError for a train.best_metric that is none of its numbers.
    """
    if valid is None:
        return None
    held_out = HeldOut(
        job.make_held_out(job.graphdef(), config),
        valid,
        mesh,
        count=min(len(valid), config.train.validate_examples),
        batch_size=config.train.batch_size // config.number("train.accumulate_steps"),
        abstract=abstract_state,
        frozen=job.frozen,
    )
    best, names = config.train.best_metric, [f"{HELD_OUT}{name}" for name in held_out.names]
    if best.startswith(HELD_OUT) and best not in names:
        raise ValueError(unknown_name("number of config.train.best_metric", best, names))
    return held_out


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


def compile_ready(
    job: Job, config: Config, mesh: Mesh, optimizer: Any, shapes: TrainState | None = None
) -> tuple:
    """(init_state, step_fn, abstract_state): jitted with shardings, state donated.

    shapes: of the state, where they are known already. step_fn takes state, batch and job.frozen.
    """
    create = functools.partial(fresh_state, job, config, optimizer)
    shapes = jax.eval_shape(create) if shapes is None else shapes
    abstract = abstract_on_mesh(shapes, mesh, state_rules(config.kind))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    step_fn = jax.jit(
        job.make_step(job.graphdef(), config, on_mesh(optimizer, abstract)),
        in_shardings=(
            shardings,
            batch_sharding(mesh),
            *jax.tree.map(lambda array: array.sharding, job.frozen),
        ),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
        compiler_options=compiler_options(
            mesh, config.compute.compile_effort, float8=bool(shapes.float8)
        ),
    )
    return jax.jit(create, out_shardings=shardings), step_fn, abstract


def _check_same_run(newest: epath.Path, meta: dict) -> None:
    found, step = checkpoint.read_meta(newest), int(newest.name)
    if found["kind"] == meta["kind"]:  # fields that are younger than the run have their defaults
        there = architecture(found["kind"], checkpoint.architecture_fields(found))
        found["architecture"] = json.loads(json.dumps(dataclasses.asdict(there)))
    if "flow" in meta:
        found["flow"] = dataclasses.asdict(Flow.from_meta(found))
        found.setdefault("companions", {})  # a generator's are younger than others' runs
    unsaid = [key for key in MEANING if key in meta and key not in found]
    if unsaid:
        print_once(f"not compared with step {step:,}, which does not say them: {', '.join(unsaid)}")
    for key in MEANING:
        if key in found and key in meta and found[key] != meta[key]:
            there, wanted = found[key], meta[key]
            if key == "examples" and "fingerprint" not in wanted:
                # An image that cannot be decoded may be taken away, as its error advises.
                print_once(f"other images than at step {step:,}: {difference(there, wanted)}")
                continue
            raise ValueError(
                f"{newest.parent} holds a run with another {key}: found "
                f"{difference(there, wanted)}; go on with the config it was started with, or begin "
                f"another run from its weights: another --workdir and config.train.init={newest}"
            )
