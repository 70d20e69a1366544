"""Held-out images of a tokenizer, of the sources whose images lie many in a file."""

import io
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lightningdit_jax.assembly.images import open_image_batches
from lightningdit_jax.training.held_out_data import open_held_out
from tests import tiny


def png(value):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (value,) * 3).save(file, "PNG")
    return file.getvalue()


def parquet(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [png(v) for v in values], "label": [0] * len(values)}), path)


def held_out(source, path, **changes):
    config = tiny.config(
        "digits_vavae",
        data__source=source,
        data__path=str(path),
        data__split="train",
        train__validate_every_steps=1,
        **{key: str(value) for key, value in changes.items()},
    )
    return open_held_out(config, open_image_batches(config, config.data.split, 16)).source


def grays(images):
    return [images.image(i).getpixel((0, 0))[0] for i in range(len(images))]


def test_another_split_of_a_parquet_folder_or_another_folder(tmp_path):
    parquet(tmp_path / "a" / "train-0.parquet", [1, 2])
    parquet(tmp_path / "a" / "validation-0.parquet", [3])
    parquet(tmp_path / "b" / "validation-0.parquet", [4, 5])  # of no matter which split
    folder = tmp_path / "a"
    assert grays(held_out("parquet", folder, data__valid_split="validation")) == [3]
    assert grays(held_out("parquet", folder, data__valid_path=tmp_path / "b")) == [4, 5]
    with pytest.raises(FileNotFoundError, match="split 'test'"):
        held_out("parquet", folder, data__valid_split="test")
    with pytest.raises(ValueError, match=r"has no splits, and all of it is trained on"):
        held_out("parquet", folder / "train-0.parquet", data__valid_split="validation")


def test_other_tars_also_without_labels(tmp_path):
    for name, values in (("a.tar", [1, 2]), ("b.tar", [3])):
        with tarfile.open(tmp_path / name, "w") as archive:
            for value in values:
                info = tarfile.TarInfo(f"{value}.png")
                info.size = len(png(value))
                archive.addfile(info, io.BytesIO(png(value)))
    path, others = tmp_path / "a.tar", {"data__valid_path": tmp_path / "b.tar"}
    assert grays(held_out("webdataset", path, **others, data__labels="none")) == [3]
    with pytest.raises(ValueError, match="2 of 2 images have no label"):
        held_out("webdataset", path, **others)
    with pytest.raises(ValueError, match=r"'webdataset' has no splits; set .*valid_path"):
        held_out("webdataset", path, data__labels="none", data__valid_split="test")
