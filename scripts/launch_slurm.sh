#!/usr/bin/env bash
# Trains on GPU nodes of a Slurm cluster, one process per node; main.py's arguments follow.
#
#   sbatch --nodes=4 --gpus-per-node=8 --time=24:00:00 scripts/launch_slurm.sh \
#       --config=configs/dit_xl.py --workdir=/shared/runs/dit_xl --config.data.path=/shared/latents
#
# Before the time limit, and when it is preempted, the job saves, goes back into the queue and
# resumes from its checkpoint. --dry-run as the first argument prints the command that would run.
# A node's process has 16 CPUs, where many clusters give one: eight threads read data
# (data.num_threads). sbatch's own options, such as --cpus-per-task=64, come before the script.
#SBATCH --job-name=lightningdit
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --requeue
#SBATCH --signal=TERM@180
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -uo pipefail

dry_run=
if [[ ${1:-} == --dry-run ]]; then
    dry_run=1
    shift
fi
if (($# == 0)); then
    echo "usage: sbatch [OPTIONS] scripts/launch_slurm.sh [--dry-run] MAIN_PY_ARGUMENTS" >&2
    exit 2
fi

cd "${SLURM_SUBMIT_DIR:-.}" || exit 2
gpus=${SLURM_GPUS_ON_NODE:-}
if [[ ! $gpus =~ ^[1-9][0-9]*$ ]]; then
    echo "error: SLURM_GPUS_ON_NODE is '$gpus'; submit with sbatch --gpus-per-node=N" >&2
    exit 2
fi
# Unless told, JAX takes one GPU for each Slurm task.
JAX_LOCAL_DEVICE_IDS=$(seq --separator=, 0 $((gpus - 1)))
export JAX_LOCAL_DEVICE_IDS
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-.9}
# srun does not take over what sbatch was told (since Slurm 22.05).
command=(srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-16}"
    .venv/bin/python main.py "$@")

if [[ $dry_run ]]; then
    printf 'JAX_LOCAL_DEVICE_IDS=%q XLA_PYTHON_CLIENT_MEM_FRACTION=%q' \
        "$JAX_LOCAL_DEVICE_IDS" "$XLA_PYTHON_CLIENT_MEM_FRACTION"
    printf ' %q' "${command[@]}"
    printf '\n'
    exit 0
fi

trap : TERM # Slurm may send it to this shell as well, which has to outlive main.py
"${command[@]}"
status=$?
if ((status == 75)); then # saved after SIGTERM: try again
    for pause in 0 5 10 15; do # well within the 180 s
        sleep "$pause"
        scontrol requeue "$SLURM_JOB_ID" && exit "$status"
    done
    echo "error: saved, but not back in the queue; submit the same command again" >&2
fi
exit "$status"
