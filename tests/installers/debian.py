"""A minimal Debian 12: the system in which each check of an installer installs.

python3 -m tests.installers.debian FOLDER [PACKAGE ...]
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tests.installers.tools import run

SUITE = "bookworm"


def archive(path: Path, *packages: str, epoch: str = "") -> Path:
    """Makes the archive unless it is there. BARE_MIRROR names a mirror as mmdebstrap takes it;
    `epoch` sets the times of its files. Raises Failed."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.tar")
        included = [f"--include={','.join(packages)}"] if packages else []
        mirror = os.environ.get("BARE_MIRROR", "").split()
        run(
            ["mmdebstrap", "--quiet", "--variant=minbase", *included, SUITE, partial, *mirror],
            env={"SOURCE_DATE_EPOCH": epoch} if epoch else None,
        )
        partial.rename(path)
    return path


def unpack(path: Path, root: Path) -> None:
    """Without its device files: every check shows those of this machine. Raises Failed."""
    root.mkdir(parents=True, exist_ok=True)
    run(["tar", "--numeric-owner", "--exclude=./dev/*", "-C", root, "-xpf", path])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=Path(sys.argv[1]).parent) as beside:
        unpack(archive(Path(beside) / "debian.tar", *sys.argv[2:]), Path(sys.argv[1]))
