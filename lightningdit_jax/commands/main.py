"""The command: flags, the checks that need no devices, errors as lines, and the mode."""

import contextlib
import functools
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from absl import app, flags, logging
from ml_collections import config_flags

from lightningdit_jax.commands import help
from lightningdit_jax.commands.config_argument import (
    complete,
    config_flags_of,
    defaults,
    given_config,
)
from lightningdit_jax.commands.model_source import check_model, model_source
from lightningdit_jax.commands.modes import MODES
from lightningdit_jax.commands.request import Request
from lightningdit_jax.interruption import INTERRUPTION
from lightningdit_jax.storage_errors import EXIT_STATUS, StorageError, storage_error

if TYPE_CHECKING:
    from lightningdit_jax.config import Config

PACKAGE = pathlib.Path(__file__).resolve().parent.parent
OUR_CODE = (PACKAGE, (PACKAGE / "configs").resolve())  # in a clone, a folder beside the package
_NO_CONFIG = "the config file's get_config() returns a {}; expected a ConfigDict"

CONFIG = config_flags.DEFINE_config_file("config", None, "A config by name or file, or a workdir.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of checkpoints and results, local or gs://.", required=True
)
MODE = flags.DEFINE_string("mode", "train", f"What to do: {', '.join(MODES)}.")
TOPOLOGY = flags.DEFINE_string(
    "topology", "v5e:4x4", "TPUs or GPUs that --mode=compile compiles for: v5e:4x4, h100:8, ..."
)
TARGET = flags.DEFINE_enum(
    "target", "train", ["train", "sample"], "What --mode=compile compiles: a step or the sampler."
)
VERIFY = flags.DEFINE_enum(
    "verify", "on", ["on", "off"], "Whether what is read of checkpoints has to be what was saved."
)
flags.mark_flag_as_required("config")


def main(asked: Sequence[str], argv: list[str]) -> None:
    """Builds the config, joins the other processes, does the job and says what comes next.

    asked: the command line as it was written, argv: what parse_flags left over.
    """
    import jax

    from lightningdit_jax.assembly.workdir import check_taken
    from lightningdit_jax.background_noise import silence_background
    from lightningdit_jax.parallel import multihost
    from lightningdit_jax.parallel.ending import failing_together
    from lightningdit_jax.verification import verifying

    if flags.FLAGS["verbosity"].present:
        logging.set_verbosity(flags.FLAGS.verbosity)
    else:
        logging.set_verbosity(logging.WARNING)
        silence_background()
    config, given, jobs = checked(argv)
    mode = MODES[MODE.value]
    INTERRUPTION.kept = mode.kept
    if config.compute.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", config.compute.compilation_cache)
    if mode.devices:
        multihost.initialize()
    else:
        jax.config.update("jax_platforms", "cpu")  # a TPU may be another program's
    with failing_together(), verifying(VERIFY.value == "on"), _sole_writer(config):
        given_file = given_config(read_arguments(list(asked))) or ""
        path, key = model_source(MODE.value, config, WORKDIR.value)
        if path:
            check_model(path, key, MODE.value, config, given_file)
            check_taken(config, given, jobs[0], path, multihost.print_once)
        request = Request(config, WORKDIR.value, TOPOLOGY.value, TARGET.value, given_file)
        mode.run(request)
        if mode.next and logging.get_verbosity() >= logging.WARNING:
            multihost.print_once(*(f"next: {command}" for command in mode.next(request)))


def checked(argv: list[str]) -> tuple["Config", Collection[str], tuple[str, ...]]:
    """All checks that need no devices: the config, the keys given for it, the jobs to do.

    argv: what parse_flags left over. Raises ValueError.
    """
    from lightningdit_jax import config as configs
    from lightningdit_jax.assembly.alignment import check_alignment
    from lightningdit_jax.assembly.choices import solver_choice, source_choice
    from lightningdit_jax.assembly.workdir import check_command_line
    from lightningdit_jax.config_jobs import jobs_of
    from lightningdit_jax.errors import unknown_name
    from lightningdit_jax.hub import is_address
    from lightningdit_jax.inference.quality.metrics import metric_choice
    from lightningdit_jax.inference.quality.tokenizer_measures import measure_choice

    if len(argv) > 1:
        raise ValueError(f"unexpected arguments: {' '.join(argv[1:])}")
    if MODE.value not in MODES:
        raise ValueError(unknown_name("mode", MODE.value, tuple(MODES)))
    writes = MODES[MODE.value].sole or not MODES[MODE.value].alone
    if writes and is_address(WORKDIR.value):
        raise ValueError(
            f"--workdir={WORKDIR.value}: what is made cannot be written into the hub; expected a "
            "folder, local or gs://, and the address where a checkpoint is named, as in "
            "--config.sample.checkpoint"
        )
    if not hasattr(CONFIG.value, "keys"):
        raise ValueError(_NO_CONFIG.format(type(CONFIG.value).__name__))
    config = configs.from_dict(CONFIG.value)
    check_alignment(config)
    given = config_flags.get_override_values(flags.FLAGS["config"])
    train = config.train
    within = (train.evaluate_every_steps > 0, train.picture_every_steps > 0)
    asked = (*within, bool(config.evaluate.seeds), config.is_joint)
    jobs = jobs_of(MODE.value, TARGET.value, config.kind, *asked)
    choices = (source_choice(), solver_choice(), metric_choice(), measure_choice())
    check_command_line(config, given, jobs, WORKDIR.value, choices, defaults())
    return config, given, jobs


