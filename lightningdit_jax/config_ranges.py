"""Ranges of the numbers in a config; NaN, infinities and what lies outside are refused.

Knows keys by name alone and imports no config.
"""

import dataclasses
import math
from typing import Any

from lightningdit_jax.averages import LARGEST_SIGMA
from lightningdit_jax.whole_numbers import NUM_SEEDS, TOO_LARGE


@dataclasses.dataclass(frozen=True)
class Range:
    """From low to high, either end left out where so said."""

    low: float
    high: float = math.inf
    above: bool = False  # low itself is no value
    below: bool = False  # high itself is no value

    def holds(self, value: float) -> bool:
        """Whether a number lies inside."""
        over = value > self.low if self.above else value >= self.low
        return over and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {self.low}"
        if self.high == math.inf:
            return low
        return f"{low} and {'below' if self.below else 'at most'} {self.high}"


_POSITIVE, _SHARE, _DECAY = Range(0.0, above=True), Range(0.0, 1.0), Range(0.0, 1.0, below=True)
_SIGMA = Range(0.0, LARGEST_SIGMA, above=True)
_COUNT, _NOT_NEGATIVE = Range(1), Range(0)
_SAMPLES = Range(1, NUM_SEEDS)  # indices of samples are folded into keys
_STEPS = Range(1, 2**31 - 1)  # the step is an int32

