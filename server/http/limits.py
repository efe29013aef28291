"""How many connections the HTTP port holds, and for how long. Needs no library of HTTP: metrics
read it too."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpTimes:
    """Seconds after which the HTTP port gives up."""

    handshake_s: float = 10.0  # of TLS
    head_s: float = 10.0  # from the first byte of a request to the end of its headers
    idle_s: float = 60.0  # a connection before its first request, and between two
    linger_s: float = 5.0  # a peer that takes no more bytes of an answer after it is done
    body_idle_s: float = 20.0  # between two pieces of a body
    discard_s: float = 2.0  # a refused body is read on, so that its sender sees the refusal
    write_s: float = 30.0  # until a reader takes the next piece of a stream


HTTP_TIMES = HttpTimes()


class ConnectionLimit:
    """How many connections are open, in all and of one host."""

    def __init__(self, in_all: int, of_host: int) -> None:
        self.in_all = in_all
        self.of_host = of_host
        self.open = 0
        self.refused = 0
        self._hosts: Counter[str] = Counter()

    def enter(self, host: str) -> str:
        """ "" when there is room, else the limit that is reached."""
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
