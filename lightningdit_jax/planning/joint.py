"""The train step of a generator and its tokenizer: the sums of what each of the two takes."""

import dataclasses
from collections.abc import Mapping, Sequence

from lightningdit_jax.planning.generator import GeneratorStep, PlacedGenerator
from lightningdit_jax.planning.tokenizer import PlacedTokenizer, TokenizerStep


@dataclasses.dataclass(frozen=True)
class JointStep:
    """A Step of planning.plan. The generator's state is that of the run, companions and all.

    tokenizer_remat: what its blocks keep, by what the generator's keep, of which there are more
    ways. aligned_depth: blocks of the generator that the tokenizer's gradient goes through.
    """

    generator: GeneratorStep
    tokenizer: TokenizerStep
    tokenizer_remat: Mapping[str, str]
    aligned_depth: int

    accumulates = False

    @property
    def policies(self) -> Sequence[str]:
        """See Step."""
        return self.generator.policies

    def is_worth_cutting(self, fsdp: int) -> bool:
        """See Step: the tokenizer, as a companion, is whole on every device."""
        return self.generator.is_worth_cutting(fsdp)

    def on(self, sizes: Mapping[str, int]) -> "PlacedJoint":
        """See Step."""
        return PlacedJoint(self, self.generator.on(sizes), self.tokenizer.on(sizes))


@dataclasses.dataclass(frozen=True)
class PlacedJoint:
    """The step on a mesh. A Placed of planning.plan."""

    step: JointStep
    generator: PlacedGenerator
    tokenizer: PlacedTokenizer

    def peak_bytes(self, remat: str, parts: int) -> float:
        """As if both passes of the generator and that of the tokenizer kept theirs together.

        The tokenizer's as without remat, which saved nothing in the programs of docs/planning.md.
        """
        of_tokenizer = self.tokenizer.peak_bytes("none", parts)
        counted = self.tokenizer.at.state_bytes  # in the state of the run
        through = self.generator.kept_bytes(self.step.aligned_depth, remat, parts)
        return self.generator.peak_bytes(remat, parts) + through + of_tokenizer - counted

    def seconds(self, remat: str, parts: int) -> float:
        """One after the other."""
        of_tokenizer = self.tokenizer.seconds(self.step.tokenizer_remat[remat], parts)
        return self.generator.seconds(remat, parts) + of_tokenizer
