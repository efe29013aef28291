"""A bare Debian root to install into, and its display. Every command runs in its own mount
namespace, so that no mount is ever left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.installers.debian import archive, unpack

USER, UID = "oncall", 1000
SHIMS = """
set -e
mount -t proc proc "$ROOM/proc"
mount --bind /dev "$ROOM/dev"
mount -t tmpfs shm "$ROOM/dev/shm"
if [ -n "$DISPLAY" ]; then
  mkdir -p "$ROOM/tmp/.X11-unix" && mount --bind /tmp/.X11-unix "$ROOM/tmp/.X11-unix"
fi
exec chroot --userspec="$WHO" "$ROOM" "$@"
"""


@dataclass(frozen=True, slots=True)
class Room:
    root: Path

    def command(self, *arguments: str) -> list[str]:
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", SHIMS,
                "room", *arguments]  # fmt: skip

    def environment(self, user: bool = False, **more: str) -> dict[str, str]:
        """What a login has, and nothing of the machine around."""
        home = f"/home/{USER}" if user else "/root"
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": home,
            "LANG": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
            "ROOM": str(self.root),
            "WHO": f"{UID}:{UID}" if user else "0:0",
            "DISPLAY": "",
            **more,
        }

    def run(self, *arguments: str, user: bool = False, **more: str) -> str:
        """The output of the command; raises SystemExit with all of it when it fails."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment(user, **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        if done.returncode != 0:
            raise SystemExit(
                f"{' '.join(arguments)}: exit {done.returncode}\n{done.stdout[-4000:]}"
            )
        return done.stdout

    @staticmethod
    def kill(process: subprocess.Popen[str]) -> None:
        """With what it started: a program that has changed its user outlives the death of its
        parent, but not that of the first process of its own process space."""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        process.kill()

    def files(self) -> set[str]:
        """Every path, without what belongs to no file system of the disk."""
        found = set()
        for folder, folders, names in os.walk(self.root):
            base = "/" + str(Path(folder).relative_to(self.root))
            base = "" if base == "/." else base
            if base in ("/proc", "/sys", "/dev", "/run", "/tmp"):
                folders.clear()
                continue
            found |= {f"{base}/{name}" for name in (*folders, *names)}
        return found


@contextmanager
def bare_room(kept: Path, folder: Path) -> Iterator[Room]:
    """A fresh copy of the minimal system in `kept`, which is made first when it is not there."""
    root = folder / "root"
    unpack(archive(kept), root)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    # It is thrown away: nothing in it needs to survive a power cut.
    (root / "etc/dpkg/dpkg.cfg.d/unsafe").write_text("force-unsafe-io\n")
    room = Room(root)
    room.run("useradd", "--uid", str(UID), "--create-home", USER)
    try:
        yield room
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def display(size: str) -> Iterator[dict[str, str]]:
    """DISPLAY of an X server of our own."""
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", f"{size}x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=(write,), stderr=subprocess.DEVNULL)
    os.close(write)
    try:
        with os.fdopen(read) as pipe:
            number = pipe.readline().strip()
        yield {"DISPLAY": f":{number}"}
    finally:
        server.terminate()
        server.wait(10)
