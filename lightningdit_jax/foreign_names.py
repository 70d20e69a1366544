"""What other programs call our config keys and their values. Imports nothing of ours.

The release is hustvl/LightningDiT, SiT willisma/SiT, LDM CompVis/latent-diffusion, REPA
sihyun-yu/REPA with End2End-Diffusion/iREPA; diffusers' names are those of its training scripts,
pipelines and model configs.
"""

from collections.abc import Collection

# Keys of the release's yaml files whose values are ours as they stand.
RELEASE_RENAMED = {
    "data.data_path": "data.path",
    "data.fid_reference_file": "evaluate.reference",
    "data.num_classes": "model.num_classes",
    "data.latent_norm": "data.latent_norm",
    "data.latent_multiplier": "data.latent_multiplier",
    "model.use_qknorm": "model.use_qknorm",
    "model.use_swiglu": "model.use_swiglu",
    "model.use_rope": "model.use_rope",
    "model.use_rmsnorm": "model.use_rmsnorm",
    "model.wo_shift": "model.wo_shift",
    "model.learn_sigma": "model.learn_sigma",
    "model.in_chans": "model.in_channels",
    "train.max_steps": "train.num_steps",
    "train.global_batch_size": "train.batch_size",
    "train.global_seed": "seed",
    "train.log_every": "train.log_every_steps",
    "train.ckpt_every": "train.checkpoint_every_steps",
    "optimizer.lr": "optimizer.learning_rate",
    "optimizer.beta2": "optimizer.beta2",
    "optimizer.max_grad_norm": "optimizer.max_grad_norm",
    "sample.sampling_method": "sample.solver",
    "sample.atol": "sample.atol",
    "sample.rtol": "sample.rtol",
    "sample.num_sampling_steps": "sample.num_steps",
    "sample.cfg_scale": "sample.cfg_scale",
    "sample.cfg_interval_start": "sample.cfg_interval_start",
    "sample.timestep_shift": "sample.timestep_shift",
    "sample.fid_num": "sample.num_samples",
}

# By the last part of a name: whose it is, and our key for the same thing.
_KEYS = {
    key.rpartition(".")[2]: ("the release's", ours)
    for key, ours in RELEASE_RENAMED.items()
    if key.rpartition(".")[2] != ours.rpartition(".")[2]
}
_KEYS |= {
    name: ("the release's", ours)
    for name, ours in {
        "model_type": "model.variant",
        "image_size": "model.input_size",
        "downsample_ratio": "model.input_size",
        "ckpt_path": "sample.checkpoint",
        "model_name": "sample.tokenizer",
        "path_type": "flow.path",
        "use_lognorm": "flow.timesteps",
        "use_cosine_loss": "flow.cosine_weight",
        "per_proc_batch_size": "sample.batch_size",
        "use_checkpoint": "compute.remat",
        "base_learning_rate": "optimizer.learning_rate",
        "use_vf": "vae_loss.alignment",
        "attn_resolutions": "tokenizer.encoder_attn_resolutions",
        "disc_num_layers": "discriminator.num_layers",
        "use_actnorm": "discriminator.norm",
        "pixelloss_weight": "vae_loss.pixel_weight",
        "logvar_init": "vae_loss.logvar",
        "pp_style": "vae_loss.reduction",
        "data_root": "data.path",
        "precision": "compute.dtype",
        "weight_init": "train.init",
    }.items()
}
_KEYS |= {
    name: ("SiT's", ours)
    for name, ours in {
        "num_fid_samples": "sample.num_samples",
        "diffusion_form": "sample.diffusion",
        "last_step_form": "sample.last_step",
    }.items()
}
_KEYS |= {
    name: ("REPA's", ours)
    for name, ours in {
        "proj_coeff": "repa.weight",
        "encoder_depth": "repa.depth",
        "enc_type": "frozen.foundation",
        "projection_layer_type": "repa.projector",
        "spnorm_method": "repa.spatial_norm",
    }.items()
}
_KEYS |= {
    name: ("diffusers'", ours)
    for name, ours in {
        "num_inference_steps": "sample.num_steps",
        "guidance_scale": "sample.cfg_scale",
        "class_labels": "sample.labels",
        "num_train_epochs": "train.num_steps",
        "max_train_steps": "train.num_steps",
        "train_batch_size": "train.batch_size",
        "gradient_accumulation_steps": "train.accumulate_steps",
        "gradient_checkpointing": "compute.remat",
        "mixed_precision": "compute.dtype",
        "checkpointing_steps": "train.checkpoint_every_steps",
        "checkpoints_total_limit": "train.keep_checkpoints",
        "logging_steps": "train.log_every_steps",
        "dataloader_num_workers": "data.num_threads",
        "lr_scheduler": "optimizer.schedule",
        "lr_warmup_steps": "optimizer.warmup_steps",
        "adam_beta1": "optimizer.beta1",
        "adam_beta2": "optimizer.beta2",
        "adam_epsilon": "optimizer.eps",
        "adam_weight_decay": "optimizer.weight_decay",
        "ema_max_decay": "train.ema_decay",
        "prediction_type": "flow.prediction",
        "scaling_factor": "data.latent_multiplier",
        "sample_size": "model.input_size",
        "num_layers": "model.depth",
        "num_attention_heads": "model.num_heads",
        "num_embeds_ada_norm": "model.num_classes",
        "latent_channels": "tokenizer.z_channels",
        "block_out_channels": "tokenizer.ch_mult",
        "layers_per_block": "tokenizer.num_res_blocks",
        "train_data_dir": "data.path",
        "pretrained_model_name_or_path": "train.init",
    }.items()
}

# Values, each of whatever key has ours among its own.
_VALUES = {
    "Linear": ("the release's", "linear"),
    "GVP": ("the release's", "gvp"),
    "VP": ("the release's", "vp"),
    "lognorm": ("the release's", "logit_normal"),
    "ODE": ("the release's", "euler"),
    "Euler": ("SiT's", "sde_euler"),
    "Heun": ("SiT's", "sde_heun"),
    "SDE": ("SiT's", "sde_euler"),
    "Mean": ("SiT's", "mean"),
    "Tweedie": ("SiT's", "tweedie"),
    "SBDM": ("SiT's", "sbdm"),
    "bf16": ("diffusers'", "bfloat16"),
    "no": ("diffusers'", "float32"),
    "fp32": ("diffusers'", "float32"),
    "v_prediction": ("diffusers'", "velocity"),
    "epsilon": ("diffusers'", "noise"),
    "sample": ("diffusers'", "data"),
    "constant_with_warmup": ("diffusers'", "constant"),
    "AdamW": ("PyTorch's", "adamw"),
}
_MODELS = {"LightningDiT-": "the release's", "SiT-": "SiT's", "DiT-": "DiT's"}


def foreign_name(name: str, known: Collection[str]) -> tuple[str, str] | None:
    """(whose it is, our name for it) where another program's is given and ours is among `known`.

    name: of a key, with or without the section, or of a value such as "LightningDiT-XL/1".
    """
    for prefix, whose in _MODELS.items():
        if name.startswith(prefix) and name.removeprefix(prefix) in known:
            return whose, name.removeprefix(prefix)
    for table, key in ((_KEYS, name.rpartition(".")[2]), (_VALUES, name)):
        if key in table and table[key][1] in known:
            return table[key]
    return None


def foreign_keys() -> dict[str, str]:
    """Our key by every name of another program's."""
    return {name: ours for name, (_, ours) in _KEYS.items()}


def foreign_values() -> dict[str, str]:
    """Our value by every value of another program's."""
    return {name: ours for name, (_, ours) in _VALUES.items()}
