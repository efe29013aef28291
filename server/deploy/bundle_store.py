"""Bundles on disk: a read-only directory for each content, and two symbolic links, to the current
and the previous one.

    bundles/<name>/<first 12 of the stamp>/    never edited; files 0444, directories 0555
    bundles/current, bundles/previous          each set by rename(2) of a new link

A directory appears under its final name only when every byte is on the disk, and each link is
replaced in one step, so a crash anywhere leaves a store that can be served. The store reads only
what the manifest of a bundle claims; a replica verifies it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from server.deploy.bundle_survey import (
    SIGNATURES,
    Survey,
    SurveyRefused,
    claimed,
    plain_files,
    read_manifest,
    survey,
)
from server.values import MIB

CURRENT = "current"
PREVIOUS = "previous"
FOLDER = "bundles"  # within a server's --data
SHORT = 12
_PARTIAL = ".partial-"

Progress = Callable[[int, int], None]  # bytes copied, total bytes
Step = Callable[[str], None]


class StoreRefused(Exception):
    """The store cannot do what was asked. The message has the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A bundle in the store."""

    name: str
    stamp: str  # 64 hex digits, from its manifest
    path: Path


class BundleStore:
    """`step` is called with the name of each durable change after it; tests end the process
    there."""

    def __init__(self, root: Path, step: Step = lambda name: None) -> None:
        self.root = root
        self._step = step
        self._adding = threading.Lock()  # two loads of one bundle must not write the same files
        root.mkdir(parents=True, exist_ok=True)
        self._forget_partials()

    def add(self, source: Path, progress: Progress | None = None) -> Stored:
        """Copy a bundle in and make it read-only; a bundle that is already there is left alone.

        Raises StoreRefused for a directory that is not a bundle or contains anything but plain
        files, and when reading or writing fails. A second caller waits for the first.
        """
        with self._adding:
            try:
                return self._add(source, progress)
            except SurveyRefused as error:
                raise StoreRefused(f"{source} cannot be copied into {self.root}: {error}") from None
            except OSError as error:
                raise StoreRefused(self._why_not(source, error)) from error

    def adopt(self, source: Path) -> Stored:
        """Take over a bundle that was fetched beside the store: it is moved, not copied.

        Raises StoreRefused as `add` does.
        """
        with self._adding:
            try:
                stored = self._add(source, None, moved=True)
                _remove(source)  # the move has removed it, unless the store already had the bundle
                return stored
            except SurveyRefused as error:
                raise StoreRefused(f"{source} cannot be moved into {self.root}: {error}") from None
            except OSError as error:
                raise StoreRefused(self._why_not(source, error)) from error

    def _add(self, source: Path, progress: Progress | None, moved: bool = False) -> Stored:
        name, stamp = identify(source)
        place = self.root / name / stamp[:SHORT]
        if place.exists():
            if identify(place)[1] != stamp:
                raise StoreRefused(f"{place} holds another bundle with the same first {SHORT} hex")
            self._adopt_signatures(source, place)
            return Stored(name, stamp, place)
        surveyed = survey(source, self.root, needs_room=not moved)
        place.parent.mkdir(exist_ok=True)
        partial = place.parent / f"{_PARTIAL}{place.name}-{os.getpid()}"
        try:
            if moved:
                source.rename(partial)
            else:
                _copy(source, partial, surveyed, progress)
            self._step("copied")
            _seal(partial)
            self._step("sealed")
            partial.rename(place)
        finally:
            _remove(partial)  # removed already if all went well
            with contextlib.suppress(OSError):
                place.parent.rmdir()  # fails if there is something in it, as when all went well
        _sync(place.parent)
        self._step("added")
        return Stored(name, stamp, place)

    def _why_not(self, source: Path, error: OSError) -> str:
        message = f"{source} cannot be copied into {self.root}: {error.strerror}"
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return f"{message}: {error.filename}" if error.filename else message
        need = sum(path.lstat().st_size for path in plain_files(source))
        free = shutil.disk_usage(self.root).free
        return (
            f"{message}: it takes {need / MIB:.1f} MiB, {free / MIB:.1f} MiB are free; make room "
            "there, or start the server with fewer --keep-bundles"
        )

    def _adopt_signatures(self, source: Path, place: Path) -> None:
        """Copy signatures that were made after the bundle came here: they are not part of the
        stamp. A linked bundle keeps its own signatures, so that the next start is like this one."""
        linked = place in [b.path for b in (self.current, self.previous) if b is not None]
        for name in SIGNATURES:
            new, old = source / name, place / name
            if not new.is_file() or new.is_symlink() or (old.exists() and linked):
                continue
            if (source / "manifest.json").read_bytes() != (place / "manifest.json").read_bytes():
                if old.exists():
                    continue
                raise StoreRefused(
                    f"{place} holds the same stamp under another date or other notes, and {name} "
                    "is not of that manifest: copy its manifest.json over yours and sign again"
                )
            fresh = place.parent / f".{name}-{os.getpid()}"
            shutil.copyfile(new, fresh)
            fresh.chmod(0o444)
            place.chmod(0o755)
            fresh.replace(old)
            place.chmod(0o555)
            self._step(f"{name} adopted")

    def bundles(self) -> list[Stored]:
        """Every bundle with a readable manifest; damage to one hides only that bundle."""
        found = []
        for path in sorted(self.root.glob("*/*")):
            hidden = path.name.startswith(".") or path.parent.name.startswith(".")
            if path.is_dir() and not hidden and not path.parent.is_symlink():
                with contextlib.suppress(StoreRefused):
                    found.append(Stored(*identify(path), path))
        return found

    def find(self, stamp: str) -> Stored:
        """A bundle by its full stamp or an unambiguous prefix of at least 6 hex digits. Raises
        StoreRefused."""
        if not re.fullmatch(r"[0-9a-f]{6,64}", stamp):
            raise StoreRefused(f"{stamp!r} is not a stamp: give 6 to 64 hex digits")
        matches = [bundle for bundle in self.bundles() if bundle.stamp.startswith(stamp)]
        if len(matches) != 1:
            known = ", ".join(b.stamp[:SHORT] for b in matches or self.bundles()) or "none"
            what = "fits several bundles" if matches else "is not in the store"
            raise StoreRefused(f"{stamp} {what}: {known}")
        return matches[0]

    @property
    def current(self) -> Stored | None:
        return self._linked(CURRENT)

    @property
    def previous(self) -> Stored | None:
        return self._linked(PREVIOUS)

    def link_path(self, name: str) -> Path | None:
        """Where a link points, whether or not anything is there."""
        link = self.root / name
        return self.root / os.readlink(link) if link.is_symlink() else None

    def activate(self, bundle: Stored, before: Stored | None = None) -> None:
        """Make a bundle the current one; `before`, or else the current one, becomes the previous
        one.

        `previous` is set first: a crash in between leaves current = previous, which can be served.
        """
        current = self._known(CURRENT)
        if current is not None and current.stamp == bundle.stamp:
            return
        before = before or current
        if before is not None and before.stamp != bundle.stamp:
            self._link(PREVIOUS, before.path)
        self._link(CURRENT, bundle.path)

    def collect(self, keep: Collection[str] = (), newest: int = 0) -> list[Stored]:
        """Remove every bundle that is not linked, not among the stamps to keep, and not one of the
        `newest` of the rest. If a link cannot be read, nothing is removed."""
        linked = {b.stamp for b in (self.current, self.previous) if b is not None}
        unused = [b for b in self.bundles() if b.stamp not in linked | set(keep)]
        unused.sort(key=lambda bundle: bundle.path.stat().st_mtime_ns)
        unused = unused[: max(0, len(unused) - newest)]
        for bundle in unused:
            self.remove(bundle)
        return unused

    def remove(self, bundle: Stored) -> None:
        """Remove a bundle. It is renamed first, so that half a bundle is never found under its
        name."""
        doomed = bundle.path.parent / f"{_PARTIAL}{bundle.path.name}-{os.getpid()}"
        bundle.path.rename(doomed)
        self._step("hidden")
        _remove(doomed)

    def _known(self, name: str) -> Stored | None:
        """The bundle a link points to; None also if it is damaged."""
        try:
            return self._linked(name)
        except StoreRefused:
            return None

    def _linked(self, name: str) -> Stored | None:
        link = self.root / name
        if not link.is_symlink() or not link.exists():
            return None
        path = self.root / os.readlink(link)
        return Stored(*identify(path), path)

    def _link(self, name: str, target: Path) -> None:
        fresh = self.root / f".{name}-{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target.relative_to(self.root))
        self._step(f"{name} prepared")
        fresh.rename(self.root / name)
        _sync(self.root)
        self._step(f"{name} linked")

    def _forget_partials(self) -> None:
        for partial in self.root.glob(f"*/{_PARTIAL}*"):
            if not _alive(partial.name.rpartition("-")[2]):
                _remove(partial)


def identify(path: Path) -> tuple[str, str]:
    """(name, stamp) that the bundle's manifest claims. Raises StoreRefused."""
    try:
        manifest = read_manifest(path)
        return claimed(manifest)
    except (OSError, ValueError, KeyError, TypeError, SurveyRefused) as error:
        raise StoreRefused(f"{path} is not a bundle: {_why(path, error)}") from error


