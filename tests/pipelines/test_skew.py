"""Changes under an opened bundle are named, and are no longer named once they are undone."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from pipelines.bundle import signature, speed, stamp
from pipelines.bundle.bundle import Bundle
from pipelines.bundle.files import FileIdentity
from pipelines.bundle.skew import SkewChange, SkewWatch
from pipelines.media import decode_image
from tests.pipelines.test_signature import keys, sign_bundle
from tests.support.patience import patience

WEIGHTS = "weights/model.safetensors"
ON_DISK = "was changed on disk"
WRITTEN_TO = "was written to on disk, and answers are computed from there"


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def opened(bundle: Path) -> Bundle:
    return Bundle.open(bundle)


def described(found: tuple[SkewChange, ...]) -> list[str]:
    return [str(item) for item in found]


def test_nothing_moves_by_itself_or_by_being_looked_at(bundle: Path, opened: Bundle) -> None:
    watch = SkewWatch(opened)
    assert watch.look() == watch.look() == watch.verify() == ()
    os.utime(bundle / WEIGHTS)  # another time, the same bytes
    shutil.copy(bundle / "CARD.md", bundle / "copy.md")
    os.replace(bundle / "copy.md", bundle / "CARD.md")
    assert watch.look() == ()


@pytest.mark.parametrize(
    "path", [WEIGHTS, "preprocess.json", "golden/golden.json", "manifest.json"]
)
def test_a_file_that_changes_is_named_until_its_bytes_are_back(
    bundle: Path, opened: Bundle, path: str
) -> None:
    watch, content = SkewWatch(opened), (bundle / path).read_bytes()
    watch.look()
    changed = bytearray(content)
    changed[-2] ^= 1
    (bundle / path).write_bytes(changed)
    (found,) = watch.look()
    mapped = path == WEIGHTS  # written to where they are
    assert (found.kind, found.name, found.message, found.affects_answers_now) == (
        "file",
        path,
        WRITTEN_TO if mapped else ON_DISK,
        mapped,
    )
    (bundle / path).unlink()
    assert described(watch.look()) == [f"{path} is gone"]
    (bundle / path).write_bytes(content)
    assert watch.look() == ()


def test_a_file_too_many_and_a_second_name_of_one_are_named(bundle: Path, opened: Bundle) -> None:
    watch = SkewWatch(opened)
    (bundle / "golden" / "more.txt").write_text("x")
    (bundle / "manifest.sig").write_text("nobody asked for it")
    assert described(watch.look()) == ["golden/more.txt is in the bundle and not in its manifest"]
    (bundle / "golden" / "more.txt").unlink()
    os.link(bundle / "CARD.md", bundle.parent / "second")
    assert described(watch.look()) == ["CARD.md is not a plain file any more"]
    (bundle.parent / "second").unlink()
    assert watch.look() == ()


def test_the_signature_that_was_asked_for_must_stay(bundle: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path, "ed25519")
    sign_bundle(bundle, private)
    opened = Bundle.open(bundle, trusted=signature.read_trusted(public))
    assert opened.signed_by == signature.read_public(public).id
    watch = SkewWatch(opened)
    assert watch.look() == ()
    (bundle / "manifest.sig").unlink()
    assert described(watch.look()) == ["manifest.sig is gone"]


def test_a_mapped_file_written_to_changes_answers_and_a_replaced_one_does_not(
    bundle: Path, opened: Bundle
) -> None:
    watch = SkewWatch(opened)
    content = (bundle / WEIGHTS).read_bytes()
    with (bundle / WEIGHTS).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1" if content[-1] != 1 else b"\2")
    (found,) = watch.look()
    assert found.affects_answers_now and found.message == WRITTEN_TO
    (bundle / "new").write_bytes(content[:-1] + b"\3")
    os.replace(bundle / "new", bundle / WEIGHTS)
    (found,) = watch.look()
    assert not found.affects_answers_now and found.message == ON_DISK


def test_only_bytes_show_a_change_that_kept_the_time(bundle: Path, opened: Bundle) -> None:
    """A file that is, by the file system, the one that was opened, and weights in memory."""
    (bundle / "CARD.md").write_text("# other\n")
    identity = FileIdentity.of(os.stat(bundle / "CARD.md"))
    card = replace(opened.files["CARD.md"], identity=identity)
    watch = SkewWatch(replace(opened, files={**opened.files, "CARD.md": card}))
    assert watch.look() == ()
    assert described(watch.verify()) == [f"CARD.md {ON_DISK}"]

    name, tensor = next((n, t) for n, t in opened.tensors().items() if t.is_floating_point())
    kept = tensor.clone()
    tensor.add_(1.0)
    found = watch.verify(disk=False)
    assert SkewChange("memory", WEIGHTS, "in memory is not what was loaded", True) in found, name
    assert found == watch.look(), "it stays reported until the bytes are right"
    tensor.copy_(kept)
    assert described(watch.verify(disk=False)) == [f"CARD.md {ON_DISK}"]


def loaded_again(module: ModuleType) -> ModuleType:
    """From the same source: what is set in it reaches no other test."""
    spec = importlib.util.spec_from_file_location(module.__name__, module.__file__)
    assert spec is not None and spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    return again


def test_a_patched_function_and_constant_are_named_and_may_change_answers_now(
    opened: Bundle,
) -> None:
    modules = {module.__name__: loaded_again(module) for module in (decode_image, speed)}
    watch = SkewWatch(opened, modules=lambda: modules)
    image, baseline = (vars(module) for module in modules.values())
    schemes, device_class = image["_TIFF_SCHEMES"], baseline["_device_class"]
    image["_TIFF_SCHEMES"] = (0.5, 0.5, 0.5)
    baseline["_device_class"] = lambda *_: "cpu"
    function, constant = watch.look()
    assert (constant.name, constant.affects_answers_now) == (
        "pipelines.media.decode_image._TIFF_SCHEMES",
        True,
    )
    assert "and is (0.5, 0.5, 0.5) in memory" in constant.message
    assert str(function) == "pipelines.bundle.speed._device_class was replaced in memory"
    assert function.affects_answers_now
    image["_TIFF_SCHEMES"], baseline["_device_class"] = schemes, device_class
    assert watch.look() == ()


SCRIPT = """if True:
    import sys
    from pathlib import Path
    from pipelines.bundle.bundle import Bundle
    from pipelines.bundle import speed
    from pipelines.bundle.skew import SkewWatch
    here = Path("pipelines")
    audio, extra = here / "models" / "qwen" / "log_mel.py", here / "zz.py"
    watch, source = SkewWatch(Bundle.open(sys.argv[1])), audio.read_bytes()
    moves = [
        lambda: None,
        lambda: audio.write_bytes(source + b"# edited"),
        lambda: audio.unlink(),
        lambda: (audio.write_bytes(source), extra.touch()),
        lambda: extra.unlink(),
        # As uv installs a package: a second name of a file, or a link to one.
        lambda: Path("cached").hardlink_to(audio),
        lambda: (audio.unlink(), audio.symlink_to(Path("cached").resolve())),
        lambda: setattr(speed, "_device_class", str),
    ]
    for move in moves:
        move()
        print([str(item) for item in watch.look()])
