"""PyTorch weights to checkpoints of lightningdit_jax, and back.

python convert_torch_weights.py --src lightningdit-xl-imagenet256-64ep.pt --dst ckpts/dit-xl \\
    --latent-stats latents_stats.pt
python convert_torch_weights.py --to-workdir --src 0080000.pt --dst runs/dit_xl
python convert_torch_weights.py --to-torch --src ckpts/dit-xl --dst dit-xl.pt
python convert_torch_weights.py --to-diffusers --src ckpts/vavae --dst vavae-diffusers
python convert_torch_weights.py --to-hub --src runs/dit_xl --dst hf://OWNER/NAME
"""

import argparse
import contextlib
import logging
import os
import sys
from typing import Any

from lightningdit_jax.interruption import INTERRUPTION


def main() -> None:
    """Reads the command line; what the user can mend is one message and exit status 2."""
    INTERRUPTION.kept = "what --dst names is as it was; the same command begins again"
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing is computed
    from lightningdit_jax.background_noise import silence_background
    from lightningdit_jax.convert.files import KIND_NAMES
    from lightningdit_jax.errors import LONGEST_LINE, ConversionError, plain
    from lightningdit_jax.storage_errors import EXIT_STATUS, StorageError, storage_error

    silence_background(logging.WARNING)  # Orbax warns of what this program asks of it
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--src",
        required=True,
        nargs="+",
        help="file or folder of weights, or index of shards (for LPIPS also two files: a VGG16 and "
        "its heads); or checkpoint directory; local, or of the hub: hf://OWNER/NAME[/FILE]",
    )
    parser.add_argument(
        "--dst", required=True, help="directory to write, or file; of --to-hub also hf://OWNER/NAME"
    )
    back = parser.add_mutually_exclusive_group()
    back.add_argument("--to-torch", action="store_true", help="write a state dict, by the suffix")
    back.add_argument(
        "--to-diffusers", action="store_true", help="write a tokenizer as diffusers' AutoencoderKL"
    )
    back.add_argument(
        "--to-hub",
        action="store_true",
        help="write a checkpoint as a repository of the Hugging Face hub holds it, with a model "
        "card: into a folder, or, where --dst is hf://OWNER/NAME, into that repository",
    )
    back.add_argument(
        "--to-workdir",
        action="store_true",
        help="write a workdir in which main.py goes on with the release's training: weights, "
        "averages, AdamW's moments and step",
    )
    parser.add_argument("--kind", choices=KIND_NAMES, default="auto", help="what the file holds")
    parser.add_argument(
        "--weights",
        metavar="ema|model|ENTRY",
        help="of a training checkpoint: its averages (default), its raw weights, or an entry of "
        "the file, or a module in one, by name; of --to-hub also one of its averages, ema_0.999, "
        "or one made of them, ema_sigma_0.12",
    )
    parser.add_argument(
        "--without", action="append", default=[], metavar="MODULE", help="leave its tensors out"
    )
    parser.add_argument("--num-heads", type=int, help="where the weights do not tell")
    parser.add_argument(
        "--no-null-class", action="store_true", help="a generator trained without label dropout"
    )
    parser.add_argument(
        "--aux-head-depth",
        type=int,
        metavar="N",
        help="block after which a generator's second head (final_layer_xr) stands",
    )
    parser.add_argument(
        "--norm-groups",
        type=int,
        metavar="N",
        help="groups of GroupNorm, of an autoencoder with diffusers' names without its config.json "
        "(Stable Diffusion: 32)",
    )
    parser.add_argument(
        "--act-fn",
        metavar="NAME",
        help="its activation (Stable Diffusion: silu), or that of CLIP's or SigLIP's MLPs: gelu, "
        "gelu_tanh, quick_gelu",
    )
    parser.add_argument(
        "--latent-stats",
        metavar="FILE",
        help="latents_stats.pt that a generator was trained with, or none: stored with it, and in "
        "the config.json of --to-diffusers",
    )
    parser.add_argument("--latent-multiplier", type=float, default=1.0)
    parser.add_argument(
        "--license", default="", metavar="NAME", help="of --to-hub, as the hub calls it: mit"
    )
    parser.add_argument(
        "--private", action="store_true", help="a repository that --to-hub makes is private"
    )
    parser.add_argument(
        "--verify",
        choices=("on", "off"),
        default="on",
        help="whether a checkpoint that is written back has to be what was saved",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace dst if it is there")
    options = parser.parse_args()
    try:
        with _sole_writer(options):
            convert(options)
    except StorageError as error:
        INTERRUPTION.end(f"error: {error}; {INTERRUPTION.kept}", EXIT_STATUS)
    except (ValueError, OSError, ImportError) as error:
        # A path that is given wrongly is the command's fault, all else that of what it lies on.
        given = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
        if not isinstance(error, (ValueError, *given)) and (refused := storage_error(error)):
            INTERRUPTION.end(f"error: {refused}; {INTERRUPTION.kept}", EXIT_STATUS)
        said = str(error) if isinstance(error, ConversionError) else plain(str(error), LONGEST_LINE)
        print(f"error: {said}", file=sys.stderr)
        sys.exit(2)


def _sole_writer(options: argparse.Namespace) -> contextlib.AbstractContextManager[None]:
    """Keeps other commands from what this one writes: a workdir, or a folder or file."""
    from lightningdit_jax.hub import is_address
    from lightningdit_jax.sole_writer import sole_writer

    if is_address(options.dst):
        return contextlib.nullcontext()
    if options.to_workdir:
        return sole_writer(options.dst, "train", "a conversion")
    folder, name = os.path.split(options.dst.rstrip("/"))
    return sole_writer(folder or ".", f"{name}.convert", "a conversion", what=options.dst)


def convert(options: argparse.Namespace) -> None:
    """Does what the options say. Raises ValueError, OSError or ImportError."""
    from lightningdit_jax.convert.files import (
        convert_files,
        convert_run,
        export_diffusers,
        export_file,
    )
    from lightningdit_jax.convert.keymap import Hints
    from lightningdit_jax.verification import verifying

    back = options.to_torch or options.to_diffusers or options.to_hub
    if back and len(options.src) > 1:
        raise ValueError(f"one checkpoint is written back; found {len(options.src)}")
    if not options.to_hub:
        _check_not_for_hub(options)
    hints = Hints(
        options.num_heads,
        not options.no_null_class,
        options.norm_groups,
        options.act_fn,
        options.aux_head_depth,
    )
    if options.to_workdir:
        if options.kind != "auto" or options.weights or options.without or options.overwrite:
            raise ValueError(
                "--to-workdir takes all of a generator's training into a new workdir; leave "
                "--kind, --weights, --without and --overwrite out"
            )
        convert_run(
            options.src,
            options.dst,
            hints=hints,
            latent_stats=options.latent_stats,
            latent_multiplier=options.latent_multiplier,
        )
    elif options.to_hub:
        with verifying(options.verify == "on"):
            _publish(options)
    elif options.to_torch:
        with verifying(options.verify == "on"):
            export_file(options.src[0], options.dst, overwrite=options.overwrite)
    elif options.to_diffusers:
        with verifying(options.verify == "on"):
            export_diffusers(
                options.src[0],
                options.dst,
                latent_stats=options.latent_stats,
                latent_multiplier=options.latent_multiplier,
                overwrite=options.overwrite,
            )
    else:
        convert_files(
            options.src,
            options.dst,
            kind=options.kind,
            weights=options.weights,
            hints=hints,
            without=options.without,
            latent_stats=options.latent_stats,
            latent_multiplier=options.latent_multiplier,
            overwrite=options.overwrite,
        )


def _check_not_for_hub(options: argparse.Namespace) -> None:
    """Raises ValueError for what only --to-hub takes."""
    from lightningdit_jax.hub import is_address

    if is_address(options.dst):
        raise ValueError(f"--dst={options.dst}: only --to-hub writes into the hub; expected a path")
    if options.license or options.private:
        raise ValueError("--license and --private say how --to-hub publishes; leave them out")


def _average(weights: str) -> dict[str, Any]:
    """What --weights of --to-hub says, as `load` takes it. Raises ValueError for anything else."""
    if weights in ("ema", "model"):
        return {"use_ema": weights == "ema"}
    for prefix, key in (("ema_sigma_", "ema_sigma"), ("ema_", "ema_decay")):
        if weights.startswith(prefix):
            with contextlib.suppress(ValueError):
                if (number := float(weights.removeprefix(prefix))) > 0:
                    return {key: number}
    raise ValueError(
        f"--weights={weights}: expected ema, model, one of several averages, as ema_0.999, or one "
        "that is made of them, as ema_sigma_0.12"
    )


def _publish(options: argparse.Namespace) -> None:
    """A checkpoint into a folder for the hub, or into its repository."""
    from lightningdit_jax.hub import is_address
    from lightningdit_jax.publishing.job import push_to_hub, save_for_hub

    which = {**_average(options.weights or "ema"), "license": options.license}
    if not is_address(options.dst):
        if options.private:
            raise ValueError("--private is of a repository; expected --dst=hf://OWNER/NAME")
        save_for_hub(options.src[0], options.dst, overwrite=options.overwrite, **which)
        return
    if options.overwrite:
        raise ValueError("--overwrite is of a folder; a repository keeps its former commits")
    push_to_hub(options.src[0], options.dst, private=options.private or None, **which)
