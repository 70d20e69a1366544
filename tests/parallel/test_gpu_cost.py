"""Kernels of programs for GPUs, read from their text, against counts by hand."""

import pathlib
import types

import numpy as np
import pytest

import lightningdit_jax
from lightningdit_jax.parallel.ahead_of_time import compile_on
from lightningdit_jax.parallel.chips import GPUS, Chip
from lightningdit_jax.parallel.gpu_cost import gpu_cost
from lightningdit_jax.parallel.hlo_text import Module
from lightningdit_jax.parallel.kernel_sources import Sources
from lightningdit_jax.parallel.kernels import kernel_of
from lightningdit_jax.parallel.topology import Slice
from tests.parallel.gpu_programs import GEMM, STEP, TRIPS, convolution, fmha


def kernel(instruction, *, inputs=(), body=""):
    """The kernel of one instruction of a program. inputs: shapes of %p0, %p1, ..."""
    given = "\n".join(f"  %p{i} = {shape} parameter({i})" for i, shape in enumerate(inputs))
    text = f"{body}\nENTRY %main (p: f32[]) -> f32[] {{\n{given}\n  ROOT %k = {instruction}\n}}\n"
    module = Module.parse(text)
    return kernel_of(module, module.named["k"])


ATTENTION = 2 * 4 * 16 * 16 * 8  # multiply-adds of one product with the weights, heads of 8
Q = "bf16[2,16,4,8]{3,2,1,0}"
WIDE = "bf16[2,4,16,8]{3,1,2,0}"
# From 9 x 9 with padding 1: of 4 x 4 places with 4 taps each way, 15 of 16 meet an input.
CONVOLVED = 2 * (3 * 5 * 7) * 15 * 15


@pytest.mark.parametrize(
    ("found", "kind", "flops", "bytes_", "bits"),
    [
        (
            kernel(
                f"({WIDE}, f32[2,4,16]{{2,1,0}}, u8[0]{{0}}) custom-call(%p0, %p1, %p2), "
                + fmha("fmhaSoftmax"),
                inputs=[Q, Q, Q],
            ),
            *("attention", 2 * 2 * ATTENTION, 4 * 2 * 1024 + 4 * 128, 16),
        ),
        (
            kernel(
                f"({WIDE}, {WIDE}, {WIDE}, u8[64]{{0}}) custom-call(%p0, %p1, %p2, %p3, %p4, "
                "/*index=5*/%p5), " + fmha("fmhaSoftmaxBackward"),
                inputs=[Q, Q, Q, "f32[2,4,16]{2,1,0}", Q, Q],
            ),
            *("attention", 2 * 5 * ATTENTION, 8 * 2 * 1024 + 4 * 128, 16),
        ),
        # The same convolution forwards and backwards costs the same.
        *(
            (
                kernel(
                    f"({out}{{3,2,1,0}}, u8[0]{{0}}) custom-call(%p0, %p1), {convolution(name)}",
                    inputs=shapes,
                ),
                *("products", CONVOLVED, 4 * (3 * 81 * 5 + 7 * 16 * 5 + 3 * 16 * 7), 32),
            )
            for name, out, shapes in [
                ("convForward", "f32[3,4,4,7]", ["f32[3,9,9,5]{3,2,1,0}", "f32[7,4,4,5]{3,2,1,0}"]),
                (
                    "convBackwardInput",
                    "f32[3,9,9,5]",
                    ["f32[3,4,4,7]{3,2,1,0}", "f32[7,4,4,5]{3,2,1,0}"],
                ),
                (
                    "convBackwardFilter",
                    "f32[7,4,4,5]",
                    ["f32[3,9,9,5]{3,2,1,0}", "f32[3,4,4,7]{3,2,1,0}"],
                ),
            ]
        ),
        # What no library's name says is no product.
        (
            kernel(
                'f32[8]{0} custom-call(%p0), custom_call_target="cub_sort"', inputs=["f32[8]{0}"]
            ),
            *("elementwise and reductions", 0, 64, 16),
        ),
        (
            kernel("f32[4,8]{1,0} copy(%p0)", inputs=["f32[4,8]{0,1}"]),
            "copies and casts",
            0,
            256,
            16,
        ),
        # Twice the same array is read once.
        (
            kernel("f32[8]{0} add(%p0, %p0)", inputs=["f32[8]{0}"]),
            *("elementwise and reductions", 0, 64, 16),
        ),
    ],
)
def test_what_a_kernel_does(found, kind, flops, bytes_, bits):
    assert (found.kind, found.flops, found.bytes, found.bits) == (kind, flops, bytes_, bits)


