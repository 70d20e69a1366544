"""What comes after each mode, as commands. Words in capitals are the user's to fill in."""

from lightningdit_jax.command_text import command
from lightningdit_jax.commands.request import Request


def after_training(request: Request) -> list[str]:
    """Samples of a generator; a tokenizer's latents."""
    from lightningdit_jax.assembly.next_command import with_weights

    config = request.config
    own = request.workdir if config.is_joint else ""  # trained beside it
    tokenizer = config.sample.tokenizer or own
    return with_weights(request.workdir, config.kind, tokenizer, config.data.path)


def after_extraction(request: Request) -> list[str]:
    """The training of a generator on the latents."""
    from lightningdit_jax.assembly.next_command import with_latents
    from lightningdit_jax.data.latents import LatentShards

    folder = request.config.extract.path or f"{request.workdir}/latents"
    return with_latents(LatentShards(folder))


def after_sampling(request: Request) -> list[str]:
    """The evaluation of what was drawn, where that reads it."""
    config, needs = request.config, []
    if config.sample.output == "png":
        return []
    if config.evaluate.metric == "fid":
        if not (config.evaluate.inception or config.evaluate.networks):
            needs.append("--config.evaluate.inception=INCEPTION")
        if not config.evaluate.reference:
            needs.append("--config.evaluate.reference=REFERENCE.npz")
    return [_again(request, "--mode=evaluate", *needs)]


def after_sweep(request: Request) -> list[str]:
    """All samples with the settings of the lowest FID; without one, those of the config."""
    from etils import epath

    from lightningdit_jax.inference.quality.sweep import read_rows, varied

    rows = read_rows(epath.Path(request.workdir) / "sweep.json")
    scored = [row for row in rows if "fid" in row["numbers"]]
    best = min(scored, key=lambda row: row["numbers"]["fid"])["settings"] if scored else {}
    chosen = [f"--config.sample.{k}={best[k]}" for k in varied(request.config.sweep) if k in best]
    return [_again(request, "--mode=sample", *chosen)]


def after_evaluation(request: Request) -> list[str]:
    """Other settings of a generator; a tokenizer's latents."""
    if request.config.kind == "vavae":
        return [_again(request, "--mode=extract")]
    scale = request.config.sample.cfg_scale
    values = ",".join(f"{scale * factor:g}" for factor in (0.8, 1.0, 1.25))
    return [_again(request, "--mode=sweep", f"--config.sweep.cfg_scale={values}")]


def after_compilation(request: Request) -> list[str]:
    """The same on the devices that it was compiled for."""
    mode = [] if request.target == "train" else ["--mode=sample"]
    return [f"{_again(request, *mode)}  (on {request.topology})"]


def _again(request: Request, *arguments: str) -> str:
    """A command with the same config and workdir."""
    return command(f"--config={request.given}", f"--workdir={request.workdir}", *arguments)
