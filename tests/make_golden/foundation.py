"""DINOv2 and MAE as the release calls them, and the resizing on the way."""

import functools
from typing import Any
from unittest import mock

import torch
from torch.nn import functional as F

from tests.make_golden.registry import Case, Made, Tensors, case

# Of timm's VisionTransformer; the other keys of a case's config say what happens around it.
ARGUMENTS = (
    "img_size",
    "patch_size",
    "embed_dim",
    "depth",
    "num_heads",
    "init_values",
    "dynamic_img_size",
)


def foundation(kind: str, config: dict[str, Any], weights: Tensors) -> Any:
    """The release's wrapper around a small network; its own downloads a large one."""
    from ldm.models import foundation_models as module
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(num_classes=0, **{name: config[name] for name in ARGUMENTS})
    model.load_state_dict(weights)
    small = (model.requires_grad_(False), config["embed_dim"])
    with mock.patch.object(module, "create_foundation_model", return_value=small):
        return module.aux_foundation_model(kind).eval()


def positions(model: Any, side: int) -> torch.Tensor:
    """Its position embedding on a grid of that side, the class token's row first."""
    from timm.layers import resample_abs_pos_embed

    return resample_abs_pos_embed(model.pos_embed, [side, side], num_prefix_tokens=1)


@case("foundation_dinov2")
def dinov2(case: Case) -> Made:
    """The release resizes to 224; here to the config's `resized_to`."""
    wrapper, x = foundation("dinov2", case.config, case.weights()), case.inputs["x"]
    side = case.config["resized_to"]
    resized: Tensors = {}

    def resize(x: torch.Tensor, size: Any, interpolate: Any = F.interpolate, **how: Any) -> Any:
        # timm resizes the position embedding with the same function.
        if tuple(size) != (224, 224):
            return interpolate(x, size, **how)
        resized["mid.interpolated"] = interpolate(x, (side, side), **how)
        return resized["mid.interpolated"]

    with mock.patch.object(F, "interpolate", resize):
        feature = wrapper(x)
    tokens = wrapper.model.forward_features(resized["mid.interpolated"])
    of_model = {
        "mid.pos_embed": positions(wrapper.model, side // case.config["patch_size"]),
        "mid.tokens": tokens,
        "out.feature": feature,
    }
    return {name: tensor.detach() for name, tensor in {**resized, **of_model}.items()}


@case("foundation_dinov2_realsize")
def dinov2_real_size(case: Case) -> Made:
    wrapper = foundation("dinov2", case.config, case.weights())
    x = (case.inputs["u8"].float() / 127.5 - 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return {"mid.pos_embed": positions(wrapper.model, 16), "out.feature": wrapper(x)}


@case("foundation_mae")
def mae(case: Case) -> Made:
    wrapper = foundation("mae", case.config, case.weights())
    other = wrapper(case.inputs["x_other_size"])
    return {"out.feature": wrapper(case.inputs["x"]), "out.feature_other_size": other}


@case("pos_embed_resample")
def pos_embed_resample(case: Case) -> Made:
    from timm.layers import resample_abs_pos_embed

    resample = functools.partial(resample_abs_pos_embed, num_prefix_tokens=1)
    return {
        "out.p37_16": resample(case.inputs["p37"], [16, 16]),
        "out.p5_7x4": resample(case.inputs["p5"], [7, 4]),
    }


@case("resize_bilinear")
def resize_bilinear(case: Case) -> Made:
    x, x2 = case.inputs["x"], case.inputs["x2"]
    smooth = functools.partial(F.interpolate, align_corners=False)
    return {
        "out.x_28": smooth(x, size=(28, 28), mode="bilinear"),
        "out.x2_6x20": smooth(x2, size=(6, 20), mode="bilinear"),
        "out.x2_nearest2": F.interpolate(x2, scale_factor=2.0, mode="nearest"),
        "out.x_16_antialias": smooth(x, size=(16, 16), mode="bilinear", antialias=True),
        "out.x_20_bicubic_antialias": smooth(x, size=(20, 20), mode="bicubic", antialias=True),
    }
