"""The checkpoint that a new run takes its weights from, as it is known without its arrays."""

import dataclasses
import functools
from typing import Any

from etils import epath

from lightningdit_jax.assembly.companion import companion_meta, companion_of
from lightningdit_jax.assembly.description import class_names_of
from lightningdit_jax.assembly.loading import model_meta
from lightningdit_jax.assembly.registry import abstract_model, architecture
from lightningdit_jax.averages import MAIN, WEIGHTS
from lightningdit_jax.checkpoint import (
    architecture_fields,
    find_checkpoint,
    item_names,
)
from lightningdit_jax.checkpoint_reading import DamagedCheckpointError, array_metadata
from lightningdit_jax.config import Config
from lightningdit_jax.hub import address_of
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.parallel.multihost import print_once


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint. item: which of its weights are taken. beside: as of Loaded."""

    checkpoint: epath.Path
    meta: dict[str, Any]
    item: str
    beside: str = ""

    @property
    def kind(self) -> str:
        """Of its model."""
        return self.meta["kind"]

    @functools.cached_property
    def architecture(self) -> Any:
        """Of its model."""
        return architecture(self.kind, architecture_fields(self.meta))

    @functools.cached_property
    def shapes(self) -> Any:
        """Its parameters, ShapeDtypeStructs for leaves."""
        return abstract_model(self.kind, self.architecture)[1]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of its classes by number, empty where it does not know."""
        return class_names_of(self.meta)

    @property
    def scaling(self) -> LatentScaling | None:
        """Of its latents, None where it does not know."""
        return LatentScaling.from_meta(self.meta.get("latents"))

    def companion(self, name: str) -> Any:
        """Metadata of a network trained beside it, None where there is none of that name."""
        if name not in item_names(self.checkpoint):
            return None
        return self._metadata(name)

    def check_readable(self) -> None:
        """Raises ValueError where the description of its weights cannot be read."""
        self._metadata(self.item)

    def _metadata(self, item: str) -> Any:
        try:
            return array_metadata(self.checkpoint, item)
        except DamagedCheckpointError as error:
            raise ValueError(f"config.train.init: {error}") from error

    def __str__(self) -> str:
        return (
            f"{address_of(self.checkpoint)} ({self.kind}, step {self.meta['step']:,}, "
            f"{'averaged weights' if self.item == MAIN else 'weights'})"
        )


def open_source(config: Config) -> Source:
    """The source that config.train.init names. Says where it has no average beside its weights.

    Of a run that trained a generator and its tokenizer, whichever of both config.kind says.
    Raises FileNotFoundError where there is no checkpoint, and ValueError for one of another kind
    and for one that is damaged.
    """
    try:
        checkpoint = find_checkpoint(config.train.init)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"config.train.init: {error}") from error
    meta = model_meta(checkpoint)
    if meta["kind"] != config.kind and (name := companion_of(checkpoint, meta, config.kind)):
        source = Source(checkpoint, companion_meta(meta, name), name, beside=name)
        source.check_readable()
        return source
    if meta["kind"] != config.kind:
        raise ValueError(
            f"config.train.init: {checkpoint} holds a {meta['kind']}; expected a {config.kind}, "
            "or a run that trained both; name such a checkpoint"
        )
    wanted = {"ema": MAIN, "params": WEIGHTS}[config.train.init_weights]
    item = wanted if wanted in item_names(checkpoint) else WEIGHTS
    source = Source(checkpoint, meta, item)
    source.check_readable()
    if item != wanted:
        print_once(f"{checkpoint} has no average beside its weights, which are taken")
    return source
