"""The losses of a generator and its tokenizer on held-out images (REPA-E)."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from lightningdit_jax.config import Config
from lightningdit_jax.flow.draws import draw_samples
from lightningdit_jax.models.pixels import to_model_range
from lightningdit_jax.training.companions import LATENT_NORM, TOKENIZER
from lightningdit_jax.training.dit_held_out import held_out_columns, make_held_out_terms
from lightningdit_jax.training.held_out import INDEX, SEED, Losses
from lightningdit_jax.training.repa import SHOWN, Alignment
from lightningdit_jax.training.repae_step import TokenizerPart, features_of, given_features
from lightningdit_jax.training.state import TrainState
from lightningdit_jax.training.vae_held_out import make_vae_held_out


def make_repae_held_out(
    graphdef: nnx.GraphDef, config: Config, *, alignment: Alignment, tokenizer: TokenizerPart
) -> Losses:
    """The terms of make_dit_held_out, of posterior samples with noise by index, and a tokenizer's.

    Latents are normalized by the running statistics. The tokenizer's terms are those of
    make_vae_held_out; it has one set of weights, so they are the same beside every average.
    """
    terms = make_held_out_terms(graphdef, config, given_features(alignment))
    of_tokenizer = make_vae_held_out(tokenizer.graphdef, config, networks=tokenizer.networks)

    def rows(
        params: Any, state: TrainState, batch: dict, frozen: Mapping[str, Any]
    ) -> dict[str, jax.Array]:
        weights = state.companions[TOKENIZER].params
        posterior = nnx.merge(tokenizer.graphdef, weights).encode(to_model_range(batch["images"]))
        noise = draw_samples(jax.random.normal, SEED, batch[INDEX], posterior.mean.shape[1:])
        z = posterior.mean + posterior.std * noise
        x1, _ = tokenizer.normalize(state.companions[LATENT_NORM].stats, z, train=False)
        batch = {**batch, SHOWN: features_of(alignment, frozen, batch["images"])}
        return of_tokenizer.rows(weights, state, batch, frozen) | terms(params, state, x1, batch)

    return Losses(rows, lambda indices: held_out_columns(config, indices))
