"""Everything that can change a number is in the stamp, tried one by one: every byte, every name,
every source line, every module and library. Where and by whom a bundle is read is not in it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.bundle import manifest, stamp
from pipelines.bundle.contents import REQUIRED, read_contents
from pipelines.bundle.manifest import Manifest
from pipelines.bundle.stamp import Leaf
from pipelines.errors import BundleRefused
from tests.support.running import ROOT

WEIGHTS = "weights/model.safetensors"
HEADER = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}} '


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Every file a bundle must have, a few bytes each, so that each byte can be tried."""
    folder = tmp_path / "small"
    contents = {path: json.dumps({"is": path}).encode() for path in REQUIRED}
    contents["CARD.md"] = b"# small\n"
    contents["golden/photo.png"] = b"\x89PNG\r\n\x1a\nnot more"
    contents["reference/profile.json"] = b'{"rows": 7}'
    contents[WEIGHTS] = len(HEADER).to_bytes(8, "little") + HEADER + b"\0\0\x80\x3f\0\0\0\x40"
    for path, content in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    leaves = tuple(Leaf(p, len(c), hashlib.sha256(c).hexdigest()) for p, c in contents.items())
    code, libraries = {"pipelines/x.py": "ab" * 32}, {"torch": "2.13.0"}
    whole = Manifest("small-1", leaves, code, libraries, "2031-01-01T00:00:00Z", {"note": "x"})
    (folder / manifest.FILE).write_bytes(whole.to_bytes())
    return folder


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def with_leaf(whole: Manifest, path: str, content: bytes) -> str:
    """The stamp if a file had this content."""
    new = Leaf(path, len(content), hashlib.sha256(content).hexdigest())
    kept = tuple(new if leaf.path == path else leaf for leaf in whole.files)
    return dataclasses.replace(whole, files=kept).stamp_hex


def changes(content: bytes) -> Iterator[bytes]:
    """A bit of every byte flipped, every byte removed, one added."""
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        yield bytes(flipped)
        yield content[:place] + content[place + 1 :]
    yield content + b"\n"


def test_every_byte_of_every_file_flipped_added_or_removed_is_another_stamp(small: Path) -> None:
    whole = read_contents(small).manifest
    tried = 0
    for path in files(small):
        content, name = path.read_bytes(), path.relative_to(small).as_posix()
        for other in changes(content):
            tried += 1
            if name == manifest.FILE:
                with pytest.raises(BundleRefused):
                    manifest.read(other)
            else:
                assert with_leaf(whole, name, other) != whole.stamp_hex, (name, other)
        path.write_bytes(other)
        with pytest.raises(BundleRefused):  # that the digest of a file is compared, for each file
            read_contents(small)
        path.write_bytes(content)
    assert read_contents(small).manifest == whole
    assert tried > 5000


def test_every_rename_is_refused_and_is_another_stamp(small: Path) -> None:
    whole = read_contents(small).manifest
    seen = {whole.stamp_hex}
    for path in files(small):
        renamed = path.with_name(f"a{path.name}")
        path.rename(renamed)
        with pytest.raises(BundleRefused):
            read_contents(small)
        renamed.rename(path)
    for leaf in whole.files:
        renamed_leaf = dataclasses.replace(leaf, path=f"{leaf.path}x")
        kept = (f for f in whole.files if f is not leaf)
        seen.add(dataclasses.replace(whole, files=(*kept, renamed_leaf)).stamp_hex)
    assert len(seen) == len(whole.files) + 1
    swapped = {whole.files[0].path: whole.files[1].path, whole.files[1].path: whole.files[0].path}
    exchanged = tuple(dataclasses.replace(f, path=swapped.get(f.path, f.path)) for f in whole.files)
    assert dataclasses.replace(whole, files=exchanged).stamp_hex not in seen


def test_every_source_line_edited_or_removed_is_other_code() -> None:
    package = stamp.package_folder()
    sources = stamp.sources(package)
    digests = stamp.code_of(package)
    tree, lines = stamp.code_tree(digests), 0
    for path, source in sources.items():
        own = stamp.source_digest(source)
        parts = source.splitlines(keepends=True)
        seen = set()
        for number, line in enumerate(parts):
            before, after = b"".join(parts[:number]), b"".join(parts[number + 1 :])
            seen |= {stamp.source_digest(before + b"#" + line + after)}
            assert stamp.source_digest(before + after) != own, (path, number)
        assert own not in seen and len(seen) == len(parts)
        lines += len(parts)
        assert not parts or stamp.code_tree({**digests, path: seen.pop()}) != tree
    assert lines > 5000


def test_every_module_and_every_library_is_in_the_stamp(tiny_bundle: Path) -> None:
    whole = manifest.read((tiny_bundle / manifest.FILE).read_bytes())
    seen = {whole.stamp_hex}
    for path in whole.code:
        rest = {p: sha for p, sha in whole.code.items() if p != path}
        for code in (rest, {**whole.code, path: "0" * 64}, {**rest, f"{path}x": whole.code[path]}):
            seen.add(dataclasses.replace(whole, code=code).stamp_hex)
    for name, version in whole.libraries.items():
        others = {n: v for n, v in whole.libraries.items() if n != name}
        for libraries in (others, {**others, name: f"{version}.1"}, {**others, f"{name}x": "1"}):
            seen.add(dataclasses.replace(whole, libraries=libraries).stamp_hex)
    assert len(seen) == 1 + 3 * len(whole.code) + 3 * len(whole.libraries)
    assert set(whole.libraries) == set(stamp.running_libraries())


def test_another_place_user_language_and_clock_read_the_same_stamp(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    there = tmp_path / "ein anderer Ort" / "bundle"
    shutil.copytree(tiny_bundle, there, copy_function=shutil.copyfile)  # other times and modes
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": "7",
        "LC_ALL": "C",
        "TZ": "Pacific/Chatham",
        "HOME": str(tmp_path),
    }
    command = [sys.executable, "-m", "pipelines.main", "inspect", "--json", str(there)]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    here = read_contents(tiny_bundle).manifest.stamp()
    assert (found["stamp"], found["parts"]) == (here.hex, dict(here.parts))
    assert found["refused_here"] == ""
