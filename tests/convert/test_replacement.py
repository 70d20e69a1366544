"""A checkpoint in the place of another, where storage fails."""

import errno
import os

import pytest
from etils import epath

from lightningdit_jax.convert import replacement
from lightningdit_jax.storage_errors import StorageError


def test_what_failed_is_told_where_cleaning_up_fails_of_the_same_cause(tmp_path, monkeypatch):
    removals = []

    def remove(*paths):
        removals.append(paths)
        if len(removals) > 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "blocks.attn.proj.bias")

    def write(path):
        raise StorageError("x: Too many open files (EMFILE); raise the limit")

    monkeypatch.setattr(replacement, "_remove", remove)
    with pytest.raises(StorageError, match="raise the limit"):
        replacement.replace(epath.Path(tmp_path / "x"), write)
    assert len(removals) == 2