SLICED_PRODUCT = f"""
%dynamic-slice-fusion (q0: bf16[2,5,3], q1: bf16[7,5]) -> (bf16[7,3], s8[64]) {{
  %q1 = bf16[7,5]{{1,0}} parameter(1)
  %q0 = bf16[2,5,3]{{2,1,0}} parameter(0)
  %slice.1 = bf16[1,5,3]{{2,1,0}} slice(%q0), slice={{[1:2], [0:5], [0:3]}}
  %bitcast.1 = bf16[5,3]{{1,0}} bitcast(%slice.1)
  ROOT %call.1 = (bf16[7,3]{{1,0}}, s8[64]{{0}}) custom-call(%q1, %bitcast.1), {GEMM}
}}
"""
REPLACED = """
%fused_update (q0: f32[9,4], q1: f32[4], q2: s32[]) -> f32[9,4] {
  %q0 = f32[9,4]{1,0} parameter(0)
  %q1 = f32[4]{0} parameter(1)
  %q2 = s32[] parameter(2)
  %negate.1 = f32[4]{0} negate(%q1)
  %bitcast.1 = f32[1,4]{1,0} bitcast(%negate.1)
  %zero = s32[] constant(0)
  ROOT %update.1 = f32[9,4]{1,0} dynamic-update-slice(%q0, %bitcast.1, %q2, %zero)
}
"""


def test_slices_count_and_not_what_they_are_of():
    shapes = ["bf16[2,5,3]{2,1,0}", "bf16[7,5]{1,0}"]
    found = kernel(
        "(bf16[7,3]{1,0}, s8[64]{0}) fusion(%p0, %p1), kind=kCustom, calls=%dynamic-slice-fusion",
        inputs=shapes,
        body=SLICED_PRODUCT,
    )
    assert (found.kind, found.library) == ("products", "__cublas$lt$matmul")
    assert found.flops == 2 * 7 * 3 * 5 and found.bytes == 2 * (3 * 5 + 7 * 5 + 7 * 3)
    shapes = ["f32[9,4]{1,0}", "f32[4]{0}", "s32[]"]
    # By itself, and beside others on a stream of its own.
    started = "((f32[9,4]{1,0}, f32[4]{0}, s32[]), f32[9,4]{1,0}, u32[]) fusion-start"
    for opcode in ("f32[9,4]{1,0} fusion", started):
        text = f"{opcode}(%p0, %p1, %p2), kind=kLoop, calls=%fused_update"
        found = kernel(text, inputs=shapes, body=REPLACED)
        assert found.bytes == 4 * (4 + 4 + 1)  # a row read, a row written, and where
    assert kernel("f32[9,4]{1,0} fusion-done(%p0)", inputs=shapes) is None


@pytest.mark.parametrize("text", ["f32[8]{0} bitcast(%p0)", "f32[] partition-id()"])
def test_what_starts_no_kernel(text):
    assert kernel(text, inputs=["f32[8]{0}"]) is None


