"""Trains on TPUs of a GKE cluster through xpk. Needs `pip install xpk`, gcloud and a cluster.

    gke="--name=dit --cluster=CLUSTER --zone=us-west4-a"
    xpk storage attach latents --cluster=CLUSTER --zone=us-west4-a --type=gcsfuse --bucket=BUCKET \\
        --size=100 --mount-point=/data --readonly=true --auto-mount=false
    .venv/bin/python scripts/launch_gke.py create $gke --accelerator=v5litepod-16 --spot \\
        --storage=latents -- --config=configs/dit_xl.py --workdir=gs://BUCKET/dit_xl \\
        --config.data.path=/data/latents

The code of this folder goes into the image. A workload that is preempted starts again and resumes
from its checkpoints. The other actions are logs and delete; --dry-run prints the commands alone.
--spot and --reservation are for clusters that make nodes as they are asked for (autoprovisioning);
elsewhere the cluster's own nodes are taken.
"""

import argparse
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence

from launch_states import TRY_AGAIN
from log_in import check_log_in
from main_arguments import check_arguments, check_lasting
from slice_commands import missing

ROOT = pathlib.Path(__file__).resolve().parent.parent


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
        *(f"--storage={name}" for name in args.storage),
        *(["--spot"] if args.spot else []),
        *([f"--reservation={args.reservation}"] if args.reservation else []),
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
    parser.add_argument(
        "--storage",
        action="append",
        default=[],
        help="mounted; of `xpk storage attach`; may be repeated",
    )
    capacity = parser.add_mutually_exclusive_group()
    capacity.add_argument("--spot", action="store_true", help="cheaper, and may be taken away")
    capacity.add_argument("--reservation", help="name of one")
    parser.add_argument("--max-restarts", type=int, default=100)
    parser.add_argument("--dry-run", action="store_true")
    args, arguments = parser.parse_args(argv[:cut]), argv[cut + 1 :]
    if args.slices < 1:
        parser.error(f"--slices={args.slices}; expected at least 1")
    if args.action == "create":
        if not arguments:
            parser.error("create needs main.py's arguments after --")
        check_arguments(arguments)
        check_lasting("the workload")
    line = command(args, arguments)
    if args.dry_run:
        print(shlex.join(line))
        return
    check_log_in()
    try:
        status = subprocess.run(line, check=False).returncode
    except FileNotFoundError:
        sys.exit(missing(line[0]))
    except KeyboardInterrupt:
        status = 130
    if status and not (args.action == "logs" and status == 130):
        print(f"error: `{shlex.join(line[:3])}` ended with status {status}", file=sys.stderr)
    if args.action == "create" or (args.action == "delete" and status):
        # Where xpk failed too: it may have failed after the workload was made.
        args.action = "delete"
        print(
            f"the workload '{args.name}' may hold nodes that cost money until it ends, and the "
            f"cluster '{args.cluster}' has nodes of its own. To delete the workload: "
            f"{shlex.join(command(args, ()))}",
            file=sys.stderr,
        )
    sys.exit(status)


if __name__ == "__main__":
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) is not signal.SIG_IGN:  # as under nohup
            signal.signal(ending, signal.default_int_handler)
    main()
