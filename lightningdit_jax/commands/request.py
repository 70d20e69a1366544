"""What a command line asks for."""

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightningdit_jax.config import Config


@dataclasses.dataclass(frozen=True)
class Request:
    """What a command line asks for. given: its --config, as it was written."""

    config: "Config"
    workdir: str
    topology: str
    target: str
    given: str
