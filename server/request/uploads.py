"""Payloads too large for one message: received in chunks, kept in memory for a short time, put in
place of `Part.upload_id` when a request names them. Knows no gRPC."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from server.request.status import Refused, bad_input
from server.types import Fault

SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """`each` bounds one upload, `peer` what one host may hold at once, `total` all of them."""

    each_bytes: int = 64 << 20
    peer_bytes: int = 128 << 20
    total_bytes: int = 256 << 20
    ttl_s: float = 300.0
    idle_s: float = 30.0  # longest wait for the next chunk


@dataclass(frozen=True, slots=True)
class Upload:
    id: str
    data: bytes
    mime: str
    sha256: str
    peer: str
    expires: float  # on the store's clock


class Receiving:
    """One upload on its way in. Its announced size is reserved until it is kept or given up."""

    def __init__(self, announced: int, sha256: str) -> None:
        self._announced = announced
        self._claim = sha256
        self._digest = hashlib.sha256()
        self._data = bytearray()  # grows with what arrives, never with what is announced

    def add(self, chunk: bytes) -> None:
        """Raises Refused when more arrives than was announced."""
        if len(self._data) + len(chunk) > self._announced:
            text = f"more than the announced {self._announced} bytes arrived"
            raise Refused(bad_input("header.total_bytes", "UPLOAD_LONGER_THAN_ANNOUNCED", text))
        self._digest.update(chunk)
        self._data += chunk

    def finish(self) -> tuple[bytes, str]:
        """The content and its SHA-256; raises Refused when it is not what was announced."""
        if len(self._data) != self._announced:
            text = f"{len(self._data)} of the announced {self._announced} bytes arrived"
            raise Refused(bad_input("header.total_bytes", "UPLOAD_SHORTER_THAN_ANNOUNCED", text))
        found = self._digest.hexdigest()
        if self._claim and self._claim != found:
            text = f"the content hashes to {found}, the header claims {self._claim}"
            raise Refused(bad_input("header.sha256", "SHA256_MISMATCH", text))
        return bytes(self._data), found


class UploadStore:
    """Finished uploads by id, and the bytes reserved by those still arriving.

    # Invariant: `_held[peer]` is what the peer's kept and arriving uploads may occupy, and the
    values sum to `_total`; both only change together in `_hold`.
    """

    def __init__(self, limits: UploadLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self._clock = clock
        self._kept: dict[str, Upload] = {}
        self._held: dict[str, int] = {}
        self._total = 0

    def reserve(self, peer: str, announced: int, sha256: str) -> Receiving:
        """Room for an upload, or Refused. Every reservation ends in `keep` or `give_up`."""
        self._expire()
        limits = self.limits
        if announced == 0:
            raise Refused(bad_input("header.total_bytes", "EMPTY", "an upload of 0 bytes"))
        if announced > limits.each_bytes:
            text = f"{announced} bytes announced; the limit is {limits.each_bytes} an upload"
            raise Refused(bad_input("header.total_bytes", "UPLOAD_TOO_LARGE", text))
        if sha256 and not SHA256.fullmatch(sha256):
            text = "sha256 must be 64 lower-case hex digits"
            raise Refused(bad_input("header.sha256", "SHA256_MALFORMED", text))
        if self._held.get(peer, 0) + announced > limits.peer_bytes:
            raise Refused(self._full("PEER_UPLOADS_FULL", f"{limits.peer_bytes} bytes a peer"))
        if self._total + announced > limits.total_bytes:
            raise Refused(self._full("UPLOADS_FULL", f"{limits.total_bytes} bytes in all"))
        self._hold(peer, announced)
        return Receiving(announced, sha256)

    def keep(self, peer: str, mime: str, received: Receiving) -> Upload:
        """Raises Refused when the content is not what was announced; then give it up."""
        data, digest = received.finish()
        expires = self._clock() + self.limits.ttl_s
        upload = Upload(secrets.token_hex(16), data, mime, digest, peer, expires)
        self._kept[upload.id] = upload
        return upload

    def give_up(self, peer: str, announced: int) -> None:
        self._hold(peer, -announced)

    def find(self, upload_id: str) -> Upload | None:
        self._expire()
        return self._kept.get(upload_id)

    @property
    def total_bytes(self) -> int:
        return self._total

    def _full(self, reason: str, limit: str) -> Fault:
        soonest = min((upload.expires for upload in self._kept.values()), default=self._clock() + 1)
        wait_s = max(soonest - self._clock(), 0.1)
        text = f"uploads may hold {limit}; the next expires in {wait_s:.0f} s"
        return Fault("RESOURCE_EXHAUSTED", "header.total_bytes", reason, text, wait_s)

    def _expire(self) -> None:
        now = self._clock()
        for upload in [upload for upload in self._kept.values() if upload.expires <= now]:
            del self._kept[upload.id]
            self._hold(upload.peer, -len(upload.data))

    def _hold(self, peer: str, more: int) -> None:
        self._total += more
        self._held[peer] = self._held.get(peer, 0) + more
        if self._held[peer] == 0:
            del self._held[peer]
