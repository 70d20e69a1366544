"""Softmax attention with rotary embedding as one kernel for TPUs, written in Pallas.

What XLA makes of models.attention writes weights of all heads, [B, H, N, N], to memory and reads
them again; here they stay on the chip, as in Dao et al. 2022 (arXiv 2205.14135). The kernel takes
an image with all its heads at a time. Channels of the heads lie side by side, as products write
them, and zeros beside a head's channels cut it out: a head of 72 that straddles two columns of 128
costs a second pass of the matrix units, and moving its channels would cost as much.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lightningdit_jax.models.embeddings import rotary_tables

FORWARD, BACKWARD = "attention_forward", "attention_backward"  # names of the kernels
_COLUMN = 128  # lanes of a register
_ROWS = 16  # of bfloat16, a register's
MAX_TOKENS = 256  # the code of the kernel grows with the square
_LOG2_E = 1.4426950408889634
VMEM_BYTES = 48 * 2**20
# Of vector memory for each channel of a token, as compiled: the images before and after, tables.
_CHANNEL_BYTES = 56

# shard(kernel, in_axes, out_axes): the kernel on each device's images and heads. Of each argument
# and result the names of its axes: "images", "heads" or None.
Axes = tuple[str | None, ...]
Kernel = Callable[..., Any]
Shard = Callable[[Kernel, tuple[Axes, ...], tuple[Axes, ...]], Kernel]
_TOKENS: Axes = ("images", None, "heads")
_SUMS: Axes = ("images", "heads", None)


def kernel_takes(
    num_tokens: int, num_heads: int, head_dim: int, vmem_bytes: int = VMEM_BYTES
) -> bool:
    """Whether the kernel takes heads of these sizes, so many of them on a device.

    vmem_bytes: of vector memory that it may use there.
    """
    return (
        num_tokens % _ROWS == 0
        and num_tokens <= MAX_TOKENS
        and head_dim % 2 == 0
        and head_dim <= _COLUMN
        and num_heads * head_dim % _COLUMN == 0
        and _CHANNEL_BYTES * num_tokens * num_heads * head_dim <= vmem_bytes
    )


def unsharded(kernel: Kernel, in_axes: tuple[Axes, ...], out_axes: tuple[Axes, ...]) -> Kernel:
    """The Shard of a program for one device."""
    return kernel


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def pallas_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array,
    head_dim: int,
    grid: int | None,
    shard: Shard,
) -> jax.Array:
    """softmax(R q (R k)^T / sqrt(hd)) v of each head, of q, k and v plus their rows of bias.

    q, k, v: [B, N, H hd] bfloat16 -> the same; bias: [3, H hd]. grid: side of the grid of tokens,
    for their rotary embedding R (embeddings.apply_rotary); None is without. Logits and softmax are
    float32. Raises ValueError for sizes that it does not take.
    """
    return _forward(q, k, v, bias, head_dim, grid, shard)[0]


def _forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array,
    head_dim: int,
    grid: int | None,
    shard: Shard,
) -> tuple[jax.Array, Any]:
    kernel = functools.partial(_forward_kernel, head_dim, grid)
    run = shard(kernel, (_TOKENS, _TOKENS, _TOKENS, (None, "heads")), (_TOKENS, _SUMS))
    # Named, both, or the backward pass would compute them again.
    out, log_sum = (checkpoint_name(x, "attention") for x in run(q, k, v, bias))
    return out, (q, k, v, bias, log_sum)


def _backward(
    head_dim: int, grid: int | None, shard: Shard, kept: Any, grad: jax.Array
) -> tuple[jax.Array, ...]:
    *_, bias, _ = kept
    kernel = functools.partial(_backward_kernel, head_dim, grid)
    in_axes = (_TOKENS, _TOKENS, _TOKENS, (None, "heads"), _SUMS, _TOKENS)
    *grads, grad_bias = shard(kernel, in_axes, (_TOKENS,) * 4)(*kept, grad)
    return *grads, grad_bias.sum(axis=0).astype(bias.dtype)


pallas_attention.defvjp(_forward, _backward)


def _forward_kernel(
    head_dim: int,
    grid: int | None,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Attention, and the logarithms (base 2) of its sums. -> [B, N, H hd], [B, H, N] float32."""
    images, tokens, _ = q.shape
    num_heads, scale = _num_heads(q, head_dim), head_dim**-0.5 * _LOG2_E

    def body(inputs, out, log_sum):
        q, k, v = inputs.prepared()
        lane = jax.lax.broadcasted_iota(jnp.int32, (tokens, _COLUMN), 1)
        sums = jnp.zeros((tokens, _COLUMN), jnp.float32)
        outputs = _Columns(head_dim, out.at[0])
        for head in range(num_heads):
            logits = _with_transposed(q[:, _columns(head, head_dim)], _alone(k, head, head_dim))
            largest = logits.max(axis=1, keepdims=True)
            weights = jnp.exp2((logits - largest) * scale)
            total = weights.sum(axis=1, keepdims=True)
            sums = jnp.where(lane == head, largest * scale + jnp.log2(total), sums)
            values = _product(weights.astype(v.dtype), _alone(v, head, head_dim))
            outputs.add(head, values * _reciprocal(total))
        log_sum[0] = sums.T[:num_heads]

    results = q, jax.ShapeDtypeStruct((images, num_heads, tokens), jnp.float32)
    return _call(body, FORWARD, 2, head_dim, grid, (q, k, v), bias, (), results)


