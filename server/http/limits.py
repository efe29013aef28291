"""How many connections the HTTP port holds, and for how long. Imports no HTTP library, because
metrics use it too."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpTimes:
    """Timeouts of the HTTP port, in seconds."""

    handshake_s: float = 10.0  # of the TLS handshake
    head_s: float = 10.0  # from the first byte of a request to the end of its headers
    idle_s: float = 60.0  # of a connection before its first request, and between two requests
    linger_s: float = 5.0  # for a peer to take the last bytes of an answer
    body_idle_s: float = 20.0  # between two pieces of a body
    # How long a refused body is still read, so that its sender sees the refusal.
    discard_s: float = 2.0
    write_s: float = 30.0  # for a reader to take the next piece of a stream


HTTP_TIMES = HttpTimes()


class ConnectionLimit:
    """Counts open connections, in all and for each host."""

    def __init__(self, in_all: int, of_host: int) -> None:
        self.in_all = in_all
        self.of_host = of_host
        self.open = 0
        self.refused = 0
        self._hosts: Counter[str] = Counter()

    def enter(self, host: str) -> str:
        """Count a connection; returns "" if there is room, else the limit that is reached."""
        if self.open >= self.in_all:
            self.refused += 1
            return f"{self.in_all} connections in all; --max-http-connections raises it"
        if self._hosts[host] >= self.of_host:
            self.refused += 1
            return f"{self.of_host} connections of one host; --max-http-connections-peer raises it"
        self.open += 1
        self._hosts[host] += 1
        return ""

    def leave(self, host: str) -> None:
        self.open -= 1
        self._hosts[host] -= 1
        if not self._hosts[host]:
            del self._hosts[host]
