"""The one place that uses PyTorch: writing its own file format."""

import warnings

import numpy as np
from etils import epath


def save_torch(path: epath.Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes a state dict as a `.pt` file. Raises ImportError without PyTorch."""
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "writing a .pt file needs PyTorch: pip install -e '.[convert]', or write .safetensors "
            "instead"
        ) from error
    with path.open("wb") as file:
        # torch.from_numpy warns of read-only arrays; it only reads them here.
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            state = {key: torch.from_numpy(value) for key, value in tensors.items()}
        torch.save(state, file)
