"""Command lines, config files and yaml files of the release, as main.py reads them."""

import dataclasses
import json
import pathlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import hypothesis
import yaml
from hypothesis import strategies as st

from lightningdit_jax.assembly.alignment import check_alignment  # noqa: F401, as main.py imports
from lightningdit_jax.assembly.models import generator_config, tokenizer_config
from lightningdit_jax.commands import main
from lightningdit_jax.config import Config, from_dict
from lightningdit_jax.config_fields import key_types
from lightningdit_jax.configs import base
from lightningdit_jax.release_config.reading import import_yaml
from tests.fuzz import mutations
from tests.fuzz.config_oracle import unlike_documented
from tests.fuzz.harness import Input, Kind

ROOT = pathlib.Path(__file__).parent.parent.parent
YAML = ROOT / "tests" / "testdata" / "release_yaml"
KEYS = tuple(key_types(Config))
SHIPPED = (
    "base",
    "dit_xl",
    "dit_xl_512",
    "dit_b",
    "vavae_f16d32",
    "vavae_f16d32_long",
    "digits_dit",
    "digits_vavae",
)

_NUMBERS = st.one_of(
    st.integers(),
    st.integers(-2, 3),
    st.sampled_from((2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 10**400, 10**400 + 0, -(10**400))),
    st.floats(),
    st.floats(0, 1),
    st.sampled_from((0.0, -0.0, 1.0, 1e-320, 1e308, float("nan"), float("inf"), -float("inf"))),
)
_WORDS = st.one_of(
    st.text(max_size=9),
    st.sampled_from(
        ("auto", "none", "True", "true", "False", "None", "", " ", "a\nb", "\x00", "é")
    ),
    st.sampled_from(("lightningdit", "vavae", "float32", "xla", "adamw", "lion", "linear", "vp")),
    st.sampled_from(("noise", "score", "velocity", "cosine", "trapezoid", "dopri5", "sde_euler")),
    st.sampled_from(("dinov2", "mae", "vit", "digits", "folder", "skip", "XL/1", "B/2", "../x")),
)
_SCALARS = st.one_of(_NUMBERS, _WORDS, st.booleans(), st.none())
_VALUES = st.one_of(
    _SCALARS, st.lists(_SCALARS, max_size=4).map(tuple), st.lists(_NUMBERS, max_size=3)
)


@st.composite
def _fitting(draw: Any, key: str) -> Any:
    """A value of the type of a key's default, mostly."""
    default = dict(_leaves(base.get_config().to_dict()))[key]
    match default:
        case bool():
            return draw(st.booleans())
        case int():
            return draw(st.one_of(st.integers(0, 9), st.integers(0, 2**33), st.just(default)))
        case float():
            return draw(st.one_of(st.floats(0, 1), st.floats(), st.integers(-1, 2)))
        case tuple():
            inner = (
                st.floats(0, 2) if default and isinstance(default[0], float) else st.integers(0, 9)
            )
            return draw(st.lists(inner, max_size=len(default) + 1).map(tuple))
        case "auto" | None:
            return draw(st.one_of(st.just("auto"), st.integers(-1, 64)))
    return draw(st.one_of(st.just(default), _WORDS))


