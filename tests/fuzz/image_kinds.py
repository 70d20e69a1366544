"""Images of every format that is read, decoded by Pillow behind our checks."""

import io
import pathlib
import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from lightningdit_jax.data.image_listing import FORMATS
from lightningdit_jax.data.images import decode_rgb
from tests.fuzz import mutations
from tests.fuzz.harness import Input, Kind

_MODES = {
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "JPEG": ("RGB", "L", "CMYK"),
    "PPM": ("RGB", "L", "1"),
    "BMP": ("RGB", "L", "P", "1"),
    "TIFF": ("RGB", "RGBA", "L", "I;16", "F", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
}
_OTHERS = (b"GIF89a" + bytes(20), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"", b"BM")
_SIDES = (0, 1, 2**15 - 1, 2**16 - 1, 13_000, 2**31 - 1, 2**32 - 1, 100_000)


def pictures() -> dict[str, list[bytes]]:
    """By format, in every mode, of several options."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 11, 4), np.uint8)
    made: dict[str, list[bytes]] = {}
    for kind, modes in _MODES.items():
        for mode in modes:
            if mode == "I;16":
                image = Image.fromarray(noise[..., 0].astype(np.uint16) * 200)
            else:
                image = Image.fromarray(noise).convert("RGB").convert(mode)
            for options in _options(kind, mode):
                file = io.BytesIO()
                image.save(file, kind, **options)
                made.setdefault(kind, []).append(file.getvalue())
    return made


def _options(kind: str, mode: str) -> list[dict]:
    if kind == "JPEG":
        return [{}, {"progressive": True}]
    if kind == "WEBP":
        return [{}, {"lossless": True}]
    if kind == "TIFF" and mode == "RGB":
        return [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}]
    return [{}]


def _chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    found, place = [], 8
    while place < len(content):
        (size,) = struct.unpack(">I", content[place : place + 4])
        found.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += 12 + size
    return found


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, data in chunks:
        parts += [
            struct.pack(">I", len(data)),
            name,
            data,
            struct.pack(">I", zlib.crc32(name + data)),
        ]
    return b"".join(parts)


def _png_changed(content: bytes, rng: random.Random) -> bytes:
    """Chunks whose checksums are right."""
    chunks = _chunks(content)
    place = rng.randrange(len(chunks))
    name, data = chunks[place]
    match rng.randrange(7):
        case 0:
            chunks[place] = name, mutations.of_bytes(data, rng)
        case 1:
            size = struct.pack(">II", rng.choice(_SIDES), rng.choice(_SIDES))
            chunks[0] = b"IHDR", size + chunks[0][1][8:]
        case 2:
            chunks[0] = b"IHDR", mutations.of_bytes(chunks[0][1], rng)[:13].ljust(13, b"\0")
        case 3:
            bomb = zlib.compress(bytes(2**24), 9)
            kind = rng.choice((b"zTXt", b"iCCP", b"iTXt", b"IDAT"))
            head = {b"iTXt": b"x\0\1\0\0\0", b"IDAT": b""}.get(kind, b"x\0\0")
            chunks.insert(1, (kind, head + bomb))
        case 4:
            side = rng.choice((3000, 6000, 12_000))
            data = zlib.compress(bytes(side * (side // 8 + 1)), 9)
            head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
            chunks = [(b"IHDR", head), (b"IDAT", data), (b"IEND", b"")]  # a bomb that is whole
        case 5:
            del chunks[place]
        case 6:
            chunks.insert(place, rng.choice(chunks))
    return _png(chunks)


def _sized(kind: str, rng: random.Random) -> bytes:
    """Few bytes that claim many pixels."""
    width, height = rng.choice(_SIDES), rng.choice(_SIDES)
    match kind:
        case "PPM":
            magic = rng.choice((b"P4", b"P5", b"P6", b"P1", b"P2", b"P3", b"Pf", b"P7"))
            return magic + b" %d %d 255\n" % (width, height) + bytes(50)
        case "BMP":
            bits, method = rng.choice((1, 4, 8, 24, 32)), rng.choice((0, 1, 2, 3))
            head = struct.pack(
                "<IiiHHIIiiII", 40, width % 2**31, height % 2**31, 1, bits, method, *[0] * 5
            )
            return b"BM" + struct.pack("<IHHI", 99, 0, 0, 54) + head + bytes(64)
        case "TIFF":
            tags = [
                (256, 4, width),
                (257, 4, height),
                (258, 3, 8),
                (259, 3, rng.choice((1, 5, 8, 50000))),
            ]
            tags += [(262, 3, 1), (273, 4, 8), (277, 3, rng.choice((1, 3))), (278, 4, height)]
            tags += [(279, 4, rng.choice((0, 40, 2**31)))]
            made = b"".join(struct.pack("<HHII", tag, form, 1, value) for tag, form, value in tags)
            return (
                b"II*\0"
                + struct.pack("<I", 48)
                + bytes(40)
                + struct.pack("<H", len(tags))
                + made
                + bytes(4)
            )
        case "WEBP":
            body = b"VP8L" + struct.pack(
                "<IBI", 9, 0x2F, (width & 0x3FFF) | (height & 0x3FFF) << 14
            )
            return b"RIFF" + struct.pack("<I", len(body) + 16) + b"WEBP" + body + bytes(12)
        case "JPEG":
            frame = struct.pack(">HBHHB", 17, 8, height & 0xFFFF, width & 0xFFFF, 3)
            return b"\xff\xd8\xff\xc0" + frame + bytes((1, 17, 0, 2, 17, 1, 3, 17, 1)) + bytes(40)
    return bytes(9)


def _inputs(seed: int, count: int) -> Iterator[Input]:
    made = pictures()
    for number in range(count):
        rng = random.Random(f"images {seed} {number}")
        kind = rng.choice(list(made))
        content = rng.choice(made[kind])
        match rng.randrange(8):
            case 0 | 1 | 2 | 3:
                content = mutations.of_bytes(content, rng)
            case 4 | 5:
                kind = rng.choice(("PNG", "PNG", kind))
                content = (
                    _png_changed(rng.choice(made["PNG"]), rng)
                    if kind == "PNG"
                    else _sized(kind, rng)
                )
            case 6:
                content = _sized(kind, rng)
            case 7:
                content = rng.choice((*_OTHERS, rng.choice(made[rng.choice(list(made))])))
        suffix = rng.choice(list(FORMATS))  # the content decides
        yield Input({f"x{suffix}": content}, f"x{suffix}")


def _read(folder: pathlib.Path, given: Input) -> np.ndarray:
    name = str(folder / (given.given or "x.png"))
    image = decode_rgb(name, name)
    assert image.mode == "RGB" and min(image.size) > 0
    return np.asarray(image)


def _against_pillow(folder: pathlib.Path, given: Input, read: np.ndarray) -> str:
    """Pillow alone, where no range has to be chosen."""
    with Image.open(folder / given.given) as image:
        if image.mode.startswith("I"):
            return ""
        same = np.array_equal(np.asarray(image.convert("RGB")), read)
    return "" if same else "other pixels than Pillow's"


KINDS = (
    Kind(
        "images",
        lambda folder: (folder / "x.png").write_bytes(pictures()["PNG"][0]) and None,
        _inputs,
        _read,
        _against_pillow,
        20 * 1100,  # a byte may stand for so many pixels
    ),
)
