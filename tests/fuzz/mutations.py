"""Changes of bytes and of JSON, functions of a random.Random alone."""

import json
import random
from typing import Any

NUMBERS = (0, 1, 2, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40)
NUMBERS += (2**62, 2**63 - 1, 2**63, 2**64 - 1)
TEXTS = (
    "",
    "x",
    "\n",
    "a\nb",
    "\x00",
    "é",
    "\U0001f600",
    "../x",
    "/",
    "nan",
    "1e400",
    "[",
    "x" * 300,
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    *NUMBERS,
    10**400,
    0.0,
    -0.5,
    1e-320,
    1e308,
    float("nan"),
    float("inf"),
    -float("inf"),
    *TEXTS,
    [],
    [[]],
    {},
    [0],
    [1, 2, 3],
    [-1],
    ["x"],
    [None],
    {"": ""},
    {"x": {"x": {}}},
)


def of_bytes(content: bytes, rng: random.Random) -> bytes:
    """A few edits: bits, numbers, pieces taken out, put in, copied, exchanged, the end cut off."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        place = rng.randrange(len(data) + 1)
        size = rng.choice((1, 1, 2, 4, 8, rng.randrange(1, 64)))
        match rng.randrange(8):
            case 0 | 1 if data:
                data[place % len(data)] ^= 1 << rng.randrange(8)
            case 2 if data:
                data[place % len(data)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 3:
                width = rng.choice((1, 2, 4, 8))
                number = rng.choice(NUMBERS) % 256**width
                data[place : place + width] = number.to_bytes(width, rng.choice(("little", "big")))
            case 4:
                del data[place : place + size]
            case 5:
                data[place:place] = rng.randbytes(size)
            case 6:
                other = rng.randrange(len(data) + 1)
                data[place:place] = data[other : other + size]
            case 7 if rng.random() < 0.5:
                del data[place:]
    return bytes(data)


def of_json(value: Any, rng: random.Random) -> Any:
    """A copy in which one place is another value, is gone, is there under another name, or deep."""
    value = json.loads(json.dumps(value))
    places = list(_places(value))
    if not places:
        return rng.choice(VALUES)
    for _ in range(rng.choice((1, 1, 2, 3))):
        holder, key = rng.choice(places)
        match rng.randrange(6):
            case 0 if isinstance(holder, dict):
                holder.pop(key, None)
            case 1 if isinstance(holder, dict):
                holder[rng.choice((*TEXTS, f"{key}x", key.upper()))] = holder.get(key)
            case 2 if isinstance(holder, list):
                holder.append(rng.choice(VALUES))
            case 3:
                other, name = rng.choice(places)
                _put(holder, key, json.loads(json.dumps(_get(other, name))))
            case _:
                _put(holder, key, rng.choice(VALUES))
    return value


def json_text(value: Any, rng: random.Random) -> bytes:
    """How a changed value is written: as JSON, or as what is nearly JSON."""
    text = json.dumps(of_json(value, rng))
    match rng.randrange(14):
        case 0:
            return of_bytes(text.encode(), rng)
        case 1:
            return ("[" * rng.choice((50, 100_000)) + text).encode()
        case 2:
            depth = rng.choice((50, 20_000))
            return ('{"x":' * depth + text + "}" * depth).encode()
        case 3:
            return text.encode(rng.choice(("utf-16", "utf-32", "utf-8-sig")))
        case 4 if text.startswith("{") and len(text) > 2:
            return f"{text[:-1]}, {json.dumps(value)[1:]}".encode()  # every key twice
        case 5:
            return text.replace("1", "1" * rng.choice((20, 5000))).encode()
        case 6:
            return text.replace("0", rng.choice(("NaN", "-Infinity", "1e999", "0x0"))).encode()
        case 7:
            return text.replace('"', '"\\ud800', 1).encode()
    return text.encode()


def _places(value: Any):
    children = value.items() if isinstance(value, dict) else ()
    children = enumerate(value) if isinstance(value, list) else children
    for key, child in list(children):
        yield value, key
        yield from _places(child)


def _get(holder: Any, key: Any) -> Any:
    try:
        return holder[key]
    except (KeyError, IndexError):
        return None


def _put(holder: Any, key: Any, value: Any) -> None:
    if isinstance(holder, dict) or key < len(holder):
        holder[key] = value
