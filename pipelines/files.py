"""The files of a bundle, opened once: names and kinds checked, contents hashed.

Everything is opened relative to a directory descriptor and never through a link, and what is
hashed is what is handed out: nobody opens a path a second time. Knows no manifest and no format.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final

from pipelines.errors import BundleRefused

Buffer = bytearray | mmap.mmap
# Bytes hashed so far, bytes in all.
Progress = Callable[[int, int], None]

# Plain ASCII, so that no file system folds, reorders or hides a name.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,126}\Z")
_MAX_DEPTH: Final = 2
_MAX_FILES: Final = 4096
# Read whole below, mapped above: a map is shared by all replicas and needs no second copy.
MAP_ABOVE_BYTES: Final = 256 << 20
_CHUNK_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Identity:
    """What the file system says of a file; any write through it changes the last two."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @staticmethod
    def of(found: os.stat_result) -> Identity:
        return Identity(
            found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
        )


@dataclass(frozen=True, slots=True)
class File:
    """One opened file. `content` is private to this process where it was read, and a private map
    of the same descriptor where it was too large to read."""

    path: str
    identity: Identity
    content: Buffer

    @property
    def size(self) -> int:
        return self.identity.size

    @property
    def mapped(self) -> bool:
        """Whether it shares pages with the file on disk, and so with whoever writes to that."""
        return isinstance(self.content, mmap.mmap)


def open_folder(root: Path, map_above: int = MAP_ABOVE_BYTES) -> list[File]:
    """Opens every file under `root`, sorted by path, or refuses the whole.

    Raises BundleRefused: `names` (characters, depth, case collision), `kind` (link, FIFO, device,
    hard link), `missing` (no such directory).
    """
    try:
        # The last step may be a link (`current`); everything below may not.
        descriptor = os.open(os.path.realpath(root), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise BundleRefused("missing", f"{root} is not a bundle directory: {error}") from error
    try:
        files = sorted(_walk(descriptor, "", map_above), key=lambda file: file.path.encode())
    finally:
        os.close(descriptor)
    _no_case_collision([file.path for file in files])
    return files


def _walk(directory: int, prefix: str, map_above: int) -> Iterator[File]:
    names = sorted(os.listdir(directory))
    if len(names) > _MAX_FILES:
        raise BundleRefused("names", f"more than {_MAX_FILES} files in {prefix or 'the bundle'}")
    _no_case_collision([f"{prefix}{name}" for name in names])
    for name in names:
        path = f"{prefix}{name}"
        check_name(path)
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            yield from _subfolder(directory, name, path, map_above)
        else:
            yield _open(directory, name, path, map_above)


def _subfolder(directory: int, name: str, path: str, map_above: int) -> Iterator[File]:
    if path.count("/") + 1 >= _MAX_DEPTH:
        raise BundleRefused("names", f"{path}/ is nested too deep for a bundle; remove it")
    descriptor = os.open(
        name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory
    )
    try:
        yield from _walk(descriptor, f"{path}/", map_above)
    finally:
        os.close(descriptor)


def _open(directory: int, name: str, path: str, map_above: int) -> File:
    # NONBLOCK: opening a FIFO must not wait for its writer; the kind is checked on what is open.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=directory)
    except OSError as error:
        raise BundleRefused(
            "kind",
            f"{path} cannot be opened as a plain file ({error.strerror}); bundles hold no "
            "links, sockets or devices: copy the real file in its place",
        ) from error
    try:
        found = os.fstat(descriptor)
        _plain(path, found)
        return File(path, Identity.of(found), _content(descriptor, path, found.st_size, map_above))
    finally:
        os.close(descriptor)


def _plain(path: str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise BundleRefused("kind", f"{path} is not a plain file (FIFO, socket or device)")
    if found.st_nlink > 1:
        raise BundleRefused(
            "kind",
            f"{path} is a hard link: {found.st_nlink - 1} other name(s) can change it from outside "
            "the bundle; copy the directory (cp -r) and use the copy",
        )


def _content(descriptor: int, path: str, size: int, map_above: int) -> Buffer:
    if size > map_above:
        return mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY)
    content = bytearray(size)
    view, got = memoryview(content), 0
    while got < size:
        count = os.readv(descriptor, [view[got : got + _CHUNK_BYTES]])
        if count == 0:
            raise BundleRefused("kind", f"{path} got shorter while it was read")
        got += count
    return content


def check_name(path: str) -> None:
    """Raises BundleRefused("names") for anything but short relative ASCII paths."""
    parts = path.split("/")
    if len(parts) > _MAX_DEPTH or not all(_NAME.match(part) for part in parts):
        raise BundleRefused(
            "names",
            f"{path!r} is not a name a bundle can hold: letters, digits and . _ + - only, not "
            f"starting with a dot, at most {_MAX_DEPTH} levels; rename or remove it",
        )


def _no_case_collision(paths: list[str]) -> None:
    seen: dict[str, str] = {}
    for path in paths:
        other = seen.setdefault(path.casefold(), path)
        if other != path:
            raise BundleRefused(
                "names", f"{other} and {path} differ in case only: one name on some file systems"
            )


def digest_all(files: list[File], progress: Progress | None = None) -> dict[str, str]:
    """sha256 (hex) of each file's content, several files at a time (hashing leaves the GIL)."""
    total = sum(file.size for file in files)
    tally = _Tally(total, progress)
    # Largest first, so that no thread is left with a big file at the end.
    ordered = sorted(files, key=lambda file: -file.size)
    with ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool:
        digests = pool.map(lambda file: _digest(file.content, tally), ordered)
        return dict(zip((file.path for file in ordered), digests, strict=True))


class _Tally:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress
        self._lock = Lock()

    def add(self, count: int) -> None:
        if self._progress is None:
            return
        with self._lock:
            self._done += count
            self._progress(self._done, self._total)


def _digest(content: Buffer, tally: _Tally) -> str:
    h = hashlib.sha256()
    with memoryview(content) as view:
        for start in range(0, len(view), _CHUNK_BYTES):
            piece = view[start : start + _CHUNK_BYTES]
            h.update(piece)
            tally.add(len(piece))
    return h.hexdigest()
