"""The page in a real browser, as people use it: skipped without gradio, selenium and Chromium."""

import io
import json
import shutil
import time
import urllib.request
import zipfile

import numpy as np
import pytest
from PIL import Image

from lightningdit_jax.inference.page.job import opened
from lightningdit_jax.inference.sampling.job import sample
from tests.inference.page_config import page_config

pytest.importorskip("gradio")
webdriver = pytest.importorskip("selenium.webdriver")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(DRIVER is None, reason="Chromium's driver is not installed"),
]
COUNT = 72  # nine batches
NAMES = ("cat, Felis catus", "dog", "emu", "fox", "gnu", "hen", "ibis", "jay", "kea", "lynx")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return page_config(tmp_path_factory.mktemp("page"), NAMES, aux_head_depth=1)


class Browser:
    """Chromium on the page, found by what its elements are called."""

    def __init__(self, url, downloads):
        self.downloads, options = downloads, webdriver.ChromeOptions()
        # As root in a container there is neither a sandbox nor much shared memory.
        for flag in (
            "headless=new",
            "no-sandbox",
            "disable-dev-shm-usage",
            "window-size=1280,1000",
        ):
            options.add_argument(f"--{flag}")
        folder = {"download.default_directory": str(downloads)}
        options.add_experimental_option("prefs", folder)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        service = webdriver.ChromeService(DRIVER)
        self._driver = webdriver.Chrome(options, service)
        self._driver.get(url)
        self.until(lambda: self.all("#draw"))

    def all(self, selector):
        return self._driver.find_elements("css selector", selector)

    def click(self, selector):
        self.all(selector)[0].click()

    def type(self, selector, text):
        [field] = self.all(selector)
        field.send_keys("\ue009a\ue000", text)  # over what is there: Control-A, then nothing held

    def status(self):
        return " ".join(self.all(".status")[0].text.split())

    def pictures(self):
        return self.all("#pictures .grid-container img")

    def until(self, is_so, seconds=120):
        ends = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < ends, self.all("body")[0].text
            time.sleep(0.05)

    def requested(self):
        """Addresses that the page asked for."""
        entries = (json.loads(e["message"])["message"] for e in self._driver.get_log("performance"))
        sent = [e for e in entries if e["method"] == "Network.requestWillBeSent"]
        return {e["params"]["request"]["url"] for e in sent}

    def complaints(self):
        return [e["message"] for e in self._driver.get_log("browser") if e["level"] == "SEVERE"]

    def close(self):
        self._driver.quit()


@pytest.fixture(scope="module")
def page(config, tmp_path_factory):
    with opened(config, "") as url:
        browser = Browser(url, tmp_path_factory.mktemp("downloads"))
        yield browser, url
        browser.close()


def read(address):
    with urllib.request.urlopen(address) as answer:
        return answer.read()


def test_images_come_as_they_are_drawn_and_can_be_had(page, config, tmp_path):
    browser, _ = page
    browser.click("#labels input")
    browser.type("#labels input", "emu")
    browser.click("#labels ul[role=listbox] li")
    browser.type("#seed input", "7")
    browser.type("#num_samples input", str(COUNT))
    browser.click("#draw")
    counts = set()
    browser.until(lambda: counts.add(len(browser.pictures())) or COUNT in counts)
    browser.until(lambda: browser.status().startswith(f"drawn {COUNT}/{COUNT}"))
    assert counts - {0, COUNT}, "the grid did not grow"

    asked = config.changed(sample={"labels": "2", "num_samples": COUNT, "output": "png"})
    seeded = type(asked)(**{**vars(asked), "seed": 7})
    sample(seeded, str(tmp_path))
    want = [np.asarray(Image.open(tmp_path / "samples" / f"{i:06d}.png")) for i in range(COUNT)]
    shown = [read(image.get_attribute("src")) for image in browser.pictures()]
    for found, expected in zip(shown, want, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(found))), expected)
    assert {label.text for label in browser.all("#pictures .caption-label")} == {"emu"}

    browser.click("#archive")
    browser.until(lambda: list(browser.downloads.glob("*.zip")))
    with zipfile.ZipFile(*browser.downloads.glob("*.zip")) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("/000003.png")]
        assert archive.read(name) == shown[3]


def test_what_cannot_be_drawn_is_a_line_and_the_images_stay(page):
    browser, _ = page
    shown = len(browser.pictures())
    browser.type("#num_steps input", "1")
    browser.click("#draw")
    said = "error: config.sample.num_steps is 1; expected at least 2"
    browser.until(lambda: browser.status() == said)
    assert len(browser.pictures()) == shown
    browser.type("#num_steps input", "3")


def test_controls_without_meaning_are_off_and_say_why(page):
    browser, _ = page
    browser.click("#advanced button")
    for scale, is_off in (("1", True), ("2", False)):
        browser.type("#cfg_scale input", scale)
        for name in ("apg_eta", "cfg_schedule", "cfg_optimized_scale"):
            state = "disabled" if is_off else "enabled"
            browser.until(lambda where=f"#{name} input:{state}": browser.all(where))
            assert ("guidance is 1" in browser.all(f"#{name}")[0].text) == is_off
    assert browser.all("#cfg_power input:disabled") and browser.all("#ema_sigma input:enabled")


def test_a_drawing_can_be_stopped(page):
    browser, _ = page
    browser.type("#num_samples input", "1000")
    browser.click("#draw")
    browser.until(lambda: browser.all("#stop:not([disabled])"))
    browser.click("#stop")
    browser.until(lambda: browser.status().startswith("stopped: drawn"))


def test_the_page_asks_no_other_machine_for_anything(page):
    browser, url = page
    assert all(there.startswith((url, "data:", "blob:")) for there in browser.requested())
    assert browser.complaints() == []
