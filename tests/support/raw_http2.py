"""A client that sends HTTP/2 as no gRPC library would: half a message, a head without a body, a
connection that stays silent. Frames of RFC 9113, headers of RFC 7541 without compression."""

from __future__ import annotations

import selectors
import socket
import ssl
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW = 65535
FRAME_BYTES = 16384
SETTING_INITIAL_WINDOW = 4


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body


def header(name: bytes, value: bytes) -> bytes:
    """A literal that no table remembers; both lengths below 127."""
    assert len(name) < 127 and len(value) < 127
    return b"\x10" + bytes([len(name)]) + name + bytes([len(value)]) + value


def head(path: str, more: Iterable[tuple[str, str]] = ()) -> bytes:
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "hostile"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *more,
    ]
    return b"".join(header(name.encode(), value.encode()) for name, value in fields)


def message(size: int) -> bytes:
    """What comes before a message of `size` bytes: not compressed, its length."""
    return struct.pack(">BI", 0, size)


@dataclass(slots=True)
class RawConnection:
    """Blocking; `pump` reads what has come and sends as much as the windows allow."""

    sock: socket.socket
    window: int = INITIAL_WINDOW
    stream_window: int = INITIAL_WINDOW  # of a new stream
    windows: dict[int, int] = field(default_factory=dict)
    unsent: dict[int, memoryview] = field(default_factory=dict)
    over: dict[int, bytes] = field(default_factory=dict)  # stream -> last header block, or b""
    closed: bool = False
    _next: int = 1
    _read: bytes = b""

    @classmethod
    def to(cls, address: str) -> RawConnection:
        host, _, port = address.rpartition(":")
        return cls.over_socket(socket.create_connection((host.strip("[]"), int(port)), timeout=20))

    @classmethod
    def over_socket(cls, sock: socket.socket) -> RawConnection:
        sock.sendall(PREFACE + frame(SETTINGS, 0, 0))
        return cls(sock)

    def call(self, path: str, body: bytes = b"", more: Iterable[tuple[str, str]] = ()) -> int:
        """The stream of a call that is not ended, with as much of `body` as fits to follow."""
        stream, self._next = self._next, self._next + 2
        self._send(frame(HEADERS, END_HEADERS, stream, head(path, more)))
        self.windows[stream], self.unsent[stream] = self.stream_window, memoryview(body)
        return stream

    def pump(self, seconds: float = 0.0) -> None:
        """Send what may be sent and read what is there, waiting for it `seconds` at most."""
        self._flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self.sock, selectors.EVENT_READ)
            while not self.closed and (self._pending() or selector.select(seconds)):
                self._receive()
                self._flush()
                seconds = 0.0

    def _pending(self) -> bool:
        """TLS may have read more than was asked for."""
        return isinstance(self.sock, ssl.SSLSocket) and self.sock.pending() > 0

    def close(self) -> None:
        self.sock.close()

    def _receive(self) -> None:
        try:
            got = self.sock.recv(1 << 16)
        except OSError:
            got = b""
        if not got:
            self.closed = True
        self._read += got
        while len(self._read) >= 9:
            size = int.from_bytes(self._read[:3], "big")
            if len(self._read) < 9 + size:
                return
            kind, flags, stream = struct.unpack(">BBI", self._read[3:9])
            body, self._read = self._read[9 : 9 + size], self._read[9 + size :]
            self._on_frame(kind, flags, stream, body)

    def _on_frame(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            for name, value in struct.iter_unpack(">HI", body):
                if name == SETTING_INITIAL_WINDOW:
                    more = value - self.stream_window
                    self.windows = {one: room + more for one, room in self.windows.items()}
                    self.stream_window = value
            self._send(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self._send(frame(PING, ACK, 0, body))
        elif kind == WINDOW:
            more = int.from_bytes(body, "big")
            if stream == 0:
                self.window += more
            elif stream in self.windows:
                self.windows[stream] += more
        elif kind == RESET or (kind == HEADERS and flags & END_STREAM):
            self.over[stream] = body if kind == HEADERS else self.over.get(stream, b"")
            self.unsent.pop(stream, None)
        elif kind == GOAWAY:
            self.closed = True

    def _flush(self) -> None:
        for stream, body in list(self.unsent.items()):
            while body and (room := min(self.window, self.windows[stream], FRAME_BYTES)) > 0:
                piece, body = body[:room], body[room:]
                if not self._send(frame(DATA, 0, stream, bytes(piece))):
                    return
                self.window -= len(piece)
                self.windows[stream] -= len(piece)
            self.unsent[stream] = body

    def _send(self, data: bytes) -> bool:
        try:
            self.sock.sendall(data)
        except OSError:
            self.closed = True
        return not self.closed
