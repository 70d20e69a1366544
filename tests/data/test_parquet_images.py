"""Parquet as the hub has it, written by pyarrow here."""

import io
import json
import pickle
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lightningdit_jax.data.image_batches import ImageBatches
from lightningdit_jax.data.images import UnreadableImageError
from lightningdit_jax.data.parquet_images import ParquetImages
from lightningdit_jax.data.pipeline import make_pipeline, sequential_batches
from lightningdit_jax.data.recent import Recent

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(value):
    file = io.BytesIO()
    Image.new("RGB", (4 + value % 3, 5), (value, 2, 3)).save(file, "PNG")
    return file.getvalue()


def features(names, image="image", label="label"):
    """As datasets writes them into the schema."""
    kinds = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
    return {b"huggingface": json.dumps({"info": {"features": kinds}}).encode()}


def write(path, values, labels, *, kind=STRUCT, names=None, group=3, image="image", label="label"):
    """A row a value, its image's red; labels beside it."""
    rows = [png(v) for v in values]
    if kind is STRUCT:
        rows = [{"bytes": row, "path": f"{v}.png"} for row, v in zip(rows, values)]
    table = pa.table({label: pa.array(labels), image: pa.array(rows, kind)})
    if names is not None:
        table = table.replace_schema_metadata(features(names, image, label))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return str(path)


def reds(images):
    return [images.image(i).getpixel((0, 0))[0] for i in range(len(images))]


@pytest.fixture
def hub(tmp_path):
    """A folder as the hub has it: two files of a split, one of another, and what is hidden."""
    data, names = tmp_path / "data", ["cat", "dog, hound", "owl"]
    write(data / "train-00000-of-00002.parquet", range(7), [0, 1, 1, 0, 2, 1, 0], names=names)
    write(data / "train-00001-of-00002.parquet", range(7, 11), [2, 2, 1, 0], names=names)
    write(data / "validation-00000-of-00001.parquet", range(90, 93), [0, 1, 2], names=names)
    write(tmp_path / ".cache" / "train-00000-of-00001.parquet", [200], [0], names=names)
    return tmp_path


def test_a_split_of_a_folder_of_the_hub(hub):
    images = ParquetImages(str(hub), "train")
    assert len(images) == 11 and reds(images) == [*range(11)]
    assert [images.label(i) for i in range(11)] == [0, 1, 1, 0, 2, 1, 0, 2, 2, 1, 0]
    assert list(images.class_names) == ["cat", "dog, hound", "owl"] and images.num_classes == 3
    assert images.name(8) == f"row 1 of {hub}/data/train-00001-of-00002.parquet"
    assert reds(ParquetImages(str(hub), "validation")) == [90, 91, 92]
    assert len(ParquetImages(str(hub), "")) == 14
    with pytest.raises(
        FileNotFoundError, match=r"no files of the split 'test'.*: train, validation"
    ):
        ParquetImages(str(hub), "test")


def test_other_ways_of_naming_files(hub, tmp_path):
    """A pattern, one file whatever the split, and the hub's converted branch."""
    assert reds(ParquetImages(f"{hub}/data/train-*1-of*", "test")) == [7, 8, 9, 10]
    one = write(tmp_path / "x" / "mine.parquet", [5], [0])
    assert reds(ParquetImages(one, "test")) == [5]
    for split, value in (("train", 1), ("test", 2)):
        write(tmp_path / "branch" / "default" / split / "0000.parquet", [value], [0])
        assert reds(ParquetImages(str(tmp_path / "branch"), split)) == [value]


@pytest.mark.parametrize(
    ("labels", "numbers", "names"),
    [
        ([2, 0, 2], [2, 0, 2], ["0", "1", "2"]),
        (["owl", "cat", "owl"], [1, 0, 1], ["cat", "owl"]),
        (pa.array([1, 0, 1], pa.uint8()), [1, 0, 1], ["0", "1"]),
    ],
)
@pytest.mark.parametrize("kind", [STRUCT, pa.binary(), pa.large_binary()], ids=str)
def test_numbers_and_names_in_every_kind_of_column(tmp_path, kind, labels, numbers, names):
    images = ParquetImages(write(tmp_path / "a.parquet", [4, 5, 6], labels, kind=kind), "train")
    assert images.labels.tolist() == numbers and list(images.class_names) == names
    assert reds(images) == [4, 5, 6]


def test_columns_of_other_names_where_the_schema_says_what_they_are(tmp_path):
    """As CIFAR-10 has them."""
    path = tmp_path / "a.parquet"
    write(path, [4, 5], [1, 0], image="img", label="kind", names=["cat", "dog"])
    images = ParquetImages(str(path), "train")
    assert reds(images) == [4, 5] and list(images.class_names) == ["cat", "dog"]


def test_all_rows_as_one_class(tmp_path):
    path = write(tmp_path / "a.parquet", [4, 5], [-1, -1])
    with pytest.raises(ValueError, match=r"label -1 \(row 0 of .*a.*config\.data\.labels=none"):
        ParquetImages(path, "train")
    images = ParquetImages(path, "train", "none")
    assert images.labels.tolist() == [0, 0] and images.num_classes == 1


