"""Fetches a bundle into a folder of the store, file by file, each compared with the manifest.

    bundles/.fetching/<stamp>/bundle/    whole files under their names; the manifest comes last
    bundles/.fetching/<stamp>/parts/     files in arrival, named by their digest

What has arrived is kept when a connection breaks, the caller leaves or the server ends, and the
next fetch of the same stamp continues there. Nothing is executed, and only the names and sizes in
the manifest are trusted; the replica verifies the whole bundle again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from server.deploy.bundle_store import BundleStore, Progress, Stored
from server.deploy.bundle_survey import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    SIGNATURES,
    Listed,
    SurveyRefused,
    claimed,
    listed_files,
    parse_manifest,
    refuse_lack_of_room,
)
from server.deploy.remote.artifact import Registry, layout
from server.deploy.remote.keeper import FetchBroken, Keeper
from server.deploy.remote.location import OBJECTS, OCI, FetchRefused, Location, locate
from server.deploy.remote.objects import object_store
from server.deploy.remote.web import Web, WebDirectory

FETCHING = ".fetching"
ATTEMPTS = 5  # consecutive attempts without a further byte
FIRST_WAIT_S = 0.5  # wait before the next attempt; it doubles
KEPT_S = 7 * 86400.0  # partial fetches are kept this long
PIECE_BYTES = 1 << 18
MOST_SIGNATURE_BYTES = 1 << 20

T = TypeVar("T")


def keeper_of(location: Location, web: Web) -> Keeper:
    """The place that keeps the bundle. Raises FetchRefused, FetchBroken."""
    if location.scheme in OBJECTS:
        return object_store(location)
    if location.scheme != OCI:
        return WebDirectory(web, location.place)
    if location.place.startswith("oci:///"):
        return layout(location)
    return Registry(web, location).artifact()


@dataclass(slots=True)
class Fetcher:
    """Runs one fetch at a time: a second caller waits. `root` is the store's folder."""

    root: Path
    make_web: Callable[[], Web] = Web
    first_wait_s: float = FIRST_WAIT_S
    _one: threading.Lock = field(default_factory=threading.Lock, init=False)

    def into(
        self, store: BundleStore, url: str, progress: Progress, stopped: threading.Event
    ) -> Stored:
        """The folder with the bundle at `url`, ready to enter the store, which may already have it.

        Raises FetchRefused, also when `stopped` is set; StoreRefused; OSError of the disk.
        """
        location = locate(url)
        while not self._one.acquire(timeout=0.2):
            _end_if(stopped)
        try:
            folder = _Fetch(self, location, store, progress, stopped).run()
            stored = store.adopt(folder)
            shutil.rmtree(folder.parent)
            return stored
        except SurveyRefused as error:
            raise FetchRefused(f"{location}: {error}") from None
        finally:
            self._one.release()


