"""What a tokenizer keeps of images: originals, what comes back of them, and where they differ.

    python examples/reconstruct.py --tokenizer=outputs/demo/tokenizer --output=outputs/examples

Of held-out digits, or of your own images with --images=FOLDER: OUTPUT/reconstruct.png, and PSNR and
SSIM of each on the terminal. What the tokenizer loses, no generator brings back.
"""

import argparse

import jax
import numpy as np

import lightningdit_jax as ldj
from lightningdit_jax.data.images import center_crop_adm
from lightningdit_jax.data.sources import open_images
from lightningdit_jax.evaluation.reconstruction import psnr, ssim
from lightningdit_jax.inference.pictures import image_grid, save_png


@jax.jit
def there_and_back(vae: ldj.VAVAE, images: jax.Array) -> jax.Array:
    """Images uint8 [N, H, W, 3] through the middle of the encoder's distribution -> as images."""
    posterior = vae.encode(ldj.to_model_range(images))  # .mode(), .sample(key), .std, .kl()
    return ldj.to_uint8(vae.decode(posterior.mode()))


def main(argv: list[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Encodes, decodes and writes. -> originals and reconstructions, uint8 [N, H, W, 3]."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", required=True, help="checkpoint or workdir of a tokenizer")
    parser.add_argument("--output", default="outputs/examples", help="folder of the picture")
    parser.add_argument("--images", default="", help="folder of images; without: digits")
    parser.add_argument("--count", type=int, default=10)
    options = parser.parse_args(argv)

    vae: ldj.VAVAE = ldj.load(options.tokenizer)
    kind, size = "folder" if options.images else "digits", vae.resolution
    source = open_images(kind, path=options.images, split="test", size=size, tfds_name="")
    chosen = np.linspace(0, len(source) - 1, options.count).astype(int)
    originals = np.stack([center_crop_adm(source.image(i), size) for i in chosen])

    rebuilt = np.asarray(there_and_back(vae, originals))
    for i, decibels, similarity in zip(chosen, psnr(originals, rebuilt), ssim(originals, rebuilt)):
        print(f"{source.name(i)}: PSNR {decibels:.2f} dB, SSIM {similarity:.4f}")
    difference = np.abs(originals.astype(int) - rebuilt).astype(np.uint8)
    rows = np.concatenate([originals, rebuilt, 255 - difference])
    save_png(f"{options.output}/reconstruct.png", image_grid(rows, options.count))
    return originals, rebuilt


if __name__ == "__main__":
    main()
