"""Which images of a set are shown, on one process or several."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lightningdit_jax.inference.quality import reconstruction_picture
from lightningdit_jax.inference.quality.reconstruction_picture import ReconstructionPicture


def images(indices, offset=0):
    """16x16 images whose pixels are their index."""
    return (
        np.zeros((len(indices), 16, 16, 3), np.uint8)
        + np.uint8(indices)[:, None, None, None]
        + offset
    )


def shown(grid):
    """Values of originals and reconstructions by column."""
    return grid[34, 34::66, 0].tolist(), grid[34 + 66, 34::66, 0].tolist()


def add_all(picture, indices, batch):
    for first in range(0, len(indices), batch):
        part = indices[first : first + batch]
        picture.add(part, images(part), images(part, offset=100))


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_images_are_spread_over_the_set(batch):
    picture = ReconstructionPicture(total=55, resolution=16)
    add_all(picture, np.arange(55), batch)
    want = [0, 5, 11, 16, 22, 27, 33, 38, 44, 49]  # i * 55 // 10
    assert shown(picture.grid()) == (want, [i + 100 for i in want])


def test_small_sets_and_unreadable_images():
    picture = ReconstructionPicture(total=3, resolution=16)
    add_all(picture, np.array([0, 2]), 2)  # 1 could not be decoded
    assert shown(picture.grid()) == ([0, 2], [100, 102])


def test_processes_share_the_columns(monkeypatch):
    """Threads as processes; the third has no images."""
    pictures = [ReconstructionPicture(total=20, resolution=16) for _ in range(3)]
    add_all(pictures[0], np.arange(9), 4)
    add_all(pictures[1], np.arange(9, 20), 4)
    barrier, given = threading.Barrier(3), {}

    def gather(array):
        given[threading.get_ident()] = array
        barrier.wait()
        gathered = np.stack(list(given.values()))
        barrier.wait()
        return gathered

    monkeypatch.setattr(reconstruction_picture, "gather_numpy", gather)
    with ThreadPoolExecutor(3) as threads:
        for grid in threads.map(ReconstructionPicture.grid, pictures):
            assert shown(grid)[0] == list(range(0, 20, 2))
