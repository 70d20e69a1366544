"""Where a run begins: its own checkpoint, given weights or none, and the scaling that follows."""

import typing
from collections.abc import Mapping, Sequence
from typing import Any

from lightningdit_jax.assembly.companion import companion_of
from lightningdit_jax.assembly.registry import Role
from lightningdit_jax.checkpoint import newest_of_run, read_meta
from lightningdit_jax.config import Config
from lightningdit_jax.data.image_batches import ImageBatches
from lightningdit_jax.data.imagenet_names import in_words
from lightningdit_jax.data.pipeline import BatchSource, LatentBatches
from lightningdit_jax.errors import difference
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.parallel.multihost import print_once
from lightningdit_jax.training.init.source import Source, open_source


def open_init(config: Config, workdir: str) -> tuple[Source | None, LatentScaling | None]:
    """What a run starts from, and how its latents are scaled where the data does not say that.

    The source is None for a run that goes on, and without config.train.init; the scaling is what
    config.data.stats takes from the run's own checkpoint, or from the source. All processes must
    call it. Raises what open_source raises, and ValueError for keys of a source where none is
    named and for a scaling that no checkpoint says.
    """
    init, is_generator = config.train.init, config.kind == "lightningdit"
    keeps_scaling = is_generator and not config.is_joint and config.data.stats == "checkpoint"
    for key in ("train.init_exclude", *(["train.init_labels"] if is_generator else [])):
        if (value := config.value(key)) and not init:
            raise ValueError(
                f"config.{key} is {value!r}, but config.train.init is empty; set that to the "
                "checkpoint to start from, or leave this out"
            )
    if not init and not keeps_scaling:
        return None, None
    newest = newest_of_run(workdir)
    if newest is not None:
        if init:
            print_once(f"config.train.init is of new runs; this one goes on from {newest}")
        return None, _scaling_of(read_meta(newest), str(newest)) if keeps_scaling else None
    if not init:
        raise ValueError(
            "config.data.stats is 'checkpoint', but config.train.init is empty; set that to the "
            "checkpoint whose statistics are meant, or this to 'data'"
        )
    source = open_source(config)
    return source, _scaling_of(source.meta, str(source.checkpoint)) if keeps_scaling else None


def _tokenizer_lines(config: Config, source: Source) -> list[str]:
    if config.repae.init:
        return []
    beside = companion_of(source.checkpoint, source.meta, Role.TOKENIZER)
    its = f"{source.checkpoint}, where it lies" if beside else "its checkpoint"
    return [
        f"{source.checkpoint} was trained on the latents of a tokenizer, and here one begins that "
        f"is fresh: config.repae.init is empty; set it to {its}, to begin with that"
    ]


def _scaling_of(meta: Mapping[str, Any], where: str) -> LatentScaling:
    scaling = LatentScaling.from_meta(meta.get("latents"))
    if scaling is None:
        raise ValueError(
            f"config.data.stats is 'checkpoint', but {where} does not say how its latents are "
            "scaled; set it to 'data'"
        )
    return scaling


def compare_data(config: Config, source: Source, data: BatchSource) -> list[str]:
    """Lines on what a generator's latents and classes are other than its source's.

    Raises ValueError with both scalings where they differ and config.data.stats says nothing.
    """
    if config.kind != "lightningdit":
        return []
    if isinstance(data, LatentBatches):
        lines = _scaling_lines(config.data.stats, source, data.scaling)
        names: Sequence[str] = data.shards.class_names
    else:  # of images, whose tokenizer trains too
        lines = _tokenizer_lines(config, source)
        names = typing.cast(ImageBatches, data).source.class_names
    if not config.train.init_labels:
        lines += _name_lines(source, names)
    return lines


def _scaling_lines(stats: str, source: Source, scaling: LatentScaling) -> list[str]:
    known = source.scaling
    if known is None:
        return [f"{source.checkpoint} does not say how its latents are scaled; not compared"]
    if stats == "checkpoint":
        return [f"latents are scaled as those of {source.checkpoint}: {scaling}"]
    if known == scaling:
        return []
    change = difference(known.to_meta(), scaling.to_meta(), "{} in the source and {} in the data")
    if stats == "data":
        return [f"latents are scaled otherwise than the source's: {change}"]
    raise ValueError(
        f"config.data scales latents otherwise than {source.checkpoint} does: {change}; set "
        "config.data.stats to 'checkpoint', which goes on with the source's, or to 'data'"
    )


def _name_lines(source: Source, names: Sequence[str]) -> list[str]:
    pairs = zip(in_words(source.class_names), in_words(names))
    other = [(c, *pair) for c, pair in enumerate(pairs) if len({*pair}) > 1]
    if not other:
        return []
    number, there, here = other[0]
    return [
        f"classes begin as those of the same number, but {len(other)} have other names, such as "
        f"{number}: '{there}' in the source, '{here}' here; config.train.init_labels lists others"
    ]
