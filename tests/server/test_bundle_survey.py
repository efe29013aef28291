"""Bundles that the store refuses before it copies a byte of them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.deploy import bundle_survey
from server.deploy.bundle_store import BundleStore, StoreRefused, identify

GIB = 1 << 30


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "in"))


def refused(bundle: Path, named: str) -> str:
    """Nothing of the bundle is in the store afterwards."""
    steps: list[str] = []
    store = BundleStore(bundle.parent / "bundles", steps.append)
    with pytest.raises(StoreRefused) as caught:
        store.add(bundle)
    assert named in str(caught.value), str(caught.value)
    assert not [path for path in store.root.rglob("*") if path.is_file()] and not steps
    return str(caught.value)


def test_a_whole_bundle_is_taken(bundle: Path) -> None:
    stored = BundleStore(bundle.parent / "bundles").add(bundle)
    files = [p.relative_to(bundle) for p in bundle.rglob("*") if p.is_file()]
    assert all((stored.path / f).read_bytes() == (bundle / f).read_bytes() for f in files)


def test_a_sparse_file_is_refused_from_its_blocks(bundle: Path) -> None:
    weights = bundle / "weights" / "model.safetensors"
    os.truncate(weights, 3 * GIB)
    assert weights.stat().st_blocks * 512 < GIB
    refused(bundle, "weights/model.safetensors is sparse")


def test_a_file_with_a_hole_in_the_middle_is_refused_too(bundle: Path) -> None:
    weights = bundle / "weights" / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(64 << 20)
        file.write(b"x" * 4096)
    refused(bundle, "weights/model.safetensors is sparse")


def test_a_file_of_another_size_than_listed_is_refused(bundle: Path) -> None:
    with (bundle / "CARD.md").open("ab") as file:
        file.write(b"more")
    refused(bundle, "CARD.md has")


def test_a_file_that_is_not_listed_is_refused(bundle: Path) -> None:
    (bundle / "weights" / "more.safetensors").write_bytes(b"0" * 10)
    refused(bundle, "weights/more.safetensors is not in the manifest")


def test_too_many_files_are_refused(bundle: Path) -> None:
    for number in range(bundle_survey.MAX_FILES + 1):
        (bundle / "golden" / f"{number}.txt").touch()
    refused(bundle, "more than 4096 files")


def test_files_below_many_folders_are_refused(bundle: Path) -> None:
    (bundle / "golden" / "a" / "b").mkdir(parents=True)
    (bundle / "golden" / "a" / "b" / "c.txt").touch()
    refused(bundle, "golden/a/b/c.txt is nested too deep")


def test_what_does_not_fit_on_the_disk_is_refused_first(bundle: Path) -> None:
    """Of the sizes alone: the file takes no blocks, and few enough of it is a hole to be seen."""
    free = shutil.disk_usage(bundle).free
    with pytest.raises(bundle_survey.SurveyRefused, match="MiB are free"):
        bundle_survey.refuse_lack_of_room(free + (1 << 30), bundle)


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"a":' * 100_000, "manifest.json is nested too deep"),
        ("[]", "manifest.json is not an object"),
        (" " * (bundle_survey.MAX_MANIFEST_BYTES + 1), "manifest.json is larger than 16 MiB"),
        ('{"name": "' + "x" * 10_000 + '", "stamp": "' + "a" * 64 + '"}', "names 'xxx"),
    ],
)
def test_a_hostile_manifest_is_refused_by_its_shape(
    tmp_path: Path, content: str, named: str
) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "manifest.json").write_text(content)
    with pytest.raises(StoreRefused) as caught:
        identify(folder)
    assert named in str(caught.value) and len(str(caught.value)) < 400


def test_a_manifest_that_lists_too_much_is_refused(bundle: Path) -> None:
    manifest = bundle / "manifest.json"
    values = json.loads(manifest.read_bytes())
    values["files"] *= 1_000
    manifest.write_text(json.dumps(values))
    refused(bundle, "manifest.json lists")
