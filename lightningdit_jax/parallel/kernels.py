"""The kernels of a program compiled for a GPU: what each computes, and the bytes that it moves."""

import dataclasses
import math
import re

from lightningdit_jax.parallel.chips import Chip
from lightningdit_jax.parallel.collectives import KINDS
from lightningdit_jax.parallel.hlo_text import Instruction, Module, found
from lightningdit_jax.parallel.product_flops import (
    PRODUCTS,
    convolution_flops,
    dot_flops,
    matmul_flops,
)
from lightningdit_jax.parallel.program_totals import MATMUL, MOVEMENT, OTHER, moves_only

ATTENTION = "attention"
# What starts no kernel: it names, begins or ends something, or runs other instructions.
_NO_KERNELS = {
    *("after-all", "async-done", "async-start", "async-update", "bitcast", "call", "conditional"),
    *("constant", "copy-done", "copy-start", "fusion-done", "get-tuple-element", "opt-barrier"),
    *("parameter", "partition-id", "replica-id", "tuple", "while"),
    *(f"{kind}{suffix}" for kind in KINDS for suffix in ("", "-start", "-done")),
}
_SLICES = {"dynamic-slice", "gather", "slice"}
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_PARAMETER = re.compile(r" parameter\((\d+)\)")
_BITS = re.compile(r"^\(*[a-z]+(\d+)")
# The weights of attention, [B, H, N, M].
_WEIGHTS = re.compile(r'"intermediate_tensor_shape":\s*\{.*?"dimensions":\s*\[([^\]]*)\]')
# Its products with a [N or M, head]: two forwards; backwards one for the weights once more, one for
# their gradient, three for those of q, k and v.
_PASSES = {"__cudnn$fmhaSoftmax": 2, "__cudnn$fmhaSoftmaxBackward": 5}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What one kernel does. kind: MATMUL, ATTENTION, MOVEMENT or OTHER.

    flops: of products, two per multiply-add, of operands of so many bits. bytes: read and written.
    library: the call that it is, such as "__cublas$lt$matmul"; empty for the compiler's own.
    """

    kind: str
    flops: float
    bits: int
    bytes: float
    library: str

    def seconds(self, chip: Chip) -> float:
        """For its products at the peak or for its bytes, whichever is more."""
        peak = chip.peak_flops * 16 / self.bits  # TF32 has half of bfloat16's, float8 twice
        return max(self.flops / peak, self.bytes / chip.bandwidth)


def kernel_of(module: Module, instruction: Instruction) -> Kernel | None:
    """The kernel that an instruction starts, if it does.

    An array counts once, and where slices of it are taken or replaced those alone. Workspace of
    libraries is left out.
    """
    if instruction.opcode in _NO_KERNELS:
        return None
    inside = [instruction, *module.inside(instruction)]
    calls = [inner for inner in inside if inner.opcode == "custom-call"]
    products = [inner for inner in inside if inner.opcode in PRODUCTS]
    library = found(_TARGET, calls[0].text)[1] if calls else ""
    if calls:
        flops = _library_flops(module, calls[0], library)
        kind = ATTENTION if library in _PASSES else MATMUL if flops else OTHER
    else:
        flops = sum(matmul_flops(module, product) for product in products)
        kind = MATMUL if products else MOVEMENT if moves_only(module, instruction) else OTHER
    moved = _read(module, instruction) + _written(module, instruction, bool(library))
    bits = _bits(module.named[(calls or products)[0].operands[0]]) if flops else 16
    return Kernel(kind, flops, bits, moved, library)


def _library_flops(module: Module, call: Instruction, library: str) -> float:
    if library in _PASSES:
        weights = math.prod(map(int, re.findall(r"\d+", found(_WEIGHTS, call.text)[1])))
        return 2.0 * _PASSES[library] * weights * call.dims[-1]  # [B, H, N, head]
    if "matmul" in library or "gemm" in library:
        return dot_flops(call, module.named[call.operands[0]].dims)
    if not library.startswith("__cudnn$conv"):
        return 0.0
    left, right = (module.named[name].dims for name in call.operands[:2])
    shapes = {  # of inputs, weights and outputs
        "__cudnn$convBackwardInput": (call.dims, right, left),
        "__cudnn$convBackwardFilter": (left, call.dims, right),
    }
    return convolution_flops(call.text, *shapes.get(library, (left, right, call.dims)))


def _bits(instruction: Instruction) -> int:
    """Of a number in its (first) result."""
    return int(found(_BITS, instruction.text)[1])


def _read(module: Module, kernel: Instruction) -> float:
    whole = {name: sum(module.named[name].array_bytes) for name in kernel.operands}
    scope, inputs = [kernel], kernel.operands
    if kernel.is_fusion:
        scope = module.computations[kernel.called]
        parameters = {int(m[1]): i.name for i in scope if (m := _PARAMETER.search(i.text))}
        inputs = [parameters[place] for place in range(len(parameters))]
    taken = dict.fromkeys(whole, 0.0)
    for name, given in zip(kernel.operands, inputs, strict=True):
        taken[name] += _taken(scope, given, whole[name])
    return sum(min(whole[name], taken[name]) for name in whole)


def _taken(scope: list[Instruction], name: str, whole: float) -> float:
    """Bytes that the instructions of a kernel read of one of its inputs."""
    size = 0.0
    for user in scope:
        if name not in user.operands:
            continue
        if user.opcode == "bitcast":
            size += _taken(scope, user.name, whole)
        elif user.opcode in _SLICES and user.operands[0] == name:
            size += sum(user.array_bytes)
        elif user.opcode != "dynamic-update-slice" or user.operands[0] != name:
            size += whole
    return size


def _written(module: Module, kernel: Instruction, is_library: bool) -> float:
    sizes = kernel.array_bytes
    if is_library:
        return sum(sizes[:-1] or sizes)
    root = module.computations[kernel.called][-1] if kernel.is_fusion else kernel
    results = [module.named[name] for name in root.operands] if root.opcode == "tuple" else [root]
    return sum(_replaced(module, result) for result in results)


def _replaced(module: Module, result: Instruction) -> float:
    while result.opcode == "bitcast":
        result = module.named[result.operands[0]]
    if result.opcode == "dynamic-update-slice":
        result = module.named[result.operands[1]]
    return sum(result.array_bytes)
