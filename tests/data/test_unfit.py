"""Records that no step stays finite with are found and named."""

import ml_dtypes
import numpy as np
import pytest

from lightningdit_jax.data.image_batches import ImageBatches
from lightningdit_jax.data.latents import LatentShards, shard_name, write_shard
from lightningdit_jax.data.npz_images import NpzImages
from lightningdit_jax.data.pipeline import LatentBatches, make_pipeline
from lightningdit_jax.latent_scaling import LatentScaling

SIZES = (5, 8)
BAD = {  # (record, mirrored): what one of its numbers is
    (1, False): np.nan,
    (6, True): np.inf,
    (6, False): -np.inf,
    (12, True): 1e30,
}
SETTINGS = {"global_batch_size": 6, "seed": 3, "num_threads": 2, "prefetch_batches": 2}


def write(folder, dtype="float32"):
    """Thirteen latents in two shards; those of BAD have one bad number."""
    latents = np.random.default_rng(0).normal(0, 1, (2, sum(SIZES), 2, 2, 3)).astype(np.float32)
    latents[0, 3] = 1e9  # large, and still trains
    for (record, mirrored), value in BAD.items():
        latents[int(mirrored), record, 1, 0, 2] = value
    start = 0
    for shard, size in enumerate(SIZES):
        rows = slice(start, start + size)
        write_shard(folder, 0, shard, *latents[:, rows], np.zeros(size, np.int64), dtype)
        start += size
    return LatentShards(folder)


def place(folder, record, mirrored):
    shard, row = (0, record) if record < SIZES[0] else (1, record - SIZES[0])
    return f"{folder / shard_name(0, shard)}, row {row} of latents{'_flip' if mirrored else ''}"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bad_numbers_are_named_with_their_place(tmp_path, dtype):
    source = LatentBatches(write(tmp_path, dtype))
    every = np.arange(sum(SIZES))
    for mirrored in (False, True):
        found = source.find_unfit(every, np.full(len(every), mirrored))
        records = [record for record, which in sorted(BAD) if which == mirrored]
        assert len(found) == len(records)
        for text, record in zip(found, records):
            assert text.startswith(f"record {record} ({place(tmp_path, record, mirrored)}): ")
            value = np.asarray(BAD[record, mirrored], ml_dtypes.bfloat16).astype(float)
            wrong = "1 of 12 numbers are not finite"
            assert wrong in text if not np.isfinite(value) else "as large as 1e+30" in text


def test_what_overflows_when_it_is_scaled_is_unfit(tmp_path):
    shards = write(tmp_path)
    record, unmirrored = np.array([3]), np.array([False])
    for scaling, unfit in (
        (LatentScaling(), False),
        (LatentScaling([0, 0, 0], [1e-30] * 3), True),  # infinite
        (LatentScaling(multiplier=1e9), True),  # its square is infinite
        (LatentScaling([1e9] * 3, [1] * 3), False),
    ):
        source = LatentBatches(shards, scaling)
        assert bool(source.find_unfit(record, unmirrored)) == unfit, scaling


@pytest.mark.parametrize("processes", [1, 3])
def test_a_pipeline_finds_them_in_the_batch_of_a_state(tmp_path, processes):
    """The batches that hold bad numbers, and no others, whatever is shuffled and mirrored."""
    source = LatentBatches(write(tmp_path))
    seen = set()
    for process in range(processes):
        pipeline = make_pipeline(
            source, flip=True, process_index=process, process_count=processes, **SETTINGS
        )
        iterator = iter(pipeline)
        for _ in range(12):
            state = iterator.get_state()
            latents = next(iterator)["latents"]
            with np.errstate(over="ignore"):
                rows = np.count_nonzero(~np.isfinite(latents**4).all((1, 2, 3)))
            found = pipeline.find_unfit(state)
            assert len(found) == rows
            seen.update(found)
    assert {text.partition(": ")[0] for text in seen} == {
        f"record {record} ({place(tmp_path, record, mirrored)})" for record, mirrored in BAD
    }


def test_images_are_never_unfit(tmp_path):
    np.savez(tmp_path / "images.npz", np.zeros((6, 8, 8, 3), np.uint8))
    source = ImageBatches(NpzImages(tmp_path / "images.npz"), 8, "center_crop", 1)
    pipeline = make_pipeline(source, flip=True, **SETTINGS)
    assert pipeline.find_unfit({"next_index": 0}) == []
