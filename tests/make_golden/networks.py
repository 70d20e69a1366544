"""Vision networks of timm and of Hugging Face's transformers, tiny, by each program's own code."""

import sys
from typing import Any

import torch

from benchmarks.release_parity import randomize
from tests.make_golden.registry import Case, Made, Tensors, case

TIMM = ("clip", "siglip2", "dinov3", "convnextv2")
TRANSFORMERS = ("clip", "siglip2", "dinov2", "dinov3", "convnextv2")


def timm_model(config: dict[str, Any]) -> torch.nn.Module:
    from timm.models import create_model

    return create_model(config["model"], pretrained=False, **config["arguments"]).eval()


def transformers_model(config: dict[str, Any]) -> torch.nn.Module:
    sys.modules.pop("accelerate", None)  # the release's, which transformers takes for installed
    import transformers

    architecture = getattr(transformers, config["configuration"])(**config["arguments"])
    return getattr(transformers, config["model"])(architecture).eval()


def make_model(config: dict[str, Any]) -> torch.nn.Module:
    return (transformers_model if "configuration" in config else timm_model)(config)


def draw(entry: dict[str, Any], rng: torch.Generator) -> dict[str, Tensors]:
    """An image, and weights that leave no branch at zero."""
    model = make_model(entry["config"])
    randomize(model)
    if "head.bias" in model.state_dict():  # timm's; CLIP has no such
        torch.nn.init.zeros_(model.head.bias)
    inputs = {"in.x": torch.randn(entry["config"]["images"], generator=rng)}
    return {entry["file"]: inputs, entry["weights"]: model.state_dict()}


@case(*(f"network_{name}_timm" for name in TIMM), draw=draw)
def of_timm(case: Case) -> Made:
    model, x = timm_model(case.config), case.inputs["x"]
    model.load_state_dict(case.weights())
    with torch.no_grad():
        features = model.forward_features(x)
        if features.ndim == 4:
            return {"out.patches": features, "out.pooled": features.mean((2, 3))}
        made = {"out.patches": grid(features[:, model.num_prefix_tokens :], case)}
        if model.attn_pool is not None:
            return {**made, "out.pooled": model.attn_pool(features)}
        made["out.pooled"] = features[:, 0]
        projected = {} if model.num_classes == 0 else {"out.embedding": model.head(features[:, 0])}
        return {**made, **projected}


@case(*(f"network_{name}_transformers" for name in TRANSFORMERS), draw=draw)
def of_transformers(case: Case) -> Made:
    model, x = transformers_model(case.config), case.inputs["x"]
    model.load_state_dict(case.weights())
    with torch.no_grad():
        output = model(x)
        features = output.last_hidden_state
        if features.ndim == 4:
            return {"out.patches": features, "out.pooled": features.mean((2, 3))}
        if hasattr(output, "image_embeds"):
            tower = model.vision_model
            normed = tower.post_layernorm(features)
            pooled = {"out.pooled": normed[:, 0], "out.embedding": output.image_embeds}
            return {"out.patches": grid(normed[:, 1:], case), **pooled}
        rows = x.shape[2] * x.shape[3] // case.config["arguments"]["patch_size"] ** 2
        made = {"out.patches": grid(features[:, -rows:], case)}
        return {**made, "out.pooled": output.pooler_output}


def grid(tokens: torch.Tensor, case: Case) -> torch.Tensor:
    """Tokens of patches as they lie in the image. [B, N, D] -> [B, D, h, w]."""
    height, width = (
        side // case.config["arguments"]["patch_size"] for side in case.config["images"][2:]
    )
    return tokens.transpose(1, 2).unflatten(2, (height, width)).contiguous()
