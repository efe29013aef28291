"""Encrypts kept payloads at rest: AES-256-GCM (NIST SP 800-38D) with keys from one file.

The first key of the file encrypts; every key in it decrypts. So a key is replaced by a new one
above it, and removed once its payloads are older than `--keep-days`. A stored payload is

    "TFP1" | key id, 8 bytes | nonce, 12 random bytes | ciphertext and tag

with the prediction's id as associated data: a payload moved to another row does not decrypt. A
serialized Example never begins with these letters ("T" would be the end of a group, which proto3
does not have), so payloads from before the first key can still be read.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

MAGIC: Final = b"TFP1"
ID_BYTES: Final = 8
NONCE_BYTES: Final = 12
MOST_KEYS: Final = 64
_KEY: Final = re.compile(r"[0-9a-fA-F]{64}\Z")
MAKE = "(umask 077; openssl rand -hex 32 > FILE)"


class KeyFileInvalid(Exception):
    """The key file cannot be used. The message names the line or the permission, and the remedy."""


class PayloadLocked(Exception):
    """A payload that cannot be read here; the message has the reason."""


@dataclass(frozen=True, slots=True)
class PayloadKey:
    """`id` is public: it is stored in front of each payload."""

    id: bytes
    secret: bytes

    @staticmethod
    def of(secret: bytes) -> PayloadKey:
        return PayloadKey(hashlib.sha256(b"trefoil.payload-key\0" + secret).digest()[:8], secret)

    def __repr__(self) -> str:
        return f"PayloadKey({self.id.hex()})"  # never the secret


@dataclass(frozen=True, slots=True)
class PayloadKeys:
    """Newest first; without keys, payloads are stored unencrypted."""

    keys: tuple[PayloadKey, ...] = ()

    def seal(self, prediction_id: str, payload: bytes) -> bytes:
        if not self.keys or not payload:
            return payload
        key, nonce = self.keys[0], os.urandom(NONCE_BYTES)
        sealed = _cipher(key).encrypt(nonce, payload, _bound(prediction_id))
        return MAGIC + key.id + nonce + bytes(sealed)

    def open(self, prediction_id: str, stored: bytes) -> bytes:
        """The decrypted payload. Raises PayloadLocked without the key, or for bytes that were
        changed."""
        if not stored.startswith(MAGIC):
            return stored
        from cryptography.exceptions import InvalidTag

        identity = stored[len(MAGIC) : len(MAGIC) + ID_BYTES]
        key = next((key for key in self.keys if key.id == identity), None)
        if key is None:
            raise PayloadLocked(
                f"the payload is encrypted with key {identity.hex()}; give the file that has it: "
                "--payload-key FILE"
            )
        begin = len(MAGIC) + ID_BYTES
        nonce, sealed = stored[begin : begin + NONCE_BYTES], stored[begin + NONCE_BYTES :]
        try:
            return bytes(_cipher(key).decrypt(nonce, sealed, _bound(prediction_id)))
        except (InvalidTag, ValueError):
            raise PayloadLocked("the stored payload was changed: it does not decrypt") from None


NO_KEYS: Final = PayloadKeys()


def read(path: Path) -> PayloadKeys:
    """One key on each line, 64 hex digits, newest first; lines that begin with # are comments.

    Raises KeyFileInvalid, also for a file that others may read; OSError.
    """
    with path.open() as file:
        found = os.fstat(file.fileno())
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise KeyFileInvalid(f"{path} may be read by others: chmod 600 {path}")
        if found.st_uid not in (0, os.geteuid()):
            raise KeyFileInvalid(f"{path} belongs to user {found.st_uid}: chown it to this one")
        try:
            lines = file.read(1 << 16).splitlines()
        except UnicodeDecodeError:
            raise KeyFileInvalid(f"{path} is not text; make one: {MAKE}") from None
    keys = []
    for number, line in enumerate(lines, start=1):
        word = line.strip()
        if not word or word.startswith("#"):
            continue
        if not _KEY.match(word):  # the line is not repeated in the message: it may be nearly a key
            raise KeyFileInvalid(f"{path}, line {number}: a key is 64 hex digits; make one: {MAKE}")
        keys.append(PayloadKey.of(bytes.fromhex(word)))
    if not 1 <= len(keys) <= MOST_KEYS:
        raise KeyFileInvalid(f"{path} has {len(keys)} keys; give 1 to {MOST_KEYS}")
    return PayloadKeys(tuple(keys))


def _bound(prediction_id: str) -> bytes:
    return b"trefoil.payload\0" + prediction_id.encode()


def _cipher(key: PayloadKey) -> Any:
    # Imported late: without a key the library costs no memory.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key.secret)
