"""Signed bundles: what a trusted key signed opens, everything else is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipelines.bundle.contents import read_contents
from pipelines.bundle.signature import TrustedKey, read_public, sign
from pipelines.errors import BundleRefused
from pipelines.main import main
from tests.support.tinybundle import reseal

PRIVATE = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
PUBLIC = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
KINDS = ("ed25519", "p256")


def keys(folder: Path, kind: str, name: str = "key") -> tuple[Path, Path]:
    """A private and a public key file."""
    key: Ed25519PrivateKey | EllipticCurvePrivateKey = generate_private_key(SECP256R1())
    if kind == "ed25519":
        key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(*PRIVATE, serialization.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(*PUBLIC))
    return private, public


def sign_bundle(bundle: Path, private: Path) -> str:
    return sign(bundle, read_contents(bundle).manifest.to_bytes(), private)


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def refused(bundle: Path, message: str, *trusted: TrustedKey) -> None:
    with pytest.raises(BundleRefused, match=message) as caught:
        read_contents(bundle, trusted=trusted)
    assert caught.value.check == "signature"


@pytest.mark.parametrize("kind", KINDS)
def test_a_signed_bundle_opens_for_who_trusts_the_key(
    bundle: Path, tmp_path: Path, kind: str
) -> None:
    private, public = keys(tmp_path, kind)
    trusted = read_public(public)
    refused(bundle, "not signed.*pipelines sign", trusted)
    before = read_contents(bundle).manifest.stamp()
    assert sign_bundle(bundle, private) == trusted.id
    opened = read_contents(bundle, trusted=[trusted])
    assert opened.signed_by == trusted.id
    assert opened.manifest.stamp() == before
    assert read_contents(bundle).signed_by == ""
    stranger = read_public(keys(tmp_path, kind, "stranger")[1])
    refused(bundle, "not trusted", stranger)
    assert read_contents(bundle, trusted=[stranger, trusted]).signed_by == trusted.id


@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_bit_of_a_signature_is_refused(
    bundle: Path, tmp_path: Path, kind: str
) -> None:
    private, public = keys(tmp_path, kind)
    trusted = read_public(public)
    sign_bundle(bundle, private)
    content = (bundle / "manifest.sig").read_bytes()
    values = json.loads(content)
    raw = bytes.fromhex(values["signature"])
    for place in range(len(raw)):
        flipped = bytearray(raw)
        flipped[place] ^= 1
        (bundle / "manifest.sig").write_text(json.dumps({**values, "signature": flipped.hex()}))
        refused(bundle, "does not match this manifest", trusted)


def test_a_changed_bundle_needs_a_new_signature(bundle: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path, "ed25519")
    sign_bundle(bundle, private)
    (bundle / "CARD.md").write_text("# other\n")
    signature = (bundle / "manifest.sig").read_bytes()
    (bundle / "manifest.sig").unlink()
    reseal(bundle)
    (bundle / "manifest.sig").write_bytes(signature)
    refused(bundle, "does not match this manifest", read_public(public))


def test_the_date_cannot_be_changed_under_a_signature(bundle: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path, "ed25519")
    sign_bundle(bundle, private)
    signature = (bundle / "manifest.sig").read_bytes()
    (bundle / "manifest.sig").unlink()
    reseal(bundle, created_at="2031-01-01T00:00:00Z")  # not in the stamp, but in what is signed
    (bundle / "manifest.sig").write_bytes(signature)
    refused(bundle, "does not match this manifest", read_public(public))


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"schema": 1}', "x" * 5000, "\udcff"])
def test_what_is_no_signature_is_refused(bundle: Path, tmp_path: Path, content: str) -> None:
    _, public = keys(tmp_path, "ed25519")
    (bundle / "manifest.sig").write_bytes(content.encode("utf-8", "surrogateescape"))
    refused(bundle, "signature is required", read_public(public))


def test_keys_of_another_kind_are_wrong_usage(bundle: Path, tmp_path: Path) -> None:
    other = generate_private_key(SECP384R1())
    private, public = tmp_path / "p384.pem", tmp_path / "p384.pub"
    private.write_bytes(other.private_bytes(*PRIVATE, serialization.NoEncryption()))
    public.write_bytes(other.public_key().public_bytes(*PUBLIC))
    with pytest.raises(ValueError, match="neither an Ed25519 nor a P-256"):
        sign_bundle(bundle, private)
    with pytest.raises(ValueError, match="neither an Ed25519 nor a P-256"):
        read_public(public)
    with pytest.raises(ValueError, match="not a public key"):
        read_public(private)
    with pytest.raises(ValueError, match="not an unencrypted private key"):
        sign_bundle(bundle, public)


def test_sign_and_verify_on_the_command_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = keys(tmp_path, "p256")
    verify = ["verify", str(bundle), "--threads", "1", "--key", str(public)]
    assert main(verify) == 78
    assert "bundle refused (signature)" in capsys.readouterr().err
    assert main(["sign", str(bundle), "--key", str(private)]) == 0
    assert "signed with key" in capsys.readouterr().out
    assert main(verify) == 0
    assert main(["sign", str(bundle), "--key", str(tmp_path / "none.pem")]) == 2
    with (bundle / "CARD.md").open("a") as card:
        card.write("x")
    assert main(["sign", str(bundle), "--key", str(private)]) == 78
    assert not list(tmp_path.glob(".*"))
