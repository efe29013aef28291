"""Detects version skew while a bundle is served: changed files, sources, functions, libraries.

A change on disk alone does not change answers, because everything was read once; the next start
would differ or be refused. A change in memory may change answers now.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from pipelines.bundle import manifest as manifests
from pipelines.bundle import stamp as stamps
from pipelines.bundle.bundle import Bundle
from pipelines.bundle.files import File, FileIdentity
from pipelines.bundle.loaded_code import differing

_PIECE_BYTES: Final = 1 << 20
_PLAIN: Final = (bool, int, float, complex, str, bytes)
_OUTSIDE_MANIFEST: Final = (manifests.FILE, manifests.SIGNATURE, manifests.OPENSSF)


@dataclass(frozen=True, slots=True)
class SkewChange:
    """One thing that differs from what was loaded. `kind`: file, code, memory or library.
    `affects_answers_now`: answers may differ already; otherwise only the next start is affected."""

    kind: str
    name: str
    message: str
    affects_answers_now: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.message}"


@dataclass(slots=True)
class _OnDisk:
    """The expected digest of a file and the result of the last check. The content is read again
    only when the file system reports another identity."""

    sha256: str
    opened: FileIdentity | None = None
    mapped: bool = False
    seen: FileIdentity | None = None
    same: bool = True


class SkewWatch:
    """Compares an opened bundle with what is on disk and in memory. Use it from one thread.
    `installed` reads the library versions on disk; `modules` are those this process imported."""

    def __init__(
        self,
        bundle: Bundle,
        installed: Callable[[], Mapping[str, str]] | None = None,
        modules: Callable[[], Mapping[str, ModuleType]] = stamps.loaded_modules,
    ) -> None:
        # Resolved once: a link that later points to another bundle does not affect this one.
        self._root = Path(os.path.realpath(bundle.path))
        self._files = bundle.files
        self._on_disk = {path: _of(file) for path, file in bundle.files.items()}
        self._on_disk[manifests.FILE] = _OnDisk(_digest(bundle.manifest.to_bytes()))
        if bundle.signed_by:
            self._on_disk[manifests.SIGNATURE] = _OnDisk(_sha256(self._root / manifests.SIGNATURE))
        self._package = stamps.package_folder()
        self._sources = stamps.sources(self._package)
        # A dirty bundle was accepted with the code as it was then; that code must not change.
        wanted = stamps.code_of(self._package) if bundle.stamp.dirty else bundle.manifest.code
        self._code = {path: _OnDisk(sha256) for path, sha256 in wanted.items()}
        self._modules = modules
        self._constants = {name: _constants(m) for name, m in modules().items()}
        self._libraries = stamps.running_libraries()
        self._installed = installed or stamps.installed_libraries
        self._places: tuple[tuple[str, int], ...] = ()
        self._on_path: Mapping[str, str] = {}
        self._bytes: tuple[SkewChange, ...] = ()  # as of the last `verify`

    def look(self) -> tuple[SkewChange, ...]:
        """Cheap enough for once a minute: reads only what the file system reports as changed.

        Empty while nothing has changed. Raises OSError.
        """
        return tuple(self._found(thorough=False))

    def verify(self, disk: bool = True) -> tuple[SkewChange, ...]:
        """Compares every byte in memory and, with `disk`, in the files, whatever their times are.

        Takes as long as hashing the bundle twice. Raises OSError.
        """
        self._bytes = tuple(self._changed_bytes())
        return tuple(self._found(thorough=disk))

    def _found(self, thorough: bool) -> Iterator[SkewChange]:
        yield from self._bytes
        yield from self._changed_files(thorough)
        yield from self._changed_sources(thorough)
        yield from self._changed_in_memory()
        yield from self._changed_libraries(thorough)

    def _changed_files(self, thorough: bool) -> Iterator[SkewChange]:
        for path, known in self._on_disk.items():
            message = _linked(self._root / path) or _look_at(
                self._root / path, known, thorough, _sha256
            )
            if message:
                yield SkewChange("file", path, message, affects_answers_now=message == _WRITTEN_TO)
        for directory, _, names in os.walk(self._root):
            inside = os.path.relpath(directory, self._root)
            for name in sorted(names):
                path = name if inside == "." else f"{inside}/{name}"
                if path not in self._on_disk and path not in _OUTSIDE_MANIFEST:
                    yield SkewChange("file", path, "is in the bundle and not in its manifest")

    def _changed_sources(self, thorough: bool) -> Iterator[SkewChange]:
        there = stamps.source_files(self._package)
        for path, known in self._code.items():
            file = there.get(path)
            message = "is gone" if file is None else _look_at(file, known, thorough, _source_sha256)
            if message:
                yield SkewChange("code", path, message)
        for path in sorted(there.keys() - self._code.keys()):
            yield SkewChange("code", path, "is new on disk")

    def _changed_libraries(self, thorough: bool) -> Iterator[SkewChange]:
        # Installing or removing a distribution changes a directory of the import path.
        places = tuple(_places())
        if thorough or places != self._places:
            self._places, self._on_path = places, self._installed()
        for name, version in self._on_path.items():
            if self._libraries[name] != version:
                message = f"{self._libraries[name]} is loaded, {version} is installed"
                yield SkewChange("library", name, message)

    def _changed_in_memory(self) -> Iterator[SkewChange]:
        for name, module in sorted(self._modules().items()):
            source = stamps.source_of(module, self._package, self._sources)
            if source is None:
                yield _in_memory(name, "was not loaded from the package's sources")
                continue
            function = differing(module, source)
            if function:
                yield _in_memory(f"{name}.{function}", "was replaced in memory")
            here = vars(module)
            for constant, value in self._constants.get(name, {}).items():
                if not _equal(here.get(constant), value):
                    message = f"was {value!r:.40} and is {here.get(constant)!r:.40} in memory"
                    yield _in_memory(f"{name}.{constant}", message)

    def _changed_bytes(self) -> Iterator[SkewChange]:
        for path, file in self._files.items():
            if _digest(file.content) != file.sha256:
                yield _in_memory(path, "in memory is not what was loaded")


NOT_PLAIN: Final = "is not a plain file any more"
_WRITTEN_TO: Final = "was written to on disk, and answers are computed from there"


def _in_memory(name: str, message: str) -> SkewChange:
    return SkewChange("memory", name, message, affects_answers_now=True)


def _of(file: File) -> _OnDisk:
    return _OnDisk(file.sha256, file.identity, file.mapped, file.identity)


def _linked(path: Path) -> str:
    """Reports a file of the bundle that became a link. Sources are not checked: an installer may
    link a package's sources to its cache."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return ""  # the code that reads the file reports this
    return NOT_PLAIN if stat.S_ISLNK(found.st_mode) or found.st_nlink > 1 else ""


