"""Proves the packed console: built twice to the same bytes, accepted by Debian's checkers,
installed in a bare Debian 12 by apt, started there without a display and in a real window fed by
servers outside, upgraded, and removed completely. `make check-console-deb`; needs root."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from installers.console import contents
from installers.console.package import HERE, ROOT, last_commit_s
from tests.installers.check_window import need, passed, real_window
from tests.installers.room import USER, Room, bare_room

PROGRAM = contents.PROGRAM
SIZE = "1600x960"
# Written by apt, dpkg and the caches of other packages whatever is installed.
VOLATILE = ("/var/cache/", "/var/lib/apt/", "/var/lib/dpkg/", "/var/log/")
OWN_IN_HOME = (".cache", ".config", "trefoil-console")


def main() -> int:
    parser = argparse.ArgumentParser(prog="check_package.py")
    parser.add_argument("deb", type=Path)
    parser.add_argument("--builder", type=Path, help="Python that builds it a second time")
    parser.add_argument("--system", type=Path, default=ROOT / "build/bookworm.tar")
    parser.add_argument("--out", type=Path, default=ROOT / "build/console-check")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("check_package.py: only root may install into a root of its own", file=sys.stderr)
        return 2
    shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True)
    deb = arguments.deb.resolve()
    checkers(deb)
    if arguments.builder:
        same_bytes(deb, arguments.builder)
    with (
        tempfile.TemporaryDirectory(prefix="trefoil-check-") as kept,
        bare_room(arguments.system, Path(kept)) as room,
    ):
        before = room.files()
        install(room, older(deb, Path(kept)), deb)
        starts(room, arguments.out)
        real_window(room, arguments.out)
        removed(room, before)
    return 0


# ---- without installing ------------------------------------------------------------------------


def checkers(deb: Path) -> None:
    """Debian's own. Each error and warning of lintian that is left is argued in lintian-overrides;
    what it merely informs of is how the projects inside harden and spell."""
    for command in (
        ["desktop-file-validate", str(HERE / f"{PROGRAM}.desktop")],
        ["appstreamcli", "validate", "--no-net", "--pedantic",
         str(HERE / "org.trefoil.console.metainfo.xml")],
        ["lintian", "--allow-root", "--fail-on", "error,warning", str(deb)],
    ):  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        need(done.returncode == 0, f"{command[0]}:\n{done.stdout}{done.stderr}")
        passed(f"{command[0]} has nothing to report that is not argued")


def same_bytes(deb: Path, builder: Path) -> None:
    """The same tree elsewhere, under another umask, locale and time zone."""
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others",
              "--exclude-standard"]  # fmt: skip
    names = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0")
    with tempfile.TemporaryDirectory(prefix="elsewhere-") as kept:
        for name in filter(None, names):
            source, place = ROOT / name, Path(kept) / "tree" / name
            if source.is_file():
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, place)
        build = 'umask 077; exec "$0" installers/console/package.py --out "$1"'
        command = ["bash", "-c", build, str(builder.absolute()), f"{kept}/out"]
        odd = {"TZ": "Asia/Tokyo", "LC_ALL": "C", "SOURCE_DATE_EPOCH": str(last_commit_s())}
        subprocess.run(
            command, check=True, cwd=f"{kept}/tree", env={**os.environ, **odd}, stdout=sys.stderr
        )
        (second,) = Path(kept, "out").glob("*.deb")
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (deb, second)]
    need(digests[0] == digests[1], f"two builds differ: {digests[0]} and {digests[1]}")
    passed(f"built twice, both {digests[0]}")


# ---- installing --------------------------------------------------------------------------------


def older(deb: Path, folder: Path) -> Path:
    """The same package as an older version, with a file that the new one no longer has."""
    tree = folder / "older"
    subprocess.run(["dpkg-deb", "--raw-extract", str(deb), str(tree)], check=True)
    control = tree / "DEBIAN/control"
    lines = control.read_text().splitlines()
    lines = ["Version: 0.0.1" if line.startswith("Version:") else line for line in lines]
    control.write_text("\n".join(lines) + "\n")
    (tree / f"usr/lib/{PROGRAM}/_internal/stale.txt").write_text("gone after the upgrade\n")
    found = folder / "older.deb"
    subprocess.run(["dpkg-deb", "-Znone", "--build", str(tree), str(found)], check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    shutil.rmtree(tree)
    return found


def install(room: Room, old: Path, new: Path) -> None:
    for path in (old, new):
        shutil.copy(path, room.root / "tmp")
    room.run("apt-get", "update", "-qq")
    apt = ("apt-get", "install", "-y", "-qq", "--no-install-recommends")
    room.run(*apt, f"/tmp/{old.name}")
    stale = room.root / f"usr/lib/{PROGRAM}/_internal/stale.txt"
    need(stale.exists(), "the older version did not arrive")
    packages = len(room.run("dpkg-query", "-W", "-f", "${Package}\n").split())
    room.run(*apt, f"/tmp/{new.name}")
    need(not stale.exists(), "the upgrade left a file of the older version")
    need(not room.run("dpkg", "--audit").strip(), "dpkg --audit complains")
    missing = room.run(
        "bash", "-c",
        f"find /usr/lib/{PROGRAM} -name '*.so*' -print0 | xargs -0 -n1 sh -c"
        f" 'LD_LIBRARY_PATH=/usr/lib/{PROGRAM}/_internal ldd \"$0\" | grep \"not found\"' || true",
    )  # fmt: skip
    need(not missing.strip(), f"libraries are missing:\n{missing}")
    # The licences and the manual must survive what containers leave out of packages.
    need((room.root / f"usr/lib/{PROGRAM}/_internal/licences/LGPL-3.0.txt").exists(), "no LGPL")
    passed(f"apt installed it and its dependencies ({packages} packages in all), then upgraded it")


def starts(room: Room, out: Path) -> None:
    """Without a display."""
    version = room.run(PROGRAM, "--version", user=True).strip()
    need(version.split()[:1] == [PROGRAM] and version.split()[1][:1].isdigit(), version)
    need("--again" in room.run(PROGRAM, "--help", user=True), "--help does not list --again")
    shown = room.run(
        "bash", "-c",
        f"{PROGRAM} --offline --screenshot $HOME/bare.png --size {SIZE} 2>&1",
        user=True, QT_QPA_PLATFORM="offscreen",
    )  # fmt: skip
    need(not shown.strip(), f"it complained: {shown}")
    picture = room.root / f"home/{USER}/bare.png"
    need(picture.exists() and picture.stat().st_size > 5000, "no picture")
    shutil.move(picture, out / "offscreen.png")
    passed(f"{version}: --help, and a picture without a display")


# ---- leaving -----------------------------------------------------------------------------------


def removed(room: Room, before: set[str]) -> None:
    room.run("apt-get", "remove", "--purge", "-y", "-qq", PROGRAM)
    owned = set(room.run("bash", "-c", "cat /var/lib/dpkg/info/*.list").splitlines())
    left = room.files() - before - owned
    home = f"/home/{USER}/"
    mine = sorted(p for p in left if "trefoil" in p.lower() and not p.startswith((home, *VOLATILE)))
    need(not mine, f"left behind: {mine}")
    tops = {p.removeprefix(home).split("/")[0] for p in left if p.startswith(home)}
    need(tops <= set(OWN_IN_HOME), f"the user's home has {sorted(tops)}")
    others = sorted(p for p in left if not p.startswith((home, *VOLATILE)))
    passed(f"purged; the user's home keeps {', '.join(sorted(tops))}; by other packages: {others}")


if __name__ == "__main__":
    sys.exit(main())
