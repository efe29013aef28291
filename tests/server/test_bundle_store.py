"""The bundle store: atomic switches, no half-written bundle, and a kill at every step."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import threading
from pathlib import Path

import pytest

from server.deploy.bundle_store import BundleStore, StoreRefused, identify
from tests.support.killed_store import killed_stores


def bundle(path: Path, letter: str, name: str = "toy") -> Path:
    (path / "weights").mkdir(parents=True)
    (path / "weights" / "model.safetensors").write_bytes(letter.encode() * 1000)
    (path / "manifest.json").write_text(json.dumps({"name": name, "stamp": letter * 64}))
    return path


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return bundle(tmp_path / "in-a", "a")


@pytest.fixture
def b(tmp_path: Path) -> Path:
    return bundle(tmp_path / "in-b", "b")


def test_an_added_bundle_is_read_only_and_equal(tmp_path: Path, a: Path) -> None:
    stored = BundleStore(tmp_path / "bundles").add(a)
    assert stored.path == tmp_path / "bundles" / "toy" / ("a" * 12)
    assert (stored.path / "weights/model.safetensors").read_bytes() == b"a" * 1000
    assert stat.S_IMODE((stored.path / "manifest.json").stat().st_mode) == 0o444
    assert stat.S_IMODE(stored.path.stat().st_mode) == 0o555


def test_adding_again_changes_nothing(tmp_path: Path, a: Path) -> None:
    store = BundleStore(tmp_path / "bundles")
    first = store.add(a)
    before = first.path.stat().st_mtime_ns
    assert store.add(a) == first
    assert first.path.stat().st_mtime_ns == before


def signed(source: Path, signature: str) -> Path:
    (source / "manifest.sig").write_text(signature)
    return source


def test_a_bundle_signed_after_it_was_added_is_signed_in_the_store(tmp_path: Path, a: Path) -> None:
    store = BundleStore(tmp_path / "bundles")
    stored = store.add(a)
    store.activate(stored)
    assert store.add(signed(a, "by one key")) == stored
    signature = stored.path / "manifest.sig"
    assert signature.read_text() == "by one key"
    assert stat.S_IMODE(signature.stat().st_mode) == 0o444
    assert stat.S_IMODE(stored.path.stat().st_mode) == 0o555
    assert not list(stored.path.parent.glob(".*"))


def test_what_a_link_leads_to_keeps_its_signature(tmp_path: Path, a: Path, b: Path) -> None:
    store = BundleStore(tmp_path / "bundles")
    linked, other = store.add(signed(a, "good")), store.add(signed(b, "good"))
    store.activate(linked)
    store.add(signed(a, "of another key"))
    store.add(signed(b, "a newer one"))
    assert (linked.path / "manifest.sig").read_text() == "good"
    assert (other.path / "manifest.sig").read_text() == "a newer one"


def test_a_signature_of_other_notes_is_not_put_beside_a_manifest_it_does_not_fit(
    tmp_path: Path, a: Path
) -> None:
    store = BundleStore(tmp_path / "bundles")
    stored = store.add(a)
    manifest = json.loads((a / "manifest.json").read_text())
    (a / "manifest.json").write_text(json.dumps({**manifest, "created_at": "later"}))
    with pytest.raises(StoreRefused, match="copy its manifest.json over yours and sign again"):
        store.add(signed(a, "of other notes"))
    assert not (stored.path / "manifest.sig").exists()


def test_activate_and_roll_back_switch_the_links(tmp_path: Path, a: Path, b: Path) -> None:
    store = BundleStore(tmp_path / "bundles")
    old, new = store.add(a), store.add(b)
    store.activate(old)
    assert (store.current, store.previous) == (old, None)
    store.activate(new)
    assert (store.current, store.previous) == (new, old)
    store.activate(old)
    assert (store.current, store.previous) == (old, new)
    store.activate(new)  # and forward again
    assert (store.current, store.previous) == (new, old)


def test_collecting_keeps_what_is_referenced(tmp_path: Path, a: Path, b: Path) -> None:
    store = BundleStore(tmp_path / "bundles")
    c = store.add(bundle(tmp_path / "in-c", "c"))
    d = store.add(bundle(tmp_path / "in-d", "d"))
    store.activate(store.add(a))
    store.activate(store.add(b))
    assert store.collect(keep=[d.stamp]) == [c]
    assert {found.stamp[0] for found in store.bundles()} == {"a", "b", "d"}


def test_finding_takes_a_beginning_if_it_is_unambiguous(tmp_path: Path, a: Path) -> None:
    store = BundleStore(tmp_path / "bundles")
    stored = store.add(a)
    assert store.find("a" * 6) == stored
    for wrong in ("aaa", "b" * 12, "../../etc"):
        with pytest.raises(StoreRefused):
            store.find(wrong)


def test_links_and_pipes_are_refused(tmp_path: Path, a: Path, b: Path) -> None:
    store = BundleStore(tmp_path / "bundles")
    (a / "weights" / "more").symlink_to("/etc/passwd")
    os.mkfifo(b / "pipe")
    for source in (a, b, tmp_path):
        with pytest.raises(StoreRefused):
            store.add(source)
    assert store.bundles() == []


def test_a_hostile_name_cannot_leave_the_store(tmp_path: Path) -> None:
    source = bundle(tmp_path / "in", "a", name="../../outside")
    with pytest.raises(StoreRefused, match="outside"):
        BundleStore(tmp_path / "bundles").add(source)


ROLLS_BACK = """
store.activate(store.add(fresh))
store.activate(store.previous)
store.collect()
"""


def test_a_kill_at_any_step_leaves_a_bootable_store(tmp_path: Path, a: Path, b: Path) -> None:
    for store in killed_stores(tmp_path, [a], b, ROLLS_BACK):
        current = store.current
        assert current is not None
        letter = current.stamp[0]
        content = (current.path / "weights/model.safetensors").read_bytes()
        assert content == letter.encode() * 1000
        for stored in store.bundles():
            assert len(list(stored.path.rglob("*"))) == 3
        assert list(store.root.glob("*/.partial*")) == []


def test_copying_reports_its_progress(tmp_path: Path, a: Path) -> None:
    (a / "weights" / "more.safetensors").write_bytes(bytes(3 << 20))
    total = sum(path.stat().st_size for path in a.rglob("*") if path.is_file())
    moved: list[tuple[int, int]] = []
    BundleStore(tmp_path / "store").add(a, lambda *now: moved.append(now))
    assert len(moved) == 5 and moved == sorted(moved)  # three pieces of one file, two small files
    assert moved[-1] == (total, total)


def test_two_who_add_one_bundle_at_once_do_not_write_into_each_other(
    tmp_path: Path, a: Path
) -> None:
    """The second begins while the first is in the middle of a file."""
    (a / "weights" / "more.safetensors").write_bytes(bytes(3 << 20))
    store, others = BundleStore(tmp_path / "store"), list[threading.Thread]()

    def while_copying(_done: int, _total: int) -> None:
        if not others:
            others.append(threading.Thread(target=store.add, args=(a,)))
            others[0].start()
            others[0].join(0.2)  # it would be through by now

    stored = store.add(a, while_copying)
    others[0].join(20)
    for path in a.rglob("*.safetensors"):
        assert (stored.path / path.relative_to(a)).read_bytes() == path.read_bytes()
    assert [path.name for path in stored.path.parent.iterdir()] == ["a" * 12]


def test_what_cannot_be_copied_is_reported_with_the_remedy(tmp_path: Path, a: Path) -> None:
    store = BundleStore(tmp_path / "store")
    (store.root / "toy").write_text("in the way of the folder of that name")
    with pytest.raises(StoreRefused, match=f"{a} cannot be copied into {store.root}: .*toy"):
        store.add(a)
    full = store._why_not(a, OSError(errno.ENOSPC, "No space left on device"))
    assert re.search(r"No space left on device: it takes 0\.0 MiB, [\d.]+ MiB are free; ", full)
    assert "--keep-bundles" in full


def test_what_is_not_a_bundle_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "half").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text("{}")
    for name, message in (
        ("nowhere", "it does not exist on the server's host"),
        ("file", "it is not a directory"),
        ("half", "it has no manifest.json; is it still being written"),
        ("other", "its manifest.json has no 'name'"),
    ):
        with pytest.raises(StoreRefused, match=message):
            identify(tmp_path / name)
