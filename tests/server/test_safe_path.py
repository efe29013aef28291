"""A process of this project never imports files from the directory it was started in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.child_process import module_command
from tests.support.patience import patience
from tests.support.running import ROOT, Program, reading

# As an installed `server` starts: a script elsewhere, packages on the path.
START = "import sys, trefoil_serve; sys.exit(trefoil_serve.server())"
FOREIGN = ("server.py", "proto/__init__.py", "pipelines/__init__.py", "torch.py", "console.py")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A working directory with modules of our names, each of which leaves a mark."""
    folder = tmp_path / "cwd"
    for name in FOREIGN:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("open('executed', 'a').write(__file__ + '\\n')\nraise SystemExit(9)\n")
    return folder


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "clients/python")))}


def test_a_server_started_beside_foreign_modules_is_ready_and_runs_none_of_them(
    hostile: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    flags = ("--bundle", str(tiny_bundle), "--listen", "127.0.0.1:0", "--data", str(tmp_path / "d"))
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", START, *flags],
        cwd=hostile,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with reading(Program(process), 180.0) as server:
        assert server.stop() == 0
    assert not (hostile / "executed").exists()


def test_every_other_process_of_ours_is_started_so(hostile: Path, tiny_bundle: Path) -> None:
    command = [*module_command("pipelines.main"), "inspect", str(tiny_bundle)]
    done = subprocess.run(
        command, cwd=hostile, capture_output=True, text=True, timeout=patience(60)
    )
    assert done.returncode == 0, done.stderr
    assert not (hostile / "executed").exists()


def test_no_other_place_starts_a_python() -> None:
    product = [ROOT / name for name in ("server", "pipelines", "console", "clients/python/trefoil")]
    sources = [path for folder in product for path in folder.rglob("*.py")]
    starting = {path.name for path in sources if "sys.executable" in path.read_text()}
    assert starting == {"child_process.py"}
