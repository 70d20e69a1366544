"""The tokenizer's train step: autoencoder and projection, then the discriminator."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from lightningdit_jax.assembly.alignment import foundation_normalization
from lightningdit_jax.assembly.models import tokenizer_config
from lightningdit_jax.config import Config
from lightningdit_jax.models.foundation_features import foundation_features
from lightningdit_jax.models.pixels import to_model_range
from lightningdit_jax.models.posterior import DiagonalGaussian
from lightningdit_jax.training.alignment_losses import alignment_loss_of
from lightningdit_jax.training.companions import DISCRIMINATOR, LINEAR_PROJ
from lightningdit_jax.training.frozen import FOUNDATION, LPIPS
from lightningdit_jax.training.schedules import make_schedule
from lightningdit_jax.training.state import Companion, TrainState
from lightningdit_jax.training.update import apply_to_all
from lightningdit_jax.training.vae_gradients import (
    AutoencoderGradients,
    AutoencoderTerms,
    Metrics,
    autoencoder_gradients,
    discriminator_gradients,
)
from lightningdit_jax.training.vae_loss import stage_at

# Scopes of the step, which reports tell its cycles apart by.
ENCODER, DECODER, ALIGNMENT, OPTIMIZER = "encoder", "decoder", "alignment", "optimizer"
COMPONENTS = (ENCODER, DECODER, LPIPS, DISCRIMINATOR, FOUNDATION, ALIGNMENT, OPTIMIZER)

Networks = Mapping[str, nnx.GraphDef]


@dataclasses.dataclass(frozen=True)
class TokenizerGradients:
    """What a batch asks of a tokenizer and of the networks trained beside it.

    autoencoder: its own; companions: gradients by name, and stats: running statistics afterwards.
    checked: a number that is finite only if all of these are. metrics: of records, `loss` too.
    """

    autoencoder: AutoencoderGradients
    companions: dict[str, Any]
    stats: dict[str, Any]
    checked: jax.Array
    metrics: Metrics

    @property
    def norm(self) -> jax.Array:
        """Of autoencoder and projection."""
        return optax.tree.norm((self.autoencoder.params, self.autoencoder.projection))


def make_vae_gradients(
    graphdef: nnx.GraphDef, config: Config, networks: Networks
) -> Callable[..., TokenizerGradients]:
    """gradients(params, companions, step, images, noise, lpips, features, through_generator).

    params: of the tokenizer; companions: of the state; images: [B, H, W, C] in [-1, 1]; noise: of
    the posterior sample, [B, h, w, d]; lpips: that network's parameters; features: of the
    foundation model, [B, h, w, D], or None without an alignment; through_generator: see
    AutoencoderTerms, whose weight is repae.weight. networks: structures by the names above; one
    that is absent leaves its term out.

    As in the release, the discriminator's phase sees the reconstruction made before the
    autoencoder's update, and its running statistics move three times a step: by the
    reconstruction, the images, and the reconstruction again.
    """
    loss, way = config.vae_loss, alignment_loss_of(config.vae_loss)

    @jax.named_scope(DISCRIMINATOR)
    def discriminate(params: Any, stats: Any, images: jax.Array) -> tuple[jax.Array, Any]:
        network = nnx.merge(networks[DISCRIMINATOR], params, stats)
        logits = network(images, train=True)
        return logits, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))

    def gradients_of(
        params: Any,
        companions: Mapping[str, Companion],
        step: jax.Array,
        images: jax.Array,
        noise: jax.Array,
        lpips: Any,
        features: Any,
        through_generator: Callable[[jax.Array], jax.Array] | None = None,
    ) -> TokenizerGradients:
        stage = stage_at(config.stages, step)

        @jax.named_scope(ENCODER)
        def encode(params: Any) -> DiagonalGaussian:
            return nnx.merge(graphdef, params).encode(images)

        @jax.named_scope(DECODER)
        def decode(params: Any, z: jax.Array) -> jax.Array:
            return nnx.merge(graphdef, params).decode(z)

        @jax.named_scope(LPIPS)
        def perceptual(reconstruction: jax.Array) -> jax.Array:
            return nnx.merge(networks[LPIPS], lpips)(images, reconstruction)

        def judge(images: jax.Array) -> tuple[jax.Array, Any]:
            adversary = companions[DISCRIMINATOR]
            return discriminate(adversary.params, adversary.stats, images)

        @jax.named_scope(ALIGNMENT)
        def alignment(projection: Any, z: jax.Array) -> jax.Array:
            project = nnx.merge(networks[LINEAR_PROJ], projection) if way.projects else None
            return way.loss(z, features, project, stage)

        terms = AutoencoderTerms(
            encode=encode,
            decode=decode,
            encoder_end=lambda gradient: gradient["encoder"]["conv_out"]["kernel"],
            decoder_end=lambda gradient: gradient["decoder"]["conv_out"]["kernel"],
            lpips=perceptual if LPIPS in networks else None,
            discriminate=judge if DISCRIMINATOR in networks else None,
            alignment=None if features is None else alignment,
            aligns_mean=way.of_mean,
            balance=way.balance,
            through_generator=through_generator,
            generator_weight=0.0 if through_generator is None else config.repae.weight,
        )
        projection = companions[LINEAR_PROJ].params if LINEAR_PROJ in networks else None
        result = autoencoder_gradients(terms, params, projection, images, noise, stage, loss)
        metrics = result.metrics
        gradients: dict[str, Any] = {}
        stats: dict[str, Any] = {}
        checked = metrics["loss"]
        if LINEAR_PROJ in networks:
            gradients[LINEAR_PROJ], stats[LINEAR_PROJ] = result.projection, {}
        if DISCRIMINATOR in networks:
            gradients[DISCRIMINATOR], stats[DISCRIMINATOR], more = discriminator_gradients(
                discriminate,
                companions[DISCRIMINATOR].params,
                result.stats,
                images,
                result.reconstruction,
                stage.discriminator_factor,
                loss,
            )
            checked += more["disc_loss"]
            metrics |= more | {"grad_norm_disc": optax.tree.norm(gradients[DISCRIMINATOR])}

        # A sum is finite only if all of its parts are: one bad network holds back the whole step.
        checked += optax.tree.norm(gradients)
        return TokenizerGradients(result, gradients, stats, checked, metrics)

    return gradients_of


def make_vae_update(
    graphdef: nnx.GraphDef,
    config: Config,
    optimizer: optax.GradientTransformation,
    networks: Networks,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """update(state, images, noise, lpips, features) -> (state, metrics).

    Arguments as of make_vae_gradients; optimizer serves both players.
    """
    gradients_of = make_vae_gradients(graphdef, config, networks)

    def update(
        state: TrainState, images: jax.Array, noise: jax.Array, lpips: Any, features: Any
    ) -> tuple[TrainState, Metrics]:
        found = gradients_of(
            state.params, state.companions, state.step, images, noise, lpips, features
        )
        with jax.named_scope(OPTIMIZER):
            new, update_metrics = apply_to_all(
                state,
                found.autoencoder.params,
                found.checked,
                optimizer,
                config.train,
                found.companions,
                found.stats,
                watched=_watched(state, found),
            )
        return new, {**found.metrics, **update_metrics, "grad_norm": found.norm}

    return update


def make_vae_step(
    graphdef: nnx.GraphDef,
    config: Config,
    optimizer: optax.GradientTransformation,
    networks: Networks = MappingProxyType({}),
) -> Callable[..., tuple[TrainState, Metrics]]:
    """step(state, batch, frozen) -> (state, metrics); batch: images [B, H, W, C] uint8.

    networks: structures of LPIPS, FOUNDATION, DISCRIMINATOR and LINEAR_PROJ, those that there are;
    frozen: parameters of the first two, an argument so that they are no constants of the program.
    The posterior is sampled from (seed, step), whatever the mesh.
    """
    update = make_vae_update(graphdef, config, optimizer, networks)
    schedule = make_schedule(config.optimizer, config.train.num_steps)
    tokenizer = tokenizer_config(config)
    factor = tokenizer.downsample_factor

    def step_fn(
        state: TrainState, batch: dict, frozen: Mapping[str, Any] = MappingProxyType({})
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        images = to_model_range(batch["images"])
        count, height, width, _ = images.shape
        grid = (height // factor, width // factor)
        noise = jax.random.normal(key, (count, *grid, tokenizer.embed_dim), jnp.float32)
        features = None
        if FOUNDATION in networks:
            foundation = nnx.merge(networks[FOUNDATION], frozen[FOUNDATION])
            normalization = foundation_normalization(config)
            with jax.named_scope(FOUNDATION):
                features = foundation_features(foundation, images, grid, normalization)
        rate = schedule(state.step)
        state, metrics = update(state, images, noise, frozen.get(LPIPS), features)
        return state, {**metrics, "learning_rate": rate}

    return step_fn


def _watched(state: TrainState, found: TokenizerGradients) -> Metrics:
    """What spikes are looked for in, by name; nothing where none are."""
    if not state.spikes:
        return {}
    values = {**found.metrics, "grad_norm": found.norm}
    return {name: values[name] for name in state.spikes}
