"""The stamp covers everything that can change a number, and does not depend on where that was
found."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipelines
from pipelines.bundle import loaded_code, manifest, stamp
from pipelines.bundle.manifest import Manifest
from pipelines.bundle.stamp import Leaf
from pipelines.errors import BundleRefused
from tests.support.patience import patience

SOURCES = Path(pipelines.__file__).parent

names = st.text("abcdef./_", min_size=1, max_size=12)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
leaves = st.lists(
    st.builds(Leaf, path=names, size=st.integers(0, 2**63), sha256=digests),
    min_size=1,
    max_size=6,
    unique_by=lambda leaf: leaf.path,
)


@given(leaves, st.randoms())
def test_order_of_files_does_not_matter(found: list[Leaf], random: object) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert stamp.tree_digest(shuffled) == stamp.tree_digest(found)


@given(leaves, leaves)
def test_only_equal_trees_have_equal_digests(a: list[Leaf], b: list[Leaf]) -> None:
    same = sorted(a, key=lambda leaf: leaf.path) == sorted(b, key=lambda leaf: leaf.path)
    assert (stamp.tree_digest(a) == stamp.tree_digest(b)) == same


def test_a_renamed_file_is_another_tree_and_back_is_the_same_one() -> None:
    leaf = Leaf("labels.json", 3, "ab" * 32)
    renamed = dataclasses.replace(leaf, path="label.json")
    assert stamp.tree_digest([renamed]) != stamp.tree_digest([leaf])
    back = dataclasses.replace(renamed, path="labels.json")
    assert stamp.tree_digest([back]) == stamp.tree_digest([leaf])


def test_a_tree_digest_cannot_pose_as_a_file_digest_or_a_stamp() -> None:
    content = b"same bytes"
    assert len({stamp.bundle_digest(content), stamp.seal_digest(content)}) == 2
    assert stamp.tree_digest([]) != stamp.code_tree({}) != stamp.libraries_digest({})


def test_every_field_of_the_manifest_but_the_human_ones_changes_the_stamp(
    tiny_bundle: Path,
) -> None:
    whole = manifest.read((tiny_bundle / "manifest.json").read_bytes())
    assert (
        dataclasses.replace(whole, created_at="later", human={"note": "x"}).stamp_hex
        == whole.stamp_hex
    )
    library, module = next(iter(whole.libraries)), next(iter(whole.code))
    changed = [
        dataclasses.replace(whole, name="other-1"),
        dataclasses.replace(whole, files=whole.files[1:]),
        dataclasses.replace(whole, code={**whole.code, module: "0" * 64}),
        dataclasses.replace(whole, libraries={**whole.libraries, library: "0.0.1"}),
    ]
    found = {whole.stamp_hex, *(m.stamp_hex for m in changed)}
    assert len(found) == len(changed) + 1


def test_every_file_size_and_digest_changes_the_stamp_and_exactly_one_part(
    tiny_bundle: Path,
) -> None:
    whole = manifest.read((tiny_bundle / "manifest.json").read_bytes())
    parts = whole.stamp().parts
    for number, leaf in enumerate(whole.files):
        for other in (
            dataclasses.replace(leaf, size=leaf.size + 1),
            dataclasses.replace(leaf, sha256="0" * 64),
        ):
            files = (*whole.files[:number], other, *whole.files[number + 1 :])
            changed = dataclasses.replace(whole, files=files).stamp()
            assert changed.hex != whole.stamp_hex
            different = [part for part in stamp.PARTS if changed.parts[part] != parts[part]]
            assert different == [stamp.part_of(leaf.path)]


def test_parts_are_those_the_console_compares(tiny_bundle: Path) -> None:
    found = manifest.read((tiny_bundle / "manifest.json").read_bytes()).stamp()
    assert set(found.parts) == set(stamp.PARTS)
    assert {"weights", "preprocessing", "code", "libraries", "labels", "reference", "data"} <= set(
        found.parts
    )
    assert all(len(digest) == 64 for digest in found.parts.values())
    assert found.detail["libraries/torch"] == stamp.running_libraries()["torch"]
    assert "code/media/decode_audio.py" in found.detail
    assert "weights/model.safetensors" in found.detail
    assert found.name == f"tiny-2026.01+{found.hex[:12]}"


@pytest.mark.parametrize("path", ["run.py", "weights", "extra.json", "golden", "model.json"])
def test_a_path_outside_the_layout_has_no_part(path: str) -> None:
    assert stamp.part_of(path) is None


@pytest.fixture
def package(tmp_path: Path) -> Path:
    copy = tmp_path / "pipelines"
    shutil.copytree(SOURCES, copy, ignore=shutil.ignore_patterns("__pycache__", "triage"))
    return copy


def test_code_is_every_module_of_the_package(package: Path) -> None:
    code = stamp.code_of(package)
    assert code == stamp.running_code().modules
    expected = {
        f"pipelines/{path.relative_to(SOURCES).as_posix()}" for path in SOURCES.rglob("*.py")
    }
    assert set(code) == expected
    (package / "notes.txt").write_text("not a module\n")
    assert stamp.code_of(package) == code


def test_every_changed_source_line_changes_the_code(package: Path) -> None:
    before = stamp.code_tree(stamp.code_of(package))
    seen, edits = {before}, 0
    for path in sorted(package.rglob("*.py")):
        source = path.read_text()
        lines = source.splitlines(keepends=True)
        for number in range(0, len(lines), max(1, len(lines) // 4)):
            path.write_text("".join([*lines[:number], "#" + lines[number], *lines[number + 1 :]]))
            seen.add(stamp.code_tree(stamp.code_of(package)))
            edits += 1
        path.write_text(source)
    assert stamp.code_tree(stamp.code_of(package)) == before
    assert len(seen) == 1 + edits > 200


def test_a_new_a_moved_and_a_missing_module_change_the_code(package: Path) -> None:
    trees = {stamp.code_tree(stamp.code_of(package))}
    (package / "more.py").write_text("")
    trees.add(stamp.code_tree(stamp.code_of(package)))
    (package / "more.py").rename(package / "other.py")
    trees.add(stamp.code_tree(stamp.code_of(package)))
    (package / "other.py").unlink()
    (package / "media" / "decode_audio.py").unlink()
    trees.add(stamp.code_tree(stamp.code_of(package)))
    assert len(trees) == 4


def test_line_ends_of_a_checkout_do_not_change_the_code(package: Path) -> None:
    before = stamp.code_of(package)
    for path in package.rglob("*.py"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert stamp.code_of(package) == before


def test_a_module_loaded_from_elsewhere_is_named(tmp_path: Path) -> None:
    stranger = ModuleType("pipelines.stranger")
    stranger.__file__ = str(tmp_path / "stranger.py")
    assert stamp.running_code().foreign_modules == ()
    sys.modules["pipelines.stranger"] = stranger
    try:
        assert "pipelines.stranger" in stamp.running_code().foreign_modules[0]
    finally:
        del sys.modules["pipelines.stranger"]


SOURCE = """
from functools import lru_cache, partial

