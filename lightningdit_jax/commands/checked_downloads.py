"""Downloads have the SHA-256 that their publisher names, or that they had at first."""

import hashlib
import pathlib
from collections.abc import Iterable


def published_by_hub(repository: str, names: Iterable[str], kind: str) -> dict[str, str]:
    """The SHA-256 that the Hugging Face hub says of files, by name; of small ones it says none.

    kind: "model" or "dataset". None of them where the hub cannot be asked.
    """
    try:
        from huggingface_hub import HfApi

        found = HfApi().get_paths_info(repository, list(names), repo_type=kind)
    # The hub's errors derive from those of several libraries.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"the hub cannot be asked for the SHA-256 of {repository}: {reason[:200]}")
        return {}
    return {file.path: lfs.sha256 for file in found if (lfs := getattr(file, "lfs", None))}


def record_of(path: pathlib.Path) -> pathlib.Path:
    """Where a file's SHA-256 stands, as `sha256sum --check` reads it."""
    return path.with_name(f"{path.name}.sha256")


def check(path: pathlib.Path, published: str | None) -> None:
    """Compares a file with what is published and with its record, which is made if there is none.

    Raises ValueError with one line where it differs from either.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    record = record_of(path)
    pinned = record.read_text().split(maxsplit=1)[0] if record.exists() else None
    for whose, wanted in (("its publisher says", published), (f"{record} says", pinned)):
        if wanted is not None and wanted != found:
            raise ValueError(
                f"{path} has the SHA-256 {found}, {whose} {wanted}: it is damaged, or another "
                f"file; delete it, and {record.name} if another file is meant, and download it "
                "again"
            )
    if pinned is None:
        from lightningdit_jax.atomic_file import replacing

        with replacing(record) as temporary:
            temporary.write_text(f"{found}  {path.name}\n")
        if published is None:
            print(f"pinned, as no SHA-256 of {path.name} is published: {found}")
