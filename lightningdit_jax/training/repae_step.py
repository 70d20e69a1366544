"""The train step of a generator and its tokenizer, held together by the alignment: REPA-E.

Leng et al. 2025, arXiv 2504.10483: the loss of the flow stops at the latents, which it would
otherwise make easy to generate and poor; the alignment of the generator's tokens goes through them
into the tokenizer.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from lightningdit_jax.assembly.alignment import foundation_normalization
from lightningdit_jax.assembly.models import tokenizer_config
from lightningdit_jax.config import Config
from lightningdit_jax.flow.paths import get_path
from lightningdit_jax.models.foundation_features import foundation_features
from lightningdit_jax.models.pixels import to_model_range
from lightningdit_jax.training.companions import LATENT_NORM, TOKENIZER
from lightningdit_jax.training.dit_step import MODEL, Metrics, loss_of_config, make_draws
from lightningdit_jax.training.frozen import FOUNDATION, LPIPS
from lightningdit_jax.training.repa import PROJECTOR, Alignment
from lightningdit_jax.training.schedules import make_schedule
from lightningdit_jax.training.state import TrainState
from lightningdit_jax.training.update import apply_to_all
from lightningdit_jax.training.vae_step import Networks, make_vae_gradients

TEACHER = "teacher"  # among the frozen networks, the one that tokens are aligned with


@dataclasses.dataclass(frozen=True)
class TokenizerPart:
    """What a step needs to know of the tokenizer: structures, without arrays.

    graphdef: its own; latent_norm: of models.latent_norm; networks: as of make_vae_gradients.
    """

    graphdef: nnx.GraphDef
    latent_norm: nnx.GraphDef
    networks: Networks

    def normalize(self, stats: Any, z: jax.Array, *, train: bool) -> tuple[jax.Array, Any]:
        """Latents as the generator sees them, and the statistics afterwards."""
        norm = nnx.merge(self.latent_norm, stats)
        x = norm(z, train=train)
        return x, nnx.to_pure_dict(nnx.state(norm, nnx.BatchStat))


def given_features(alignment: Alignment) -> Alignment:
    """The alignment with features as it is shown them: they are computed once for several uses."""
    return dataclasses.replace(alignment, teacher=None)


def features_of(alignment: Alignment, frozen: Mapping[str, Any], images: jax.Array) -> jax.Array:
    """What that is shown of images [B, H, W, 3] uint8: [B, D, h, w], as cached ones are stored."""
    assert alignment.teacher is not None  # as check_repae has it
    return jnp.moveaxis(alignment.teacher(frozen[TEACHER], images), -1, 1)


def make_token_alignment(
    graphdef: nnx.GraphDef, config: Config, alignment: Alignment
) -> Callable[..., jax.Array]:
    """loss(params, x1, x0, t, y, shown) -> [B]: "repa_loss" of make_dit_losses alone.

    Of the blocks up to repa.depth, the only ones that are computed. alignment: of given_features.
    """
    path = get_path(config.flow.path)

    def loss(
        params: Any,
        x1: jax.Array,
        x0: jax.Array,
        t: jax.Array,
        y: jax.Array,
        shown: jax.Array,
    ) -> jax.Array:
        model = nnx.merge(graphdef, params[MODEL])
        tokens = model.tokens_after(path.interpolate(x0, x1, t), t, y, config.repa.depth)
        return alignment.losses(params[PROJECTOR], tokens, shown, None)

    return loss


def make_repae_step(
    graphdef: nnx.GraphDef,
    config: Config,
    optimizer: optax.GradientTransformation,
    *,
    alignment: Alignment,
    tokenizer: TokenizerPart,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """step(state, batch, frozen) -> (state, metrics).

    batch: images [B, H, W, 3] uint8, labels [B]; frozen: parameters of TEACHER, and of LPIPS and
    FOUNDATION where the tokenizer's loss has them. All gradients are taken at the weights before
    the step, of one posterior sample, one noise and one time an image.

    The tokenizer's loss is its own and repae.weight times the alignment, of latents normalized by
    the running statistics, with every label. The generator's is that of make_dit_step, of latents
    that are constants, normalized by those of the batch; labels are dropped here alone.
    """
    vae = tokenizer_config(config)
    vae_gradients = make_vae_gradients(tokenizer.graphdef, config, tokenizer.networks)
    given = given_features(alignment)
    loss_fn, draws = loss_of_config(graphdef, config, given), make_draws(config)
    token_alignment = make_token_alignment(graphdef, config, given)
    schedule = make_schedule(config.optimizer, config.train.num_steps)

    def step_fn(
        state: TrainState, batch: dict, frozen: Mapping[str, Any]
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        posterior_key, key = jax.random.split(key)
        rate = schedule(state.step)
        images, labels = to_model_range(batch["images"]), batch["labels"]
        count, height, width, _ = images.shape
        grid = (height // vae.downsample_factor, width // vae.downsample_factor)
        shape = (count, *grid, vae.embed_dim)
        x0, t, y = draws(key, state.step, shape, labels)
        shown = features_of(alignment, frozen, batch["images"])
        features = None
        if FOUNDATION in tokenizer.networks:
            foundation = nnx.merge(tokenizer.networks[FOUNDATION], frozen[FOUNDATION])
            features = foundation_features(
                foundation, images, grid, foundation_normalization(config)
            )
        generator = {MODEL: state.params, PROJECTOR: state.companions[PROJECTOR].params}
        stats = state.companions[LATENT_NORM].stats

        def through_generator(z: jax.Array) -> jax.Array:
            x1, _ = tokenizer.normalize(stats, z, train=False)
            return token_alignment(generator, x1, x0, t, labels, shown).mean()

        found = vae_gradients(
            state.companions[TOKENIZER].params,
            state.companions,
            state.step,
            images,
            jax.random.normal(posterior_key, shape, jnp.float32),
            frozen.get(LPIPS),
            features,
            through_generator,
        )
        z = jax.lax.stop_gradient(found.autoencoder.latents)
        x1, stats = tokenizer.normalize(stats, z, train=True)
        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            generator, x1, x0, t, y, shown
        )
        companions = {
            **found.companions,
            TOKENIZER: found.autoencoder.params,
            PROJECTOR: grads[PROJECTOR],
            LATENT_NORM: {},  # it has statistics alone
        }
        others = optax.tree.norm((found.autoencoder.params, grads[PROJECTOR], stats))
        state, update_metrics = apply_to_all(
            state,
            grads[MODEL],
            loss + found.checked + others,
            optimizer,
            config.train,
            companions,
            {name: {} for name in companions} | found.stats | {LATENT_NORM: stats},
            watched={"loss": loss} if state.spikes else {},
        )
        of_tokenizer = {**found.metrics, "grad_norm_tokenizer": found.norm}
        of_tokenizer["tokenizer_loss"] = of_tokenizer.pop("loss")
        return state, {**metrics, **of_tokenizer, **update_metrics, "learning_rate": rate}

    return step_fn
