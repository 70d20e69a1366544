"""LPIPS, PatchGAN and the loss of VA-VAE, with networks of reduced width."""

import functools
import itertools
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch.nn import functional as F

from tests.make_golden.patching import draws
from tests.make_golden.registry import Case, Made, Tensors, case

# Convolutions and poolings of VGG16, by stage.
VGG16 = (2, 2, 3, 3, 3)
SMALL = 2100  # elements: of larger parameters no gradients are stored
# Rows of vae_loss that store more than the others.
WITH_REC_GRADIENT = ("margins_adaptive", "no_vf", "pp_style", "vanilla")
WITH_BATCH_NORM = ("margins_adaptive", "eval_no_grad")
WITH_DISC_GRADIENTS = ("margins_adaptive",)


def lpips(channels: list[int]) -> torch.nn.Module:
    """Taming-transformers' LPIPS on a VGG16 of these widths; no weights are read."""
    from taming.modules.losses import lpips as module
    from torchvision.models.vgg import make_layers

    stages = ([width] * count + ["M"] for width, count in zip(channels, VGG16, strict=True))
    narrow = mock.Mock(features=make_layers(list(itertools.chain(*stages))))
    with (
        mock.patch.object(module.models, "vgg16", return_value=narrow),
        mock.patch.object(module.LPIPS, "load_from_pretrained"),
    ):
        model = module.LPIPS()
    model.chns = channels
    for number, width in enumerate(channels):
        setattr(model, f"lin{number}", module.NetLinLayer(width, use_dropout=True))
    return model.eval().requires_grad_(False)


@case("lpips_tiny")
def lpips_tiny(case: Case) -> Made:
    from taming.modules.losses.lpips import normalize_tensor, spatial_average

    model = lpips(case.config["channels"])
    model.load_state_dict(case.weights())
    x, y = case.inputs["input"], case.inputs["target"].requires_grad_()
    value = model(x, y)
    out = {"out.value": value, "out.grad_target": torch.autograd.grad(value.sum(), y)[0]}
    out["out.value_same"] = model(x, x)
    features = [model.net(model.scaling_layer(images)) for images in (x, y)]
    for number, (a, b) in enumerate(zip(*features, strict=True)):
        out[f"mid.feat{number}"] = a[:1]
        apart = (normalize_tensor(a) - normalize_tensor(b)) ** 2
        head = getattr(model, f"lin{number}").model
        out[f"mid.layer{number}"] = spatial_average(head(apart), keepdim=True)
    return {name: tensor.detach() for name, tensor in out.items()}


@case("discriminator", "discriminator_actnorm")
def discriminator(case: Case) -> Made:
    from taming.modules.discriminator.model import NLayerDiscriminator

    config = case.config
    model = NLayerDiscriminator(3, config["ndf"], config["n_layers"], config["use_actnorm"])
    model.load_state_dict(case.weights())
    x = case.inputs["x"].requires_grad_()
    out = {"out.logits_eval": model.eval()(x).detach()}
    logits = model.train()(x)
    out["out.logits_train"] = logits.detach()
    F.relu(1 - logits).mean().backward()
    out["out.grad_x"] = x.grad
    out |= {f"out.grad.{k}": v.grad for k, v in model.named_parameters() if v.numel() <= SMALL}
    model(0.5 * x)
    if not config["use_actnorm"]:
        out |= {f"out.after2.{k}": v.float() for k, v in model.named_buffers()}
    return out


@case("gan_losses")
def gan_losses(case: Case) -> Made:
    from taming.modules.losses.vqperceptual import adopt_weight, hinge_d_loss, vanilla_d_loss

    logits = case.inputs["logits_real"], case.inputs["logits_fake"]
    weights = [adopt_weight(0.7, step, threshold=5) for step in (0, 4, 5, 6)]
    return {
        "out.hinge": hinge_d_loss(*logits),
        "out.vanilla": vanilla_d_loss(*logits),
        "out.adopt": torch.tensor(weights),
    }


