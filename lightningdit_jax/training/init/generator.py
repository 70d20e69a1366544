"""How a generator's arrays are taken over by one of other classes, latents, patches or options."""

import dataclasses

import jax
import jax.numpy as jnp

from lightningdit_jax.models.lightningdit import LightningDiTConfig
from lightningdit_jax.training.init.classes import ClassRows
from lightningdit_jax.training.init.leaves import Leaf, Make, Shape, fresh, refused, same_shape
from lightningdit_jax.training.init.patches import resized_input, resized_output

_HEAD_NORMS = ("blocks/attn/q_norm/", "blocks/attn/k_norm/")
_NO_AUX_HEAD = "the source has no second head"
_HEADS = ("final_layer", "aux_head")
_OUTPUT = tuple(f"{head}/linear/{leaf}" for head in _HEADS for leaf in ("kernel", "bias"))


@dataclasses.dataclass(frozen=True)
class GeneratorLeaves:
    """Decides by the two architectures. classes: rows of the label table."""

    there: LightningDiTConfig
    here: LightningDiTConfig
    classes: ClassRows

    def leaf(self, name: str, there: Shape | None, here: Shape) -> Leaf:
        """The fate of an array, by its shape in the source, None without it, and here."""
        if name.startswith("aux_head/") and self.there.aux_head_depth != self.here.aux_head_depth:
            block = self.there.aux_head_depth
            return fresh(name, f"the source's is after block {block}" if block else _NO_AUX_HEAD)
        if there is None:
            if name.startswith(_HEAD_NORMS) and not self.there.use_qknorm:
                return fresh(name, "the source has no q/k norm")
            return refused(name, "the source has none")
        if name == "pos_embed" and there != here and there[1] == here[1]:
            side = self.here.grid
            return fresh(name, f"computed, for a grid of {side}x{side}")
        if there[-1] == here[-1] and name == "y_embedder/embedding":
            if not self.classes.is_unchanged:
                return Leaf(name, "resampled", str(self.classes), self.classes.table)
        elif there[-1] == here[-1] and name == "x_embedder/kernel" and self._changes_latents():
            return self._patched(name, "input", self._input_kernel)
        elif there[:-1] == here[:-1] and name in _OUTPUT and self._changes_output():
            return self._patched(name, "output", self._output_array)
        return same_shape(name, there, here)

    def _changes_latents(self) -> bool:
        there, here = self.there, self.here
        return (there.patch_size, there.in_channels) != (here.patch_size, here.in_channels)

    def _changes_output(self) -> bool:
        return self._changes_latents() or self.there.learn_sigma != self.here.learn_sigma

    def _patched(self, name: str, side: str, make: Make) -> Leaf:
        there, here = self.there, self.here
        if here.in_channels < there.in_channels:
            channels = f"{there.in_channels} channels in the source, {here.in_channels} here"
            return refused(name, f"{channels}; channels can be added, not taken away")
        notes = []
        if there.patch_size != here.patch_size:
            notes.append(f"patches of {there.patch_size} resized to {here.patch_size}")
        if added := here.in_channels - there.in_channels:
            how = "of zeros" if side == "input" else "as initialized"
            notes.append(f"{added} new {side} channels {how}")
        if side == "output" and there.learn_sigma != here.learn_sigma:
            notes.append(
                "the second half of the channels as initialized"
                if here.learn_sigma
                else "the second half of the source's channels left behind"
            )
        return Leaf(name, "resampled", ", ".join(notes), make)

    def _input_kernel(self, source: jax.Array, fresh: jax.Array) -> jax.Array:
        """[p p C, D] of the source -> the same of here; new channels are not seen at first."""
        there, here = self.there, self.here
        kernel = source.reshape(there.patch_size, there.patch_size, there.in_channels, -1)
        if there.patch_size != here.patch_size:
            kernel = resized_input(kernel, here.patch_size)
        added = here.in_channels - there.in_channels
        kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, added), (0, 0)))
        return kernel.reshape(fresh.shape)

    def _output_array(self, source: jax.Array, fresh: jax.Array) -> jax.Array:
        """Kernel [D, p p C_out] or bias [p p C_out] of the source -> the same of here."""
        there, here = self.there, self.here
        halves = [config.out_channels // config.in_channels for config in (there, here)]
        old = self._cut(source, there, halves[0])
        if there.patch_size != here.patch_size:
            old = resized_output(old, here.patch_size)
        kept = min(halves)
        new = self._cut(fresh, here, halves[1])
        new = new.at[:, :, :kept, : there.in_channels].set(old[:, :, :kept])
        return jnp.moveaxis(new.reshape(-1, *fresh.shape[:-1]), 0, -1)

    @staticmethod
    def _cut(array: jax.Array, config: LightningDiTConfig, halves: int) -> jax.Array:
        """[..., p p C_out] -> [p, p, halves, C, ...]."""
        patch = config.patch_size
        array = jnp.moveaxis(array, -1, 0)
        return array.reshape(patch, patch, halves, config.in_channels, *array.shape[1:])
