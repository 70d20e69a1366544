"""Reads inputs in forked children and says of each what became of it.

A child reads one input after another; one that ends it (a crash, or no end) is
counted, and another child goes on. Within a child an audit hook sees what Python does, the system
limits what memory may be asked for, and the largest resident size is that of each input.
"""

import contextlib
import dataclasses
import errno
import grp  # noqa: F401, etils imports these two with the first question for an owner
import json
import os
import pathlib
import pwd  # noqa: F401
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lightningdit_jax.commands import main
from lightningdit_jax.convert.keymap import ConversionError

SECONDS = 10  # of a processor; an input that takes longer hangs, and one that waits for
WAITING = 60  # seconds and does nothing
FREE = 2**26  # bytes that any input may take, whatever its size
LONGEST = 8100  # characters of a line
_UNPREPARED = 99
SENTINEL = "sentinel"  # made in the child's folder by what no input may do
OUTCOMES = (
    "read",
    "refused",
    "traceback",
    "crash",
    "hang",
    "over memory",
    "code executed",
    "wrong",
)
GOOD = OUTCOMES[:2]

# What no reading does. The first two of an import are looked at below.
_FORBIDDEN = re.compile(
    r"(os\.(system|exec|fork|forkpty|spawn|posix_spawn|startfile|putenv|remove|rmdir|kill)"
    r"|subprocess\.|socket\.(connect|bind|send|getaddrinfo)|ctypes\.|pickle\.find_class|shutil\.|builtins\.input"
    r"|code\.__new__|urllib\.|ftplib\.|http\.|webbrowser\.|pty\.|sys\._getframe_|gc\.)"
)


@dataclasses.dataclass(frozen=True)
class Input:
    """Files by their names in the folder of a kind; those that are not named stay as they were.

    None for a file that is taken away. given: what else is to be read, such as arguments.
    """

    files: Mapping[str, bytes | None]
    given: Any = None


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of input.

    prepare: writes what all inputs share into a folder. inputs: so many of a seed, always the same.
    read: what is under test; its result is what `wrong` compares with something independent, and
    says what differs, "" for nothing. size_factor: bytes of memory a byte of an input may take.
    runs_python: an input is Python itself, or reading writes on purpose. is_threaded: what is asked
    for is not limited, since stacks of threads count; what is used is. per_child: inputs a child
    reads. names_file: a refusal has to.
    """

    name: str
    prepare: Callable[[pathlib.Path], None]
    inputs: Callable[[int, int], Iterable[Input]]
    read: Callable[[pathlib.Path, Input], Any]
    wrong: Callable[[pathlib.Path, Input, Any], str] = lambda folder, given, result: ""
    size_factor: int = 64
    runs_python: bool = False
    is_threaded: bool = False
    per_child: int = 500
    names_file: bool = True


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of an input of a kind, and in words why."""

    number: int
    outcome: str
    why: str


def run(kind: Kind, inputs: Mapping[int, Input]) -> list[Result]:
    """What became of each of these inputs, by number."""
    results: list[Result] = []
    numbers = list(inputs)
    while numbers:
        batch = {number: inputs[number] for number in numbers[: kind.per_child]}
        done = _run_child(kind, batch)
        results += done
        numbers = numbers[len(done) :]
    return results