@dataclass(slots=True)
class _Fetch:
    fetcher: Fetcher
    location: Location
    store: BundleStore
    progress: Progress
    stopped: threading.Event
    here: int = 0  # bytes of complete files

    def run(self) -> Path:
        """A folder with every file of the manifest, or with only the manifest and the signatures if
        the store has the other files."""
        web = self.fetcher.make_web()
        keeper = self._patiently(lambda: keeper_of(self.location, web))
        content = self._patiently(lambda: keeper.small(MANIFEST, MAX_MANIFEST_BYTES))
        if content is None:
            raise FetchRefused(f"{self.location} is not a bundle: it has no {MANIFEST}")
        try:
            manifest = parse_manifest(content)
            name, stamp = claimed(manifest)
        except (ValueError, KeyError) as error:
            raise FetchRefused(f"{self.location}/{MANIFEST} is not one: {error}") from None
        if not stamp.startswith(self.location.stamp):
            raise FetchRefused(
                f"{self.location} holds {name}+{stamp[:12]}, not {self.location.stamp[:12]}"
            )
        place = self._place(stamp)
        if not any(bundle.stamp == stamp for bundle in self.store.bundles()):
            self._files(keeper, listed_files(manifest), place)
        small = {MANIFEST: content}
        for signature in SIGNATURES:
            fetch = partial(keeper.small, signature, MOST_SIGNATURE_BYTES)
            small[signature] = self._patiently(fetch) or b""
        for name, what in small.items():
            if what:
                _write(place / "bundle" / name, what)
        return place / "bundle"

    def _place(self, stamp: str) -> Path:
        """The folder in which this stamp arrives; removes folders that no fetch has continued for
        days."""
        every = self.fetcher.root / FETCHING
        place = every / stamp
        for folder in (place / "bundle", place / "parts"):
            folder.mkdir(parents=True, exist_ok=True)
        os.utime(place)
        oldest = time.time() - KEPT_S
        for other in every.glob("*"):
            if other.stat().st_mtime < oldest:
                shutil.rmtree(other)
        return place

    def _files(self, keeper: Keeper, files: tuple[Listed, ...], place: Path) -> None:
        total = sum(file.size for file in files)
        arrived = sum(path.lstat().st_size for path in place.rglob("*") if path.is_file())
        refuse_lack_of_room(max(0, total - arrived), place)
        _only(files, place / "bundle")
        for file in files:
            target = place / "bundle" / file.path
            target.parent.mkdir(exist_ok=True)
            if not _is_whole(target, file):
                self._file(keeper, file, place / "parts" / file.sha256, total)
                (place / "parts" / file.sha256).rename(target)
            self.here += file.size
            self.progress(self.here, total)

    def _file(self, keeper: Keeper, file: Listed, part: Path, total: int) -> None:
        """Fetch one file to `part`, complete and as the manifest lists it."""
        continued = part.exists()
        self._arrive(keeper, file, part, total)
        if _digest_of(part) == file.sha256:
            return
        part.unlink()
        if continued:  # the part may be the beginning of a file that was there days ago
            self._file(keeper, file, part, total)
            return
        raise FetchRefused(
            f"{self.location}: {file.path} is not the file in its manifest (expected sha256 "
            f"{file.sha256[:12]}…): publish the bundle again"
        )

    def _arrive(self, keeper: Keeper, file: Listed, part: Path, total: int) -> None:
        part.touch()
        if part.stat().st_size > file.size:
            part.unlink()
            part.touch()

        def rest() -> None:
            start = part.stat().st_size
            if start < file.size:
                self._read(keeper, file, part, start, total)

        self._patiently(rest, lambda: part.stat().st_size)

    def _read(self, keeper: Keeper, file: Listed, part: Path, start: int, total: int) -> None:
        with closing(keeper.open(file.path, start)) as body, part.open("r+b") as written:
            written.truncate(body.start)
            written.seek(body.start)
            left = file.size - body.start
            while left:
                _end_if(self.stopped)
                piece = body.read(min(PIECE_BYTES, left))
                if not piece:
                    raise FetchBroken(f"{file.path} ended {left} bytes early")
                written.write(piece)
                left -= len(piece)
                self.progress(self.here + file.size - left, total)
            if body.read(1):
                raise FetchRefused(f"{self.location}: {file.path} is longer than in its manifest")
            written.flush()
            os.fsync(written.fileno())

    def _patiently(self, work: Callable[[], T], reached: Callable[[], int] = lambda: 0) -> T:
        """Run `work` again after a broken connection, until ATTEMPTS in a row have brought no
        further byte."""
        failures, most, wait_s = 0, reached(), self.fetcher.first_wait_s
        while True:
            _end_if(self.stopped)
            try:
                return work()
            except FetchBroken as error:
                if reached() > most:
                    failures, most, wait_s = 0, reached(), self.fetcher.first_wait_s
                failures += 1
                if failures >= ATTEMPTS:
                    raise FetchRefused(
                        f"{self.location}: {error}; {ATTEMPTS} attempts. What has arrived is kept: "
                        "repeat the command to continue"
                    ) from None
                self.stopped.wait(wait_s)
                wait_s *= 2


def _is_whole(path: Path, file: Listed) -> bool:
    """Whether a file from an earlier fetch is complete. It is hashed again, as it may have changed
    on disk."""
    if not path.exists():
        return False
    if path.stat().st_size == file.size and _digest_of(path) == file.sha256:
        return True
    path.unlink()
    return False


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _only(files: tuple[Listed, ...], folder: Path) -> None:
    """Remove files that this manifest does not list: another manifest that claims the same stamp
    may have left them."""
    listed = {file.path for file in files}
    for path in [*folder.rglob("*")]:
        if path.is_file() and path.relative_to(folder).as_posix() not in listed:
            path.unlink()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _end_if(stopped: threading.Event) -> None:
    if stopped.is_set():
        raise FetchRefused("its caller went away; what has arrived is kept for the next load")
