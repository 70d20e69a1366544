"""LightningDiT and VA-VAE: train, extract, sample, evaluate.

python main.py --config=configs/dit_xl.py --workdir=runs/dit_xl --config.data.path=LATENTS
"""

import contextlib
import json
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Collection
from typing import TYPE_CHECKING

from lightningdit_jax.interruption import INTERRUPTION

if __name__ == "__main__":
    INTERRUPTION.listen()  # before what takes time to import

from absl import app, flags, logging
from ml_collections import config_flags

from lightningdit_jax.storage_errors import EXIT_STATUS, StorageError, storage_error

if TYPE_CHECKING:
    from lightningdit_jax.config import Config

ROOT = pathlib.Path(__file__).resolve().parent
OUR_CODE = ("main.py", "configs", "lightningdit_jax")
# What an end at any moment leaves, and how to go on.
KEPT = {
    "train": "the same command goes on from the newest checkpoint, or begins again without one",
    "extract": "finished shards are kept, and the same command makes the rest",
    "sample": "finished batches are kept, and the same command draws the rest",
    "sweep": "finished rows are kept, and the same command makes the rest",
    "evaluate": "nothing is written yet; the same command begins again",
    "compile": "nothing is written yet; the same command begins again",
}
MODES = (*KEPT, "verify")
_NO_CONFIG = "the config file's get_config() returns a {}; expected a ConfigDict"

CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file, see configs/.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of checkpoints and results, local or gs://.")
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
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    """Builds the config and joins the other processes."""
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
    INTERRUPTION.kept = KEPT.get(MODE.value, INTERRUPTION.kept)
    if config.compute.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", config.compute.compilation_cache)
    multihost.initialize()
    with failing_together(), verifying(VERIFY.value == "on"), _sole_writer(config):
        if path := _checkpoint_path(config):
            check_taken(config, given, jobs[0], path, multihost.print_once)
        run_mode(config)


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
    from lightningdit_jax.inference.quality.metrics import metric_choice

    if len(argv) > 1:
        raise ValueError(f"unexpected arguments: {' '.join(argv[1:])}")
    if MODE.value not in MODES:
        raise ValueError(unknown_name("mode", MODE.value, MODES))
    if not hasattr(CONFIG.value, "keys"):
        raise ValueError(_NO_CONFIG.format(type(CONFIG.value).__name__))
    config = configs.from_dict(CONFIG.value)
    check_alignment(config)
    given = config_flags.get_override_values(flags.FLAGS["config"])
    evaluates = config.train.evaluate_every_steps > 0
    jobs = jobs_of(MODE.value, TARGET.value, config.kind, evaluates)
    choices = (source_choice(), solver_choice(), metric_choice())
    check_command_line(config, given, jobs, WORKDIR.value, choices, _defaults())
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
    # Reports of compile are of one target each, verify writes nothing, extract refuses a bucket.
    nothing = mode in ("compile", "verify") or (mode == "extract" and "://" in folder)
    if nothing or not is_main_process():
        return contextlib.nullcontext()
    # Numbers of a workdir that cannot be written are printed all the same.
    return sole_writer(folder, mode, f"--mode={mode}", needed=mode != "evaluate")


def _checkpoint_path(config: "Config") -> str:
    """What a mode takes its model from; empty where that is the config."""
    if MODE.value in ("sample", "sweep"):
        return config.sample.checkpoint or WORKDIR.value
    if MODE.value == "extract" or (MODE.value == "evaluate" and config.kind == "vavae"):
        return config.extract.checkpoint or WORKDIR.value
    return ""


def run_mode(config: "Config") -> None:
    """Hands over to what --mode says."""
    if MODE.value == "train":
        from lightningdit_jax.inference.quality.in_training import make_training_evaluator
        from lightningdit_jax.training.run import train

        train(config, WORKDIR.value, make_training_evaluator)
    elif MODE.value == "extract":
        from lightningdit_jax.inference.extraction.job import extract

        extract(config, WORKDIR.value)
    elif MODE.value == "sample":
        from lightningdit_jax.inference.sampling.job import sample

        sample(config, WORKDIR.value)
    elif MODE.value == "sweep":
        from lightningdit_jax.inference.quality.sweep import sweep

        sweep(config, WORKDIR.value)
    elif MODE.value == "compile":
        from lightningdit_jax.parallel.topology import check_topology

        if TARGET.value == "train":
            from lightningdit_jax.training.compile import compile_train_step as compile_for
        else:
            from lightningdit_jax.inference.sampling.compile import compile_sampler as compile_for

        check_topology(TOPOLOGY.value)
        compile_for(config, WORKDIR.value, TOPOLOGY.value)
    elif MODE.value == "verify":
        from lightningdit_jax.assembly.verify import verify

        if verify(config, WORKDIR.value):
            sys.exit(1)
    else:
        from lightningdit_jax.inference.quality.job import evaluate

        evaluate(config, WORKDIR.value)