def _run_child(kind: Kind, inputs: Mapping[int, Input]) -> list[Result]:
    """Of the first inputs: all, or those up to the one that ended the child."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="fuzz-"))
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _Child(kind, folder, writing).run(inputs)
    os.close(writing)
    results, waiting, text = list[Result](), list(inputs), b""
    outcome, last, used = "", time.monotonic(), 0.0
    try:
        while True:
            if not select.select([reading], [], [], 0.1)[0]:
                # The first answer waits for what the child imports and compiles.
                patience = 1 if results else 12
                waits = time.monotonic() - last > WAITING * patience
                if waits or _processor_seconds(pid) - used > SECONDS * patience:
                    outcome = "hang"
                    os.kill(pid, signal.SIGKILL)
                    break
                continue
            last, used = time.monotonic(), _processor_seconds(pid)
            data = os.read(reading, 2**16)
            if not data:
                break
            *lines, text = (text + data).split(b"\n")
            results += [Result(*json.loads(line)) for line in lines]
    finally:
        _, status = os.waitpid(pid, 0)
        os.close(reading)
        shutil.rmtree(folder, ignore_errors=True)
    if os.waitstatus_to_exitcode(status) == _UNPREPARED:
        raise RuntimeError(f"{kind.name}: what inputs share cannot be read; FUZZ_LOUD=1 says why")
    if len(results) < len(waiting):
        why = f"the child ended with {os.waitstatus_to_exitcode(status)}"
        results.append(Result(waiting[len(results)], outcome or "crash", why))
    return results


class _Child:
    """Reads inputs and writes a line of JSON on each."""

    def __init__(self, kind: Kind, folder: pathlib.Path, answers: int):
        self._kind, self._folder, self._answers = kind, folder, answers
        self._armed, self._events = False, list[str]()

    def run(self, inputs: Mapping[int, Input]) -> None:
        """Never returns."""
        status = _UNPREPARED
        try:
            os.chdir(self._folder)
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            if not os.environ.get("FUZZ_LOUD"):
                os.dup2(quiet, 2)
            inside = self._folder / "in"
            inside.mkdir()
            self._kind.prepare(inside)
            shared = {p: p.read_bytes() for p in inside.rglob("*") if p.is_file()}
            self._read(inside, Input({}))  # imports what is needed; what is shared can be read
            status = 1
            sys.addaudithook(self._hook)
            for number, given in inputs.items():
                changed = self._write(inside, given)
                outcome, why = self._outcome(inside, given)
                for path in changed:
                    _restore(path, shared.get(path))
                line = json.dumps([number, outcome, why[:2000]]) + "\n"
                os.write(self._answers, line.encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _write(self, inside: pathlib.Path, given: Input) -> list[pathlib.Path]:
        changed = []
        for name, content in given.files.items():
            path = inside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            _restore(path, content)
            changed.append(path)
        return changed

    def _read(self, inside: pathlib.Path, given: Input) -> Any:
        if self._kind.per_child == 1 and not given.files and given.given is None:
            return None
        return self._kind.read(inside, given)

    def _outcome(self, inside: pathlib.Path, given: Input) -> tuple[str, str]:
        size = sum(len(content or b"") for content in given.files.values())
        allowed = FREE + self._kind.size_factor * size
        self._events.clear()
        error, result = None, None
        before = _memory("VmRSS")
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the largest size
        with _limited(_memory("VmSize") + allowed, not self._kind.is_threaded):
            self._armed = True
            try:
                result = self._read(inside, given)
            except BaseException as raised:
                error = raised
            self._armed = False
        used = _memory("VmHWM") - before
        if (pathlib.Path(self._folder) / SENTINEL).exists() or self._events:
            (pathlib.Path(self._folder) / SENTINEL).unlink(missing_ok=True)
            return "code executed", "; ".join(self._events)
        if error is not None and any(map(_lacks_memory, _chain(error))):
            return "over memory", f"asks for more than {allowed:,} bytes: {_shown(error)}"
        if used > allowed:
            return "over memory", f"takes {used:,} bytes of {allowed:,}"
        if error is None:
            try:
                said = self._kind.wrong(inside, given, result)
            except Exception as raised:  # what is compared with refuses it
                said = _shown(raised)
            return ("wrong", said) if said else ("read", "")
        return _refusal(error, inside, self._kind.names_file)

    def _hook(self, event: str, arguments: tuple) -> None:
        if not self._armed:
            return
        said = ""
        if event == "import":
            top = arguments[0].partition(".")[0]
            if top not in sys.modules and not self._kind.runs_python:
                said = f"import {arguments[0]}"
        elif event == "open":
            path, mode, flags = arguments
            writes = set(mode or "") & set("wax+") or (
                isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
            )
            if writes and not self._kind.runs_python:
                said = f"open {path!r} {mode} {flags}"
        elif event == "exec" and not self._kind.runs_python:
            # Modules that are imported are code too, of files that are there.
            name = getattr(arguments[0], "co_filename", "")
            if not os.path.isfile(name) and not name.startswith("<frozen"):
                said = f"exec {name}"
        elif _FORBIDDEN.match(event) and not (event == "os.remove" and self._kind.runs_python):
            said = f"{event} {arguments!r:.100}"
        if said:
            self._events.append(said[:200])


def _refusal(error: BaseException, inside: pathlib.Path, is_of_file: bool) -> tuple[str, str]:
    """Refused is what main.py prints as a line, which names a file."""
    if not isinstance(error, Exception) or not (text := main.refusal(error)):
        return "traceback", _shown(error)
    lines = [text]
    if isinstance(error, ConversionError) and error.problems:  # a line each
        text = str(error)
        head = text[: -len("".join(f"\n  {problem}" for problem in error.problems))]
        lines = [head, *error.problems]
    if not all(line.isprintable() and line.strip() and len(line) <= LONGEST for line in lines):
        return "traceback", f"not one line of at most {LONGEST} characters: {text!r:.1500}"
    if is_of_file and str(inside) not in text:
        return "traceback", f"does not name the file: {text}"
    return "refused", text


def _shown(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(
        [f"{type(error).__name__}: {str(error)[:300]!r}"]
        + [f"{pathlib.Path(f.filename).name}:{f.lineno} {f.name}" for f in frames[:-7:-1]]
    )


def _lacks_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM


def _chain(error: BaseException | None) -> Iterable[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        context = None if error.__suppress_context__ else error.__context__
        error = error.__cause__ or context


def _processor_seconds(pid: int) -> float:
    """What a process, with its threads, has used of processors so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(name: str) -> int:
    """Bytes, as the system has them of this process."""
    text = pathlib.Path("/proc/self/status").read_text()
    found = re.search(rf"{name}:\s*(\d+) kB", text)
    assert found, text
    return 1024 * int(found[1])


@contextlib.contextmanager
def _limited(size: int, is_limited: bool) -> Iterable[None]:
    if not is_limited:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _restore(path: pathlib.Path, content: bytes | None) -> None:
    """A new file each time: what is mapped into memory of the former keeps its pages."""
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)
