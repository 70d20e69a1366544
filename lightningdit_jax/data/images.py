"""Images with labels: what a source of them is, folders of images, decoding and cropping."""

import abc
import dataclasses
import hashlib
import io
import os
import pathlib
from collections.abc import Sequence
from typing import BinaryIO, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from lightningdit_jax.data.image_listing import FORMATS, ImageListing, printable
from lightningdit_jax.errors import counted, one_line

_PILLOW_FORMATS = tuple(sorted(set(FORMATS.values())))
# What a file may claim before it is decoded; deflate makes nothing smaller than a thousandth.
_FEW_PIXELS, _PIXELS_A_BYTE = 2**21, 1100


class UnreadableImageError(ValueError):
    """A file that is no image, or a damaged one."""


class ImageSource(Protocol):
    """Random access to labeled images; safe to read from several threads.

    notes: lines for people, what of the source was left out.
    """

    @property
    def class_names(self) -> Sequence[str]: ...

    @property
    def notes(self) -> Sequence[str]: ...

    @property
    def num_classes(self) -> int: ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image:
        """An RGB image of its own size. Raises UnreadableImageError if it cannot be decoded."""
        ...

    def label(self, index: int) -> int:
        """In [0, num_classes)."""
        ...

    def name(self, index: int) -> str:
        """What a person finds the image by: its path, say."""
        ...


class EncodedImages(abc.ABC):
    """Images whose bytes lie somewhere as files of the formats of FORMATS; base of ImageSources.

    A subclass sets `labels` int64 [N] and `class_names`, and has `encoded` and `name`.
    """

    labels: np.ndarray
    class_names: Sequence[str]
    notes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @abc.abstractmethod
    def encoded(self, index: int) -> bytes:
        """The bytes of an image. Raises OSError, saying which, where they cannot be read."""

    def image(self, index: int) -> Image.Image:
        """Raises UnreadableImageError naming the image if it cannot be decoded."""
        return decode_rgb(io.BytesIO(self.encoded(index)), self.name(index))

    def label(self, index: int) -> int:
        return int(self.labels[index])

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """See ImageSource."""


class ImageFiles(EncodedImages):
    """Images that are files of their own, at `paths`."""

    paths: Sequence[str]

    def encoded(self, index: int) -> bytes:
        """See EncodedImages."""
        try:
            return pathlib.Path(self.paths[index]).read_bytes()
        except OSError as error:
            raise OSError(f"{self.paths[index]} cannot be read: {error}") from error

    def image(self, index: int) -> Image.Image:
        """Raises UnreadableImageError naming the file if it cannot be decoded."""
        return decode_rgb(self.paths[index], self.paths[index])

    def name(self, index: int) -> str:
        return self.paths[index]