def plain(x): return x + 1

@lru_cache
def cached(x): return x * 2

class Thing:
    size = 3
    @property
    def half(self): return self.size / 2
    @staticmethod
    def make(): return [y for y in range(3)]
    class Inner:
        def deep(self): return lambda: 4

ready = partial(plain, 3)
"""


def _module(source: str) -> ModuleType:
    module = ModuleType("probe")
    module.__file__ = "probe.py"
    exec(compile(source, "probe.py", "exec", dont_inherit=True), vars(module))
    return module


def test_a_module_as_imported_is_its_source() -> None:
    assert loaded_code.differing(_module(SOURCE), SOURCE.encode()) == ""


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("x + 1", "x + 2", "plain"),
        ("x * 2", "x * 3", "cached"),
        ("self.size / 2", "self.size / 3", "Thing.half"),
        ("range(3)", "range(4)", "Thing.make"),
        ("lambda: 4", "lambda: 5", "Thing.Inner.deep"),
    ],
)
def test_a_function_edited_after_the_import_is_named(old: str, new: str, where: str) -> None:
    changed = SOURCE.replace(old, new).encode()
    assert loaded_code.differing(_module(SOURCE), changed) == where


def test_a_function_replaced_in_memory_is_named() -> None:
    module = _module(SOURCE)
    vars(module)["plain"] = lambda x: x + 1
    assert loaded_code.differing(module, SOURCE.encode()) == "plain"


def test_no_module_of_ours_differs_from_its_source() -> None:
    for path in SOURCES.rglob("*.py"):
        if path.name != "__init__.py":
            inside = path.relative_to(SOURCES).with_suffix("").parts
            importlib.import_module(".".join(("pipelines", *inside)))
    assert stamp.running_code().foreign_modules == ()


def test_an_edit_after_the_import_is_noticed_by_the_process_that_runs_on(package: Path) -> None:
    script = """if True:
        from pathlib import Path
        from pipelines.bundle import speed, stamp
        print(stamp.running_code().foreign_modules)
        file = Path(speed.__file__)
        file.write_text(file.read_text().replace('":", 1', '";", 1'))
        print(stamp.running_code().foreign_modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=package.parent,
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=True,
    )
    before, after = done.stdout.splitlines()
    assert before == "()"
    assert "pipelines.bundle.speed._device_class is not the one now in speed.py" in after


