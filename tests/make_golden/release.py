"""The release's own code: where it is, what of its imports is replaced, how it repeats itself."""

import os
import pathlib
import sys
import types
from typing import Any

from tests.declared_operators import import_torchvision

# Never reached by a case, and not worth installing for the `import` alone: other models' layers,
# launchers, loggers and readers. A class takes the place of each name that is imported from them.
UNUSED = (
    "accelerate",
    "diffusers",
    "diffusers.models",
    "fairscale",
    "fairscale.nn",
    "fairscale.nn.model_parallel",
    "fairscale.nn.model_parallel.initialize",
    "fairscale.nn.model_parallel.layers",
    "omegaconf",
    "torch.utils.tensorboard",
)


class _Unused(types.ModuleType):
    """A module any name can be imported from."""

    def __getattr__(self, name: str) -> Any:
        if name == "__path__":  # a package: what is below it is looked for in sys.modules
            return []
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def use(release: str, taming: str) -> None:
    """Puts the checkouts in sys.path and makes torch repeat itself. Before torch is imported.

    Raises FileNotFoundError where a checkout is not what it should be.
    """
    _require(release, "models/lightningdit.py", "hustvl/LightningDiT")
    _require(taming, "taming/modules/losses/vqperceptual.py", "CompVis/taming-transformers")
    sys.path[:0] = [release, str(pathlib.Path(release) / "vavae"), taming]
    # Compiled kernels round differently, and take minutes.
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    for name in UNUSED:
        sys.modules[name] = _Unused(name)
        parent, _, leaf = name.rpartition(".")
        if parent in UNUSED:
            setattr(sys.modules[parent], leaf, sys.modules[name])
    sys.modules["pytorch_lightning"] = _lightning()
    import torch

    import_torchvision()
    # Sums of several threads come in an order that no other machine repeats.
    torch.set_num_threads(1)


def _require(folder: str, file: str, repository: str) -> None:
    if not (pathlib.Path(folder) / file).is_file():
        raise FileNotFoundError(f"{folder} has no {file}: it is no checkout of {repository}")


def _lightning() -> types.ModuleType:
    """Its LightningModule as a plain module: the training loop is the cases'."""
    import torch

    module = _Unused("pytorch_lightning")
    module.LightningModule = torch.nn.Module
    return module
