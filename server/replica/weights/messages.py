"""What the holder of weights sends to a replica: a length, JSON, and descriptors beside them."""

from __future__ import annotations

import json
import os
import socket
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

_LENGTH = struct.Struct("<I")
MOST_BYTES = 64 << 20  # of a layout: a hundred bytes a tensor
MOST_DESCRIPTORS = 1
ASK_BYTES = 256  # of the name of a device


@dataclass(frozen=True, slots=True)
class Handed:
    """`values` of a message. The descriptors are the receiver's, to close."""

    values: dict[str, Any]
    descriptors: tuple[int, ...]

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)


def hand_over(to: socket.socket, values: dict[str, Any], descriptors: list[int]) -> None:
    """Raises OSError."""
    data = json.dumps(values).encode()
    data = _LENGTH.pack(len(data)) + data
    sent = socket.send_fds(to, [data], descriptors)
    to.sendall(data[sent:])


def receive(source: socket.socket) -> Handed:
    """Raises EOFError at the end, OSError, ValueError for what is not such a message."""
    first, descriptors, _, _ = socket.recv_fds(source, 1 << 16, MOST_DESCRIPTORS)
    with ExitStack() as undo:
        for descriptor in descriptors:
            undo.callback(os.close, descriptor)
        found = bytearray(first)
        while len(found) < _LENGTH.size:
            found += _more(source)
        (length,) = _LENGTH.unpack_from(found)
        if length > MOST_BYTES:
            raise ValueError(f"a message of {length} bytes")
        while len(found) < _LENGTH.size + length:
            found += _more(source)
        handed = Handed(json.loads(bytes(found[_LENGTH.size :])), tuple(descriptors))
        undo.pop_all()
    return handed


def _more(source: socket.socket) -> bytes:
    data = source.recv(1 << 20)
    if not data:
        raise EOFError("the holder of the weights has ended")
    return data