"""


def test_a_source_file_that_moves_on_disk_is_named_until_it_is_back(
    bundle: Path, tmp_path: Path
) -> None:
    ignore = shutil.ignore_patterns("triage")
    shutil.copytree(stamp.package_folder(), tmp_path / "pipelines", ignore=ignore)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(bundle)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=patience(120),
        check=True,
    )
    assert done.stdout.splitlines() == [
        "[]",
        f"['pipelines/models/qwen/log_mel.py {ON_DISK}']",
        "['pipelines/models/qwen/log_mel.py is gone']",
        "['pipelines/zz.py is new on disk']",
        *["[]"] * 3,
        "['pipelines.bundle.speed._device_class was replaced in memory']",
    ]


def test_a_library_upgraded_on_disk_is_named_until_it_is_back(
    opened: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path / "site")
    watch = SkewWatch(opened)
    assert watch.look() == ()
    upgraded = tmp_path / "site" / "numpy-99.0.dist-info"
    upgraded.mkdir(parents=True)
    (upgraded / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 99.0\n")
    (found,) = watch.look()
    loaded = stamp.running_libraries()["numpy"]
    assert str(found) == f"numpy {loaded} is loaded, 99.0 is installed"
    assert (found.kind, found.affects_answers_now) == ("library", False)
    shutil.rmtree(upgraded)
    assert watch.look() == ()


def test_every_library_that_can_be_upgraded_is_watched(opened: Bundle) -> None:
    for name in stamp.installed_libraries():
        upgraded = {**stamp.installed_libraries(), name: "99.0"}
        (found,) = SkewWatch(opened, lambda at=upgraded: at).look()  # type: ignore[misc]
        assert found.name == name and found.message.endswith("99.0 is installed")


def test_what_is_served_dirty_was_let_in_and_is_not_named(bundle: Path, opened: Bundle) -> None:
    other = {**opened.manifest.code, "pipelines/models/qwen/log_mel.py": "0" * 64}
    stale = replace(opened, manifest=replace(opened.manifest, code=other))
    dirty = replace(stale, stamp=replace(opened.stamp, dirty=True))
    manifest = "manifest.json was changed on disk"
    assert described(SkewWatch(stale).look()) == [
        manifest,
        f"pipelines/models/qwen/log_mel.py {ON_DISK}",
    ]
    assert described(SkewWatch(dirty).look()) == [manifest]
