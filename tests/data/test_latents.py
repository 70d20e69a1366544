"""Golden: the release's own shards, its statistics, and samples of its dataset."""

import dataclasses
import json
import pathlib
import pickle
import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load as safetensors_load
from safetensors.numpy import load_file, save, save_file

from lightningdit_jax.data.latents import (
    LatentShards,
    compute_stats,
    load_stats,
    save_stats,
    write_shard,
)
from lightningdit_jax.data.pipeline import LatentBatches
from lightningdit_jax.latent_scaling import LatentScaling
from tests.golden import GOLDEN, assert_close, index, load, to_nchw, to_nhwc

LATENTS = GOLDEN / "latents"
TOLERANCE = index()["latents_dataset"]["tolerance"]


@pytest.fixture
def shards() -> LatentShards:
    return LatentShards(LATENTS)


def all_tensors(name: str) -> np.ndarray:
    """A tensor of all golden shards in order, read by the safetensors library."""
    return np.concatenate([load_file(p)[name] for p in sorted(LATENTS.glob("*.safetensors"))])


def tensors(n: int = 3, channels: int = 2, size: int = 4) -> dict[str, np.ndarray]:
    """A shard in the published layout, small and valid."""
    rng = np.random.default_rng(n)
    latents = rng.normal(size=(2, n, channels, size, size)).astype(np.float32)
    return {"latents": latents[0], "latents_flip": latents[1], "labels": np.arange(n)}


@pytest.mark.parametrize(
    ("case", "with_stats", "multiplier"),
    [
        ("out.feature", True, 1.0),
        ("out.feature_mult", True, 0.18215),
        ("out.feature_raw_mult", False, 0.18215),
    ],
)
def test_golden_dataset(shards, case, with_stats, multiplier):
    golden = load("latents_dataset")
    stats = load_stats(LATENTS) if with_stats else LatentScaling()
    scaling = dataclasses.replace(stats, multiplier=multiplier)
    batch = LatentBatches(shards).read_batch(golden["in.index"], golden["in.flip"].astype(bool))
    assert batch["labels"].dtype == np.int32
    for latents in (batch["latents"], jnp.asarray(batch["latents"])):
        normalized = scaling.normalize(latents)
        assert normalized.dtype == np.float32
        assert_close(to_nchw(normalized), golden[case], TOLERANCE)
    np.testing.assert_array_equal(batch["labels"], golden["out.label"])


def test_golden_statistics(shards):
    golden, stats = load("latents_dataset"), compute_stats(shards)
    assert_close(stats.mean, golden["out.mean64"], TOLERANCE)
    assert_close(stats.std, golden["out.std64"], TOLERANCE)
    stored = load_stats(LATENTS)
    np.testing.assert_array_equal(stored.mean, golden["out.mean"].ravel())
    np.testing.assert_array_equal(stored.std, golden["out.std"].ravel())


def test_statistics_are_stable_over_blocks_and_sampled_evenly(tmp_path):
    """A large mean with a small spread defeats E[x^2] - E[x]^2; two passes are the second way."""
    rng = np.random.default_rng(0)
    latents = (3000 + 0.01 * rng.normal(size=(600, 2, 2, 3))).astype(np.float32)
    write_shard(tmp_path, 0, 0, latents, latents, np.zeros(600, np.int64))
    for sample, step in ((None, 1), (300, 2), (900, 1)):
        stats = compute_stats(LatentShards(tmp_path), sample)
        rows = latents[::step].astype(np.float64)
        np.testing.assert_allclose(stats.mean, rows.mean((0, 1, 2)), rtol=1e-7)
        np.testing.assert_allclose(stats.std, rows.std((0, 1, 2), ddof=1), rtol=1e-6)


def test_reads_every_row_in_any_order_with_repeats(shards):
    latents, flipped = to_nhwc(all_tensors("latents")), to_nhwc(all_tensors("latents_flip"))
    assert len(shards) == 72
    assert shards.shape == (6, 6, 8)
    np.testing.assert_array_equal(shards.labels, all_tensors("labels"))
    rng = np.random.default_rng(0)
    indices, flip = rng.integers(0, 72, 200), rng.random(200) < 0.5
    want = np.where(flip[:, None, None, None], flipped[indices], latents[indices])
    np.testing.assert_array_equal(shards.read(indices, flip), want)


def test_reads_an_empty_batch(shards):
    assert shards.read(np.zeros(0, int), np.zeros(0, bool)).shape == (0, 6, 6, 8)


@pytest.mark.parametrize("bad", [-1, 72])
def test_index_out_of_range(shards, bad):
    with pytest.raises(IndexError, match="72"):
        shards.read(np.array([bad]), np.array([False]))