class ImageFolder(ImageFiles):
    """A folder with one folder of images per class, in the order of torchvision's ImageFolder.

    Classes are the subfolders by name; images are found at any depth below, by path. A folder of
    images without subfolders is one class, of the folder's name. What does not count is said in
    ImageListing, and `notes` say what was left out.
    `labels` int64 [N]; `paths` are those of the images.
    Raises FileNotFoundError if the folder or its images are missing or a class folder holds no
    image (named), and ValueError for images beside class folders, which would have no class.
    """

    def __init__(self, folder: str | os.PathLike):
        self._folder = folder = pathlib.Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder}: no such folder of images. Set config.data.path to a folder with one "
                "folder of images per class, or to a folder of images"
            )
        listing = ImageListing(folder)
        self.notes = listing.left_out()
        self._is_flat = not listing.classes
        if self._is_flat:
            classes = {folder.resolve().name: listing.loose}
        elif listing.loose:
            first = printable(os.path.basename(listing.loose[0]))
            beside = counted(len(listing.classes), "class", "classes")
            raise ValueError(
                f"{folder}: images lie beside the folders of {beside} "
                f"({len(listing.loose):,}, the first is {first}) and so have no class; "
                "move them into the folder of one, or away"
            )
        else:
            classes = listing.classes
        left_out = "".join(f"; {note}" for note in self.notes)
        for name, paths in classes.items():
            if not paths and self._is_flat:
                raise FileNotFoundError(
                    f"{folder} holds no images ({' '.join(FORMATS)}); expected one folder of "
                    f"images per class, or the images of one class{left_out}"
                )
            if not paths:
                raise FileNotFoundError(
                    f"{folder / name} holds no images ({' '.join(FORMATS)}). Every folder in "
                    f"{folder} counts as a class: fill it or move it away{left_out}"
                )
        self.class_names = list(classes)
        self.paths = [path for paths in classes.values() for path in paths]
        self.labels = np.repeat(np.arange(len(classes)), [len(p) for p in classes.values()])

    def fingerprint(self) -> str:
        """A hash of the classes and file names, the same wherever the folder lies."""
        root = len(str(self._folder)) + 1
        # A single folder's own name is where it lies.
        classes = [] if self._is_flat else self.class_names
        listing = "\0".join([*classes, "", *(path[root:] for path in self.paths)])
        return hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image, and the format and the color mode, as Pillow calls them, that it was stored in."""

    rgb: Image.Image
    format: str
    mode: str


def decode_rgb(file: str | BinaryIO, name: str) -> Image.Image:
    """The image of `decode`."""
    return decode(file, name).rgb


def decode(file: str | BinaryIO, name: str) -> Picture:
    """Decodes an image file of any mode to RGB as torchvision's ImageFolder does.

    So alpha is dropped and an orientation in EXIF ignored; but gray of 16 bits is scaled to 8,
    where torchvision clips it to white. The content decides the format, but only those of FORMATS
    are tried: for others Pillow would start programs that the file gives orders to (Ghostscript).
    Raises UnreadableImageError for content that cannot be decoded, and OSError where reading itself
    fails; both say `name`.
    """
    try:
        with Image.open(file, formats=_PILLOW_FORMATS) as image:
            _check_size(image, file)
            image.load()
            rgb = image if image.mode == "RGB" else _to_rgb(image)
            return Picture(rgb, image.format or "", image.mode)
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError(
            f"{name} cannot be decoded as an image: its content is none of "
            f"{', '.join(_PILLOW_FORMATS)}"
        ) from error
    # Pillow raises OSError, SyntaxError, ValueError and others, by format; its own have no errno.
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(f"{name} cannot be read: {error}") from error
        raise UnreadableImageError(
            f"{name} cannot be decoded as an image: {one_line(error)}"
        ) from error


def _check_size(image: Image.Image, file: str | BinaryIO) -> None:
    """Raises ValueError for a few bytes that claim to be many pixels, before they are decoded."""
    if isinstance(file, str):
        size = os.path.getsize(file)
    else:
        place = file.tell()
        size = file.seek(0, os.SEEK_END)
        file.seek(place)
    if image.width * image.height > _FEW_PIXELS + _PIXELS_A_BYTE * size:
        raise ValueError(f"{image.width} x {image.height} pixels are claimed in {size} bytes")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Raises ValueError for pixels whose range is unknown."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(
                f"gray values from {values.min()} to {values.max()}; expected 0 to 65535"
            )
        rounded = (values.astype(np.uint32) + 128) // 257
        return Image.fromarray(rounded.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("pixels in floating point have no known range; save it with 8 bits")
    return image.convert("RGB")


def center_crop_adm(image: Image.Image, size: int) -> np.ndarray:
    """ADM's center crop of an RGB image, uint8 [size, size, 3].

    Halved with a box filter while the short side stays at least twice `size`, then resized to it
    bicubically, then cropped (Dhariwal & Nichol 2021, guided-diffusion's image_datasets).
    """
    while min(image.size) >= 2 * size:
        halves = (image.width // 2, image.height // 2)
        image = image.resize(halves, Image.Resampling.BOX)
    scale = size / min(image.size)
    resized = (round(image.width * scale), round(image.height * scale))
    image = image.resize(resized, Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in resized)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def resize_and_crop(image: Image.Image, size: int, top: float, left: float) -> np.ndarray:
    """A crop of an RGB image whose short side is resized to `size`, uint8 [size, size, 3].

    top, left: in [0, 1), where the crop lies among the possible places. Bilinear without
    antialiasing, as the release's VA-VAE training does (albumentations' SmallestMaxSize and
    RandomCrop on OpenCV); only the crop is computed.
    """
    width, height = image.size
    scale = size / min(width, height)
    upper, lower, down = _bilinear_taps(height, round(height * scale), size, top)
    near, far, right = _bilinear_taps(width, round(width * scale), size, left)
    box = (int(near[0]), int(upper[0]), int(far[-1]) + 1, int(lower[-1]) + 1)
    pixels = np.asarray(image.crop(box))  # what the crop comes from
    down = down[:, None, None]
    pixels = pixels[upper - box[1]] * (1 - down) + pixels[lower - box[1]] * down
    right = right[:, None]
    pixels = pixels[:, near - box[0]] * (1 - right) + pixels[:, far - box[0]] * right
    return (pixels + 0.5).astype(np.uint8)


def _bilinear_taps(
    length: int, resized: int, size: int, place: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source positions before and after each of `size` pixels of the crop, and the second's weight.

    Pixel centers lie at half-integers; the border pixel is repeated.
    """
    first = int((resized - size + 1) * place)
    centers = (first + np.arange(size) + 0.5) * (length / resized) - 0.5
    before = np.floor(centers)
    weight = (centers - before).astype(np.float32)
    before = before.astype(np.int64)
    return before.clip(0, length - 1), (before + 1).clip(0, length - 1), weight
