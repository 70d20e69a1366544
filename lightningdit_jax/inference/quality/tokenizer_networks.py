"""The networks that judge what a tokenizer decodes."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from lightningdit_jax.assembly.identity import weights_identity
from lightningdit_jax.assembly.loading import Loaded, check_kind, load_functional
from lightningdit_jax.config import EvaluateConfig
from lightningdit_jax.data.digits import Digits, digits_to_8x8
from lightningdit_jax.inference.finite import check_finite
from lightningdit_jax.inference.image_batches import local_rows
from lightningdit_jax.inference.quality.digits import digits_judge
from lightningdit_jax.inference.quality.networks import NETWORKS, features_in, names_of
from lightningdit_jax.models.pixels import to_model_range
from lightningdit_jax.parallel.batch_function import jit_batches

# (images uint8 [B, H, W, 3], or two such, as global batches; names of this process's rows) -> rows
Rows = Callable[..., np.ndarray]


@dataclasses.dataclass(frozen=True)
class Judges:
    """What is there to judge with.

    distance(images, others, names): LPIPS of each pair, [b]. features(images, names): [b, D], which
    Fréchet distances are of. prefix: of the names of such distances. others: as features, those of
    evaluate.networks, by the name of the distance of reconstructions. identities(): which networks
    these are. All but it raise FloatingPointError naming images whose outputs are not finite.
    """

    distance: Rows | None = None
    features: Rows | None = None
    prefix: str = ""
    others: Mapping[str, Rows] = dataclasses.field(default_factory=dict)
    identities: Callable[[], dict[str, Any]] = dict

    def of_digits(self, class_names: Sequence[str], resolution: int) -> "Judges":
        """With the features of the digits' classifier, where there are no others and it can judge.

        class_names, resolution: of the images, which have to be the ten digits and a multiple of 8.
        """
        is_judge = tuple(class_names) == Digits.class_names and resolution % 8 == 0
        if self.features is not None or not is_judge:
            return self
        return dataclasses.replace(self, features=_of_digits, prefix="digits_")


def check_judges(options: EvaluateConfig) -> None:
    """Raises ValueError or FileNotFoundError unless open_judges can load them; reads no array.

    For a checkpoint that is missing or of another kind, for two of one network, and for one that
    only samples are judged by.
    """
    for path, kind in ((options.lpips, "lpips"), (options.inception, "inception")):
        if path:
            check_kind(path, kind)
    for name, path in names_of(options.networks).items():
        if NETWORKS[name].is_of_cmmd:
            raise ValueError(
                f"config.evaluate.networks has {path}, a network of CMMD, which is of samples "
                "and not of reconstructions; leave it out"
            )


def open_judges(options: EvaluateConfig, mesh: Mesh) -> Judges:
    """The converted checkpoints of evaluate.lpips, evaluate.inception and evaluate.networks.

    Which check_judges has looked at.
    """
    networks: dict[str, tuple[str, Loaded]] = {}

    def opened(name: str, path: str, kind: str, function: Callable) -> Rows:
        loaded = load_functional(path, mesh, expect=kind)
        networks[name] = (path, loaded)
        return _rows_of(name, loaded, function, mesh)

    distance = features = None
    if options.lpips:
        distance = opened(
            "LPIPS",
            options.lpips,
            "lpips",
            lambda model, a, b: model(to_model_range(a), to_model_range(b)),
        )
    if options.inception:
        features = opened("Inception", options.inception, "inception", features_in("inception"))
    others = {}
    for name, path in names_of(options.networks).items():
        others[f"fd_{name}"] = opened(name, path, NETWORKS[name].kind, features_in(name))
    return Judges(
        distance,
        features,
        others=others,
        identities=lambda: {
            name: weights_identity(path, network) for name, (path, network) in networks.items()
        },
    )


def _rows_of(name: str, loaded: Loaded, function: Callable, mesh: Mesh) -> Rows:
    """function(model, *images), whose rows of this process are returned once they are finite."""
    compiled = _compiled(loaded, function, mesh)

    def rows(*arguments: Any) -> np.ndarray:
        *images, names = arguments
        found = local_rows(compiled(*images), len(names))
        finite = np.isfinite(found).all(axis=tuple(range(1, found.ndim)))
        weights = {name: loaded.params}
        check_finite(finite, names, f"the outputs of {name}", weights, "look at the checkpoint")
        return found

    return rows


def _compiled(loaded: Loaded, function: Callable, mesh: Mesh) -> Callable:
    """function(model, *images) as compiled for batches of images, the model's weights given."""

    def run(params: Any, *images: jax.Array) -> jax.Array:
        return function(nnx.merge(loaded.graphdef, params), *images)

    program = jit_batches(run, mesh)
    return lambda *images: program(loaded.params, *images)


def _of_digits(images: jax.Array, names: Sequence[str]) -> np.ndarray:
    rows = local_rows(images, len(names))
    return digits_judge().features(digits_to_8x8(rows)) if len(rows) else np.zeros((0, 45))
