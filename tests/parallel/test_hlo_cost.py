"""Costs read from HLO text, against counts by hand."""

import pytest

from lightningdit_jax.parallel.hlo_cost import program_cost
from lightningdit_jax.parallel.hlo_text import Module

PROGRAM = """HloModule step

%fused (p0: bf16[8,16], p1: bf16[16,32]) -> bf16[8,32] {
  %p0 = bf16[8,16]{1,0} parameter(0)
  %p1 = bf16[16,32]{1,0} parameter(1)
  ROOT %d = bf16[8,32] dot(%p0, %p1), lhs_contracting_dims={1}, metadata={op_name="f/NK,KM->NM/dot"}
}

%body (state: (s32[], bf16[8,16])) -> (s32[], bf16[8,16]) {
  %state = (s32[], bf16[8,16]) parameter(0)
  %a = bf16[8,16]{1,0} get-tuple-element(%state), index=1
  %b = bf16[16,32]{1,0} constant({...})
  %f = bf16[8,32]{1,0} fusion(%a, %b), kind=kOutput, calls=%fused, x={"estimated_cycles":"100"}
  %gather = bf16[8,32]{1,0} all-gather(%f), dimensions={0}
  ROOT %t = (s32[], bf16[8,16]) tuple(%state, %a)
}

%condition (state.1: (s32[], bf16[8,16])) -> pred[] {
  %state.1 = (s32[], bf16[8,16]) parameter(0)
  %i = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[] constant(28)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (x: (s32[], bf16[8,16])) -> (s32[], bf16[8,16]) {
  %x = (s32[], bf16[8,16]) parameter(0)
  %copy = bf16[8,16]{1,0} copy(%x), backend_config={"estimated_cycles":"7"}
  ROOT %loop = (s32[], bf16[8,16]) while(%x), condition=%condition, body=%body
}
"""


def test_a_loop_counts_as_often_as_it_runs():
    cost = program_cost(Module.parse(PROGRAM))
    assert cost.matmul_flops == 28 * 2 * 8 * 16 * 32
    assert cost.cycles == {"copies and casts": 7, "products": 28 * 100}
    assert cost.total_cycles == 7 + 28 * 100
    assert cost.product_flops == {"NK,KM->NM": 28 * 2 * 8 * 16 * 32}
    assert cost.product_cycles == {"NK,KM->NM": 28 * 100}
    assert cost.collectives == {"all-gather": 28}
    assert cost.collective_bytes == {"all-gather": 28 * 8 * 32 * 2}
    assert cost.overlapped == {"all-gather": 0}


KERNELS = """HloModule step

%with_input (y: bf16[9,3,256,128]) -> bf16[3,256,128] {
  %y = bf16[9,3,256,128]{3,2,1,0} parameter(0)
  %slice = bf16[3,256,128]{2,1,0} slice(%y)
  ROOT %sharpen.1 = bf16[3,256,128]{2,1,0} custom-call(%slice), custom_call_target="tpu_custom_call"
}

ENTRY %main (x: bf16[9,3,256,128]) -> bf16[3,256,128] {
  %x = bf16[9,3,256,128]{3,2,1,0} parameter(0)
  %transpose_jvp_blur__.2 = (bf16[3,256,128]{2,1,0}, f32[3,2]{1,0}) custom-call(%x), custom_call_target="tpu_custom_call", x={"cost_estimate":{"flops":"4096","transcendentals":"5"}}
  %other = bf16[3,256,128]{2,1,0} custom-call(%x), custom_call_target="ConcatBitcast"
  ROOT %fusion = bf16[3,256,128]{2,1,0} fusion(%x), kind=kCustom, calls=%with_input
}
"""  # noqa: E501


def test_kernels_in_pallas_take_the_cycles_that_are_said_of_them_for_each_image():
    cost = program_cost(Module.parse(KERNELS), kernel_cycles={"blur": 70, "sharpen": 20})
    assert cost.cycles == {"attention's kernel": 3 * 90}
    assert cost.product_cycles == {"blur": 3 * 70, "sharpen": 3 * 20}
    assert cost.matmul_flops == cost.product_flops["blur"] == 4096
    assert program_cost(Module.parse(KERNELS)).total_cycles == 0


OVERLAPPED = """HloModule step

%begin (p0: bf16[2,8]) -> bf16[8,8] {
  %p0 = bf16[2,8]{1,0} parameter(0)
  ROOT %g = bf16[8,8]{1,0} all-gather(%p0), channel_id=1, dimensions={0}
}

%meanwhile (p1: bf16[2,8]) -> (f32[4], bf16[8,8]) {
  %p1 = bf16[2,8]{1,0} parameter(0)
  %g1 = bf16[8,8]{1,0} all-gather(%p1), channel_id=1, dimensions={0}
  %e = f32[4]{0} exponential(%g1)
  ROOT %t = (f32[4]{0}, bf16[8,8]{1,0}) tuple(%e, %g1)
}

%all-reduce-scatter.1 (p2: bf16[8,8]) -> bf16[2,8] {
  %p2 = bf16[8,8]{1,0} parameter(0)
  %r = bf16[8,8]{1,0} all-reduce(%p2), channel_id=2, to_apply=%add
  ROOT %s = bf16[2,8]{1,0} dynamic-slice(%r, %r), dynamic_slice_sizes={2,8}
}

ENTRY %main (x: bf16[2,8]) -> bf16[2,8] {
  %x = bf16[2,8]{1,0} parameter(0)
  %start = bf16[8,8]{1,0} fusion(%x), kind=kCustom, calls=%begin
  %middle = (f32[4]{0}, bf16[8,8]{1,0}) fusion(%x), calls=%meanwhile, x={"estimated_cycles":"9"}
  %send = (bf16[2,8]{1,0}, bf16[2,8]{1,0}, u32[]) collective-permute-start(%x), channel_id=3
  %sum = (f32[4]{0}, pred[2]{0}) all-reduce(%x, %x), channel_id=4, to_apply=%add
  ROOT %scatter = bf16[2,8]{1,0} fusion(%start), kind=kCustom, calls=%all-reduce-scatter.1
}
"""


