"""Remembered digests of large files, so that a warm start does not hash gigabytes again.

An entry holds while the file system reports the same device, inode, size, mtime and ctime for the
same path; the ctime cannot be set back by who writes the file. Only content that passed every
check is remembered. `pipelines verify` never asks here.
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

from pipelines.bundle.files import MAP_ABOVE_BYTES, File, Identity

MIN_BYTES: Final = 64 << 20  # below, hashing costs less than asking is worth
# A file changed this lately may change again within one tick of its own time stamp.
_SETTLED_NS: Final = 2_000_000_000
_MAX_ENTRIES: Final = 1024


class DigestCache:
    """One JSON file; a missing or unreadable one is an empty one."""

    def __init__(self, path: Path, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._path, self._clock_ns = path, clock_ns
        self._new = False
        self._entries: dict[str, list[object]] = {}
        try:
            loaded = json.loads(path.read_text())
            self._entries = loaded if isinstance(loaded, dict) else {}
        except (OSError, ValueError):
            pass  # nothing remembered: everything is hashed

    @classmethod
    @contextmanager
    def turn(
        cls, path: Path, root: Path, waiting: Callable[[str, float], None]
    ) -> Iterator[DigestCache]:
        """The cache, to open a bundle with. Of several processes that open large files which nobody
        remembers yet one goes ahead; the others wait, and find them remembered then."""
        cache = cls(path)
        if cache._knows_all(root):
            yield cache
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:  # it could not be saved there either: everybody hashes
            yield cache
            return
        try:
            waiting("waiting for its turn to hash the bundle", 0.0)
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel lets go of it when its holder dies
            yield cls(path)
        finally:
            os.close(lock)

    def _knows_all(self, root: Path) -> bool:
        """Whether every file that is mapped, and so need not be read to be opened, is known."""
        for file in Path(root, "weights").glob("*.safetensors"):
            found = Identity.of(file.lstat())
            known = self.get(root, f"weights/{file.name}", found)
            if found.size > MAP_ABOVE_BYTES and known is None:
                return False
        return True

    def get(self, root: Path, path: str, identity: Identity) -> str | None:
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
