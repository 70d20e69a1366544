"""Downloads a published release from the Hugging Face hub and converts it.

python scripts/download_weights.py vavae-f16d32-dinov2 lightningdit-xl-64ep --dst ckpts

Needs `pip install -e '.[convert]'`. Without a connection it says which files to put where, and
converts what is there. Every file has the SHA-256 that the hub names, and keeps the one that it had
at first: it stands beside it, in FILE.sha256.
"""

import argparse
import dataclasses
import gzip
import io
import os
import pathlib
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from absl import logging

from lightningdit_jax.commands import checked_downloads

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
    """Downloads what is not there, and checks it all.

    Raises ConnectionError saying what to put where instead, ValueError for a file that is not what
    it has to be.
    """
    missing = [file for file in files if not file.local(folder).exists()]
    if missing:
        _download(missing, folder)
    for file in files:
        _check(file.local(folder), file.repository, file.name, "model")


def _check(path: pathlib.Path, repository: str, name: str, kind: str) -> None:
    """Against what the hub says, the first time, and against what it was then."""
    known = checked_downloads.record_of(path).exists()
    published = {} if known else checked_downloads.published_by_hub(repository, [name], kind)
    checked_downloads.check(path, published.get(name))


def _download(missing: Sequence[File], folder: pathlib.Path) -> None:
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
        self._file: io.BufferedReader | None = next(self._paths).open("rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._file is not None:
            if count := self._file.readinto(buffer):
                return count
            self._file.close()
            path = next(self._paths, None)
            self._file = path.open("rb") if path else None
        return 0


def fetch_latents(folder: pathlib.Path) -> list[pathlib.Path]:
    """The parts of the archive of latents, in order: downloaded where they are not, and checked.

    Raises ConnectionError where none are there and none can be downloaded.
    """
    from huggingface_hub import snapshot_download

    downloads = folder / "downloads" / _LATENTS.partition("/")[2]
    try:  # goes on with what an earlier download left
        snapshot_download(
            _LATENTS, repo_type="dataset", allow_patterns="splits/*", local_dir=downloads
        )
    # The hub's errors derive from those of several libraries.
    except Exception as error:
        if not any(downloads.glob("splits/split_*")):
            raise ConnectionError(f"{_LATENTS} cannot be downloaded: {error}") from error
        print(f"not asked for more of {_LATENTS}: {' '.join(str(error).split())[:200]}")
    parts = sorted(p for p in downloads.glob("splits/split_*") if not p.suffix)
    for part in parts:
        _check(part, _LATENTS, f"splits/{part.name}", "dataset")
    return parts


def unpack_latents(parts: Sequence[pathlib.Path], target: pathlib.Path) -> None:
    """Unpacks the latents; the folder has its name only when it holds all of them.

    Raises ValueError where the parts are damaged, or not all of them are there.
    """
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    print(f"unpacking {len(parts)} parts into {target}")
    try:
        with (
            gzip.GzipFile(fileobj=io.BufferedReader(_Joined(parts), 2**24)) as plain,
            tarfile.open(fileobj=plain, mode="r|") as archive,
        ):
            archive.extractall(partial, filter="data")
            while plain.read(2**20):  # its checksum comes after the last file
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error, tarfile.TarError) as error:
        raise ValueError(
            f"the {len(parts)} parts in {parts[0].parent} are damaged, or not all of them are "
            f"there: {error}"
        ) from error
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)


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
            if name == LATENTS and (options.dst / LATENTS).exists() and not options.overwrite:
                print(f"{options.dst / LATENTS} is there already; --overwrite unpacks it again")
            elif name == LATENTS:
                unpack_latents(fetch_latents(options.dst), options.dst / LATENTS)
            else:
                convert(name, options.dst, options.overwrite)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
