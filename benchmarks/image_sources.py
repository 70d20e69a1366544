"""How many images a second each source of images gives, at random and in order.

    python -m benchmarks.image_sources

Writes the same JPEGs of 500x375 as a folder, as parquet in row groups of 100 (as imagenet-1k is
published) and of 1, as WebDataset's tars and as a TFDS data set in array_record, and reads batches
from each in turn as training does (random crops in an order of each epoch's own) and as extraction
does (center crops, in order), `--rounds` times; the table has the medians. All lie in the page
cache: what storage adds is not in it. There are more bytes than the reader of parquet keeps.
"""

import argparse
import io
import itertools
import os
import pathlib
import statistics
import tarfile
import tempfile
import time

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.image_pipeline import measure, write_images
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.data.sources import open_images

ORDERS = {"random": "random_crop", "in order": "center_crop"}
PER_FILE = 1000


def _parts(contents: list[bytes]) -> list[list[bytes]]:
    return [contents[i : i + PER_FILE] for i in range(0, len(contents), PER_FILE)]


def write_parquet(folder: pathlib.Path, contents: list[bytes], rows: int) -> None:
    """Files of 1,000 images as the hub has them, `rows` a row group."""
    folder.mkdir()
    for number, part in enumerate(_parts(contents)):
        images = pa.array([{"bytes": content, "path": None} for content in part])
        table = pa.table({"image": images, "label": [0] * len(part)})
        pq.write_table(table, folder / f"train-{number:05d}.parquet", row_group_size=rows)


def write_tars(folder: pathlib.Path, contents: list[bytes]) -> None:
    """Tars of 1,000 images, each with its label."""
    folder.mkdir()
    for number, part in enumerate(_parts(contents)):
        with tarfile.open(folder / f"{number:05d}.tar", "w") as archive:
            for i, content in enumerate(part):
                for ending, data in (("jpg", content), ("cls", b"0")):
                    info = tarfile.TarInfo(f"{i:05d}.{ending}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))


def write_tfds(folder: pathlib.Path, contents: list[bytes]) -> None:
    """A prepared data set `photographs` in array_record."""
    import tensorflow_datasets as tfds

    class Photographs(tfds.core.GeneratorBasedBuilder):
        """The same images."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(names=["class"]),
                }
            )
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, content in enumerate(contents):
                yield i, {"image": io.BytesIO(content), "label": 0}

    Photographs(data_dir=folder, file_format="array_record").download_and_prepare()


def main() -> None:
    """Prints the table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=300, help="different ones")
    parser.add_argument("--copies", type=int, default=10, help="of each")
    parser.add_argument("--seconds", type=float, default=4.0, help="per measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", default="outputs/benchmarks/image_sources.json")
    options = parser.parse_args()
    rounds, loads = [], []
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(temporary)
        size = write_images(root / "drawn", options.images)
        drawn = [path.read_bytes() for path in sorted((root / "drawn").rglob("*.jpg"))]
        contents = drawn * options.copies
        (root / "folder" / "class").mkdir(parents=True)
        for i, content in enumerate(contents):
            (root / "folder" / "class" / f"{i:06d}.jpg").write_bytes(content)
        write_parquet(root / "groups of 100", contents, 100)
        write_parquet(root / "groups of 1", contents, 1)
        write_tars(root / "tars", contents)
        write_tfds(root / "tfds", contents)
        places = {
            "folder": ("folder", "folder"),
            "parquet, groups of 100": ("parquet", "groups of 100"),
            "parquet, groups of 1": ("parquet", "groups of 1"),
            "webdataset": ("webdataset", "tars"),
            "tfds": ("tfds", "tfds"),
        }
        sources, opened = {}, {}
        for name, (source, place) in places.items():
            began = time.perf_counter()
            sources[name] = open_images(
                source, path=str(root / place), split="train", size=256, tfds_name="photographs"
            )
            opened[name] = time.perf_counter() - began
        ways = list(itertools.product(sources, ORDERS))
        for _ in range(options.rounds):
            rounds.append(
                [
                    measure(
                        sources[name],
                        ORDERS[order],
                        options.threads,
                        0,
                        options.seconds,
                        shuffle=order == "random",
                    )
                    for name, order in ways
                ]
            )
            loads.append(os.getloadavg()[0])
    results = [
        {"source": name, "order": order}
        | {key: statistics.median(m[key] for m in measured) for key in measured[0]}
        for (name, order), measured in zip(ways, zip(*rounds))
    ]
    print(
        f"{len(contents):,} JPEGs of {size / 1e3:.0f} kB, {options.threads} threads, "
        f"{os.cpu_count()} cores, load {min(loads):.1f} to {max(loads):.1f}"
    )
    print("| source | order | images/s | images per CPU second | seconds to open |")
    print("|---|---|---|---|---|")
    for r in results:
        print(
            f"| {r['source']} | {r['order']} | {r['images_per_second']:.0f} | "
            f"{r['images_per_cpu_second']:.0f} | {opened[r['source']]:.2f} |"
        )
    described = {"load": loads, "image_bytes": size, "opened": opened, "results": results}
    write_json(options.output, described)


if __name__ == "__main__":
    main()
