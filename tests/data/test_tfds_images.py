"""A tiny TFDS dataset, built here in array_record format."""

import io
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from lightningdit_jax.data.tfds_images import TFDSImages


class TinyImages(tfds.core.GeneratorBasedBuilder):
    """Five images of growing height."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(5):
            file = io.BytesIO()
            Image.fromarray(np.full((4 + i, 6, 3), 10 * i, np.uint8)).save(file, "PNG")
            file.seek(0)
            yield i, {"image": file, "label": i % 2}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    TinyImages(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_images_and_labels(data_dir):
    images = TFDSImages("tiny_images", "train", data_dir)
    assert len(images) == 5
    assert images.num_classes == 2
    assert list(images.class_names) == ["cat", "dog"]
    seen = set()
    for i in range(5):
        image = images.image(i)
        number = image.height - 4  # TFDS shuffles when it prepares
        assert image.mode == "RGB"
        assert image.getpixel((0, 0)) == (10 * number,) * 3
        assert images.label(i) == number % 2
        seen.add(number)
    assert seen == set(range(5))


def test_split_slices_and_unknown_splits(data_dir):
    assert len(TFDSImages("tiny_images", "train[:2]", data_dir)) == 2
    with pytest.raises(ValueError, match="validation"):
        TFDSImages("tiny_images", "validation", data_dir)


@pytest.mark.parametrize("name", ["tiny_images:3.0.0", "no_such_dataset", "mnist"])
def test_what_is_not_prepared_is_named(data_dir, name):
    with pytest.raises(FileNotFoundError, match=f"'{name}'.*tfds build"):
        TFDSImages(name, "train", data_dir)


def test_reading_needs_neither_tensorflow_nor_the_builder(data_dir):
    program = (
        "import sys\n"
        "from lightningdit_jax.data.tfds_images import TFDSImages\n"
        f"images = TFDSImages('tiny_images', 'train', {str(data_dir)!r})\n"
        "print(images.image(0).width, images.label(0) in (0, 1), 'tensorflow' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout == "6 True False\n"
