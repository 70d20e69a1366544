"""Pages of the site beside docs/: a hook of MkDocs, which mkdocs.yml names.

README.md and the other documents of the root become pages without a second copy, links between
all of them lead where they lead on GitHub, and the references of config keys and of Python are
made here. Imports neither MkDocs, unless it builds, nor JAX.
"""

import ast
import pathlib
import posixpath
import re
from typing import Any

from lightningdit_jax.commands.help import config_values, shown
from lightningdit_jax.config_comments import key_comments
from lightningdit_jax.config_jobs import JOBS, readers
from lightningdit_jax.config_ranges import RANGES

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Documents of the root, by the page that each becomes.
PAGES = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}
_LINK = re.compile(r"(?<=\]\()([^)\s#]+)(?=[)#])")
_FILES = "files"  # where files that are no documents lie in the site, as text


def on_files(files: Any, config: Any) -> Any:
    """The hook: adds what docs/ does not hold."""
    from mkdocs.structure.files import File

    made = {page: (ROOT / source).read_text() for page, source in PAGES.items()}
    made |= {"configuration.md": configuration(), "api.md": api()}
    texts = {page: (ROOT / "docs" / page).read_text() for page in _own_pages()} | made
    for page, text in texts.items():
        for path in _linked(page, text):
            if _target(path).startswith(f"{_FILES}/"):
                made[_target(path)] = (ROOT / path).read_text()
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The hook: the text of a page with links that lead somewhere in the site."""
    return with_site_links(page.file.src_uri, markdown)


def with_site_links(page: str, text: str) -> str:
    """Relative links of a document, as they are on GitHub, as those of its page. page: its name."""
    folder = posixpath.dirname(page)

    def led(match: re.Match[str]) -> str:
        path = _path(page, match[1])
        return posixpath.relpath(_target(path), folder or ".") if path else match[1]

    return _LINK.sub(led, text)


def configuration() -> str:
    """The page of all config keys: defaults, ranges, comments, and the jobs that read each."""
    comments, values = key_comments(), config_values("base")
    lines = [
        "# Configuration",
        "",
        "Every key, its default in `configs/base.py`, what is said of it there, and the jobs that "
        "read it. Each is set by `--config.KEY=VALUE`; `lightningdit --help=KEY` prints the same. "
        "Other configs are listed under [training](training.md#configs).",
    ]
    section = ""
    for key in (key for key in comments if key in values):
        name, _, of_section = key.partition(".")
        if of_section and name != section:
            section = name
            lines += ["", f"## {section}"]
            lines += ["", _plain(comments[section])] if comments[section] else []
        default = f"`{shown(values[key])}`" if shown(values[key]) else "empty"
        said = [f"default {default}", *([f"{RANGES[key]}"] if key in RANGES else [])]
        heading = f"### `{key}`" if of_section else f"## `{key}`"
        lines += ["", heading, "", ", ".join(said)]
        lines += ["", _plain(comments[key])] if comments[key] else []
        jobs = readers(key)
        lines += ["", f"*Read by {'every job' if jobs == JOBS else ', '.join(map(_plain, jobs))}.*"]
    return "\n".join(lines) + "\n"


def api() -> str:
    """The page of the public names, of which mkdocstrings reads the source."""
    text = (ROOT / "lightningdit_jax" / "__init__.py").read_text()
    (names,) = (
        ast.literal_eval(node.value)
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    head = "# Python\n\nThe public names, `import lightningdit_jax as ldj`. Images are NHWC.\n"
    return head + "".join(f"\n::: lightningdit_jax.{name}\n" for name in names)


def _plain(text: str) -> str:
    """Text of comments, in which no sign means anything but itself."""
    return re.sub(r"([\\*_\[\]<>`|])", r"\\\1", text)


def _own_pages() -> list[str]:
    return sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def _linked(page: str, text: str) -> list[str]:
    """Files of the repository that a page links to, from its root."""
    return [path for link in _LINK.findall(text) if (path := _path(page, link))]


def _path(page: str, link: str) -> str:
    """The file, from the root, that a link of a page leads to on GitHub; "" for another link."""
    source = PAGES.get(page, f"docs/{page}")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    return path if "://" not in link and (ROOT / path).is_file() else ""


def _target(path: str) -> str:
    """Where a file of the repository lies in the site."""
    for page, source in PAGES.items():
        if path == source:
            return page
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{_FILES}/{path}.txt"
