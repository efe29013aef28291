"""A copy of the embedded bundle in the data directory, for an installation with another Python,
other libraries or linked files.

An installer such as uv links the files of a package to its cache. A bundle must not contain links,
as another name of a file allows changes from outside. So the server serves a plain copy with the
same stamp.

The stamp names the library versions and Unicode tables that answers depend on. If this installation
has others, a child process answers the golden inputs again, and a copy is stamped for the installed
versions only when each answer is right. Only the embedded bundle is treated like this: a bundle
that was named or activated is refused, as its stamp may be pinned.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

from server.child_process import module_command
from server.errors import PoolRefused

FOLDER = "embedded"  # in the data directory
CHECK = "libraries"  # the check whose refusal a restamp can resolve
PARTIAL = "embedded.partial"
UNLINKED = "embedded.unlinked"


def unlinked(embedded: Path, data: Path) -> Path:
    """The embedded bundle, or a plain copy of it in the data directory if its files are links. The
    copy is verified like any other bundle. Raises OSError."""
    if not any(one.is_symlink() or one.stat().st_nlink > 1 for one in _files(embedded)):
        return embedded
    place = data / UNLINKED
    if not _same(embedded, place):
        fresh = _cleared(data)
        shutil.copytree(embedded, fresh)
        _put(fresh, place)
    return place


def _files(bundle: Path) -> list[Path]:
    return [path for path in bundle.rglob("*") if not path.is_dir()]


def _same(embedded: Path, copy: Path) -> bool:
    """Whether both have the same manifest, which has the hash of each file."""
    try:
        manifests = [(bundle / "manifest.json").read_bytes() for bundle in (embedded, copy)]
    except OSError:
        return False
    return manifests[0] == manifests[1]


def copy_of(embedded: Path, data: Path) -> Path | None:
    """The copy made earlier from this bundle; None if there is none."""
    try:
        before = json.loads((data / FOLDER / "manifest.json").read_bytes())["human"]
        stamp = json.loads((embedded / "manifest.json").read_bytes())["stamp"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it is made again when it is needed
    return data / FOLDER if before.get("restamped_from") == stamp else None


async def restamp(embedded: Path, data: Path) -> Path:
    """Makes the copy and returns its path. Raises PoolRefused with what the child reported."""
    try:
        fresh = _cleared(data)
        await _child("restamp", str(embedded), "--out", str(fresh))
        return _put(fresh, data / FOLDER)
    except OSError as error:
        raise PoolRefused(CHECK, f"the embedded bundle cannot be restamped: {error}") from None


def _cleared(data: Path) -> Path:
    data.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(data / PARTIAL, ignore_errors=True)  # left by an interrupted start
    return data / PARTIAL


def _put(fresh: Path, place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    return fresh.rename(place)


async def _child(*arguments: str) -> None:
    """Run `pipelines ARGUMENTS`: the model's libraries stay out of this process."""
    process = await asyncio.create_subprocess_exec(
        *module_command("pipelines.main"),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:  # the start was cancelled
            process.kill()
    if process.returncode:
        last = output.decode(errors="replace").strip().rpartition("\n")[2]
        raise PoolRefused(CHECK, f"the embedded bundle cannot be restamped: {last}")