def test_threads_and_copies_in_other_processes_read_the_same(hub):
    """In any order; of a group that several ask for one reads."""
    images = ParquetImages(str(hub), "train")
    copy = pickle.loads(pickle.dumps(images))
    order = np.random.default_rng(0).permutation(11)
    assert [copy.image(i).getpixel((0, 0))[0] for i in order] == order.tolist()
    assert copy.fingerprint() == images.fingerprint()
    batches = sequential_batches(ImageBatches(images, 8, "center_crop", 4), 4, [(0, 11)])
    seen = [(index, batch) for index, batch in batches]
    assert np.concatenate([index for index, _ in seen]).tolist() == [*range(11)]
    assert np.concatenate([b["images"][:, 0, 0, 0] for _, b in seen]).tolist() == [*range(11)]


@pytest.mark.slow
def test_worker_processes_give_the_batches_of_threads(hub):
    """In the order of the seed and the epoch, every row once an epoch."""
    source = ImageBatches(ParquetImages(str(hub), "train"), 8, "random_crop", 2)
    settings = {"global_batch_size": 4, "seed": 3, "flip": True, "num_threads": 2}

    def batches(workers):
        iterator = iter(make_pipeline(source, **settings, prefetch_batches=2, num_workers=workers))
        taken = [next(iterator) for _ in range(11)]
        iterator.close()
        return taken

    expected = batches(0)
    for batch, other in zip(expected, batches(2)):
        for key, array in batch.items():
            np.testing.assert_array_equal(array, other[key])
    seen = np.concatenate([batch["images"][:, 0, 0, 0] for batch in expected])
    epochs = seen.reshape(4, 11)
    assert [sorted(epoch) for epoch in epochs.tolist()] == [[*range(11)]] * 4
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4


def test_what_is_asked_for_at_once_is_computed_once_and_the_oldest_goes():
    computed, gate = [], threading.Event()
    recent = Recent(10, len)

    def compute(key):
        gate.wait(5)
        computed.append(key)
        return key * 4

    threads = [
        threading.Thread(target=recent.get, args=(k, lambda k=k: compute(k))) for k in "aabbab"
    ]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert sorted(computed) == ["a", "b"]
    recent.get("c", lambda: compute("c"))  # 12 of 10: the least recent goes
    recent.get("c", lambda: compute("c"))
    assert computed[2:] == ["c"]
    before = len(computed)
    for key in "ab":
        recent.get(key, lambda key=key: compute(key))
    assert len(computed) - before in (1, 2)
    with pytest.raises(ZeroDivisionError):
        recent.get("d", lambda: 1 / 0)
    assert recent.get("d", lambda: "d") == "d"  # what failed is tried again


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"text": ["a"], "label": [0]}, r"no column of images \(its columns are text: string"),
        ({"image": ["a.png"], "label": [0]}, "expected 'image', a struct with 'bytes', or bytes"),
        ({"image": [png(1)]}, r"no column of labels .*config\.data\.labels=none"),
        ({"image": [png(1)], "label": [0.5]}, "no column of labels"),
        ({"image": [png(1)], "label": pa.array([None], pa.int64())}, "row 0 of .* has no label"),
        ({"image": [png(1)], "label": [10**7]}, r"label 10000000 \(row 0 of .*a.* is no class"),
        ({"image": [png(1)], "label": [-2]}, "label -2"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int8())}, "holds no rows"),
    ],
)
def test_columns_that_do_not_do_are_named(tmp_path, columns, told):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=told):
        ParquetImages(str(tmp_path / "a.parquet"), "train")


def test_files_of_two_data_sets_and_labels_without_a_name_are_refused(tmp_path):
    write(tmp_path / "d" / "train-0.parquet", [1], [0])
    second = tmp_path / "d" / "train-1.parquet"
    write(second, [1], ["cat"])
    with pytest.raises(ValueError, match=r"train-1.*'label' is string, but int64 in the first"):
        ParquetImages(str(tmp_path / "d"), "train")
    write(second, [1], [7], names=["a", "b"])
    with pytest.raises(
        ValueError, match=r"label 7 \(row 0 of .*train-1\.parquet\) is none of the 2"
    ):
        ParquetImages(str(second), "train")


def test_damage_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    with pytest.raises(FileNotFoundError, match=r"a\.parquet: there are no \.parquet files"):
        ParquetImages(str(path), "train")
    write(path, range(40), [0] * 40, group=10)
    whole = path.read_bytes()
    for content in (b"", b"PAR1", whole[:-100], b"no parquet" * 20):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.parquet is damaged, or no parquet"):
            ParquetImages(str(path), "train")
    column = pq.ParquetFile(io.BytesIO(whole)).metadata.row_group(1).column(1)
    begin = column.data_page_offset
    path.write_bytes(whole[:begin] + bytes(40) + whole[begin + 40 :])
    images = ParquetImages(str(path), "train")
    with pytest.raises(UnreadableImageError, match=r"a\.parquet: row group 1 is damaged"):
        images.image(10)
    assert images.image(0).getpixel((0, 0))[0] == 0


def test_a_row_without_bytes_and_one_that_is_no_image(tmp_path):
    rows = [{"bytes": None, "path": "x.png"}, {"bytes": b"none", "path": None}, None]
    table = pa.table({"image": pa.array(rows, STRUCT), "label": [0, 0, 0]})
    pq.write_table(table, tmp_path / "a.parquet")
    images = ParquetImages(str(tmp_path / "a.parquet"), "train")
    for i, told in enumerate(("holds no bytes", "cannot be decoded", "holds no bytes")):
        with pytest.raises(UnreadableImageError, match=rf"row {i} of .*a\.parquet {told}"):
            images.image(i)
