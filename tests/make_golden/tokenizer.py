"""VA-VAE's encoder, decoder and posterior, and the images around them."""

import functools
import io
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from PIL import Image

from tests.make_golden.patching import draws
from tests.make_golden.registry import Case, Made, Tensors, case

# Of the encoder and the decoder, which the release's AutoencoderKL gives no way to set.
SIZES = ("ch", "num_res_blocks", "attn_resolutions", "resolution")


def autoencoder(config: dict[str, Any], **kwargs: Any) -> torch.nn.Module:
    """The release's AutoencoderKL with a smaller encoder and decoder."""
    from tokenizer import autoencoder as module

    sizes = {name: config[name] for name in SIZES}
    encoder, large = functools.partial(module.Encoder, **sizes), module.Decoder

    def decoder(attn_resolutions: tuple[int, ...], **given: Any) -> torch.nn.Module:
        # It asks for attention at 16, which is where the config's is, or for none.
        where = sizes["attn_resolutions"] if attn_resolutions else ()
        return large(**{**sizes, **given, "attn_resolutions": where})

    with (
        mock.patch.object(module, "Encoder", encoder),
        mock.patch.object(module, "Decoder", decoder),
    ):
        return module.AutoencoderKL(config["embed_dim"], config["ch_mult"], **kwargs).eval()


@case("vae")
def vae(case: Case) -> Made:
    weights, x = case.weights(), case.inputs["x"]
    model = autoencoder(case.config)
    model.load_state_dict(weights)
    marvae = autoencoder(case.config, model_type="marvae")
    absent = case.config["marvae"]["keys_absent"]
    marvae.load_state_dict({k: v for k, v in weights.items() if k not in absent})
    with torch.no_grad():
        posterior, rect = model.encode(x), model.encode(case.inputs["x_rect"])
        with draws("randn", [case.inputs["eps"]]):
            sample = posterior.sample()
        out = {
            "encoder": model.encoder(x),
            "moments": posterior.parameters,
            "mean": posterior.mean,
            "logvar": posterior.logvar,
            "std": posterior.std,
            "kl": posterior.kl(),
            "sample": sample,
            "mode": posterior.mode(),
            "nll": posterior.nll(sample),
            "decode": model.decode(sample),
            "decode_marvae": marvae.decode(sample),
            "moments_rect": rect.parameters,
            "decode_rect": model.decode(rect.mode()),
        }
        mids = activations(model, x)
    return {**{f"out.{name}": tensor for name, tensor in out.items()}, **mids}


def activations(model: torch.nn.Module, x: torch.Tensor) -> Tensors:
    """mid.* of the first image through the encoder, and of its mode through the decoder."""
    parts = {
        "mid.enc_down0_downsample": model.encoder.down[0].downsample,
        "mid.enc_mid_attn_1": model.encoder.mid.attn_1,
        "mid.dec_mid_attn_1": model.decoder.mid.attn_1,
    }
    kept: Tensors = {}
    for name, part in parts.items():
        part.register_forward_hook(lambda m, args, out, name=name: kept.update({name: out[:1]}))
    model.decode(model.encode(x).mode()[:1])
    return kept


@case("diagonal_gaussian")
def diagonal_gaussian(case: Case) -> Made:
    from ldm.modules.distributions.distributions import DiagonalGaussianDistribution as Gaussian

    params, params2 = case.inputs["params"], case.inputs["params2"]
    clamped, ordinary = Gaussian(params), Gaussian(params2)
    certain = Gaussian(params, deterministic=True)
    return {
        "out.logvar": clamped.logvar,
        "out.std": clamped.std,
        "out.var": clamped.var,
        "out.kl": clamped.kl(),
        "out.kl_no_sum": ordinary.kl(no_sum=True),
        "out.kl_other": ordinary.kl(Gaussian(0.5 * params2 + 0.1)),
        "out.det_std": certain.std,
        "out.det_kl": certain.kl(),
        "out.nll2": ordinary.nll(ordinary.mean + 0.3),
    }


@case("vae_non_variational")
def vae_non_variational(case: Case) -> Made:
    from tokenizer.autoencoder import AutoencoderKL

    weight = case.inputs["quant_conv.weight"]
    # No more than its encode() is called, on what is taken for an encoder's output.
    model = SimpleNamespace(
        encoder=lambda h: h,
        quant_conv=functools.partial(
            torch.nn.functional.conv2d, weight=weight, bias=case.inputs["quant_conv.bias"]
        ),
        use_variational=False,
    )
    posterior = AutoencoderKL.encode(model, case.inputs["h"])
    return {"out.mean": posterior.mean, "out.logvar": posterior.logvar}


def va_vae(decoded: torch.Tensor | None = None) -> Any:
    """The release's VA_VAE without weights, which its constructor reads and puts on a GPU."""
    from tokenizer.vavae import VA_VAE

    wrapper = VA_VAE.__new__(VA_VAE)
    wrapper.model = SimpleNamespace(decode=lambda z: decoded)
    return wrapper


@case("decode_to_images")
def decode_to_images(case: Case) -> Made:
    decoded = case.inputs["decoded"]
    with mock.patch.object(torch.Tensor, "cuda", lambda tensor: tensor):
        return {"out.images": torch.from_numpy(va_vae(decoded).decode_to_images(decoded))}


@case("image_preprocess")
def image_preprocess(case: Case) -> Made:
    from tokenizer.vavae import center_crop_arr
    from torchvision.transforms.functional import pil_to_tensor

    out: Made = {}
    for name, config in case.config["images"].items():
        image = Image.open(io.BytesIO(case.inputs[f"{name}.png"].numpy().tobytes())).convert("RGB")
        for size in config["sizes"]:
            cropped = pil_to_tensor(center_crop_arr(image, size))
            out[f"out.{name}.{size}"] = cropped.permute(1, 2, 0)
        if name == "b":
            for suffix, p_hflip in (("", 0), ("_flip", 1)):
                transform = va_vae().img_transform(p_hflip=p_hflip, img_size=32)
                out[f"out.b.tensor32{suffix}"] = transform(image)
    return out
