"""Every command the README shows is run or checked, in the README's order, from the repository."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.patience import patience

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
MODULES = {"server": "server.main", "pipelines": "pipelines.main", "console": "console.app.main"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    return [shlex.split(line) for block in blocks("sh") for line in block.splitlines() if line]


def program(arguments: list[str]) -> list[str]:
    """`.venv/bin/server predict` as this interpreter runs it, wherever the environment is."""
    return [sys.executable, "-m", MODULES[Path(arguments[0]).name], *arguments[1:]]


CLIENT_COMMANDS = [
    arguments
    for arguments in commands()
    if arguments[0].endswith("/server")
    and arguments[1] in ("predict", "status", "probe", "feedback")
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server `make serve` starts, on a free port."""
    (recipe,) = re.findall(r"^\t\$\(BIN\)/server (.*)$", MAKEFILE, re.MULTILINE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    data = tmp_path_factory.mktemp("data")
    for name, value in (("POOL", "1"), ("LISTEN", listen), ("DATA", str(data))):
        recipe = recipe.replace(f"$({name})", value)
    process = subprocess.Popen(
        [sys.executable, "-m", "server.main", *shlex.split(recipe)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    probe_command = [sys.executable, "-m", "server.main", "probe", "--server", listen]
    for _ in range(120):
        if subprocess.run(probe_command, cwd=ROOT, capture_output=True).returncode == 0:
            break
        assert process.poll() is None, process.stdout and process.stdout.read()
    yield listen
    process.terminate()
    assert process.wait(patience(60)) == 0


def test_make_targets_exist() -> None:
    shown = [arguments[1] for arguments in commands() if arguments[0] == "make"]
    assert {"serve", "test"} <= set(shown)
    for target in shown:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


@pytest.mark.parametrize("arguments", CLIENT_COMMANDS, ids=" ".join)
def test_client_commands_succeed_as_shown(arguments: list[str], address: str) -> None:
    command = [*program(arguments), "--server", address]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=patience(120))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_other_commands_exist() -> None:
    others = [
        arguments
        for arguments in commands()
        if arguments[0].startswith(".venv/bin/") and arguments not in CLIENT_COMMANDS
    ]
    for arguments in others:
        subcommand = [one for one in arguments[1:2] if not one.startswith("-") and ":" not in one]
        command = [*program([arguments[0], *subcommand]), "--help"]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=patience(120)
        )
        assert done.returncode == 0, (arguments, done.stderr)
        for flag in (word for word in arguments if word.startswith("--") and word != "--help"):
            assert flag in done.stdout, (arguments, flag)


@pytest.mark.parametrize("library", ["trefoil", "pipelines"])
def test_the_python_examples_run(library: str, address: str) -> None:
    (code,) = [block for block in blocks("python") if library in block.splitlines()[0]]
    path = os.pathsep.join((str(ROOT / "clients" / "python"), str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", code.replace("127.0.0.1:8433", address)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=patience(120),
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()[-1]) == 12


def test_every_document_it_links_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
