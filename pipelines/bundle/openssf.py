"""model.sig: an OpenSSF model signature over a bundle, for tools that read that format.

Optional (`pip install trefoil-serve[openssf]`), in addition to manifest.sig and never instead of
it: a server checks manifest.sig. The library signs and verifies. On its own it would accept paths
that a signature lists as ignored, files under .git, unusual modes and empty directories. So this
module compares the signed names and digests with the opened files, and refuses everything else by
name.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidSignature

from pipelines.bundle import manifest as manifests
from pipelines.bundle.contents import Contents
from pipelines.bundle.files import put_file
from pipelines.bundle.formats import parse_json
from pipelines.bundle.signature import read_public
from pipelines.errors import BundleRefused

if TYPE_CHECKING:
    from model_signing.hashing import Config

_PREDICATE: Final = "https://model_signing/signature/v1.0"
# Neither signature covers the other: each may be added while the other is present.
_SIGNATURES: Final = (manifests.SIGNATURE, manifests.OPENSSF)
_BUNDLE_KEYS: Final = {"mediaType", "verificationMaterial", "dsseEnvelope"}
_ENVELOPE_KEYS: Final = {"payload", "payloadType", "signatures"}
_MAX_BYTES: Final = 4 << 20
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH
_ODD_FOR_A_FILE: Final = 0o111 | stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX | _WRITABLE_BY_OTHERS


def sign(contents: Contents, key_path: Path) -> None:
    """Writes model.sig beside the manifest of a verified bundle.

    Raises ValueError for a key that is not ECDSA or without the extra, BundleRefused when the
    directory has changed since `contents` was opened, OSError.
    """
    hashing = _hashing()
    from model_signing import signing

    refuse_modes(contents.path)
    root = Path(os.path.realpath(contents.path))
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / manifests.OPENSSF
        try:
            signer = signing.Config().use_elliptic_key_signer(private_key=key_path)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{key_path} is not an unencrypted ECDSA key in PEM, which OpenSSF model "
                f"signatures need: {error}"
            ) from error
        signer.set_hashing_config(hashing).sign(root, made)
        content = made.read_bytes()
    _compare(contents, content)
    put_file(contents.path, manifests.OPENSSF, content)


def check(contents: Contents, trusted: Sequence[Path]) -> str:
    """The id of the key (a PEM file of `trusted`) that signed exactly the files that were opened.

    Raises BundleRefused("signature"), ValueError for an unreadable key or without the extra.
    """
    hashing = _hashing()
    if contents.openssf is None:
        raise _refused("is missing; make it with `pipelines sign BUNDLE --key KEY --openssf`")
    content = bytes(contents.openssf.content)
    if len(content) > _MAX_BYTES:
        raise _refused(f"is longer than {_MAX_BYTES} bytes")
    refuse_modes(contents.path)
    complaints = []
    for path in trusted:
        key = read_public(path)
        complaint = _complaint(contents.path, content, path, hashing)
        if not complaint:
            _compare(contents, content)
            return key.id
        complaints.append(f"by {path.name}: {complaint}")
    raise _refused("; ".join(complaints))


def refuse_modes(bundle: Path) -> None:
    """Refuses unusual modes and empty directories, as neither signature covers them.

    Raises BundleRefused("signature").
    """
    root = os.path.realpath(bundle)
    for directory, folders, files in os.walk(root):
        where = os.path.relpath(directory, root)
        if not folders and not files:
            raise _refused(f"does not cover empty directories: remove {where}/")
        if os.lstat(directory).st_mode & _WRITABLE_BY_OTHERS:
            raise _refused(f"does not cover modes: others may write to {where}/, chmod go-w")
        for name in files:
            mode = stat.S_IMODE(os.lstat(os.path.join(directory, name)).st_mode)
            if mode & _ODD_FOR_A_FILE:
                path = os.path.normpath(os.path.join(where, name))
                raise _refused(f"does not cover modes: {path} has {mode:04o}, chmod it to 0644")


def _complaint(bundle: Path, content: bytes, key: Path, hashing: Config) -> str:
    """The library's objection; "" if it accepts the signature."""
    from model_signing import verifying

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / manifests.OPENSSF
        copy.write_bytes(content)  # the library reads the same bytes that are compared
        try:
            verifier = verifying.Config().use_elliptic_key_verifier(public_key=key)
            verifier.set_hashing_config(hashing).verify(Path(os.path.realpath(bundle)), copy)
        except InvalidSignature:
            return "the signature does not match"
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            return str(error).strip() or type(error).__name__
    return ""


def _compare(contents: Contents, content: bytes) -> None:
    """The signature must name exactly the opened files, whatever paths it lists as ignored."""
    signed = _signed_digests(content)
    manifest = hashlib.sha256(contents.manifest.to_bytes()).hexdigest()
    opened = {path: file.sha256 for path, file in contents.files.items()}
    opened[manifests.FILE] = manifest
    for path in sorted(signed.keys() | opened.keys()):
        if path not in signed:
            raise _refused(f"does not cover {path}")
        if path not in opened:
            raise _refused(f"covers {path}, which is missing")
        if signed[path] != opened[path]:
            raise _refused(f"covers another version of {path}")


def _signed_digests(content: bytes) -> dict[str, str]:
    """Path -> sha256, from the in-toto statement inside. Raises BundleRefused("signature")."""
    try:
        bundle = parse_json(manifests.OPENSSF, content)
        envelope = bundle["dsseEnvelope"]
        # Exactly these keys: with a second one, the library could read another payload than this
        # code.
        if set(bundle) != _BUNDLE_KEYS or set(envelope) != _ENVELOPE_KEYS:
            raise ValueError("it has other fields than a signature has")
        statement: Any = json.loads(base64.b64decode(envelope["payload"]))
        if statement["predicateType"] != _PREDICATE:
            raise ValueError(f"its predicate is {statement['predicateType']}, not {_PREDICATE}")
        resources = statement["predicate"]["resources"]
        if any(resource["algorithm"] != "sha256" for resource in resources):
            raise ValueError("it has digests other than sha256")
        digests = {str(found["name"]): str(found["digest"]) for found in resources}
        if len(digests) != len(resources):
            raise ValueError("it lists a file twice")
    except (BundleRefused, ValueError, KeyError, TypeError) as error:
        raise _refused(f"is not an OpenSSF model signature: {error}") from error
    return digests


def _hashing() -> Config:
    """How both sides hash a bundle: whole files, no links followed, only the two signatures
    ignored. Raises ValueError without the extra."""
    try:
        from model_signing import hashing
    except ImportError as error:
        raise ValueError(
            f"OpenSSF signatures need `pip install trefoil-serve[openssf]` ({error})"
        ) from error
    config: Config = hashing.Config().use_file_serialization(allow_symlinks=False)
    return config.set_ignored_paths(paths=_SIGNATURES, ignore_git_paths=False)


def _refused(why: str) -> BundleRefused:
    return BundleRefused("signature", f"{manifests.OPENSSF} {why}")