def _look_at(path: Path, known: _OnDisk, thorough: bool, read: Callable[[Path], str]) -> str:
    """What has changed on disk; "" if nothing has."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            return NOT_PLAIN
        identity = FileIdentity.of(found)
        if thorough or identity != known.seen:
            known.same, known.seen = read(path) == known.sha256, identity
    except FileNotFoundError:
        return "is gone"
    except OSError as error:
        return f"cannot be read any more: {error.strerror}"
    if known.same:
        return ""
    opened = known.opened
    if known.mapped and opened and (opened.device, opened.inode) == _place(identity):
        return _WRITTEN_TO
    return "was changed on disk"


def _place(identity: FileIdentity) -> tuple[int, int]:
    return identity.device, identity.inode


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _source_sha256(path: Path) -> str:
    return stamps.source_digest(path.read_bytes())


def _digest(content: Any) -> str:
    with memoryview(content) as view:
        return hashlib.sha256(view).hexdigest()


def _places() -> Iterator[tuple[str, int]]:
    for place in sys.path:
        try:
            yield place, os.stat(place or ".").st_mtime_ns
        except OSError:
            yield place, 0


def _constants(module: ModuleType) -> dict[str, Any]:
    """The plain values of a module; functions and classes are compared with the source instead."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("__") and _plain(value)
    }


def _plain(value: Any) -> bool:
    if isinstance(value, tuple | frozenset):
        return all(_plain(item) for item in value)
    return isinstance(value, _PLAIN)


def _equal(here: Any, value: Any) -> bool:
    return here is value or (type(here) is type(value) and bool(here == value))
