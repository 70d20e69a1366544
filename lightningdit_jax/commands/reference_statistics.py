"""Statistics of real images that FID and its kin, and distances in other networks, compare with.

    python scripts/reference_statistics.py --source=folder --path=IMAGENET/train --size=256 \\
        --inception=ckpts/inception --networks ckpts/dinov2 ckpts/mae --output=imagenet256.npz

Writes the keys of ADM's reference files (mu, sigma, mu_s, sigma_s, arr_0) and, of each of
--networks by its name, NAME_mu, NAME_sigma and NAME_extractor; the images are read once. Give the
file to --mode=evaluate as --config.evaluate.reference. Images are center-cropped as in extraction.
Several processes (Cloud TPU, Slurm, Open MPI) share the work.
"""

import argparse
import sys

from lightningdit_jax.commands.option_names import in_options


def main() -> None:
    """Reads the images once, then writes the file."""
    from lightningdit_jax.data.sources import SOURCES

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", required=True, choices=(*SOURCES, "npz"))
    parser.add_argument("--path", default="", help="folder of images, data_dir, or file")
    parser.add_argument("--split", default="train", help="of digits, parquet folders and TFDS")
    parser.add_argument("--labels", default="", help="of a folder: file of labels; or none")
    parser.add_argument("--tfds-name", default="imagenet2012")
    parser.add_argument("--size", type=int, default=256, help="side of the crops; not of an npz")
    parser.add_argument("--inception", default="", help="converted Inception checkpoint, for FID")
    parser.add_argument(
        "--networks", nargs="+", default=[], help="other converted networks, one checkpoint of each"
    )
    parser.add_argument("--output", required=True, help=".npz file to write, local or gs://")
    parser.add_argument("--kept", type=int, default=10_000, help="images stored in the file")
    parser.add_argument("--batch-size", type=int, default=64, help="global")
    parser.add_argument("--num-threads", type=int, default=8, help="that decode images")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that decode images")
    parser.add_argument("--corrupt", default="stop", choices=("stop", "skip"))
    parser.add_argument("--seed", type=int, default=0, help="of the choice of stored images")
    options = parser.parse_args()
    try:
        compute(options)
    except (ValueError, OSError) as error:
        print(f"error: {in_options(error)}", file=sys.stderr)
        sys.exit(2)


def compute(options: argparse.Namespace) -> None:
    """The work itself."""
    from lightningdit_jax.data.image_batches import ImageBatches
    from lightningdit_jax.data.npz_images import NpzImages
    from lightningdit_jax.data.sources import describe_images, open_images
    from lightningdit_jax.inference.quality.inception import InceptionNetwork
    from lightningdit_jax.inference.quality.networks import open_networks
    from lightningdit_jax.inference.quality.reference import (
        CroppedImages,
        ReferenceImages,
        StoredImages,
        check_networks,
        write_reference,
    )
    from lightningdit_jax.parallel import multihost
    from lightningdit_jax.parallel.mesh import make_mesh
    from lightningdit_jax.whole_numbers import NUM_SEEDS, whole_number

    whole_number("--seed", options.seed, 0, NUM_SEEDS - 1)
    multihost.initialize()
    check_networks(options.inception, options.networks)
    if options.source == "npz":
        images: ReferenceImages = StoredImages(NpzImages(options.path))
    else:
        source = open_images(
            options.source,
            path=options.path,
            split=options.split,
            size=options.size,
            tfds_name=options.tfds_name,
            labels=options.labels,
        )
        multihost.print_once(*describe_images(source))
        batches = ImageBatches(
            source,
            resolution=options.size,
            augment="center_crop",
            num_threads=options.num_threads,
            corrupt=options.corrupt,
        )
        batches.check_first()
        images = CroppedImages(batches, options.size, options.num_workers)
    mesh, inception = make_mesh(), None
    if options.inception:
        inception = InceptionNetwork(options.inception, options.batch_size, mesh)
    networks = open_networks(options.networks, options.batch_size, mesh)
    count = write_reference(
        images, options.output, inception, networks, num_kept=options.kept, seed=options.seed
    )
    if multihost.is_main_process():
        print(f"statistics of {count:,} images in {options.output}")
