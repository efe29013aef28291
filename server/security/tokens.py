"""Bearer tokens: a file of digests, never of tokens.

A token is 256 random bits, so one SHA-256 protects it at rest; slow password hashing guards weak
secrets, and there are none here.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from server.security.roles import ROLES, Role

PREFIX = "trefoil_"  # so that a leaked one can be searched for


class TokenFileInvalid(Exception):
    """The file of tokens cannot be used: which line, why."""


@dataclass(frozen=True, slots=True)
class BearerToken:
    """One credential; `expires_unix_s` 0 means never."""

    name: str
    role: Role
    sha256: str
    expires_unix_s: int


@dataclass(frozen=True, slots=True)
class CallerIdentity:
    name: str
    role: Role
    how: str  # token | certificate


class TokenFile:
    """Reads the file again when it changes, so a revoked token stops within one request."""

    def __init__(self, path: Path, wall: Callable[[], float] = time.time) -> None:
        self._path = path
        self._wall = wall
        self._seen: tuple[int, int] = (0, 0)
        self._tokens: tuple[BearerToken, ...] = ()
        self._refresh()

    def identity(self, bearer: str) -> CallerIdentity | None:
        """Who holds this token; None for an unknown or expired one."""
        self._refresh()
        digest = digest_of(bearer)
        found = None
        for token in self._tokens:  # all of them, so that time says nothing about which matched
            if hmac.compare_digest(token.sha256, digest):
                found = token
        if found is None or (found.expires_unix_s and found.expires_unix_s <= self._wall()):
            return None
        return CallerIdentity(found.name, found.role, "token")

    def _refresh(self) -> None:
        status = self._path.stat()
        seen = (status.st_mtime_ns, status.st_ino)
        if seen != self._seen:
            self._tokens = read(self._path)
            self._seen = seen


def read(path: Path) -> tuple[BearerToken, ...]:
    """One JSON object a line. Raises TokenFileInvalid."""
    tokens = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            token = BearerToken(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise TokenFileInvalid(f"{path}, line {number}: {error}") from error
        if token.role not in ROLES:
            raise TokenFileInvalid(f"{path}, line {number}: role {token.role!r} is none of {ROLES}")
        tokens.append(token)
    return tuple(tokens)


def add(path: Path, name: str, role: Role, expires_unix_s: int) -> str:
    """Append a new token to the file (mode 0600) and return it: the only time it is readable."""
    secret = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    bearer = PREFIX + secret
    token = BearerToken(name, role, digest_of(bearer), expires_unix_s)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "a") as file:
        file.write(json.dumps(asdict(token)) + "\n")
    return bearer


def digest_of(bearer: str) -> str:
    return hashlib.sha256(bearer.encode()).hexdigest()
