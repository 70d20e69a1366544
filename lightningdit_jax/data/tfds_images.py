"""Images of TensorFlow Datasets, read without TensorFlow."""

import os

from lightningdit_jax.data.images import EncodedImages


class TFDSImages(EncodedImages):
    """A prepared TFDS dataset with features `image` and `label`, an ImageSource.

    name: as in TFDS, "imagenet2012" or "imagenet2012:5.1.0". split: "train", "train[:1%]".
    data_dir: where it was prepared, local or gs://; None is TFDS's own default.
    Needs random access, so the files must be array_record. Nothing is downloaded.
    Raises FileNotFoundError if no such dataset is prepared there, ValueError for an unknown split
    or without these features.
    """

    def __init__(self, name: str, split: str, data_dir: str | os.PathLike | None = None):
        import tensorflow_datasets as tfds  # slow to import, and few runs need it

        try:
            self._source = tfds.data_source(
                name,
                split=split,
                data_dir=data_dir,
                download=False,
                # Pillow decodes, as for image folders, in the threads of the batch.
                decoders={"image": tfds.decode.SkipDecoding()},
            )
        # An unknown name, an unknown version, and a known dataset that is not there or is tfrecord.
        except (tfds.core.DatasetNotFoundError, AssertionError, NotImplementedError) as error:
            raise FileNotFoundError(
                f"no TFDS dataset '{name}' in array_record format in {data_dir or 'the default'}. "
                f"Prepare it with: tfds build {name} --file_format=array_record --data_dir=DIR, or "
                "convert a prepared one with tfds convert_format"
            ) from error
        features = self._source.dataset_info.features
        if not {"image", "label"} <= set(features):
            raise ValueError(
                f"TFDS dataset '{name}' has the features {sorted(features)}; expected 'image' and "
                "'label'"
            )
        self._name = name
        self.class_names = features["label"].names

    def __len__(self) -> int:
        return len(self._source)

    def encoded(self, index: int) -> bytes:
        """See EncodedImages."""
        return self._source[index]["image"]

    def label(self, index: int) -> int:
        return int(self._source[index]["label"])

    def name(self, index: int) -> str:
        return f"record {index} of TFDS dataset '{self._name}'"
