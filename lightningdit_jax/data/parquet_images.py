"""Images in parquet files, as the Hugging Face hub publishes data sets."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightningdit_jax.data.image_listing import printable
from lightningdit_jax.data.images import EncodedImages, UnreadableImageError
from lightningdit_jax.data.labels import ONE_CLASS, number_labels
from lightningdit_jax.data.recent import Recent
from lightningdit_jax.data.source_files import find_files, of_split, place_of
from lightningdit_jax.errors import one_line, plain

if TYPE_CHECKING:
    import pyarrow as pa

_KEPT_BYTES = 2**28  # of row groups that were read
_MOST_GROUP_BYTES = 2**32


class ParquetImages(EncodedImages):
    """Rows of parquet files: an image, a struct of `bytes` and `path` or bytes alone, and a label.

    path: a file, a pattern, or a folder with files at any depth, of which those of `split` are
    taken (see of_split), all for "". The columns are `image` and `label`, or the only ones that the
    schema calls Image and ClassLabel; a label is a whole number, whose names the schema may have,
    or a name. labels: "none" makes all rows one class. Row groups are read whole, each once while
    it is among the last 256 MiB, by whatever thread asks first.
    Raises ImportError without pyarrow, FileNotFoundError, and ValueError naming a damaged file, a
    column that is missing, and labels that are none.
    """

    def __init__(self, path: str, split: str, labels: str = ""):
        try:
            import pyarrow  # noqa: F401, the readers below import what they need of it
        except ImportError as error:
            raise ImportError("parquet is read by pyarrow: pip install -e '.[parquet]'") from error
        self._files = find_files(path, ".parquet")
        if os.path.isdir(path) and split:
            self._files = of_split(self._files, path, split)
        self._path = path
        self._metadata = [_metadata(file) for file in self._files]
        first = _Columns.of(self._files[0], self._metadata[0], labels != ONE_CLASS)
        for file, metadata in zip(self._files, self._metadata):
            first.check(file, metadata)
        self._column = first.image_bytes
        groups = [
            (file, group, metadata.row_group(group).num_rows)
            for file, metadata in enumerate(self._metadata)
            for group in range(metadata.num_row_groups)
        ]
        self._groups = [(file, group) for file, group, _ in groups]
        self._begins = np.cumsum([0, *(rows for _, _, rows in groups)])
        self._file_begins = np.cumsum([0, *(metadata.num_rows for metadata in self._metadata)])
        total = int(self._begins[-1])
        if labels == ONE_CLASS:
            self.labels, self.class_names = np.zeros(total, np.int64), ["images"]
        else:
            read = [_read_labels(f, m, first.label) for f, m in zip(self._files, self._metadata)]
            joined = np.concatenate(read) if first.is_number else [x for part in read for x in part]
            self.labels, self.class_names = number_labels(joined, self.name, first.class_names)
        if total == 0:
            raise ValueError(f"{path} holds no rows; expected an image in each")
        self._recent: Recent[pa.ChunkedArray] = Recent(_KEPT_BYTES, _size_of)

    def fingerprint(self) -> str:
        """A hash of files, their rows and labels, the same wherever they lie."""
        rows = [metadata.num_rows for metadata in self._metadata]
        places = [place_of(file, self._path) for file in self._files]
        digest = hashlib.sha256(json.dumps([places, rows, [*self.class_names]]).encode())
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def encoded(self, index: int) -> bytes:
        """See EncodedImages. Raises UnreadableImageError for a row without bytes too."""
        place = int(np.searchsorted(self._begins, index, side="right")) - 1
        rows = self._recent.get(place, lambda: self._read_group(*self._groups[place]))
        row = rows[index - int(self._begins[place])].as_py()
        content = row.get("bytes") if isinstance(row, dict) else row
        if content is None:
            raise UnreadableImageError(f"{self.name(index)} holds no bytes of an image")
        return content

    def name(self, index: int) -> str:
        """File and row, counted from 0."""
        file = int(np.searchsorted(self._file_begins, index, side="right")) - 1
        return f"row {index - int(self._file_begins[file])} of {printable(self._files[file])}"

    def _read_group(self, file: int, group: int) -> "pa.ChunkedArray":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self._files[file], metadata=self._metadata[file]) as reader:
                columns = [self._column]
                return reader.read_row_group(group, columns, use_threads=False).column(0)
        except (pa.ArrowException, OSError, ValueError) as error:
            what = f"{self._files[file]}: row group {group}"
            if isinstance(error, OSError) and error.errno is not None:
                raise OSError(f"{what} cannot be read: {error}") from error
            raise UnreadableImageError(f"{what} is damaged: {one_line(error)}") from error


class _Columns:
    """Which columns of a schema are meant, and what they hold."""

    def __init__(self, image: str, label: str, schema: Any, class_names: Sequence[str]):
        self.label, self.class_names = label, class_names
        self.image_bytes = f"{image}.bytes" if _has_bytes(schema.field(image).type) else image
        self._types = {name: schema.field(name).type for name in (image, label) if name}
        self.is_number = bool(label) and _is_number(self._types[label])

    @classmethod
    def of(cls, file: str, metadata: Any, labeled: bool) -> "_Columns":
        """Those of a file. Raises ValueError where there are none or several."""
        schema = metadata.schema.to_arrow_schema()
        features = _features(schema)
        image = _chosen(schema, features, "image", "Image", _is_image)
        if not image:
            raise ValueError(
                f"{file} has no column of images ({_listed(schema)}); expected 'image', a struct "
                "with 'bytes', or bytes"
            )
        label = _chosen(schema, features, "label", "ClassLabel", _is_label) if labeled else ""
        if labeled and not label:
            raise ValueError(
                f"{file} has no column of labels ({_listed(schema)}); expected 'label', whole "
                f"numbers or names, or config.data.labels={ONE_CLASS}: all rows are one class"
            )
        names: Any = (features.get(label) or {}).get("names")
        is_named = isinstance(names, list) and all(isinstance(name, str) for name in names)
        return cls(image, label, schema, names if is_named else ())

    def check(self, file: str, metadata: Any) -> None:
        """Raises ValueError for a file whose columns are not these."""
        schema = metadata.schema.to_arrow_schema()
        for name, kind in self._types.items():
            found = schema.field(name).type if name in schema.names else None
            if found != kind:
                raise ValueError(
                    f"{file}: column '{plain(name)}' is {found or 'missing'}, but {kind} in the "
                    "first file; expected files of one data set"
                )


def _metadata(file: str) -> Any:
    """The footer. Raises ValueError for what is none, and for one that claims too much."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as reader:
            metadata = reader.metadata
            metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(f"{file} cannot be read: {error}") from error
        raise ValueError(f"{file} is damaged, or no parquet: {one_line(error)}") from error
    size = os.path.getsize(file)
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    rows, total = [group.num_rows for group in groups], metadata.num_rows
    # Run lengths would make any number of rows of a few bytes.
    if sum(rows) != total or min(rows, default=0) < 0 or total > size:
        raise ValueError(f"{file} is damaged: it claims {total:,} rows in {size:,} bytes")
    most = max((group.total_byte_size for group in groups), default=0)
    if most > _MOST_GROUP_BYTES:
        raise ValueError(
            f"{file} has a row group of {most / 2**30:.1f} GiB, which is read whole; write it with "
            "smaller ones"
        )
    return metadata


