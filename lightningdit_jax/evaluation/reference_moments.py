"""Moments of real images in a file, which Fréchet distances are taken from."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from lightningdit_jax.evaluation.frechet import Gaussian
from lightningdit_jax.npz_reader import npz_names, read_npz
from lightningdit_jax.storage_errors import check_absent

Extractor = dict[str, str]  # what computed features, by field: a network's identity
_ADM_NAMES = ("mu", "sigma", "mu_s", "sigma_s")


@dataclasses.dataclass(frozen=True)
class ReferenceMoments:
    """What FID compares Inception's pool features with, and sFID its spatial ones.

    extractor: what computed the features, by field, in a file of ours; None in one of ADM's.
    """

    pool: Gaussian
    spatial: Gaussian
    extractor: Extractor | None = None

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The arrays of a reference file: `mu`, `sigma`, `mu_s`, `sigma_s` and `extractor`."""
        arrays = _arrays(_ADM_NAMES, (*self.pool, *self.spatial))
        return arrays if self.extractor is None else arrays | _extractor("", self.extractor)


@dataclasses.dataclass(frozen=True)
class NetworkMoments:
    """What the Fréchet distance in a network's features is taken from, and what computed them."""

    features: Gaussian
    extractor: Extractor

    def to_arrays(self, network: str) -> dict[str, np.ndarray]:
        """The arrays of a reference file: `NETWORK_mu`, `NETWORK_sigma`, `NETWORK_extractor`."""
        return _arrays(_names(network), self.features) | _extractor(f"{network}_", self.extractor)


def moments_from_npz(path: str) -> ReferenceMoments:
    """Moments of a reference set from a file of ADM's or of `to_arrays`, local or gs://.

    As VIRTUAL_imagenet256_labeled.npz (Dhariwal & Nichol 2021): `mu`, `sigma`, `mu_s`, `sigma_s`.
    Images in the file are not read. Raises FileNotFoundError, and ValueError for another file.
    """
    pool_spatial, extractor = _read(
        path,
        _ADM_NAMES,
        "extractor",
        "expected a reference file of the ADM evaluator, such as VIRTUAL_imagenet256_labeled.npz "
        "(github.com/openai/guided-diffusion, evaluations/), or one that "
        "scripts/reference_statistics.py made with --inception",
    )
    pool, spatial = pool_spatial
    return ReferenceMoments(pool, spatial, extractor)


def network_moments_from_npz(path: str, network: str) -> NetworkMoments:
    """Moments of a reference set in the features of a network of that name, from its `to_arrays`.

    What is raised: as moments_from_npz.
    """
    advice = (
        f"expected a reference file that scripts/reference_statistics.py made with a {network} "
        "checkpoint among --networks"
    )
    [features], extractor = _read(path, _names(network), f"{network}_extractor", advice)
    if extractor is None:
        raise ValueError(f"{path} lacks ['{network}_extractor']; {advice}")
    return NetworkMoments(features, extractor)


def _names(network: str) -> tuple[str, str]:
    return f"{network}_mu", f"{network}_sigma"


def _arrays(names: Sequence[str], values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value, np.float64) for name, value in zip(names, values)}


def _extractor(prefix: str, extractor: Mapping[str, str]) -> dict[str, np.ndarray]:
    return {f"{prefix}extractor": np.array(json.dumps(dict(extractor)))}


def _read(
    path: str, names: Sequence[str], extractor_name: str, advice: str
) -> tuple[list[Gaussian], Any]:
    """Gaussians of arrays that are there by name, each a mean and a covariance, and the extractor.

    Raises as moments_from_npz.
    """
    if not epath.Path(path).exists():
        check_absent(path)
        raise FileNotFoundError(f"{path}: there is no such file; {advice}")
    try:
        read = read_npz(path, (*names, extractor_name))
        if missing := [name for name in names if name not in read]:
            raise ValueError(f"{path} lacks {missing} and has {npz_names(path)}")
        arrays = [np.asarray(read[name], np.float64) for name in names]
        extractor = json.loads(str(read[extractor_name])) if extractor_name in read else None
    except (ValueError, RecursionError) as error:
        said = str(error) if str(path) in str(error) else f"{path} is damaged: {error}"
        raise ValueError(f"{said}; {advice}") from error
    gaussians = []
    for first in range(0, len(names), 2):
        name, (mean, covariance) = ", ".join(names[first : first + 2]), arrays[first : first + 2]
        if mean.ndim != 1 or covariance.shape != 2 * mean.shape:
            raise ValueError(
                f"{path}: {name} have shapes {mean.shape}, {covariance.shape}; expected [D], [D, D]"
            )
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise ValueError(f"{path}: {name} hold values that are not finite; make it again")
        gaussians.append(Gaussian(mean, covariance))
    return gaussians, extractor
