"""OpenSSF model signatures: what their tool accepts is accepted here, and what it wrongly accepts
is refused."""

from __future__ import annotations

import base64
import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.bundle import manifest, openssf
from pipelines.bundle.bundle import Bundle
from pipelines.bundle.contents import read_contents
from pipelines.errors import BundleRefused
from pipelines.main import main
from tests.pipelines.test_signature import keys
from tests.support.patience import patience
from tests.support.tinybundle import reseal

try:
    importlib.import_module("model_signing.signing")
except ImportError as absent:
    pytest.skip(
        f"NOT TESTED: no OpenSSF signature was made or checked; pip install "
        f"'trefoil-serve[openssf]' ({absent})",
        allow_module_level=True,
    )

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return keys(tmp_path, "p256")


@pytest.fixture
def signed(bundle: Path, pair: tuple[Path, Path]) -> Path:
    openssf.sign(read_contents(bundle), pair[0])
    return bundle


def refused(bundle: Path, message: str, *public: Path) -> None:
    with pytest.raises(BundleRefused, match=message):
        openssf.check(read_contents(bundle), public)


def their_tool(bundle: Path, public: Path, *flags: str) -> bool:
    """Whether the tool of the format itself accepts a bundle."""
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(bundle)]
    command += ["--signature", str(bundle / "model.sig"), "--public_key", str(public), *flags]
    return subprocess.run(command, capture_output=True, timeout=patience(60)).returncode == 0


def test_a_signature_is_accepted_by_us_and_by_the_tool_of_the_format(
    signed: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    before = manifest.read((signed / "manifest.json").read_bytes()).stamp_hex
    assert openssf.check(read_contents(signed), [pair[1]])
    assert their_tool(signed, pair[1])
    assert Bundle.open(signed).stamp.hex == before, "the signature is not part of the stamp"
    stranger = keys(tmp_path, "p256", "stranger")[1]
    refused(signed, "by stranger.pub", stranger)
    assert openssf.check(read_contents(signed), [stranger, pair[1]])


def test_both_signatures_fit_on_one_bundle_in_either_order(
    bundle: Path, pair: tuple[Path, Path], capsys: Captured
) -> None:
    private, public = map(str, pair)
    for flags in ([], ["--openssf"], []):
        assert main(["sign", str(bundle), "--key", private, *flags]) == 0
        capsys.readouterr()
    for flags in ([], ["--openssf"]):
        arguments = ["verify", str(bundle), "--threads", "1", "--key", public, *flags]
        assert main(arguments) == 0
        assert "signed by " in capsys.readouterr().out
    assert their_tool(bundle, pair[1])


def planted(bundle: Path) -> None:
    (bundle / ".git").mkdir()
    (bundle / ".git" / "evil.py").write_text("print('here')\n")


def other_mode(bundle: Path) -> None:
    (bundle / "CARD.md").chmod(0o777)


# What their own tool lets through as it is run by default, and with --ignore_unsigned_files.
SLIPS_PAST: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a file under .git": (planted, "not a valid name in a bundle"),
    "a file called .gitattributes": (
        lambda b: (b / ".gitattributes").write_text("* text"),
        "not a valid name in a bundle",
    ),
    "a mode": (other_mode, "CARD.md has 0777, chmod"),
    "a directory others may write to": (
        lambda b: (b / "golden").chmod(0o777),
        "others may write to golden/",
    ),
    "an empty directory": (lambda b: (b / "empty").mkdir(), "empty directories"),
}


@pytest.mark.parametrize("slip", SLIPS_PAST)
def test_what_slips_past_their_tool_is_refused(
    signed: Path, pair: tuple[Path, Path], slip: str
) -> None:
    change, message = SLIPS_PAST[slip]
    change(signed)
    assert their_tool(signed, pair[1]), "otherwise this test proves nothing"
    refused(signed, message, pair[1])


def test_an_extra_file_is_refused_though_their_tool_can_ignore_it(
    signed: Path, pair: tuple[Path, Path]
) -> None:
    (signed / "golden" / "evil.txt").write_text("x")
    assert their_tool(signed, pair[1], "--ignore_unsigned_files")
    refused(signed, "evil.txt is not in the manifest", pair[1])