@pytest.mark.parametrize(
    ("version", "public"),
    [("2.13.0+cpu", "2.13.0"), ("2.13.0+cu130", "2.13.0"), ("12.0", "12.0"), ("1+a+b", "1")],
)
def test_the_build_of_a_library_is_not_its_version(version: str, public: str) -> None:
    assert stamp.public_version(version) == public


def test_every_library_that_touches_numbers_is_read() -> None:
    found = stamp.running_libraries()
    assert "absent" not in found.values()
    assert {"torch", "torchaudio", "transformers", "pillow", "soundfile", "libsndfile"} <= set(
        found
    )
    assert not any("+" in version for version in found.values())


def test_a_dirty_stamp_never_equals_a_clean_one() -> None:
    clean, code, libraries = "1" * 64, "2" * 64, "3" * 64
    dirty = stamp.dirty_digest(clean, code, libraries)
    assert dirty not in (clean, code, libraries)
    assert dirty != stamp.dirty_digest(clean, "4" * 64, libraries)
    assert stamp.display_name("t-1", dirty, dirty=True) == f"t-1+dirty.{dirty[:12]}"


def test_a_manifest_on_disk_has_one_spelling(tiny_bundle: Path) -> None:
    content = (tiny_bundle / "manifest.json").read_bytes()
    assert manifest.read(content).to_bytes() == content
    respelt = json.dumps(json.loads(content), indent=2, sort_keys=True).encode() + b"\n"
    with pytest.raises(BundleRefused, match="changed after it was written"):
        manifest.read(respelt)


@pytest.mark.parametrize(
    "name", ["", "-x", ".hidden", "a b", "a/b", "a+b", "ü", "x" * 65, "a\n", "../a"]
)
def test_a_name_that_cannot_stand_in_a_stamp_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a bundle name"):
        manifest.check_bundle_name(name)


def test_a_manifest_reads_back_as_written() -> None:
    written = Manifest(
        name="a-1",
        files=(Leaf("labels.json", 2, "00" * 32),),
        code={"pipelines/x.py": "11" * 32},
        libraries={"torch": "2.13.0"},
        created_at="2026-01-01T00:00:00Z",
        human={"note": "für Menschen"},
    )
    assert manifest.read(written.to_bytes()) == written
