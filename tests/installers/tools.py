"""External programs, and the two ways in which a check of an installer ends without success."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GPU_HOST = ROOT / "installers" / "gpu-host"
SAID = 4000  # characters of a failed program's output that are shown


class Failed(Exception):
    """What was checked is not as it should be."""


class Skipped(Exception):
    """It could not be checked here: why, and what would make it possible."""


def need(*programs: str) -> None:
    """Raises Skipped unless all of them are there."""
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        raise Skipped(f"not installed: {', '.join(missing)}")


def need_root() -> None:
    if os.geteuid() != 0:
        raise Skipped("needs root")


def run(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> str:
    """What it printed on stdout. Raises Failed when it ends badly or not in time."""
    done = attempt(command, env=env)
    if done.returncode != 0:
        raise Failed(f"{command_line(command)} ended with {done.returncode}\n{tail(done)}")
    return done.stdout


def attempt(
    command: Sequence[str | Path],
    *,
    within_s: float = 1800.0,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Its end, whatever it was. Raises Failed only when it does not come in time."""
    try:
        return subprocess.run(
            [str(word) for word in command],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=within_s,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{command_line(command)} was not done after {within_s:g} s") from None


def command_line(command: Sequence[str | Path]) -> str:
    text = " ".join(str(word) for word in command)
    return text if len(text) < 120 else f"{text[:117]}..."


def tail(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stdout + done.stderr).strip()[-SAID:]
