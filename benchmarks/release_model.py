"""The PyTorch release's generator and train step. Needs its checkout in sys.path, and torch."""

import copy
from collections.abc import Callable
from typing import Any


def release_generator(variant: str, *, input_size: int, in_channels: int) -> Any:
    """Its LightningDiT of a variant such as "XL/1", with the options that are published."""
    from models.lightningdit import LightningDiT_models

    return LightningDiT_models[f"LightningDiT-{variant}"](
        input_size=input_size,
        in_channels=in_channels,
        num_classes=1000,
        use_qknorm=False,
        use_swiglu=True,
        use_rope=True,
        use_rmsnorm=True,
        wo_shift=False,
    )


def release_train_step(model: Any, x: Any, y: Any) -> Callable[[], Any]:
    """A step of its train.py, without data, processes and mixed precision; returns the loss.

    x: latents [B, C, H, W], y: labels [B], where the model is.
    """
    import torch
    from transport import create_transport

    average = copy.deepcopy(model)
    transport = create_transport(
        "Linear", "velocity", None, None, None, use_cosine_loss=True, use_lognorm=True
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4, weight_decay=0, betas=(0.9, 0.95))

    def step() -> Any:
        losses = transport.training_losses(model, x, {"y": y})
        loss = losses["loss"].mean() + losses["cos_loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for old, new in zip(average.parameters(), model.parameters()):
                old.mul_(0.9999).add_(new.data, alpha=1 - 0.9999)
        return loss

    return step
