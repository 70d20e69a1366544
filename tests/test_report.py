"""--mode=report: what a page says, by reading its HTML and its drawings."""

import base64
import html.parser
import io
import json
import re
import sys
import xml.etree.ElementTree

import numpy as np
import pytest
from PIL import Image

from configs import base, digits_dit
from lightningdit_jax.report.job import report
from lightningdit_jax.storage_errors import StorageError

HOSTILE = "</td><script>alert(1)</script>\u2028&amp;"
DEFAULTS = base.get_config().to_dict()


class Page(html.parser.HTMLParser):
    """Tags with their attributes, texts, and rows of tables."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.texts, self.rows, self.open = [], [], [], []
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def picture(path, width=8, height=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, format="PNG")
    return pixels


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "run <of> mine"
    folder.mkdir()
    records = [{"step": s, "loss": 2.0 / s, "images_per_second": 10.0} for s in range(1, 1201)]
    records.append({"step": 1200, "valid/loss": 0.5, "valid/ema_loss": 0.25, "valid/mse_t0": 1.0})
    records.append({"step": 1200, "eval/fid": float("nan"), "note": HOSTILE})
    lines = [json.dumps(record) for record in records]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 12']) + "\n")
    config = digits_dit.get_config().to_dict()
    config["data"]["path"] = HOSTILE
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evaluation.json").write_text(json.dumps({"fid": 2.5, "of": {HOSTILE: HOSTILE}}))
    start = {"step": 0, "time": "2026-01-02 03:04:05 UTC", "device": HOSTILE, "packages": {"a": 1}}
    (folder / "starts.jsonl").write_text(json.dumps(start) + "\n")
    for step in range(100, 2100, 100):
        picture(folder / "pictures" / f"{step}.png")
    (folder / "pictures" / "2000.png").write_bytes(b"no picture")
    picture(folder / "samples.png", 1600, 60)
    return folder


@pytest.fixture(scope="module")
def content(workdir):
    return report(str(workdir), DEFAULTS).read_text()


def test_a_report_says_what_the_workdir_holds(content):
    page = Page(content)
    assert page.of("title") and "run <of> mine" in page.texts
    # Nothing is asked of a network, and nothing of a text became a tag.
    links = [value for _, attributes in page.tags for value in attributes.values() if value]
    assert not [v for v in links if re.match(r"(https?:)?//", v) and "w3.org" not in v]
    assert not page.of("script") and not page.of("link")
    assert any(HOSTILE in text for text in page.texts)
    # The config: what differs comes first, and all of it is there.
    changed = {row[0]: row[1:] for row in page.rows if len(row) == 3}
    assert changed["model.depth"] == ["5", "None"]
    assert changed["data.path"] == [HOSTILE, ""]
    assert "optimizer.beta2" not in changed
    assert ["optimizer.beta2", "0.95"] in page.rows
    assert ["fid", "2.5"] in page.rows and ["device", HOSTILE] in page.rows
    assert any("1 damaged lines of metrics.jsonl" in text for text in page.texts)


def test_curves_are_those_of_the_records(content):
    drawings = re.findall(r"<svg.*?</svg>", content, re.DOTALL)
    known = ("loss", "images_per_second", "mse, held out, by time")
    titles = [next(t for t in known if f">{t}<" in drawing) for drawing in drawings]
    assert titles == ["loss", "mse, held out, by time", "images_per_second"]
    names = re.findall(r' id="([^"]+)"', content)
    assert len(names) == len(set(names))
    root = xml.etree.ElementTree.fromstring(drawings[0])
    drawn = [e for e in root.iter() if "stroke: #" in e.get("style", "") and e.get("d")]
    lines = [re.findall(r"[ML] (\S+) (\S+)", element.get("d")) for element in drawn]
    x, y = np.array(max(lines, key=len), float).T
    # Means of three neighbors each: 400 points, falling as 2 / s, on an axis of logarithms.
    assert len(x) == 400 and np.allclose(np.diff(x), np.diff(x)[0], atol=1e-3)
    means = np.log((2.0 / np.arange(1, 1201)).reshape(400, 3).mean(1))
    scale, offset = np.polyfit(means, y, 1)
    assert scale < 0 and np.allclose(scale * means + offset, y, atol=1e-2)
    labels = re.findall(r">([^<>]+)</text>", drawings[0])
    assert {"training", "held out", "held out, average"} <= set(labels)


def test_pictures_are_within_the_page(workdir, content):
    page = Page(content)
    images = page.of("img")
    assert images[0]["alt"] == "step 100"
    assert len(images) == 12 and images[-1]["alt"] == "samples.png"

    def shown(image):
        kind, data = re.fullmatch(r"data:image/(\w+);base64,(.*)", image["src"]).groups()
        return kind, np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))

    kind, pixels = shown(images[0])
    assert kind == "png"
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(workdir / "pictures" / "100.png")))
    kind, pixels = shown(images[-1])
    assert kind == "webp" and pixels.shape[1] == 1400
    assert any("2000.png cannot be read" in text for text in page.texts)


def test_what_cannot_be_reported_is_said(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"holds no run: expected metrics.jsonl, config.json or"):
        report(str(tmp_path / "nothing"), DEFAULTS)
    folder = tmp_path / "w"
    (folder / ".report.html.tmp").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(StorageError, match=r"report.html.tmp: Is a directory"):
        report(str(folder), DEFAULTS)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"matplotlib: pip install -e '\.\[report\]'"):
        report(str(folder), DEFAULTS)
