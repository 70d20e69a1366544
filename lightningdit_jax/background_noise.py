"""What Orbax and TensorStore print of errors that reach the program as exceptions all the same."""

import logging
import pathlib
import sys

from absl import logging as absl_logging


def silence_background() -> None:
    """For programs that say an error in one line: drops tracebacks from threads that write.

    Orbax logs each error with its traceback before it raises it. It closes the event loop of a
    save that failed, and TensorStore prints a traceback for each array that it still reports there.
    """
    absl_logging.get_absl_logger().addFilter(_is_raised_nowhere)
    sys.unraisablehook = _tell_unless_late


def _is_raised_nowhere(record: logging.LogRecord) -> bool:
    return not (record.levelno >= logging.ERROR and "orbax" in pathlib.Path(record.pathname).parts)


def _tell_unless_late(unraisable: "sys.UnraisableHookArgs") -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
