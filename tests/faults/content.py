"""What a job has written, without times and paths: OUTPUT -> JSON of digests by name.

Runs in a fork of its own, since it starts JAX. Reads arrays with Orbax, not with the program.
"""

import hashlib
import json
import pathlib
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp

_NOT_COMPARED = ("images_per_second", "data_wait", "mfu")
_OF_A_TRIAL = ("data", "train", "mesh", "sample", "extract", "evaluate")  # paths, among others


def content(path):
    """Digests by name; "finite": whether all weights are."""
    if path.is_file():
        return {path.name: _sha256(path.read_bytes())}
    found = {}
    if (path / "meta").is_dir():
        found |= _checkpoint(path)
    if (path / "checkpoints").is_dir():
        steps = [p for p in (path / "checkpoints").iterdir() if p.name.isdigit()]
        if steps:
            found |= _checkpoint(max(steps, key=lambda step: int(step.name)))
    if (path / "metrics.jsonl").exists():
        lines = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
        found["records"] = [
            {k: v for k, v in line.items() if k not in _NOT_COMPARED} for line in lines
        ]
    if (path / "extraction.json").exists():
        found["record"] = json.loads((path / "extraction.json").read_text())
    if (path / "config.json").exists():
        config = json.loads((path / "config.json").read_text())
        found["config"] = {k: v for k, v in config.items() if k not in _OF_A_TRIAL}
    for file in [*path.glob("*.safetensors"), *path.glob("samples/*.png"), *path.glob("*.png")]:
        found[file.name] = _sha256(file.read_bytes())
    if (path / "samples.npz").exists():
        with np.load(path / "samples.npz") as file:
            found["samples.npz"] = {name: _array(file[name]) for name in file.files}
    if (path / "sweep.json").exists():
        rows = json.loads((path / "sweep.json").read_text())
        found["rows"] = [row["numbers"] for row in rows]
    if (path / "evaluation.json").exists():
        evaluation = json.loads((path / "evaluation.json").read_text())
        found["evaluation"] = {k: v for k, v in evaluation.items() if k != "of"}
    if (path / "samples.json").exists():
        samples = json.loads((path / "samples.json").read_text())
        found["of step"] = samples.get("step", samples.get("checkpoint", {}))
    return found


def _checkpoint(path):
    reader, found, finite = ocp.StandardCheckpointer(), {"step": path.name}, True
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def abstract(leaf):  # also of what several processes have saved
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)

    for item in sorted(p for p in path.iterdir() if p.is_dir() and p.name != "digests"):
        if (item / "metadata").exists():
            if item.name == "loop":
                found["loop"] = json.loads((item / "metadata").read_text())
            continue
        target = jax.tree.map(abstract, reader.metadata(item).item_metadata.tree)
        for key, leaf in jax.tree_util.tree_leaves_with_path(reader.restore(item, target)):
            array = np.asarray(leaf)
            found[f"{item.name}{jax.tree_util.keystr(key)}"] = _array(array)
            finite &= bool(np.isfinite(array).all())
    return {**found, "finite": finite}


def _array(array):
    head = f"{array.dtype} {array.shape} ".encode()
    return _sha256(head + np.ascontiguousarray(array).tobytes())


def _sha256(data):
    return hashlib.sha256(data).hexdigest()[:16]


if __name__ == "__main__":
    print(json.dumps(content(pathlib.Path(sys.argv[1]))))
