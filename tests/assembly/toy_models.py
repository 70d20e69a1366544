"""A tokenizer and a foundation model of kinds that the package does not have.

Each is all that a new kind takes: a module, a line of the registry, and to be converted a table and
a line of `convert.kinds`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx

from lightningdit_jax.assembly.registry import MODELS, Model, Role
from lightningdit_jax.convert.files import convert_files
from lightningdit_jax.convert.keymap import KeyMap, PatchConv, Rule
from lightningdit_jax.convert.kinds import KINDS, Kind
from lightningdit_jax.models.foundation import Normalization
from lightningdit_jax.models.posterior import DiagonalGaussian

SIDE, PATCH = 16, 2
BRIGHTER = 10  # levels that the tokenizer's decoder adds, so that it is known what it does
NORMALIZATION = Normalization((0.5, 0.25, 0.125), (0.5, 1.0, 2.0))


@dataclasses.dataclass(frozen=True)
class PatchesConfig:
    """Disjoint patches of patch_size pixels times a matrix into hidden_size channels."""

    patch_size: int
    hidden_size: int


class Patches(nnx.Module):
    """A foundation model: [B, H, W, 3] -> [B, H / p, W / p, D]."""

    def __init__(self, config, *, dtype=jnp.float32, rngs):
        self.config = config
        shape = (config.patch_size**2 * 3, config.hidden_size)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), shape))

    def __call__(self, images):
        return patches(images) @ self.kernel[...]


class PatchTokenizer(Patches):
    """The same as a tokenizer, whose matrix is orthogonal: its transpose leads back."""

    latent_scaling = None
    resolution, in_channels = SIDE, 3

    @property
    def embed_dim(self):
        return self.config.hidden_size

    @property
    def downsample_factor(self):
        return self.config.patch_size

    def encode(self, images):
        mean = self(images)
        return DiagonalGaussian(mean, jnp.full_like(mean, -30.0))

    def decode(self, z):
        return pixels(z @ self.kernel[...].T) + BRIGHTER / 127.5


def patches(images):
    """[B, H, W, 3] -> [B, H / p, W / p, p p 3]."""
    batch, height, width, _ = images.shape
    x = images.reshape(batch, height // PATCH, PATCH, width // PATCH, PATCH, 3)
    return x.swapaxes(2, 3).reshape(batch, height // PATCH, width // PATCH, -1)


def pixels(patches):
    """The inverse of `patches`."""
    batch, height, width, _ = patches.shape
    x = patches.reshape(batch, height, width, PATCH, PATCH, 3).swapaxes(2, 3)
    return x.reshape(batch, height * PATCH, width * PATCH, 3)


def _infer(shapes, hints):
    width, _, patch, _ = shapes.read("patch.weight", (12, 3, PATCH, PATCH))
    return PatchesConfig(patch, width)


def _keymap(config):
    return KeyMap((Rule("patch.weight", "kernel", PatchConv(config.patch_size)),))


def register(monkeypatch):
    """Adds the kinds "patch_tokenizer" and "patches"."""
    tokenizer = Model(PatchesConfig, PatchTokenizer, role=Role.TOKENIZER)
    foundation = Model(PatchesConfig, Patches, role=Role.FOUNDATION, normalization=NORMALIZATION)
    for kind, model in (("patch_tokenizer", tokenizer), ("patches", foundation)):
        monkeypatch.setitem(MODELS, kind, model)
        monkeypatch.setitem(KINDS, kind, Kind(kind, _infer, _keymap))


def convert(folder, kind, seed=0):
    """A checkpoint of an orthogonal matrix, converted from PyTorch's layout, and the matrix."""
    matrix = np.linalg.qr(np.random.default_rng(seed).normal(size=(12, 12)))[0].astype(np.float32)
    weight = matrix.reshape(PATCH, PATCH, 3, 12).transpose(3, 2, 0, 1)
    source = folder / f"{kind}.safetensors"
    safetensors.numpy.save_file({"patch.weight": np.ascontiguousarray(weight)}, source)
    convert_files([str(source)], str(folder / kind), kind=kind, say=str)
    return str(folder / kind), matrix