def test_a_kernel_takes_its_products_or_its_bytes():
    chip = Chip(0, peak_flops=100.0, bandwidth=10.0, clock=0.0)
    bound = kernel("f32[8]{0} add(%p0, %p0)", inputs=["f32[8]{0}"])
    assert bound.seconds(chip) == pytest.approx(64 / 10)
    dot = "f32[4,4]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}"
    for dtype, peak in (("bf16", 100), ("f32", 50), ("f8e4m3fn", 200)):
        product = kernel(dot, inputs=[f"{dtype}[4,1000]{{1,0}}", f"{dtype}[1000,4]{{1,0}}"])
        assert product.seconds(Chip(0, 100.0, 1e9, 0.0)) == pytest.approx(2 * 16000 / peak)


LOOP = """HloModule jit_program, is_scheduled=true

%condition (state.1: (s32[], f32[4])) -> pred[] {
  %state.1 = (s32[], f32[4]) parameter(0)
  %i = s32[] get-tuple-element(%state.1), index=0
  ROOT %less = pred[] fusion(%i), kind=kLoop, calls=%fused_compare
}

%guided (a: f32[4]) -> (f32[4]) {
  %a = f32[4]{0} parameter(0)
  %negate.1 = f32[4]{0} negate(%a)
  ROOT %g = (f32[4]{0}) tuple(%negate.1)
}

%unguided (c: f32[4]) -> (f32[4]) {
  %c = f32[4]{0} parameter(0)
  ROOT %u = (f32[4]{0}) tuple(%c)
}

%body (state: (s32[], f32[4])) -> (s32[], f32[4]) {
  %state = (s32[], f32[4]) parameter(0)
  %k = s32[] get-tuple-element(%state), index=0
  %v = f32[4]{0} get-tuple-element(%state), index=1
  %p = pred[] constant(true)
  %cond = (f32[4]{0}) conditional(%p, %v, %v), true_computation=%guided, false_computation=%unguided
  %next = f32[4]{0} get-tuple-element(%cond), index=0
  ROOT %t = (s32[], f32[4]) tuple(%k, %next)
}

ENTRY %main (x: (s32[], f32[4])) -> (s32[], f32[4]) {
  %x = (s32[], f32[4]) parameter(0)
  ROOT %loop = (s32[], f32[4]) while(%x), condition=%condition, body=%body, TRIPS
}
""".replace("TRIPS", TRIPS)


def test_a_loop_whose_condition_is_a_kernel_counts_as_often_as_it_runs():
    cost = gpu_cost(Module.parse(LOOP), GPUS["h100"], Sources(LOOP))
    assert cost.kernels == {"elementwise and reductions": 249}
    assert cost.bytes == {"elementwise and reductions": 249 * 32}


PACKAGE = pathlib.Path(lightningdit_jax.__file__).parent


def framed(shift):
    """A program whose kernel has most of its numbers from SwiGLU, through a library's function."""
    callers = {1: shift, 2: 1 + shift, 3: 2 + shift, 4: 1 + shift}
    frames = "\n".join(
        f"{frame} {{file_location_id={frame} parent_frame_id={caller}}}"
        for frame, caller in callers.items()
    )
    return f"""HloModule jit_step_fn

FileNames
1 "{PACKAGE}/models/layers.py"
2 "/venv/site-packages/flax/nnx/nn/linear.py"
3 "/somewhere/benchmarks/main.py"

FunctionNames
1 "<module>"
2 "SwiGLU.__call__"
3 "Linear.__call__"
4 "modulated"

FileLocations
1 {{file_name_id=3 function_name_id=1 line=1}}
2 {{file_name_id=1 function_name_id=2 line=2}}
3 {{file_name_id=2 function_name_id=3 line=3}}
4 {{file_name_id=1 function_name_id=4 line=4}}

StackFrames
{frames}

%fused (p0: f32[8]) -> f32[8] {{
  %p0 = f32[8]{{0}} parameter(0)
  %a = f32[8]{{0}} negate(%p0), metadata={{op_name="x" stack_frame_id=3}}
  %b = f32[2]{{0}} slice(%p0), metadata={{op_name="x" stack_frame_id=4}}
  %c = f32[2]{{0}} negate(%b), metadata={{op_name="x" stack_frame_id=4}}
  ROOT %d = f32[8]{{0}} pad(%a, %c), metadata={{op_name="x" stack_frame_id=1}}
}}

ENTRY %main (x: f32[8]) -> f32[8] {{
  %x = f32[8]{{0}} parameter(0)
  ROOT %k = f32[8]{{0}} fusion(%x), kind=kLoop, calls=%fused, metadata={{op_name="jit(f)/PASS/mul"}}
}}
"""