def _read_labels(file: str, metadata: Any, column: str) -> np.ndarray | list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file, metadata=metadata) as reader:
            labels = reader.read([column], use_threads=False).column(0)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{file}: its labels cannot be read: {one_line(error)}") from error
    if labels.null_count:
        row = labels.to_pylist().index(None)
        raise ValueError(f"row {row} of {file} has no label; expected one in each")
    return labels.to_numpy() if _is_number(labels.type) else labels.to_pylist()


def _features(schema: Any) -> Mapping[str, dict]:
    """What Hugging Face's datasets wrote of each column; empty where another program wrote it."""
    try:
        said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        found = said["info"]["features"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    fields = found.items() if isinstance(found, dict) else ()
    return {name: feature for name, feature in fields if isinstance(feature, dict)}


def _chosen(schema: Any, features: Mapping[str, dict], name: str, kind: str, fits: Any) -> str:
    """The column of that name, or the only one that is said to be of a kind; "" for none."""
    typed = [n for n, feature in features.items() if feature.get("_type") == kind]
    candidates = [name] if name in schema.names else typed if len(typed) == 1 else []
    good = [n for n in candidates if n in schema.names and fits(schema.field(n).type)]
    return good[0] if good else ""


def _is_image(kind: Any) -> bool:
    return _is_bytes(kind) or _has_bytes(kind)


def _has_bytes(kind: Any) -> bool:
    import pyarrow as pa

    fields = [kind.field(i) for i in range(kind.num_fields)] if pa.types.is_struct(kind) else []
    return any(field.name == "bytes" and _is_bytes(field.type) for field in fields)


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_label(kind: Any) -> bool:
    import pyarrow as pa

    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return texts or _is_number(kind)


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_integer(kind)


def _listed(schema: Any) -> str:
    columns = [f"{plain(field.name)}: {plain(str(field.type), 60)}" for field in schema]
    return f"its columns are {', '.join(columns[:20])}" if columns else "it has none"


def _size_of(rows: "pa.ChunkedArray") -> int:
    return rows.nbytes
