"""The commands `server`, `pipelines` and `console`, each behind a check that its packages are ours.

`server`, `console`, `pipelines` and `proto` are common names. A file or a distribution of the same
name that comes earlier on the path is imported in their place. The packages cannot check that for
themselves, since they would not be imported: hence a module with a name of its own.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
# Package -> a file in ours, by which to tell it from another namespace directory of that name.
PACKAGES = {
    "server": "main.py",
    "console": "app/main.py",
    "pipelines": "main.py",
    "proto": "inference_pb2.py",
}
COMMANDS = {"server": "server.main", "console": "console.app.main", "pipelines": "pipelines.main"}
USAGE = 2


def server() -> int:
    return run("server")


def pipelines() -> int:
    return run("pipelines")


def console() -> int:
    return run("console")


def run(command: str) -> int:
    """The command's own exit code, or 2 with one line on stderr when a package is shadowed."""
    clash = clash_of(searched(command, sys.argv[1:]))
    if clash:
        print(f"{command}: {clash}", file=sys.stderr)
        return USAGE
    return int(importlib.import_module(COMMANDS[command]).main())


def searched(command: str, arguments: Sequence[str]) -> list[str]:
    """Where this process and those that it starts look for modules, in order."""
    # A server starts its replicas by `python -m`, which looks in the current directory first.
    serves = command == "server" and not (arguments and not arguments[0].startswith("-"))
    return ["", *sys.path] if serves and not sys.flags.safe_path else list(sys.path)


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
    folder = entry or os.getcwd()
    listed = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if folder in listed:
        return f"take {folder} off PYTHONPATH, or rename the file"
    if not entry:
        return "start the command in another directory, or rename the file"
    return "uninstall what put it there, or install trefoil-serve in an environment of its own"
