"""Names and shapes in the state dicts of the full-size models, which are made without memory."""

import functools
import pathlib
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
import yaml

from tests.make_golden.losses import lpips
from tests.make_golden.registry import Case, Made, case

VGG16_WIDTHS = [64, 128, 256, 512, 512]
# What timm calls the foundation models that the release takes from a hub, and others.
FOUNDATION = {
    "timm_vit_large_patch14_dinov2": "vit_large_patch14_dinov2.lvd142m",
    "timm_vit_large_patch16_224_mae": "vit_large_patch16_224.mae",
    "timm_vit_large_patch14_reg4_dinov2": "vit_large_patch14_reg4_dinov2.lvd142m",
    "timm_vit_large_patch16_dinov3": "vit_large_patch16_dinov3.lvd1689m",
    "timm_vit_so400m_patch16_siglip_256": "vit_so400m_patch16_siglip_256.v2_webli",
    "timm_vit_large_patch14_clip_224": "vit_large_patch14_clip_224.openai",
}
# Of no vision transformer, which has no such argument.
OTHER_NETWORKS = {"timm_convnextv2_base": "convnextv2_base.fcmae_ft_in22k_in1k"}
ENTRY = {"case": "manifests", "config": {}, "tolerance": {"atol": 0, "rtol": 0}}


@case("manifests", entry=ENTRY)
def manifests(case: Case) -> Made:
    """Every stored manifest from the model that it names."""
    made: Made = {}
    paths = sorted((case.folder / "manifests").glob("*.json"))
    if not paths:
        raise FileNotFoundError(f"{case.folder / 'manifests'} has no manifest to make anew")
    for path in paths:
        file = f"manifests/{path.name}"
        stored = case.read(file)
        with torch.device("meta"):
            model = builder(stored)()
        made[file] = {**stored, **counts(model), "state_dict": listing(model)}
    return made


def builder(manifest: dict[str, Any]) -> Callable[[], torch.nn.Module]:
    """What makes a manifest's model."""
    from models.lightningdit import LightningDiT_models
    from taming.modules.discriminator.model import NLayerDiscriminator
    from tokenizer.autoencoder import AutoencoderKL

    name, kwargs = manifest["name"], manifest.get("kwargs", {})
    kind, _, variant = name.partition("_")
    if kind == "lightningdit":
        make = LightningDiT_models[f"LightningDiT-{variant.replace('_', '/')}"]
        return functools.partial(make, **kwargs)
    if name in FOUNDATION:
        return functools.partial(foundation, FOUNDATION[name], dynamic_img_size=True)
    if name in OTHER_NETWORKS:
        return functools.partial(foundation, OTHER_NETWORKS[name])
    if "kwargs" in manifest:
        make = NLayerDiscriminator if kind == "nlayer" else AutoencoderKL
        return functools.partial(make, **kwargs)
    return functools.partial(lpips, VGG16_WIDTHS) if kind == "lpips" else training


def foundation(name: str, dynamic_img_size: bool = False, **_: Any) -> torch.nn.Module:
    """Timm's model, without its weights."""
    from timm.models import create_model

    size = {"dynamic_img_size": True} if dynamic_img_size else {}
    model = create_model(name, pretrained=False, **size)
    return model.requires_grad_(False)


def training() -> torch.nn.Module:
    """All that trains VA-VAE f16d32, from the release's own configuration."""
    import timm
    from ldm.models.autoencoder import AutoencoderKL
    from ldm.modules.losses import contperceptual

    vavae = next(pathlib.Path(p) for p in sys.path if (pathlib.Path(p) / "ldm").is_dir())
    config = yaml.safe_load((vavae / "configs" / "f16d32_vfdinov2.yaml").read_text())
    dinov2 = functools.partial(foundation, FOUNDATION["timm_vit_large_patch14_dinov2"])
    with (
        mock.patch.object(contperceptual, "LPIPS", functools.partial(lpips, VGG16_WIDTHS)),
        mock.patch.object(timm, "create_model", lambda hub_name, **kwargs: dinov2(**kwargs)),
    ):
        return AutoencoderKL(**config["model"]["params"])


def counts(model: torch.nn.Module) -> dict[str, int]:
    """Of its parameters and of its state dict."""
    parameters = list(model.parameters())
    return {
        "param_count": sum(p.numel() for p in parameters),
        "trainable_param_count": sum(p.numel() for p in parameters if p.requires_grad),
        "num_keys": len(model.state_dict()),
    }


def listing(model: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """Name -> shape, and where they are not the usual: dtype, buffer, not trained."""
    parameters = dict(model.named_parameters())
    names: dict[str, dict[str, Any]] = {}
    for name, tensor in model.state_dict().items():
        names[name] = {"shape": list(tensor.shape)}
        if tensor.dtype != torch.float32:
            names[name]["dtype"] = str(tensor.dtype).removeprefix("torch.")
        if name not in parameters:
            names[name]["buffer"] = True
        elif not parameters[name].requires_grad:
            names[name]["trainable"] = False
    return names