def test_a_collective_that_overlaps_with_fusions_counts_once():
    cost = program_cost(Module.parse(OVERLAPPED))
    once = {"all-gather": 1, "collective-permute": 1, "reduce-scatter": 1, "all-reduce": 1}
    assert cost.collectives == once
    assert +cost.overlapped == {"all-gather": 1, "collective-permute": 1}
    assert cost.collective_bytes == {
        "all-gather": 8 * 8 * 2,
        "collective-permute": 2 * 8 * 2,
        "reduce-scatter": 8 * 8 * 2,
        "all-reduce": 4 * 4 + 2,
    }
    assert cost.cycles == {"elementwise and reductions": 9}


STARTED = """HloModule step, num_partitions=8

ENTRY %main (x: bf16[2,8], y: f32[4]) -> bf16[2,8] {
  %x = bf16[2,8]{1,0} parameter(0)
  %y = f32[4]{0} parameter(1)
  %g = ((bf16[2,8]{1,0}, f32[4]{0}), (bf16[16,8]{1,0}, f32[32]{0})) all-gather-start(%x, %y)
  %gd = (bf16[16,8]{1,0}, f32[32]{0}) all-gather-done(%g)
  %s = ((bf16[16,8]{1,0}, f32[32]{0}), (bf16[2,8]{1,0}, f32[4]{0})) reduce-scatter-start(%gd, %gd)
  %sd = (bf16[2,8]{1,0}, f32[4]{0}) reduce-scatter-done(%s)
  %r = ((f32[4]{0}), f32[4]{0}) all-reduce-start(%y), x={"is_sync":true,"is_pipelined":false}
  %rd = f32[4]{0} all-reduce-done(%r)
  ROOT %out = bf16[2,8]{1,0} copy(%x)
}
"""


def test_collectives_of_several_arrays_that_start_together():
    """As XLA writes them for GPUs: what goes in and what comes out, in tuples."""
    cost = program_cost(Module.parse(STARTED))
    whole = 16 * 8 * 2 + 32 * 4
    assert cost.collective_bytes == {"all-gather": whole, "reduce-scatter": whole, "all-reduce": 16}
    assert +cost.overlapped == {"all-gather": 1, "reduce-scatter": 1}


def convolution(left, right, out, labels, window):
    shape = "bf16[{}]{{0}}".format
    text = f"""ENTRY %main (a: bf16[1]) -> bf16[1] {{
  %a = {shape(left)} parameter(0)
  %b = {shape(right)} parameter(1)
  ROOT %c = {shape(out)} convolution(%a, %b), window={{{window}}}, dim_labels={labels}
}}
"""
    return program_cost(Module.parse(text)).matmul_flops


@pytest.mark.parametrize(
    ("arguments", "flops"),
    [
        # A plain product of [64 x 256, 3072] and [3072, 1152].
        (
            ("64,256,3072", "3072,1152,1", "64,256,1152", "0bf_io0->0bf", "size=1"),
            2 * 64 * 256 * 3072 * 1152,
        ),
        # Attention logits: batch and heads are dilated window axes with one real tap each.
        (
            (
                "64,256,16,72",
                "64,256,16,72",
                "64,16,256,256",
                "0b1f_0o1i->01bf",
                "size=64x16 stride=63x15 lhs_dilate=64x16",
            ),
            2 * 64 * 16 * 256 * 256 * 72,
        ),
        # Fused q, k, v: a full convolution over an axis that the input has once.
        (
            (
                "64,256,1152,1,1",
                "1152,3,16,72,1",
                "64,256,3,16,72",
                "0bf12_i12o0->0b12f",
                "size=1x3x16 pad=0_0x2_2x15_15 rhs_reversal=0x1x1",
            ),
            2 * 64 * 256 * 1152 * 3 * 16 * 72,
        ),
        # A 3x3 convolution with padding 1 on 4x4: 10 x 10 of the 12 x 12 taps are not padding.
        (
            ("2,4,4,5", "3,3,5,7", "2,4,4,7", "b01f_01io->b01f", "size=3x3 pad=1_1x1_1"),
            2 * 2 * 5 * 7 * 10 * 10,
        ),
    ],
)
def test_products_in_the_shape_of_convolutions(arguments, flops):
    assert convolution(*arguments) == flops


SCOPES = """HloModule step

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %a = f32[8]{0} add(%x, %x), metadata={op_name="jit(f)/jvp(encoder)/add"}, x={"estimated_cycles":"1"}
  %b = f32[8]{0} negate(%a), metadata={op_name="jit(f)/transpose(jvp(decoder))/checkpoint/neg"}, x={"estimated_cycles":"20"}
  %c = f32[8]{0} negate(%b), metadata={op_name="jit(f)/decoder/encoder/neg"}, x={"estimated_cycles":"300"}
  %d = f32[8]{0} copy(%c), x={"estimated_cycles":"4000"}
  ROOT %e = f32[8]{0} negate(%d), metadata={op_name="jit(f)/decoders/neg"}, x={"estimated_cycles":"50000"}
}
"""  # noqa: E501


def test_cycles_by_the_outermost_of_the_named_scopes():
    cost = program_cost(Module.parse(SCOPES), ("encoder", "decoder"))
    assert cost.component_cycles == {"encoder": 1, "decoder": 320, "others": 54_000}
    assert sum(cost.component_cycles.values()) == cost.total_cycles
