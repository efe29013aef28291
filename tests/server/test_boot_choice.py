"""The bundle a server starts with: the one its flags name, the one its store served last, or the
embedded one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.bundle import manifest as manifests
from server.config import CHOOSE, EMBEDDED_BUNDLE
from server.deploy.boot_choice import FailedBoot, after, choices
from server.deploy.bundle_store import BundleStore
from server.deploy.restamped import UNLINKED, copy_of, unlinked
from server.main import main
from tests.support.killed_store import killed_stores
from tests.support.patience import patience
from tests.support.running import ROOT, program
from tests.support.stub_bundles import stub_bundle

A, B = "a" * 12, "b" * 12


@pytest.fixture
def store(tmp_path: Path) -> BundleStore:
    """`b` is current, `a` previous."""
    store = BundleStore(tmp_path / "bundles")
    for letter in "ab":
        store.activate(store.add(stub_bundle(tmp_path, letter)))
    return store


def test_an_empty_store_or_none_starts_the_embedded_bundle(tmp_path: Path) -> None:
    for store in (None, BundleStore(tmp_path)):
        (choice,) = choices(CHOOSE, store)
        assert choice.path == EMBEDDED_BUNDLE and "nothing was named" in choice.reason


def test_the_store_is_tried_in_order_and_never_replaced_by_the_embedded_one(
    store: BundleStore,
) -> None:
    assert [choice.path.name for choice in choices(CHOOSE, store)] == [B, A]


def test_a_named_bundle_wins_with_the_reason(store: BundleStore, tmp_path: Path) -> None:
    (choice,) = choices(tmp_path / "right-a", store)
    assert choice.path == tmp_path / "right-a"
    assert choice.reason == f"named by --bundle, before {B}, the store's current"


def test_a_damaged_or_missing_current_is_tried_and_reported(
    store: BundleStore,
) -> None:
    current = store.current
    assert current is not None
    current.path.chmod(0o755)
    (current.path / "manifest.json").chmod(0o644)
    (current.path / "manifest.json").write_text("{")
    assert [choice.path.name for choice in choices(CHOOSE, store)] == ["current", A]
    shutil.rmtree(current.path)
    assert [choice.path.name for choice in choices(CHOOSE, store)] == ["current", A]


def test_the_reason_names_what_was_refused_before(store: BundleStore) -> None:
    first, second = choices(CHOOSE, store)
    chosen = after(second, [FailedBoot(first, "hash: CARD.md differs")])
    assert chosen.reason == f"the store's previous; {B} refused: hash: CARD.md differs"


SWITCHES = """
served = store.current
added = store.add(fresh)
store.activate(added, served)
store.collect([added.stamp])
store.activate(served, added)
"""


def test_after_a_kill_at_any_step_a_whole_bundle_that_served_is_started(tmp_path: Path) -> None:
    *old, fresh = [stub_bundle(tmp_path, letter) for letter in "abc"]
    for store in killed_stores(tmp_path, old, fresh, SWITCHES):
        found = choices(CHOOSE, store)
        assert found[0].path.name in (B, "c" * 12), store.root.name
        for choice in found:
            assert json.loads((choice.path / "manifest.json").read_text())["name"] == "right"
            letter = choice.path.name[0]
            weights = choice.path / "weights" / "model.safetensors"
            assert weights.read_bytes() == letter.encode() * 100


def test_a_refused_current_is_reported_and_the_previous_one_serves(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole program: a byte of what was activated last has changed on the disk."""
    store = BundleStore(tmp_path / "bundles")
    store.activate(store.add(tiny_bundle))
    newer = tmp_path / "newer"
    shutil.copytree(tiny_bundle, newer)
    manifest = json.loads((newer / "manifest.json").read_text())
    (newer / "manifest.json").write_text(json.dumps(manifest | {"stamp": "f" * 64}))
    store.activate(store.add(newer))
    with program("--data", str(tmp_path), "--warm-pool", "1") as server:
        output = "\n".join(server.lines)
        assert f"REFUSED {store.root}" in output and "ffffffffffff" in output
        assert "FALLING BACK TO" in output and "the store's previous" in output
        capsys.readouterr()
        assert main(["status", "--full", "--server", server.address]) == 0
        shown = capsys.readouterr().out
        assert f"the store's previous; {'f' * 12} refused: " in shown
        assert server.stop() == 0
    assert store.current is not None and store.current.stamp == "f" * 64, "links are not touched"


