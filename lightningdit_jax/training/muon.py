"""Muon for a generator: the momentum of its matrices orthogonalized, all else moved by Adam.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon). Which parameters are matrices, and which
axes of a kernel are one, stands here by their names in models/lightningdit.py.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from lightningdit_jax.config import OptimizerConfig
from lightningdit_jax.parallel.matrix_rounds import deals, map_matrices
from lightningdit_jax.training.newton_schulz import orthogonalization_flops, orthogonalize
from lightningdit_jax.tree_paths import map_named, named_leaves

Axes = tuple[int, ...]
Rate = float | jax.Array


@dataclasses.dataclass(frozen=True)
class Matrices:
    """Axes of an array that count matrices, and those that are their inputs and outputs."""

    stack: Axes
    inputs: Axes
    outputs: Axes

    def size(self, shape: Sequence[int]) -> tuple[int, int]:
        """(inputs, outputs) of each."""
        return _size(shape, self.inputs), _size(shape, self.outputs)


# Each of q, k, v, gate and value of each block by itself.
_IN_BLOCKS = {
    "blocks/attn/qkv/kernel": Matrices((0, 2), (1,), (3, 4)),  # [L, D, 3, H, hd]
    "blocks/attn/proj/kernel": Matrices((0,), (1, 2), (3,)),  # [L, H, hd, D]
    "blocks/mlp/w12/kernel": Matrices((0, 2), (1,), (3,)),  # [L, D, 2, F]
    "blocks/mlp/w3/kernel": Matrices((0,), (1,), (2,)),  # [L, F, D]
    "blocks/mlp/fc1/kernel": Matrices((0,), (1,), (2,)),  # [L, D, F]
    "blocks/mlp/fc2/kernel": Matrices((0,), (1,), (2,)),  # [L, F, D]
}


def _in_blocks(name: str, ndim: int) -> Matrices | None:
    return _IN_BLOCKS.get(name)


def _all_of_two_axes(name: str, ndim: int) -> Matrices | None:
    """See muon_all. Labels count as outputs of their embedding, as there."""
    last, stacked = name.rpartition("/")[2], name.startswith("blocks/")
    if last in ("embedding", "pos_embed"):
        return Matrices((), (1,), (0,))
    if last != "kernel":
        return None
    inputs: tuple[int, ...] = (
        (1, 2) if name == "blocks/attn/proj/kernel" else (1,) if stacked else (0,)
    )
    if name == "conv/kernel":  # a projector's [kh, kw, in, out]
        inputs = (0, 1, 2)
    return Matrices((0,) if stacked else (), inputs, tuple(range(inputs[-1] + 1, ndim)))


# By the name of an optimizer, what of the name and the number of axes of a parameter are matrices.
_MATRICES: dict[str, Callable[[str, int], Matrices | None]] = {
    "muon": _in_blocks,
    "muon_all": _all_of_two_axes,
}


def muon(config: OptimizerConfig, rate: Rate, params: Any) -> optax.GradientTransformation:
    """Muon on the kernels of attention and MLP in the blocks, each matrix by itself.

    Adam moves embeddings, norms, biases, modulation and final layers, and all of a projector beside
    the generator (REPA), which is a head as those are. An update of a matrix is as
    large as Adam's, 0.2 sqrt(max(inputs, outputs)) times the orthogonal one, so that both go by one
    rate (Liu et al. 2025, arXiv 2502.16982, sec. 2.2). Else as muon_all.
    """

    def scale(inputs: int, outputs: int) -> float:
        return 0.2 * math.sqrt(max(inputs, outputs))

    return _muon(config, rate, params, scale)


def muon_all(config: OptimizerConfig, rate: Rate, params: Any) -> optax.GradientTransformation:
    """Muon as the code of internal guidance has it (Zhou et al. 2025, arXiv 2512.24176).

    github.com/CVL-UESTC/Internal-Guidance, LightningDiT/muon_new.py and train.py:117-131: on every
    parameter of two axes or more, so on embeddings, time MLP, modulation and final layers too, and
    on a projector's kernels, a convolution's with all its inputs as rows; with the fused kernels
    whole, q beside k beside v. Its factor is both 0.2 sqrt(max(inputs, outputs)) and
    sqrt(max(1, outputs / inputs)). Nesterov's momentum is an average with optimizer.momentum;
    five steps in bfloat16 orthogonalize it; weight decay is decoupled, times the rate without the
    factor. Adam, without decay, moves biases and norms. The decay reaches pos_embed as there, which
    has no gradient: at the published rate and decay a thousandth of it is left after 680 epochs,
    unless optimizer.freeze names it.
    """

    def scale(inputs: int, outputs: int) -> float:
        return 0.2 * math.sqrt(max(inputs, outputs)) * math.sqrt(max(1.0, outputs / inputs))

    return _muon(config, rate, params, scale)


def update_flops(name: str, params: Any, num_devices: int) -> float:
    """FLOPs of each device in a step that an optimizer of this name orthogonalizes by, often 0.

    params: arrays or ShapeDtypeStructs.
    """
    if name not in _MATRICES:
        return 0.0
    leaves, shapes = dict(named_leaves(params)), []
    for leaf, matrices in _matrices(name, params).items():
        shape = leaves[leaf].shape
        rows, cols = sorted(matrices.size(shape))
        shapes.append((_size(shape, matrices.stack), rows, cols))
    return sum(
        deal.rounds * orthogonalization_flops(deal.rows, deal.cols)
        for deal in deals(shapes, num_devices)
    )


def _matrices(optimizer: str, params: Any) -> dict[str, Matrices]:
    """By name of the parameter."""
    choose = _MATRICES[optimizer]
    found = {name: choose(name, leaf.ndim) for name, leaf in named_leaves(params)}
    return {name: matrices for name, matrices in found.items() if matrices is not None}


def _muon(
    config: OptimizerConfig,
    rate: Rate,
    params: Any,
    scale: Callable[[int, int], float],
) -> optax.GradientTransformation:
    """Raises ValueError for a tokenizer's parameters."""
    if "encoder" in params:
        raise ValueError(
            f"config.optimizer.name is '{config.name}', which knows the matrices of a generator "
            "alone; expected 'adamw' or 'lion' for the training of a tokenizer"
        )
    matrices = _matrices(config.name, params)
    sharding = jax.tree.leaves(params)[0].sharding
    mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
    labels = map_named(lambda name, _: "matrices" if name in matrices else "others", params)
    by_muon = optax.chain(
        _orthogonal_momentum(config.momentum, matrices, scale, mesh),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(rate),
    )
    adam = optax.adam(rate, b1=config.beta1, b2=config.beta2, eps=config.eps)
    return optax.multi_transform({"matrices": by_muon, "others": adam}, labels)