def _backward_kernel(
    head_dim: int,
    grid: int | None,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array,
    log_sum: jax.Array,
    grad: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Gradients of q, k and v, and of each image's bias, [B, 3, H hd] float32.

    Weights and their gradients are [keys, queries] here.
    """
    num_heads, scale = _num_heads(q, head_dim), head_dim**-0.5

    def body(inputs, log_sum, grad, grad_q, grad_k, grad_v, grad_bias):
        q, k, v = inputs.prepared()
        grad = grad.at[0]

        def finish(part: int, column: jax.Array, start: int) -> jax.Array:
            column = inputs.turned_back(column, start) if part < 2 else column
            rows = column.astype(jnp.float32).sum(axis=0, keepdims=True)
            grad_bias[0, part : part + 1, start : start + _COLUMN] = rows
            return column

        queries, keys, values = (
            _Columns(head_dim, ref.at[0], functools.partial(finish, part))
            for part, ref in enumerate((grad_q, grad_k, grad_v))
        )
        for head in range(num_heads):
            columns = _columns(head, head_dim)
            query, key, grad_out = (_alone(x, head, head_dim) for x in (q, k, grad))
            logits = _with_transposed(k[:, columns], query)
            weights = jnp.exp2(logits * (scale * _LOG2_E) - log_sum[0, head : head + 1])
            values.add(head, _product(weights.astype(v.dtype), grad_out))
            weighted = weights * _with_transposed(v[:, columns], grad_out)
            grad_logits = weighted - weights * weighted.sum(axis=0, keepdims=True)
            grad_logits = (grad_logits * scale).astype(v.dtype)
            keys.add(head, _product(grad_logits, query))
            queries.add(head, _transposed_with(grad_logits, key))

    images, _, width = q.shape
    results = q, k, v, jax.ShapeDtypeStruct((images, 3, width), jnp.float32)
    return _call(body, BACKWARD, 5, head_dim, grid, (q, k, v), bias, (log_sum, grad), results)


def _num_heads(q: jax.Array, head_dim: int) -> int:
    _, tokens, width = q.shape
    if not kernel_takes(tokens, width // head_dim, head_dim) or q.dtype != jnp.bfloat16:
        raise ValueError(
            f"attention in Pallas is asked for {tokens} tokens, {width // head_dim} heads of "
            f"{head_dim} on a device and {q.dtype}; expected bfloat16, at most {MAX_TOKENS} "
            f"tokens, a multiple of {_ROWS}, and heads that together fill columns of {_COLUMN}; "
            "'xla' takes any"
        )
    return width // head_dim


def _call(
    body: Kernel,
    name: str,
    products: int,
    head_dim: int,
    grid: int | None,
    qkv: tuple[jax.Array, ...],
    bias: jax.Array,
    others: tuple[jax.Array, ...],
    results: tuple[Any, ...],
) -> Any:
    """body(inputs, *others, *results), an image at a time, on references to [1, ...].

    products: of [N, N] by [N, hd] and their like, a head.
    """
    images, tokens, width = qkv[0].shape
    tables = () if grid is None else _tables(grid, head_dim, width)
    shared, each = (bias, *tables), (*qkv, *others)

    def kernel(*refs):
        bias, *tables = refs[: len(shared)]
        q, k, v, *others_and_results = refs[len(shared) : -1]
        body(_Inputs((q, k, v), bias, tables, refs[-1]), *others_and_results)

    def image(array: Any) -> pl.BlockSpec:
        return pl.BlockSpec((1, *array.shape[1:]), lambda index: (index, 0, 0))

    def whole(array: Any) -> pl.BlockSpec:
        return pl.BlockSpec(array.shape, lambda index: (0, 0), pipeline_mode=pl.Buffered(1))

    return pl.pallas_call(
        kernel,
        name=name,
        grid=(images,),
        in_specs=[*map(whole, shared), *map(image, each)],
        out_specs=[*map(image, results)],
        out_shape=[jax.ShapeDtypeStruct(array.shape, array.dtype) for array in results],
        scratch_shapes=[pltpu.VMEM((3, tokens, width), qkv[0].dtype)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",),
            vmem_limit_bytes=VMEM_BYTES,
            # What a loop over blocks cuts out of what it kept is cut out here, not copied before.
            allow_input_fusion=[False] * len(shared) + [True] * len(each),
        ),
        cost_estimate=pl.CostEstimate(
            flops=products * 2 * images * tokens**2 * width,
            transcendentals=images * tokens**2 * (width // head_dim),
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in (*each, *results)),
        ),
    )(*shared, *each)


def _tables(grid: int, head_dim: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines, and sines with the signs of a quarter turn, of all heads side by side."""
    cos, sin = rotary_tables(grid, head_dim)
    signs = np.tile(np.asarray([-1, 1], np.float32), head_dim // 2)
    heads = (1, width // head_dim)
    return np.tile(cos, heads), np.tile(sin * signs, heads)


class _Inputs:
    """Queries, keys and values of an image, references to [1, N, H hd], and what is done to them.

    bias: [3, H hd]. tables: cosines and sines [N, H hd], or none. scratch: [3, N, H hd].
    """

    def __init__(self, qkv: Sequence[Any], bias: Any, tables: Sequence[Any], scratch: Any):
        self._qkv, self._bias, self._tables, self._scratch = qkv, bias, tables, scratch

    def prepared(self) -> tuple[Any, ...]:
        """References to them [N, H hd], with their bias, queries and keys turned."""
        for part, x in enumerate(self._qkv):
            for start in range(0, x.shape[2], _COLUMN):
                columns = slice(start, start + _COLUMN)
                bias = self._bias[part : part + 1, columns].astype(jnp.float32)
                column = (x[0, :, columns].astype(jnp.float32) + bias).astype(x.dtype)
                if part < 2 and self._tables:
                    column = self._turn(column, start, 1)
                self._scratch[part, :, columns] = column
        return tuple(self._scratch.at[part] for part in range(3))

    def turned_back(self, grad: jax.Array, start: int) -> jax.Array:
        """A column [N, 128] of a gradient, which begins at a channel."""
        return self._turn(grad.astype(jnp.bfloat16), start, -1) if self._tables else grad

    def _turn(self, x: jax.Array, start: int, direction: int) -> jax.Array:
        cos, sin = (table[:, start : start + _COLUMN] for table in self._tables)
        # Two rows in a word: half as many moves between lanes.
        words = pltpu.bitcast(x, jnp.int32)
        lane = jax.lax.broadcasted_iota(jnp.int32, words.shape, 1)
        right, left = pltpu.roll(words, 1, 1), pltpu.roll(words, _COLUMN - 1, 1)
        swapped = pltpu.bitcast(jnp.where(lane % 2 == 0, left, right), x.dtype)
        turned = swapped.astype(jnp.float32) * (sin * direction)
        return (x.astype(jnp.float32) * cos + turned).astype(x.dtype)


class _Columns:
    """Puts together the results of heads, each with zeros beside it, column by column.

    out: reference to [N, H hd]. finish(column, start) is what is written of a column that begins
    at a channel.
    """

    def __init__(
        self,
        head_dim: int,
        out: Any,
        finish: Callable[[jax.Array, int], jax.Array] = lambda column, start: column,
    ):
        self._head_dim, self._out, self._finish = head_dim, out, finish
        self._begun: dict[int, jax.Array] = {}

    def add(self, head: int, result: jax.Array) -> None:
        """result: float32 [N, of the columns of the head]; heads come in their order."""
        columns, end = _columns(head, self._head_dim), (head + 1) * self._head_dim
        for start in range(columns.start, columns.stop, _COLUMN):
            part = result[:, start - columns.start :][:, :_COLUMN]
            if start in self._begun:
                part += self._begun.pop(start)
            if end < start + _COLUMN:
                self._begun[start] = part
            else:
                done = self._finish(part, start).astype(self._out.dtype)
                self._out[:, start : start + _COLUMN] = done


def _columns(head: int, head_dim: int) -> slice:
    """The whole columns that a head lies in."""
    start, stop = head * head_dim // _COLUMN, -(-(head + 1) * head_dim // _COLUMN)
    return slice(start * _COLUMN, stop * _COLUMN)


def _alone(x: Any, head: int, head_dim: int) -> jax.Array:
    """The columns of a head, with zeros for the channels of others."""
    columns = _columns(head, head_dim)
    part = x[:, columns]
    channel = jax.lax.broadcasted_iota(jnp.int32, part.shape, 1) + columns.start
    mine = (channel >= head * head_dim) & (channel < (head + 1) * head_dim)
    return jnp.where(mine, part, jnp.zeros_like(part))


def _reciprocal(x: jax.Array) -> jax.Array:
    """1 / x, by a step of Newton's from what the hardware gives."""
    guess = pl.reciprocal(x, approx=True)
    return guess * (2 - x * guess)


def _dot(x: jax.Array, y: jax.Array, axes: tuple[int, int]) -> jax.Array:
    # Whatever jax_default_matmul_precision is: Mosaic refuses others for bfloat16.
    return jax.lax.dot_general(
        x,
        y,
        (((axes[0],), (axes[1],)), ((), ())),
        precision=jax.lax.Precision.DEFAULT,
        preferred_element_type=jnp.float32,
    )


_product = functools.partial(_dot, axes=(1, 0))
_with_transposed = functools.partial(_dot, axes=(1, 1))
_transposed_with = functools.partial(_dot, axes=(0, 0))
