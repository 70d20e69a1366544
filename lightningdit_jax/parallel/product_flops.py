"""FLOPs of the products and convolutions of a compiled program: two per multiply-add."""

import math
import re

from lightningdit_jax.parallel.hlo_text import Instruction, Module, found

Shape = tuple[int, ...]
PRODUCTS = ("convolution", "dot")
_CONTRACTED = re.compile(r'lhs_contracting_dim(?:s=\{|ensions":\[)([^\]}]*)[\]}]')


def matmul_flops(module: Module, instruction: Instruction) -> float:
    """Of a dot or a convolution."""
    left, right = (module.named[name].dims for name in instruction.operands[:2])
    if instruction.opcode == "dot":
        return dot_flops(instruction, left)
    return convolution_flops(instruction.text, left, right, instruction.dims)


def dot_flops(instruction: Instruction, left: Shape) -> float:
    """Of a dot, or of a library's call for one. left: shape of its first operand."""
    contracted = re.findall(r"\d+", found(_CONTRACTED, instruction.text)[1])
    return 2.0 * math.prod((*instruction.dims, *(left[int(d)] for d in contracted)))


def convolution_flops(text: str, inputs: Shape, weights: Shape, outputs: Shape) -> float:
    """text: with the window and the labels of the dimensions of inputs, weights and outputs."""
    lhs, kernel, output = found(r"dim_labels=(\w+)_(\w+)->(\w+)", text).groups()
    window = re.search(r"window=\{([^}]*)\}", text)
    settings = dict(part.split("=", 1) for part in window[1].split()) if window else {}
    flops = 2.0 * weights[kernel.index("i")]
    flops *= math.prod(outputs[output.index(label)] for label in "bf")
    for axis in sorted(label for label in output if label.isdigit()):
        flops *= _window_pairs(
            inputs[lhs.index(axis)], outputs[output.index(axis)], settings, int(axis)
        )
    return flops


def _window_pairs(size_in: int, size_out: int, settings: dict[str, str], axis: int) -> int:
    """How many (output, kernel) positions of an axis meet an input, not padding or a hole.

    XLA writes batched and fused products as convolutions in which most positions meet nothing.
    """

    def setting(name: str, default: str) -> str:
        return settings[name].split("x")[axis] if name in settings else default

    kernel, stride = int(setting("size", "1")), int(setting("stride", "1"))
    hole, step = int(setting("lhs_dilate", "1")), int(setting("rhs_dilate", "1"))
    before = int(setting("pad", "0_0").split("_")[0])
    places = (o * stride + k * step - before for o in range(size_out) for k in range(kernel))
    return sum(0 <= p <= (size_in - 1) * hole and p % hole == 0 for p in places)
