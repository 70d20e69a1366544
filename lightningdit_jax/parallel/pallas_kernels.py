"""Kernels written in Pallas, in the text of a program compiled for TPUs."""

import re

from lightningdit_jax.parallel.hlo_text import Instruction, Module

# What transformations of JAX put around a name, such as "transpose_jvp_NAME__".
_AROUND = re.compile(r"^(?:transpose_|jvp_|vmap_)+|_+$")
_TARGET = 'custom_call_target="tpu_custom_call"'
_FLOPS = re.compile(r'"cost_estimate":\{"flops":"(\d+)"')


def kernel_in(module: Module, instruction: Instruction) -> Instruction | None:
    """The kernel that an instruction is, or has in it with what is fused into its inputs."""
    inside = module.computations[instruction.called] if instruction.is_fusion else [instruction]
    return next((i for i in inside if _TARGET in i.text), None)


def kernel_name(kernel: Instruction) -> str:
    """The name that it was given."""
    return _AROUND.sub("", kernel.name.partition(".")[0])


def kernel_flops(kernel: Instruction) -> int:
    """What it says that its products take, all steps of its grid together."""
    match = _FLOPS.search(kernel.text)
    return int(match[1]) if match else 0
