"""The import rules of the project (docs/architecture.md): which package may import which, and what
is never loaded."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proto import inference_pb2
from tests.support.patience import patience

ROOT = Path(__file__).resolve().parent.parent
# Package -> the folder it is in, from the root.
PACKAGES = {
    "proto": ".",
    "pipelines": ".",
    "server": ".",
    "console": ".",
    "trefoil": "clients/python",
    "recipes": ".",
}
# No folder outside tests/ has more files of Python than this: a room one can look over.
LARGEST_FOLDER = 24

# Of telemetry: its rows, the language that chooses among them, and the maths of drift.
SHARED_WITH_THE_CONSOLE = tuple(
    f"server.telemetry.{name}" for name in ("rows", "record", "outputs", "filters", "drift")
)

# What each place may import of ours. The first matching prefix rules a module.
ALLOWED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("proto", ("proto",)),
    # A distribution of its own: it has its own copy of the stubs.
    ("trefoil", ("trefoil",)),
    ("pipelines", ("pipelines",)),
    ("recipes", ("recipes", "pipelines")),
    ("server.telemetry", ("server.telemetry",)),
    ("server.replica.main", ("server", "proto", "pipelines")),
    ("server.replica.pipeline_model", ("server", "proto", "pipelines")),
    # Another process beside the replicas, and their side of it.
    ("server.replica.weights", ("server", "proto", "pipelines")),
    # What decodes a stranger's bytes: the media room, which loads no torch.
    ("server.replica.decoding.main", ("server.replica", "pipelines")),
    ("server.replica.decoding.parts", ("server.replica", "pipelines")),
    # The command line is a client like any other.
    ("server.commands", ("server", "proto", "trefoil")),
    ("server.rehearsal.rerun", ("server", "proto", "trefoil")),
    ("server", ("server", "proto")),
    # What the console knows and concludes stands on its own and on what telemetry sends.
    ("console.state", ("console.state", *SHARED_WITH_THE_CONSOLE)),
    # Maths and text alone, over what the state has.
    ("console.looks", ("console.looks", "console.state", *SHARED_WITH_THE_CONSOLE)),
    ("console.finding", ("console.finding", "console.state", *SHARED_WITH_THE_CONSOLE)),
    (
        "console.plots",
        ("console.plots", "console.models", "console.state", "console.cache.quantiles")
        + ("console.app.theme", "console.app.timeaxis")
        + ("server.telemetry.rows", "server.telemetry.outputs"),
    ),
    ("console", ("console", "proto", *SHARED_WITH_THE_CONSOLE)),
)
# Libraries a place must not import at all, at module level or later.
FORBIDDEN: tuple[tuple[str, tuple[str, ...]], ...] = (
    # Pure maths over counts.
    ("server.telemetry.drift", ("sqlite3", "sqlite_utils", "threading", "grpc", "torch")),
    ("server.telemetry.quality", ("sqlite3", "sqlite_utils", "threading", "grpc", "torch")),
    ("server.telemetry.slices", ("sqlite3", "sqlite_utils", "threading", "grpc", "torch")),
    ("server.telemetry", ("grpc", "torch", "transformers", "PySide6")),
    # The pool starts replicas; a replica does not know the pool.
    ("server.replica.main", ("server.pool", "PySide6")),
    ("server.replica.pipeline_model", ("server.pool", "PySide6")),
    ("server.replica.weights.holder", ("server.pool", "transformers", "PySide6")),
    ("server.replica.weights.mapped", ("server.pool", "transformers", "PySide6")),
    ("server.replica", ("server.pool", "torch", "transformers", "torchaudio", "PySide6")),
    ("server.pool", ("proto", "torch", "PySide6")),
    ("server.routing", ("proto", "torch", "PySide6")),
    ("server.engine", ("proto", "torch", "PySide6")),
    ("server", ("torch", "transformers", "torchaudio", "PySide6")),
    ("console.panels", ("sqlite3", "sqlite_utils", "grpc", "torch", "transformers")),
    ("console.plots", ("sqlite3", "sqlite_utils", "grpc", "torch", "transformers")),
    ("console.state", ("PySide6", "torch", "sqlite3", "grpc")),
    ("console.looks", ("PySide6", "torch", "sqlite3", "grpc", "threading")),
    ("console.finding", ("PySide6", "torch", "sqlite3", "grpc", "threading")),
    ("console.feed", ("PySide6", "torch")),
    ("console.cache", ("PySide6", "torch")),
    ("console", ("torch", "transformers", "torchaudio")),
    ("pipelines", ("grpc", "PySide6", "sqlite3")),
    ("trefoil", ("torch", "transformers", "numpy", "PySide6")),
)


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in PACKAGES.items():
        for path in sorted((ROOT / folder / package).rglob("*.py")):
            if path.name.endswith(("_pb2.py", "_pb2_grpc.py")) or path.name == "generate.py":
                continue
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(source: str) -> Iterator[str]:
    """Every absolute name a module imports, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def breaches(module: str, source: str) -> list[str]:
    allowed = next(names for prefix, names in ALLOWED if below(module, prefix))
    forbidden = next((names for prefix, names in FORBIDDEN if below(module, prefix)), ())
    found = []
    for name in imports(source):
        ours = name.split(".")[0] in PACKAGES
        if ours and not any(below(name, prefix) for prefix in allowed):
            found.append(f"{module} imports {name}")
        if any(below(name, prefix) for prefix in forbidden):
            found.append(f"{module} imports {name}")
    return found


