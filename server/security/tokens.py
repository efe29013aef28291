"""Bearer tokens: the file holds digests, never tokens.

A token is 256 random bits, so one SHA-256 protects it at rest; slow password hashing protects weak
secrets, and a token is not weak.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from server.security.roles import ROLES, Role

logger = logging.getLogger(__name__)

SHA256 = re.compile(r"[0-9a-f]{64}")
LONGEST_NAME = 120
PREFIX = "trefoil_"  # so that a leaked token can be searched for


class TokenFileInvalid(Exception):
    """The token file cannot be used; the message names the line and the reason."""


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
    """Reloads the file when it changes, so a revoked token stops working within one request.

    If the file becomes invalid, the tokens read last stay in use, and `trouble` names the wrong
    line. Callers are not informed of that.
    """

    def __init__(self, path: Path, wall: Callable[[], float] = time.time) -> None:
        """Raises OSError, TokenFileInvalid."""
        self.trouble = ""
        self._path = path
        self._wall = wall
        self._seen = _seen(path)
        self._tokens = read(path)

    def identity(self, bearer: str) -> CallerIdentity | None:
        """The owner of this token; None for an unknown or expired one."""
        self._refresh()
        digest = digest_of(bearer)
        found = None
        # All of them, so that the time does not reveal which one matched.
        for token in self._tokens:
            if hmac.compare_digest(token.sha256, digest):
                found = token
        if found is None or (found.expires_unix_s and found.expires_unix_s <= self._wall()):
            return None
        return CallerIdentity(found.name, found.role, "token")

    def look(self) -> None:
        """Reload the file if it has changed, even without calls."""
        self._refresh()

    def _refresh(self) -> None:
        try:
            seen = _seen(self._path)
            if seen == self._seen:
                return
            self._seen = seen
            self._tokens = read(self._path)
        except (OSError, TokenFileInvalid) as error:
            trouble = f"the token file cannot be used, the tokens read last still count: {error}"
            if trouble != self.trouble:
                logger.error("%s", trouble)
            self.trouble = trouble
            if isinstance(error, OSError):
                # So that it is reloaded once it exists again, changed or not.
                self._seen = (0, 0, 0)
            return
        if self.trouble:
            logger.warning("the token file is read again: %s", self._path)
            self.trouble = ""


def _seen(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_ino, status.st_size


def read(path: Path) -> tuple[BearerToken, ...]:
    """The tokens in the file, one JSON object on each line. Raises OSError, TokenFileInvalid."""
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError as error:
        raise TokenFileInvalid(f"{path}: {error}") from error
    tokens = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            tokens.append(_token(line, f"{path}, line {number}"))
    return tuple(tokens)


def _token(line: str, where: str) -> BearerToken:
    try:
        token = BearerToken(**json.loads(line))
    except (ValueError, TypeError, RecursionError) as error:
        raise TokenFileInvalid(f"{where}: {error}") from error
    if token.role not in ROLES:
        raise TokenFileInvalid(f"{where}: role {token.role!r} is none of {ROLES}")
    if not isinstance(token.name, str) or not token.name or len(token.name) > LONGEST_NAME:
        raise TokenFileInvalid(f"{where}: name must be 1 to {LONGEST_NAME} characters")
    if not isinstance(token.sha256, str) or not SHA256.fullmatch(token.sha256):
        raise TokenFileInvalid(f"{where}: sha256 must be 64 lower-case hex digits")
    if not isinstance(token.expires_unix_s, (int, float)):
        raise TokenFileInvalid(f"{where}: expires_unix_s must be a number of seconds, 0 for never")
    return token


def add(path: Path, name: str, role: Role, expires_unix_s: int) -> str:
    """Append a new token to the file (mode 0600) and return it; it is never readable again."""
    secret = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    bearer = PREFIX + secret
    token = BearerToken(name, role, digest_of(bearer), expires_unix_s)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "a") as file:
        file.write(json.dumps(asdict(token)) + "\n")
    return bearer


def digest_of(bearer: str) -> str:
    return hashlib.sha256(bearer.encode()).hexdigest()
