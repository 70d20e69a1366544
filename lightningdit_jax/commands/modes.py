"""The modes of the command: a row each. Imports no job before one is run."""

import dataclasses
import sys
from collections.abc import Callable

from lightningdit_jax.commands import next_command
from lightningdit_jax.commands.request import Request


@dataclasses.dataclass(frozen=True)
class Mode:
    """A row of MODES.

    line: what it does, for --help. next: the commands that come after it, none where that is open.
    kept: what an end at any moment leaves, and how to go on. alone: it needs neither --config nor
    --workdir, since what it looks at describes itself. sole: no other command of this mode may work
    in the same workdir meanwhile. devices: it computes, with the other processes of its job.
    """

    line: str
    run: Callable[[Request], None]
    next: Callable[[Request], list[str]] | None = None
    kept: str = "the same command begins again"
    alone: bool = False
    sole: bool = True
    devices: bool = True


def _train(request: Request) -> None:
    from lightningdit_jax.inference.quality.in_training import make_training_evaluator
    from lightningdit_jax.inference.quality.training_pictures import make_training_picture
    from lightningdit_jax.training.run import train

    train(request.config, request.workdir, make_training_evaluator, make_training_picture)


def _extract(request: Request) -> None:
    from lightningdit_jax.inference.extraction.job import extract

    extract(request.config, request.workdir)


def _sample(request: Request) -> None:
    from lightningdit_jax.inference.sampling.job import sample

    sample(request.config, request.workdir)


def _sweep(request: Request) -> None:
    from lightningdit_jax.inference.quality.sweep import sweep

    sweep(request.config, request.workdir)


def _page(request: Request) -> None:
    from lightningdit_jax.inference.page.job import page

    page(request.config, request.workdir)


def _evaluate(request: Request) -> None:
    from lightningdit_jax.inference.quality.job import evaluate

    evaluate(request.config, request.workdir)


def _compile(request: Request) -> None:
    from lightningdit_jax.parallel.topology import check_topology

    if request.target == "train":
        from lightningdit_jax.training.compile import compile_train_step as compile_for
    else:
        from lightningdit_jax.inference.sampling.compile import compile_sampler as compile_for

    check_topology(request.topology)
    compile_for(request.config, request.workdir, request.topology)


def _describe(request: Request) -> None:
    from lightningdit_jax.assembly.describe import describe

    print(*describe(request.workdir), sep="\n")


def _verify(request: Request) -> None:
    from lightningdit_jax.assembly.verify import verify

    if verify(request.config, request.workdir):
        sys.exit(1)


def _check(request: Request) -> None:
    from lightningdit_jax.assembly.check import check

    if check(request.config, request.workdir):
        sys.exit(2)


def _report(request: Request) -> None:
    from lightningdit_jax.commands.config_argument import defaults
    from lightningdit_jax.report.job import report

    report(request.workdir, defaults())


_NOTHING = "nothing is written yet; the same command begins again"

MODES = {
    "train": Mode(
        "a tokenizer, a generator on its latents, or both together; goes on where it ended",
        _train,
        next_command.after_training,
        kept="the same command goes on from the newest checkpoint, or begins again without one",
    ),
    "extract": Mode(
        "a tokenizer's latents of every image, and their statistics",
        _extract,
        next_command.after_extraction,
        kept="finished shards are kept, and the same command makes the rest",
    ),
    "sample": Mode(
        "images of a generator and a tokenizer: samples.png, samples.npz",
        _sample,
        next_command.after_sampling,
        kept="finished batches are kept, and the same command draws the rest",
    ),
    "sweep": Mode(
        "numbers of samples at several settings of solver and guidance",
        _sweep,
        next_command.after_sweep,
        kept="finished rows are kept, and the same command makes the rest",
    ),
    "page": Mode(
        "a page in the browser: samples by class, seed, solver and guidance, as they are drawn",
        _page,
        kept="the same command opens the page again",
        sole=False,  # it writes nothing into the workdir
    ),
    "evaluate": Mode(
        "FID and others of samples; PSNR, rFID and others of a tokenizer",
        _evaluate,
        next_command.after_evaluation,
        kept=_NOTHING,
    ),
    "compile": Mode(
        "memory, time and collectives on TPUs or GPUs that are not there",
        _compile,
        next_command.after_compilation,
        kept=_NOTHING,
        sole=False,  # reports are of one target each
    ),
    "verify": Mode(
        "whether checkpoints, samples and latents are what was written",
        _verify,
        alone=True,
        sole=False,
    ),
    "check": Mode(
        "every image of a source read once: sizes, classes, what is damaged or there twice",
        _check,
    ),
    "report": Mode(
        "curves, pictures, config and history of a run as one page, report.html",
        _report,
        kept=_NOTHING,
        alone=True,
        devices=False,
    ),
    "describe": Mode(
        "what a checkpoint, a workdir or a folder of latents is, and what can be done with it",
        _describe,
        alone=True,
        sole=False,
        devices=False,
    ),
}