def test_pickled_shards_hold_no_data(shards):
    shards.read(np.arange(72), np.zeros(72, bool))
    pickled = pickle.dumps(shards)
    assert len(pickled) < 5000
    again = pickle.loads(pickled).read(np.arange(3), np.ones(3, bool))
    np.testing.assert_array_equal(again, to_nhwc(all_tensors("latents_flip")[:3]))


def test_written_shard_is_what_the_release_writes(tmp_path):
    want = load_file(LATENTS / "latents_rank01_shard000.safetensors")
    path = write_shard(
        tmp_path, 1, 2, to_nhwc(want["latents"]), to_nhwc(want["latents_flip"]), want["labels"]
    )
    assert path.name == "latents_rank01_shard002.safetensors"
    got = load_file(path)
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype
        np.testing.assert_array_equal(got[name], tensor)
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    shard = index()["latents_dataset"]["config"]["shards"]["latents_rank01_shard000.safetensors"]
    assert header["__metadata__"] == shard["metadata"]
    # No temporary file stays.
    assert {p.name for p in tmp_path.iterdir()} == {path.name, "extraction.rank01.json"}
    np.testing.assert_array_equal(LatentShards(tmp_path).labels, want["labels"])


def test_write_shard_refuses_what_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match=r"labels \(2,\)"):
        write_shard(tmp_path, 0, 0, np.zeros((3, 2, 2, 1)), np.zeros((3, 2, 2, 1)), np.zeros(2))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_shards(tmp_path, dtype):
    """Stored as they are, half the bytes, and read by the safetensors library too."""
    shard = tensors()
    stored = {name: shard[name].astype(dtype) for name in ("latents", "latents_flip")}
    rows = [to_nhwc(shard[name]) for name in ("latents", "latents_flip")]
    path = write_shard(tmp_path, 0, 0, *rows, shard["labels"], np.dtype(dtype).name)
    for name, tensor in stored.items():
        np.testing.assert_array_equal(load_file(path)[name], tensor)
    shards, indices, flip = LatentShards(tmp_path), np.arange(3), np.array([False, True, False])
    got = shards.read_stored(indices, flip)
    assert got.dtype == dtype
    want = np.where(flip[:, None, None, None], stored["latents_flip"], stored["latents"])
    np.testing.assert_array_equal(got, want)
    normalized = LatentScaling().normalize(jnp.asarray(got))
    assert normalized.dtype == np.float32
    np.testing.assert_array_equal(normalized, to_nhwc(want.astype(np.float32)))
    np.testing.assert_array_equal(shards.read(indices, flip), normalized)


def test_resident_latents_need_no_files(tmp_path):
    for path in LATENTS.glob("latents_rank*"):
        shutil.copy(path, tmp_path)
    indices, flip = np.arange(72), np.arange(72) % 2 == 0
    shards = LatentShards(tmp_path, resident=True)
    for path in tmp_path.iterdir():
        path.unlink()
    np.testing.assert_array_equal(
        shards.read_stored(indices, flip), LatentShards(LATENTS).read_stored(indices, flip)
    )


def test_stats_round_trip_and_preference(tmp_path):
    shutil.copy(LATENTS / "latents_stats.pt", tmp_path)
    shutil.copy(LATENTS / "latents_rank01_shard000.safetensors", tmp_path)
    save_stats(tmp_path, LatentScaling(np.arange(8.0), np.arange(8.0) + 1))
    assert load_file(tmp_path / "latents_stats.safetensors")["mean"].shape == (1, 8, 1, 1)
    stats = load_stats(tmp_path)
    np.testing.assert_array_equal(stats.mean, np.arange(8, dtype=np.float32))
    np.testing.assert_array_equal(stats.std, np.arange(8, dtype=np.float32) + 1)
    assert len(LatentShards(tmp_path)) == 24  # the statistics are no shard


@pytest.mark.parametrize(
    ("mean", "std", "reason"),
    [
        (np.zeros(3), np.ones(2), "mean of 3 and a std of 2"),
        (np.zeros(2), np.array([1.0, 0.0]), "std 0.0 in channel 1"),
        (np.array([0.0, np.nan]), np.ones(2), "finite"),
    ],
)
def test_bad_statistics_are_refused(tmp_path, mean, std, reason):
    save_file({"mean": mean, "std": std}, tmp_path / "latents_stats.safetensors")
    with pytest.raises(ValueError, match=reason):
        load_stats(tmp_path)


