"""manifest.sig: a signature over the manifest. The manifest lists the digest of every file, so the
signature covers the whole bundle.

Ed25519, or ECDSA on P-256 with SHA-256, over a domain tag and the manifest exactly as it is on
disk. A key's id is the sha256 of its SubjectPublicKeyInfo. The caller decides which keys to trust;
without trusted keys, a signature is ignored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pipelines.bundle import manifest as manifests
from pipelines.bundle.files import Buffer, put_file
from pipelines.bundle.formats import parse_json
from pipelines.errors import BundleRefused

SCHEMA: Final = "trefoil.signature/1"
_DOMAIN: Final = b"trefoil.signature.v1\0"
_MAX_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class TrustedKey:
    id: str
    key: Ed25519PublicKey | EllipticCurvePublicKey


def read_public(path: Path) -> TrustedKey:
    """A public key in PEM. Raises ValueError for anything but Ed25519 and P-256, OSError."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{path} is not a public key in PEM: {error}") from error
    if isinstance(key, Ed25519PublicKey) or _is_p256(key):
        return TrustedKey(_id(key), key)  # type: ignore[arg-type]
    raise ValueError(f"{path} is neither an Ed25519 nor a P-256 key")


def read_trusted(path: Path) -> tuple[TrustedKey, ...]:
    """The public keys of a file, or of every .pem and .pub in a directory.

    Raises ValueError when there is none, or a file with that suffix is not a key; OSError.
    """
    if not path.is_dir():
        return (read_public(path),)
    found = sorted(item for item in path.iterdir() if item.suffix in (".pem", ".pub"))
    if not found:
        raise ValueError(f"{path} holds no public key (*.pem, *.pub)")
    return tuple(read_public(item) for item in found)


def sign(folder: Path, manifest_bytes: bytes, key_path: Path) -> str:
    """Writes manifest.sig into the bundle `folder` and returns the key's id.

    `manifest_bytes` is the manifest of a bundle the caller has verified, as it is on disk. Raises
    ValueError for another kind of key, OSError.
    """
    try:
        key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{key_path} is not an unencrypted private key in PEM: {error}") from error
    if isinstance(key, Ed25519PrivateKey):
        signature = key.sign(_DOMAIN + manifest_bytes)
    elif isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
        signature = key.sign(_DOMAIN + manifest_bytes, ECDSA(hashes.SHA256()))
    else:
        raise ValueError(f"{key_path} is neither an Ed25519 nor a P-256 key")
    identity = _id(key.public_key())
    values = {"schema": SCHEMA, "key": identity, "signature": signature.hex()}
    text = json.dumps(values, indent=1) + "\n"
    put_file(folder, manifests.SIGNATURE, text.encode())
    return identity


def check(manifest: Buffer, signature: Buffer | None, trusted: Sequence[TrustedKey]) -> str:
    """The id of the trusted key that signed this manifest. Raises BundleRefused("signature")."""
    if signature is None:
        raise _refused("it is not signed; sign it with `pipelines sign BUNDLE --key KEY`")
    if len(signature) > _MAX_BYTES:
        raise _refused(f"{manifests.SIGNATURE} is longer than {_MAX_BYTES} bytes")
    try:
        values = parse_json(manifests.SIGNATURE, signature)
    except BundleRefused as error:
        raise _refused(error.message) from error
    if set(values) != {"schema", "key", "signature"} or values["schema"] != SCHEMA:
        raise _refused(f"{manifests.SIGNATURE} does not have the schema {SCHEMA}")
    key = next((candidate for candidate in trusted if candidate.id == values["key"]), None)
    if key is None:
        raise _refused(f"it was signed with key {str(values['key'])[:12]}…, which is not trusted")
    try:
        _verify(key, bytes.fromhex(str(values["signature"])), _DOMAIN + bytes(manifest))
    except (InvalidSignature, ValueError) as error:
        raise _refused(
            f"the signature by key {key.id[:12]}… does not match this manifest"
        ) from error
    return key.id


def _verify(trusted: TrustedKey, signature: bytes, message: bytes) -> None:
    if isinstance(trusted.key, Ed25519PublicKey):
        trusted.key.verify(signature, message)
    else:
        trusted.key.verify(signature, message, ECDSA(hashes.SHA256()))


def _is_p256(key: object) -> bool:
    return isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)


def _id(key: object) -> str:
    assert isinstance(key, Ed25519PublicKey | EllipticCurvePublicKey)
    spki = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).hexdigest()


def _refused(why: str) -> BundleRefused:
    return BundleRefused("signature", f"a signature is required: {why}")
