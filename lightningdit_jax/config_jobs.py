"""Which jobs read which keys of a config, and which keys a run's weights have their meaning from.

Knows keys by name alone and imports no config; a Choice is made where the table is that it is of.
tests/test_config_jobs.py holds the tables to what the jobs really read.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any

from lightningdit_jax.config_choices import Choice, Scale
from lightningdit_jax.errors import unknown_name
from lightningdit_jax.sampling_options import OF_GUIDANCE

# A job is named as people start it.
TRAIN_GENERATOR = "the training of a generator"
TRAIN_TOKENIZER = "the training of a tokenizer"
TRAIN_BOTH = "the training of a generator and its tokenizer (repae.weight above 0)"
EVALUATOR = "an evaluation within a generator's training (train.evaluate_every_steps above 0)"
PICTURES = "pictures within a generator's training (train.picture_every_steps above 0)"
EXTRACT = "--mode=extract"
SAMPLE = "--mode=sample"
SWEEP = "--mode=sweep"
EVALUATE_SAMPLES = "--mode=evaluate of a generator's samples"
EVALUATE_SEEDS = "--mode=evaluate of a generator with evaluate.seeds"
EVALUATE_TOKENIZER = "--mode=evaluate of a tokenizer"
COMPILE_GENERATOR = "--mode=compile of a generator"
COMPILE_TOKENIZER = "--mode=compile of a tokenizer"
COMPILE_BOTH = "--mode=compile of a generator and its tokenizer (repae.weight above 0)"
COMPILE_SAMPLER = "--mode=compile --target=sample"
VERIFY = "--mode=verify"
DESCRIBE = "--mode=describe"
CHECK = "--mode=check"
REPORT = "--mode=report"
PAGE = "--mode=page"

_TRAIN = (TRAIN_GENERATOR, TRAIN_TOKENIZER, TRAIN_BOTH)
_STEP = (*_TRAIN, COMPILE_GENERATOR, COMPILE_TOKENIZER, COMPILE_BOTH)
_ON_LATENTS = (TRAIN_GENERATOR, COMPILE_GENERATOR)
_ON_IMAGES = (TRAIN_TOKENIZER, TRAIN_BOTH)
_BOTH = (TRAIN_BOTH, COMPILE_BOTH)
_GENERATOR = (*_ON_LATENTS, *_BOTH)
_TOKENIZER = (TRAIN_TOKENIZER, COMPILE_TOKENIZER, *_BOTH)
_IMAGES = (EXTRACT, EVALUATE_TOKENIZER)
_WITHIN = (EVALUATOR, PICTURES)
_DRAWN = (SAMPLE, EVALUATE_SEEDS)  # all that config.sample asks for
_SAMPLES = (*_DRAWN, SWEEP, PAGE, *_WITHIN)
_LOOKED_AT = (*_IMAGES, CHECK)
_EVALUATE = (EVALUATE_SAMPLES, EVALUATE_TOKENIZER)
_JUDGED = (EVALUATE_SAMPLES, EVALUATE_SEEDS, SWEEP, EVALUATOR)
_COMPUTING = (*_STEP, *_IMAGES, *_SAMPLES, EVALUATE_SAMPLES, COMPILE_SAMPLER)
JOBS = (*_COMPUTING, VERIFY, DESCRIBE, CHECK, REPORT)

# The jobs that read a key, or a section where the key itself is not listed.
_READERS: dict[str, Collection[str]] = {
    "kind": (*_STEP, *_EVALUATE, EVALUATE_SEEDS, *_WITHIN),
    "seed": (*_STEP, *_IMAGES, SAMPLE, SWEEP, PAGE, *_WITHIN, COMPILE_SAMPLER),
    "mesh": _COMPUTING,
    "compute.dtype": (*_STEP, *_IMAGES, *_SAMPLES, COMPILE_SAMPLER),
    "compute.remat": _STEP,
    "compute.on_oom": _TRAIN,
    "compute.scan_unroll": (*_GENERATOR, *_SAMPLES, COMPILE_SAMPLER),
    "compute.attention": (*_GENERATOR, *_SAMPLES, COMPILE_SAMPLER),
    "compute.products": _GENERATOR,
    "compute.compilation_cache": JOBS,
    "compute.compile_effort": _STEP,
    "model": (*_GENERATOR, *_WITHIN, COMPILE_SAMPLER),
    "tokenizer": (*_TOKENIZER, COMPILE_SAMPLER),
    "data.source": (*_TRAIN, *_LOOKED_AT),
    # Of a compiled step, where repa.features beside the latents are cached.
    "data.path": (*_TRAIN, COMPILE_GENERATOR, *_WITHIN, *_LOOKED_AT, VERIFY),
    "data.split": (*_ON_IMAGES, EXTRACT, CHECK),
    "data.labels": (*_ON_IMAGES, *_LOOKED_AT),
    "data.valid_path": (*_TRAIN, CHECK),
    "data.valid_split": (*_ON_IMAGES, CHECK),
    "data.tfds_name": (*_ON_IMAGES, *_LOOKED_AT),
    "data.augment": _ON_IMAGES,
    "data.flip": _TRAIN,
    "data.latent_norm": (TRAIN_GENERATOR, *_WITHIN),
    "data.latent_multiplier": (TRAIN_GENERATOR, *_WITHIN),
    "data.stats": (TRAIN_GENERATOR,),
    "data.resident": (TRAIN_GENERATOR,),
    "data.corrupt": (*_ON_IMAGES, *_IMAGES),
    "data.num_threads": (*_TRAIN, *_LOOKED_AT),
    "data.num_workers": (*_TRAIN, *_IMAGES),
    "data.prefetch_batches": _TRAIN,
    "optimizer": _STEP,
    "optimizer.momentum": _ON_LATENTS,
    "flow": _GENERATOR,
    "flow.path": (*_GENERATOR, *_WITHIN, COMPILE_SAMPLER),
    "flow.prediction": (*_GENERATOR, *_WITHIN, COMPILE_SAMPLER),
    "repa": _GENERATOR,
    "repa.path": _ON_LATENTS,
    "repa.valid_path": (TRAIN_GENERATOR,),
    "repae": _BOTH,
    "repae.weight": _GENERATOR,
    "repae.init": (TRAIN_BOTH,),
    "vae_loss": _TOKENIZER,
    "stages": _TOKENIZER,
    "discriminator": _TOKENIZER,
    "frozen": _TOKENIZER,
    "frozen.foundation": _STEP,
    "train": _TRAIN,
    "train.init_labels": (TRAIN_GENERATOR, TRAIN_BOTH),
    "train.num_steps": _STEP,
    "train.batch_size": _STEP,
    "train.accumulate_steps": _STEP,
    "train.spikes": _STEP,
    "train.spike_window": _STEP,
    "train.spike_factor": _STEP,
    "train.ema_decay": (*_STEP, *_WITHIN),
    "train.ema_decays": (*_STEP, *_WITHIN),
    "train.ema_sigmas": (*_STEP, *_WITHIN),
    "train.evaluate_every_steps": (*_TRAIN, EVALUATOR),
    "train.best_metric": (*_TRAIN, EVALUATOR),
    "train.picture_every_steps": (*_TRAIN, PICTURES),
    "sample": (*_SAMPLES, COMPILE_SAMPLER),
    "sample.checkpoint": (*_DRAWN, SWEEP, PAGE),
    "sample.tokenizer": _SAMPLES,
    "sample.num_samples": _DRAWN,
    "sample.output": (SAMPLE,),
    "sample.labels": _SAMPLES,
    "sample.use_ema": _SAMPLES,
    "sample.ema_decay": _SAMPLES,
    "sample.ema_sigma": _SAMPLES,
    "sweep": (SWEEP,),
    "page": (PAGE,),
    "extract": (EXTRACT,),
    "extract.checkpoint": _IMAGES,
    "extract.resolution": _IMAGES,
    "evaluate": _JUDGED,  # the metric, and what it needs
    "evaluate.split": (EVALUATE_TOKENIZER,),
    "evaluate.samples": (EVALUATE_SAMPLES,),
    "evaluate.num_images": _EVALUATE,
    "evaluate.train_samples": (EVALUATOR,),
    "evaluate.lpips": (EVALUATE_TOKENIZER,),
    "evaluate.inception": (*_JUDGED, EVALUATE_TOKENIZER),
    "evaluate.networks": (*_JUDGED, EVALUATE_TOKENIZER),
    "evaluate.batch_size": (*_JUDGED, EVALUATE_TOKENIZER),
    "evaluate.measures": (EVALUATE_TOKENIZER,),
    "evaluate.ifid_latents": (EVALUATE_TOKENIZER,),
    "evaluate.ifid_neighbors": (EVALUATE_TOKENIZER,),
    "evaluate.seeds": (EVALUATE_SAMPLES, EVALUATE_SEEDS),
    "evaluate.jackknife_blocks": (*_EVALUATE, EVALUATE_SEEDS),
}

# Why the others do not, where that is not plain.
_REASONS = {
    "compute.remat": "without a backward pass nothing is computed again",
    "compute.scan_unroll": "only a generator has a loop over blocks",
    "compute.compile_effort": "it is of the train step",
    "compute.attention": "a tokenizer's attention has one implementation",
    "compute.products": "float8 products are of a generator's train step; all else multiplies in "
    "compute.dtype",
    "data.split": "latents have none, and a tokenizer is evaluated on evaluate.split",
    "data.augment": "only where a tokenizer trains are images cropped at random",
    "data.stats": "other jobs scale latents as their generator's checkpoint says",
    "data.flip": "extraction writes each image and its mirror image, evaluation takes none",
    "data.resident": "it is of latents, and only the training of a generator reads them",
    "data.corrupt": "it is of images",
    "data.prefetch_batches": "it is of training; elsewhere the next batches are read while one is "
    "used",
    "optimizer.momentum": "it is of Muon, which only a generator is trained by",
    "sample": "in a generator's training images are drawn where train.evaluate_every_steps or "
    "train.picture_every_steps is above 0",
    "sample.checkpoint": "a run goes on from its own workdir; a new one starts from the weights of "
    "config.train.init",
    "train.init_labels": "a tokenizer has no classes",
    "sample.num_samples": "the others count by sweep.num_samples, evaluate.train_samples and "
    "evaluate.num_images",
    "evaluate.samples": "only --mode=evaluate without evaluate.seeds judges a file",
    "evaluate.seeds": "a sweep has sweep.seeds, and other jobs have one seed",
    "evaluate.measures": "they are of a tokenizer; config.evaluate.metric judges a generator",
    "tokenizer": "the tokenizer is what its checkpoint says",
}

# What the weights of a run have their meaning from: fields of a checkpoint's meta, and the keys
# behind each. All other keys may differ from start to start; of "examples" the path may, too.
MEANING = {
    "kind": ("kind",),
    "architecture": ("model", "tokenizer"),
    "flow": ("flow.path", "flow.prediction"),
    "latents": ("data.latent_norm", "data.latent_multiplier"),
    "companions": (
        "discriminator.ndf",
        "discriminator.num_layers",
        "discriminator.norm",
        "vae_loss.disc_weight",  # whether it is 0
        "vae_loss.alignment",  # whether it is "none"
        "vae_loss.alignment_loss",  # whether it projects
        "vae_loss.reverse_proj",
        "stages.vf_weight",  # whether all are 0
        "repa.features",  # whether it is "none"
        "repa.projector",
        "repa.projector_dim",
        "repae.weight",  # whether it is 0
    ),
    "seed": ("seed",),
    "examples": (),
}

_JOB_OF = {
    "extract": EXTRACT,
    "sample": SAMPLE,
    "sweep": SWEEP,
    "verify": VERIFY,
    "describe": DESCRIBE,
    "check": CHECK,
    "report": REPORT,
    "page": PAGE,
}

# Jobs that take these from the checkpoint they load, where the command line may only agree.
_TAKEN = {
    SAMPLE: ("model", *MEANING["flow"], *MEANING["latents"]),
    EVALUATE_SEEDS: ("model", *MEANING["flow"], *MEANING["latents"]),
    SWEEP: ("model", *MEANING["flow"], *MEANING["latents"]),
    PAGE: ("model", *MEANING["flow"], *MEANING["latents"]),
    EXTRACT: ("tokenizer",),
    EVALUATE_TOKENIZER: ("tokenizer",),
}

_SPIKES = ("train.spike_window", "train.spike_factor", "train.max_spikes")
_MUON = ("optimizer.eps", "optimizer.momentum")
_GUIDANCE = tuple(f"{section}.{name}" for name in OF_GUIDANCE for section in ("sample", "sweep"))
_REPA = (
    "repa.path",
    "repa.valid_path",
    "repa.depth",
    "repa.weight",
    "repa.projector",
    "repa.projector_dim",
    "repa.spatial_norm",
    "repa.zscore_alpha",
)
_VF = (
    "vae_loss.distmat_weight",
    "vae_loss.cos_weight",
    "vae_loss.reverse_proj",
    "stages.distmat_margin",
    "stages.cos_margin",
)
_CHOICES = (
    Choice("repa.features", {"cached": _REPA, "computed": (*_REPA, "frozen.foundation")}),
    Choice("repa.projector", {"mlp": ("repa.projector_dim",)}),
    Choice("repa.spatial_norm", {"zscore": ("repa.zscore_alpha",)}),
    Choice(
        "vae_loss.alignment_loss",
        {"vf": _VF, "pool_align": (), "cka": (), "soft_kl": ("vae_loss.soft_kl_temperature",)},
    ),
    Choice(
        "optimizer.name",
        {"adamw": ("optimizer.eps",), **dict.fromkeys(("muon", "muon_all"), _MUON)},
    ),
    Choice(
        "optimizer.schedule",
        {
            "linear": ("optimizer.end_factor",),
            "cosine": ("optimizer.end_factor",),
            "trapezoid": ("optimizer.decay_steps", "optimizer.end_factor"),
        },
    ),
    Choice("train.spikes", dict.fromkeys(("skip", "rollback"), _SPIKES)),
    Choice("sample.use_ema", {True: ("sample.ema_decay", "sample.ema_sigma", "sweep.ema_sigma")}),
    Choice("sample.cfg_schedule", {"power_cosine": ("sample.cfg_power",)}, "sweep.cfg_schedule"),
    Scale("sample.cfg_scale", {1.0: _GUIDANCE}, "sweep.cfg_scale"),
)


def trains_both(value: Callable[[str], Any]) -> bool:
    """Whether a config trains a generator and its tokenizer. value: what it says of a key."""
    return value("kind") == "lightningdit" and value("repae.weight") > 0


def jobs_of(
    mode: str,
    target: str,
    kind: str,
    evaluates: bool,
    pictures: bool = False,
    seeds: bool = False,
    both: bool = False,
) -> tuple[str, ...]:
    """The jobs that a command does. evaluates, pictures: whether its training is to make such.

    seeds: whether an evaluation of a generator is to draw samples by seeds. both: see trains_both.
    """
    generator = kind == "lightningdit"
    if mode == "train":
        if not generator:
            return (TRAIN_TOKENIZER,)
        within = [job for job, done in ((EVALUATOR, evaluates), (PICTURES, pictures)) if done]
        return (TRAIN_BOTH if both else TRAIN_GENERATOR, *within)
    if mode == "evaluate":
        of_generator = EVALUATE_SEEDS if seeds else EVALUATE_SAMPLES
        return (of_generator if generator else EVALUATE_TOKENIZER,)
    if mode == "compile":
        of_generator = COMPILE_BOTH if both else COMPILE_GENERATOR
        step = of_generator if generator else COMPILE_TOKENIZER
        return (step if target == "train" else COMPILE_SAMPLER,)
    return (_JOB_OF[mode],)


def readers(key: str) -> tuple[str, ...]:
    """The jobs that read a key, in the order of JOBS."""
    found = _READERS[key] if key in _READERS else _READERS[key.partition(".")[0]]
    return tuple(job for job in JOBS if job in found)


def check_choices(value: Callable[[str], Any], choices: Iterable[Choice]) -> None:
    """Raises ValueError for a value of a Choice that no row has, naming the nearest.

    value: what the config says of a key.
    """
    for choice in choices:
        for key, name in choice.named(value):
            if name not in choice.reads:
                what = f"value of config.{key}"
                raise ValueError(unknown_name(what, name, tuple(choice.reads)))


def is_read(
    key: str, jobs: Collection[str], value: Callable[[str], Any], choices: Collection[Choice]
) -> bool:
    """Whether one of the jobs reads a key, or takes what it says from its checkpoint.

    value: what the config says of a key, which may decide by one of the choices whether others are
    read.
    """
    return any(
        is_taken(key, job) or (job in readers(key) and _unmet(key, job, value, choices) is None)
        for job in jobs
    )


def is_taken(key: str, job: str) -> bool:
    """Whether a job takes what the key says from the checkpoint it loads."""
    return _lists(_TAKEN.get(job, ()), key)


def meaning_of(key: str) -> str | None:
    """The field of MEANING that a key is behind, None for one that may change in a run."""
    return next((field for field, keys in MEANING.items() if _lists(keys, key)), None)


def check_given(
    keys: Iterable[str],
    jobs: Collection[str],
    value: Callable[[str], Any],
    choices: Collection[Choice],
) -> None:
    """Raises ValueError for a key given on the command line that none of the jobs reads.

    value, choices: as in is_read. A key that a job takes from its checkpoint passes: it is compared
    when that is known.
    """
    for key in keys:
        if is_read(key, jobs, value, choices):
            continue
        reading = next((job for job in jobs if job in readers(key)), None)
        if reading is not None and (unmet := _unmet(key, reading, value, choices)):
            other, chosen, wanted = unmet
            raise ValueError(
                f"config.{key} is given on the command line, but config.{other} is "
                f"{', '.join(map(repr, chosen))}, which does not read it; leave it out, or set "
                f"config.{other} to what reads it: {wanted}"
            )
        reason = _REASONS.get(key) or _REASONS.get(key.partition(".")[0])
        why = f" ({reason})" if reason else ""
        raise ValueError(
            f"config.{key} is given on the command line, but {next(iter(jobs))} does not read it"
            f"{why}; leave it out. It is read by {', '.join(readers(key))}"
        )


def _unmet(
    key: str, job: str, value: Callable[[str], Any], choices: Iterable[Choice]
) -> tuple[str, tuple[Any, ...], str] | None:
    """The choice that leaves a key unread by a job: its key, its values, and what would read it."""
    for choice in (*_CHOICES, *choices):
        if job not in readers(choice.key):
            continue
        other, chosen = choice.values(value, bool(choice.tried) and job in readers(choice.tried))
        if wanted := choice.wanted(key, chosen):
            return other, chosen, wanted
    return None


def _lists(names: Collection[str], key: str) -> bool:
    return key in names or ("." in key and key.partition(".")[0] in names)