def test_missing_and_damaged_statistics(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--mode=extract"):
        load_stats(tmp_path)
    save_file({"mean": np.zeros(2)}, tmp_path / "latents_stats.safetensors")
    with pytest.raises(ValueError, match="lacks 'mean' or 'std'"):
        load_stats(tmp_path)
    (tmp_path / "latents_stats.safetensors").write_bytes(b"12345678901")
    with pytest.raises(ValueError, match=r"latents_stats\.safetensors is damaged"):
        load_stats(tmp_path)


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        LatentShards(tmp_path / "absent")
    save_stats(tmp_path, LatentScaling(np.zeros(2), np.ones(2)))
    (tmp_path / "._latents.safetensors").write_bytes(b"metadata of another file system")
    with pytest.raises(FileNotFoundError, match="holds no latents_rank"):
        LatentShards(tmp_path)
    save_file(tensors(0), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="none of its 1 shards"):
        LatentShards(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_truncated_shard_is_named_with_sizes(tmp_path, kept):
    whole = (LATENTS / "latents_rank01_shard000.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:kept])
    size = len(whole[:kept])
    with pytest.raises(ValueError, match=rf"cut\.safetensors is truncated.*: {size} bytes"):
        LatentShards(tmp_path)


def test_damaged_header_is_named(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes((9).to_bytes(8, "little") + b"not JSON!")
    with pytest.raises(ValueError, match=r"bad\.safetensors has a damaged"):
        LatentShards(tmp_path)


def test_empty_shards_are_skipped_and_named(tmp_path):
    """As of a process without images, or of images that are all unreadable."""
    for name, count in {"a": 0, "b": 3, "c": 0, "d": 2, "e": 0, "f": 0}.items():
        save_file(tensors(count), tmp_path / f"{name}.safetensors")
    for resident in (False, True):
        shards = LatentShards(tmp_path, resident)
        assert shards.notes == [
            f"{tmp_path}: empty and skipped: a.safetensors, c.safetensors, e.safetensors and 1 more"
        ]
        np.testing.assert_array_equal(shards.labels, [0, 1, 2, 0, 1])
        want = to_nhwc(np.concatenate([tensors(3)["latents"], tensors(2)["latents"]]))
        np.testing.assert_array_equal(shards.read(np.arange(5), np.zeros(5, bool)), want)
    assert LatentShards(LATENTS).notes == []
    (tmp_path / "g.safetensors").write_bytes(b"")  # damaged is not empty
    with pytest.raises(ValueError, match=r"g\.safetensors is truncated"):
        LatentShards(tmp_path)


def rewritten(change, cut=0):
    """The bytes of a good shard whose header `change` has edited, without the last `cut` bytes."""
    whole = save(tensors())
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + whole[8 + length : len(whole) - cut]


def shared_bytes(header):
    """latents_flip is where latents is."""
    begin, end = header["latents"]["data_offsets"]
    last = max(header, key=lambda name: header[name]["data_offsets"])
    assert last == "latents_flip"
    header["latents_flip"]["data_offsets"] = [begin, end]


def half_shared(header):
    begin, end = header["latents_flip"]["data_offsets"]
    header["latents_flip"]["data_offsets"] = [begin - 8, end - 8]


def gap(header):
    begin, end = header["latents_flip"]["data_offsets"]
    header["latents_flip"]["data_offsets"] = [begin + 8, end + 8]


def set_field(name, field, value):
    return lambda header: header[name].update({field: value})


SIZE = tensors()["latents"].nbytes


@pytest.mark.parametrize(
    ("change", "cut"),
    [
        (shared_bytes, SIZE),
        (half_shared, 8),
        (gap, -8),
        (set_field("labels", "data_offsets", [-24, 0]), 0),
        (set_field("labels", "data_offsets", [0, 24, 48]), 0),
        (set_field("labels", "data_offsets", ["0", "24"]), 0),
        (set_field("labels", "shape", [[3]]), 0),
        (set_field("labels", "shape", [-3]), 0),
        (set_field("labels", "shape", [3.0]), 0),
        (set_field("labels", "dtype", 64), 0),
    ],
)
def test_headers_that_safetensors_refuses_are_refused(tmp_path, change, cut):
    (tmp_path / "good.safetensors").write_bytes(rewritten(lambda header: None))
    assert len(LatentShards(tmp_path)) == 3
    damaged = rewritten(change, max(cut, 0)) + b"0" * max(-cut, 0)
    with pytest.raises(SafetensorError):
        safetensors_load(damaged)
    (tmp_path / "bad.safetensors").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"bad\.safetensors"):
        LatentShards(tmp_path)


def test_class_names_are_read_from_the_record(tmp_path):
    save_file(tensors(), tmp_path / "a.safetensors")
    assert LatentShards(tmp_path).class_names == ()  # as of published folders
    record = tmp_path / "extraction.json"
    record.write_text(json.dumps({"seed": 0, "class_names": ["cat", "dog", "emu"]}))
    shards = LatentShards(tmp_path)
    assert shards.class_names == ("cat", "dog", "emu")
    shards.check(in_channels=2, input_size=4, num_classes=3)
    record.write_text(json.dumps({"class_names": ["cat", "dog"]}))
    with pytest.raises(
        ValueError, match=r"labels up to 2, but its extraction\.json names 2 classes"
    ):
        LatentShards(tmp_path).check(in_channels=2, input_size=4, num_classes=3)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "[" * 100_000, '{"class_names": 3}', '{"a": 1'],
    ids=["empty", "a list", "deep", "no names", "cut"],
)
def test_a_damaged_record_is_named(tmp_path, content):
    save_file(tensors(), tmp_path / "a.safetensors")
    (tmp_path / "extraction.json").write_text(content)
    with pytest.raises(ValueError, match=r"extraction\.json is damaged"):
        LatentShards(tmp_path)


def test_the_fingerprint_tells_other_latents_apart(tmp_path):
    """Labels and what latents were made with count; how shards are cut and classes called not."""

    def fingerprint(folder, counts=(3, 3), **record):
        (tmp_path / folder).mkdir()
        for shard, count in enumerate(counts):
            save_file(tensors(count), tmp_path / folder / f"{shard}.safetensors")
        content = {"seed": 0, "tokenizer": "f00d", "shard_size": 8, **record}
        (tmp_path / folder / "extraction.json").write_text(json.dumps(content))
        return LatentShards(tmp_path / folder).fingerprint()

    first = fingerprint("first")
    assert fingerprint("same", shard_size=3, processes=2, class_names=list("abc")) == first
    others = {
        fingerprint("seed", seed=1),
        fingerprint("tokenizer", tokenizer="beef"),
        fingerprint("fewer", counts=(3, 2)),
    }
    assert len(others | {first}) == 4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"latents_flip": None}, "lacks the tensor 'latents_flip'"),
        ({"latents": np.zeros((3, 2, 4, 4))}, "latents F64"),
        ({"labels": np.zeros(3, np.int32)}, "labels I32"),
        ({"labels": np.zeros(2, np.int64)}, r"labels \[2\]"),
        ({"latents_flip": np.zeros((3, 2, 4, 5), np.float32)}, r"latents_flip F32 \[3, 2, 4, 5\]"),
        ({"latents": np.zeros((3, 32), np.float32)}, r"latents \[3, 32\]"),
        (tensors(channels=3), r"F32 \[3, 4, 4\], but a\.safetensors has F32 \[2, 4, 4\]"),
    ],
)
def test_unfit_shards_are_named(tmp_path, change, reason):
    save_file(tensors(), tmp_path / "a.safetensors")
    bad = {k: v for k, v in {**tensors(), **change}.items() if v is not None}
    save_file(bad, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=rf"b\.safetensors.*{reason}"):
        LatentShards(tmp_path)


