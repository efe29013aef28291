"""The commands `server`, `pipelines` and `console`, each behind a check that its packages are ours,
and with standard streams that never fail.

`server`, `console`, `pipelines` and `proto` are common names. A file or a distribution of the same
name that comes earlier on the path is imported in their place. The packages cannot check that for
themselves, since they would not be imported: hence a module with a name of its own.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO, cast

ROOT = Path(__file__).resolve().parent
# Package -> a file in ours, that distinguishes it from another namespace directory of that name.
PACKAGES = {
    "server": "main.py",
    "console": "app/main.py",
    "pipelines": "main.py",
    "proto": "inference_pb2.py",
}
COMMANDS = {"server": "server.main", "console": "console.app.main", "pipelines": "pipelines.main"}
USAGE = 2
UNWRITTEN = 74  # EX_IOERR of sysexits.h: the output is incomplete


def server() -> int:
    return run("server")


def pipelines() -> int:
    return run("pipelines")


def console() -> int:
    return run("console")


def run(command: str) -> int:
    """The command's own exit code, or 2 with one line on stderr when a package is shadowed."""
    output = forgiving_streams()
    clash = clash_of(sys.path)
    if clash:
        print(f"{command}: {clash}", file=sys.stderr)
        return USAGE
    try:
        code = int(importlib.import_module(COMMANDS[command]).main())
    except SystemExit as ended:  # argparse, after a help or an error
        output.flush()
        if output.failure is None:
            raise
        code = ended.code if isinstance(ended.code, int) else 0
    return _outcome(command, code, output)


def _outcome(command: str, code: int, output: Forgiving) -> int:
    output.flush()
    if output.failure is None or isinstance(output.failure, BrokenPipeError) or code:
        return code
    print(f"{command}: cannot write the output: {output.failure.strerror}", file=sys.stderr)
    return UNWRITTEN


class Forgiving:
    """A text stream whose failures decide nothing: the first one is kept in `failure`, and what
    is written from then on is dropped. Everything else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream)

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError as failure:
            self.failure = self.failure or failure
            # Python flushes again at the exit: what is left goes where it cannot fail.
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())


def forgiving_streams() -> Forgiving:
    """In place of sys.stdout, which is returned, and sys.stderr. A stream that was closed before
    the start leads nowhere: a file or a socket must not get its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    output = Forgiving(sys.stdout or open(os.devnull, "w"))
    sys.stdout = cast(TextIO, output)
    sys.stderr = cast(TextIO, Forgiving(sys.stderr or open(os.devnull, "w")))
    return output


def clash_of(path: Sequence[str]) -> str:
    """Which file shadows which of our packages, and the remedy; "" when none does."""
    for package, marker in PACKAGES.items():
        for entry, found in _candidates(package, path):
            if found.is_dir() and not (found / marker).is_file():
                continue  # one of several directories of a namespace, without our modules
            ours = ROOT / package
            if (found if found.is_dir() else found.parent).resolve() != ours:
                return f"{found} shadows {ours}: {_remedy(entry)}"
            break
    return ""


def _candidates(package: str, path: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Path entry and what `import` finds there, in its order: the file of a module or regular
    package, which ends the search; else the directories of a namespace."""
    namespace = []
    for entry in path:
        finder = pkgutil.get_importer(entry or os.getcwd())
        spec = finder.find_spec(package) if finder is not None else None
        if spec is None:
            continue
        if spec.loader is not None:
            yield entry, Path(spec.origin or "")
            return
        namespace += [(entry, Path(folder)) for folder in spec.submodule_search_locations or ()]
    yield from namespace


def _remedy(entry: str) -> str:
    folder = entry or os.getcwd()  # "" stands for it
    listed = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if folder in listed:
        return f"take {folder} off PYTHONPATH, or rename the file"
    return "uninstall what put it there, or install trefoil-serve in an environment of its own"