def _leaves(values: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@st.composite
def _setting(draw: Any) -> tuple[str, Any]:
    key = draw(st.sampled_from(KEYS))
    value = draw(_fitting(key)) if draw(st.integers(0, 2)) else draw(_VALUES)
    return key, value


@st.composite
def _name(draw: Any, key: str) -> str:
    """The key, or what is nearly one."""
    odd = (
        key[:-1],
        key + "s",
        key.upper(),
        key.replace(".", "_"),
        key.rpartition(".")[2],
        f"x.{key}",
    )
    odd += (
        key.partition(".")[0],
        f"{key}.x",
        f"{key}[0]",
        f".{key}",
        "batch_size",
        "data-path",
        "",
    )
    return key if draw(st.integers(0, 9)) else draw(st.sampled_from(odd))


@st.composite
def _override(draw: Any) -> list[str]:
    key, value = draw(_setting())
    name = draw(_name(key))
    text = str(value)
    if isinstance(value, tuple | list):
        text = draw(st.sampled_from((text, ",".join(map(str, value)), repr(list(value)))))
    if not draw(st.integers(0, 20)):
        text = draw(st.text(max_size=20))
    match draw(st.integers(0, 11)):
        case 0:
            return [f"--config.{name}", text]
        case 1:
            return [f"-config.{name}={text}"]
        case 2:
            return [f"--config.{name}"]
        case 3:
            return [f"--noconfig.{name}"]
        case 4:
            return [f"--config.{name}={text}", f"--config.{name}={draw(_WORDS)}"]
    return [f"--config.{name}={text}"]


@st.composite
def _command(draw: Any) -> list[str]:
    mode = draw(st.sampled_from((*main.MODES, "train", "train", "Train", "", "samples")))
    config = draw(st.sampled_from(SHIPPED))
    arguments = [f"--config={ROOT}/configs/{config}.py", "--workdir=w", f"--mode={mode}"]
    for override in draw(st.lists(_override(), max_size=4)):
        arguments += override
    others = (
        "--target=sample",
        "--target=x",
        "--topology=",
        "--verify=off",
        "--verify=",
        "x",
        "--",
        "-",
    )
    if not draw(st.integers(0, 5)):
        place = draw(st.integers(0, len(arguments)))
        arguments.insert(place, draw(st.sampled_from(others)))
    if not draw(st.integers(0, 15)):
        del arguments[draw(st.integers(0, len(arguments) - 1))]
    return arguments


@st.composite
def _file(draw: Any) -> str:
    """A config file as people write it, and as they should not."""
    lines = []
    for key, value in draw(st.lists(_setting(), max_size=5)):
        lines.append(f"    c.{draw(_name(key))} = {_literal(value)}")
    odd = (
        "    c.unlock(); c.new = 1",
        "    c.update({'train': 7})",
        "    del c.seed",
        "    c.train = 3",
        "    return None",
        "    return {}",
        "    raise ValueError('no\\nline')",
        "    raise KeyError('x')",
        "    1 / 0",
        "  bad indent",
        "    c = 7",
        "    return c.train",
        "    import no_such_module",
        "    c.model.depth = c.model.hidden_size",
    )
    if not draw(st.integers(0, 3)):
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(odd)))
    head = draw(
        st.sampled_from(
            ("from lightningdit_jax.configs import base\n",) * 9 + ("", "\x00", "import x\n")
        )
    )
    body = "def get_config():\n    c = base.get_config()\n" + "\n".join(lines) + "\n    return c\n"
    return head + "\n\n" + (body if draw(st.integers(0, 15)) else body[: len(body) // 2])


def _literal(value: Any) -> str:
    return repr(value).replace("nan", "float('nan')").replace("inf", "float('inf')")


def drawn(strategy: st.SearchStrategy, seed: int, count: int) -> list[Any]:
    """So many examples, functions of the seed; hypothesis draws the simple ones first."""
    found: list[Any] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def collect(example: Any) -> None:
        found.append(example)

    while len(found) < count:  # a small space ends early
        before = len(found)
        collect()
        if len(found) == before:
            break
    return found[:count]


def _command_inputs(seed: int, count: int) -> Iterator[Input]:
    for arguments in drawn(_command(), seed, count):
        yield Input({}, arguments)


def _file_inputs(seed: int, count: int) -> Iterator[Input]:
    for text in drawn(_file(), seed, count):
        content = text.encode("utf-8", "surrogatepass")
        yield Input({"mine.py": content}, ["--config=mine.py", "--workdir=w"])


def _read(folder: pathlib.Path, given: Input) -> Config:
    import os

    os.chdir(folder)
    left = main.parse_flags([str(ROOT / "main.py"), *given.given])
    return main.checked(left)[0]


def _documented(folder: pathlib.Path, given: Input, config: Config) -> str:
    return unlike_documented(config)


_BOMB = "".join(
    f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9 if i else ['x'])}]\n" for i in range(10)
)
_ODD = (
    "!!python/object/apply:os.system ['touch sentinel']\n",
    "x: !!python/object/new:subprocess.Popen [touch sentinel]\n",
    "x: !!python/name:os.system\n",
    "x: !!timestamp 2001-99-99\n",
    "x: 2001-99-99\n",
    "x: !!int x\n",
    "x: !!float x\n",
    "x: !!binary x\n",
    "x: !!set {a, b}\n",
    "x: !!omap [a: 1]\n",
    "? [a, b]\n: c\n",
    "? {a: b}\n: c\n",
    "null: 7\n",
    "7: 8\n",
    "a: &a {b: *a}\n",
    "a: &a [*a]\n",
    _BOMB,
    "- x\n",
    "x: " + "9" * 5000 + "\n",
    "x: " + "1:" * 3000 + "1\n",
    "x: " + "[" * 3000 + "\n",
    "\t x: 1\n",
    "%YAML 9.9\n---\n",
    "--- 1\n--- 2\n",
    "x: \x00\n",
    "<<: 7\n",
    "<<: {ckpt_path: x}\n",
    "'a\nb': 1\n",
)


