"""Stored digests: which files have one, and when it is used."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.bundle import files
from pipelines.bundle.bundle import Bundle
from pipelines.bundle.digests import DigestCache


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def _large(size: int) -> files.File:
    identity = files.FileIdentity(1, 2, size, mtime_ns=10**9, ctime_ns=2 * 10**9)
    return files.File("weights/a.safetensors", identity, bytearray(), "ab" * 32)


def test_a_digest_is_remembered_for_the_very_same_file_only(tmp_path: Path) -> None:
    size = 64 << 20
    cache = DigestCache(tmp_path / "digests.json", clock_ns=lambda: 10**12)
    cache.put(tmp_path, _large(size))
    cache.save()
    again = DigestCache(tmp_path / "digests.json")
    same = _large(size)
    assert again.get(tmp_path, same.path, same.identity) == same.sha256
    assert again.get(tmp_path / "other", same.path, same.identity) is None
    assert again.get(tmp_path, "weights/b.safetensors", same.identity) is None
    for field, value in {"inode": 3, "size": size + 1, "mtime_ns": 5, "ctime_ns": 5}.items():
        other = replace(same.identity, **{field: value})
        assert again.get(tmp_path, same.path, other) is None, field


def test_a_small_or_a_fresh_file_is_not_remembered(tmp_path: Path) -> None:
    cache = DigestCache(tmp_path / "digests.json", clock_ns=lambda: 3 * 10**9)
    cache.put(tmp_path, _large(64 << 20))  # written a second ago: may change again
    cache.put(tmp_path, _large(1000))
    for file in (_large(64 << 20), _large(1000)):
        assert cache.get(tmp_path, file.path, file.identity) is None


def test_an_unreadable_cache_is_an_empty_one(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "digests.json").write_text("{")
    opened = Bundle.open(bundle, cache=DigestCache(tmp_path / "digests.json"))
    assert opened.stamp.hex == Bundle.open(bundle).stamp.hex
