"""What admins did, or tried to: one JSON line a call, appended and never edited."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from server.security.tokens import CallerIdentity


class AuditLog:
    """Opened for appending once; a line is one write, so two servers may share the file."""

    def __init__(self, path: Path, wall: Callable[[], float] = time.time) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._file = os.open(path, flags, 0o600)
        self._wall = wall

    def write(self, method: str, identity: CallerIdentity | None, peer: str, denied: bool) -> None:
        line = {
            "at": round(self._wall(), 3),
            "method": method,
            "who": identity.name if identity else "",
            "role": identity.role if identity else "",
            "how": identity.how if identity else "",
            "peer": peer,
            "denied": denied,
        }
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)