def _why(path: Path, error: Exception) -> str:
    """The reason for a message. It adds that a path is one on the server's host."""
    if not os.path.lexists(path):
        return "it does not exist on the server's host"
    if not path.is_dir():
        return "it is not a directory"
    if isinstance(error, FileNotFoundError):
        return "it has no manifest.json; is it still being written?"
    if isinstance(error, PermissionError):
        return f"{error.filename} is not readable by the server's user"
    if isinstance(error, KeyError):
        return f"its manifest.json has no {error}"
    return f"manifest.json: {error}"


def _copy(source: Path, target: Path, surveyed: Survey, progress: Progress | None) -> None:
    """Copy exactly the bytes that were surveyed: a file that grows meanwhile takes no more
    space."""
    done = 0
    for name, size in surveyed.files.items():
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        # O_NOFOLLOW: what was a plain file at the survey must still be one.
        with os.fdopen(os.open(source / name, os.O_RDONLY | os.O_NOFOLLOW), "rb") as reader:
            with copy.open("wb") as writer:
                left = size
                while piece := reader.read(min(MIB, left)):
                    writer.write(piece)
                    left -= len(piece)
                    done += len(piece)
                    if progress is not None:
                        progress(done, surveyed.total)
                writer.flush()
                os.fsync(writer.fileno())


def _seal(directory: Path) -> None:
    for path in directory.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    for path in (directory, *(p for p in directory.rglob("*") if p.is_dir())):
        _sync(path)
    directory.chmod(0o555)


def _remove(directory: Path) -> None:
    if not directory.exists():
        return
    for path in (directory, *(p for p in directory.rglob("*") if p.is_dir())):
        path.chmod(0o755)
    shutil.rmtree(directory)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _alive(pid: str) -> bool:
    return pid.isdigit() and Path(f"/proc/{pid}").exists()
