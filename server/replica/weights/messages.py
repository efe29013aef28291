"""The messages from the holder of weights to a replica: a length, JSON, and descriptors."""

from __future__ import annotations

import json
import os
import socket
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

_LENGTH = struct.Struct("<I")
MOST_BYTES = 64 << 20  # limit of a layout, with a hundred bytes for each tensor
MOST_DESCRIPTORS = 1
ASK_BYTES = 256  # limit of the name of a device


@dataclass(frozen=True, slots=True)
class Handed:
    """`values` of a message. The receiver must close the descriptors."""

    values: dict[str, Any]
    descriptors: tuple[int, ...]

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)


def hand_over(to: socket.socket, values: dict[str, Any], descriptors: list[int]) -> None:
    """Send values and descriptors. Raises OSError."""
    data = json.dumps(values).encode()
    data = _LENGTH.pack(len(data)) + data
    sent = socket.send_fds(to, [data], descriptors)
    to.sendall(data[sent:])


def receive(source: socket.socket) -> Handed:
    """Raises EOFError at the end, OSError, ValueError for bytes that are not such a message."""
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