def _sole_writer(config: "Config") -> contextlib.AbstractContextManager[None]:
    """Keeps other commands from what this one writes; on the main process, which ends them all.

    Each mode has an output of its own: samples are drawn beside the training that they are of.
    """
    from lightningdit_jax.parallel.multihost import is_main_process
    from lightningdit_jax.sole_writer import sole_writer

    mode, folder = MODE.value, WORKDIR.value
    if mode == "extract":
        folder = config.extract.path or f"{folder}/latents"
    is_refused = mode == "extract" and "://" in folder
    if not MODES[mode].sole or is_refused or not is_main_process():
        return contextlib.nullcontext()
    # Numbers of a workdir that cannot be written are printed all the same.
    return sole_writer(folder, mode, f"--mode={mode}", needed=mode != "evaluate")


def read_arguments(argv: list[str]) -> list[str]:
    """The arguments in one spelling, --config first, with what files of flags hold."""
    from lightningdit_jax.assembly.command_line import canonical

    return canonical(flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False))


def parse_flags(argv: list[str]) -> list[str]:
    """Checks the config file and the names of overrides before absl reads them."""
    from lightningdit_jax.errors import one_line
    from lightningdit_jax.square import explained

    try:
        arguments = complete(read_arguments(argv))
        if (given := given_config(arguments)) is not None:
            arguments[:1] = config_flags_of(given, arguments)
        if "--" in arguments[:-1]:  # the flags of config files would be read there too
            rest = " ".join(arguments[arguments.index("--") + 1 :])
            raise ValueError(f"unexpected arguments: {rest}")
        # Flags of config files look for overrides in sys.argv, whatever they are given.
        sys.argv = [argv[0], *arguments]
        return flags.FLAGS(sys.argv)
    except flags.Error as error:
        # What a config file itself refuses comes with the traceback of its reading.
        refused = re.search(r"\n(?:Value|Type)Error: (.*)\Z", str(error), re.DOTALL)
        said = (refused[1] if refused else str(error)).strip()
        lacking = re.findall("Flag --(config|workdir) must have a value", said)
        if "config" in lacking and _config_path():
            said = _NO_CONFIG.format("NoneType")
        elif lacking:
            wanted = " and ".join(f"--{name}={name.upper()}" for name in sorted(lacking))
            said = f"give {wanted}; --help lists modes, configs and keys"
        raise ValueError(explained(said)) from error
    except Exception as error:
        if place := _place_in_config(error):
            # ConfigDict lists all keys there are.
            said = one_line(error, 500).partition(" Other fields present:")[0]
            said = f"{type(error).__name__}: {said}"
            raise ValueError(f"{place}: {said}") from error
        raise


def _config_path() -> str:
    """The file that --config names; "" where it names none."""
    return (given_config(sys.argv[1:]) or "").partition(":")[0]


def _place_in_config(error: Exception) -> str:
    """Where in the config file an error comes from that its Python raises; "" where not there."""
    path = _config_path()
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):  # of null bytes without a place
        places.append((error.filename or path, error.lineno))
    for filename, line in reversed(places):
        if path and os.path.realpath(filename) == os.path.realpath(path):
            return f"{path}, line {line}" if line else path
    return ""


def run() -> None:
    """Runs main; what the user can mend is one line on standard error and exit status 2.

    SIGINT and SIGTERM: lightningdit_jax.interruption.
    """
    if (topic := help.asked_for(sys.argv[1:])) is not None:
        _print_help(topic)
        return
    # XLA and TensorStore warn about things no user can act on.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # A GPU is this command's alone; JAX would leave a quarter of its memory (chips.GPU_SHARE).
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
    try:
        app.run(functools.partial(main, tuple(sys.argv)), flags_parser=parse_flags)
    except Exception as error:
        if not isinstance(error, StorageError) and (said := refusal(error)):
            print(f"error: {said}", file=sys.stderr)
            sys.exit(2)
        refused = storage_error(error, otherwise=f"a file for {WORKDIR.value}")
        if refused is None:
            raise  # not one of our own checks: the traceback is needed
        logging.info("%s", refused, exc_info=True)
        # In threads of Orbax and Grain may be what waits for the same storage.
        INTERRUPTION.end(f"error: {refused}; {INTERRUPTION.kept}", EXIT_STATUS)


def _print_help(topic: str) -> None:
    """The text of --help, or of --help=KEY; an unknown key is one line and exit status 2."""
    from lightningdit_jax.assembly.command_line import canonical

    try:
        if topic:
            print(help.of_keys(topic, canonical(sys.argv[1:])), flush=True)
        else:
            print(help.general((WORKDIR, TOPOLOGY, TARGET, VERIFY)), flush=True)
    except BrokenPipeError:  # of head or less, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def refusal(error: Exception) -> str:
    """What one of our own checks says, as a line that can be printed; "" for another error."""
    from lightningdit_jax.errors import LONGEST_LINE, plain
    from lightningdit_jax.object_stores import missing_library

    said = str(error) if _is_ours(error) else missing_library(error)
    return plain(said, LONGEST_LINE)


def _is_ours(error: Exception) -> bool:
    """Whether it is one of our own checks, whose message says it all."""
    if not isinstance(error, ValueError | FileNotFoundError | FloatingPointError | ImportError):
        return False
    raised_in = pathlib.Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    ours = any(raised_in.is_relative_to(folder) for folder in OUR_CODE)
    return ours and not isinstance(error, ModuleNotFoundError)
