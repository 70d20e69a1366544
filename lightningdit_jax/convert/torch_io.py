"""The one place that uses PyTorch: writing its own file format."""

import numpy as np
from etils import epath


def save_torch(path: epath.Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes a state dict as a `.pt` file. Raises ImportError without PyTorch."""
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "writing a .pt file needs PyTorch: pip install torch, or write .safetensors instead"
        ) from error
    with path.open("wb") as file:
        torch.save({key: torch.from_numpy(np.array(value)) for key, value in tensors.items()}, file)
