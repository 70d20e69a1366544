"""Nearest neighbors by cosine similarity, on the device, among more rows than fit there at once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

# Rows that are compared at once: of 16x16x32 2 GB, so that what is stored is read once for 50,000.
QUERIES, BLOCK = 65_536, 1024

# (start, stop) -> rows start to stop - 1 of the reference, [stop - start, ...]
Rows = Callable[[int, int], np.ndarray]


def nearest_by_cosine(
    queries: np.ndarray,
    reference: Rows,
    count: int,
    k: int = 1,
    own: np.ndarray | None = None,
) -> np.ndarray:
    """Which rows of a reference are most similar to each query, the most similar first.

    queries: [Q, ...]; reference: `count` rows of the same shape. Items are flattened; products are
    float32. own: of queries that are themselves in the reference, their rows, which do not count,
    [Q]. Returns int64 [Q, k]. Raises ValueError where there are fewer than k rows to choose among.
    """
    candidates = count - (own is not None)
    if not 1 <= k <= candidates:
        raise ValueError(f"{k} neighbors are asked for among {candidates}; expected 1 to as many")
    own = np.full(len(queries), -1) if own is None else np.asarray(own)
    found = []
    for start in range(0, len(queries), QUERIES):
        rows = slice(start, start + QUERIES)
        chunk = _unit(_flat(queries[rows]))
        best = jnp.full((len(chunk), k), -jnp.inf, jnp.float32)
        where = jnp.full((len(chunk), k), -1, jnp.int32)
        for first in range(0, count, BLOCK):
            block = _flat(reference(first, min(first + BLOCK, count)))
            mine = jnp.asarray(own[rows], jnp.int32)
            best, where = _merged(best, where, chunk, block, mine, first)
        found.append(np.asarray(where, np.int64))
    return np.concatenate(found) if found else np.zeros((0, k), np.int64)


def neighbor_purity(features: np.ndarray, labels: np.ndarray) -> float:
    """Share whose nearest other one, by the cosine of centered features, has their label. 0 to 1.

    features [N, D], labels [N]. The global semantic quality (GSQ) of Yue et al. 2026, arXiv
    2605.07915, of all classes at once.
    """
    centered = np.asarray(features, np.float64) - np.mean(features, axis=0, dtype=np.float64)
    count = len(centered)
    nearest = nearest_by_cosine(
        centered, lambda start, stop: centered[start:stop], count, own=np.arange(count)
    )[:, 0]
    return float(np.mean(np.asarray(labels)[nearest] == labels))


def _flat(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows, np.float32).reshape(len(rows), -1)


@jax.jit
def _unit(rows_ND: jax.Array) -> jax.Array:
    """Rows of length 1; a row of zeros, which has no direction, stays so."""
    norms = jnp.linalg.norm(rows_ND, axis=1, keepdims=True)
    return rows_ND / jnp.where(norms > 0, norms, 1)


@jax.jit
def _merged(
    best_QK: jax.Array,
    where_QK: jax.Array,
    queries_QD: jax.Array,
    block_BD: jax.Array,
    own_Q: jax.Array,
    first: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The k most similar so far, and where, with another block that begins at row `first`."""
    highest = jax.lax.Precision.HIGHEST  # less would choose other neighbors on other chips
    similarity_QB = jnp.matmul(queries_QD, _unit(block_BD).T, precision=highest)
    places_B = first + jnp.arange(len(block_BD), dtype=jnp.int32)
    similarity_QB = jnp.where(places_B == own_Q[:, None], -jnp.inf, similarity_QB)
    places_QB = jnp.broadcast_to(places_B, similarity_QB.shape)
    every = jnp.concatenate([best_QK, similarity_QB], axis=1)
    best, chosen = jax.lax.top_k(every, best_QK.shape[1])
    both = jnp.concatenate([where_QK, places_QB], axis=1)
    return best, jnp.take_along_axis(both, chosen, axis=1)