CHANGES: dict[str, Callable[[Path], Any]] = {
    "a file in the manifest too": lambda b: (b / "golden" / "more.txt").write_text("x"),
    "a renamed file": lambda b: (b / "golden" / "a.txt").rename(b / "golden" / "z.txt"),
    "a changed file": lambda b: (b / "CARD.md").write_text("# other\n"),
    "a file less": lambda b: (b / "golden" / "a.txt").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_bundle_sealed_again_needs_a_new_signature(
    bundle: Path, pair: tuple[Path, Path], change: str
) -> None:
    (bundle / "golden" / "a.txt").write_text("a")
    reseal(bundle)
    openssf.sign(read_contents(bundle), pair[0])
    signature = (bundle / "model.sig").read_bytes()
    (bundle / "model.sig").unlink()
    CHANGES[change](bundle)
    reseal(bundle)
    (bundle / "model.sig").write_bytes(signature)
    refused(bundle, "Signature mismatch", pair[1])


def test_a_signature_that_ignores_files_vouches_for_none_of_them(
    bundle: Path, pair: tuple[Path, Path]
) -> None:
    """The list of ignored paths is inside the signature, and their tool obeys it."""
    hashing = importlib.import_module("model_signing.hashing")
    signing = importlib.import_module("model_signing.signing")
    ignoring = hashing.Config().set_ignored_paths(paths=["CARD.md", "model.sig"])
    signer = signing.Config().use_elliptic_key_signer(private_key=pair[0])
    signer.set_hashing_config(ignoring).sign(bundle, bundle / "model.sig")
    assert their_tool(bundle, pair[1])
    refused(bundle, "does not cover CARD.md", pair[1])


def test_the_subject_digest_is_not_bound_to_names_and_is_not_relied_on(
    bundle: Path, pair: tuple[Path, Path]
) -> None:
    def subject(name: str) -> str:
        folder = bundle.parent / name
        folder.mkdir()
        (folder / name).write_text("same bytes")
        signing = importlib.import_module("model_signing.signing")
        signature = folder.parent / f"{name}.sig"
        signer = signing.Config().use_elliptic_key_signer(private_key=pair[0])
        signer.sign(folder, signature)
        payload = json.loads(signature.read_text())["dsseEnvelope"]["payload"]
        return str(json.loads(base64.b64decode(payload))["subject"][0]["digest"])

    assert subject("b.json") == subject("c.json")  # why a stamp cannot be made of it
    card = manifest.read((bundle / "manifest.json").read_bytes()).stamp_hex
    (bundle / "golden" / "a.txt").write_text("a")
    reseal(bundle)
    a = manifest.read((bundle / "manifest.json").read_bytes()).stamp_hex
    (bundle / "golden" / "a.txt").rename(bundle / "golden" / "b.txt")
    reseal(bundle)
    b = manifest.read((bundle / "manifest.json").read_bytes()).stamp_hex
    assert len({card, a, b}) == 3


@pytest.mark.parametrize(
    "spoil",
    [
        lambda v: v["dsseEnvelope"].update(payload=v["dsseEnvelope"]["payload"][:-8]),
        lambda v: v["dsseEnvelope"]["signatures"][0].update(sig="AAAA"),
        lambda v: v.update(dsse_envelope=v["dsseEnvelope"]),
        lambda v: v.pop("dsseEnvelope"),
        lambda v: v.clear(),
    ],
)
def test_what_is_no_signature_of_this_bundle_is_refused(
    signed: Path, pair: tuple[Path, Path], spoil: Callable[[Any], Any]
) -> None:
    values = json.loads((signed / "model.sig").read_text())
    spoil(values)
    (signed / "model.sig").write_text(json.dumps(values))
    refused(signed, "model.sig", pair[1])


def test_wrong_usage_and_a_refusal_have_their_own_exit_codes(
    bundle: Path, pair: tuple[Path, Path], tmp_path: Path, capsys: Captured
) -> None:
    verify = ["verify", str(bundle), "--openssf"]
    assert main(verify) == 2
    assert "--key PUBLIC" in capsys.readouterr().err
    assert main([*verify, "--key", str(pair[1])]) == 78
    assert "pipelines sign" in capsys.readouterr().err
    ed25519 = keys(tmp_path, "ed25519", "other")[0]
    assert main(["sign", str(bundle), "--openssf", "--key", str(ed25519)]) == 2
    assert "ECDSA" in capsys.readouterr().err
    assert not (bundle / "model.sig").exists()