def imported_modules(source: str) -> set[str]:
    """The modules of ours that a source imports, packages' own `__init__` left out."""
    known = {module for module, _ in modules()}
    found = set()
    for name in imports(source):
        module = name if name in known else name.rpartition(".")[0]
        if module in known:
            found.add(module)
    return found


def circles(graph: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """The sets of modules that reach each other: strongly connected components of two or more."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            for name in graph.get(waiting.pop(), set()) - found:
                found.add(name)
                waiting.append(name)
        return found

    reach = {module: reached(module) for module in graph}
    return sorted(
        {
            tuple(sorted(other for other in reach[module] if module in reach.get(other, set())))
            for module in graph
            if module in reach[module]
        }
    )


def tracked_sources() -> Iterator[Path]:
    for top in (*PACKAGES.items(), ("benchmarks", "."), ("installers", "."), ("examples", ".")):
        folder = ROOT / top[1] / top[0]
        yield from (p for p in folder.rglob("*.py") if "_pb2" not in p.name)


def test_every_import_follows_the_arrows() -> None:
    found = [b for module, path in modules() for b in breaches(module, path.read_text())]
    assert found == []


def test_no_import_goes_in_a_circle() -> None:
    """Imports for types alone included: what knows each other is one thing in two files."""
    graph = {module: imported_modules(path.read_text()) for module, path in modules()}
    assert circles(graph) == []


def test_a_planted_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert circles(graph) == [("a", "b", "c")]


def test_no_folder_is_too_large_to_look_over() -> None:
    sizes: dict[str, int] = {}
    for path in tracked_sources():
        folder = path.parent.relative_to(ROOT).as_posix()
        sizes[folder] = sizes.get(folder, 0) + 1
    large = {name: n for name, n in sizes.items() if n > LARGEST_FOLDER}
    assert large == {}
    assert len(sizes) > 40, "the folders were found"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pipelines.models.tokens", "from server.engine import Engine"),
        ("server.engine", "import torch"),
        ("server.api.inference", "def f():\n    from pipelines.types import Part"),
        ("server.telemetry.store.store", "from server.types import Work"),
        ("console.panels.drift", "import sqlite3"),
        ("console.app.window", "from server.telemetry.store.store import Store"),
        ("console.feed.client", "import pipelines"),
        ("console.state.status", "from console.app.theme import Theme"),
        ("console.plots.charts", "from console.panels.frame import Panel"),
        ("console.state.status", "from server.telemetry.store.reader import Reader"),
        ("trefoil.servers", "from server.pool.affinity import rank"),
        ("trefoil.client", "from proto import inference_pb2"),
        ("server.api.inference", "import trefoil"),
    ],
)
def test_a_planted_breach_is_found(module: str, source: str) -> None:
    assert breaches(module, source) != []


def classes_by_name() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, path in sorted(modules()):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(name)
    return found


def test_no_two_test_files_share_a_name() -> None:
    """They are no packages: `pytest` alone would take the second for the first."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_no_two_classes_share_a_name_unless_they_carry_one_message() -> None:
    """A message of the inference service has a class of its name on either side of an arrow."""
    messages = set(inference_pb2.DESCRIPTOR.message_types_by_name)
    doubles = {name: at for name, at in classes_by_name().items() if len(at) > 1}
    assert doubles.keys() <= messages, {n: doubles[n] for n in doubles.keys() - messages}


def test_the_client_needs_nothing_but_grpc_and_protobuf() -> None:
    """Neither to import nor to open: a caller's machine has no more."""
    code = (
        "import sys, trefoil; trefoil.Client('localhost:1').close();"
        "ours = {name.split('.')[0] for name in sys.modules};"
        "wrong = {'server', 'pipelines', 'console', 'proto', 'numpy', 'torch'} & ours;"
        "sys.exit(', '.join(wrong) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "clients" / "python")},
        capture_output=True,
        text=True,
        timeout=patience(120),
    )
    assert done.returncode == 0, done.stderr


def test_what_the_console_takes_of_telemetry_loads_no_library() -> None:
    heavy = "{'numpy', 'scipy', 'sqlite3', 'sqlite_utils', 'grpc', 'google', 'torch'}"
    code = (
        "import sys, server.telemetry.rows, server.telemetry.record, server.telemetry.filters;"
        f"sys.exit(', '.join({heavy} & {{name.split('.')[0] for name in sys.modules}}) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_proto_stays_a_namespace_directory() -> None:
    # proto-plus has a top-level `proto` too: with an __init__.py one would overwrite the other.
    assert not (ROOT / "proto" / "__init__.py").exists()


@pytest.mark.parametrize(
    "module", ["server.main", "server.engine", "server.api.inference", "console.app.main"]
)
def test_front_and_console_never_load_torch(module: str) -> None:
    heavy = "{'torch', 'transformers', 'torchaudio', 'pipelines', 'trefoil'}"
    code = f"import sys, {module}; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=patience(120),
    )
    assert done.returncode == 0, done.stderr
