"""Distances of samples from real images in the features of several networks."""

from collections.abc import Mapping, Sequence

import numpy as np

from lightningdit_jax.evaluation.density_coverage import NEIGHBORS, density_coverage
from lightningdit_jax.evaluation.error_bars import ErrorBar, LeftOut, of_jackknife
from lightningdit_jax.evaluation.frechet import Gaussian, Moments, distance_from
from lightningdit_jax.evaluation.frechet_errors import frechet_bars
from lightningdit_jax.evaluation.mind import mind
from lightningdit_jax.evaluation.mmd import cmmd, kid
from lightningdit_jax.inference.quality.features import Networks
from lightningdit_jax.inference.quality.metric import Judgment
from lightningdit_jax.inference.quality.networks import NETWORKS, fd_scale
from lightningdit_jax.inference.quality.reference import open_network_reference

SIX = ("inception", "convnextv2", "dinov2", "mae", "siglip2", "clip")  # networks of FDr6
OF_EACH = ("fd", "kid", "mind", "density", "coverage")  # _NAME of each network


def number_names(networks: Sequence[str]) -> tuple[str, ...]:
    """Of the numbers that Distances may say in the features of networks of these names."""
    names = []
    for network in networks:
        of_cmmd = NETWORKS[network].is_of_cmmd
        names += ["cmmd"] if of_cmmd else [f"{measure}_{network}" for measure in OF_EACH]
    return (*names, "fdr6") if set(SIX) <= set(networks) else tuple(names)


class Distances:
    """Fréchet distance, KID, MIND, density and coverage in the features of each network, by name.

    Of a network for CMMD that alone; of the six of FDr6 it too: the mean of their Fréchet distances
    over fd_scale. networks: as open_networks opens them. Fréchet distances are from the moments in
    the reference file `path`, the others from the num_real images in it.
    Raises ValueError for moments that are not there or not of these networks, and for fewer images
    than density and coverage need.
    """

    def __init__(self, networks: Networks, path: str, num_real: int):
        if num_real <= NEIGHBORS:
            raise ValueError(
                f"{path} holds {num_real} images, which samples are compared with in "
                f"config.evaluate.networks; expected {NEIGHBORS + 1} at least: make it again with "
                "more of them, --kept of scripts/reference_statistics.py"
            )
        self._names = tuple(networks)
        self._distances = {
            name: distance_from(open_network_reference(path, name, network))
            for name, network in networks.items()
            if not NETWORKS[name].is_of_cmmd
        }
        scales = {n: fd_scale(n, networks[n]) for n in SIX if n in networks}
        self._scales = {name: scale for name, scale in scales.items() if scale is not None}

    def judgment(
        self,
        real: Mapping[str, np.ndarray],
        found: Mapping[str, np.ndarray],
        blocks: Sequence[np.ndarray],
        labels: np.ndarray | None,
    ) -> Judgment:
        """All of them by features of real images [M, D] and of samples [N, D], by network.

        blocks, labels: as for AdmNumbers.
        """
        numbers: dict[str, float] = {}
        bars: dict[str, ErrorBar] = {}
        for name, distance in self._distances.items():
            numbers[f"fd_{name}"] = distance(Moments.of(found[name]).gaussian)
            if blocks:
                bars |= frechet_bars(f"fd_{name}", distance, [found[name]], blocks, labels)
        if len(self._scales) == len(SIX):
            numbers["fdr6"] = self._fdr6(*(Moments.of(found[name]).gaussian for name in SIX))
            if blocks:
                six = [found[name] for name in SIX]
                bars |= frechet_bars("fdr6", self._fdr6, six, blocks, labels)
        for name in self._names:
            for measure, measured in _measured(name, real[name], found[name], blocks).items():
                numbers[measure] = measured.value
                if blocks:
                    bars[measure] = of_jackknife(*measured)
        return Judgment.of(numbers, bars)

    def _fdr6(self, *gaussians: Gaussian) -> float:
        """Of samples' Gaussians in the features of SIX, in order."""
        each = zip(SIX, gaussians)
        return float(np.mean([self._distances[n](found) / self._scales[n] for n, found in each]))


def _measured(
    name: str, real: np.ndarray, found: np.ndarray, blocks: Sequence[np.ndarray]
) -> dict[str, LeftOut]:
    """All but the Fréchet distance, in the features of a network."""
    if NETWORKS[name].is_of_cmmd:
        return {"cmmd": cmmd(real, found, blocks)}
    density, coverage = density_coverage(real, found, blocks)
    return {
        f"kid_{name}": kid(real, found, blocks),
        f"mind_{name}": mind(real, found, blocks),
        f"density_{name}": density,
        f"coverage_{name}": coverage,
    }
