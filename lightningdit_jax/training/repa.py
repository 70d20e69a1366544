"""REPA: tokens within the generator, aligned with the patch features of a frozen vision model.

Yu et al. 2024 (arXiv 2410.06940), and what Singh et al. 2025 (iREPA, arXiv 2512.10794) change.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax import nnx
from jax.sharding import Mesh

from lightningdit_jax.assembly.loading import (
    Loaded,
    abstract_functional,
    abstract_network,
    load_functional,
)
from lightningdit_jax.assembly.models import generator_config
from lightningdit_jax.assembly.teacher import FEATURES, make_teacher, open_teacher
from lightningdit_jax.config import Config, RepaConfig
from lightningdit_jax.data.latents_record import RECORD, read_record
from lightningdit_jax.flow.losses import cosine_similarity
from lightningdit_jax.models.matmul_flops import matmul_flops
from lightningdit_jax.models.projector import Projector, ProjectorConfig
from lightningdit_jax.models.vit_config import DINOV2_BASE

# Of a batch what the features are, or are computed of; and the network trained beside the model.
SHOWN, PROJECTOR = "shown", "repa_projector"
NONE, CACHED = "none", "cached"
# Of REPA and REPA-E: the network that is meant where a step is compiled without a checkpoint.
PUBLISHED = ("dinov2", DINOV2_BASE)
_EPS = 1e-6  # beside the deviation, as in the authors' code


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Where features come from: of cached ones what their record says, else the network.

    width: of a feature; identity: of the weights they are of, "" where only shapes are known.
    """

    width: int
    identity: str
    network: Loaded | None


def features_folder(config: Config) -> str:
    """Where cached features are."""
    return config.repa.path or str(epath.Path(config.data.path) / FEATURES)


def check_repa(config: Config) -> None:
    """Raises ValueError and FileNotFoundError for keys that lead to no features, or no block.

    Reads a record at most.
    """
    _check_depth(config)
    if config.repa.features == CACHED:
        cached_teacher(config)
    elif not config.frozen.foundation:
        raise ValueError(
            "config.frozen.foundation is empty, but config.repa.features is 'computed'; set it to "
            "a checkpoint of a vision model (convert_torch_weights.py makes them of published "
            "weights)"
        )


def _check_depth(config: Config) -> None:
    depth = generator_config(config).depth
    if config.repa.depth > depth:
        raise ValueError(
            f"config.repa.depth is {config.repa.depth}; expected the number of a block, at most "
            f"depth={depth}"
        )


def abstract_teacher(config: Config, mesh: Mesh) -> Teacher | None:
    """The teacher without its weights; None where repa.features is "none".

    Where frozen.foundation is empty, the published one. Raises as check_repa and open_teacher.
    """
    if config.repa.features == NONE:
        return None
    if config.repa.features == CACHED or config.frozen.foundation:
        return _teacher(config, abstract_functional, mesh)
    _check_depth(config)
    network = abstract_network(*PUBLISHED, mesh, config.compute)
    return Teacher(network.config.hidden_size, "", network)


def teacher_of(config: Config, mesh: Mesh) -> Teacher | None:
    """The same with its weights, which have to be there. All processes must call it."""
    if config.repa.features == NONE:
        return None
    teacher = _teacher(config, load_functional, mesh)
    if teacher.network is None:
        return teacher
    return dataclasses.replace(teacher, identity=teacher.network.fingerprint)


def _teacher(config: Config, load: Callable[..., Loaded], mesh: Mesh) -> Teacher:
    check_repa(config)
    if config.repa.features == CACHED:
        return cached_teacher(config)
    path = config.frozen.foundation
    network = open_teacher(load, path, "frozen.foundation", mesh, config.compute)
    return Teacher(network.config.hidden_size, "", network)


def cached_teacher(config: Config) -> Teacher:
    """What the record of the cached features says. Raises as check_repa."""
    folder = epath.Path(features_folder(config))
    record = read_record(folder) if folder.is_dir() else None
    made, size = ((record or {}).get(key) for key in ("foundation", "features"))
    if not isinstance(made, dict) or not isinstance(size, dict):
        raise FileNotFoundError(
            f"{folder} holds no features with their {RECORD}, but config.repa.features is "
            "'cached'; write them beside the latents with --mode=extract and "
            "config.extract.features, or set config.repa.path to where they are"
        )
    grid, wanted = size["grid"], generator_config(config).grid
    if grid != wanted:
        raise ValueError(
            f"{folder} holds features of {grid}x{grid} patches, but the model has "
            f"{wanted}x{wanted} tokens; extract them with config.extract.features_grid={wanted}"
        )
    return Teacher(size["width"], made["fingerprint"], None)


