"""--mode=page: a page on this machine to draw samples by hand."""

import contextlib
import errno
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator

import jax
from etils import epath
from flax import nnx

from lightningdit_jax.assembly.synthesis import makeable_widths
from lightningdit_jax.checkpoint import find_checkpoint
from lightningdit_jax.config import Config
from lightningdit_jax.flow.timesteps import shift_for
from lightningdit_jax.inference.page.drawing import Drawer
from lightningdit_jax.inference.page.settings import FIRST, WIDTHS, first_settings
from lightningdit_jax.inference.page.view import HOST, check_gradio, open_page, prepare_gradio
from lightningdit_jax.inference.sampling.opening import open_sampler
from lightningdit_jax.interruption import INTERRUPTION


def page(config: Config, workdir: str) -> None:
    """Serves it until a signal ends the program. Raises as `opened`."""
    with opened(config, workdir) as url:
        print(f"draw at {url}, a page that only this machine reaches; Ctrl-C ends it", flush=True)
        threading.Event().wait()


@contextlib.contextmanager
def opened(config: Config, workdir: str) -> Iterator[str]:
    """The page's address, which answers within the context.

    Controls begin with what config.sample says. What is drawn lies in a temporary folder, removed
    at the end, until it is downloaded. Raises ValueError without gradio, with several processes and
    for a port that is taken, all before anything is loaded, and ValueError or FileNotFoundError as
    open_sampler.
    """
    if jax.process_count() > 1:
        raise ValueError("--mode=page is of one process; start it alone")
    check_gradio()
    port = _free_port(config.page.port)
    sampler, weights = open_sampler(config, workdir, FIRST)
    structure, names = sampler.structure, sampler.class_names
    settings = first_settings(config, structure.config.num_classes, names)
    numbers = structure.config.latent_numbers
    settings["timestep_shift"] = shift_for(settings["timestep_shift"], numbers)
    tokenizer = nnx.merge(structure.vae, sampler.weights["vae"])
    resolution = structure.config.input_size * tokenizer.downsample_factor
    with _temporary_folder() as folder:
        prepare_gradio(folder)
        drawer = Drawer(config, workdir, sampler, weights, folder)
        made = widths(config, workdir)
        server = open_page(drawer, settings, structure, names, made, resolution, port)
        try:
            yield f"http://{HOST}:{port}"
        finally:
            server.close()


def widths(config: Config, workdir: str) -> list[float]:
    """Of averages that can be drawn with; none where the config chooses other weights.

    One alone is about that which the run has, by another name.
    """
    options = config.sample
    if options.ema_decay or not options.use_ema:
        return []
    made = makeable_widths(find_checkpoint(options.checkpoint or workdir), WIDTHS)
    return made if len(made) > 1 else []


def _free_port(port: int) -> int:
    """The port, or for 0 one that is free. Raises ValueError where it cannot be had."""
    with socket.socket() as asked:
        asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            asked.bind((HOST, port))
        except OSError as error:
            why = {errno.EADDRINUSE: "is in use", errno.EACCES: "is not yours to take"}
            raise ValueError(
                f"port {port} {why.get(error.errno or 0, f'cannot be had: {error.strerror}')}; set "
                "config.page.port to another, or to 0 for any that is free"
            ) from error
        return asked.getsockname()[1]


@contextlib.contextmanager
def _temporary_folder() -> Iterator[epath.Path]:
    """Removed at the end, also where a signal ends the process at once."""
    folder = epath.Path(tempfile.mkdtemp(prefix="lightningdit-page-"))

    def remove() -> None:
        shutil.rmtree(folder, ignore_errors=True)

    INTERRUPTION.before_end(lambda line, status: remove())
    try:
        yield folder
    finally:
        remove()
