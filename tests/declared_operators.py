"""Lets torchvision be imported beside a torch that is of another build."""

import importlib

_DECLARED = []  # a declaration lasts as long as its library


def import_torchvision() -> None:
    """Imports it, its compiled operators declared where they are lost.

    Built for another variant of torch (CUDA, say), it has none, and does not import unless these
    are declared. Nothing here calls them.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        import torch

        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float threshold) -> Tensor")
        _DECLARED.append(library)
        importlib.import_module("torchvision")
