"""What a golden case is: its entry in index.json, its files, and the function that makes it."""

import pathlib
from collections.abc import Callable
from typing import Any

import torch

from tests.make_golden.files import read

Tensors = dict[str, torch.Tensor]
# out.*, mid.* and aux.* of the case's own file; under the name of a further file what it holds.
Made = dict[str, Any]
Make = Callable[["Case"], Made]
# From an entry of index.json and a generator: the case's files, `in.*` in its own.
Draw = Callable[[dict[str, Any], torch.Generator], dict[str, Tensors]]

MAKERS: dict[str, tuple[Make, Draw | None]] = {}
# Of cases that index.json does not list.
ENTRIES: dict[str, dict[str, Any]] = {}


def case(
    *names: str, draw: Draw | None = None, entry: dict[str, Any] | None = None
) -> Callable[[Make], Make]:
    """Registers how the cases of these names are made.

    draw: makes inputs that are not stored yet. entry: for the one case, where index.json has none.
    """

    def register(make: Make) -> Make:
        for name in names:
            assert name not in MAKERS, f"{name} is made twice"
            MAKERS[name] = (make, draw)
            if entry is not None:
                ENTRIES[name] = entry
        return make

    return register


class Case:
    """A case's config, inputs and weights, as its function reads them."""

    def __init__(self, name: str, entries: dict[str, dict[str, Any]], folder: pathlib.Path):
        """Reads the inputs, or draws them where the case's file is not there yet.

        entries: of index.json, by name. folder: of the stored files. Raises FileNotFoundError where
        the inputs can be neither read nor drawn.
        """
        self.name, self.entries = name, entries
        self.entry = entry = entries[name]
        self.config: dict[str, Any] = entry["config"]
        self.folder = folder
        self._make, draw = MAKERS[self.name]
        self._drawn: dict[str, Tensors] = {}
        self.file: str | None = entry.get("file")
        if self.file is not None and not (folder / self.file).is_file():
            if draw is None:
                raise FileNotFoundError(
                    f"{folder / self.file} is not there, and nothing draws its inputs: give the "
                    f"function in tests/make_golden that makes {self.name} a `draw`"
                )
            self._drawn = draw(entry, torch.Generator().manual_seed(0))
        stored = {} if self.file is None else self.read(self.file)
        self._stored_inputs = {k: v for k, v in stored.items() if k.startswith("in.")}
        self.inputs: Tensors = {k.removeprefix("in."): v for k, v in self._stored_inputs.items()}

    def read(self, file: str) -> Any:
        """What one of the case's files holds."""
        return self._drawn[file] if file in self._drawn else read(self.folder / file)

    def weights(self, part: str | None = None) -> Tensors:
        """The state dict that the case starts from; of that part where it names several."""
        named = self.entry["weights"]
        return self.read(named if part is None else named[part])

    def files(self) -> dict[str, Any]:
        """File name -> what the release makes of the case; drawn weights among them."""
        made = self._make(self)
        own = {k: v for k, v in made.items() if k.startswith(("out.", "mid.", "aux."))}
        files = {**self._drawn, **{k: v for k, v in made.items() if k not in own}}
        if self.file is not None:
            files[self.file] = {**self._stored_inputs, **own}
        return files
