"""Shards of latents that are not what was written: made again, named, or refused."""

import json
import shutil

import numpy as np
import pytest
from etils import epath

from lightningdit_jax.data.latents import LatentShards, load_stats, shard_name, write_shard
from lightningdit_jax.inference.extraction.shards import missing_shards
from lightningdit_jax.verification import verifying
from tests import tiny


@pytest.fixture
def folder(tmp_path):
    return epath.Path(tiny.write_latents(tmp_path / "latents", count=24))


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def test_every_flipped_byte_of_a_shard_makes_it_again(folder, caplog):
    path = folder / shard_name(0, 1)
    assert missing_shards(folder, 0, 0, 24, 8) == {2: (16, 24)}  # there are two of other sizes
    size, rng = path.stat().length, np.random.default_rng(0)
    for place in rng.integers(0, size, 60):
        flip(path, place)
        assert missing_shards(folder, 0, 0, 24, 8) == {1: (8, 16), 2: (16, 24)}
        flip(path, place)
    flip(path, size // 2)
    with verifying(False):
        assert missing_shards(folder, 0, 0, 24, 8) == {2: (16, 24)}
    LatentShards(folder)  # opening one for training looks at sizes and headers alone
    latents = np.ones((16, 4, 4, 8), np.float32)
    write_shard(folder, 0, 1, latents, latents, np.zeros(16, np.int64))
    assert missing_shards(folder, 0, 0, 24, 8) == {2: (16, 24)}
    assert f"{path} is not as it was written (SHA-256): it is made again" in caplog.text


def test_shards_of_other_programs_have_no_digests(folder):
    (folder / "extraction.rank00.json").unlink()
    flip(folder / shard_name(0, 1), 2000)
    assert missing_shards(folder, 0, 0, 24, 8) == {2: (16, 24)}
    assert len(LatentShards(folder)) == 24 and load_stats(folder).channels == 8


def test_a_folder_that_lacks_a_shard_is_refused(folder, tmp_path):
    shutil.move(folder / shard_name(0, 1), tmp_path / "away")
    with pytest.raises(ValueError, match=r"lacks 1 of the files .*: latents_rank00_shard001\.safe"):
        LatentShards(folder)
    with verifying(False):
        assert len(LatentShards(folder)) == 8


def test_statistics_that_were_changed_are_refused(folder):
    path = folder / "latents_stats.safetensors"
    flip(path, path.stat().length - 2)
    with pytest.raises(ValueError, match=r"latents_stats\.safetensors is not as it was written"):
        load_stats(folder)
    with verifying(False):
        load_stats(folder)


def test_damaged_digests_are_named(folder):
    path = folder / "extraction.rank00.json"
    for text in ('{"sha256": 3}', "{", "[]"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"extraction\.rank00\.json is damaged"):
            LatentShards(folder)
    path.write_text(json.dumps({"sha256": {shard_name(0, 1): "00"}}))
    assert 1 in missing_shards(folder, 0, 0, 24, 8)
