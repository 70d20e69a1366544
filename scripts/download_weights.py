"""Downloads a published release from the Hugging Face hub and converts it.

python scripts/download_weights.py vavae-f16d32-dinov2 lightningdit-xl-64ep --dst ckpts

Needs `pip install -e '.[convert]'`. Without a connection it says which files to put where, and
converts what is there.
"""

import argparse
import dataclasses
import io
import os
import pathlib
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence

from absl import logging

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

_VARIANTS = "hustvl/va-vae-imagenet256-experimental-variants"
_VAVAE = "hustvl/vavae-imagenet256-f16d32-dinov2"
_LATENTS = "hustvl/imagenet256-latents-vave-f16d32-dinov2"


@dataclasses.dataclass(frozen=True)
class File:
    """A file of a repository of the hub."""

    repository: str
    name: str

    def local(self, folder: pathlib.Path) -> pathlib.Path:
        """Where it lies, or has to be put."""
        return folder / "downloads" / self.repository.partition("/")[2] / self.name


STATISTICS = File(_VAVAE, "latents_stats.pt")
WEIGHTS = {
    "vavae-f16d32-dinov2": File(_VAVAE, "vavae-imagenet256-f16d32-dinov2.pt"),
    **{
        f"lightningdit-xl-{epochs}ep": File(
            f"hustvl/lightningdit-xl-imagenet256-{epochs}ep",
            f"lightningdit-xl-imagenet256-{epochs}ep.pt",
        )
        for epochs in (64, 800)
    },
    **{
        f"{name.replace('-imagenet256', '')}-50ep": File(_VARIANTS, f"{name}-50ep.ckpt")
        for name in (
            "ldm-imagenet256-f16d16",
            "ldm-imagenet256-f16d32",
            "ldm-imagenet256-f16d64",
            "vavae-imagenet256-f16d32-dinov2",
            "vavae-imagenet256-f16d32-mae",
            "vavae-imagenet256-f16d64-dinov2",
            "vavae-imagenet256-f16d64-mae",
        )
    },
}
LATENTS = "latents-f16d32-dinov2"  # of the ImageNet training set, 84 GB


def fetch(files: Sequence[File], folder: pathlib.Path) -> None:
    """Downloads what is not there. Raises ConnectionError saying what to put where instead."""
    missing = [file for file in files if not file.local(folder).exists()]
    if not missing:
        return
    by_hand = "download by hand, then run this again:\n" + "\n".join(
        f"  https://huggingface.co/{file.repository}/resolve/main/{file.name}\n"
        f"    as {file.local(folder)}"
        for file in missing
    )
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import logging as hub_logging
    except ImportError as error:
        raise ConnectionError(
            f"huggingface_hub is not installed: pip install -e '.[convert]', or {by_hand}"
        ) from error
    hub_logging.set_verbosity_error()
    for file in missing:
        print(f"downloading {file.repository}/{file.name}", flush=True)
        try:
            hf_hub_download(file.repository, file.name, local_dir=file.local(folder).parent)
        # The hub's errors derive from those of several libraries.
        except Exception as error:
            raise ConnectionError(
                f"{file.name} cannot be downloaded: {error}\nWithout a connection, {by_hand}"
            ) from error


def files_of(release: str) -> list[File]:
    """The weights, and for a generator the statistics of its latents."""
    return [WEIGHTS[release], *([STATISTICS] if release.startswith("lightningdit") else [])]


def convert(release: str, folder: pathlib.Path, overwrite: bool) -> None:
    """Converts a downloaded release into folder/release."""
    from lightningdit_jax.convert.files import convert_files

    weights, *statistics = (str(file.local(folder)) for file in files_of(release))
    convert_files(
        [weights],
        str(folder / release),
        latent_stats=statistics[0] if statistics else None,
        overwrite=overwrite,
    )


class _Joined(io.RawIOBase):
    """Files one after the other, as one that is read once."""

    def __init__(self, paths: Iterable[pathlib.Path]):
        self._paths: Iterator[pathlib.Path] = iter(paths)
        self._file = next(self._paths).open("rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        while not (count := self._file.readinto(buffer)):
            self._file.close()
            path = next(self._paths, None)
            if path is None:
                return 0
            self._file = path.open("rb")
        return count


def unpack_latents(folder: pathlib.Path) -> None:
    """The published latents of ImageNet into folder/latents-f16d32-dinov2."""
    from huggingface_hub import snapshot_download

    target = folder / LATENTS
    downloads = folder / "downloads" / _LATENTS.partition("/")[2]
    if not any(downloads.glob("splits/split_*")):
        snapshot_download(
            _LATENTS, repo_type="dataset", allow_patterns="splits/*", local_dir=downloads
        )
    parts = sorted(downloads.glob("splits/split_*"))
    print(f"unpacking {len(parts)} parts into {target}")
    with tarfile.open(fileobj=io.BufferedReader(_Joined(parts), 2**24), mode="r|gz") as archive:
        archive.extractall(target, filter="data")


def main() -> None:
    """Reads the command line; what the user can mend is one message and exit status 2."""
    names = (*WEIGHTS, LATENTS)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "releases", nargs="+", choices=names, metavar="RELEASE", help=", ".join(names)
    )
    parser.add_argument("--dst", default="ckpts", type=pathlib.Path, help="folder for everything")
    parser.add_argument("--overwrite", action="store_true", help="convert again what is there")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing is computed
    logging.set_verbosity(logging.ERROR)  # Orbax warns of what this program asks of it
    try:
        fetch([f for r in options.releases if r != LATENTS for f in files_of(r)], options.dst)
        for name in options.releases:
            if name == LATENTS:
                unpack_latents(options.dst)
            else:
                convert(name, options.dst, options.overwrite)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