def _orthogonal_momentum(
    momentum: float,
    matrices: Mapping[str, Matrices],
    scale: Callable[[int, int], float],
    mesh: Mesh | AbstractMesh | None,
) -> optax.GradientTransformation:
    """From gradients to what the weights move along; its state is the momentum alone."""

    def init(params: Any) -> optax.TraceState:
        return optax.TraceState(trace=optax.tree.zeros_like(params))

    def update(grads: Any, state: optax.TraceState, params: Any = None) -> tuple[Any, Any]:
        del params
        trace = jax.tree.map(lambda m, g: momentum * m + (1 - momentum) * g, state.trace, grads)
        ahead = jax.tree.map(lambda m, g: momentum * m + (1 - momentum) * g, trace, grads)
        leaves = dict(named_leaves(ahead))
        stacks = [_to_stack(leaf, matrices[name]) for name, leaf in leaves.items()]
        found = dict(zip(leaves, map_matrices(orthogonalize, stacks, mesh), strict=True))

        def back(name: str, leaf: jax.Array) -> jax.Array:
            update = _from_stack(found[name], leaf.shape, matrices[name])
            return scale(*matrices[name].size(leaf.shape)) * update.astype(leaf.dtype)

        return map_named(back, ahead), optax.TraceState(trace=trace)

    return optax.GradientTransformation(init, update)


def _to_stack(leaf: jax.Array, matrices: Matrices) -> jax.Array:
    """[S, R, C] in bfloat16, R at most C."""
    order = _order(leaf.shape, matrices)
    rows, cols = sorted(matrices.size(leaf.shape))
    return leaf.astype(jnp.bfloat16).transpose(order).reshape(-1, rows, cols)


def _from_stack(stack: jax.Array, shape: Sequence[int], matrices: Matrices) -> jax.Array:
    """The inverse of _to_stack, for an array of some shape."""
    order = _order(shape, matrices)
    return stack.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))


def _order(shape: Sequence[int], matrices: Matrices) -> Axes:
    """Stack, rows, columns. Of square ones the width, which "fsdp" cuts, is rows.

    It is the last axis of what ends in it and has inputs of several axes, else the first.
    """
    inputs, outputs = matrices.size(shape)
    turned = outputs < inputs or (outputs == inputs and len(matrices.inputs) > 1)
    first, second = matrices.inputs, matrices.outputs
    return (*matrices.stack, *(second + first if turned else first + second))


def _size(shape: Sequence[int], axes: Axes) -> int:
    return math.prod(shape[axis] for axis in axes)
