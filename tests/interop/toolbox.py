"""Finds the third-party tools: on this machine, or installed below build/interop by their ordinary
package managers. Raises Skipped, with the reason, for a tool that is not available."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from tests.installers.tools import Skipped

LATER = "tritonclient[grpc,http]==2.73.0"
# Wheels of these versions carry NVIDIA's load generator; later ones do not.
WITH_PERF_ANALYZER = "tritonclient==2.44.0"
CUDA_RUNTIME = "nvidia-cuda-runtime-cu12==12.9.79"
MLSERVER = "mlserver==1.7.1"
GRPCURL = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.8.9"
HEALTH_PROBE = "github.com/grpc-ecosystem/grpc-health-probe@v0.4.11"
BUF = "@bufbuild/buf@1.50.0"
GRAFANA = ("@grafana/schema@11.6.0", "typescript@5.8.3")
INSTALL_S = 900.0


@dataclass(frozen=True, slots=True)
class Toolbox:
    """`folder` keeps what was installed, so that a second run installs nothing."""

    folder: Path

    def python_with(self, name: str, *packages: str) -> Path:
        """An interpreter of an environment of its own that has these packages."""
        place = self.folder / name
        python = place / "bin" / "python"
        done = place / ".installed"
        if not done.exists() or done.read_text() != "\n".join(packages):
            venv.create(place, with_pip=True, clear=True)
            quiet = ("-m", "pip", "install", "-q", "--disable-pip-version-check")
            _install([str(python), *quiet, *packages])
            done.write_text("\n".join(packages))
        return python

    def perf_analyzer(self) -> tuple[Path, dict[str, str]]:
        """The program out of a wheel, and the environment it starts in."""
        place = self.folder / "perf_analyzer"
        if not place.exists():
            made = place.with_suffix(".making")
            shutil.rmtree(made, ignore_errors=True)
            pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
            packages = (WITH_PERF_ANALYZER, CUDA_RUNTIME)
            _install([*pip, "--no-deps", "--target", str(made), *packages])
            made.rename(place)
        found = next(iter(sorted(place.rglob("perf_analyzer"))), None)
        if found is None or not found.is_file():
            raise Skipped(f"the wheel of {WITH_PERF_ANALYZER} has no perf_analyzer")
        found.chmod(0o755)
        environment = {"LD_LIBRARY_PATH": str(place / "nvidia" / "cuda_runtime" / "lib")}
        done = subprocess.run(
            [found, "--version"],
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
        )
        if done.returncode != 0:
            raise Skipped(f"perf_analyzer does not start: {done.stderr.strip()} (libb64-0d?)")
        return found, environment

    def from_npm(self, name: str, *packages: str) -> Path:
        """A program that one of these packages of npm carries."""
        place = self.folder / name
        found = place / "node_modules" / ".bin" / name
        if not found.exists():
            if shutil.which("npm") is None:
                raise Skipped(f"there is no npm to install {' '.join(packages)} with")
            place.mkdir(parents=True, exist_ok=True)
            quiet = ("--no-audit", "--no-fund", "--silent")
            _install(["npm", "install", *quiet, "--prefix", str(place), *packages])
        return found

    def from_go(self, name: str, package: str) -> Path:
        """A program written in Go: from PATH, or built by the Go that is installed."""
        if found := shutil.which(name):
            return Path(found)
        built = self.folder / "go" / name
        if not built.exists():
            if shutil.which("go") is None:
                raise Skipped(f"there is neither {name} nor go to build it")
            _install(["go", "install", package], {"GOBIN": str(built.parent)})
        return built


def _install(command: list[str], more: dict[str, str] | None = None) -> None:
    environment = {**os.environ, **(more or {})}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=INSTALL_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Skipped(f"could not be installed: {error}") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise Skipped(f"could not be installed: {lines[-1] if lines else command}"[:160])