# By key; of a tuple every value has to lie inside.
RANGES = {
    "seed": Range(0, NUM_SEEDS - 1),
    "mesh.dcn_data": _COUNT,
    "compute.scan_unroll": _NOT_NEGATIVE,
    "model.depth": _COUNT,
    "model.hidden_size": _COUNT,
    "model.num_heads": _COUNT,
    "model.patch_size": _COUNT,
    "model.input_size": _COUNT,
    "model.in_channels": _COUNT,
    "model.num_classes": _COUNT,
    "model.mlp_ratio": _POSITIVE,
    "model.class_dropout_prob": _SHARE,
    "model.aux_head_depth": _NOT_NEGATIVE,
    "tokenizer.resolution": _COUNT,
    "tokenizer.in_channels": _COUNT,
    "tokenizer.ch": _COUNT,
    "tokenizer.ch_mult": _COUNT,
    "tokenizer.num_res_blocks": _NOT_NEGATIVE,
    "tokenizer.z_channels": _COUNT,
    "tokenizer.embed_dim": _COUNT,
    "data.latent_multiplier": _POSITIVE,
    "data.num_threads": _COUNT,
    "data.num_workers": _NOT_NEGATIVE,
    "data.prefetch_batches": _COUNT,
    "optimizer.learning_rate": Range(0.0),
    "optimizer.warmup_steps": _NOT_NEGATIVE,
    "optimizer.decay_steps": _NOT_NEGATIVE,
    "optimizer.end_factor": _SHARE,
    "optimizer.beta1": _DECAY,
    "optimizer.beta2": _DECAY,
    "optimizer.eps": Range(0.0),
    "optimizer.momentum": _DECAY,
    "optimizer.weight_decay": Range(0.0),
    "optimizer.max_grad_norm": Range(0.0),
    "flow.timestep_shift": Range(0.0),
    "flow.logit_std": Range(0.0),
    "flow.uniform_from_step": Range(-1),
    "flow.cosine_weight": Range(0.0),
    "flow.aux_loss_weight": _POSITIVE,
    "repa.depth": _COUNT,
    "repa.weight": Range(0.0),
    "repa.projector_dim": _COUNT,
    "repa.zscore_alpha": Range(0.0),
    "repae.weight": Range(0.0),
    "repae.bn_momentum": _SHARE,
    "vae_loss.pixel_weight": Range(0.0),
    "vae_loss.perceptual_weight": Range(0.0),
    "vae_loss.kl_weight": Range(0.0),
    "vae_loss.ve_weight": Range(0.0),
    "vae_loss.magnitude_weight": Range(0.0),
    "vae_loss.soft_kl_temperature": _POSITIVE,
    "vae_loss.disc_weight": Range(0.0),
    "vae_loss.distmat_weight": Range(0.0),
    "vae_loss.cos_weight": Range(0.0),
    "discriminator.ndf": _COUNT,
    "discriminator.num_layers": _COUNT,
    "discriminator.stat_groups": _COUNT,
    "train.num_steps": _STEPS,
    "train.batch_size": _COUNT,
    "train.accumulate_steps": _COUNT,
    "train.ema_decay": _DECAY,
    "train.ema_decays": Range(0.0, 1.0, above=True, below=True),
    "train.ema_sigmas": _SIGMA,
    "train.snapshot_every_steps": _NOT_NEGATIVE,
    "train.log_every_steps": _COUNT,
    "train.checkpoint_every_steps": _COUNT,
    "train.keep_checkpoints": _COUNT,
    "train.keep_every_steps": _NOT_NEGATIVE,
    "train.evaluate_every_steps": _NOT_NEGATIVE,
    "train.validate_every_steps": _NOT_NEGATIVE,
    "train.validate_examples": _SAMPLES,
    "train.max_nonfinite": _COUNT,
    "train.spike_window": Range(8, 10_000),
    "train.spike_factor": _POSITIVE,
    "train.max_spikes": _COUNT,
    "train.picture_every_steps": _NOT_NEGATIVE,
    "sample.num_samples": _SAMPLES,
    "sample.batch_size": _COUNT,
    "sample.decode_batch_size": _COUNT,
    "sample.num_steps": Range(2),
    "sample.rtol": _POSITIVE,
    "sample.atol": Range(0.0),
    "sample.diffusion_norm": Range(0.0),
    "sample.last_step_size": Range(0.0),
    "sample.cfg_channels": _NOT_NEGATIVE,
    "sample.cfg_power": _POSITIVE,
    "sample.cfg_zero_init_steps": _NOT_NEGATIVE,
    "sample.apg_norm_threshold": Range(0.0),
    "sample.timestep_shift": Range(0.0),
    "sample.ema_decay": _DECAY,
    "sample.ema_sigma": Range(0.0, LARGEST_SIGMA),
    "sweep.num_samples": _SAMPLES,
    "sweep.seeds": Range(0, NUM_SEEDS - 1),
    "sweep.num_steps": Range(2),
    "sweep.ema_sigma": _SIGMA,
    "sweep.cfg_zero_init_steps": _NOT_NEGATIVE,
    "sweep.apg_norm_threshold": Range(0.0),
    "sweep.timestep_shift": Range(0.0),
    "page.port": Range(0, 65535),
    "extract.resolution": _NOT_NEGATIVE,
    "extract.batch_size": _COUNT,
    "extract.shard_size": _COUNT,
    "extract.features_grid": _NOT_NEGATIVE,
    "extract.stats_images": _NOT_NEGATIVE,
    "evaluate.num_images": _COUNT,
    "evaluate.train_samples": Range(2, NUM_SEEDS),
    "evaluate.batch_size": _COUNT,
    "evaluate.ifid_neighbors": _COUNT,
    "evaluate.seeds": Range(0, NUM_SEEDS - 1),
    "evaluate.jackknife_blocks": _NOT_NEGATIVE,
}


def check_number(key: str, value: Any) -> None:
    """Raises ValueError for a number of a config that is not finite or out of its range.

    value: of any key; tuples are looked at one value at a time, what is no number passes.
    """
    for number in value if isinstance(value, tuple) else (value,):
        if not isinstance(number, int | float):
            continue
        expected = RANGES.get(key)
        if isinstance(number, int) and abs(number) >= TOO_LARGE:
            wanted = expected or "a whole number"
            raise ValueError(f"config.{key} is {value!r:.80}; expected {wanted}, below 2^63")
        if not math.isfinite(number):
            wanted = f"a finite number, {expected}" if expected else "a finite number"
            raise ValueError(f"config.{key} is {value}; expected {wanted}")
        if expected and not expected.holds(number):
            raise ValueError(f"config.{key} is {value}; expected {expected}")
