"""The HTML of a report: one file, no network, light and dark. All text from outside is escaped."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import Any

from etils import epath
from PIL import Image

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #3b82f6; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 0 auto; padding: 1.5rem; }
h1 { margin: 0; overflow-wrap: anywhere; } h2 { margin: 2.2rem 0 .6rem; }
nav { margin: .6rem 0 1.2rem; } nav a { margin-right: 1rem; } a { color: var(--accent); }
table { border-collapse: collapse; font-size: 14px; max-width: 100%; }
td, th { padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; overflow-wrap: break-word; max-width: 40rem; }
th { font-weight: 600; } td.number { font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
.cards { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(160px, 100%), 1fr)); }
.card { background: var(--soft); border-radius: 8px; padding: .7rem .9rem; min-width: 0;
  overflow-wrap: anywhere; }
.card b { display: block; font-size: 1.25rem; }
.grid { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); }
.grid svg { width: 100%; height: auto; background: var(--soft); border-radius: 8px; }
figure { margin: 0; } figcaption { opacity: .75; font-size: 13px; }
img { max-width: 100%; height: auto; border-radius: 4px; display: block; }
.note { border-left: 3px solid #f59e0b; padding-left: .8rem; }
summary { cursor: pointer; margin: .8rem 0; } footer { margin-top: 3rem; opacity: .7; }
"""

_SMALL = 200_000  # bytes of a picture that stays as it is
_SIDE = 1400  # pixels of others at most


def page(title: str, subtitle: str, sections: Sequence[tuple[str, str]], footer: str) -> str:
    """A page of sections, (heading, HTML) each; those that are empty are left out."""
    shown = [(heading, body) for heading, body in sections if body]
    links = "\n".join(f'<a href="#{_anchor(h)}">{text(h)}</a>' for h, _ in shown)
    parts = "".join(f'<h2 id="{_anchor(h)}">{text(h)}</h2>\n{body}\n' for h, body in shown)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{text(title)}</h1>\n<div>{text(subtitle)}</div>\n<nav>{links}</nav>\n{parts}"
        f"<footer>{text(footer)}</footer>\n</body>\n</html>\n"
    )


def text(value: Any) -> str:
    """A value as text of a page; numbers as people write them."""
    if isinstance(value, bool) or value is None:
        shown = str(value)
    elif isinstance(value, float):
        shown = f"{value:.6g}"
    elif isinstance(value, dict):
        shown = ", ".join(f"{key} {part}" for key, part in value.items())
    else:
        shown = str(value)
    return html.escape(shown)


def table(rows: Iterable[Sequence[Any]], head: Sequence[str] = ()) -> str:
    """Rows of values; "" without any."""
    lines = ["".join(f"<td>{text(value)}</td>" for value in row) for row in rows]
    if not lines:
        return ""
    first = f"<tr>{''.join(f'<th>{text(name)}</th>' for name in head)}</tr>" if head else ""
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return f'<div class="scroll"><table>{first}\n{body}</table></div>'


def cards(values: Iterable[tuple[str, Any]]) -> str:
    """A few numbers that are looked at first."""
    parts = "".join(f'<div class="card">{text(n)}<b>{text(v)}</b></div>' for n, v in values)
    return f'<div class="cards">{parts}</div>'


def folded(summary: str, body: str) -> str:
    """What is shown when it is asked for."""
    return f"<details><summary>{text(summary)}</summary>\n{body}</details>" if body else ""


def drawings(svgs: Iterable[str]) -> str:
    """SVG elements side by side."""
    return f'<div class="grid">{"".join(svgs)}</div>'


def figure(path: epath.Path, caption: str) -> str:
    """A picture within the page. Raises OSError or ValueError for one that cannot be read."""
    kind, data = _embedded(path.read_bytes())
    encoded = base64.b64encode(data).decode()
    return (
        f'<figure><img src="data:image/{kind};base64,{encoded}" alt="{text(caption)}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def figures(parts: Sequence[str]) -> str:
    """Pictures side by side."""
    return f'<div class="grid">{"".join(parts)}</div>' if parts else ""


def _embedded(data: bytes) -> tuple[str, bytes]:
    """(type, bytes) of a picture, made smaller where it is large."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.load()
        if len(data) <= _SMALL:
            return "png", data
        image.thumbnail((_SIDE, _SIDE))
        smaller = io.BytesIO()
        image.convert("RGB").save(smaller, "WEBP", quality=85)
    return "webp", smaller.getvalue()


def _anchor(heading: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in heading.lower())
