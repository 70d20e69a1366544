"""Prints docs/licenses.md: the licenses of what requirements*.txt install, and of what is fetched.

python scripts/list_licenses.py > docs/licenses.md
"""

import importlib.metadata
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent
HEAD = """# Licenses of what this package needs

This package is under the MIT license ([LICENSE](../LICENSE)). `scripts/list_licenses.py` makes this
page.

## Packages

Of what `make setup` and `make docs` install, as the packages say it of themselves: of the versions
of `requirements.txt`, `requirements-build.txt` and `requirements-docs.txt` for Python 3.11. Other
extras are not in it.

| package | license |
|---|---|
"""
TAIL = """
## Weights and data

What `scripts/download_weights.py` fetches, as the publisher's pages on the Hugging Face hub say it:

| repository | license | seen on |
|---|---|---|
| hustvl/vavae-imagenet256-f16d32-dinov2 | MIT | its README.md |
| hustvl/lightningdit-xl-imagenet256-800ep | MIT | its README.md |
| hustvl/lightningdit-xl-imagenet256-64ep | not seen | |
| hustvl/va-vae-imagenet256-experimental-variants | MIT | the head of its pages |
| hustvl/imagenet256-latents-vave-f16d32-dinov2 | MIT | its README.md |

Latents and weights were made from ImageNet, whose images have terms of access of their own.
Nothing else is fetched: the digits of the demo come inside scikit-learn, and weights of DINOv2,
MAE, LPIPS and Inception are files that the user gives, under their publishers' licenses.

`lightningdit_jax/data/imagenet_classes.txt`, the names of ImageNet's classes, is from timm 1.0.31
(Apache-2.0); the words are those of WordNet 3.0, Copyright 2006 by Princeton University, all rights
reserved (https://wordnet.princeton.edu/license-and-commercial-use).
"""


def license_of(name: str) -> str:
    """What a package's metadata says: an SPDX expression, classifiers, or the field of old."""
    metadata = importlib.metadata.metadata(name)
    classifiers = [c.split(" :: ") for c in metadata.get_all("Classifier") or ()]
    named = [c[-1] for c in classifiers if c[0] == "License" and len(c) > 2]
    said = (metadata.get("License") or "").strip().splitlines()
    return metadata.get("License-Expression") or ", ".join(named) or "".join(said[:1]) or "not said"


def packages() -> list[str]:
    """Names in these files that are installed here: those of other platforms are not."""
    parts = ("-build", "-docs", "")
    text = "".join((ROOT / f"requirements{part}.txt").read_text() for part in parts)
    names = re.findall(r"^([\w-]+)==", text, re.MULTILINE)
    there = {re.sub(r"[-_.]+", "-", d.name).lower() for d in importlib.metadata.distributions()}
    return sorted(there & set(names))


def page() -> str:
    """The whole page."""
    return HEAD + "".join(f"| {name} | {license_of(name)} |\n" for name in packages()) + TAIL


if __name__ == "__main__":
    print(page(), end="")