def projector_config(config: Config, teacher: Teacher) -> ProjectorConfig:
    """The projector's architecture."""
    kind, width = config.repa.projector, generator_config(config).hidden_size
    hidden = config.repa.projector_dim if kind == "mlp" else 0
    return ProjectorConfig(width, teacher.width, kind, hidden)


@dataclasses.dataclass(frozen=True)
class Alignment:
    """What a generator's loss asks of REPA. graphdef: of the projector; teacher: see make_teacher.

    teacher is None where a batch brings the features.
    """

    config: RepaConfig
    graphdef: nnx.GraphDef
    teacher: Callable[[Any, jax.Array], jax.Array] | None

    def losses(self, projector: Any, tokens: jax.Array, shown: jax.Array, frozen: Any) -> jax.Array:
        """[B]: minus the mean cosine similarity of projected tokens and features.

        projector, frozen: parameters of it and of the teacher; tokens: [B, N, D] after block
        repa.depth; shown: images [B, H, W, 3] uint8, or features [B, D', h, w] as stored.
        """
        if self.teacher is None:
            features = jnp.moveaxis(shown, 1, -1).astype(jnp.float32)
        else:
            features = self.teacher(frozen, shown)
        features = jax.lax.stop_gradient(features).reshape(len(shown), -1, features.shape[-1])
        if self.config.spatial_norm == "zscore":
            features = spatial_zscore(features, self.config.zscore_alpha)
        projected = nnx.merge(self.graphdef, projector)(tokens).astype(jnp.float32)
        return -cosine_similarity(projected, features).mean(axis=1)


def make_alignment(config: Config, teacher: Teacher) -> Alignment:
    """The loss's part, without arrays."""
    architecture = projector_config(config, teacher)
    graphdef = nnx.graphdef(
        nnx.eval_shape(lambda: build_projector(config, architecture, nnx.Rngs(0)))
    )
    network = teacher.network
    features = None
    if network is not None:
        features = make_teacher(network, generator_config(config).grid)
    return Alignment(config.repa, graphdef, features)


def build_projector(config: Config, architecture: ProjectorConfig, rngs: nnx.Rngs) -> Projector:
    """A fresh one, whose products are in the config's type."""
    return Projector(architecture, dtype=jnp.dtype(config.compute.dtype), rngs=rngs)


def shown_example(config: Config, teacher: Teacher) -> jax.ShapeDtypeStruct:
    """What the loss is shown of one image: its features, or 16 pixels a patch of it."""
    grid = generator_config(config).grid
    if teacher.network is None:
        return jax.ShapeDtypeStruct((teacher.width, grid, grid), jnp.float16)
    return jax.ShapeDtypeStruct((16 * grid, 16 * grid, 3), jnp.uint8)


def repa_step_flops(config: Config, teacher: Teacher) -> float:
    """Matmul FLOPs that it adds to a train step per image: projector, and teacher in the loop.

    Two per multiply-add, and of what is trained three times a forward pass.
    """
    architecture, alignment = projector_config(config, teacher), make_alignment(config, teacher)
    abstract = nnx.eval_shape(lambda: build_projector(config, architecture, nnx.Rngs(0)))
    graphdef, params = nnx.split(abstract)
    tokens = (1, generator_config(config).grid ** 2, architecture.in_features)
    flops = 3 * matmul_flops(
        lambda p, x: nnx.merge(graphdef, p)(x), params, jax.ShapeDtypeStruct(tokens, jnp.float32)
    )
    if alignment.teacher is not None and teacher.network is not None:
        image = shown_example(config, teacher)
        image = jax.ShapeDtypeStruct((1, *image.shape), image.dtype)
        flops += matmul_flops(alignment.teacher, teacher.network.params, image)
    return flops


def spatial_zscore(features: jax.Array, alpha: float) -> jax.Array:
    """iREPA's spatial normalization, over the patches of an image. [B, N, D] -> [B, N, D].

    (x - alpha mean) / (deviation + 1e-6) a channel, with the unbiased deviation; arXiv 2512.10794,
    sec. 4, as its code has it. A part of the mean, which all patches share, is left by alpha < 1.
    """
    mean = features.mean(axis=1, keepdims=True)
    return (features - alpha * mean) / (features.std(axis=1, keepdims=True, ddof=1) + _EPS)
