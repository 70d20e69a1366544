"""Pieces of programs that XLA wrote for an H100: shapes smaller, what nobody reads cut away."""

# Of a [M, K] and a [K, N]. Fields of backend_config that say nothing of the work are left out.
GEMM = (
    'custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"beta":0,'
    '"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]'
    ',"lhs_batch_dimensions":[],"rhs_batch_dimensions":[]},"epilogue":"BIAS"}}'
)
# Of a while.
TRIPS = 'backend_config={"known_trip_count":{"n":"249"},"known_init_step":{"init":"0","step":"1"}}'


def fmha(name):
    """The target of attention, forwards or backwards, of weights [2, 4, 16, 16]."""
    return (
        f'custom_call_target="__cudnn${name}", backend_config={{"cudnn_fmha_backend_config": '
        '{"algorithm": {"tuning_knobs": {"17": "1"}}, "intermediate_tensor_shape": {"element_type":'
        ' "BF16", "dimensions": ["2", "4", "16", "16"], "tuple_shapes": [], "layout": '
        '{"minor_to_major": ["3", "2", "1", "0"]}}, "mask_type": "NO_MASK"}}'
    )


def convolution(name):
    """The target of a 4x4 convolution of stride 2: every call has the forward one's window."""
    return (
        "window={size=4x4 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, "
        f'custom_call_target="__cudnn${name}"'
    )


TOGETHER = "channel_id=1, replica_groups=mesh['axis_0'=8] {'axis_0'}, to_apply=%add"
HEAD = "HloModule jit_step_fn, is_scheduled=true, num_partitions=8\n"

# A product with a cast before and SiLU and a sum after it, on each of eight GPUs, whose gradient is
# summed beside the last kernel.
STEP = (
    HEAD
    + f"""
%fused_convert (param_0: f32[64,128]) -> bf16[64,128] {{
  %param_0 = f32[64,128]{{1,0}} parameter(0)
  ROOT %convert.1 = bf16[64,128]{{1,0}} convert(%param_0)
}}

%fused_silu (param_1: bf16[32,128]) -> bf16[32,128] {{
  %param_1 = bf16[32,128]{{1,0}} parameter(0)
  %logistic.1 = bf16[32,128]{{1,0}} logistic(%param_1)
  ROOT %multiply.1 = bf16[32,128]{{1,0}} multiply(%param_1, %logistic.1)
}}

%fused_sum (param_2: bf16[32,128]) -> f32[128] {{
  %param_2 = bf16[32,128]{{1,0}} parameter(0)
  %zero = f32[] constant(0)
  ROOT %reduce.1 = f32[128]{{0}} reduce(%param_2, %zero), dimensions={{0}}, to_apply=%add
}}

ENTRY %main (x: bf16[32,64], w: f32[64,128], b: bf16[128]) -> (f32[128], f32[1048576]) {{
  %x = bf16[32,64]{{1,0}} parameter(0)
  %w = f32[64,128]{{1,0}} parameter(1)
  %b = bf16[128]{{0}} parameter(2)
  %cast = bf16[64,128]{{1,0}} fusion(%w), kind=kLoop, calls=%fused_convert
  %gemm = (bf16[32,128]{{1,0}}, s8[4194304]{{0}}) custom-call(%x, %cast, %b), {GEMM}
  %y = bf16[32,128]{{1,0}} get-tuple-element(%gemm), index=0
  %grad = f32[1048576]{{0}} broadcast(%b), dimensions={{}}
  %start = ((f32[1048576]{{0}}), f32[1048576]{{0}}) all-reduce-start(%grad), {TOGETHER}
  %silu = bf16[32,128]{{1,0}} fusion(%y), kind=kLoop, calls=%fused_silu
  %done = f32[1048576]{{0}} all-reduce-done(%start)
  %sum = f32[128]{{0}} fusion(%silu), kind=kInput, calls=%fused_sum
  ROOT %out = (f32[128]{{0}}, f32[1048576]{{0}}) tuple(%sum, %done)
}}
"""
)
