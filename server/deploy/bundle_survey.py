"""Checks a bundle's files before a byte is copied: their number, names, kinds and sizes, holes in
them, and the space left for them."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.values import MIB

MAX_FILES = 4096
MAX_DEPTH = 2
MANIFEST = "manifest.json"
# A manifest of 4,096 paths and digests has 1 MiB.
MAX_MANIFEST_BYTES = 16 * MIB
# Holes in one file. Files written for a bundle have none; some file systems round.
MAX_HOLE_BYTES = MIB
SIGNATURES = ("manifest.sig", "model.sig")
_UNLISTED = (MANIFEST, *SIGNATURES)  # a manifest cannot list the files that cover it
_BUNDLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,126}\Z")
_HEX = re.compile(r"[0-9a-f]{64}\Z")


class SurveyRefused(Exception):
    """What is wrong with which file, and the remedy."""


LISTED_KEYS = ("path", "size", "sha256")


@dataclass(frozen=True, slots=True)
class Listed:
    """A file as the manifest lists it: path below the bundle, bytes, 64 hex digits."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Survey:
    """`files`: path below the bundle -> bytes."""

    files: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.files.values())


def read_manifest(bundle: Path) -> dict[str, Any]:
    """The manifest, not verified. Raises SurveyRefused for one that is too large, nested too deep
    or not an object; OSError, ValueError."""
    with (bundle / MANIFEST).open("rb") as file:
        content = file.read(MAX_MANIFEST_BYTES + 1)
    if len(content) > MAX_MANIFEST_BYTES:
        raise SurveyRefused(f"{MANIFEST} is larger than {MAX_MANIFEST_BYTES // MIB} MiB")
    return parse_manifest(content)


def parse_manifest(content: bytes) -> dict[str, Any]:
    """The manifest, not verified. Raises SurveyRefused for one that is nested too deep or not an
    object; ValueError."""
    try:
        found = json.loads(content)
    except RecursionError:
        raise SurveyRefused(f"{MANIFEST} is nested too deep") from None
    if not isinstance(found, dict):
        raise SurveyRefused(f"{MANIFEST} is not an object")
    return found


def claimed(manifest: dict[str, Any]) -> tuple[str, str]:
    """(name, stamp) of a bundle, as its manifest claims. Raises SurveyRefused, KeyError."""
    name, stamp = str(manifest["name"]), str(manifest["stamp"])
    if not _BUNDLE_NAME.fullmatch(name) or not _HEX.fullmatch(stamp):
        raise SurveyRefused(f"{MANIFEST} names {name[:80]!r} and stamp {stamp[:80]!r}")
    return name, stamp


def listed_files(manifest: dict[str, Any]) -> tuple[Listed, ...]:
    """The files of a bundle, before any of them has arrived. Raises SurveyRefused for a list that
    is missing or too long, and for a name that could lead out of the bundle."""
    listed = manifest.get("files")
    if not isinstance(listed, list) or not listed:
        raise SurveyRefused(f"{MANIFEST} lists no files")
    if len(listed) > MAX_FILES:
        raise SurveyRefused(f"{MANIFEST} lists {len(listed)} files; at most {MAX_FILES}")
    files = tuple(_listed(one) for one in listed)
    if len({file.path.casefold() for file in files}) != len(files):
        raise SurveyRefused(f"{MANIFEST} lists a file twice, or names that differ only in case")
    return files


def _listed(one: Any) -> Listed:
    path, size, sha256 = (one.get(k) if isinstance(one, dict) else None for k in LISTED_KEYS)
    parts = path.split("/") if isinstance(path, str) else [""]
    if len(parts) > MAX_DEPTH or not all(_FILE_NAME.fullmatch(part) for part in parts):
        raise SurveyRefused(f"{str(path)[:80]!r} is not the name of a file in a bundle")
    if path in _UNLISTED:
        raise SurveyRefused(f"{MANIFEST} lists {path}, which covers it")
    if type(size) is not int or size < 0 or not _HEX.fullmatch(str(sha256)):
        raise SurveyRefused(f"{MANIFEST} lists no size and sha256 of {path}")
    return Listed(str(path), size, str(sha256))


