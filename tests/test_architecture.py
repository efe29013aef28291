"""The arrows of the house (README, "How it is built"): who imports whom, what never loads."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Package -> the folder it is in, from the root.
PACKAGES = {
    "proto": ".",
    "pipelines": ".",
    "server": ".",
    "console": ".",
    "trefoil": "examples/client",
}

# What each place may import of ours. The first matching prefix rules a module.
ALLOWED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("proto", ("proto",)),
    # What a caller installs: the contract and nothing of what is behind it.
    ("trefoil", ("trefoil", "proto")),
    ("pipelines", ("pipelines",)),
    ("server.telemetry", ("server.telemetry",)),
    ("server.replica", ("server", "proto", "pipelines")),
    ("server", ("server", "proto")),
    (
        "console",
        # The maths of drift, and the plain rows it takes.
        (
            "console",
            "proto",
            "server.telemetry.profile",
            "server.telemetry.drift",
            "server.telemetry.record",
        ),
    ),
)
# Libraries a place must not import at all, at module level or later.
FORBIDDEN: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("server.telemetry", ("grpc", "torch", "transformers", "PySide6")),
    ("server.replica", ("PySide6",)),
    ("server", ("torch", "transformers", "torchaudio", "PySide6")),
    ("console.panels", ("sqlite3", "sqlite_utils", "grpc", "torch", "transformers")),
    ("console.domain", ("PySide6", "torch")),
    ("console.status", ("PySide6", "torch")),
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


def test_every_import_follows_the_arrows() -> None:
    found = [b for module, path in modules() for b in breaches(module, path.read_text())]
    assert found == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pipelines.text", "from server.engine import Engine"),
        ("server.engine", "import torch"),
        ("server.rpc", "def f():\n    from pipelines.types import Part"),
        ("server.telemetry.store", "from server.types import Work"),
        ("console.panels.drift", "import sqlite3"),
        ("console.window", "from server.telemetry.store import Store"),
        ("console.feed.client", "import pipelines"),
        ("trefoil.servers", "from server.affinity import rank"),
    ],
)
def test_a_planted_breach_is_found(module: str, source: str) -> None:
    assert breaches(module, source) != []


def test_the_client_needs_nothing_but_grpc_and_protobuf() -> None:
    """Neither to import nor to open: a caller's machine has no more."""
    code = (
        "import sys, trefoil; trefoil.Client('localhost:1').close();"
        "ours = {name.split('.')[0] for name in sys.modules};"
        "sys.exit(', '.join({'server', 'pipelines', 'console', 'numpy', 'torch'} & ours) or 0)"
    )
    path = os.pathsep.join((str(ROOT / "examples" / "client"), str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_proto_stays_a_namespace_directory() -> None:
    # proto-plus has a top-level `proto` too: with an __init__.py one would overwrite the other.
    assert not (ROOT / "proto" / "__init__.py").exists()


@pytest.mark.parametrize("module", ["server.main", "server.engine", "server.rpc", "console.main"])
def test_front_and_console_never_load_torch(module: str) -> None:
    heavy = "{'torch', 'transformers', 'torchaudio', 'pipelines'}"
    code = f"import sys, {module}; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
