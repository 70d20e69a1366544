"""Reads and writes a case's files by their suffix."""

import json
import pathlib
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def read(path: pathlib.Path) -> Any:
    """Tensors of a .safetensors or .pt file (no code of it is run), values of a .json file."""
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".pt":
        return torch.load(path, weights_only=True)
    return json.loads(path.read_text())


def write(files: dict[str, Any], folder: pathlib.Path) -> None:
    """Files by their names in the folder, which is made."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            save_file({key: tensor.contiguous() for key, tensor in content.items()}, path)
        elif path.suffix == ".pt":
            torch.save(content, path)
        else:
            path.write_text(json.dumps(content, indent=1) + "\n")
