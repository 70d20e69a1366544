"""Writes testdata/torch_grids.json, the time grids of PyTorch that test_timesteps.py compares with.

python -m tests.flow.torch_grids   (PyTorch 2.13.0 on x86-64 with fused multiply-add made the file)
"""

import hashlib
import json
import pathlib

FILE = pathlib.Path(__file__).parents[1] / "testdata" / "torch_grids.json"
# Of every path and prediction, and of SDEs with and without a last step.
ENDS = ((0.0, 1.0), (0.0, 1 - 1e-3), (1e-3, 1 - 1e-3), (0.0, 1 - 0.04), (1e-3, 1 - 0.04))
SHIFTS = (0.0, 0.3, 0.5, 1.7, 3.0)  # as the release, 0 is off
LENGTHS = range(2, 1201)
SHOWN = (2, 3, 10, 51)  # lengths whose values are there too, for finding a difference


def main() -> None:
    import torch

    grids = []
    for ends in ENDS:
        for shift in SHIFTS:
            digest, values = hashlib.sha256(), {}
            for length in LENGTHS:
                t = torch.linspace(*ends, length)
                if shift:
                    t = torch.tensor([shift * x / (1 + (shift - 1) * x) for x in t])
                digest.update(t.numpy().astype("<f4").tobytes())
                if length in SHOWN:
                    values[str(length)] = t.tolist()
            grids.append({"ends": ends, "shift": shift, "sha256": digest.hexdigest()} | values)
    lines = ",\n".join(json.dumps(grid) for grid in grids)
    FILE.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