def _yaml_inputs(seed: int, count: int) -> Iterator[Input]:
    texts = [path.read_text() for path in sorted(YAML.iterdir())]
    for number in range(count):
        rng = random.Random(f"yaml {seed} {number}")
        text = rng.choice(texts)
        values = yaml.safe_load(text)
        match rng.randrange(6):
            case 0:
                content = mutations.of_bytes(text.encode(), rng)
            case 1:
                odd = rng.choice(_ODD)
                content = rng.choice((odd + text, text + odd, odd)).encode()
            case 2:  # under a key of the release
                lines = text.splitlines(keepends=True)
                place = rng.randrange(len(lines))
                key = lines[place].partition(":")[0]
                odd = rng.choice(_ODD).partition(": ")[2] or "*x\n"
                lines[place] = f"{key}: {odd}"
                content = "".join(lines).encode()
            case _:
                content = yaml.safe_dump(mutations.of_json(values, rng)).encode()
        yield Input({"x.yaml": content})


def _read_yaml(folder: pathlib.Path, given: Input) -> Config:
    """As main.py and scripts/import_release_config.py do."""
    imported = import_yaml(str(folder / "x.yaml"))
    json.dumps(imported.nested())
    print(*imported.rows, sep="\n", file=sys.stdout)
    c = base.get_config()
    for key, value in imported.settings.items():
        section, _, name = key.rpartition(".")
        (c[section] if section else c)[name] = value
    config = from_dict(c)
    dataclasses.asdict(
        (generator_config if config.kind == "lightningdit" else tokenizer_config)(config)
    )
    return config


def _write_yaml(folder: pathlib.Path) -> None:
    text = (YAML / "lightningdit_xl_vavae_f16d32.yaml").read_text()
    (folder / "x.yaml").write_text(text)


# A child each: the flags of a config are those of a process.
KINDS = (
    Kind(
        "command lines",
        lambda folder: None,
        _command_inputs,
        _read,
        _documented,
        runs_python=True,
        per_child=1,
        names_file=False,
    ),
    Kind(
        "config files",
        lambda folder: None,
        _file_inputs,
        _read,
        _documented,
        size_factor=2**14,
        runs_python=True,
        per_child=1,
        names_file=False,
    ),
    # What is refused of a value that was taken over names the key that it is here.
    Kind(
        "yaml files of the release",
        _write_yaml,
        _yaml_inputs,
        _read_yaml,
        _documented,
        names_file=False,
    ),
)
