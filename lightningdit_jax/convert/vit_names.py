"""One set of names for the tensors of a ViT, whatever program wrote them: those of timm.

OpenAI's and open_clip's CLIP; Hugging Face's CLIP, SigLIP, Dinov2 (with registers) and DINOv3ViT,
as the hub's files and as newer versions of transformers call them; the authors' DINOv2 and DINOv3.
What a program keeps apart and this one fuses (q, k and v; gate and value) is fused.
"""

import re
from collections.abc import Mapping

import numpy as np

from lightningdit_jax.convert.keymap import Tensors

OPENAI_SIGN = "visual.class_embedding"
_OPENAI = "visual."
_TIMM_IN_OPEN_CLIP = "visual.trunk."
# Parts of a name, in this order; Hugging Face's towers and what stands around them, CLIP's own.
_RENAMED = (
    (r"^vision_model\.", ""),
    (r"^(model\.|encoder\.)?layers?\.(\d+)\.", r"blocks.\2."),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # DINOv2's chunks
    (r"^embeddings\.(class_embedding|cls_token)$", "cls_token"),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^embeddings\.(position_embedding\.weight|position_embeddings)$", "pos_embed"),
    (r"^embeddings\.patch_embeddings?(\.projection)?\.", "patch_embed.proj."),
    (r"^(embeddings\.register_tokens|register_tokens|storage_tokens)$", "reg_token"),
    (r"^(pre_layrnorm|ln_pre)\.", "norm_pre."),
    (r"^(post_layernorm|layernorm|ln_post)\.", "norm."),
    (r"^visual_projection\.", "head."),
    (r"^(blocks\.\d+\.)(layer_norm|ln_)([12])\.", r"\1norm\3."),
    (r"^(blocks\.\d+\.)(layer_scale([12])\.lambda1|gamma_([12]))$", r"\1ls\3\4.gamma"),
    (r"^(blocks\.\d+\.)(self_attn|attention\.attention|attention)\.", r"\1attn."),
    (r"\.attn\.(out_proj|o_proj|output\.dense)\.", ".attn.proj."),
    (r"\.attn\.(query|key|value)\.", lambda match: f".attn.{match[1][0]}_proj."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.([qv])_bias$", r".attn.\1_proj.bias"),
    (r"\.mlp\.(c_fc|up_proj)\.", ".mlp.fc1."),
    (r"\.mlp\.(c_proj|down_proj)\.", ".mlp.fc2."),
    (r"\.mlp\.(weights_in|w12)\.", ".mlp.w12."),
    (r"\.mlp\.(weights_out)\.", ".mlp.w3."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.attention\.in_proj_", "attn_pool.qkv."),
    (r"^head\.(layernorm|mlp)\.", lambda match: f"attn_pool.{match[1].replace('layer', '')}."),
)
_AXES = {"cls_token": 3, "pos_embed": 3, "reg_token": 3}
# Gate and value of MLPs that keep them apart.
_GATED = (("gate_proj", "fc1"), ("fc1_g", "fc1_x"))


def timm_names(tensors: Tensors) -> Mapping[str, np.ndarray]:
    """The tensors by timm's names, gated MLPs by DINOv2's; those of no vision tower keep theirs."""
    renamed = _with_gates(_towers(tensors))
    for key in [key for key in renamed if ".mlp.w1." in key]:
        if (other := key.replace(".w1.", ".w2.")) in renamed:
            parts = [renamed.pop(key), renamed.pop(other)]
            renamed[key.replace(".w1.", ".w12.")] = np.concatenate(parts)
    up, down = (renamed.get(f"blocks.0.mlp.{name}.weight") for name in ("fc1", "fc2"))
    if up is None or down is None or up.ndim != 2 or up.shape[0] != 2 * down.shape[-1]:
        return renamed
    fused = {"mlp.fc1.": "mlp.w12.", "mlp.fc2.": "mlp.w3."}  # timm's, of DINOv2's giant
    return {re.sub(r"mlp\.fc[12]\.", lambda m: fused[m[0]], k): v for k, v in renamed.items()}


def dinov3_names(tensors: Tensors) -> Mapping[str, np.ndarray]:
    """The tensors by the names of DINOv3's authors, keys without biases, which they mask."""
    renamed = _with_gates(_towers(tensors))
    if "reg_token" in renamed:
        renamed["storage_tokens"] = renamed.pop("reg_token")
    for key in renamed:
        if key.endswith(".attn.qkv.bias"):
            query, _, value = np.split(renamed[key], 3)
            renamed[key] = np.concatenate([query, np.zeros_like(query), value])
    return renamed


def _towers(tensors: Tensors) -> dict[str, np.ndarray]:
    """The tensors of the vision tower by timm's names, but for gated MLPs."""
    if any(key.startswith(_TIMM_IN_OPEN_CLIP) for key in tensors):
        renamed = {
            key.removeprefix(_TIMM_IN_OPEN_CLIP).replace("visual.head.proj.", "head."): value
            for key, value in tensors.items()
        }
    elif OPENAI_SIGN in tensors:
        renamed = dict(_of_openai(key, value) for key, value in tensors.items())
    else:
        renamed = {_renamed(key): value for key, value in tensors.items()}
    for name, axes in _AXES.items():
        if name in renamed and renamed[name].ndim < axes:
            value = renamed[name]
            renamed[name] = value.reshape((1,) * (axes - value.ndim) + value.shape)
    return _fused_attention(renamed)


def _renamed(key: str) -> str:
    for pattern, replacement in _RENAMED:
        key = re.sub(pattern, replacement, key)
    return key


def _of_openai(key: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    if not key.startswith(_OPENAI):
        return key, value  # of the text tower, whose blocks are called as those of images
    name = key.removeprefix(_OPENAI)
    if name == "proj":
        return "head.weight", value.T
    plain = {
        "class_embedding": "cls_token",
        "positional_embedding": "pos_embed",
        "conv1.weight": "patch_embed.proj.weight",
    }
    return plain.get(name) or _renamed(name), value


def _fused_attention(tensors: Tensors) -> dict[str, np.ndarray]:
    """q, k and v of blocks as one tensor, and of the pool's query alone as timm has it."""
    fused = dict(tensors)
    for key in tensors:
        if key.endswith(".attn.q_proj.weight") or key.endswith(".attn.q_proj.bias"):
            _fuse_qkv(fused, key)
        if key.startswith("attn_pool.qkv."):
            query, both = np.split(fused.pop(key), [len(tensors[key]) // 3])
            fused[key.replace("qkv", "q")], fused[key.replace("qkv", "kv")] = query, both
    return fused


def _fuse_qkv(tensors: dict[str, np.ndarray], q: str) -> None:
    """DINOv3's keys have no bias: zeros."""
    names = [q.replace("q_proj", f"{part}_proj") for part in "qkv"]
    if names[1] not in tensors and names[1].endswith("bias") and names[2] in tensors:
        tensors[names[1]] = np.zeros_like(tensors[q])
    if all(name in tensors for name in names):
        parts = [tensors.pop(name) for name in names]
        tensors[q.replace("q_proj", "qkv")] = np.concatenate(parts)


def _with_gates(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """MLPs that keep gate and value apart as DINOv3's authors call them: w1, w2 and w3."""
    for gate, value in _GATED:
        if any(f".mlp.{gate}." in key for key in tensors):
            new = {f".mlp.{old}.": f".mlp.w{i}." for i, old in enumerate((gate, value, "fc2"), 1)}
            return {
                next((k.replace(old, new[old]) for old in new if old in k), k): v
                for k, v in tensors.items()
            }
    return tensors
