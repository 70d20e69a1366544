"""Images from a program of your own, for every command: main.py with one source more.

    python examples/own_data_source.py --config=configs/digits_vavae.py \
        --workdir=outputs/shapes/tokenizer --mode=check --config.data.source=shapes
    python examples/own_data_source.py --config=configs/digits_vavae.py \
        --workdir=outputs/shapes/tokenizer --config.data.source=shapes \
        --config.vae_loss.alignment=none

An ImageSource has images by number, with labels and names. Here they are drawn: disks, squares and
triangles in any color, and every fifth is held out. A database, a camera or a simulator looks the
same. Training, --mode=extract, evaluation and --mode=check read it as they read a folder.
"""

import colorsys

import numpy as np
from PIL import Image, ImageDraw

from lightningdit_jax.commands.start import lightningdit
from lightningdit_jax.data.sources import SOURCES, Source


class Shapes:
    """Disks, squares and triangles, as many as asked for: each a function of its number alone.

    `labels` int64 [N]. Read by several threads at once, so nothing is changed while reading.
    """

    class_names = ("disk", "square", "triangle")
    num_classes = 3
    notes = ()  # lines for people, what was left out

    def __init__(self, split: str, count: int = 3000):
        held_out = np.arange(count) % 5 == 0
        if split not in ("train", "test"):
            raise ValueError(f"split of shapes is '{split}'; expected 'train' or 'test'")
        self.numbers = np.flatnonzero(held_out if split == "test" else ~held_out)
        self.labels = self.numbers % self.num_classes

    def __len__(self) -> int:
        return len(self.numbers)

    def image(self, index: int) -> Image.Image:
        """An RGB image of any size: what trains on it scales and crops."""
        rng = np.random.default_rng(self.numbers[index])
        color = tuple(round(255 * part) for part in colorsys.hsv_to_rgb(rng.random(), 1, 0.8))
        (x, y), r = rng.uniform(24, 40, 2), rng.uniform(10, 20)
        image = Image.new("RGB", (64, 64), "white")
        draw = ImageDraw.Draw(image)
        if self.labels[index] == 0:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=color)
        else:
            sides = 4 if self.labels[index] == 1 else 3
            draw.regular_polygon((x, y, r), sides, fill=color)
        return image

    def label(self, index: int) -> int:
        """In [0, num_classes)."""
        return int(self.labels[index])

    def name(self, index: int) -> str:
        """What a person finds the image by."""
        return f"shape {self.numbers[index]}"


# Every row is opened with path, split, size, tfds_name and labels, and says which of config.data's
# keys decide what its images are. `size` is the side of the crops to come.
SOURCES["shapes"] = Source(lambda split, **_: Shapes(split), ("split",))

if __name__ == "__main__":
    lightningdit()
