"""Every kind of PyTorch weights that can be converted: how it is told, named and mapped."""

import dataclasses
from collections.abc import Callable
from typing import Any

from lightningdit_jax.convert import (
    convnext,
    discriminator,
    inception,
    lightningdit,
    lpips,
    vae,
    vit,
    vit_names,
)
from lightningdit_jax.convert.keymap import Hints, KeyMap, StateShapes, Tensors
from lightningdit_jax.errors import unknown_name


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of weights.

    model: the kind of the checkpoint, of assembly.registry. signs: each a tensor that only such
    files have, () where the user has to say so. prefix: where the weights lie in a tokenizer's
    training checkpoint. canonical: gives tensors the names of the table, whatever program wrote
    them. hints: those that say something of it.
    """

    model: str
    infer: Callable[[StateShapes, Hints], Any]
    keymap: Callable[[Any], KeyMap]
    signs: tuple[str, ...] = ()
    prefix: str = ""
    canonical: Callable[[Tensors], Tensors] = dict
    hints: tuple[str, ...] = ()

    def select(self, tensors: Tensors) -> Tensors:
        """The tensors of this kind, under canonical names."""
        if self.prefix and any(key.startswith(self.prefix) for key in tensors):
            mine = ((k, v) for k, v in tensors.items() if k.startswith(self.prefix))
            tensors = {key.removeprefix(self.prefix): value for key, value in mine}
        return self.canonical(tensors)

    def check_hints(self, given: Hints) -> None:
        """Raises ValueError for a hint that would be ignored."""
        for field in dataclasses.fields(given):
            if getattr(given, field.name) != field.default and field.name not in self.hints:
                raise ValueError(
                    f"{field.name} is {getattr(given, field.name)}, which says nothing of a "
                    f"{self.model}; leave the option out"
                )


_AUTOENCODER_HINTS = ("norm_groups", "act_fn")

# Looked through in this order to tell what a file holds.
KINDS = {
    "lightningdit": Kind(
        "lightningdit",
        lightningdit.infer,
        lightningdit.keymap,
        (lightningdit.SIGN,),
        hints=("num_heads", "null_class", "aux_head_depth"),
    ),
    "sdvae": Kind(
        "vavae",
        vae.infer,
        vae.keymap,
        (vae.DIFFUSERS_SIGN, vae.STABLE_DIFFUSION_SIGN),
        canonical=vae.stable_diffusion_names,
        hints=_AUTOENCODER_HINTS,
    ),
    "vavae": Kind("vavae", vae.infer, vae.keymap, (vae.SIGN,), hints=_AUTOENCODER_HINTS),
    "marvae": Kind("vavae", vae.infer, vae.keymap, hints=_AUTOENCODER_HINTS),
    "dinov3": Kind(
        "dinov3",
        vit.DINOV3.infer,
        vit.DINOV3.keymap,
        vit.DINOV3_SIGNS,
        canonical=vit_names.dinov3_names,
        hints=("num_heads",),
    ),
    "dinov2": Kind(
        "dinov2",
        vit.PLAIN.infer,
        vit.PLAIN.keymap,
        vit.DINOV2_SIGNS,
        prefix="foundation_model.model.",
        canonical=vit_names.timm_names,
        hints=("num_heads",),
    ),
    "siglip2": Kind(
        "siglip2",
        vit.SIGLIP2.infer,
        vit.SIGLIP2.keymap,
        vit.SIGLIP_SIGNS,
        canonical=vit_names.timm_names,
        hints=("num_heads", "act_fn"),
    ),
    "clip": Kind(
        "clip",
        vit.CLIP.infer,
        vit.CLIP.keymap,
        vit.CLIP_SIGNS,
        canonical=vit_names.timm_names,
        hints=("num_heads", "act_fn"),
    ),
    "mae": Kind(
        "mae",
        vit.PLAIN.infer,
        vit.PLAIN.keymap,
        (vit.MAE_SIGN,),
        prefix="foundation_model.model.",
        canonical=vit_names.timm_names,
        hints=("num_heads",),
    ),
    "convnextv2": Kind(
        "convnextv2",
        convnext.infer,
        convnext.keymap,
        convnext.SIGNS,
        canonical=convnext.timm_names,
    ),
    "lpips": Kind(
        "lpips",
        lpips.infer,
        lpips.keymap,
        lpips.SIGNS,
        prefix="loss.perceptual_loss.",
        canonical=lpips.canonical,
    ),
    "discriminator": Kind(
        "discriminator",
        discriminator.infer,
        discriminator.keymap,
        (discriminator.SIGN,),
        prefix="loss.discriminator.",
    ),
    "inception": Kind("inception", inception.infer, inception.keymap, (inception.SIGN,)),
    "linear_proj": Kind(
        "linear_proj", vae.infer_linear_proj, vae.linear_proj_keymap, prefix="linear_proj."
    ),
}


def find_kind(name: str) -> Kind:
    """A kind by name. Raises ValueError naming the nearest one."""
    if name not in KINDS:
        raise ValueError(unknown_name("kind", name, tuple(KINDS)))
    return KINDS[name]


def detect_kind(tensors: Tensors) -> str | None:
    """The kind whose sign is among the tensors, None if there is none."""
    for name, kind in KINDS.items():
        if any(sign in tensors for sign in kind.signs):
            return name
    return None


def common_prefix(tensors: Tensors, entry: str) -> str:
    """What stands before the names of all tensors where they are a module of another: "net.".

    It is told by the signs of the kinds; "" where there is none, or the tensors of a kind stand
    beside the others under their own names. entry: where in the file they lie. Raises ValueError, a
    question, where it is not clear which are meant.
    """
    signs = [sign for kind in KINDS.values() for sign in kind.signs]
    parts = {kind.prefix for kind in KINDS.values() if kind.prefix}
    heads = {key.removesuffix(s) for key in tensors for s in signs if key.endswith(s)}
    found = {head for head in heads if not head or head.endswith(".")} - parts
    # A kind's sign can end another's, as that of a whole LDM checkpoint does.
    found = {p for p in found if not any(q != p and p.startswith(q) for q in found)}
    counts = {p: sum(key.startswith(p) for key in tensors) for p in sorted(found)}
    if not found or "" in found or set(counts.values()) == {len(tensors)}:
        return next(iter(found), "")
    places = ", ".join(f"'{prefix}' ({count} tensors)" for prefix, count in counts.items())
    rest = len(tensors) - sum(counts.values())
    paths = (f"{entry}.{prefix}".strip(".") for prefix in counts)
    options = " or ".join(f"--weights={path}" for path in paths)
    raise ValueError(
        f"it holds weights under {places}{f', and {rest} other tensors' if rest else ''}; "
        f"{options} takes those alone"
    )
