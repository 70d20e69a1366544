"""What a train step's arithmetic is, and how fast devices could do it at most."""

from jax.sharding import Mesh

from lightningdit_jax.assembly.models import generator_config
from lightningdit_jax.config import Config
from lightningdit_jax.models.flops import forward_flops
from lightningdit_jax.parallel.chips import chip_of
from lightningdit_jax.training.frozen import abstract_frozen_networks
from lightningdit_jax.training.repa import abstract_teacher, repa_step_flops
from lightningdit_jax.training.vae_flops import vae_step_flops


def step_flops(config: Config, mesh: Mesh) -> float:
    """FLOPs of a train step per image, as the loss asks for them.

    By forward_flops, repa_step_flops, vae_step_flops. A generator and its tokenizer take both, and
    a pass through the blocks that are aligned, with its gradient by the latents. Raises what
    abstract_frozen_networks and abstract_teacher raise.
    """
    if config.kind == "lightningdit":
        teacher = abstract_teacher(config, mesh)
        architecture = generator_config(config)
        flops = 3 * forward_flops(architecture, aux_head=True)
        if teacher is not None:
            flops += repa_step_flops(config, teacher)
        if not config.is_joint:
            return flops
        flops += 2 * forward_flops(architecture) * config.repa.depth / architecture.depth
        return flops + _of_tokenizer(config, mesh)
    return _of_tokenizer(config, mesh)


def _of_tokenizer(config: Config, mesh: Mesh) -> float:
    return sum(vae_step_flops(config, abstract_frozen_networks(config, mesh)).values())


def peak_rate(config: Config, mesh: Mesh) -> float | None:
    """Images a second that a mesh would train at its chips' bfloat16 peak; None of unknown chips.

    A measured rate over this one is the MFU (arXiv 2204.02311, appendix B).
    """
    chip = chip_of(mesh.devices.flat[0])
    return mesh.size * chip.peak_flops / step_flops(config, mesh) if chip else None
