"""Opens the files of a bundle once: checks names and kinds, and hashes the content while reading
it.

Every file is opened relative to a directory descriptor and never through a link. The bytes that are
hashed are the bytes that are used: no path is opened a second time. New files appear by a rename.
This module does not know manifests or file formats.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final

from pipelines.errors import BundleRefused

Buffer = bytearray | mmap.mmap
# Bytes hashed so far, total bytes.
Progress = Callable[[int, int], None]

# Plain ASCII, which no file system folds, reorders or hides.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,126}\Z")
_MAX_DEPTH: Final = 2
MAX_FILES: Final = 4096
# Limit of a file that is read into memory and parsed; the largest published tokenizer has 35 MB.
_MAX_BYTES: Final = {".json": 256 << 20, ".md": 16 << 20, ".txt": 16 << 20, ".sig": 16 << 20}
_MAX_MEDIA_BYTES: Final = 256 << 20
# Such files are mapped instead of read: all replicas of a host share the pages of a map. Weights
# are mapped whatever their size, other files from this size on. Digests are stored from this size
# on too.
MAP_ABOVE_BYTES: Final = 256 << 20
_WEIGHTS: Final = "weights/"
# Each piece is hashed while it is still in the CPU cache: half the memory traffic of two passes.
_READ_BYTES: Final = 256 << 10
_HASH_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What the file system reports about a file; any write changes the last two fields."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @staticmethod
    def of(found: os.stat_result) -> FileIdentity:
        return FileIdentity(
            found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
        )


@dataclass(frozen=True, slots=True)
class File:
    """One opened file. `mapped`: `content` shares its pages with the file on disk, so another
    process can change it, and a write to `content` changes a private copy of its page, never the
    file; otherwise it is private. `remembered`: `sha256` came from the digest cache for this
    `identity` and was not computed now."""

    path: str
    identity: FileIdentity
    content: Buffer
    sha256: str
    mapped: bool = False
    remembered: bool = False

    @property
    def size(self) -> int:
        return self.identity.size


@dataclass(frozen=True, slots=True)
class Opening:
    """How to open: weights, and files above `map_above` bytes, are mapped, not read. `known` may
    return the digest of a file above `map_above` whose identity has not changed. `progress` is
    called as bytes are hashed."""

    map_above: int = MAP_ABOVE_BYTES
    known: Callable[[str, FileIdentity], str | None] = lambda path, identity: None
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """A name in an open directory. `size` is only an estimate for progress."""

    directory: int
    name: str
    path: str
    size: int


def open_folder(root: Path, opening: Opening | None = None) -> list[File]:
    """Opens and hashes every file under `root`, sorted by path, or refuses the whole directory.

    Raises BundleRefused: `names` (characters, depth, case collision), `kind` (link, FIFO, device,
    hard link), `missing` (no such directory).
    """
    how = opening or Opening()
    with ExitStack() as stack:
        places = list(_walk(stack, _open_root(stack, root), ""))
        _no_case_collision([place.path for place in places])
        # Largest first, so that no thread is left with a big file at the end.
        places.sort(key=lambda place: -place.size)
        progress = _HashProgress(sum(place.size for place in places), how.progress)
        # Reading and hashing release the interpreter lock.
        with ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool:
            files = list(pool.map(lambda place: _open(place, how, progress), places))
    return sorted(files, key=lambda file: file.path.encode())


def _open_root(stack: ExitStack, root: Path) -> int:
    try:
        # The last step may be a link (`current`); everything below may not.
        descriptor = os.open(os.path.realpath(root), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise BundleRefused("missing", f"{root} is not a bundle directory: {error}") from error
    stack.callback(os.close, descriptor)
    return descriptor


def _walk(stack: ExitStack, directory: int, prefix: str) -> Iterator[_Place]:
    names = sorted(os.listdir(directory))
    if len(names) > MAX_FILES:
        raise BundleRefused("names", f"more than {MAX_FILES} files in {prefix or 'the bundle'}")
    _no_case_collision([f"{prefix}{name}" for name in names])
    for name in names:
        path = f"{prefix}{name}"
        check_name(path)
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode):
            _check_size(path, found.st_size)
            yield _Place(directory, name, path, found.st_size)
            continue
        if path.count("/") + 1 >= _MAX_DEPTH:
            raise BundleRefused("names", f"{path}/ is nested too deep for a bundle; remove it")
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=directory)
        stack.callback(os.close, descriptor)
        yield from _walk(stack, descriptor, f"{path}/")


def _check_size(path: str, size: int) -> None:
    """Refuses a file by its size, before a byte is read. Weights have no limit of their own: they
    are mapped, not parsed."""
    suffix = os.path.splitext(path)[1]
    limit = _MAX_BYTES.get(suffix, _MAX_MEDIA_BYTES)
    if suffix != ".safetensors" and size > limit:
        raise BundleRefused(
            "kind", f"{path} has {size} bytes; a {suffix or 'plain'} file has at most {limit}"
        )


def _open(place: _Place, how: Opening, progress: _HashProgress) -> File:
    # O_NONBLOCK: opening a FIFO must not wait for a writer; the kind is checked on the open file.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(place.name, flags, dir_fd=place.directory)
    except OSError as error:
        raise BundleRefused(
            "kind",
            f"{place.path} cannot be opened as a plain file ({error.strerror}); bundles hold no "
            "links, sockets or devices: copy the real file in its place",
        ) from error
    try:
        found = os.fstat(descriptor)
        _plain(place.path, found)
        return _load(descriptor, place.path, FileIdentity.of(found), how, progress)
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


def _load(
    descriptor: int, path: str, identity: FileIdentity, how: Opening, progress: _HashProgress
) -> File:
    large = identity.size > how.map_above
    known = how.known(path, identity) if large else None
    mapped = large or (path.startswith(_WEIGHTS) and identity.size > 0)
    content: Buffer
    if mapped:
        content = mmap.mmap(descriptor, identity.size, access=mmap.ACCESS_COPY)
        sha256 = known or _digest(content, progress)
    else:
        content, sha256 = _read(descriptor, path, identity.size, progress)
    return File(path, identity, content, sha256, mapped, known is not None)


def _read(descriptor: int, path: str, size: int, progress: _HashProgress) -> tuple[Buffer, str]:
    # Anonymous memory needs no zeroing first; a map of 0 bytes is not possible.
    content: Buffer = mmap.mmap(-1, size) if size else bytearray()
    digest, got = hashlib.sha256(), 0
    with memoryview(content) as view:
        while got < size:
            with view[got : got + _READ_BYTES] as piece:
                count = os.readv(descriptor, [piece])
                if count == 0:
                    raise BundleRefused("kind", f"{path} became shorter while it was read")
                digest.update(piece[:count])
            got += count
            progress.add(count)
    return content, digest.hexdigest()


def _digest(content: Buffer, progress: _HashProgress) -> str:
    digest = hashlib.sha256()
    with memoryview(content) as view:
        for start in range(0, len(view), _HASH_BYTES):
            with view[start : start + _HASH_BYTES] as piece:
                digest.update(piece)
                progress.add(len(piece))
    return digest.hexdigest()


def put_file(bundle: Path, name: str, content: bytes) -> None:
    """Replaces a file by one rename: after a power cut it is the old or the new one, never a
    mixture."""
    real = Path(os.path.realpath(bundle))
    # Beside the bundle, not in it: a bundle with a half-written extra file would be refused.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{real.name}.", dir=real.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(temporary, 0o644)
    os.replace(temporary, real / name)


class _HashProgress:
    """Adds up the bytes hashed by several threads and reports them."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress
        self._lock = Lock()

    def add(self, count: int) -> None:
        if self._progress is None:
            return
        with self._lock:
            self._done += count
            self._progress(self._done, self._total)


def check_name(path: str) -> None:
    """Raises BundleRefused("names") for anything but short relative ASCII paths."""
    parts = path.split("/")
    if len(parts) > _MAX_DEPTH or not all(_NAME.match(part) for part in parts):
        raise BundleRefused(
            "names",
            f"{path!r} is not a valid name in a bundle: letters, digits and . _ + - only, not "
            f"starting with a dot, at most {_MAX_DEPTH} levels; rename or remove it",
        )


def _no_case_collision(paths: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for path in paths:
        other = seen.setdefault(path.casefold(), path)
        if other != path:
            raise BundleRefused(
                "names", f"{other} and {path} differ only in case, which some file systems ignore"
            )