def test_a_store_whose_links_lead_nowhere_ends_the_start_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "current").symlink_to("right/gone")
    command = [sys.executable, "-m", "server.main", "--listen", "127.0.0.1:0", "--warm-pool", "1"]
    ended = subprocess.run(
        [*command, "--data", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=patience(120),
    )
    assert ended.returncode == 78
    assert "is not a bundle" in ended.stdout
    assert "name one with --bundle" in ended.stdout
    assert f"server bundles --data {tmp_path}" in ended.stdout


def other_libraries(root: Path) -> Path:
    """A checkout at `root` whose embedded bundle was stamped with another Pillow.

    The bytecode comes along: compiling it again takes longer than the starts themselves.
    """
    for name in ("server", "pipelines", "proto", "console"):
        shutil.copytree(ROOT / name, root / name)
    shutil.copy(ROOT / "trefoil_serve.py", root)
    embedded = root / EMBEDDED_BUNDLE.relative_to(ROOT)
    manifest = manifests.read((embedded / manifests.FILE).read_bytes())
    libraries = {**manifest.libraries, "pillow": "1.0"}
    (embedded / manifests.FILE).write_bytes(replace(manifest, libraries=libraries).to_bytes())
    return embedded


def linked(bundle: Path, cache: Path) -> None:
    """Gives each file a second name, as uv does when it installs a package."""
    cache.mkdir()
    for number, file in enumerate(bundle.rglob("*.*")):
        if file.is_file():
            (cache / str(number)).hardlink_to(file)


def test_a_bundle_that_was_installed_as_links_is_copied_once(tmp_path: Path) -> None:
    bundle, data = stub_bundle(tmp_path / "bundle", A), tmp_path / "data"
    assert unlinked(bundle, data) == bundle and not data.exists()
    linked(bundle, tmp_path / "cache")
    plain = unlinked(bundle, data)
    assert plain == data / UNLINKED
    names = {file.relative_to(bundle) for file in bundle.rglob("*")}
    assert {file.relative_to(plain) for file in plain.rglob("*")} == names
    assert all(file.stat().st_nlink == 1 for file in plain.rglob("*") if file.is_file())
    (plain / "kept").touch()
    assert (unlinked(bundle, data) / "kept").exists(), "it is copied once"
    (plain / "manifest.json").write_text("{}")
    assert not (unlinked(bundle, data) / "kept").exists(), "and again for another bundle"


def test_the_library_stamps_the_embedded_bundle_for_other_libraries_and_refuses_a_named_one(
    tmp_path: Path,
) -> None:
    embedded = other_libraries(tmp_path / "checkout")

    def load(path: str) -> subprocess.CompletedProcess[str]:
        code = f"import pipelines; print(pipelines.load({path}).stamp.hex)"
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path / "checkout",
            env={**os.environ, "PYTHONPATH": str(tmp_path / "checkout")},
            capture_output=True,
            text=True,
            timeout=patience(120),
        )

    before = json.loads((embedded / "manifest.json").read_bytes())["stamp"]
    done = load("")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip()) == len(before) and done.stdout.strip() != before
    named = load(repr(str(embedded)))
    assert named.returncode != 0 and "pillow 1.0 -> " in named.stderr


def test_the_embedded_bundle_is_restamped_for_other_libraries_and_a_named_one_is_not(
    tmp_path: Path,
) -> None:
    embedded, data = other_libraries(tmp_path / "checkout"), tmp_path / "data"
    linked(embedded, tmp_path / "cache")
    flags = ("--data", str(data), "--warm-pool", "1")
    with program(*flags, root=tmp_path / "checkout") as server:
        output = "\n".join(server.lines)
        assert "pillow 1.0 -> " in output and "restamped for the installed libraries" in output
        assert "hard link" not in output
        assert server.stop() == 0
    assert copy_of(embedded, data) == data / "embedded"
    with program(*flags, root=tmp_path / "checkout") as server:
        output = "\n".join(server.lines)
        assert "restamped at an earlier start" in output and "REFUSED" not in output
        assert server.stop() == 0
    shutil.rmtree(tmp_path / "cache")
    ended = subprocess.run(
        [sys.executable, "-m", "server.main", "--bundle", str(embedded), *flags],
        cwd=tmp_path / "checkout",
        capture_output=True,
        text=True,
        timeout=patience(120),
    )
    assert ended.returncode == 78 and "pillow 1.0 -> " in ended.stdout
    (data / "embedded" / "manifest.json").write_text("{")
    assert copy_of(embedded, data) is None
