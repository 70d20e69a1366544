"""The networks that judge what a tokenizer decodes."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from lightningdit_jax.assembly.identity import weights_identity
from lightningdit_jax.assembly.loading import Loaded, load_functional
from lightningdit_jax.data.digits import Digits, digits_to_8x8
from lightningdit_jax.inference.finite import check_finite
from lightningdit_jax.inference.image_batches import local_rows
from lightningdit_jax.inference.quality.digits import digits_judge
from lightningdit_jax.models.pixels import to_model_range
from lightningdit_jax.parallel.batch_function import jit_batches

# (images uint8 [B, H, W, 3], or two such, as global batches; names of this process's rows) -> rows
Rows = Callable[..., np.ndarray]


@dataclasses.dataclass(frozen=True)
class Networks:
    """What is there to judge with.

    distance(images, others, names): LPIPS of each pair, [b]. features(images, names): [b, D], which
    Fréchet distances are of. prefix: of the names of such distances. identities(): which networks
    these are. The first two raise FloatingPointError naming images whose outputs are not finite.
    """

    distance: Rows | None = None
    features: Rows | None = None
    prefix: str = ""
    identities: Callable[[], dict[str, Any]] = dict

    def of_digits(self, class_names: Sequence[str], resolution: int) -> "Networks":
        """With the features of the digits' classifier, where there are no others and it can judge.

        class_names, resolution: of the images, which have to be the ten digits and a multiple of 8.
        """
        is_judge = tuple(class_names) == Digits.class_names and resolution % 8 == 0
        if self.features is not None or not is_judge:
            return self
        return dataclasses.replace(self, features=_of_digits, prefix="digits_")


def open_networks(lpips: str, inception: str, mesh: Mesh) -> Networks:
    """Converted checkpoints of LPIPS and Inception; "" is none."""
    networks: dict[str, Loaded] = {}
    paths = {"LPIPS": lpips, "Inception": inception}
    distance = features = None
    if lpips:
        networks["LPIPS"] = load_functional(lpips, mesh, expect="lpips")
        distance = _rows_of(
            "LPIPS",
            networks["LPIPS"],
            lambda model, a, b: model(to_model_range(a), to_model_range(b)),
            mesh,
        )
    if inception:
        networks["Inception"] = load_functional(inception, mesh, expect="inception")
        features = _rows_of(
            "Inception", networks["Inception"], lambda model, images: model(images).pool, mesh
        )
    return Networks(
        distance,
        features,
        identities=lambda: {
            name: weights_identity(paths[name], network) for name, network in networks.items()
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