def survey(bundle: Path, target: Path, needs_room: bool = True) -> Survey:
    """Raises SurveyRefused for files that must not be copied to the file system of `target`;
    OSError."""
    files: dict[str, int] = {}
    for path in plain_files(bundle):
        name = path.relative_to(bundle).as_posix()
        if len(files) == MAX_FILES:
            raise SurveyRefused(f"more than {MAX_FILES} files; a bundle has fewer")
        if name.count("/") >= MAX_DEPTH:
            raise SurveyRefused(f"{name} is nested too deep for a bundle; remove it")
        found = path.lstat()
        _refuse_holes(path, name, found)
        files[name] = found.st_size
    _compare_sizes(read_manifest(bundle), files)
    done = Survey(files)
    if needs_room:
        refuse_lack_of_room(done.total, target)
    return done


def plain_files(source: Path) -> Iterator[Path]:
    """Every file below; raises SurveyRefused for a link, a pipe or a device."""
    for directory, names, files in os.walk(source):
        for name in (*names, *files):
            path = Path(directory) / name
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise SurveyRefused(f"{path} is neither a file nor a directory")
            if stat.S_ISREG(mode):
                yield path


def _compare_sizes(manifest: dict[str, Any], files: dict[str, int]) -> None:
    """Compare the sizes with those in the manifest. A manifest without a list is left to the
    replica, which checks it strictly."""
    listed = manifest.get("files")
    if not isinstance(listed, list):
        return
    if len(listed) > MAX_FILES:
        raise SurveyRefused(f"{MANIFEST} lists {len(listed)} files; at most {MAX_FILES}")
    sizes = {f["path"]: f.get("size") for f in listed if isinstance(f, dict) and "path" in f}
    for name, size in files.items():
        if name in _UNLISTED:
            continue
        if name not in sizes:
            raise SurveyRefused(f"{name} is not in the manifest; remove it")
        if sizes[name] != size:
            raise SurveyRefused(
                f"{name} has {size} bytes, the manifest lists {str(sizes[name])[:40]}; is it still "
                "being written?"
            )


def _refuse_holes(path: Path, name: str, found: os.stat_result) -> None:
    """Refuse a file with holes: they cost its owner nothing and the store their whole length. Fewer
    blocks than bytes may also mean compression, so the file system is asked where the holes are."""
    if found.st_size - found.st_blocks * 512 <= MAX_HOLE_BYTES:
        return
    holes = _hole_bytes(path, found.st_size)
    if holes > MAX_HOLE_BYTES:
        raise SurveyRefused(
            f"{name} is sparse: {holes / MIB:,.0f} of {found.st_size / MIB:,.0f} MiB are holes; "
            "weights have none: build the bundle again"
        )


def _hole_bytes(path: Path, size: int) -> int:
    """Bytes of holes, counted only up to the first MAX_HOLE_BYTES: a hostile file has a hole in
    every other block."""
    holes = place = 0
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        while place < size:
            begin = os.lseek(descriptor, place, os.SEEK_HOLE)
            if begin >= size:
                break
            try:
                place = os.lseek(descriptor, begin, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole is left up to the end
                place = size
            holes += place - begin
            if holes > MAX_HOLE_BYTES:
                break
    finally:
        os.close(descriptor)
    return holes


def refuse_lack_of_room(total: int, target: Path) -> None:
    """Raises SurveyRefused unless the file system of `target` has that many bytes."""
    free = shutil.disk_usage(target).free
    if total > free:
        raise SurveyRefused(
            f"it takes {total / MIB:.1f} MiB, {free / MIB:.1f} MiB are free in {target}; make room "
            "there, or start the server with fewer --keep-bundles"
        )
