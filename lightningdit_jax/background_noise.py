"""What Orbax and TensorStore print of errors that reach the program as exceptions all the same."""

import logging
import pathlib
import sys

from absl import logging as absl_logging


def silence_background(level: int = logging.ERROR) -> None:
    """For programs that say an error in one line: drops tracebacks from threads that write.

    Orbax logs each error with its traceback before it raises it. It closes the event loop of a
    save that failed, and TensorStore prints a traceback for each array that it still reports there.
    level: of Orbax's own lines, from which on they are dropped.
    """

    def is_ours_or_minor(record: logging.LogRecord) -> bool:
        return record.levelno < level or "orbax" not in pathlib.Path(record.pathname).parts

    absl_logging.get_absl_logger().addFilter(is_ours_or_minor)
    sys.unraisablehook = _tell_unless_late


def _tell_unless_late(unraisable: "sys.UnraisableHookArgs") -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
