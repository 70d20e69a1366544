"""The samples that --mode=evaluate looks at, an .npz file or a folder of pictures."""

from typing import Any

from etils import epath

from lightningdit_jax.atomic_file import field_of, read_json
from lightningdit_jax.config import Config
from lightningdit_jax.data.npz_images import NpzImages
from lightningdit_jax.data.picture_folder import PictureFolder
from lightningdit_jax.parallel.multihost import print_once


def samples_path(config: Config, workdir: str) -> epath.Path:
    """evaluate.samples, or what --mode=sample left in WORKDIR: samples.npz, else samples.

    Raises FileNotFoundError if it is not there.
    """
    made = [epath.Path(workdir) / name for name in ("samples.npz", "samples")]
    given = config.evaluate.samples
    paths = [epath.Path(given)] if given else made
    for path in paths:
        if path.exists():
            return path
    raise FileNotFoundError(
        f"no samples at {paths[0]}; make them with --mode=sample, or name an .npz file or a folder "
        "of pictures with --config.evaluate.samples"
    )


def open_samples(path: epath.Path) -> NpzImages | PictureFolder:
    """The samples of a path that is there. Raises ValueError as those that read them do."""
    if not path.is_dir():
        return NpzImages(path)
    samples = PictureFolder(path)
    print_once(*samples.notes)
    return samples


def samples_identity(samples: NpzImages | PictureFolder) -> dict[str, Any]:
    """Where samples lie, and where known what they were made with.

    That is the JSON of --mode=sample beside them, FILE.json of FILE.npz or of the folder FILE:
    weights, seed, settings.
    Raises ValueError for one that is damaged, or of other samples than those.
    """
    path = samples.path
    described = path.with_suffix(".json")
    made_with = None
    if described.exists():
        try:
            made_with = read_json(described)
            is_other = _is_of_others(described, made_with, samples)
        except ValueError as error:
            raise ValueError(
                f"{error}; it says what {path.name} was made with. Draw the samples again, or "
                "delete it to evaluate them without"
            ) from error
        if is_other:
            raise ValueError(
                f"{described} is of other samples than {path.name}: {is_other}. Draw them again, "
                "or delete the JSON to evaluate them without"
            )
    return {"path": str(path), "made_with": made_with}


def _is_of_others(path: epath.Path, made_with: dict, samples: NpzImages | PictureFolder) -> str:
    """What says that the samples are not those of their JSON; of pictures the number alone."""
    runtime = field_of(path, made_with, "runtime", dict, {})
    outputs = field_of(path, runtime, "outputs", list, [samples.path.name])
    if samples.path.name not in outputs:
        return f"it describes {', '.join(map(str, outputs))}"
    if isinstance(samples, PictureFolder):
        said = field_of(path, made_with, "num_samples", int, len(samples))
        return f"{said:,} are described, {len(samples):,} are there" * (said != len(samples))
    return "their checksums differ" * (runtime.get("arr_0_crc32") not in (None, samples.checksum()))
