"""The tour runs from top to bottom beside a demo, and what it shows is of such a run."""

import ast
import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.examples.stand_in import ROOT, save_demo

pytestmark = pytest.mark.xdist_group("tests.examples.test_examples")  # programs are shared

FILE = ROOT / "examples" / "tour.ipynb"
CELLS = [cell for cell in json.loads(FILE.read_text())["cells"] if cell["cell_type"] == "code"]


def run(source, names):
    """The value that a notebook shows of a cell: that of its last line, where it has one."""
    *statements, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        statements, last = [*statements, last], None
    exec(compile(ast.Module(statements, []), "cell", "exec"), names)
    return last and eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def shown(cell):
    """The picture that is kept with a cell."""
    kept = [output["data"]["image/png"] for output in cell["outputs"] if "data" in output]
    return Image.open(io.BytesIO(base64.b64decode(kept[0]))) if kept else None


@pytest.mark.slow
def test_every_cell_runs_and_shows_what_is_kept_with_it(tmp_path, monkeypatch):
    save_demo(tmp_path / "outputs" / "demo")
    (tmp_path / "examples").mkdir()
    monkeypatch.chdir(tmp_path / "examples")
    monkeypatch.syspath_prepend(ROOT / "examples")
    names, pictures = {}, 0
    for cell in CELLS:
        value = run("".join(cell["source"]), names)
        if isinstance(value, Image.Image):
            pictures += 1
            assert value.size == shown(cell).size
            assert len(value.getcolors(2**16)) > 10  # something is on it
    assert pictures == 5
    error = np.abs(names["back"] - names["latents"]).max()
    assert error < 0.01 * np.abs(names["origin"] - names["latents"]).max()


def test_it_was_run_in_order_and_is_small():
    assert [cell["execution_count"] for cell in CELLS] == [*range(1, len(CELLS) + 1)]
    assert not any(output["output_type"] == "error" for c in CELLS for output in c["outputs"])
    assert FILE.stat().st_size < 300_000
