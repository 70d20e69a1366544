"""Reads and writes a case's files by their suffix."""

import io
import json
import pathlib
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def read(path: pathlib.Path) -> Any:
    """Tensors of a .safetensors file, what a .pt or .json file holds."""
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".pt":
        return loads(path.read_bytes())
    return json.loads(path.read_text())


def loads(data: bytes) -> Any:
    """What a .pt file holds; no code of it is run."""
    return torch.load(io.BytesIO(data), weights_only=True)


def write(files: dict[str, Any], folder: pathlib.Path) -> None:
    """Files by their names in the folder, which is made."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif path.suffix == ".safetensors":
            # Copies: what shares memory is not written.
            copies = {key: tensor.detach().clone() for key, tensor in content.items()}
            save_file({key: copy.contiguous() for key, copy in copies.items()}, path)
        elif path.suffix == ".pt":
            torch.save(content, path)
        else:
            path.write_text(json.dumps(content, indent=1))
