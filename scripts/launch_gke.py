"""Trains on TPUs of a GKE cluster through xpk. Needs `pip install xpk`, gcloud and a cluster.

    gke="--name=dit --cluster=CLUSTER --zone=us-west4-a"
    .venv/bin/python scripts/launch_gke.py create $gke --accelerator=v5litepod-16 -- \\
        --config=configs/dit_xl.py --workdir=gs://BUCKET/dit_xl --config.data.path=/data/latents

The code of this folder goes into the image. A workload that is preempted starts again and resumes
from its checkpoints. The other actions are logs and delete; --dry-run prints the commands alone.
"""

import argparse
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Sequence

from main_arguments import check_arguments

ROOT = pathlib.Path(__file__).resolve().parent.parent
TRY_AGAIN = 75  # main.py's exit status after SIGTERM


def command(args: argparse.Namespace, arguments: Sequence[str]) -> list[str]:
    """The command of an action."""
    if args.action == "logs":
        selector = f"--selector=jobset.sigs.k8s.io/jobset-name={args.name}"
        return ["kubectl", "logs", selector, "--follow", "--prefix", "--max-log-requests=1024"]
    place = [f"--workload={args.name}", f"--cluster={args.cluster}", f"--zone={args.zone}"]
    if args.project:
        place.append(f"--project={args.project}")
    if args.action == "delete":
        return ["xpk", "workload", "delete", *place]
    # exec: so that SIGTERM reaches Python and not the shell around it.
    python = shlex.join(["python", "main.py", *arguments])
    return [
        *("xpk", "workload", "create", *place),
        f"--tpu-type={args.accelerator}",
        f"--num-slices={args.slices}",
        "--base-docker-image=python:3.12",
        f"--script-dir={ROOT}",
        f"--max-restarts={args.max_restarts}",
        f"--restart-on-exit-codes={TRY_AGAIN}",
        "--termination-grace-period-seconds=120",
        f"--command=pip install --quiet -c constraints.txt -e '.[gcs,tpu]' && exec {python}",
    ]


def main() -> None:
    """Parses the command line and does one action."""
    argv = sys.argv[1:]
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("create", "logs", "delete"))
    parser.add_argument("--name", required=True, help="of the workload")
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--zone", required=True)
    parser.add_argument("--project", help="default: gcloud's")
    parser.add_argument("--accelerator", default="v5litepod-16", help="v5litepod-16, v4-32, ...")
    parser.add_argument("--slices", type=int, default=1, help="joined over the network")
    parser.add_argument("--max-restarts", type=int, default=100)
    parser.add_argument("--dry-run", action="store_true")
    args, arguments = parser.parse_args(argv[:cut]), argv[cut + 1 :]
    if args.action == "create" and not arguments:
        parser.error("create needs main.py's arguments after --")
    if args.action == "create":
        check_arguments(arguments)
    line = command(args, arguments)
    if args.dry_run:
        print(shlex.join(line))
        return
    try:
        status = subprocess.run(line, check=False).returncode
    except FileNotFoundError:
        sys.exit(f"error: there is no program `{line[0]}` on this machine's PATH; install it")
    if status:
        print(f"error: `{shlex.join(line[:3])}` ended with status {status}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
