"""PyTorch weights to checkpoints of lightningdit_jax, and back.

python convert_torch_weights.py --src lightningdit-xl-imagenet256-64ep.pt --dst ckpts/dit-xl
python convert_torch_weights.py --to-torch --src ckpts/dit-xl --dst dit-xl.pt
"""

import argparse
import os
import sys


def main() -> None:
    """Reads the command line; what the user can mend is one message and exit status 2."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing is computed
    from lightningdit_jax.convert.files import KINDS, convert_file, export_file

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--src", required=True, help="file of weights, or checkpoint directory")
    parser.add_argument("--dst", required=True, help="directory to write, or file")
    parser.add_argument("--to-torch", action="store_true", help="write a PyTorch state dict")
    parser.add_argument("--kind", choices=KINDS, default="auto", help="what the file holds")
    parser.add_argument("--weights", choices=("ema", "model"), default="ema")
    parser.add_argument("--overwrite", action="store_true", help="replace dst if it is there")
    options = parser.parse_args()
    try:
        if options.to_torch:
            export_file(options.src, options.dst)
        else:
            convert_file(
                options.src,
                options.dst,
                kind=options.kind,
                weights=options.weights,
                overwrite=options.overwrite,
            )
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
