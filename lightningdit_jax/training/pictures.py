"""Where the pictures of a run are: WORKDIR/pictures/STEP.png."""

from etils import epath

from lightningdit_jax.storage_errors import storing

PICTURE = "picture"  # what writers call it


def picture_path(workdir: str, step: int) -> epath.Path:
    """That of a step."""
    return epath.Path(workdir) / "pictures" / f"{step}.png"


def drop_after(workdir: str, step: int) -> None:
    """Deletes the pictures of later steps, which come again. Raises StorageError."""
    folder = picture_path(workdir, step).parent
    with storing(folder):
        for path in folder.iterdir() if folder.exists() else ():
            if path.suffix == ".png" and path.stem.isdigit() and int(path.stem) > step:
                path.unlink()
