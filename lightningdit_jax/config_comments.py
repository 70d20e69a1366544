"""What configs/base.py and sampling_options.py say of each key, beside its default.

Of the texts of these files: what is said of a key stands in the lines above it and behind it.
Imports nothing of ours.
"""

import ast
import io
import pathlib
import tokenize
from collections.abc import Iterator

_PACKAGE = pathlib.Path(__file__).resolve().parent
_SAMPLE = "sample"  # the section whose keys stand in a file of their own


def key_comments() -> dict[str, str]:
    """{key: what is said of it} in the order of configs/base.py, "" of what explains itself.

    Sections are among the keys.
    """
    found: dict[str, str] = {}
    for key, comment in _of_file(_PACKAGE / "configs" / "base.py"):
        found[key] = "; ".join(filter(None, (found.get(key), comment)))
        if key == _SAMPLE:
            options = _of_file(_PACKAGE / "sampling_options.py")
            found |= {f"{_SAMPLE}.{name}": said for name, said in options}
    return found


def _of_file(path: pathlib.Path) -> Iterator[tuple[str, str]]:
    """(key, comment) of `c.KEY = ...` and of annotated fields of classes."""
    text = path.read_text()
    comments, alone = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row = token.start[0]
            comments[row] = token.string.removeprefix("#").strip()
            if token.line.lstrip().startswith("#"):
                alone.add(row)
    for node in ast.walk(ast.parse(text)):
        if key := _key(node):
            assert isinstance(node, ast.stmt)
            first = node.lineno
            while first - 1 in alone:
                first -= 1
            said = [comments[row] for row in range(first, node.lineno)]
            if node.end_lineno in comments:
                said.append(comments[node.end_lineno])
            yield key, " ".join(said)


def _key(node: ast.AST) -> str:
    """The key that a line sets, "" for another one."""
    if isinstance(node, ast.AnnAssign):
        return ast.unparse(node.target)
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
        return ast.unparse(node.targets[0]).removeprefix("c.")
    return ""
