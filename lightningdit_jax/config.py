"""Frozen dataclasses built from a ConfigDict; unknown, missing and mistyped keys are errors.

Defaults, units and sources of the keys stand in configs/base.py, of those that are
SamplingOptions in lightningdit_jax/sampling_options.py, and nowhere else.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from lightningdit_jax.config_fields import build, key_types
from lightningdit_jax.config_flow import FlowConfig
from lightningdit_jax.config_jobs import trains_both
from lightningdit_jax.config_ranges import check_number
from lightningdit_jax.config_vae_loss import StagesConfig, VAELossConfig
from lightningdit_jax.sampling_options import SamplingOptions

Kind = Literal["lightningdit", "vavae"]
# Left to lightningdit_jax/planning, which puts a value in its place before anything is made.
Auto = Literal["auto"]
HELD_OUT = "valid/"  # what the numbers of held-out examples are called, in records too


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    data: int | Auto
    fsdp: int | Auto
    tensor: int | Auto
    dcn_data: int | Auto


@dataclasses.dataclass(frozen=True)
class ComputeConfig:
    dtype: Literal["float32", "bfloat16"]
    remat: str
    on_oom: Literal["retry", "stop"]
    scan_unroll: int
    attention: Literal["auto", "xla", "cudnn", "pallas"]
    products: Literal["dtype", "float8"]
    compilation_cache: str
    compile_effort: Literal["full", "quick"]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    variant: str
    depth: int | None
    hidden_size: int | None
    num_heads: int | None
    patch_size: int | None
    input_size: int
    in_channels: int
    num_classes: int
    mlp_ratio: float
    class_dropout_prob: float
    learn_sigma: bool
    use_qknorm: bool
    use_swiglu: bool
    use_rope: bool
    use_rmsnorm: bool
    wo_shift: bool
    aux_head_depth: int


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    resolution: int
    in_channels: int
    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    encoder_attn_resolutions: tuple[int, ...]
    decoder_attn_resolutions: tuple[int, ...]
    z_channels: int
    embed_dim: int


@dataclasses.dataclass(frozen=True)
class DataConfig:
    source: str
    path: str
    split: str
    labels: str
    valid_path: str
    valid_split: str
    tfds_name: str
    augment: Literal["random_crop", "center_crop"]
    flip: bool
    latent_norm: bool
    latent_multiplier: float
    stats: Literal["", "checkpoint", "data"]
    resident: bool
    corrupt: Literal["stop", "skip"]
    num_threads: int
    num_workers: int
    prefetch_batches: int


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    name: str
    learning_rate: float
    schedule: str
    warmup_steps: int
    decay_steps: int
    end_factor: float
    beta1: float
    beta2: float
    eps: float
    momentum: float
    weight_decay: float
    max_grad_norm: float
    freeze: tuple[str, ...]
    rate_factors: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class RepaConfig:
    features: Literal["none", "cached", "computed"]
    path: str
    valid_path: str
    depth: int
    weight: float
    projector: Literal["mlp", "conv"]
    projector_dim: int
    spatial_norm: Literal["none", "zscore"]
    zscore_alpha: float


@dataclasses.dataclass(frozen=True)
class RepaeConfig:
    weight: float
    init: str
    bn_momentum: float


@dataclasses.dataclass(frozen=True)
class AdversaryConfig:
    ndf: int
    num_layers: int
    norm: Literal["batchnorm", "actnorm"]
    stat_groups: int


@dataclasses.dataclass(frozen=True)
class FrozenConfig:
    lpips: str
    foundation: str
    foundation_normalize: Literal["parity", "trained"]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    init: str
    init_weights: Literal["ema", "params"]
    init_labels: str
    init_exclude: tuple[str, ...]
    num_steps: int
    batch_size: int
    accumulate_steps: int | Auto
    ema_decay: float
    ema_decays: tuple[float, ...]
    ema_sigmas: tuple[float, ...]
    snapshot_every_steps: int
    log_every_steps: int
    checkpoint_every_steps: int
    keep_checkpoints: int
    keep_every_steps: int
    evaluate_every_steps: int
    validate_every_steps: int
    validate_examples: int
    best_metric: str
    nonfinite: Literal["stop", "skip", "rollback"]
    max_nonfinite: int
    spikes: Literal["off", "skip", "rollback"]
    spike_window: int
    spike_factor: float
    max_spikes: int
    writers: tuple[str, ...]
    picture_every_steps: int
    profile_steps: tuple[int, ...]

    def __post_init__(self) -> None:
        key = "evaluate_every_steps"
        if self.best_metric.startswith(HELD_OUT):
            key = "validate_every_steps"
        if self.best_metric and not getattr(self, key):
            raise ValueError(
                f"config.train.best_metric is '{self.best_metric}', but nothing is evaluated; set "
                f"config.train.{key}"
            )
        steps = self.profile_steps
        if steps and not (len(steps) == 2 and 1 <= steps[0] <= steps[1] <= self.num_steps):
            raise ValueError(
                f"config.train.profile_steps is {steps}; expected () or a first and a last step, "
                f"at least 1 and at most config.train.num_steps, {self.num_steps}"
            )
        decays = (self.ema_decay, *self.ema_decays)
        if len(set(decays)) < len(decays):
            raise ValueError(
                f"config.train.ema_decays is {self.ema_decays}; expected decays that differ from "
                f"each other and from config.train.ema_decay, {self.ema_decay}"
            )
        if len(set(self.ema_sigmas)) < len(self.ema_sigmas):
            raise ValueError(
                f"config.train.ema_sigmas is {self.ema_sigmas}; expected widths that differ"
            )
        if self.snapshot_every_steps and not self.ema_sigmas:
            raise ValueError(
                f"config.train.snapshot_every_steps is {self.snapshot_every_steps}, but there are "
                "no averages to keep; set config.train.ema_sigmas, such as (0.05, 0.1)"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleConfig(SamplingOptions):
    checkpoint: str
    tokenizer: str
    weak_checkpoint: str
    num_samples: int
    batch_size: int | Auto
    decode_batch_size: int | Auto
    output: Literal["npz", "png", "both"]
    labels: str
    use_ema: bool
    ema_decay: float
    ema_sigma: float

    def __post_init__(self) -> None:
        if self.ema_sigma and (self.ema_decay or not self.use_ema):
            raise ValueError(
                f"an ema_sigma is {self.ema_sigma}, config.sample.ema_decay {self.ema_decay} and "
                f"config.sample.use_ema {self.use_ema}; expected one choice of an average: set "
                "ema_decay to 0 and use_ema to True, or leave ema_sigma out"
            )


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    num_samples: int
    seeds: tuple[int, ...]
    solver: tuple[str, ...]
    num_steps: tuple[int, ...]
    ema_sigma: tuple[float, ...]
    cfg_scale: tuple[float, ...]
    cfg_interval_start: tuple[float, ...]
    cfg_schedule: tuple[str, ...]
    cfg_zero_init_steps: tuple[int, ...]
    apg_eta: tuple[float, ...]
    apg_norm_threshold: tuple[float, ...]
    ig_scale: tuple[float, ...]
    ig_interval_end: tuple[float, ...]
    timestep_shift: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class PageConfig:
    port: int


@dataclasses.dataclass(frozen=True)
class ExtractConfig:
    path: str
    checkpoint: str
    resolution: int
    batch_size: int
    shard_size: int
    dtype: Literal["float32", "bfloat16", "float16"]
    features: str
    features_grid: int
    features_dtype: Literal["float32", "bfloat16", "float16"]
    stats_images: int


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    metric: str
    split: str
    samples: str
    num_images: int
    train_samples: int
    lpips: str
    inception: str
    networks: tuple[str, ...]
    reference: str
    batch_size: int
    measures: tuple[str, ...]
    ifid_latents: str
    ifid_neighbors: int
    seeds: tuple[int, ...]
    jackknife_blocks: int


@dataclasses.dataclass(frozen=True)
class Config:
    """One run. The keys are explained in configs/base.py. Raises ValueError for bad numbers."""

    kind: Kind
    seed: int
    mesh: MeshConfig
    compute: ComputeConfig
    model: ModelConfig
    tokenizer: TokenizerConfig
    data: DataConfig
    optimizer: OptimizerConfig
    flow: FlowConfig
    repa: RepaConfig
    repae: RepaeConfig
    vae_loss: VAELossConfig
    stages: StagesConfig
    discriminator: AdversaryConfig
    frozen: FrozenConfig
    train: TrainConfig
    sample: SampleConfig
    sweep: SweepConfig
    page: PageConfig
    extract: ExtractConfig
    evaluate: EvaluateConfig

    def __post_init__(self) -> None:
        for key in key_types(Config):
            check_number(key, self.value(key))
        kept, saved = self.train.keep_every_steps, self.train.checkpoint_every_steps
        if kept % saved:  # here, where neither is out of its range any more
            raise ValueError(
                f"config.train.keep_every_steps is {kept}, but checkpoints are saved every {saved} "
                "steps; set it to a multiple of config.train.checkpoint_every_steps, or to 0"
            )

    @property
    def is_joint(self) -> bool:
        """Whether it trains a generator and its tokenizer (REPA-E)."""
        return trains_both(self.value)

    def value(self, key: str) -> Any:
        """The value of a dotted key."""
        section, _, name = key.rpartition(".")
        return getattr(getattr(self, section) if section else self, name)

    def number(self, key: str) -> int:
        """The whole number of a dotted key that may be "auto".

        Raises ValueError where it still is: only a plan may have put a number there.
        """
        value = self.value(key)
        if value == "auto":
            raise ValueError(f"config.{key} is 'auto', and nothing planned it; set it to a number")
        return value

    def to_dict(self) -> dict[str, Any]:
        """All values, nested as the keys are; for JSON."""
        return dataclasses.asdict(self)

    def changed(self, **changes: Any) -> "Config":
        """The same but for some keys: changed(train={"batch_size": 8}, seed=1)."""
        return dataclasses.replace(
            self,
            **{
                name: dataclasses.replace(getattr(self, name), **value)
                if isinstance(value, Mapping)
                else value
                for name, value in changes.items()
            },
        )


def from_dict(values: Mapping[str, Any]) -> Config:
    """Builds a Config from a ConfigDict or nested dict.

    Raises ValueError naming the key for unknown (with the nearest known name), missing, mistyped
    and out-of-range values.
    """
    return build(Config, values)
