"""Package metadata. Exact versions that are tested stand in constraints.txt.

An upper bound stays where the next minor version may rename what is used here: flax's NNX, Orbax's
managers and Grain's iterators are still being settled.
"""

import ast
import pathlib

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent


def version() -> str:
    """That of the package, which cannot be imported before its requirements are there."""
    source = (ROOT / "lightningdit_jax" / "__init__.py").read_text()
    assigned = {
        node.targets[0].id: node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    return ast.literal_eval(assigned["__version__"])


setup(
    name="lightningdit_jax",
    version=version(),
    description="LightningDiT and VA-VAE in JAX and Flax, for TPU pods and GPUs",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["lightningdit_jax", "lightningdit_jax.*"]),
    entry_points={
        "console_scripts": [
            "lightningdit = lightningdit_jax.commands.start:lightningdit",
            "lightningdit-convert = lightningdit_jax.commands.start:lightningdit_convert",
            "lightningdit-download = lightningdit_jax.commands.download_weights:main",
            "lightningdit-reference = lightningdit_jax.commands.reference_statistics:main",
            "lightningdit-compare-evaluations = lightningdit_jax.commands.compare_evaluations:main",
            "lightningdit-compare-latents = lightningdit_jax.commands.compare_latents:main",
            "lightningdit-import-config = lightningdit_jax.commands.import_release_config:main",
        ]
    },
    package_data={"lightningdit_jax": ["py.typed", "data/*.txt"]},
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.1",
        "chex>=0.1.90",
        "clu>=0.0.12",
        "etils[epath]>=1.10",
        "flax>=0.12,<0.13",
        "grain>=0.2.15,<0.3",
        "importlib_resources>=6",  # tensorflow-datasets imports it, unasked above Python 3.8
        "jax>=0.10",
        "ml_collections>=1.0",
        "ml_dtypes>=0.5",
        "numpy>=2.0",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.12,<0.13",
        "pillow>=11",
        "pyyaml>=6",
        "safetensors>=0.5",
        "scipy>=1.14",
        "tensorboardX>=2.6",
        "tensorflow-datasets>=4.9.9",
        "tqdm>=4.66",
    ],
    extras_require={
        "convert": ["huggingface_hub>=0.30", "torch>=2.4"],
        "cuda": ["jax[cuda13]"],
        # What made the golden cases; of other versions the last digits differ.
        "golden": [
            "einops>=0.8",
            "pyyaml>=6",
            "requests>=2.32",
            "scipy>=1.17.1",
            "timm==1.0.31",
            "torch==2.13.0",
            "torchdiffeq==0.2.5",
            "torchvision>=0.28",
            "transformers==5.24.0",
        ],
        "hub": ["huggingface_hub>=0.30"],
        "gcs": ["gcsfs>=2026.8", "google-cloud-storage>=3.17"],
        "tpu": ["jax[tpu]"],
        "parity": [
            "diffusers>=0.42",
            "prdc>=0.2",
            "pytorch-fid>=0.3",
            "torch>=2.4",
            "torch-fidelity>=0.4",
            "torchvision>=0.19",
        ],
        "parquet": ["pyarrow>=15"],
        "docs": ["mkdocs-material>=9.6,<10", "mkdocstrings[python]>=1,<2"],
        "digits": ["matplotlib>=3.9", "scikit-learn>=1.5"],
        "mlflow": ["mlflow-skinny>=3"],  # not with constraints.txt: it lags behind what is pinned
        "page": ["gradio>=6.31,<7"],  # not with constraints.txt: it wants an older Pillow
        "report": ["matplotlib>=3.9"],
        "wandb": ["wandb>=0.22"],
        # pytest-xdist 3.8 puts the tests of a group on different workers under pytest 9.2.
        "test": [
            "codespell>=2.4",
            "huggingface_hub>=0.30",
            "hypothesis>=6.100,<7",
            "mypy>=2",
            "pytest>=8,<9.2",
            "pytest-xdist>=3.6",
            "ruff>=0.9",
        ],
    },
)
