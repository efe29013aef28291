"""The console as one folder and as a .deb: `python installers/console/package.py [--out DIR]`, run
by `make console-deb` in an environment with requirements.txt. The same commit gives the same bytes
on every machine: the output does not depend on the machine's clock, paths or permissions."""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from email.utils import formatdate
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

from installers.console import contents, notices  # noqa: E402
from installers.console.control import control, dependencies  # noqa: E402

FILES = {  # file beside this one -> path in the package
    "trefoil-console.desktop": "usr/share/applications/trefoil-console.desktop",
    "trefoil-console.svg": "usr/share/icons/hicolor/scalable/apps/trefoil-console.svg",
    "org.trefoil.console.metainfo.xml": "usr/share/metainfo/org.trefoil.console.metainfo.xml",
    "lintian-overrides": "usr/share/lintian/overrides/trefoil-console",
}
DOCUMENTS = f"usr/share/doc/{contents.PROGRAM}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="package.py", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where the .deb goes")
    arguments = parser.parse_args()
    version = project_version()
    epoch = last_commit_s()
    with tempfile.TemporaryDirectory(prefix="trefoil-console-") as kept:
        folder = freeze(Path(kept), epoch)
        refuse_strangers(folder)
        stage = lay_out(folder, Path(kept) / "stage", version, epoch)
        found = pack(stage, arguments.out, version, epoch)
        keep_folder(folder, arguments.out / contents.PROGRAM)
    digest = hashlib.sha256(found.read_bytes()).hexdigest()
    print(f"{digest}  {found}\n{found.stat().st_size / 1e6:.1f} MB packed")
    return 0


def project_version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def last_commit_s() -> int:
    """The time used as the clock of the build. Without git it must be given."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return int(given)
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def freeze(work: Path, epoch: int) -> Path:
    """Runs PyInstaller; returns its folder. A fixed hash seed orders sets, and `epoch` is the time
    in archives."""
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "0",
        "SOURCE_DATE_EPOCH": str(epoch),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYINSTALLER_CONFIG_DIR": str(work / "cache"),
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
    }
    command = [
        sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "ERROR",
        "--distpath", str(work / "dist"), "--workpath", str(work / "work"),
        str(HERE / "console.spec"),
    ]  # fmt: skip
    subprocess.run(command, check=True, cwd=ROOT, env=environment)
    return work / "dist" / contents.PROGRAM


def refuse_strangers(folder: Path) -> None:
    """Raises SystemExit for files that must not be in the folder, and for files without a
    notice."""
    inner = folder / "_internal"
    names = [str(path.relative_to(inner)) for path in sorted(inner.rglob("*")) if path.is_file()]
    strangers = [n for n in names if any(word in n for word in contents.FORBIDDEN)]
    unnamed = notices.unnamed(names, ())
    if strangers or unnamed:
        raise SystemExit(
            f"package.py: the folder holds what it must not: {strangers};"
            f" or what components.py does not name: {unnamed}"
        )


def lay_out(folder: Path, stage: Path, version: str, epoch: int) -> Path:
    """Lays out the package's tree."""
    home = stage / notices.INSTALLED
    shutil.copytree(folder, home, symlinks=True)
    for source, place in FILES.items():
        (stage / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / source, stage / place)
    program = stage / "usr/bin" / contents.PROGRAM
    program.parent.mkdir(parents=True)
    program.symlink_to(f"../lib/{contents.PROGRAM}/{contents.PROGRAM}")
    documents = stage / DOCUMENTS
    documents.mkdir(parents=True)
    (documents / "copyright").write_text(notices.debian_copyright())
    zipped(documents / "changelog.gz", changelog(version, epoch))
    manual = stage / "usr/share/man/man1" / f"{contents.PROGRAM}.1.gz"
    manual.parent.mkdir(parents=True)
    zipped(manual, (HERE / f"{contents.PROGRAM}.1").read_text())
    return stage


def changelog(version: str, epoch: int) -> str:
    when = formatdate(epoch, usegmt=True).replace("GMT", "+0000")
    return (
        f"{contents.PROGRAM} ({version}) unstable; urgency=medium\n\n"
        f"  * Built from the commit of this time; its history is in the repository.\n\n"
        f" -- The Trefoil authors <trefoil@localhost>  {when}\n"
    )


def zipped(path: Path, text: str) -> None:
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def pack(stage: Path, out: Path, version: str, epoch: int) -> Path:
    """Packs the .deb. It sets every mode and time, so that the umask and the clock have no
    effect."""
    architecture = _output_of("dpkg", "--print-architecture")
    files = [path for path in sorted(stage.rglob("*")) if not path.is_symlink()]
    program = stage / notices.INSTALLED / contents.PROGRAM
    for path in files:
        path.chmod(0o755 if path.is_dir() or path == program else 0o644)
    bytes_of = {p: p.stat().st_size for p in files if p.is_file()}
    sums = [
        f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(stage)}\n"
        for path in bytes_of
    ]
    # As dpkg-gencontrol counts: each file in whole KiB, and one for everything else.
    installed_kib = sum(-(-size // 1024) for size in bytes_of.values()) + sum(
        1 for path in stage.rglob("*") if path.is_dir() or path.is_symlink()
    )
    (stage / "DEBIAN").mkdir(mode=0o755)
    (stage / "DEBIAN").chmod(0o755)
    text = control(version, architecture, installed_kib, dependencies(stage))
    for name, content in (("control", text), ("md5sums", "".join(sums))):
        (stage / "DEBIAN" / name).write_text(content)
        (stage / "DEBIAN" / name).chmod(0o644)
    for path in (stage, *stage.rglob("*")):
        os.utime(path, (epoch, epoch), follow_symlinks=False)
    stage.chmod(0o755)
    out.mkdir(parents=True, exist_ok=True)
    found = out / f"{contents.PROGRAM}_{version}_{architecture}.deb"
    command = ["dpkg-deb", "--root-owner-group", "-Zxz", "-z3", "--threads-max=1", "--build"]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "TZ": "UTC", "LC_ALL": "C.UTF-8"}
    subprocess.run(
        [*command, str(stage), str(found)], check=True, env=environment, stdout=subprocess.DEVNULL
    )
    return found


def keep_folder(folder: Path, place: Path) -> None:
    """Copies the folder to a place beside the .deb; it runs from anywhere."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place, symlinks=True)


def _output_of(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
