"""Costs read from HLO text, against counts by hand."""

import pytest

from lightningdit_jax.parallel.hlo_cost import program_cost

PROGRAM = """HloModule step

%fused (p0: bf16[8,16], p1: bf16[16,32]) -> bf16[8,32] {
  %p0 = bf16[8,16]{1,0} parameter(0)
  %p1 = bf16[16,32]{1,0} parameter(1)
  ROOT %dot.1 = bf16[8,32]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
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
    cost = program_cost(PROGRAM)
    assert cost.matmul_flops == 28 * 2 * 8 * 16 * 32
    assert cost.cycles == 7 + 28 * 100
    assert cost.collectives == {"all-gather": 28}


def convolution(left, right, out, labels, window):
    shape = "bf16[{}]{{0}}".format
    return program_cost(
        f"""ENTRY %main (a: bf16[1]) -> bf16[1] {{
  %a = {shape(left)} parameter(0)
  %b = {shape(right)} parameter(1)
  ROOT %c = {shape(out)} convolution(%a, %b), window={{{window}}}, dim_labels={labels}
}}
"""
    ).matmul_flops


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