def read_arguments(argv: list[str]) -> list[str]:
    """The arguments in one spelling, --config first, with what files of flags hold."""
    from lightningdit_jax.assembly.command_line import canonical

    return canonical(flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False))


def parse_flags(argv: list[str]) -> list[str]:
    """Checks the config file and the names of overrides before absl reads them."""
    from lightningdit_jax.errors import one_line
    from lightningdit_jax.square import explained

    try:
        arguments = _complete(read_arguments(argv))
        if arguments and arguments[0].startswith("--config="):
            arguments[:1] = _config_file(arguments[0].removeprefix("--config="), arguments)
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
        if "--config must have a value" in said and _config_path():
            said = _NO_CONFIG.format("NoneType")
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
    given = next((a for a in sys.argv[1:] if a.startswith("--config=")), "")
    return given.removeprefix("--config=").partition(":")[0]


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


def _complete(arguments: list[str]) -> list[str]:
    """--mode=verify needs neither config nor workdir: what it looks at describes itself."""
    if not re.search(r"(^| )--?mode[= ]verify( |$)", " ".join(arguments)):
        return arguments
    if not (arguments and arguments[0].startswith("--config=")):
        arguments = [f"--config={ROOT / 'configs' / 'base.py'}", *arguments]
    has_workdir = any(re.match("--?workdir(=|$)", argument) for argument in arguments)
    return arguments if has_workdir else [*arguments, "--workdir="]


def _defaults() -> dict:
    """Values of keys that are younger than a workdir: what was done before they came."""
    from configs import base

    return base.get_config().to_dict()


def _config_file(value: str, arguments: list[str]) -> list[str]:
    """The flags that stand for --config=VALUE: a file, FILE:ROW, a workdir, or a release's yaml."""
    from lightningdit_jax.assembly.workdir import CONFIG_FILE, read_config
    from lightningdit_jax.release_config.reading import SUFFIXES, import_yaml

    if not value.isprintable():
        raise ValueError(f"--config={value!r}: there is no such file; see configs/")
    if "://" not in value and pathlib.Path(value.partition(":")[0]).is_file():
        if pathlib.Path(value).suffix not in SUFFIXES:
            return [f"--config={value}"]
        imported = import_yaml(value)
        print(*imported.rows, sep="\n")
        return [_written(imported.nested())]
    if "://" not in value and not pathlib.Path(value).is_dir():
        raise ValueError(f"--config={value}: there is no such file; see configs/")
    config = read_config(value, _defaults())
    if config is None:
        raise ValueError(
            f"--config={value}: there is no {CONFIG_FILE} in it, which training writes; expected "
            "a config file, the workdir of a training run, or a yaml file of the release"
        )
    written = _written(config.to_dict())
    has_workdir = any(re.match("--?workdir(=|$)", argument) for argument in arguments)
    return [written] if has_workdir else [written, f"--workdir={value}"]


def _written(values: dict) -> str:
    """The flag that stands for the values of a config, nested."""
    return f"--config={ROOT / 'configs' / 'workdir.py'}:{json.dumps(values)}"


def run() -> None:
    """Runs main; what the user can mend is one line on standard error and exit status 2.

    SIGINT and SIGTERM: lightningdit_jax.interruption.
    """
    INTERRUPTION.listen()
    # XLA and TensorStore warn about things no user can act on.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # A GPU is this command's alone; JAX would leave a quarter of its memory (chips.GPU_SHARE).
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
    try:
        app.run(main, flags_parser=parse_flags)
    except Exception as error:
        if not isinstance(error, StorageError) and (said := refusal(error)):
            print(f"error: {said}", file=sys.stderr)
            sys.exit(2)
        refused = storage_error(error)
        if refused is None:
            raise  # not one of our own checks: the traceback is needed
        logging.info("%s", refused, exc_info=True)
        # In threads of Orbax and Grain may be what waits for the same storage.
        INTERRUPTION.end(f"error: {refused}; {INTERRUPTION.kept}", EXIT_STATUS)


def refusal(error: Exception) -> str:
    """What one of our own checks says, as a line that can be printed; "" for another error."""
    from lightningdit_jax.errors import LONGEST_LINE, plain

    return plain(str(error), LONGEST_LINE) if _is_ours(error) else ""


def _is_ours(error: Exception) -> bool:
    """Whether it is one of our own checks, whose message says it all."""
    if not isinstance(error, ValueError | FileNotFoundError | FloatingPointError | ImportError):
        return False
    raised_in = pathlib.Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    ours = any(raised_in.is_relative_to(ROOT / part) for part in OUR_CODE)
    return ours and not isinstance(error, ModuleNotFoundError)


if __name__ == "__main__":
    run()