@pytest.mark.parametrize("shift", [0, 1], ids=["callers as numbered", "callers one too high"])
def test_a_kernel_is_of_the_part_that_most_of_its_numbers_come_from(shift):
    for name, part in (("jvp()", "SwiGLU"), ("transpose(jvp())", "SwiGLU backward")):
        text = framed(shift).replace("PASS", name)
        module = Module.parse(text)
        assert Sources(text).of(module, module.named["k"]) == part
    assert Sources(STEP).of(Module.parse(STEP), Module.parse(STEP).named["silu"]) == ""


CARD = types.SimpleNamespace(platform="gpu", device_kind="NVIDIA H100 80GB HBM3")


def compiled(memory_bytes):
    """compile_on of STEP for eight H100, as if its compiler had been asked."""
    memory = types.SimpleNamespace(
        argument_size_in_bytes=memory_bytes - 100,
        temp_size_in_bytes=100,
        output_size_in_bytes=40,
        alias_size_in_bytes=40,
    )
    program = types.SimpleNamespace(memory_analysis=lambda: memory, as_text=lambda: STEP)
    lowered = types.SimpleNamespace(compile=lambda options: program)
    where = Slice("h100:8", GPUS["h100"], [CARD] * 8)
    mesh = types.SimpleNamespace(devices=np.array([CARD] * 8, object))
    return compile_on(where, mesh, lowered, model_flops=8 * 2 * 32 * 64 * 128)


def test_the_report_of_a_program():
    report, bandwidth = compiled(10**9), GPUS["h100"].bandwidth
    cast, gemm, sums = 64 * 128 * 6, 2 * (32 * 64 + 64 * 128 + 128 + 32 * 128), 32 * 128 * 2 + 512
    silu, grad = 2 * 32 * 128 * 2, 2 * 128 + 4 * 2**20
    assert report["kernels"] == {
        "products": 1,
        "copies and casts": 2,
        "elementwise and reductions": 2,
    }
    assert report["kernel_bytes"] == {
        "copies and casts": cast + grad,
        "products": gemm,
        "elementwise and reductions": silu + sums,
    }
    assert report["kernel_flops"] == {"products": 2 * 32 * 64 * 128}
    assert report["library_calls"] == {"__cublas$lt$matmul": 1}
    assert report["matmul_flops"] == report["model_flops"] == 2 * 32 * 64 * 128
    assert report["collective_bytes"] == {"all-reduce": 4 * 2**20}
    assert report["collectives_overlapped"] == {"all-reduce": 1}
    # All of them move more than they compute. 7/8 of the sum go out and come in, twice.
    assert report["estimated_seconds"] == pytest.approx(
        (cast + grad + gemm + silu + sums) / bandwidth
    )
    link = 2 * 7 / 8 * 4 * 2**20 / 450e9
    assert report["communication_seconds"] == pytest.approx(link)
    assert report["exposed_communication_seconds"] == pytest.approx(link - silu / bandwidth)
    assert report["bound_by"] == "communication"
    assert report["peak_bytes"] == 10**9 and report["hbm_bytes"] == GPUS["h100"].hbm_bytes


def test_a_program_is_refused_where_the_card_is_too_small():
    compiled(78 * 10**9)  # of 84.9, of which 92 % can be taken
    with pytest.raises(
        ValueError, match=r"memory of h100:8: it needs 73\.6 GiB of 79\.1"
    ) as refused:
        compiled(79 * 10**9)
    assert "\n" not in str(refused.value)
