"""The control file. dpkg-shlibdeps reads the package's dependencies from its binaries; libraries
that they load by name are listed here."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from installers.console import contents

# Debian 13 and Ubuntu 24.04 renamed these for the 64-bit time type; the library is the same.
RENAMED = ("libglib2.0-0", "libssl3")

# Without a font every text is a row of boxes.
BESIDE = ("fonts-dejavu-core",)

# xdg-open plays a kept sound with the desktop's own player.
RECOMMENDED = ("xdg-utils",)

DESCRIPTION = """\
console of the Trefoil model server
 What is wrong, on which server, and since when: latency, drift, version skew,
 predictions, quality and alerts on one time axis. It listens to the servers,
 keeps what it hears, and still opens when every one of them is gone.
 .
 Python, NumPy, SciPy, gRPC and Qt are in the package, each as the libraries
 of its project; everything else it uses is the system's.
"""


def control(version: str, architecture: str, installed_kib: int, depends: list[str]) -> str:
    return (
        f"Package: {contents.PROGRAM}\n"
        f"Version: {version}\n"
        f"Architecture: {architecture}\n"
        "Maintainer: The Trefoil authors <trefoil@localhost>\n"
        f"Installed-Size: {installed_kib}\n"
        f"Depends: {', '.join(depends)}\n"
        f"Recommends: {', '.join(RECOMMENDED)}\n"
        "Section: devel\n"
        "Priority: optional\n"
        f"Description: {DESCRIPTION}"
    )


def dependencies(stage: Path) -> list[str]:
    """Packages with the libraries that the tree's binaries are linked to, in the oldest sufficient
    versions."""
    home = stage / "usr/lib" / contents.PROGRAM
    binaries = [path for path in sorted(home.rglob("*")) if path.is_file() and is_elf(path)]
    own = sorted({str(path.parent) for path in binaries})
    with tempfile.TemporaryDirectory() as kept:
        (Path(kept) / "debian").mkdir()
        (Path(kept) / "debian/control").write_text(
            f"Source: {contents.PROGRAM}\n\nPackage: {contents.PROGRAM}\nArchitecture: any\n"
        )
        command = ["dpkg-shlibdeps", "-O", "--warnings=0", "--ignore-missing-info"]
        command += [f"-l{folder}" for folder in own]
        command += [f"-e{path}" for path in binaries]
        done = subprocess.run(command, cwd=kept, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"dpkg-shlibdeps: {done.stderr}")
    (line,) = [part for part in done.stdout.splitlines() if part.startswith("shlibs:Depends=")]
    found = line.removeprefix("shlibs:Depends=").split(", ")
    return sorted({*map(renamed, found), *BESIDE})


def renamed(dependency: str) -> str:
    """`libssl3 (>= 3.0.0)` as an alternative of both package names."""
    name, _, rest = dependency.partition(" ")
    if name not in RENAMED:
        return dependency
    return f"{dependency} | {name}t64{' ' if rest else ''}{rest}"


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"
