"""Real processes of this machine as one job: starting them, waiting for them."""

import os
import pathlib
import signal
import socket
import subprocess
import sys

from tests.xla_flags import xla_flags

ROOT = pathlib.Path(__file__).parents[2]


def start(module, *arguments, processes, devices, **environment):
    """`python -m module *arguments` in so many processes with so many devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    common = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": xla_flags(devices),
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(processes),
        "PYTHONUNBUFFERED": "1",
    }
    return [
        subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            env=common | {"JAX_PROCESS_ID": str(index)} | environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(processes)
    ]


def wait_for(line_start, process):
    """Reads a process's output until a line starts so."""
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith(line_start):
            return
    raise AssertionError(f"no line starts with {line_start!r}:\n{''.join(seen)}")


def finish(processes, timeout=240):
    """Exit statuses and outputs; nothing is left running."""
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs


def kill_all(processes):
    """SIGKILL, as a cluster does to what is left of a job."""
    for process in processes:
        process.send_signal(signal.SIGKILL)
    finish(processes)