@pytest.mark.parametrize(
    ("fit", "reason"),
    [
        ({"in_channels": 32}, "8 channels.*in_channels is 32"),
        ({"input_size": 16}, "6x6.*input_size is 16"),
        ({"num_classes": 5}, "expected labels from 0 to 4"),
    ],
)
def test_check_against_the_model(shards, fit, reason):
    good = {"in_channels": 8, "input_size": 6, "num_classes": 10}
    shards.check(**good)
    with pytest.raises(ValueError, match=reason):
        shards.check(**{**good, **fit})


def test_shards_are_counted_against_the_record(tmp_path):
    """A copy beside a shard used to train on its rows twice."""
    latents = np.zeros((5, 2, 2, 3), np.float32)
    path = write_shard(tmp_path, 0, 0, latents, latents, np.arange(5))
    record = {"images": {"count": 5}, "tokenizer": "0123"}
    (tmp_path / "extraction.json").write_text(json.dumps(record))
    assert LatentShards(tmp_path).notes == [] and LatentShards(tmp_path).tokenizer == "0123"
    copy = shutil.copy(path, tmp_path / "latents_rank00_shard000 (1).safetensors")
    with pytest.raises(ValueError, match=r"10 latents, .* of 5 images; .* twice\? .*\(1\)"):
        LatentShards(tmp_path)
    pathlib.Path(copy).unlink()
    (tmp_path / "extraction.json").write_text(json.dumps({"images": {"count": 7}}))
    assert "5 latents of the 7 images" in LatentShards(tmp_path).notes[0]
