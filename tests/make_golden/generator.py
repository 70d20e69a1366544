"""LightningDiT: forward passes of every flag set, guidance, its label embedding."""

from typing import Any

import torch

from benchmarks.release_parity import randomize
from tests.make_golden.registry import Case, Made, Tensors, case

FORWARD = (
    "default",
    "qknorm",
    "qknorm_layernorm",
    "plain_dit",
    "wo_shift",
    "patch2",
    "learn_sigma",
    "no_null_class",
    "grid16_1000cls",
    "pos_embed_loaded",
)


def generator(config: dict[str, Any], weights: Tensors) -> torch.nn.Module:
    """The release's model in evaluation mode, its weights loaded strictly."""
    from models.lightningdit import LightningDiT

    model = LightningDiT(**config)
    model.load_state_dict(weights)
    return model.eval()


def draw_forward(entry: dict[str, Any], rng: torch.Generator) -> dict[str, Tensors]:
    """Three latents, times and labels, and weights that leave no branch at zero."""
    from models.lightningdit import LightningDiT

    config = entry["config"]
    model = LightningDiT(**config)
    classes = model.y_embedder.embedding_table.num_embeddings
    shape = (3, config["in_channels"], config["input_size"], config["input_size"])
    inputs = {
        "in.x": torch.randn(shape, generator=rng),
        "in.t": torch.rand(3, generator=rng),
        "in.y": torch.randint(classes, (3,), generator=rng),
    }
    randomize(model)
    return {entry["file"]: inputs, entry["weights"]: model.state_dict()}


@case(*(f"lightningdit_{name}" for name in FORWARD), draw=draw_forward)
def forward(case: Case) -> Made:
    model = generator(case.config, case.weights())
    mids: Tensors = {}

    def keep(name: str, module: torch.nn.Module) -> None:
        module.register_forward_hook(lambda m, args, out: mids.update({f"mid.{name}": out[:1]}))

    if case.name == "lightningdit_default":
        keep("x_embedder", model.x_embedder)
        keep("t_emb", model.t_embedder)
        keep("y_emb", model.y_embedder)
        for part in ("norm1", "attn", "mlp"):
            keep(f"block0.{part}", getattr(model.blocks[0], part))
        for number, block in enumerate(model.blocks):
            keep(f"block{number}", block)
        keep("final_layer", model.final_layer)
    with torch.no_grad():
        out = model(case.inputs["x"], case.inputs["t"], case.inputs["y"])
    return {"out.y": out, **mids}


@case("lightningdit_cfg_default", "lightningdit_cfg_learn_sigma")
def guided(case: Case) -> Made:
    model = generator(case.config["model_config"], case.weights())
    x, y = case.inputs["x"], case.inputs["y"]
    with torch.no_grad():
        return {
            f"out.{name}": model.forward_with_cfg(x, case.inputs[f"{name}.t"], y, **call)
            for name, call in case.config["calls"].items()
        }


@case("label_embedder")
def label_embedder(case: Case) -> Made:
    embedder = generator(case.config["model_config"], case.weights()).y_embedder
    y = case.inputs["y"]
    with torch.no_grad():
        forced = embedder(y, False, force_drop_ids=case.inputs["force_drop_ids"])
        return {"out.emb_forced": forced, "out.emb": embedder(y, False)}
