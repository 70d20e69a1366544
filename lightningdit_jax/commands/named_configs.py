"""The configs that come with the package, by name."""

import ast
import pathlib

from lightningdit_jax.errors import unknown_name

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "configs"
_OTHERS = ("__init__", "workdir")  # no recipes
NAMES = tuple(sorted(p.stem for p in FOLDER.glob("*.py") if p.stem not in _OTHERS))


def config_file(value: str) -> str:
    """The file of a config, with its row: "dit_xl", "configs/dit_xl.py", "paper:xl_800ep_cfg".

    "" for what is no such name.
    """
    given, colon, row = value.partition(":")
    name = given.removeprefix("configs/").removesuffix(".py")
    return f"{FOLDER / name}.py{colon}{row}" if name in NAMES else ""


def no_such_config(value: str) -> str:
    """The message for a --config that is neither a path nor a name."""
    name = pathlib.PurePath(value.partition(":")[0]).stem
    said = unknown_name("config", name, NAMES)
    return f"--config={value}: there is no such file or folder, nor a config of this name; {said}"


def summary(name: str) -> str:
    """What a config is, in a line: the first of its docstring."""
    text = (FOLDER / f"{name}.py").read_text()
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
