"""The commands that an installation brings, which setup.py names; main.py calls the same.

Imports nothing that takes time: signals are heard first.
"""

from lightningdit_jax.interruption import INTERRUPTION


def lightningdit() -> None:
    """Train, extract, sample, evaluate: main.py."""
    INTERRUPTION.listen()  # before what takes time to import
    from lightningdit_jax.commands.main import run

    run()


def lightningdit_convert() -> None:
    """PyTorch weights to checkpoints and back: convert_torch_weights.py."""
    INTERRUPTION.listen()
    from lightningdit_jax.commands.convert import main

    main()
