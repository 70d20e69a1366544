"""Whether gcloud is logged in, asked before anything is requested."""

import subprocess
import sys

import slice_commands

_COMMAND = ("gcloud", "auth", "print-access-token", "--quiet")
_ADVICE = "gcloud auth login"  # what gcloud says to one who is not, or no longer


def check_log_in() -> None:
    """Ends with one line without gcloud, without a log-in, or with one that has expired.

    Any other failure, as of the network, says nothing about it; the next command will meet it.
    """
    try:
        status, _, said = slice_commands.run(_COMMAND, captured=True, seconds=60)
    except FileNotFoundError:
        sys.exit(slice_commands.missing(_COMMAND[0]))
    except subprocess.TimeoutExpired:
        return
    except KeyboardInterrupt:
        sys.exit(130)
    if status and _ADVICE in said:
        failure = slice_commands.CommandFailed(_COMMAND, status, said)
        sys.exit(f"error: {failure}; run `{_ADVICE}`, then the same command again")
