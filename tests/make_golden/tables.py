"""Fixed tables (times, positions, rotations) and the small layers beside them."""

import torch

from tests.make_golden.registry import Case, Made, case


@case("timestep_embedding")
def timestep_embedding(case: Case) -> Made:
    from models.lightningdit import TimestepEmbedder

    t, embed = case.inputs["t"], TimestepEmbedder.timestep_embedding
    out = {f"out.dim{dim}": embed(t, dim) for dim in case.config["dims"]}
    return {**out, "out.dim32_max100": embed(t, 32, max_period=100)}


@case("pos_embed_2d")
def pos_embed_2d(case: Case) -> Made:
    from models.lightningdit import get_2d_sincos_pos_embed

    # As the model keeps it, in float32; its sums are float64.
    table = torch.from_numpy(get_2d_sincos_pos_embed(1152, 16)).float().double()
    out = {
        "xl1_rows": table[case.inputs["rows"]],
        "xl1_rowsum": table.sum(1),
        "xl1_colsum": table.sum(0),
        "d16_g5": torch.from_numpy(get_2d_sincos_pos_embed(16, 5)),
        "cls": torch.from_numpy(get_2d_sincos_pos_embed(16, 3, cls_token=True, extra_tokens=1)),
    }
    return {f"out.{name}": value.float() for name, value in out.items()}


@case("rope")
def rope(case: Case) -> Made:
    from models.pos_embed import VisionRotaryEmbeddingFast

    out: Made = {}
    for name, config in case.config.items():
        rotation = VisionRotaryEmbeddingFast(
            dim=config["dim"],
            pt_seq_len=config.get("grid", config.get("pt_seq_len")),
            ft_seq_len=config.get("ft_seq_len"),
        )
        out[f"out.{name}.freqs_cos"] = rotation.freqs_cos
        out[f"out.{name}.freqs_sin"] = rotation.freqs_sin
        if f"{name}.q" in case.inputs:
            # The release rotates all positions; only those that are stored matter.
            q, positions = case.inputs[f"{name}.q"], case.inputs[f"{name}.pos"]
            tokens = torch.zeros(*q.shape[:2], len(rotation.freqs_cos), q.shape[-1])
            tokens[:, :, positions] = q
            out[f"out.{name}.q_rot"] = rotation(tokens)[:, :, positions]
    return out


@case("rmsnorm_swiglu")
def rmsnorm_swiglu(case: Case) -> Made:
    from models.rmsnorm import RMSNorm
    from models.swiglu_ffn import SwiGLUFFN

    x, config = case.inputs["x"], case.config
    norm, plain = RMSNorm(config["dim"], config["eps"]), RMSNorm(config["dim"], config["eps"])
    norm.weight.data = case.inputs["rms_weight"]
    ffn = SwiGLUFFN(config["dim"], config["hidden"])
    prefix = "ffn."
    ffn.load_state_dict(
        {k.removeprefix(prefix): v for k, v in case.inputs.items() if k.startswith(prefix)}
    )
    with torch.no_grad():
        return {
            "out.rms": norm(x),
            "out.rms_small": norm(0.001 * x),
            "out.ffn": ffn(x),
            "out.rms_bf16_as_f32": plain.to(torch.bfloat16)(x.to(torch.bfloat16)).float(),
        }
