"""Payloads too large for one message: received in chunks, kept in memory for a short time, and
inserted for `Part.upload_id` when a request names them. This module does not know gRPC."""

from __future__ import annotations

import hashlib
import io
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from server.request.status import Refused, bad_input
from server.types import Fault

SHA256 = re.compile(r"[0-9a-f]{64}")
LONGEST_MIME = 256  # bytes


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """`each` limits one upload, `peer` what one host may hold at once, `total` all uploads.

    An upload costs memory beyond its bytes, so the number of uploads is limited too.
    """

    each_bytes: int = 64 << 20
    peer_bytes: int = 128 << 20
    peer_count: int = 64
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
    """One upload that is arriving. Its declared size is reserved until it is kept or given up."""

    def __init__(self, announced: int, sha256: str, mime: str = "") -> None:
        self.mime = mime
        self._announced = announced
        self._claim = sha256
        self._digest = hashlib.sha256()
        # Grows with the bytes that arrive, not with the declared size; gives them without a copy.
        self._data = io.BytesIO()

    def add(self, chunk: bytes) -> None:
        """Raises Refused when more bytes arrive than were declared."""
        if self._data.tell() + len(chunk) > self._announced:
            text = f"more than the announced {self._announced} bytes arrived"
            raise Refused(bad_input("header.total_bytes", "UPLOAD_LONGER_THAN_ANNOUNCED", text))
        self._digest.update(chunk)
        self._data.write(chunk)

    def finish(self) -> tuple[bytes, str]:
        """The content and its SHA-256; raises Refused when it is not what was declared."""
        if self._data.tell() != self._announced:
            text = f"{self._data.tell()} of the announced {self._announced} bytes arrived"
            raise Refused(bad_input("header.total_bytes", "UPLOAD_SHORTER_THAN_ANNOUNCED", text))
        found = self._digest.hexdigest()
        if self._claim and self._claim != found:
            text = f"the content hashes to {found}, the header claims {self._claim}"
            raise Refused(bad_input("header.sha256", "SHA256_MISMATCH", text))
        return self._data.getvalue(), found


class UploadStore:
    """Finished uploads by id, and the bytes reserved by arriving ones.

    # Invariant: `_held[peer]` is what the peer's kept and arriving uploads may occupy, and the
    values sum to `_total`; `_counts[peer]` is their number. All change together in `_hold`.
    """

    def __init__(self, limits: UploadLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self._clock = clock
        self._kept: dict[str, Upload] = {}
        self._held: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self._total = 0

    def reserve(self, peer: str, announced: int, sha256: str, mime: str = "") -> Receiving:
        """Reserve space for an upload. Raises Refused. Every reservation ends in `keep` or
        `give_up`."""
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
        if len(mime.encode()) > LONGEST_MIME:
            text = f"{len(mime.encode())} bytes; the limit is {LONGEST_MIME}"
            raise Refused(bad_input("header.mime_type", "TOO_LONG", text))
        if self._counts.get(peer, 0) >= limits.peer_count:
            raise Refused(self._full("PEER_UPLOADS_FULL", f"{limits.peer_count} uploads a peer"))
        if self._held.get(peer, 0) + announced > limits.peer_bytes:
            raise Refused(self._full("PEER_UPLOADS_FULL", f"{limits.peer_bytes} bytes a peer"))
        if self._total + announced > limits.total_bytes:
            raise Refused(self._full("UPLOADS_FULL", f"{limits.total_bytes} bytes in all"))
        self._hold(peer, announced, 1)
        return Receiving(announced, sha256, mime)

    def keep(self, peer: str, received: Receiving) -> Upload:
        """Raises Refused when the content is not what was declared; then call `give_up`."""
        data, digest = received.finish()
        expires = self._clock() + self.limits.ttl_s
        upload = Upload(secrets.token_hex(16), data, received.mime, digest, peer, expires)
        self._kept[upload.id] = upload
        return upload

    def give_up(self, peer: str, announced: int) -> None:
        self._hold(peer, -announced, -1)

    def find(self, upload_id: str) -> Upload | None:
        self._expire()
        return self._kept.get(upload_id)

    @property
    def total_bytes(self) -> int:
        return self._total

    def _full(self, reason: str, limit: str) -> Fault:
        first = next(iter(self._kept.values()), None)
        soonest = first.expires if first is not None else self._clock() + 1
        wait_s = max(soonest - self._clock(), 0.1)
        text = f"uploads may hold {limit}; the next expires in {wait_s:.0f} s"
        return Fault("RESOURCE_EXHAUSTED", "header.total_bytes", reason, text, wait_s)

    def _expire(self) -> None:
        """Remove expired uploads. They are stored in the order of expiry, so the cost depends only
        on the number removed."""
        now = self._clock()
        while self._kept and (first := next(iter(self._kept.values()))).expires <= now:
            del self._kept[first.id]
            self._hold(first.peer, -len(first.data), -1)

    def _hold(self, peer: str, more: int, uploads: int) -> None:
        self._total += more
        self._held[peer] = self._held.get(peer, 0) + more
        self._counts[peer] = self._counts.get(peer, 0) + uploads
        if self._counts[peer] == 0:
            del self._held[peer], self._counts[peer]
