"""Remembered digests of large files, so that a warm start does not hash gigabytes again.

An entry is valid while the file system reports the same device, inode, size, mtime and ctime for
the path; a process that writes the file cannot set the ctime back. Only digests of content that
passed every check are saved. `pipelines verify` does not use them.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Final

from pipelines.bundle.files import MAP_ABOVE_BYTES, File, FileIdentity

MIN_BYTES: Final = 64 << 20  # smaller files are hashed faster than they are looked up
# A file changed this recently may change again within one tick of its time stamp.
_SETTLED_NS: Final = 2_000_000_000
_MAX_ENTRIES: Final = 1024


class DigestCache:
    """One JSON file; a missing or unreadable file means an empty cache."""

    def __init__(self, path: Path, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._path, self._clock_ns = path, clock_ns
        self._new = False
        self._entries: dict[str, list[object]] = {}
        try:
            loaded = json.loads(path.read_text())
            self._entries = loaded if isinstance(loaded, dict) else {}
        except (OSError, ValueError):
            pass  # without stored digests every file is hashed

    @classmethod
    @contextmanager
    def turn(
        cls, path: Path, root: Path, waiting: Callable[[str, float], None]
    ) -> Iterator[DigestCache]:
        """The cache to open a bundle with. When several processes open large files without known
        digests, one hashes them while the others wait and then find the digests in the cache."""
        cache = cls(path)
        if cache._knows_all(root):
            yield cache
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:  # digests cannot be saved there either, so every process hashes
            yield cache
            return
        try:
            waiting("waiting for its turn to hash the bundle", 0.0)
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases the lock when its holder dies
            yield cls(path)
        finally:
            os.close(lock)

    def _knows_all(self, root: Path) -> bool:
        """Whether every file large enough to be mapped has a known digest."""
        for file in Path(root, "weights").glob("*.safetensors"):
            found = FileIdentity.of(file.lstat())
            known = self.get(root, f"weights/{file.name}", found)
            if found.size > MAP_ABOVE_BYTES and known is None:
                return False
        return True

    def get(self, root: Path, path: str, identity: FileIdentity) -> str | None:
        entry = self._entries.get(_key(root, path))
        if not isinstance(entry, list) or entry[:-1] != list(astuple(identity)):
            return None
        return str(entry[-1])

    def put(self, root: Path, file: File) -> None:
        if file.size < MIN_BYTES:
            return
        newest = max(file.identity.mtime_ns, file.identity.ctime_ns)
        if self._clock_ns() - newest < _SETTLED_NS:
            return
        entry = [*astuple(file.identity), file.sha256]
        self._new = self._new or self._entries.pop(_key(root, file.path), None) != entry
        self._entries[_key(root, file.path)] = entry

    def save(self) -> None:
        """Replaces the file in one step, if anything is new. Raises OSError."""
        if not self._new:
            return
        kept = dict(list(self._entries.items())[-_MAX_ENTRIES:])
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=self._path.parent)
        with os.fdopen(descriptor, "w") as out:
            json.dump(kept, out, indent=1)
        os.replace(temporary, self._path)


def _key(root: Path, path: str) -> str:
    return f"{os.path.realpath(root)}/{path}"