def narrow_loss(case: Case, ndf: int) -> Callable[..., torch.nn.Module]:
    """The release's loss, with the reduced networks and their weights."""
    from ldm.modules.losses import contperceptual as module

    def make(**kwargs: Any) -> torch.nn.Module:
        patch = functools.partial(mock.patch.object, module)
        widths = case.entries["lpips_tiny"]["config"]["channels"]
        narrow = functools.partial(module.NLayerDiscriminator, ndf=ndf)
        with (
            patch("LPIPS", functools.partial(lpips, widths)),
            patch("NLayerDiscriminator", narrow),
        ):
            loss = module.LPIPSWithDiscriminator(**kwargs)
        loss.perceptual_loss.load_state_dict(case.weights("perceptual_loss"))
        loss.discriminator.load_state_dict(case.weights("discriminator"))
        return loss

    return make


def logged(log: dict[str, torch.Tensor]) -> Tensors:
    """What the loss logs, without the name of the split."""
    return {name.rpartition("/")[2]: value.detach() for name, value in log.items()}


def batch_norm(loss: torch.nn.Module) -> Tensors:
    """Copies of the discriminator's running statistics."""
    buffers = loss.discriminator.named_buffers()
    return {name: value.clone() for name, value in buffers if "running" in name}


@case("vae_loss")
def vae_loss(case: Case) -> Made:
    make = narrow_loss(case, case.config["ndf"])
    out: Made = {}
    for name, row in case.config["rows"].items():
        of_row, rec, z = loss_row(case, name, row, make(**row["kwargs"]))
        out |= {f"out.{name}.{key}": value for key, value in of_row.items()}
        out |= {"out.rec": rec, "out.z": z}
    return out


def loss_row(
    case: Case, name: str, row: dict[str, Any], loss: torch.nn.Module
) -> tuple[Tensors, torch.Tensor, torch.Tensor]:
    """One row of options in both phases: what it stores, the reconstruction, the features."""
    from ldm.modules.distributions.distributions import DiagonalGaussianDistribution

    inputs, training = case.inputs, row["train_mode"]
    w_enc, w_mid, w_dec, w_proj = leaves = [
        inputs[f"w_{part}"].clone().requires_grad_(training)
        for part in ("enc", "mid", "dec", "proj")
    ]
    loss.train(training).perceptual_loss.eval()
    posterior = DiagonalGaussianDistribution(F.conv2d(inputs["h_enc"], w_enc, padding=1))
    with draws("randn", [inputs["eps"]]):
        latents = posterior.sample()
    hidden = torch.tanh(F.conv2d(latents, w_mid, padding=1))
    rec = F.conv2d(F.interpolate(hidden, scale_factor=4, mode="nearest"), w_dec, padding=1)
    z = F.conv2d(latents, w_proj)
    if training:
        # These hold what passes through them, also in the passes of the adaptive weights.
        rec.retain_grad()
        z.retain_grad()
    aligned = {"z": z, "aux_feature": inputs["aux"]} if row["z_and_aux"] else {}
    layers = {"last_layer": w_dec, "enc_last_layer": w_enc}
    weights = inputs["weights"] if row["weights"] else None
    common = (inputs["inputs"], rec, posterior)

    total, log = loss(*common, 0, row["global_step_g"], weights=weights, **layers, **aligned)
    out = {"loss": total.detach()} | {f"log.{k}": v for k, v in logged(log).items()}
    if training:
        total.backward(retain_graph=True)
        named = dict(zip(("w_enc", "w_mid", "w_dec", "w_proj"), leaves)) | {"z": z}
        named |= {"rec": rec} if name in WITH_REC_GRADIENT else {}
        out |= {f"grad.{k}": v.grad.clone() for k, v in named.items() if v.grad is not None}
    if name in WITH_BATCH_NORM:
        out |= {f"bn_after_g.{k}": v for k, v in batch_norm(loss).items()}

    d_loss, log = loss(*common, 1, row["global_step_d"], **layers)
    out |= {"d_loss": d_loss.detach()} | {f"dlog.{k}": v for k, v in logged(log).items()}
    if name in WITH_DISC_GRADIENTS:
        named = dict(loss.discriminator.named_parameters())
        gradients = torch.autograd.grad(d_loss, list(named.values()))
        out |= {f"d_grad.{k}": v for k, v in zip(named, gradients)}
    if name in WITH_BATCH_NORM:
        out |= {f"bn_after_d.{k}": v for k, v in batch_norm(loss).items()}
    return out, rec.detach(), z.detach()
