"""Opening a bundle: what is refused, by which check, and that the loaded bytes are the hashed
ones."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import pipelines
from pipelines.build import build
from pipelines.bundle import files, golden, manifest
from pipelines.bundle.bundle import Bundle
from pipelines.bundle.contents import changed, read_contents
from pipelines.bundle.stamp import Leaf
from pipelines.errors import BundleRefused
from tests.support.patience import patience
from tests.support.tinybundle import ONE_THREAD, make_spec, refused, reseal

WEIGHTS = "weights/model.safetensors"
Change = Callable[[Path], object]


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def test_an_untouched_bundle_opens_with_its_own_stamp(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.stamp.hex == opened.manifest.stamp_hex
    assert not opened.stamp.dirty
    assert [label["name"] for label in opened.labels["labels"]][0] == "run on"
    assert opened.card.startswith("# tiny")
    assert opened.reference is None


# ---- same content, same stamp ----------------------------------------------------------------


def test_path_umask_and_order_of_writing_do_not_change_the_stamp(tmp_path: Path) -> None:
    stamps, modes = set(), set()
    for place, umask in (("here", 0o022), ("there", 0o077)):
        spec = make_spec(created_at=f"the day of {place}")
        old = os.umask(umask)
        try:
            out = tmp_path / place / "bundle"
            stamps.add(build.write_bundle(spec, out, ONE_THREAD).hex)
        finally:
            os.umask(old)
        found = sorted(out.rglob("*"))
        modes |= {(path.is_dir(), path.stat().st_mode & 0o777) for path in found}
    assert len(stamps) == 1
    assert modes == {(True, 0o755), (False, 0o644)}


def test_a_copy_in_reverse_order_has_the_same_stamp(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for path in sorted((p for p in bundle.rglob("*") if p.is_file()), reverse=True):
        target = copy / path.relative_to(bundle)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    assert Bundle.open(copy).stamp == Bundle.open(bundle).stamp


def test_a_link_to_the_directory_is_followed(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(bundle)
    assert Bundle.open(tmp_path / "current").stamp == Bundle.open(bundle).stamp


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    else:
        yield path


def test_every_preprocessing_parameter_is_in_the_stamp(bundle: Path) -> None:
    file = bundle / "preprocess.json"
    original = json.loads(file.read_text())
    parameters = list(_leaves(original))
    seen = {manifest.read((bundle / "manifest.json").read_bytes()).stamp_hex}
    for path in parameters:
        values = json.loads(json.dumps(original))
        inside = values
        for key in path[:-1]:
            inside = inside[key]
        inside[path[-1]] = [inside[path[-1]], "changed"]
        file.write_text(json.dumps(values))
        reseal(bundle)
        seen.add(manifest.read((bundle / "manifest.json").read_bytes()).stamp_hex)
    assert len(parameters) > 40
    assert len(seen) == len(parameters) + 1


# ---- changed content -------------------------------------------------------------------------


def test_every_flipped_byte_of_the_manifest_is_refused(bundle: Path) -> None:
    content = (bundle / "manifest.json").read_bytes()
    for place in range(0, len(content), 5):
        flipped = bytearray(content)
        flipped[place] ^= 0x20 if place % 2 else 0x01
        with pytest.raises(BundleRefused):
            manifest.read(flipped)


def test_every_flipped_byte_of_every_other_file_is_refused(bundle: Path) -> None:
    rng = random.Random(0)
    tried = 0
    for path in sorted(p for p in bundle.rglob("*") if p.is_file() and p.name != "manifest.json"):
        content = path.read_bytes()
        ends = {0, 1, 7, 8, 9, len(content) - 1}
        places = (
            range(len(content))
            if len(content) < 100
            else ends | set(rng.sample(range(len(content)), 8))
        )
        for place in places:
            flipped = bytearray(content)
            flipped[place] ^= 1 << rng.randrange(8)
            path.write_bytes(flipped)
            with pytest.raises(BundleRefused):
                read_contents(bundle)
            tried += 1
        path.write_bytes(content)
    assert tried > 300
    Bundle.open(bundle)


def _symlink(bundle: Path) -> None:
    (bundle / "labels.json").rename(bundle.parent / "labels.json")
    (bundle / "labels.json").symlink_to(bundle.parent / "labels.json")


def _symlinked_folder(bundle: Path) -> None:
    (bundle / "golden").rename(bundle.parent / "golden")
    (bundle / "golden").symlink_to(bundle.parent / "golden")


def _fifo(bundle: Path) -> None:
    (bundle / "labels.json").unlink()
    os.mkfifo(bundle / "labels.json")


def _socket(bundle: Path) -> None:
    (bundle / "CARD.md").unlink()
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(bundle / "CARD.md"))


def _nested(bundle: Path) -> None:
    (bundle / "golden" / "deep").mkdir()
    (bundle / "golden" / "deep" / "a.txt").write_text("x")


CHANGES: dict[str, tuple[str, str, Change]] = {
    "extra file": ("files", "extra.txt", lambda b: (b / "golden" / "extra.txt").write_text("x")),
    "extra code": ("format", "run code", lambda b: (b / "golden" / "evil.py").write_text("x")),
    "hidden file": ("names", ".hidden", lambda b: (b / ".hidden").write_text("x")),
    "git folder": ("names", ".git", lambda b: (b / ".git").mkdir()),
    "missing file": ("files", "missing", lambda b: (b / "labels.json").unlink()),
    "renamed file": ("files", "CARDS.md|CARD.md", lambda b: (b / "CARD.md").rename(b / "CARDS.md")),
    "longer file": ("hash", "CARD.md", lambda b: (b / "CARD.md").open("a").write("x")),
    "shorter file": ("hash", "CARD.md", lambda b: os.truncate(b / "CARD.md", 3)),
    "empty file": ("hash", "CARD.md", lambda b: os.truncate(b / "CARD.md", 0)),
    "symlink": ("kind", "labels.json", _symlink),
    "symlinked folder": ("kind", "golden", _symlinked_folder),
    "fifo": ("kind", "FIFO", _fifo),
    "socket": ("kind", "CARD.md", _socket),
    "hard link": ("kind", "hard link", lambda b: os.link(b / "CARD.md", b.parent / "other")),
    "case collision": ("names", "case", lambda b: (b / "LABELS.json").write_text("{}")),
    "newline in a name": ("names", "name", lambda b: (b / "a\nb").write_text("x")),
    "letters that fold": ("names", "name", lambda b: (b / "ﬁle.json").write_text("x")),
    "too deep": ("names", "deep", _nested),
    "no manifest": ("manifest", "is it a bundle", lambda b: (b / "manifest.json").unlink()),
    "empty manifest": ("format", "parse", lambda b: (b / "manifest.json").write_text("")),
    "no directory": ("missing", "not a bundle", lambda b: b.rename(b.parent / "gone")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_directory_is_refused_by_name(bundle: Path, change: str) -> None:
    check, message, apply = CHANGES[change]
    apply(bundle)
    error = refused(bundle, check, message)
    assert len(error.message) > 20


# ---- an attacker writes a matching manifest ---------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["../outside.json", "/etc/passwd", "golden/../labels.json", "golden//a.txt", "./labels.json"],
)
def test_a_manifest_that_points_outside_is_refused(bundle: Path, path: str) -> None:
    whole = manifest.read((bundle / "manifest.json").read_bytes())
    reseal(bundle, files=(*whole.files, Leaf(path, 1, "0" * 64)))
    refused(bundle, "names", "not a valid name")


def test_a_file_outside_the_layout_is_refused(bundle: Path) -> None:
    (bundle / "notes.txt").write_text("x")
    reseal(bundle)
    refused(bundle, "names", "notes.txt is not part of the bundle layout")


def test_a_file_listed_twice_is_refused(bundle: Path) -> None:
    whole = manifest.read((bundle / "manifest.json").read_bytes())
    reseal(bundle, files=(*whole.files, whole.files[0]))
    refused(bundle, "names", "twice")


class _Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("/nonexistent/pwned",))


def _torch_zip(path: Path) -> None:
    torch.save({"x": torch.zeros(2)}, path)


DISGUISES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "pickle as safetensors": (WEIGHTS, lambda p: p.write_bytes(pickle.dumps(_Evil(), 4))),
    "old pickle as safetensors": (WEIGHTS, lambda p: p.write_bytes(pickle.dumps(_Evil(), 0))),
    "torch.save as safetensors": (WEIGHTS, _torch_zip),
    "pickle as json": ("labels.json", lambda p: p.write_bytes(pickle.dumps(_Evil(), 2))),
    "pickle as jpeg": ("golden/image.0.jpg", lambda p: p.write_bytes(pickle.dumps(_Evil()))),
    "pickle as wav": ("golden/audio.0.wav", lambda p: p.write_bytes(pickle.dumps(_Evil()))),
    "pickle as text": ("golden/text.0.txt", lambda p: p.write_bytes(pickle.dumps(_Evil()))),
    "pickle by name": ("weights/model.pt", lambda p: p.write_bytes(b"anything")),
    "binary by name": ("weights/pytorch_model.bin", _torch_zip),
    "code by name": ("model/modeling.py", lambda p: p.write_text("print()")),
    "no suffix": ("model/config", lambda p: p.write_text("{}")),
    "json list": ("labels.json", lambda p: p.write_text("[]")),
    "json with a key twice": ("labels.json", lambda p: p.write_text('{"a": 1, "a": 2}')),
    "json with NaN": ("labels.json", lambda p: p.write_text('{"a": NaN}')),
    "json too deep": ("labels.json", lambda p: p.write_text('{"a":' + "[" * 200_000)),
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_what_could_run_code_is_refused_whatever_its_name_and_manifest(
    bundle: Path, disguise: str
) -> None:
    path, write = DISGUISES[disguise]
    write(bundle / path)
    reseal(bundle)
    refused(bundle, "format")


@pytest.mark.parametrize("path", ["labels.json", "golden/golden.json", "CARD.md"])
def test_a_bundle_built_without_a_needed_file_is_refused(bundle: Path, path: str) -> None:
    (bundle / path).unlink()
    reseal(bundle)
    refused(bundle, "files", path)


# ---- nothing between check and use -----------------------------------------------------------


def test_what_is_loaded_are_the_bytes_that_were_hashed(bundle: Path) -> None:
    path = "labels.json"
    before = (bundle / path).read_bytes()

    def overwrite(step: str, _: float) -> None:
        if step == "code":  # all hashing is done, nothing is built yet
            with (bundle / path).open("r+b") as file:
                file.write(before.replace(b"watch", b"catch"))

    opened = Bundle.open(bundle, progress=overwrite)
    assert opened.content(path) == before
    assert changed(bundle, opened.files) == [path]
    refused(bundle, "hash", path)


def test_weights_written_to_while_they_are_opened_are_refused(bundle: Path) -> None:
    def overwrite(step: str, _: float) -> None:
        if step == "code":  # all hashing is done, the weights are not built yet
            with (bundle / WEIGHTS).open("r+b") as file:
                file.seek(-4096, os.SEEK_END)
                file.write(b"\1" * 4096)

    with pytest.raises(BundleRefused, match="modified while the bundle was being opened"):
        Bundle.open(bundle, progress=overwrite)
    refused(bundle, "hash", "model.safetensors")


def test_weights_are_mapped_whatever_their_size_and_all_else_is_private(bundle: Path) -> None:
    opened = files.open_folder(bundle)
    assert [file.path for file in opened if file.mapped] == [WEIGHTS]
    mapped = next(file for file in opened if file.mapped)
    assert changed(bundle, {WEIGHTS: mapped}) == []
    with (bundle / WEIGHTS).open("r+b") as file:
        file.write(b"x")
    assert changed(bundle, {WEIGHTS: mapped}) == [WEIGHTS]


def test_a_write_to_mapped_weights_stays_in_the_process_that_made_it(bundle: Path) -> None:
    before = (bundle / WEIGHTS).read_bytes()
    first, second = Bundle.open(bundle), Bundle.open(bundle)
    for tensor in first.tensors().values():
        tensor.zero_()
    assert (bundle / WEIGHTS).read_bytes() == before
    assert bytes(second.files[WEIGHTS].content) == before
    assert not bytes(first.files[WEIGHTS].content).endswith(before[-64:])


def test_a_small_shard_is_hashed_at_every_opening(bundle: Path) -> None:
    """A digest is remembered for what takes long to hash, and for nothing else."""
    asked: list[str] = []

    def known(path: str, _: files.FileIdentity) -> str | None:
        asked.append(path)
        return "0" * 64

    assert all(
        file.sha256 != "0" * 64 for file in files.open_folder(bundle, files.Opening(known=known))
    )
    files.open_folder(bundle, files.Opening(map_above=400_000, known=known))
    assert asked == [WEIGHTS]


def test_progress_reaches_the_end(bundle: Path) -> None:
    seen: list[tuple[str, float]] = []
    Bundle.open(bundle, progress=lambda step, done: seen.append((step, done)))
    assert ("hash", 1.0) in seen
    assert seen[-1] == ("weights", 1.0)
    hashed = [done for step, done in seen if step == "hash"]
    assert hashed == sorted(hashed)


# ---- this process ----------------------------------------------------------------------------


def test_another_library_version_is_refused_and_served_dirty_when_allowed(bundle: Path) -> None:
    whole = manifest.read((bundle / "manifest.json").read_bytes())
    clean = whole.stamp_hex
    for library in whole.libraries:
        reseal(bundle, libraries={**whole.libraries, library: "0.0.1"})
        refused(bundle, "libraries", f"{library} 0.0.1 -> .*pipelines restamp")
    dirty = Bundle.open(bundle, allow_dirty=True).stamp
    assert dirty.dirty
    assert dirty.hex not in (clean, Bundle.open(bundle, allow_dirty=True).manifest.stamp_hex)
    assert dirty.name == f"tiny-2026.01+dirty.{dirty.hex[:12]}"


def test_an_untracked_library_is_refused_too(bundle: Path) -> None:
    whole = manifest.read((bundle / "manifest.json").read_bytes())
    reseal(bundle, libraries={k: v for k, v in whole.libraries.items() if k != "torch"})
    refused(bundle, "libraries", "torch untracked")


def test_changed_code_is_refused_by_the_process_that_runs_it(bundle: Path, tmp_path: Path) -> None:
    source = Path(pipelines.__file__).parent
    shutil.copytree(
        source, tmp_path / "pipelines", ignore=shutil.ignore_patterns("__pycache__", "triage")
    )
    script = "import sys; from pipelines.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "inspect", "--json", str(bundle)]

    def refusal() -> str:
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=patience(120), check=True
        )
        return str(json.loads(done.stdout)["refused_here"])

    assert refusal() == ""
    with (tmp_path / "pipelines" / "models" / "qwen" / "log_mel.py").open("a") as file:
        file.write("# changed\n")
    assert "pipelines/models/qwen/log_mel.py differ" in refusal()
    assert "pipelines restamp" in refusal()


# ---- writing ---------------------------------------------------------------------------------


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path, allow_dirty: bool) -> golden.Answering:
        raise BundleRefused("golden", "no")

    with pytest.raises(BundleRefused):
        build.write_bundle(make_spec(), tmp_path / "out", fail)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_directory_is_not_built_over(bundle: Path) -> None:
    with pytest.raises(FileExistsError):
        build.write_bundle(make_spec(), bundle)
